"""The way past Starlette, asked through raw sockets: the same bytes, in order, whatever comes between."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray

from mlaas4hep.client import Client
from mlaas4hep.serve import asked, server
from mlaas4hep.serve.asking import Headers, Refusal
from mlaas4hep.serve.hooks import Hooks, Seen
from mlaas4hep.serve.limits import Limits, WireLimits
from mlaas4hep.serve.model import ServedModel
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.repository import ModelRepository
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService
from tests.small_bundle import as_instances, make_events, write_small_bundle

INFER, PREDICT, META = b"/v2/models/tth/infer", b"/v1/models/tth:predict", b"/v2"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    folder: Path = tmp_path_factory.mktemp("models")
    write_small_bundle(folder)
    return open_repository(folder)


@pytest.fixture(scope="module")
def seen() -> list[Seen]:
    return []


@pytest.fixture(scope="module")
def url(repository: ModelRepository, seen: list[Seen]) -> Iterator[str]:
    def authorise(method: str, path: str, headers: Headers) -> Refusal | None:
        return Refusal(401, "who are you?", {"WWW-Authenticate": "Bearer"}) if b"x-stranger" in headers else None

    service = InferenceService(repository, limits=Limits(max_body_bytes=1 << 20))
    with background(service, hooks=Hooks(on_request=seen.append, authorise=authorise)) as url:
        yield url
        with Client(url) as client:
            assert client.live()


@pytest.fixture(scope="module")
def tensors(repository: ModelRepository) -> dict[str, NDArray[np.float32]]:
    contract = repository.get("tth").contract
    assert contract is not None
    return contract.preprocessor.run(make_events(3000, seed=3), 3000).inputs


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=20) as raw:
        yield raw


def request(path: bytes, body: bytes = b"", *headers: bytes, method: bytes = b"POST") -> bytes:
    lines = [method + b" " + path + b" HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def read(raw: socket.socket, count: int) -> list[tuple[bytes, bytes]]:
    """Heads and bodies of so many answers; interim ones have no body."""
    found: list[tuple[bytes, bytes]] = []
    data = b""
    while len(found) < count:
        head, end, rest = data.partition(b"\r\n\r\n")
        lengths = [line for line in head.split(b"\r\n") if line.startswith(b"content-length: ")]
        size = int(lengths[0].partition(b": ")[2]) if lengths else 0
        if end and len(rest) >= size:
            found.append((head, rest[:size]))
            data = rest[size:]
        else:
            part = raw.recv(1 << 16)
            assert part, (found, data)
            data += part
    assert not data
    return found


def ends(raw: socket.socket) -> bool:
    return raw.recv(1) == b""


def one(url: str, message: bytes) -> tuple[bytes, bytes]:
    with connected(url) as raw:
        raw.sendall(message)
        return read(raw, 1)[0]


def as_json(tensors: dict[str, NDArray[np.float32]], rows: slice, **more: Any) -> bytes:
    inputs = [
        {
            "name": name,
            "shape": [len(tensor[rows]), *tensor.shape[1:]],
            "datatype": "FP32",
            "data": [None if np.isnan(value) else float(value) for value in tensor[rows].ravel()],
        }
        for name, tensor in tensors.items()
    ]
    return json.dumps({"inputs": inputs, **more}).encode()


def as_binary(tensors: dict[str, NDArray[np.float32]], rows: slice) -> tuple[bytes, bytes]:
    """The body, and the header that it needs."""
    inputs = [
        {
            "name": name,
            "shape": [len(tensor[rows]), *tensor.shape[1:]],
            "datatype": "FP32",
            "parameters": {"binary_data_size": tensor[rows].nbytes},
        }
        for name, tensor in tensors.items()
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    body = head + b"".join(tensor[rows].tobytes() for tensor in tensors.values())
    return body, b"Inference-Header-Content-Length: %d" % len(head)


def events(count: int) -> bytes:
    return json.dumps({"instances": as_instances(make_events(count, seed=1))}).replace("NaN", "null").encode()


def test_both_ways_give_the_same_bytes(url: str, tensors: dict[str, NDArray[np.float32]]) -> None:
    binary, length = as_binary(tensors, slice(0, 7))
    questions = [
        (INFER, as_json(tensors, slice(0, 1)), b""),
        (INFER, as_json(tensors, slice(0, 300), id="7"), b"Content-Type: application/json; charset=utf-8"),
        (INFER, as_json(tensors, slice(0, 0)), b""),
        (INFER, as_json(tensors, slice(0, 2), parameters={"timeout": 10**8}), b"X-Request-Timeout-Ms: 5000"),
        (INFER, binary, length),
        (INFER, binary, b"Inference-Header-Content-Length: 1000000"),
        (INFER, binary, b"Inference-Header-Content-Length: 1e3"),
        (INFER, as_json(tensors, slice(0, 1), parameters={"timeout": "soon"}), b""),
        (INFER, as_json(tensors, slice(0, 1), outputs=[{"name": "score"}]), b""),
        (INFER, as_json({"event": tensors["event"]}, slice(0, 1)), b""),
        (INFER, b"{", b""),
        (INFER, b"", b""),
        (INFER, b"{}", b"Content-Type: text/csv"),
        (INFER, b"{}", b"Content-Encoding: gzip"),
        (INFER, b"{}", b"X-Request-Timeout-Ms: never"),
        (INFER, b" " * (1 << 20) + b"{", b""),
        (b"/v2/models/tth/versions/1/infer", as_json(tensors, slice(0, 2)), b""),
        (b"/v2/models/tth/versions/2/infer", as_json(tensors, slice(0, 2)), b""),
        (b"/v2/models/tt/infer", b"{}", b""),
        (PREDICT, events(1), b""),
        (PREDICT, events(20), b""),
        (PREDICT, b'{"instances": []}', b""),
        (PREDICT, b'{"instances": [{"MET_pt": 1}]}', b""),
        (b"/v1/models/tt:predict", b"{}", b""),
        (INFER, as_json(tensors, slice(0, 1)), b"Connection: close"),
        (INFER, as_json(tensors, slice(0, 1)), b"X-Stranger: yes"),
    ]
    statuses = set()
    for path, body, header in questions:
        headers = [header] if header else []
        quick, slow = one(url, request(path, body, *headers)), one(url, request(path + b"?", body, *headers))
        assert quick == slow, (path, body[:200], header)
        statuses.add(int(quick[0].split()[1]))
    assert statuses == {200, 400, 401, 404, 413, 415}


def test_answers_come_in_the_order_of_the_questions_whichever_way_each_takes(
    url: str, tensors: dict[str, NDArray[np.float32]]
) -> None:
    large = as_json(tensors, slice(0, 300), id="large")
    parts = []
    for number in range(60):
        kind = number % 6
        if kind == 4:
            parts.append(request(META, method=b"GET"))
        elif kind == 5:
            parts.append(request(INFER + b"?", as_json(tensors, slice(0, 1), id=str(number))))
        else:
            parts.append(request(INFER, large if kind == 3 else as_json(tensors, slice(0, 1), id=str(number))))
    with connected(url) as raw:
        sender = threading.Thread(target=raw.sendall, args=(b"".join(parts),))
        sender.start()
        answers = [json.loads(body) for _, body in read(raw, 60)]
        sender.join()
        raw.sendall(request(INFER, as_json(tensors, slice(0, 1), id="again")))
        answers.append(json.loads(read(raw, 1)[0][1]))
    said = [one.get("id", one.get("name")) for one in answers]
    wanted = [("mlaas4hep" if n % 6 == 4 else "large" if n % 6 == 3 else str(n)) for n in range(60)]
    assert said == [*wanted, "again"]


def test_distinct_rows_under_concurrency_have_the_bits_of_alone(
    url: str, repository: ModelRepository, tensors: dict[str, NDArray[np.float32]]
) -> None:
    count, clients = 2000, 16
    model: ServedModel = repository.get("tth")
    alone = [
        model.run({name: tensor[row : row + 1] for name, tensor in tensors.items()})["scores"].tobytes()
        for row in range(count)
    ]

    def ask(first: int) -> list[tuple[int, bytes]]:
        found = []
        with connected(url) as raw:
            for row in range(first, count, clients):
                if row % 3:
                    raw.sendall(request(INFER, as_json(tensors, slice(row, row + 1))))
                    score = json.loads(read(raw, 1)[0][1])["outputs"][0]["data"]
                    found.append((row, np.array(score, np.float32).tobytes()))
                else:
                    body, header = as_binary(tensors, slice(row, row + 1))
                    raw.sendall(request(INFER, body, header))
                    found.append((row, read(raw, 1)[0][1][-4:]))
        return found

    with ThreadPoolExecutor(clients) as pool:
        answers = [pair for part in pool.map(ask, range(clients)) for pair in part]
    assert len(answers) == count
    assert [row for row, bits in answers if bits != alone[row]] == []


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_question_in_pieces_or_chunks_is_one_question(
    url: str, tensors: dict[str, NDArray[np.float32]], size: int
) -> None:
    body = as_json(tensors, slice(0, 1))
    whole = request(INFER, body)
    chunked = request(INFER, b"", b"Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    for start in range(0, len(body), 100):
        part = body[start : start + 100]
        chunked += b"%x\r\n%s\r\n" % (len(part), part)
    expected = one(url, whole)
    for message in (whole, chunked + b"0\r\n\r\n"):
        with connected(url) as raw:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, len(message), size):
                raw.sendall(message[start : start + size])
            assert read(raw, 1) == [expected]


def test_leave_to_send_a_body_is_given_or_refused(url: str, tensors: dict[str, NDArray[np.float32]]) -> None:
    body = as_json(tensors, slice(0, 1))
    head = request(INFER, b"", b"Expect: 100-continue").replace(b"Length: 0", b"Length: %d" % len(body))
    with connected(url) as raw:
        raw.sendall(head)
        assert read(raw, 1) == [(b"HTTP/1.1 100 Continue", b"")]
        raw.sendall(body)
        assert read(raw, 1)[0][0].startswith(b"HTTP/1.1 200 ")
        raw.sendall(head.replace(b"Length: %d" % len(body), b"Length: 2000000"))
        refused, _ = read(raw, 1)[0]
        assert refused.startswith(b"HTTP/1.1 413 ")
        assert refused.endswith(b"connection: close")
    with connected(url) as raw:  # behind another question
        raw.sendall(request(INFER, body) + head + body)
        assert [head.split()[1] for head, _ in read(raw, 3)] == [b"200", b"100", b"200"]


def test_a_body_that_is_refused_early_is_skipped_and_the_connection_lives(
    url: str, tensors: dict[str, NDArray[np.float32]]
) -> None:
    large, small = b" " * (2 << 20), as_json(tensors, slice(0, 1))
    chunks = b"%x\r\n%s\r\n" % (len(large), large)
    chunked = request(INFER, b"", b"Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    for refused in (request(INFER, large), chunked + chunks + b"0\r\n\r\n", request(INFER, small, b"X-Stranger: yes")):
        with connected(url) as raw:
            raw.sendall(refused + request(INFER, small))
            assert [head.split()[1] for head, _ in read(raw, 2)] in ([b"413", b"200"], [b"401", b"200"])


def test_other_methods_and_versions_of_http_are_answered_the_other_way(
    url: str, tensors: dict[str, NDArray[np.float32]]
) -> None:
    body = as_json(tensors, slice(0, 1))
    assert one(url, request(INFER, method=b"GET"))[0].startswith(b"HTTP/1.1 405 ")
    with connected(url) as raw:
        raw.sendall(request(INFER, method=b"HEAD"))
        assert raw.recv(100).startswith(b"HTTP/1.1 405 ")
    with connected(url) as raw:
        raw.sendall(request(INFER, body).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert read(raw, 1)[0][0].startswith(b"HTTP/1.1 200 ")
        assert ends(raw)
    with connected(url) as raw:
        raw.sendall(request(INFER, body, b"Connection: close") + request(INFER, body))
        assert read(raw, 1)[0][0].endswith(b"connection: close")
        assert ends(raw)


@pytest.mark.parametrize(
    "message",
    [
        b"POST /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v2/models/tth/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}   ",
        b"POST /v2/models/tth/infer HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v2/models/tth/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v2/models/tth/infer HTTP/1.1\r\nHost : x\r\n\r\n",
    ],
)
def test_what_is_malformed_is_refused_behind_the_answers_before_it(
    url: str, tensors: dict[str, NDArray[np.float32]], message: bytes
) -> None:
    with connected(url) as raw:
        raw.sendall(request(INFER, as_json(tensors, slice(0, 1))) + message)
        (good, _), (bad, body) = read(raw, 2)
        assert good.startswith(b"HTTP/1.1 200 ")
        assert bad.startswith(b"HTTP/1.1 400 ")
        assert bad.endswith(b"connection: close")
        assert list(json.loads(body)) == ["error"]
        assert ends(raw)


def test_a_body_that_does_not_come_is_let_go_and_so_is_who_says_nothing_more(
    repository: ModelRepository, tensors: dict[str, NDArray[np.float32]]
) -> None:
    question = request(INFER, as_json(tensors, slice(0, 1)))
    service = InferenceService(repository, limits=Limits(wire=WireLimits(unfinished_s=0.2, keep_alive_s=0.3)))
    with background(service) as url, connected(url) as raw:
        raw.sendall(question + question[:-5])
        (good, _), (late, _) = read(raw, 2)
        assert (good.split()[1], late.split()[1]) == (b"200", b"408")
        assert ends(raw)
        with connected(url) as idle:
            idle.sendall(question)
            read(idle, 1)
            assert ends(idle)


def test_who_does_not_read_is_not_read_from(url: str) -> None:
    question = request(b"/v2/models/%s/infer" % (b"x" * 30_000), b"{}")
    with connected(url) as raw:
        raw.settimeout(0.5)

        def send() -> None:
            for _ in range(10_000):
                raw.sendall(question)

        with pytest.raises(TimeoutError):
            send()
    with Client(url) as client:
        assert client.live()


def test_a_deadline_that_cannot_be_met_is_busy_with_a_time_to_come_back(
    url: str, tensors: dict[str, NDArray[np.float32]]
) -> None:
    for body, headers in (
        (as_json(tensors, slice(0, 1)), [b"X-Request-Timeout-Ms: 1e-6"]),
        (as_json(tensors, slice(0, 1), parameters={"timeout": 1e-3}), []),
    ):
        head, answer = one(url, request(INFER, body, *headers))
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in head
        assert "busy" in json.loads(answer)["error"]


def test_hooks_see_every_request_on_both_ways(
    url: str, tensors: dict[str, NDArray[np.float32]], seen: list[Seen]
) -> None:
    body = as_json(tensors, slice(0, 3))
    for path in (INFER, INFER + b"?"):
        seen.clear()
        one(url, request(path, body, b"User-Agent: me"))
        one(url, request(path, b"{"))
        deadline = time.monotonic() + 10
        while len(seen) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        good, bad = seen
        assert (good.method, good.path, good.status, good.route, good.rows) == ("POST", INFER.decode(), 200, "infer", 3)
        assert good.model is not None
        assert good.model.name == "tth"
        assert good.bytes_in == len(body)
        assert good.headers[b"user-agent"] == b"me"
        assert good.seconds >= good.run_s >= 0
        assert (bad.status, bad.rows, bad.model) == (400, 0, None)
    seen.clear()
    one(url, request(META, method=b"GET"))
    assert [(one.method, one.path, one.status) for one in seen] == [("GET", "/v2", 200)]


def test_a_stranger_gets_no_further_than_the_head_anywhere(url: str, seen: list[Seen]) -> None:
    seen.clear()
    for path, method in ((INFER, b"POST"), (META, b"GET"), (b"/nowhere", b"GET")):
        head, body = one(url, request(path, b"", b"X-Stranger: yes", method=method))
        assert head.startswith(b"HTTP/1.1 401 ")
        assert b"www-authenticate: Bearer" in head
        assert json.loads(body) == {"error": "who are you?"}
    with connected(url) as raw:  # behind a cold question whose answer is not there yet
        raw.sendall(request(META, method=b"GET") + request(META, b"", b"X-Stranger: yes", method=b"GET"))
        assert [head.split()[1] for head, _ in read(raw, 2)] == [b"200", b"401"]
    assert [(one.method, one.status) for one in seen[:3]] == [("POST", 401), ("GET", 401), ("GET", 401)]


class Slow:
    """Lets a test decide when a run ends."""

    def __init__(self, model: ServedModel) -> None:
        self.model = model
        self.going, self.go_on = threading.Event(), threading.Event()

    def __call__(self, tensors: Any) -> Any:
        self.going.set()
        assert self.go_on.wait(20)
        return self.model.execute(tensors)


def slowed(repository: ModelRepository) -> tuple[Slow, InferenceService]:
    model = repository.get("tth")
    slow = Slow(model)
    return slow, InferenceService(ModelRepository([dataclasses.replace(model, execute=slow, call_s=1.0)]))


def test_an_orderly_end_answers_what_was_taken_also_behind_it_and_takes_no_more(
    repository: ModelRepository, tensors: dict[str, NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[Any] = []

    class Kept(server._Server):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            running.append(self)

    monkeypatch.setattr(server, "_Server", Kept)
    slow, service = slowed(repository)
    question = request(INFER, as_json(tensors, slice(0, 1)))
    with background(service) as url, connected(url) as raw, connected(url) as half, connected(url) as idle:
        half.sendall(question[:-5])
        idle.sendall(request(META, method=b"GET"))
        read(idle, 1)
        raw.sendall(question + request(META, method=b"GET"))
        assert slow.going.wait(10)
        running[-1].should_exit = True
        assert ends(idle)
        half.sendall(question[-5:])
        slow.go_on.set()
        answers = read(raw, 2)
        assert [head.split()[1] for head, _ in answers] == [b"200", b"200"]
        assert answers[-1][0].endswith(b"connection: close")
        assert ends(raw)
        last, _ = read(half, 1)[0]
        assert last.split()[1] == b"200"
        assert last.endswith(b"connection: close")


def test_who_hangs_up_is_not_run(repository: ModelRepository, tensors: dict[str, NDArray[np.float32]]) -> None:
    slow, service = slowed(repository)
    runs: list[int] = []
    service.on_run = lambda model, questions, rows, seconds: runs.append(rows)
    question = request(INFER, as_json(tensors, slice(0, 1)))
    with background(service) as url, connected(url) as first, connected(url) as second:
        first.sendall(question)
        assert slow.going.wait(10)
        with connected(url) as gone:
            gone.sendall(question * 3)
            assert one(url, request(META, method=b"GET"))[0].startswith(b"HTTP/1.1 200 ")
        second.sendall(question)
        assert one(url, request(META, method=b"GET"))[0].startswith(b"HTTP/1.1 200 ")
        slow.go_on.set()
        read(first, 1)
        read(second, 1)
    assert runs == [1, 1]


class Late(InferenceService):
    """Tells of models when it is let."""

    def __init__(self, repository: ModelRepository) -> None:
        super().__init__(repository)
        self.asked, self.go_on = threading.Event(), threading.Event()

    async def wake(self, name: str) -> None:
        self.asked.set()
        await asyncio.to_thread(self.go_on.wait, 20)


def test_of_several_questions_that_starlette_answers_none_is_answered_behind_the_end(
    repository: ModelRepository, caplog: pytest.LogCaptureFixture
) -> None:
    service, seen = Late(repository), list[Seen]()
    with background(service, hooks=Hooks(on_request=seen.append)) as url:
        with connected(url) as raw:
            raw.sendall(request(b"/v2/models/tth", method=b"GET") + request(META, method=b"GET") + b"\0\r\n\r\n")
            assert service.asked.wait(20)
            assert raw.recv(1 << 16).startswith(b"HTTP/1.1 400 ")
            assert ends(raw)
        assert one(url, request(META, method=b"GET"))[0].startswith(b"HTTP/1.1 200 ")
        service.go_on.set()
        while len(seen) < 2:
            time.sleep(0.01)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_paths_are_kept_only_so_many(repository: ModelRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "_MAX_PATHS", 3)
    shared = asked.Hot(InferenceService(repository), server.routes())
    for number in range(10):
        shared.find(b"/v2/models/m%d/infer" % number)
    assert len(shared.paths) <= 3
    assert shared.find(b"/v2/models/a%20b/infer") is None
