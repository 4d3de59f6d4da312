"""Windows that are filled ahead: what it costs to know that one is complete."""

from __future__ import annotations

import itertools
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from mlaas4hep.data import filling as module
from mlaas4hep.data import rows as rows_module
from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.filling import Filling
from mlaas4hep.data.plan import Chunk, Plan
from mlaas4hep.data.reads import ReadRows
from mlaas4hep.data.rows import ENTRY, LentRows, Rows


class Counting(Counter[int]):
    """Counts how often it is looked at."""

    looks = 0

    def __getitem__(self, key: int) -> int:
        self.looks += 1
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[int]:
        for key in super().__iter__():
            self.looks += 1
            yield key


def rows_of(chunk: Chunk) -> Iterator[ReadRows]:
    size = chunk.stop - chunk.start
    entries = np.empty(size, ENTRY)
    entries["file"], entries["entry"] = chunk.file, np.arange(chunk.start, chunk.stop)
    yield ReadRows(Rows(np.zeros((size, 1), np.float32), np.zeros(size, np.int64), np.ones(size), entries))


@pytest.mark.parametrize("threads", [0, 2])
def test_knowing_that_a_window_is_complete_costs_the_same_for_each_of_many(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Counter", Counting)

    def looks(windows: int) -> float:
        file = FileEntry(0, 0, 0, "f", "t", np.arange(0, 10 * windows + 1, 10))
        plan = Plan((file,), 10, shuffle=True, chunk_entries=10)
        with Filling(plan, rows_of, slots=lambda size: Rows.empty(size, 1), threads=threads) as filling:
            counter = filling._shared._unfinished
            seen = sum(len(window) for window in filling)
        assert seen == 10 * windows
        assert isinstance(counter, Counting)
        return counter.looks / windows

    few, many = looks(20), looks(400)
    assert many < 3 * few


def _batches(rows: type[Rows], windows: int, *, size: int = 15) -> Iterator[Rows]:
    """Stretches of windows of 100, cut across windows as batches are."""
    file = FileEntry(0, 0, 0, "f", "t", np.arange(0, 100 * windows + 1, 50))
    plan = Plan((file,), 100, shuffle=True, chunk_entries=50)

    def numbered(chunk: Chunk) -> Iterator[ReadRows]:
        for read in rows_of(chunk):
            read.rows.table[:, 0] = read.rows.entries["entry"]
            yield read

    with Filling(plan, numbered, slots=lambda size: rows.empty(size, 1, lasting=False), threads=1) as filling:
        parts: list[Rows] = []
        for window in filling:
            start = 0
            while start < 100:
                stop = min(start + size - sum(map(len, parts)), 100)
                parts.append(window.pick(start, stop))
                start = stop
                if sum(map(len, parts)) == size:
                    batch, parts = Rows.concat(parts), []
                    yield batch


@pytest.mark.parametrize("keeps", [lambda _: False, lambda number: number % 10 == 3, lambda number: number % 20 == 19])
def test_lent_rows_stay_what_they_were_and_few_of_them_never_hold_all_windows(keeps: Callable[[int], bool]) -> None:
    kept = []
    for number, (lent, copied) in enumerate(zip(_batches(LentRows, 40), _batches(Rows, 40), strict=True)):
        np.testing.assert_array_equal(lent.table, copied.table)
        if keeps(number):
            kept.append(lent)
    for one in kept:
        np.testing.assert_array_equal(one.table[:, 0], one.entries["entry"])
    owners = {id(base): base.nbytes for base in (one.table.base for one in kept) if base is not None}
    assert len(owners) <= 4, "of 40 windows, those that were lent before it was seen that batches are kept"


def test_stretches_of_a_window_are_lent_without_a_copy() -> None:
    stretches = list(itertools.islice(_batches(LentRows, 2), 4))
    assert len({id(one.table.base) for one in stretches}) == 1


def test_lending_to_a_loop_takes_no_table_more_than_copying(monkeypatch: pytest.MonkeyPatch) -> None:
    tables: list[weakref.ref[Any]] = []
    most = 0
    fresh = rows_module._recycled

    def counted(size: int, width: int) -> Any:
        nonlocal most
        found = fresh(size, width)
        tables.append(weakref.ref(found.base))
        most = max(most, sum(one() is not None for one in tables))
        return found

    monkeypatch.setattr(rows_module, "_recycled", counted)
    for _ in _batches(LentRows, 20):
        pass
    assert len(tables) >= 19
    assert most == 2, "one that is read, one that is filled"
