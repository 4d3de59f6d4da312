"""What is refused before it is read, and heads that are known: the same answers as ever, in order, and cheaper ones."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mlaas4hep.errors import BusyError
from mlaas4hep.serve import hot, pressure
from mlaas4hep.serve.asked import OTHER
from mlaas4hep.serve.asking import INLINE_BODY_BYTES
from mlaas4hep.serve.backlog import Backlog
from mlaas4hep.serve.heads import MAX_HEADS, KnownHeads
from mlaas4hep.serve.hooks import Hooks, Seen
from mlaas4hep.serve.limits import ClientLimits, Limits, QueueLimits, WireLimits
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.pressure import Pressure
from mlaas4hep.serve.repository import ModelRepository
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService
from tests.small_bundle import write_small_bundle
from tests.unit.serve.test_hot import INFER, META, as_binary, as_json, connected, one, read, request, slowed
from tests.unit.serve.test_hot import tensors as tensors  # a fixture


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> ModelRepository:
    folder: Path = tmp_path_factory.mktemp("models")
    write_small_bundle(folder)
    return open_repository(folder)


Rows = dict[str, NDArray[np.float32]]


@pytest.fixture
def short_ways(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes went the way of known heads, each time that something came."""
    found: list[int] = []
    usual = hot.HotProtocol._take_known

    def take(self: hot.HotProtocol, data: bytes) -> int:
        found.append(usual(self, data))
        return found[-1]

    monkeypatch.setattr(hot.HotProtocol, "_take_known", take)
    return found


def test_known_heads_give_the_answers_that_reading_them_gives(
    repository: ModelRepository, tensors: Rows, short_ways: list[int]
) -> None:
    body, header = as_binary(tensors, slice(0, 3))
    questions = [
        request(INFER, as_json(tensors, slice(0, 1))),
        request(INFER, body, header),
        request(INFER, b"{"),
        request(b"/v2/models/other/infer", b"{}"),
        request(INFER, as_json(tensors, slice(0, 1)), b"Content-Type: text/plain"),
    ]
    with background(InferenceService(repository)) as url, connected(url) as raw:
        first = []
        for question in questions:
            raw.sendall(question)
            first += read(raw, 1)
        assert sum(short_ways) == 0
        assert [head.split()[1] for head, _ in first] == [b"200", b"200", b"400", b"404", b"415"]
        raw.sendall(b"".join(questions) + request(META, method=b"GET") + questions[0])
        again = read(raw, 7)
        assert sum(short_ways) >= len(b"".join(questions[:2]))
        assert again[:5] == first
        assert again[6] == first[0]
        with connected(url) as pieces:  # a known head in pieces is read as ever
            for start in range(0, len(questions[0]), 37):
                pieces.sendall(questions[0][start : start + 37])
            assert read(pieces, 1) == first[:1]


@pytest.mark.parametrize(
    "more",
    [
        b"Authorization: Bearer t",
        b"X-Request-Id: 7",
        b"X-Request-Timeout-Ms: 50000",
        b"Cookie: a=b",
        b"Accept: " + b"x" * 2000,
    ],
)
def test_heads_that_say_who_asks_or_more_than_usual_are_not_kept(
    repository: ModelRepository, tensors: Rows, short_ways: list[int], more: bytes
) -> None:
    question = request(INFER, as_json(tensors, slice(0, 1)), more)
    with background(InferenceService(repository)) as url, connected(url) as raw:
        for _ in range(3):
            raw.sendall(question)
            assert read(raw, 1)[0][0].startswith(b"HTTP/1.1 200 ")
    assert sum(short_ways) == 0


