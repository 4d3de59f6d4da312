"""Damaged files: every row that comes is right, and every one that does not come is accounted for.

A part of the corpus, in this process; ``python -m benchmarks.mutations`` streams all of it, each file in a process of
its own, and measures time and memory too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest

from benchmarks.apart import apart
from benchmarks.damage.bases import BASES
from benchmarks.damage.corpus import BLIND, DAMAGES, make_corpus, write_good
from benchmarks.damage.judge import ACCOUNTED, IDENTICAL, WRONG, Finding, good_rows, judge
from benchmarks.memory import PeakSince

EACH = 6
"""Every so manieth damage of a kind is tried, and these."""
ALWAYS = frozenset(
    {
        "zlib/key_list_objlen_huge",
        "zlib/tree_object_bit",
        "zlib/baskets_of_two_flat_branches_swapped",
        "zlib/counter_huge",
        "zlib/counter_moved",
        "zlib/list_offset_beyond",
        "zlib/values_garbage",
        "zlib/seek_beyond_the_end",
        "rntuple/cluster_overlaps",
        "rntuple/page_bit",
        "rntuple/list_end_beyond",
    }
)
BOMBS = (
    "zlib/bomb_in_lists",
    "zlib/bomb_that_the_branch_believes",
    "zlib/bomb_in_the_tree",
    "rntuple/header_bomb",
    "rntuple/bomb_behind_right_lengths",
)


rows_of = lru_cache(good_rows)


@dataclass(frozen=True)
class Bench:
    """Good files, their rows, and a place for bad ones."""

    folder: Path
    good: dict[str, Path]

    def judged(self, name: str, on_error: str = "skip", *, blind: bool = False) -> Finding:
        """What becomes of a case."""
        with self.damaged(name, blind=blind) as path:
            return self.look(path, name.partition("/")[0], on_error)

    @contextmanager
    def damaged(self, name: str, *, blind: bool = False) -> Iterator[Path]:
        """The file of a case."""
        base = name.partition("/")[0]
        damages = BLIND if blind else DAMAGES
        [case] = make_corpus(self.folder / "bad", {base: self.good[base]}, names=[name], damages=damages)
        yield case.path
        case.path.unlink()

    def look(self, path: Path, base: str, on_error: str) -> Finding:
        """Stream a file beside its companion."""
        kind = BASES[base]
        companion = self.folder / "good" / f"companion_{kind}.root"
        rows = {
            str(path): rows_of(str(self.good[base]), kind),
            str(companion): rows_of(str(companion), kind),
        }
        return judge(str(path), str(companion), kind, on_error, rows)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("corpus")
    return Bench(folder, write_good(folder / "good"))


def some_of(base: str) -> list[str]:
    """Names of the cases of a good file that are tried here."""
    names = [f"{base}/{damage}" for damage in DAMAGES[base]]
    return [name for index, name in enumerate(names) if (index % EACH == 0 or name in ALWAYS) and name not in BOMBS]


def test_the_corpus_is_large_and_its_names_are_different_damage() -> None:
    assert sum(map(len, DAMAGES.values())) >= 200
    assert ALWAYS | set(BOMBS) <= {f"{base}/{damage}" for base, found in DAMAGES.items() for damage in found}


@pytest.mark.parametrize("base", BASES)
def test_a_file_taken_apart_and_put_together_again_reads_as_before(bench: Bench, base: str) -> None:
    assert bench.look(bench.good[base], base, "stop").verdict == IDENTICAL


@pytest.mark.parametrize("base", BASES)
def test_damage_gives_no_wrong_row_and_loses_none_silently(bench: Bench, base: str) -> None:
    found = {name: bench.judged(name) for name in some_of(base)}
    assert {name: one.reason for name, one in found.items() if one.verdict not in (IDENTICAL, ACCOUNTED)} == {}
    assert sum(one.verdict == ACCOUNTED for one in found.values()) >= len(found) // 2


@pytest.mark.parametrize("name", ["zlib/values_bit", "zlib/cut_at_a_third", "rntuple/page_bit"])
def test_damage_stops_the_stream_with_the_name_of_the_file_where_nothing_may_be_left_out(
    bench: Bench, name: str
) -> None:
    found = bench.judged(name, "stop")
    assert found.verdict == ACCOUNTED
    assert name.replace("/", "_") in found.reason


def test_a_basket_of_another_branch_is_told_by_its_name(bench: Bench) -> None:
    found = bench.judged("zlib/baskets_of_two_flat_branches_swapped")
    assert found.quarantined == 4_000
    assert "belongs to the branch" in found.reason


def test_bombs_do_not_go_off(bench: Bench) -> None:
    """Each would inflate to 256 MB or more; in a process of their own, whose memory is measured."""
    found = apart(120, measured, bench, BOMBS)
    assert {name: one.verdict for name, (one, _) in found.items()} == dict.fromkeys(BOMBS, ACCOUNTED)
    assert max(peak_mb for _, peak_mb in found.values()) < 150


def measured(bench: Bench, names: Sequence[str]) -> dict[str, tuple[Finding, float]]:
    """Verdicts, and the most memory that each took."""
    found = {}
    for name in names:
        with bench.damaged(name) as path, PeakSince() as memory:
            finding = bench.look(path, name.partition("/")[0], "skip")
        found[name] = finding, memory.peak_mb
    return found


@pytest.mark.parametrize("name", [f"{base}/{damage}" for base, found in BLIND.items() for damage in found])
def test_the_judge_sees_rows_that_differ_where_nothing_in_the_file_tells(bench: Bench, name: str) -> None:
    assert bench.judged(name, blind=True).verdict == WRONG
