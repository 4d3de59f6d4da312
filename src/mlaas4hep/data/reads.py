"""What a thread reads, on its way into a window: events still as columns, or rows that were kept on disk.

Invariant: both give the same rows; only the work left to do differs. (`mlaas4hep.data.ragged` has a third kind.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.rows import ENTRY, Beside, Rows, Writer
from mlaas4hep.spec.padding import Assembled

T = TypeVar("T", contravariant=True)
E = TypeVar("E", covariant=True)


class Read(Protocol[T, E]):
    """Some events of a file, M of them, on their way into slots ``T`` or beside them as ``E``."""

    @property
    def entries(self) -> NDArray[np.int64]:
        """Entry numbers in the file, int64 [M], rising."""

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which of them are delivered, bool [M]."""

    def part(self, low: int, high: int) -> Read[T, E]:
        """Events ``low`` to ``high`` of them."""
        ...

    def put(self, target: T, slots: NDArray[np.int64]) -> None:
        """Write those that are kept into their places; ``slots`` is int64 [M]."""

    def packed(self) -> E:
        """Those that are kept, on their own."""
        ...


ReadOfRows = Read[Rows, Rows]
AnyRead = Read[Any, Any]


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
    write: Writer

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
        self.write.table(self.rows, target.table, slots)
        self.write.beside(target, slots, Beside(self.kept, self.labels, self.weights, self.file, self.entries))

    def entry_names(self) -> NDArray[Any]:
        """File and entry of those that are kept, structured as of `mlaas4hep.data.rows.Rows`."""
        entries = np.empty(int(np.count_nonzero(self.kept)), dtype=ENTRY)
        entries["file"], entries["entry"] = self.file, self.entries[self.kept]
        return entries

    def packed(self) -> Rows:
        """See `Read.packed`."""
        rows = Rows.empty(int(np.count_nonzero(self.kept)), self.rows.width, lasting=False)
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
