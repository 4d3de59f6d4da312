"""A small server of the Open Inference Protocol in plain Python, right in all things but the faults that it is given.

It is there to test the conformance kit: without a fault every check must pass, with one the kit must find it. It knows
one model of two inputs (``x`` FP32, ``n`` INT64) and three outputs. Invariant: nothing of mlaas4hep is in it.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from conformance.tensors import TYPES, Array, from_bytes, from_json, to_bytes, to_json

MODEL, VERSION = "toy", "3"
INPUTS = {"x": ("FP32", [-1, 3]), "n": ("INT64", [-1, 1])}
OUTPUTS = {"sum": ("FP32", [-1, 2]), "spread": ("FP32", [-1, 2]), "word": ("BYTES", [-1, 1])}
EXTENSIONS = ["binary_tensor_data", "classification", "statistics", "model_repository"]
MOST_BYTES = 64 << 20
HEADER_LENGTH = "Inference-Header-Content-Length"
TIMES = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


class RefusedError(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def demand(condition: Any, text: str, status: int = 400) -> None:
    if not condition:
        raise RefusedError(status, text)


class Toy:
    """The model and what is counted of it; `faults` are names that the code below looks for."""

    def __init__(self, faults: frozenset[str]) -> None:
        self.faults = faults
        self.loaded = True
        self.rows = self.runs = 0
        self.last: dict[str, Array] = {}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        x, n = inputs["x"].astype(np.float64), inputs["n"].astype(np.float64)
        if "rows depend on each other" in self.faults:
            x = x - x[:1] / 3
        with np.errstate(all="ignore"):
            total = np.stack([x.sum(axis=1) + n[:, 0], x[:, 0] - n[:, 0] / 3], axis=1)
            spread = np.stack([x.max(axis=1) / 3, x.min(axis=1) / 7], axis=1)
        words = np.array([[b"word%d" % (int(one) % 5)] for one in inputs["n"][:, 0]], dtype=object).reshape(-1, 1)
        self.runs += 1
        self.rows += 1 if "statistics count requests" in self.faults else len(x)
        with np.errstate(all="ignore"):
            found = {"sum": total.astype(np.float32), "spread": spread.astype(np.float32), "word": words}
        if "a row is lost" in self.faults and len(x) > 1:
            found = {name: one[:-1] for name, one in found.items()}
        return self._swapped(found)

    def _swapped(self, found: dict[str, Array]) -> dict[str, Array]:
        """Answers that meet in a place that all requests share."""
        if "answers are swapped" in self.faults:
            self.last = found
            time.sleep(0.003)
            return self.last
        return found

    def read(self, value: Any, tail: bytes, binary: bool) -> tuple[dict[str, Array], bytes]:
        demand(isinstance(value, list), "inputs is no array")
        found: dict[str, Array] = {}
        for one in value:
            demand(isinstance(one, dict) and isinstance(one.get("name"), str), "an input without a name")
            name = one["name"]
            demand(name in INPUTS, f"no input '{name}'")
            demand(name not in found or "an input may come twice" in self.faults, f"input '{name}' twice")
            found[name], tail = self._tensor(one, tail, binary)
        demand(set(found) == set(INPUTS), "an input is missing")
        demand(len({len(one) for one in found.values()}) == 1, "inputs of different lengths")
        return found, tail

    def _tensor(self, one: Mapping[str, Any], tail: bytes, binary: bool) -> tuple[Array, bytes]:
        datatype, declared = INPUTS[one["name"]]
        demand(one.get("datatype") == datatype, f"datatype is {datatype}")
        shape = one.get("shape")
        demand(isinstance(shape, list) and all(type(size) is int and 0 <= size < 2**31 for size in shape), "shape")
        if "shapes are not read" in self.faults:
            shape = [-1, *declared[1:]]
            data = np.array(one["data"], dtype=TYPES[datatype])
            return data[: data.size // declared[1] * declared[1]].reshape(shape), tail
        demand(len(shape) == 2 and shape[1] == declared[1], "shape does not fit the model")
        parameters = one.get("parameters", {})
        demand(isinstance(parameters, dict), "parameters")
        size = parameters.get("binary_data_size")
        if size is None:
            data = one.get("data")
            if datatype == "INT64" and "integers go through floats" in self.faults:
                data = [int(float(value)) for value in data]
            try:
                return from_json(data, datatype, shape), tail
            except (ValueError, OverflowError, RecursionError) as error:
                raise RefusedError(400, str(error)) from error
        demand(binary and type(size) is int and 0 <= size <= len(tail), "binary_data_size")
        demand("data" not in one, "both data and binary_data_size")
        try:
            return from_bytes(tail[:size], datatype, shape), tail[size:]
        except ValueError as error:
            raise RefusedError(400, str(error)) from error


def classes(values: Array, count: Any, *, upwards: bool) -> Array:
    """The highest classes of each row."""
    demand(type(count) is int and 0 < count <= values.shape[1] and values.dtype.kind == "f", "classification")
    rows = []
    for row in values:
        order = np.argsort(row if upwards else -row, kind="stable")[:count]
        rows.append([b"%.9g:%d" % (row[one], one) for one in order])
    found = np.empty((len(values), count), dtype=object)
    found[:] = rows
    return found


class Handler(BaseHTTPRequestHandler):
    protocol_version = default_request_version = "HTTP/1.1"
    toy: Toy
    timeout = 20
    disable_nagle_algorithm = True  # head and body are two pieces, of which one would wait 40 ms for the other

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is logged."""

    def answer(self) -> None:
        try:
            body = self.body()
            content, headers, status = self.route(body)
        except RefusedError as error:
            content, headers, status = self.refusal(error)
        except TimeoutError:
            self.close_connection = True
            return
        if "no keep-alive" in self.toy.faults:
            self.close_connection = True
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection and "no keep-alive" not in self.toy.faults:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_POST = do_HEAD = do_DELETE = answer

    def refusal(self, error: RefusedError) -> tuple[bytes, dict[str, str], int]:
        faults = self.toy.faults
        status = 500 if "failures on bad requests" in faults and error.status == 400 else error.status
        if "hangs up on bad requests" in faults:
            self.close_connection = True
        headers = {"Content-Type": "application/json"} | ({"Allow": "GET, POST"} if status == 405 else {})
        text = {"detail": str(error)} if "errors of another form" in faults else {"error": str(error)}
        return json.dumps(text).encode(), headers, status

    def body(self) -> bytes:
        headers = self.headers
        self.close_connection |= headers.get("Connection", "").lower() == "close"
        odd = [name for name in headers if name != name.strip()]
        length, coding = headers.get_all("Content-Length", []), headers.get("Transfer-Encoding")
        if odd or len(set(length)) > 1 or ("Host" not in headers and self.request_version == "HTTP/1.1"):
            self.close_connection = True
            raise RefusedError(400, "a head that means two things")
        if coding is not None:
            if length and "both lengths are taken" not in self.toy.faults:
                self.close_connection = True
                raise RefusedError(400, "both Content-Length and Transfer-Encoding")
            return b"" if "chunks are not read" in self.toy.faults else self.chunks()
        if not length:
            return b""
        if not (length[0].isascii() and length[0].isdecimal()) or int(length[0]) > MOST_BYTES:
            if "waits for any length" in self.toy.faults:
                self.rfile.read(1 << 30)
            self.close_connection = True
            raise RefusedError(413, "Content-Length")
        found = self.rfile.read(int(length[0]))
        if len(found) < int(length[0]):
            self.close_connection = True
            raise RefusedError(400, "the body ends too early")
        return found

    def chunks(self) -> bytes:
        parts = []
        while True:
            line = self.rfile.readline(100).strip()
            try:
                size = int(line, 16)
            except ValueError as error:
                self.close_connection = True
                raise RefusedError(400, "a chunk without a size") from error
            parts.append(self.rfile.read(size))
            self.rfile.readline(100)
            if not size:
                return b"".join(parts)

    def route(self, body: bytes) -> tuple[bytes, dict[str, str], int]:
        parts = [unquote(one) for one in urlsplit(self.path).path.strip("/").split("/")]
        method = "GET" if self.command == "HEAD" else self.command
        if parts[0] != "v2":
            raise RefusedError(404, "no such route")
        found = self.server_route(parts[1:], method, body) if parts[1:2] != ["models"] else None
        if found is None:
            if parts[1:3] == ["models", "stats"]:
                found = {"model_stats": [self.statistics()]}
            elif parts[1:2] == ["models"] and len(parts) > 2:
                return self.model_route(parts[2], parts[3:], method, body)
            else:
                raise RefusedError(404, "no such route")
        return self.as_json(found)

    def as_json(self, value: Any) -> tuple[bytes, dict[str, str], int]:
        kind = "text/plain" if "another content type" in self.toy.faults else "application/json"
        return json.dumps(value).encode(), {"Content-Type": kind}, 200

    def only(self, method: str, asked: str) -> None:
        demand(method == asked, f"only {asked}", 405)

    def server_route(self, parts: list[str], method: str, body: bytes) -> Any:
        if not parts:
            self.only(method, "GET")
            more = ["trace"] if "announces what it has not" in self.toy.faults else []
            return {"name": "toys", "version": "1", "extensions": EXTENSIONS + more}
        if parts in (["health", "live"], ["health", "ready"]):
            self.only(method, "GET")
            return {parts[1]: True}
        if parts[0] == "repository":
            self.only(method, "POST")
            return self.repository(parts[1:], parse(body or b"{}"))
        raise RefusedError(404, "no such route")

    def repository(self, parts: list[str], question: Any) -> Any:
        toy = self.toy
        if parts == ["index"]:
            state = {"name": MODEL, "version": VERSION, "state": "READY" if toy.loaded else "UNAVAILABLE", "reason": ""}
            return [state] if toy.loaded or not question.get("ready") else []
        demand(len(parts) == 3 and parts[0] == "models" and parts[1] == MODEL, "no such model", 404)
        demand(parts[2] in ("load", "unload"), "no such route", 404)
        toy.loaded = parts[2] == "load" or "unload does nothing" in toy.faults
        return {}

    def statistics(self) -> dict[str, Any]:
        took = {"count": self.toy.runs, "ns": 1000}
        counts = {"last_inference": 1, "inference_count": self.toy.rows, "execution_count": self.toy.runs}
        times = dict.fromkeys(TIMES, took)
        batch = {"batch_size": 1, **dict.fromkeys(TIMES[3:], took)}
        return {"name": MODEL, "version": VERSION, **counts, "inference_stats": times, "batch_stats": [batch]}

    def model_route(self, name: str, parts: list[str], method: str, body: bytes) -> tuple[bytes, dict[str, str], int]:
        if parts[:1] == ["versions"] and len(parts) > 1:
            demand(parts[1] == VERSION, "no such version", 404)
            parts = parts[2:]
        if "any model will do" not in self.toy.faults:
            demand(name == MODEL, "no such model", 404)
        what = "/".join(parts)
        demand(what in ("", "ready", "infer", "stats"), "no such route", 404)
        self.only(method, "POST" if what == "infer" else "GET")
        if what == "stats":
            return self.as_json({"model_stats": [self.statistics()]})
        demand(self.toy.loaded, "not loaded", 404)
        if what == "infer":
            return self.infer(body)
        if what == "ready":
            return self.as_json({"name": MODEL, "ready": True})
        tensors = [[{"name": one, "datatype": kind, "shape": shape} for one, (kind, shape) in some.items()]
                   for some in (INPUTS, OUTPUTS)]  # fmt: skip
        platform = {"platform": "toy_toy", "inputs": tensors[0], "outputs": tensors[1]}
        return self.as_json({"name": MODEL, "versions": [VERSION], **platform})

    def infer(self, body: bytes) -> tuple[bytes, dict[str, str], int]:
        demand(self.headers.get("Content-Encoding", "identity") == "identity", "Content-Encoding", 415)
        length = self.headers.get(HEADER_LENGTH)
        head, tail = body, b""
        if length is not None:
            fits = length.isascii() and length.isdecimal() and int(length) <= len(body)
            demand(fits or "any header length will do" in self.toy.faults, HEADER_LENGTH)
            end = int(length) if fits else json.JSONDecoder().raw_decode(body.decode("latin-1"))[1]
            head, tail = body[:end], body[end:]
        question = parse(head)
        demand(isinstance(question, dict), "no JSON object")
        inputs, tail = self.toy.read(question.get("inputs"), tail, length is not None)
        demand(not tail or "what is left over is dropped" in self.toy.faults, "bytes after the last input")
        if "no rows are a failure" in self.toy.faults and not len(inputs["x"]):
            raise RefusedError(500, "division by zero")
        return self.reply(question, self.toy.run(inputs))

    def reply(self, question: dict[str, Any], found: dict[str, Array]) -> tuple[bytes, dict[str, str], int]:
        faults = self.toy.faults
        parameters = question.get("parameters", {})
        demand(isinstance(parameters, dict), "parameters")
        outputs = question.get("outputs") or [{"name": one} for one in OUTPUTS]
        demand(isinstance(outputs, list) and all(isinstance(one, dict) for one in outputs), "outputs")
        for one in outputs:
            fine = isinstance(one.get("name"), str) and one["name"] in OUTPUTS
            demand(fine and isinstance(one.get("parameters", {}), dict), "no such output")
        if "all outputs always" in faults:
            outputs = [{"name": one} for one in OUTPUTS]
        wire, tails = [], []
        for one in outputs:
            more, name = one.get("parameters", {}), one["name"]
            values = found[name]
            if "classification" in more:
                values = classes(values, more["classification"], upwards="lowest class first" in faults)
            binary = more.get("binary_data", parameters.get("binary_data_output")) is True
            wire.append(self.output(name, values, tails if binary else None))
        if "bytes in another order" in faults and len(tails) > 1:
            tails[0], tails[1] = tails[1], tails[0]
        answer: dict[str, Any] = {"model_name": MODEL, "model_version": VERSION, "outputs": wire}
        if "id" in question:
            demand(isinstance(question["id"], str), "id")
            answer["id"] = "0" if "wrong id" in faults else question["id"]
        if "wrong version" in faults:
            answer["model_version"] = "1"
        content = json.dumps(answer).encode()
        if not tails:
            return content, self.as_json({})[1], 200
        headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(content))}
        return content + b"".join(tails), headers, 200

    def output(self, name: str, values: Array, tails: list[bytes] | None) -> dict[str, Any]:
        datatype = "BYTES" if values.dtype == object else OUTPUTS[name][0]
        found: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
        if tails is not None:
            tails.append(to_bytes(values))
            return found | {"parameters": {"binary_data_size": len(tails[-1])}}
        data = values.ravel().tolist() if "bare NaN" in self.toy.faults and datatype == "FP32" else to_json(values)
        if "digits are lost" in self.toy.faults and datatype == "FP32":
            data = [one if not isinstance(one, float) else float(f"{one:.4g}") for one in data]
        return found | {"data": data}


def parse(body: bytes) -> Any:
    """JSON proper."""

    def refuse(word: str) -> float:
        raise RefusedError(400, f"JSON has no {word}")

    try:
        return json.loads(body.decode(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"not JSON: {error}") from error


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is none of our business."""


@contextlib.contextmanager
def serving(*faults: str, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The server with those faults on a free port; gives its URL."""
    handler = type("FaultyHandler", (Handler,), {"toy": Toy(frozenset(faults))})
    server = _Server(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
