"""Good questions of a server, and what becomes of them when bytes, heads and structures are changed at random.

Everything is drawn from one `random.Random`, so that a seed gives the same questions again. Invariant: what is sent is
bytes of ours to a server of ours; nothing here opens a connection.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

JSON_TYPE, BINARY_TYPE, ARROW_TYPE = (
    "application/json",
    "application/octet-stream",
    "application/vnd.apache.arrow.stream",
)
HEADER_LENGTH = "Inference-Header-Content-Length"

# Bytes that mean something somewhere.
_TOKENS = (
    b"\r\n", b"\n", b"\r", b"\0", b"\r\n\r\n", b": ", b"0\r\n\r\n", b"HTTP/1.1", b"HTTP/1.0", b"%00", b"%2e%2e%2f",
    b"../", b"\xff", b"\x9b", b"\x1b[2J", b"[" * 2000, b'{"a":' * 500, b"1e999", b"-0", b"9" * 30, b'"\\ud800"',
    b"NaN", b"null", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 0\r\n", b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\n", b"Host: y\r\n", b"\r\n ", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"A" * 70_000,
)  # fmt: skip
_HEADERS = (
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"Transfer-Encoding: gzip, chunked",
    b"Content-Length: 0", b"Content-Length: -1", b"Content-Length: 99999999999999999999",
    b"Content-Length: 1073741824", b"Host: other", b"Expect: 100-continue", b"Connection: Upgrade", b"Upgrade: h2c",
    b"Connection: keep-alive", b"Content-Type: text/plain", b"Content-Type: application/octet-stream",
    b"Content-Type: application/vnd.apache.arrow.stream", b"Content-Type: application/vnd.apache.parquet",
    b"Content-Encoding: gzip", b"X-Request-Timeout-Ms: 1", b"X-Request-Timeout-Ms: 1e308",
    b"X-Request-Timeout-Ms: nan", b"Inference-Header-Content-Length: 0",
    b"Inference-Header-Content-Length: 99999999999", b"Inference-Header-Content-Length: -5",
    b"X-Request-Id: \x9b31mred", b"Authorization: Bearer x", b" folded", b"Empty:", b": no name",
    b"X: " + b"a" * 60_000, b"Origin: http://evil",
)  # fmt: skip
_TARGETS = (
    b"*", b"/", b"//", b"/v2", b"/metrics", b"http://other/v2", b"other:80", b"/v2/models/%00/infer",
    b"/v2/models/../../infer", b"/v2/models/%0d%0aX:%20y/infer", b"/v2/models/" + b"a" * 3000 + b"/infer",
    b"/v1/models/:predict", b"/v2/models//infer", b"/v2/repository/index", b"/v2/health/ready?x#y", b"/\xff",
    b"/v2/models/x/versions/99999999999999999999/infer",
)  # fmt: skip
_METHODS = (b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"PRI", b"TRACE", b"post", b"P\x00ST", b"")
# Texts of JSON that stand where another value stood.
_VALUES = (
    "null", "true", "-1", "0", "1", "1e308", "1e999", "-1e999", "1" + "0" * 400, "9" * 5000, "18446744073709551616",
    "1.5", '""', '"NaN"', '"Infinity"', '"\\ud800"', '"\\u0000"', '"' + "x" * 5000 + '"', "[]", "{}", "[[]]", "[null]",
    "[[[[1]]]]", "[" * 300 + "]" * 300, '{"a":{"a":{}}}', "[1,2,3]", "4294967296", "268435456", "FP32", "NaN", "-0.0",
    "1E-400", "01",
)  # fmt: skip


@dataclass(frozen=True)
class Seed:
    """A good question: where it goes, and its body."""

    path: str
    body: bytes
    media_type: str = JSON_TYPE
    head_length: int | None = None

    def message(self, *, keep: bool = False) -> bytes:
        """As it is sent."""
        lines = [f"POST {self.path} HTTP/1.1", "Host: fuzz", f"Content-Length: {len(self.body)}"]
        lines.append(f"Content-Type: {self.media_type}")
        if self.head_length is not None:
            lines.append(f"{HEADER_LENGTH}: {self.head_length}")
        lines.append(f"Connection: {'keep-alive' if keep else 'close'}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


def seeds_of(ask: Callable[[str], Any], *, tfaas: bool = False) -> list[Seed]:
    """Good questions to all models of a server, made of what it tells about them."""
    found: list[Seed] = []
    for name in ask("/v2/models")["models"]:
        tensors = ask(f"/v2/models/{name}")["inputs"]
        path = f"/v2/models/{name}/infer"
        found += [
            _binary(path, tensors),
            Seed(path, _tensors(tensors, rows=3)),
            Seed(path, _tensors(tensors, nested=True)),
        ]
        contract = ask(f"/v1/models/{name}")
        event = contract.get("example")
        if event is None:
            continue
        found.append(Seed(f"/v1/models/{name}:predict", json.dumps({"instances": [event, event]}).encode()))
        found.append(Seed(f"/v1/models/{name}:predict", _arrow(event, contract["columns"]), ARROW_TYPE))
        if tfaas:
            flat = {key: value for key, value in event.items() if isinstance(value, float | int)}
            keys = {"model": name, "keys": list(flat), "values": list(map(float, flat.values()))}
            found.append(Seed("/json", json.dumps(keys).encode()))
    return found


def _shape(one: Mapping[str, Any], rows: int) -> list[int]:
    return [rows, *(max(size, 1) for size in one["shape"][1:])]


def _count(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _tensors(tensors: list[dict[str, Any]], *, rows: int = 1, nested: bool = False) -> bytes:
    inputs = []
    for one in tensors:
        shape = _shape(one, rows)
        data: list[Any] = [round(0.1 * number, 3) for number in range(_count(shape))]
        for size in reversed(shape[1:] if nested else []):
            data = [data[start : start + size] for start in range(0, len(data), size)]
        inputs.append({"name": one["name"], "shape": shape, "datatype": one["datatype"], "data": data})
    return json.dumps({"inputs": inputs, "id": "seed", "parameters": {"timeout": 10**8}}).encode()


def _binary(path: str, tensors: list[dict[str, Any]]) -> Seed:
    inputs, tail = [], b""
    for one in tensors:
        shape = _shape(one, 1)
        data = struct.pack(f"<{_count(shape)}f", *(0.1 * number for number in range(_count(shape))))
        parameters = {"binary_data_size": len(data)}
        inputs.append({"name": one["name"], "shape": shape, "datatype": one["datatype"], "parameters": parameters})
        tail += data
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return Seed(path, head + tail, BINARY_TYPE, len(head))


def _arrow(event: Mapping[str, Any], columns: Mapping[str, str]) -> bytes:
    import pyarrow

    names = {"float32": pyarrow.float32(), "float64": pyarrow.float64(), "int64": pyarrow.int64()}
    types = names | {"uint64": pyarrow.uint64(), "bool": pyarrow.bool_()}
    fields = []
    for name in event:
        one = types[columns[name].replace("[]", "")]
        for _ in range(columns[name].count("[]")):
            one = pyarrow.list_(one)
        fields.append(pyarrow.field(name, one))
    sink = pyarrow.BufferOutputStream()
    table = pyarrow.Table.from_pylist([dict(event)] * 2, schema=pyarrow.schema(fields))
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def mutated(random: Random, seeds: list[Seed]) -> bytes:
    """One message to send, changed in one of its levels or in several."""
    seed = random.choice(seeds)
    level = random.random()
    if level < 0.35 and seed.media_type != ARROW_TYPE:
        seed = _changed_structure(random, seed)
    elif level < 0.5:
        body = changed_bytes(random, seed.body, most=3)
        seed = Seed(seed.path, body, seed.media_type, seed.head_length)
    message = seed.message(keep=random.random() < 0.1)
    if level >= 0.5 and level < 0.8:
        message = _changed_head(random, message)
    if level >= 0.8:
        message = changed_bytes(random, message, most=8)
    if random.random() < 0.05:
        message = _chunked(random, message)
    if random.random() < 0.05:
        message += random.choice(seeds).message()
    return message


def changed_bytes(random: Random, data: bytes, *, most: int) -> bytes:
    """Bits flipped, pieces cut, doubled, moved and put in; more than one change only sometimes."""
    found = bytearray(data)
    for _ in range(random.randint(1, most)):
        at = random.randrange(len(found) + 1)
        end = min(len(found), at + int(random.expovariate(1 / 8)) + 1)
        way = random.randrange(7)
        if way == 0 and at < len(found):
            found[at] ^= 1 << random.randrange(8)
        elif way == 1:
            del found[at:end]
        elif way == 2:
            found[at:at] = found[at:end] * random.randint(1, 3)
        elif way == 3:
            found[at:at] = random.choice(_TOKENS)
        elif way == 4:
            found[at:end] = random.randbytes(end - at)
        elif way == 5:
            del found[at:]
        else:
            found[at:end] = random.choice((b"\xff", b"\0", b"\x7f", b"\x80")) * (end - at)
    return bytes(found)


def _changed_head(random: Random, message: bytes) -> bytes:
    head, _, body = message.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    method, target, version = first.split(b" ", 2)
    for _ in range(random.randint(1, 3)):
        way = random.randrange(8)
        if way == 0:
            method = random.choice(_METHODS)
        elif way == 1:
            target = random.choice((*_TARGETS, target + b"?x=1", target.replace(b"/v", b"/%76")))
        elif way == 2:
            version = random.choice(
                (b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.2", b"ICE/1.0", b"", b"HTTP/1.1 x")
            )
        elif way == 3 and lines:
            lines.remove(random.choice(lines))
        elif way == 4 and lines:
            lines.append(random.choice(lines))
        elif way == 5:
            lines = [changed_bytes(random, line, most=1) if random.random() < 0.2 else line for line in lines]
        else:
            lines.insert(random.randint(0, len(lines)), random.choice(_HEADERS))
    end = b"\n" if random.random() < 0.03 else b"\r\n"
    return end.join([b" ".join((method, target, version)), *lines]) + end * 2 + body


def _chunked(random: Random, message: bytes) -> bytes:
    head, _, body = message.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
    chunks, at = b"", 0
    while at < len(body):
        part = body[at : at + random.choice((1, 3, 40, 1000))]
        size = len(part) if random.random() < 0.98 else random.choice((0, 1, 1 << 40, len(part) + 1))
        chunks += b"%x%b\r\n%b\r\n" % (size, random.choice((b"", b"", b";a=b", b" ")), part)
        at += len(part)
        if len(chunks) > 20_000:
            break
    trailer = random.choice((b"", b"", b"X: y\r\n", b"Content-Length: 3\r\n"))
    return b"\r\n".join([*lines, b"Transfer-Encoding: chunked"]) + b"\r\n\r\n" + chunks + b"0\r\n" + trailer + b"\r\n"


def _changed_structure(random: Random, seed: Seed) -> Seed:
    head = seed.body if seed.head_length is None else seed.body[: seed.head_length]
    tail = seed.body[len(head) :]
    value = json.loads(head)
    marks: list[str] = []
    for _ in range(random.randint(1, 2)):
        value = _changed_value(random, value, marks)
    text = json.dumps(value)
    for number, mark in enumerate(marks):
        text = text.replace(f'"@{number}@"', mark)
    changed = text.encode()
    if tail and random.random() < 0.3:
        tail = changed_bytes(random, tail, most=2)
    return Seed(seed.path, changed + tail, seed.media_type, None if seed.head_length is None else len(changed))


def _changed_value(random: Random, value: Any, marks: list[str]) -> Any:
    """The same with one place changed, somewhere below."""
    inside = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if inside and random.random() < 0.8:
        key = random.choice(inside)
        way = random.random()
        copy: Any = value.copy()
        if way < 0.1:
            del copy[key]
        elif way < 0.15 and isinstance(value, list):
            copy = value * random.choice((2, 50))
        elif way < 0.2 and isinstance(value, dict):
            copy[str(random.choice(inside)) + random.choice((" ", "x", "\0", "é"))] = value[key]
        else:
            copy[key] = _changed_value(random, value[key], marks)
        return copy
    marks.append(random.choice(_VALUES))
    return f"@{len(marks) - 1}@"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2."""
    return struct.pack(">BHBBI", len(payload) >> 16, len(payload) & 0xFFFF, kind, flags & 0xFF, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes((len(name),)) + name + bytes((min(len(value), 126),)) + value[:126]


def rpc_frames(random: Random, message: bytes, *, stream: int = 1, packed: bool = False) -> list[bytes]:
    """A call of ModelInfer as frames: its head, and its body in one piece or several."""
    head = [
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
        (b":authority", b"fuzz"), (b"content-type", b"application/grpc"), (b"te", b"trailers"),
    ]  # fmt: skip
    if packed:
        message = zlib.compress(message)
        head.append((b"grpc-encoding", b"deflate"))
    block = b"".join(_literal(*one) for one in head)
    body = bytes((packed,)) + len(message).to_bytes(4, "big") + message
    cut = random.randrange(1, len(body)) if random.random() < 0.3 else len(body)
    parts = [body[:cut], body[cut:]] if cut < len(body) else [body]
    frames = [frame(1, 0x4, stream, block)]
    return frames + [frame(0, 0x1 if part is parts[-1] else 0, stream, part) for part in parts]


_CONTROL = (
    frame(4, 0, 0), frame(4, 1, 0), frame(4, 0, 0, struct.pack(">HI", 4, 0)),
    frame(4, 0, 0, struct.pack(">HI", 4, 2**31 - 1)), frame(4, 0, 0, struct.pack(">HI", 4, 2**31)),
    frame(4, 0, 0, struct.pack(">HI", 5, 100)), frame(4, 0, 0, b"12345"), frame(6, 0, 0, b"pingpong"),
    frame(6, 0, 1, b"pingpong"), frame(6, 0, 0, b"short"), frame(8, 0, 0, b"\0\0\0\1"), frame(8, 0, 0, b"\0\0\0\0"),
    frame(8, 0, 1, b"\x7f\xff\xff\xff"), frame(8, 0, 0, b"\x7f\xff\xff\xff"), frame(3, 0, 1, b"\0\0\0\x08"),
    frame(3, 0, 0, b"\0\0\0\x08"), frame(2, 0, 1, b"\0\0\0\0\x10"), frame(5, 4, 1, b"\0\0\0\2"),
    frame(7, 0, 0, b"\0" * 8), frame(9, 4, 1, b"\x82"), frame(0, 0, 1), frame(0, 8, 1, b"\xff"), frame(0, 1, 3, b"x"),
    frame(1, 4, 2, b"\x82"), frame(1, 0, 3, b"\x82"), frame(1, 0x2C, 5, b"\1\0\0\0\0\1\x82\0"),
    frame(250, 255, 7, b"zz"), frame(1, 5, 9, b"\x3f\xe1\xff\x7f"), frame(1, 5, 11, b"\x7f" + b"\xff" * 20),
    frame(1, 5, 13, b"\x40\1x\x7f\xff\xff\xff"),
)  # fmt: skip


def mutated_rpc(random: Random, messages: list[bytes]) -> bytes:
    """All that one connection of gRPC sends: good frames with some changed, left out, doubled, moved or put between."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    frames = [frame(4, 0, 0)]
    for number in range(random.randint(1, 3)):
        message = random.choice(messages)
        if random.random() < 0.5:
            message = changed_bytes(random, message, most=3)
        packed = random.random() < 0.2
        frames += rpc_frames(random, message, stream=2 * number + 1, packed=packed)
    for _ in range(random.randint(0, 3)):
        at = random.randrange(len(frames))
        way = random.randrange(5)
        if way == 0:
            frames[at] = changed_bytes(random, frames[at], most=2)
        elif way == 1 and len(frames) > 1:
            del frames[at]
        elif way == 2:
            frames.insert(at, random.choice(frames))
        elif way == 3:
            frames.insert(at, random.choice(_CONTROL) * random.choice((1, 1, 1, 50)))
        else:
            random.shuffle(frames)
    data = preface + b"".join(frames)
    return changed_bytes(random, data, most=2) if random.random() < 0.1 else data
