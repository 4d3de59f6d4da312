import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.apart import apart
from benchmarks.peers import environments
from benchmarks.peers.environments import ask, reading
from benchmarks.streaming import ratios
from benchmarks.turns import Rate, Reading, Turns, Unavailable, timed


def given(name: str, *rates: float) -> Reading:
    left = list(rates)
    return lambda: {name: Rate(left.pop(0), 1.0)}


def missing() -> Reading:
    raise Unavailable("not on this machine")


def test_a_figure_is_the_median_of_its_repetitions() -> None:
    turns = Turns()
    turns.add(("a",), lambda: given("a", 1.0, 50.0, 3.0))
    turns.run(3)
    assert turns.medians() == {"a": 3}


def test_what_cannot_be_measured_is_null_with_a_reason_and_the_others_go_on() -> None:
    turns = Turns()
    turns.add(("a",), lambda: given("a", 1.0, 2.0, 3.0))
    turns.add(("b", "c"), missing)
    turns.run(3)
    assert turns.medians() == {"a": 2, "b": None, "c": None}
    assert turns.reasons == dict.fromkeys(("b", "c"), "not on this machine")


def test_a_reading_that_fails_in_the_middle_gives_no_figure_from_what_it_did_before() -> None:
    answers: list[Mapping[str, Rate]] = [{"a": Rate(1.0, 1.0)}]

    def measure() -> Mapping[str, Rate]:
        if not answers:
            raise Unavailable("gone")
        return answers.pop()

    turns = Turns()
    turns.add(("a",), lambda: measure)
    turns.run(3)
    assert turns.medians() == {"a": None}


def test_each_pass_is_told_its_number() -> None:
    seen: list[int] = []

    def read(number: int) -> int:
        seen.append(number)
        return 10

    assert set(timed("a", read, passes=3)()) == {"a"}
    assert seen == [0, 1, 2]


def test_ratios_are_given_where_both_were_measured() -> None:
    assert ratios({"stream_shuffled_eps": 6.0, "raw_uproot_eps": 2.0, "weaver_eps": None}) == {"shuffled_raw": 3.0}


def test_a_peer_that_cannot_be_imported_is_unavailable_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No module named 'weaver'"):
        ask("weaver_bulk.py", Path(sys.executable), {}, limit_s=60)


def test_a_peer_that_reads_other_events_is_no_peer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environments, "interpreter", lambda name, folder: Path(sys.executable))
    answer = {"rates": {"weaver_eps": [5.0, 1.0]}, "check": {"events": 10, "sum": 1.5}}
    monkeypatch.setattr(environments, "ask", lambda *_, **__: answer)
    settings = {"folder": tmp_path, "limit_s": 1.0}
    assert reading("weaver", "weaver_bulk.py", {}, expected={"events": 10, "sum": 1.5}, **settings)() == {
        "weaver_eps": Rate(5.0, 1.0)
    }
    with pytest.raises(Unavailable, match=r"sum is 1\.5, ours is 1\.6"):
        reading("weaver", "weaver_bulk.py", {}, expected={"events": 10, "sum": 1.6}, **settings)()


def test_a_function_apart_gives_its_value_or_says_how_it_failed() -> None:
    assert apart(60, divmod, 7, 2) == (3, 1)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        apart(60, divmod, 7, 0)


def test_a_function_apart_that_hangs_is_ended() -> None:
    with pytest.raises(TimeoutError, match="sleep took longer than 1 s"):
        apart(1, time.sleep, 60)
