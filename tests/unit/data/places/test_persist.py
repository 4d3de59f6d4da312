"""Trying again: bounded, in order, and told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import pytest

from mlaas4hep.data.places.blocks import BLOCK_BYTES, KEPT, SMALL_BYTES, Blocks
from mlaas4hep.data.places.effort import Ledger
from mlaas4hep.data.places.persist import Patience, in_parallel
from mlaas4hep.data.places.ranges import Piece, Range
from mlaas4hep.data.places.remote import Failed, Replica
from mlaas4hep.data.places.steady import SteadyPlace
from mlaas4hep.testing import refusal

CONTENT = bytes(range(256)) * 8_000
FAST = Patience(stall_s=0.01, pause_s=0.001, attempts=5, in_a_row=2)


class Fake:
    """A replica in memory that fails as it is told: one entry of ``script`` an attempt, None succeeds."""

    url, head, most_pieces, piece_bytes = "fake://one/a.root", b"", 3, 4_000_000

    def __init__(self, script: list[Failed | None], content: bytes = CONTENT, identity: str = "1") -> None:
        self.script = script
        self.content = content
        self.size, self.identity = len(content), identity
        self.asked: list[list[Range]] = []
        self.patience: list[float] = []
        self.opened = 0

    def replica(self) -> Replica:
        return Replica(self.url, self._open)

    def _open(self, stall_s: float) -> Fake:
        self.opened += 1
        return self

    def fetch(self, pieces: Sequence[Piece], patience_s: float) -> None:
        self.asked.append([(one.start, one.stop) for one in pieces])
        self.patience.append(patience_s)
        failed = self.script.pop(0) if self.script else None
        if failed is not None:
            pieces[0].view[: failed.filled] = self.content[pieces[0].start :][: failed.filled]
            raise failed
        for one in pieces:
            one.view[:] = self.content[one.start : one.stop]

    def close(self) -> None:
        return None


def test_patience_doubles_and_what_is_there_is_not_asked_for_again() -> None:
    fake = Fake([Failed("cut off", filled=100_000), Failed("slow", slow=True), Failed("again")])
    place = SteadyPlace([fake.replica()], patience=FAST)
    assert bytes(place.read([(1_000, 401_000)])[0]) == CONTENT[1_000:401_000]
    assert fake.asked == [[(1_000, 401_000)], *[[(101_000, 401_000)]] * 3]
    assert fake.patience == [0.01, 0.02, 0.04, 0.08]
    assert place.retries == 3


QUICK = Patience(stall_s=0.03, quick_s=0.02, pause_s=0.001, in_a_row=9)


def test_a_line_that_has_answered_is_given_two_short_attempts_and_then_the_time_of_any_other() -> None:
    fake = Fake([None, *[Failed("silence", slow=True)] * 3])
    place = SteadyPlace([fake.replica()], patience=QUICK)
    assert bytes(place.read([(0, 300_000)])[0]) == CONTENT[:300_000]
    assert bytes(place.read([(300_000, 700_000)])[0]) == CONTENT[300_000:700_000]
    assert fake.patience == [0.02, 0.02, 0.02, pytest.approx(0.12), pytest.approx(0.24)]


def test_a_server_that_is_slow_but_alive_is_not_asked_in_haste_again() -> None:
    class Slow(Fake):
        def fetch(self, pieces: Sequence[Piece], patience_s: float) -> None:
            if patience_s < 0.03:
                self.patience.append(patience_s)
                raise Failed("nothing came for too long", slow=True)
            time.sleep(0.03)
            super().fetch(pieces, patience_s)

    fake = Slow([])
    place = SteadyPlace([fake.replica()], patience=QUICK)
    for start in (0, 300_000, 600_000):
        assert bytes(place.read([(start, start + 300_000)])[0]) == CONTENT[start : start + 300_000]
    quick = [one for one in fake.patience if one < 0.03]
    assert quick == [0.02, 0.02], "once it has shown how slow it is, it is given that time"
    assert place.retries == 2


def test_a_silent_line_is_left_for_the_next_replica_after_its_short_attempts() -> None:
    silent, good = Fake([None, *[Failed("silence", slow=True)] * 9]), Fake([])
    good.url = "fake://two/a.root"
    patience = Patience(stall_s=0.03, quick_s=0.02, pause_s=0.001)
    place = SteadyPlace([silent.replica(), good.replica()], patience=patience)
    for _ in range(2):
        assert bytes(place.read([(0, 300_000)])[0]) == CONTENT[:300_000]
    assert silent.patience == [0.02, 0.02, 0.02]
    assert place.effort.failovers == 1


def test_effort_is_bounded_unless_each_attempt_was_worth_it() -> None:
    fake = Fake([Failed(f"number {number}") for number in range(20)])
    place = SteadyPlace([fake.replica()], patience=FAST)
    told = refusal(lambda: place.read([(0, 300_000)]))
    assert told == "fake://one/a.root: bytes 0 to 300000 cannot be read: number 4 (asked 5 times)"
    many = [Failed("cut off", filled=262_144) for _ in range(7)]
    patient = SteadyPlace([Fake([*many], content=CONTENT).replica()], patience=FAST)
    assert bytes(patient.read([(0, 2_000_000)])[0]) == CONTENT[:2_000_000]


def test_what_no_attempt_can_mend_is_not_tried_again() -> None:
    fake = Fake([Failed("is forbidden", again=False)])
    place = SteadyPlace([fake.replica()], patience=FAST)
    assert "is forbidden" in refusal(lambda: place.read([(0, 300_000)]))
    assert len(fake.asked) == 1


def test_replicas_are_asked_in_turn_and_the_one_that_answers_first_from_then_on() -> None:
    bad, good = Fake([Failed("busy")] * 9), Fake([])
    good.url = "fake://two/a.root"
    place = SteadyPlace([bad.replica(), good.replica()], patience=FAST)
    assert place.url == bad.url
    for _ in range(3):
        assert bytes(place.read([(0, 300_000)])[0]) == CONTENT[:300_000]
    assert (len(bad.asked), len(good.asked)) == (2, 3)
    assert place.effort.failovers == 1
    assert place.effort.reasons == {"busy": 2}


def test_when_all_fail_each_is_told_with_its_reason() -> None:
    fakes = [Fake([Failed(f"reason {number}")] * 99) for number in range(3)]
    for number, fake in enumerate(fakes):
        fake.url = f"fake://{number}/a.root"
    place = SteadyPlace([fake.replica() for fake in fakes], patience=FAST)
    told = refusal(lambda: place.read([(0, 300_000)]))
    assert all(f"fake://{number}/a.root: reason {number} (asked 5 times)" in told for number in range(3))
    assert "\n" not in told


def test_a_replica_that_is_opened_anew_and_differs_is_a_changed_file() -> None:
    fake = Fake([Failed("broken"), Failed("broken")])
    place = SteadyPlace([fake.replica()], patience=FAST)
    fake.identity = "2"
    assert "was changed while it was read" in refusal(lambda: place.read([(0, 300_000)]))


def test_places_that_answer_several_ranges_are_asked_for_them_at_once() -> None:
    fake = Fake([])
    place = SteadyPlace([fake.replica()], patience=FAST)
    ranges = [(at, at + 60_000) for at in range(0, 1_500_000, 200_000)]
    assert [bytes(one) for one in place.read(ranges)] == [CONTENT[start:stop] for start, stop in ranges]
    assert sorted(map(len, fake.asked)) == [2, 3, 3]


def test_small_reads_are_answered_from_a_bounded_number_of_blocks() -> None:
    asked: list[Range] = []
    content = bytes(KEPT * 2 * BLOCK_BYTES)

    def fetch(ranges: Sequence[Range]) -> list[memoryview]:
        asked.extend(ranges)
        return [memoryview(content)[start:stop] for start, stop in ranges]

    blocks = Blocks(len(content), b"", fetch)
    for at in (0, 100, 5_000, BLOCK_BYTES - 10):
        assert len(blocks.read([(at, at + 10)])[0]) == 10
    assert asked == [(0, BLOCK_BYTES)]
    blocks.read([(len(content) - 5, len(content))])
    tail = asked[1:]
    assert len(tail) == 4  # the whole end at once
    blocks.read([(len(content) - 3 * BLOCK_BYTES, len(content) - 3 * BLOCK_BYTES + 9)])
    assert asked[1:] == tail
    for number in range(KEPT):
        blocks.read([(number * BLOCK_BYTES, number * BLOCK_BYTES + 1)])
    assert len(blocks._kept) == KEPT
    before = len(asked)
    blocks.read([(0, SMALL_BYTES + 1)])
    assert asked[before:] == [(0, SMALL_BYTES + 1)]


def test_the_first_error_of_parallel_tasks_ends_them_without_waiting_for_the_others() -> None:
    never = threading.Event()
    done: list[int] = []

    def fail() -> None:
        raise Failed("at once")

    def tasks() -> list[Callable[[], None]]:
        return [lambda: never.wait(60) and None, fail, lambda: done.append(1)]

    with pytest.raises(Failed, match="at once"):
        in_parallel(tasks()[1:], 1)
    assert done == []
    in_parallel([lambda: done.append(2)] * 20, 4)
    assert done == [2] * 20
    never.set()


def test_pauses_grow_by_chance_within_bounds_and_obey_the_server() -> None:
    patience = Patience()
    for attempt, mean in ((1, 0.2), (3, 0.8), (20, 10.0)):
        assert all(0.5 * mean <= patience.pause(attempt) <= 1.5 * mean for _ in range(20))
    assert patience.pause(1, 7.0) == 7.0
    assert patience.pause(1, 3_600.0) == 10.0


def test_reasons_are_counted_without_their_numbers() -> None:
    ledger = Ledger()
    for stop in (10, 20):
        ledger.note(reason=f"the answer ended after 3 of {stop} bytes")
    ledger.note(reason="the server answered HTTP 503")
    assert ledger.so_far().reasons == {"the answer ended after N of N bytes": 2, "the server answered HTTP 503": 1}