def test_only_so_many_heads_are_kept_and_none_that_was_read_leniently() -> None:
    heads, headers = KnownHeads(), [(b"host", b"x")]
    found = (OTHER, (), "")
    for number in range(MAX_HEADS + 1):
        heads.learn(b"POST /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number, headers, found, 0)
    assert len(heads._known) == 1
    for strange in (b"\r\nPOST / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST / HTTP/1.1\nHost: x\n\n{}\r\n\r\n"):
        heads.learn(strange, headers, found, 0)
    assert len(heads._known) == 1


class Loop:
    """Runs what is called soon when it is told to."""

    def __init__(self) -> None:
        self.soon: list[object] = []
        self.call_soon = self.soon.append

    def turn(self) -> None:
        for call in self.soon:
            call()  # type: ignore[operator]
        self.soon.clear()


def test_a_turn_takes_in_what_two_turns_can_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    now, loop = [100.0], Loop()
    monkeypatch.setattr(pressure.time, "monotonic", lambda: now[0])
    found = Pressure(loop, wait_s=0.8)  # type: ignore[arg-type]

    def turn(seconds: float) -> bool:
        """Whether something is taken that long after a turn begins, which ends then."""
        found.begin()
        now[0] += seconds
        taken = not found.too_much(now[0])
        found.end()
        loop.turn()
        return taken

    assert turn(0.09)
    assert not turn(0.09), "the one before took a part of the time"
    assert turn(0.05)
    assert not turn(0.5)
    assert not turn(1e-6), "what waited through a turn of so long is refused"
    assert turn(1e-6)
    now[0] += 1.0
    assert turn(0.09), "nothing was there to be read for a while"


@pytest.mark.parametrize("learned", [False, True])
def test_more_than_can_be_answered_is_refused_in_order_and_counted(
    repository: ModelRepository, tensors: Rows, monkeypatch: pytest.MonkeyPatch, learned: bool
) -> None:
    seen: list[Seen] = []
    question = request(INFER, as_json(tensors, slice(0, 1)))
    service = InferenceService(repository)
    with background(service, hooks=Hooks(on_request=seen.append)) as url, connected(url) as raw:
        if learned:
            raw.sendall(question)
            read(raw, 1)
        seen.clear()
        verdicts = iter([False, True, True, False, True, True, False])
        monkeypatch.setattr(Pressure, "too_much", lambda self, now_s: next(verdicts))
        others = [request(path, method=b"GET") for path in (META, b"/v2/health/live", b"/metrics", META)]
        raw.sendall(question * 5 + b"".join(others))
        answers = read(raw, 9)
        assert [int(head.split()[1]) for head, _ in answers] == [200, 503, 503, 200, 503, 503, 200, 200, 200]
        assert all(b"retry-after: 1" in head for head, _ in answers if b" 503 " in head)
        assert "within 10 s" in json.loads(answers[1][1])["error"]
    refused = [one for one in seen if one.status == 503]
    assert [one.model.name if one.model else "" for one in refused] == ["tth", "tth", "tth", ""]
    assert len(seen) == 9


def test_a_large_body_is_not_waited_for_where_its_model_is_too_busy(repository: ModelRepository, tensors: Rows) -> None:
    slow, service = slowed(repository)
    service.limits = Limits(queue=QueueLimits(wait_s=0.5))
    question, large = request(INFER, as_json(tensors, slice(0, 1))), request(INFER, b" " * 5000)
    with background(service) as url, connected(url) as first, connected(url) as raw:
        first.sendall(question)
        assert slow.going.wait(10)
        raw.sendall(large[:-5000])
        head, _ = read(raw, 1)[0]
        assert head.startswith(b"HTTP/1.1 503 ")
        slow.go_on.set()
        read(first, 1)
        raw.sendall(b" " * 5000 + question)
        assert read(raw, 1)[0][0].startswith(b"HTTP/1.1 200 ")


def test_a_client_has_its_share_and_no_more(repository: ModelRepository, tensors: Rows) -> None:
    slow, service = slowed(repository)
    service.limits = Limits(client=ClientLimits(questions=2, connections=2))
    question = request(INFER, as_json(tensors, slice(0, 1)))
    with background(service) as url, connected(url) as raw:
        raw.sendall(question * 3)
        assert slow.going.wait(10)
        with connected(url) as other:
            other.sendall(question)
            assert read(other, 1)[0][0].startswith(b"HTTP/1.1 429 ")
            with connected(url) as third:
                head, body = one(url, request(META, method=b"GET"))
                assert head.startswith(b"HTTP/1.1 429 ")
                assert head.endswith(b"connection: close")
                assert "connections of this client" in json.loads(body)["error"]
                del third
        slow.go_on.set()
        assert [head.split()[1] for head, _ in read(raw, 3)] == [b"200", b"200", b"429"]
        head = b""
        by_s = time.monotonic() + 10
        while (
            not head.startswith(b"HTTP/1.1 200 ") and time.monotonic() < by_s
        ):  # hung up connections are noticed later
            head = one(url, question)[0]
        assert head.startswith(b"HTTP/1.1 200 "), "answered questions are forgotten"


def test_questions_on_the_long_way_are_counted_too(repository: ModelRepository, tensors: Rows) -> None:
    slow, service = slowed(repository)
    service.limits = Limits(client=ClientLimits(questions=1))
    question = request(INFER + b"?slow", as_json(tensors, slice(0, 1)))
    with background(service) as url, connected(url) as raw, connected(url) as other:
        raw.sendall(question)
        assert slow.going.wait(10)
        other.sendall(question)
        assert read(other, 1)[0][0].startswith(b"HTTP/1.1 429 ")
        other.sendall(request(META, method=b"GET"))
        assert read(other, 1)[0][0].startswith(b"HTTP/1.1 200 "), "who asks no model is not counted"
        slow.go_on.set()
        read(raw, 1)
        other.sendall(question)
        assert read(other, 1)[0][0].startswith(b"HTTP/1.1 200 "), "what was answered counts no more"


def test_bodies_of_all_connections_together_are_bounded(repository: ModelRepository, tensors: Rows) -> None:
    service = InferenceService(repository, limits=Limits(wire=WireLimits(body_bytes=10_000)))
    question = request(INFER, as_json(tensors, slice(0, 1)))
    large = request(INFER, b" " * 8000)
    with background(service) as url, connected(url) as half, connected(url) as raw:
        half.sendall(large[:-1])
        raw.sendall(request(META, method=b"GET"))
        read(raw, 1)
        raw.sendall(large[:-1])
        refused, body = read(raw, 1)[0]
        raw.sendall(b" " + question)
        good, _ = read(raw, 1)[0]
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert "and 10000 may be" in json.loads(body)["error"]
        assert good.startswith(b"HTTP/1.1 200 ")
        half.sendall(b" ")
        assert read(half, 1)[0][0].startswith(b"HTTP/1.1 400 ")
        raw.sendall(large)
        assert read(raw, 1)[0][0].startswith(b"HTTP/1.1 400 "), "what was answered is held no longer"


def test_no_more_questions_wait_to_be_read_than_can_be_read_in_time() -> None:
    backlog = Backlog(2, wait_s=1.0)
    backlog.enter()
    backlog.leave(0.5)
    for _ in range(4):
        backlog.enter()
    with pytest.raises(BusyError, match="4 questions wait to be read, which takes about 1 s, and 1 s may be waited"):
        backlog.enter()
    backlog.leave(0.5)
    backlog.enter()
    for _ in range(4):
        backlog.leave(1e9)
    backlog.enter()


@pytest.mark.parametrize("way", [b"", b"?slow"])
def test_what_is_long_to_read_is_refused_where_too_much_waits_for_that(
    repository: ModelRepository, tensors: Rows, way: bytes
) -> None:
    seen: list[Seen] = []
    service = InferenceService(repository)
    service.backlog = Backlog(1, wait_s=0.1)
    service.backlog.enter()
    service.backlog.leave(1.0)
    service.backlog.enter()
    long, short = (request(INFER + way, as_json(tensors, slice(0, count))) for count in (3000, 1))
    assert len(long) > INLINE_BODY_BYTES
    with background(service, hooks=Hooks(on_request=seen.append)) as url, connected(url) as raw:
        raw.sendall(long)
        head, body = read(raw, 1)[0]
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in head
        assert "1 questions wait to be read" in json.loads(body)["error"]
        assert service.intake.held == 0
        raw.sendall(short)
        assert read(raw, 1)[0][0].startswith(b"HTTP/1.1 200 ")
        service.backlog.leave(0.0)
        raw.sendall(long)
        assert read(raw, 1)[0][0].startswith(b"HTTP/1.1 200 ")
    if not way:
        assert [one.model.name for one in seen if one.model] == ["tth"] * 3
