"""What a thread reads, on its way into a window: events still as columns, or rows that were kept on disk.

Invariant: both give the same rows; only the work left to do differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.rows import Rows, Write
from mlaas4hep.spec.padding import Assembled


class Read(Protocol):
    """Some events of a file, M of them."""

    @property
    def entries(self) -> NDArray[np.int64]:
        """Entry numbers in the file, int64 [M], rising."""

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which of them are delivered, bool [M]."""

    def part(self, low: int, high: int) -> Read:
        """Events ``low`` to ``high`` of them."""

    def put(self, target: Rows, slots: NDArray[np.int64]) -> None:
        """Write those that are kept into their places; ``slots`` is int64 [M]."""

    def packed(self) -> Rows:
        """Those that are kept, as rows of their own."""


@dataclass(frozen=True)
class ReadColumns:
    """Events whose variables are computed, not yet rows.

    Parameters
    ----------
    file
        Number of the file in the catalogue.
    entries
        int64 [M].
    rows
        Their variables, and which of them are kept.
    labels
        int64 [M].
    weights
        float64 [M].
    write
        Puts rows into a table.
    """

    file: int
    entries: NDArray[np.int64]
    rows: Assembled
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    write: Write

    @property
    def kept(self) -> NDArray[np.bool_]:
        """See `Read.kept`."""
        return self.rows.kept

    def part(self, low: int, high: int) -> ReadColumns:
        """See `Read.part`."""
        if (low, high) == (0, len(self.entries)):
            return self
        at = slice(low, high)
        rows = self.rows.part(low, high)
        return ReadColumns(self.file, self.entries[at], rows, self.labels[at], self.weights[at], self.write)

    def put(self, target: Rows, slots: NDArray[np.int64]) -> None:
        """See `Read.put`."""
        self.write(self.rows, target.table, slots)
        everything = bool(self.kept.all())
        where = slots if everything else slots[self.kept]
        target.labels[where] = self.labels if everything else self.labels[self.kept]
        target.weights[where] = self.weights if everything else self.weights[self.kept]
        target.entries["file"][where] = self.file
        target.entries["entry"][where] = self.entries if everything else self.entries[self.kept]

    def packed(self) -> Rows:
        """See `Read.packed`."""
        rows = Rows.empty(int(np.count_nonzero(self.kept)), self.rows.width)
        self.put(rows, np.cumsum(self.kept, dtype=np.int64) - 1)
        return rows


@dataclass(frozen=True)
class ReadRows:
    """Rows as they were kept, all of them delivered."""

    rows: Rows

    @property
    def entries(self) -> NDArray[np.int64]:
        """See `Read.entries`."""
        entries: NDArray[np.int64] = self.rows.entries["entry"]
        return entries

    @property
    def kept(self) -> NDArray[np.bool_]:
        """See `Read.kept`."""
        return np.ones(len(self.rows), dtype=np.bool_)

    def part(self, low: int, high: int) -> ReadRows:
        """See `Read.part`."""
        return ReadRows(self.rows.view(low, high))

    def put(self, target: Rows, slots: NDArray[np.int64]) -> None:
        """See `Read.put`."""
        target.put(slots, self.rows)

    def packed(self) -> Rows:
        """See `Read.packed`."""
        return self.rows
