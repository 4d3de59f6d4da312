"""Windows that are filled ahead: what it costs to know that one is complete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from mlaas4hep.data import filling as module
from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.filling import Filling
from mlaas4hep.data.plan import Chunk, Plan
from mlaas4hep.data.reads import ReadRows
from mlaas4hep.data.rows import ENTRY, Rows


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
