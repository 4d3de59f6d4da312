"""What harms other servers, sent once through raw sockets: refused and told, and the next question is answered.

Heads and bodies that two servers in a row may read differently are followed by a hidden question, which must not be
answered. Each test ends with a good question whose answer has the bits of before.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from mlaas4hep.serve import asked, hot, protocol
from mlaas4hep.serve import events as event_reading
from mlaas4hep.serve.asking import INLINE_BODY_BYTES, is_long
from mlaas4hep.serve.bulk import ARROW
from mlaas4hep.serve.hooks import Hooks, Seen
from mlaas4hep.serve.limits import Limits, WireLimits
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.repository import ModelRepository
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService
from tests.small_bundle import as_instances, make_events, write_small_bundle

INFER, PREDICT = b"/v2/models/tth/infer", b"/v1/models/tth:predict"
HIDDEN = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
GOOD = json.dumps(
    {
        "inputs": [
            {"name": "event", "shape": [1, 3], "datatype": "FP32", "data": [1.0, 2.0, 3.0]},
            {"name": "jets", "shape": [1, 3, 3], "datatype": "FP32", "data": [0.5] * 9},
        ]
    }
).encode()
BUDGET = 4 << 20


class Place:
    """A server, and what its hooks saw."""

    def __init__(self, service: InferenceService) -> None:
        self.service = service
        self.seen: list[Seen] = []
        self.url = ""
        self.expected = b""

    @contextmanager
    def connected(self, *, small_window: bool = False) -> Iterator[socket.socket]:
        with socket.socket() as raw:
            if small_window:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.settimeout(20)
            raw.connect((urlsplit(self.url).hostname, urlsplit(self.url).port))
            yield raw

    def ask(self, *messages: bytes) -> bytes:
        """All that comes back until the server hangs up, of messages in packets of their own."""
        with self.connected() as raw:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for number, message in enumerate(messages):
                if number:
                    time.sleep(0.02)
                raw.sendall(message)
            return rest(raw)

    def is_well(self) -> bool:
        return self.ask(question(INFER, GOOD, b"Connection: close")) == self.expected


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    folder = tmp_path_factory.mktemp("models")
    write_small_bundle(folder)
    return open_repository(folder)


@pytest.fixture(scope="module")
def server(repository: ModelRepository) -> Iterator[Place]:
    place = Place(
        InferenceService(repository, limits=Limits(max_body_bytes=1 << 20, wire=WireLimits(body_bytes=BUDGET)))
    )
    with background(place.service, hooks=Hooks(on_request=place.seen.append)) as place.url:
        place.expected = place.ask(question(INFER, GOOD, b"Connection: close"))
        yield place


@pytest.fixture(scope="module")
def hasty_server(repository: ModelRepository) -> Iterator[Place]:
    limits = Limits(max_body_bytes=1 << 20, wire=WireLimits(unfinished_s=0.2))
    place = Place(InferenceService(repository, limits=limits))
    with background(place.service, hooks=Hooks(on_request=place.seen.append)) as place.url:
        yield place


@pytest.fixture
def hasty(hasty_server: Place) -> Place:
    """A server that waits for nobody."""
    hasty_server.seen.clear()
    return hasty_server


@pytest.fixture
def place(server: Place, caplog: pytest.LogCaptureFixture) -> Iterator[Place]:
    server.seen.clear()
    yield server
    assert server.is_well()
    assert server.service.intake.held == 0
    assert [one.getMessage() for one in caplog.records if one.levelname == "ERROR"] == []


def question(path: bytes, body: bytes = b"", *headers: bytes, method: bytes = b"POST") -> bytes:
    lines = [method + b" " + path + b" HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def rest(raw: socket.socket) -> bytes:
    parts = []
    try:
        while part := raw.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def statuses(found: bytes) -> list[int]:
    return [int(one[:3]) for one in found.split(b"HTTP/1.1 ")[1:]]


POST = b"POST " + INFER + b" HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = {
    "two lengths": POST + b"Content-Length: 4\r\nContent-Length: 0\r\n\r\n",
    "two equal lengths": POST + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "lengths in a list": POST + b"Content-Length: 0, 4\r\n\r\n",
    "length with a sign": POST + b"Content-Length: +0\r\n\r\n",
    "length beyond 64 bits": POST + b"Content-Length: 18446744073709551616\r\n\r\n",
    "length folded": POST + b"Content-Length: 4\r\n 0\r\n\r\n",
    "length and chunks": POST + b"Content-Length: 5\r\n" + CHUNKED + b"0\r\n\r\n",
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "chunks that are none": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunks twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunks of gzip": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks behind identity": POST + b"Transfer-Encoding: identity\r\n" + CHUNKED + b"0\r\n\r\n",
    "chunks, quoted": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "chunks, vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunks, blank before colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "chunks folded": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST " + INFER + b" HTTP/1.0\r\nConnection: keep-alive\r\n" + CHUNKED + b"0\r\n\r\n",
    "chunk size with 0x": POST + CHUNKED + b"0x0\r\n\r\n",
    "chunk size beyond 64 bits": POST + CHUNKED + b"10000000000000000\r\n\r\n",
    "chunk size with a sign": POST + CHUNKED + b"-1\r\n\r\n",
    "chunk ends by line feed": POST + CHUNKED + b"0\n\n",
    "chunk longer than it says": POST + CHUNKED + b"1\r\nab\r\n0\r\n\r\n",
    "chunk extension ends by line feed": POST + CHUNKED + b"2;a\nxx\r\n0\r\n\r\n",
    "lines end by line feed": POST.replace(b"\r\n", b"\n") + b"\n",
    "a line ends by return": POST + b"X: a\rY: b\r\n\r\n",
    "a folded line": POST + b"X: a\r\n b\r\n\r\n",
    "a NUL": POST + b"X: a\0b\r\n\r\n",
    "no name": POST + b": a\r\n\r\n",
    "a host that is none": b"POST " + INFER + b" HTTP/1.1\r\n Host: x\r\n\r\n",
    "two hosts": POST + b"Host: y\r\n\r\n",
    "a method that is none": b"P\x01ST " + INFER + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "an authority": b"POST x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/2.0": b"GET /v2 HTTP/2.0\r\nHost: x\r\n\r\n",
    "HTTP/0.9": b"GET /v2\r\n\r\n",
    "HTTP/1.2": b"GET /v2 HTTP/1.2\r\nHost: x\r\n\r\n",
    "HTTP/2 itself": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("what", SMUGGLED)
def test_what_two_servers_may_read_differently_is_refused_and_nothing_behind_it_is_answered(
    place: Place, what: str
) -> None:
    assert statuses(place.ask(SMUGGLED[what] + HIDDEN)) == [400]
    assert [one.status for one in place.seen] == [400]
    assert statuses(place.ask(question(INFER, GOOD) + SMUGGLED[what] + HIDDEN)) == [200, 400]
    assert sorted(one.status for one in place.seen) == [200, 400, 400]


UPGRADE = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")


@pytest.mark.parametrize("path", [INFER, INFER + b"?"])
def test_a_body_behind_the_wish_for_another_protocol_is_a_body(place: Place, path: bytes) -> None:
    head, body = question(path, GOOD, *UPGRADE).split(b"\r\n\r\n", 1)
    chunked = head.replace(b"Content-Length: %d" % len(GOOD), b"Transfer-Encoding: chunked")
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD)
    last = question(INFER, GOOD, b"Connection: close")
    answers = place.ask(head + b"\r\n\r\n" + body + last)
    assert statuses(answers) == [200, 200]
    assert answers.endswith(place.expected)
    assert place.ask(head + b"\r\n\r\n", body, last) == answers
    assert place.ask(chunked + b"\r\n\r\n" + chunks + last) == answers
    hidden = place.ask(question(path, HIDDEN, *UPGRADE).replace(HIDDEN, b""), HIDDEN + last)
    assert statuses(hidden) == [400, 200]  # no JSON, and no question of its own
    assert statuses(place.ask(question(path, b"", *UPGRADE, method=b"GET") + last)) == [405, 200]


def test_trailers_are_no_headers(place: Place) -> None:
    head = POST.replace(b"infer ", b"infer? ") + b"Connection: close\r\n" + CHUNKED
    trailers = b"0\r\nInference-Header-Content-Length: 1\r\nX-Request-Timeout-Ms: 0\r\n\r\n"
    assert place.ask(head + b"%x\r\n%s\r\n" % (len(GOOD), GOOD) + trailers) == place.expected
    assert b"x-request-timeout-ms" not in place.seen[0].headers


@pytest.mark.parametrize("target", [b"http://other/v2/health/live", b"//v2/health/live", b"*", b"/v2/health/../../etc"])
def test_targets_of_other_forms_lead_nowhere_else(place: Place, target: bytes) -> None:
    found = place.ask(question(target, b"", b"Connection: close", method=b"OPTIONS"))
    assert statuses(found)[0] in (404, 405)


@pytest.mark.parametrize(
    "one", [HIDDEN, question(INFER, b"{}"), question(b"/v1/models/tth", method=b"GET")], ids=["cold", "hot", "long"]
)
def test_thousands_of_questions_at_once_are_taken_up_to_a_number(place: Place, one: bytes) -> None:
    found = place.ask(one * 2000 + question(INFER, b"{}", b"Connection: close"))
    assert hot.MOST_PIPELINED <= len(statuses(found)) <= 2001
    assert b"connection: close" in found.split(b"HTTP/1.1 ")[-1]


def test_a_read_of_thousands_of_questions_does_not_take_thousands_of_places(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = [0]

    def counting(self: hot.HotProtocol) -> None:
        most[0] = max(most[0], len(self._slots) + len(self.pipeline))
        before(self)

    before = hot.HotProtocol.on_headers_complete
    monkeypatch.setattr(hot.HotProtocol, "on_headers_complete", counting)
    for one in (HIDDEN, question(INFER, b"{" + b" " * 300)):
        place.ask(one * 3000 + question(INFER, b"", b"Connection: close"))
    assert 0 < most[0] <= hot.MOST_PIPELINED


def test_tiny_chunks_take_no_more_room_than_their_bytes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[int] = []

    def counting(self: asked.Asked) -> None:
        parts.append(len(self.parts))
        before(self)

    before = asked.Asked.ask
    monkeypatch.setattr(asked.Asked, "ask", counting)
    chunks = b"2\r\n  \r\n" * 20_000 + b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD)
    assert place.ask(POST + b"Connection: close\r\n" + CHUNKED + chunks) == place.expected
    assert parts[0] < 20


def endless(raw: socket.socket, part: bytes, most: int) -> int:
    """How many parts go through until the server hangs up."""
    for number in range(most):
        try:
            raw.sendall(part)
        except ConnectionError:
            return number
    return most


@pytest.mark.parametrize("path", [INFER, b"/v2/health/live"])
def test_a_body_without_end_is_answered_once_skipped_for_a_while_and_cut_off(hasty: Place, path: bytes) -> None:
    chunk = b"%x\r\n%s\r\n" % (1 << 16, b" " * (1 << 16))
    head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n"
    with hasty.connected() as raw:
        raw.sendall(head + CHUNKED)
        assert endless(raw, chunk, 1 << 20) < 1 << 20
        assert statuses(rest(raw)) in ([413], [405], [])  # its answer may be lost with the connection
    with hasty.connected() as raw:
        raw.sendall(head + b"Content-Length: %d\r\n\r\n" % (1 << 30))
        assert raw.recv(12) in (b"HTTP/1.1 413", b"HTTP/1.1 405")
    assert {one.status for one in hasty.seen} <= {413, 405}


def test_large_bodies_of_many_connections_are_bounded_together(place: Place) -> None:
    part = b" " * (1000 << 10)
    head = POST + b"Content-Length: %d\r\n\r\n" % (len(part) + 10)
    open_lines: list[socket.socket] = []
    for _ in range(8):
        raw = socket.create_connection((urlsplit(place.url).hostname, urlsplit(place.url).port), timeout=20)
        raw.sendall(head + part)
        open_lines.append(raw)
    refused = [raw for raw in open_lines if is_refused(raw)]
    assert 8 - BUDGET // len(part) <= len(refused) < 8
    assert place.service.intake.held <= BUDGET
    for raw in refused:
        raw.sendall(b" " * 10 + HIDDEN)  # the rest is skipped and the connection lives
        assert raw.recv(15) == b"HTTP/1.1 200 OK"
    for raw in open_lines:
        raw.close()
    deadline = time.monotonic() + 10
    while place.service.intake.held and time.monotonic() < deadline:
        time.sleep(0.005)


def is_refused(raw: socket.socket) -> bool:
    raw.settimeout(0.3)
    try:
        found = raw.recv(1 << 16)
    except TimeoutError:
        return False
    finally:
        raw.settimeout(20)
    assert found.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1\r\n" in found
    return True


@pytest.mark.parametrize("behind", [b"", POST], ids=["whole", "and half a question"])
@pytest.mark.parametrize("cold", [False, True], ids=["hot", "cold"])
def test_who_reads_nothing_is_cut_off(hasty: Place, behind: bytes, cold: bool) -> None:
    body = GOOD[:-1] + b',"id":"' + b"x" * 200_000 + b'"}'
    count, one = 100, question(INFER + (b"?" if cold else b""), body)
    with hasty.connected(small_window=True) as raw:
        sender = threading.Thread(target=_send_quietly, args=(raw, one * count + behind))
        sender.start()
        sender.join(timeout=30)  # it waits for who reads, until the connection is cut off
        assert not sender.is_alive()
        assert len(rest(raw)) < count * 200_000


def _send_quietly(raw: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        raw.sendall(data)


def test_who_asks_and_hangs_up_leaves_nothing_behind(place: Place) -> None:
    body = question(INFER, GOOD + b" " * 900_000)
    for stop in (len(body), len(body) - 5):
        for _ in range(5):
            with place.connected() as raw:
                raw.sendall(body[:stop])
                raw.shutdown(socket.SHUT_WR)
    deadline = time.monotonic() + 10
    while (place.service.intake.held or len(place.seen) < 10) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(place.seen) == 10, "each is told of once, when it came and its connection was gone"


def tensors(top: str = "", **event: str) -> bytes:
    fields = {"name": '"event"', "shape": "[1,3]", "datatype": '"FP32"', "data": "[1,2,3]"} | event
    first = ",".join(f'"{name}":{value}' for name, value in fields.items())
    jets = '{"name":"jets","shape":[1,3,3],"datatype":"FP32","data":[1,2,3,4,5,6,7,8,9]}'
    return f'{{"inputs":[{{{first}}},{jets}]{top}}}'.encode("utf-8", "surrogateescape")


LARGE, LONGER = "1" + "0" * 400, "9" * 5000
BODIES: dict[str, bytes] = {
    "lists without end": b"[" * 100_000,
    "objects without end": b'{"a":' * 100_000,
    "data in lists in lists": tensors(data="[" * 50_000 + "]" * 50_000),
    **{f"time-out {one[:6]}": tensors(f',"parameters":{{"timeout":{one}}}') for one in (LARGE, LONGER, "1e999", "-1")},
    **{f"size {one[:6]}": tensors(shape=f"[{one},3]") for one in (LARGE, LONGER, "1e9", "-1", "true", "4294967297")},
    "sizes whose product overflows": tensors(shape="[4294967296,4294967296,4294967296]"),
    "a size of nothing beside large ones": tensors(shape="[0,99999999,99999999]", data="[]"),
    "many sizes": tensors(shape="[" + "1," * 100_000 + "1]"),
    **{
        f"{word} {one[:6]}": tensors(datatype=f'"{word}"', data=f"[{one},1,2]")
        for word in ("FP32", "FP64", "UINT64", "INT64")
        for one in (LARGE, LONGER, "1e999", "NaN", "Infinity", '"x"')
    },
    "a text that is not UTF-8": tensors(datatype='"BYTES"', data='["\udcff","a","b"]'),
    "half a pair": tensors(datatype='"BYTES"', data='["\\ud800","a","b"]'),
    "half a pair as a name": tensors(name='"\\ud800"'),
    "a name that is not UTF-8": tensors(name='"\udcff"'),
    "a name of a million letters": tensors(name='"' + "n" * 1_000_000 + '"'),
    "many outputs, the last one twice": tensors(
        ',"outputs":[' + ",".join(f'{{"name":"o{n}"}}' for n in (*range(40_000), 39_999)) + "]"
    ),
    "an output of a million letters": tensors(',"outputs":[{"name":"' + "n" * 1_000_000 + '"}]'),
    "many inputs": b'{"inputs":['
    + b",".join(b'{"name":"a%d","shape":[0],"datatype":"FP32","data":[]}' % n for n in range(15_000))
    + b"]}",
    "bytes announced that are not there": tensors(parameters='{"binary_data_size":12}'),
    "bytes announced beyond all": tensors(parameters=f'{{"binary_data_size":{LARGE}}}'),
    "a mark of byte order": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "a NUL behind it": GOOD + b"\0",
    "nothing": b"",
}


@pytest.mark.parametrize("what", BODIES)
def test_a_body_that_means_harm_is_refused_in_words(place: Place, what: str) -> None:
    began_s = time.monotonic()
    for path in (INFER, INFER + b"?"):
        found = place.ask(question(path, BODIES[what], b"Connection: close"))
        assert statuses(found) == [400]
        assert len(json.loads(found.partition(b"\r\n\r\n")[2])["error"]) < 5000
    assert time.monotonic() - began_s < 20  # some take hours where a cost grows by the square


def _binary(texts: bytes, shape: str, size: int) -> tuple[bytes, bytes]:
    head = tensors(shape=shape, datatype='"BYTES"', parameters=f'{{"binary_data_size":{size}}}').replace(
        b'"data":[1,2,3],', b""
    )
    return head + texts, b"Inference-Header-Content-Length: %d" % len(head)


@pytest.mark.parametrize(
    ("texts", "shape", "size"),
    [
        (struct.pack("<I", 1000) + b"abc", "[1]", 7),
        (struct.pack("<I", 0xFFFFFFFF) + b"abc", "[1]", 7),
        (b"\1\0", "[1]", 2),
        (struct.pack("<I", 0) * 3, "[268435456]", 12),
        (struct.pack("<I", 2) + b"\xff\xfe", "[1]", 6),
        (b"", "[1]", 0),
        (b"", "[0]", 1 << 62),
    ],
    ids=["long", "longest", "short", "few", "no UTF-8", "none", "beyond"],
)
def test_texts_whose_lengths_lie_are_refused(place: Place, texts: bytes, shape: str, size: int) -> None:
    body, length = _binary(texts, shape, size)
    found = place.ask(question(INFER, body, length, b"Connection: close"))
    assert statuses(found) == [400]
    assert b"input 'event'" in found


def test_no_header_brings_long_work_to_the_loop_that_answers_everybody() -> None:
    small, large = b"{}", b"{" + b" " * INLINE_BODY_BYTES + b"}"
    name = b"inference-header-content-length"
    assert not is_long({}, small)
    assert is_long({}, large)
    assert is_long({name: b"%d" % len(large)}, large)
    assert not is_long({name: b"2"}, large)
    texts, escaped = b'{"datatype":"BYTES"}', b'{"datatype":"\\u0042YTES"}'
    for head in (texts, escaped):
        assert is_long({name: b"%d" % len(head)}, head + large)
    assert is_long({b"content-type": ARROW.encode()}, small), "what a few bytes of a table become is not known"
    for nonsense in (b"-1", b"x", b"9" * 50, b""):
        is_long({name: nonsense}, large)


EVENT: dict[str, Any] = as_instances(make_events(1, seed=1))[0]


@pytest.mark.parametrize("column", list(EVENT))
def test_values_of_events_that_mean_harm_are_refused_or_taken_never_our_mistake(place: Place, column: str) -> None:
    values = ["9" * 30, "1e999", "-1e999", LARGE, LONGER, f"[{LARGE}]", f"[{LONGER}]", '"\\ud800"', "[[[1]]]", "{}"]
    for value in values:
        event = json.dumps(EVENT | {column: "@"}).replace("NaN", "null").replace('"@"', value)
        body = f'{{"instances":[{event}]}}'.encode()
        assert statuses(place.ask(question(PREDICT, body, b"Connection: close")))[0] in (200, 400)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (INFER, b'{"inputs":[{"data":[' + b"[]," * (1 << 18), "262146 lists; at most 1000"),
        (INFER, b'{"parameters":{' + b'"a":1,' * (1 << 17), "131073 keys; at most 500"),
        (INFER, b'{"inputs":[{"data":[' + b"0," * (1 << 18), "262144 values; at most 700"),
        (PREDICT, b'{"instances":[{"Jet_pt":[' + b"0," * (1 << 18), "262144 values; at most 700"),
        (PREDICT, b'{"instances":[{"Jet_pt":[' + b"[]," * (1 << 18), "262146 lists; at most 1000"),
    ],
    ids=["lists", "keys", "values", "values of events", "lists of events"],
)
def test_what_becomes_twenty_times_larger_in_memory_is_refused_before_it_is_read(
    place: Place, monkeypatch: pytest.MonkeyPatch, path: bytes, body: bytes, words: str
) -> None:
    monkeypatch.setattr(protocol, "MAX_LISTS", 1000)
    monkeypatch.setattr(protocol, "MAX_KEYS", 500)
    monkeypatch.setattr(protocol, "MAX_VALUES", 700)
    monkeypatch.setattr(event_reading, "MAX_LISTS", 1000)
    found = place.ask(question(path, body, b"Connection: close"))
    assert statuses(found) == [400]
    assert words in found.decode()


def test_names_are_remembered_neither_long_nor_many(place: Place) -> None:
    shared = asked.Hot(place.service, ())
    shared.find(b"/" + b"x" * 5000)
    assert not shared.paths
