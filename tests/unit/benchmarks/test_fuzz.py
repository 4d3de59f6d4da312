"""Changed questions: the same for a seed, what they do to a server is found, and ours lives through them."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any
from urllib.parse import urlsplit

import pytest

from benchmarks.fuzz import GOLDEN, MOST_KB_1000, Fuzz, growth, is_well, measure
from benchmarks.mutated import Seed, mutated, mutated_rpc
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService
from mlaas4hep.serve.sockets import bind


@pytest.fixture
def fuzz() -> Iterator[Fuzz]:
    listening = bind("127.0.0.1", 0)
    with background(InferenceService(open_repository(GOLDEN)), grpc=listening) as url:
        fuzz = Fuzz("127.0.0.1", urlsplit(url).port or 0, listening.getsockname()[1], seed=7)
        yield fuzz
        fuzz.close()


def test_a_seed_gives_the_same_questions_again() -> None:
    seeds = [Seed("/v2/models/m/infer", b'{"inputs": [{"name": "x", "data": [1.0, 2.0]}]}')]

    def drawn(seed: int) -> list[bytes]:
        random = Random(seed)
        return [mutated(random, seeds) for _ in range(200)] + [mutated_rpc(random, [b"abc"]) for _ in range(50)]

    assert drawn(1) == drawn(1)
    assert len(set(drawn(1)) & set(drawn(2))) < 30
    assert sum(seeds[0].message() != one for one in drawn(1)) > 240


def test_a_server_lives_through_changed_questions(fuzz: Fuzz, caplog: pytest.LogCaptureFixture) -> None:
    *_, found = fuzz.run(20.0, most=320)
    assert (found.failures, found.wrong, found.hangs) == ([], 0, 0)
    assert found.sent >= 320
    assert found.statuses[200] > 0 < found.statuses[400]
    assert found.rpc["0"] > 0 < found.rpc["3"]
    assert [one.getMessage() for one in caplog.records if one.levelname == "ERROR"] == []


def test_what_is_our_fault_is_found(fuzz: Fuzz) -> None:
    busy = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\r\n"
    late = busy + b'{"error":"model is busy: the answer cannot be there within the 1e-06 s that are left"}'
    passed = busy + b'{"error":"model is busy: its deadline, or the time that may be waited, passed while it waited"}'
    fuzz._count(b"a", late + passed)
    fuzz._count_rpc(b"a", b"\0\0\x0c\1\5\0\0\0\1\0\x0bgrpc-status\x013")
    assert (fuzz.found.failures, fuzz.found.late) == ([], 2)
    fuzz._count(b"b", busy + late)
    fuzz._count(b"b", b"HTTP/1.1 500 Internal Server Error\r\n\r\n")
    fuzz._count(b"c", b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
    fuzz._count_rpc(b"d", b"\0\0\x0c\1\5\0\0\0\1\0\x0bgrpc-status\x0213")
    assert [one["what"] for one in fuzz.found.failures] == ["503", "500", "503", "rpc 13"]
    good: dict[str, Any] = {
        "wrong": 0,
        "hangs": 0,
        "failures": [],
        "tracebacks": 0,
        "log_controls": 0,
        "sockets": [4, 4],
        "seconds": 600.0,
        "kb_1000": 1.0,
    }
    assert is_well(good)
    for key, value in (("wrong", 1), ("failures", [1]), ("tracebacks", 1), ("sockets", [4, 5]), ("kb_1000", 100.0)):
        assert not is_well(good | {key: value})
    assert is_well(good | {"kb_1000": 100.0, "seconds": 10.0})


def test_what_stays_of_each_question_grows_and_what_is_taken_once_does_not() -> None:
    steady = growth([(sent, 90_000 + sent // 10_000 * 1024) for sent in range(0, 130_000, 3000)])
    assert steady is not None
    assert steady > 2 * MOST_KB_1000
    for first, second in ((70_000, 70_000), (40_000, 90_000)):
        taken = [(sent, 4096 * ((sent > first) + (sent > second))) for sent in range(0, 130_000, 3000)]
        assert growth(taken) == 0.0
    assert growth([(16, 90_000)]) is None


@pytest.mark.slow
def test_half_a_minute_of_changed_questions_leaves_nothing_behind() -> None:
    found = measure(GOLDEN, seconds=30.0, seed=20)
    assert is_well(found), found
    assert found["sent"] > 1000
