"""Events as rows of one table, and the windows that they are put into.

A row is the flat view of the contract: ``event`` first, then each collection slot by slot. Invariant: the arrays of a
window of rows are allocated once and written in place, so memory is known before the first event is read. (Lists in
their true lengths have no such table: `mlaas4hep.data.ragged` puts them into windows too.)
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.hashing import permuted
from mlaas4hep.data.recycled import recycled
from mlaas4hep.spec import padding
from mlaas4hep.spec.features import FeatureSpec
from mlaas4hep.spec.padding import Assembled

ENTRY = np.dtype([("file", np.int32), ("entry", np.int64)])
# Label, weight, entry, and whether the row is there.
SIDE_BYTES = 8 + 8 + ENTRY.itemsize + 1
# Compiling takes seconds, once a machine: not worth it for fewer values.
_WORTH_COMPILING = 20_000_000

Permute = Callable[[NDArray[np.int64], int, int], NDArray[np.int64]]

E = TypeVar("E")


class Slots(Protocol[E]):
    """Where the events of a window are put, each into a slot of its own; ``E`` is events side by side."""

    def begin(self) -> None:
        """Be as if nothing had been put here."""

    def put(self, slots: NDArray[np.int64], events: E) -> None:
        """Put events into slots; may be called by several threads at a time, never for the same slot."""

    def take(self, index: slice | NDArray[np.int64]) -> E:
        """The events of some slots, in that order, copied."""
        ...


S = TypeVar("S", bound=Slots[Any])


@dataclass
class Rows:
    """Events side by side, n of them.

    Parameters
    ----------
    table
        float32 [n, width].
    labels
        int64 [n].
    weights
        float64 [n].
    entries
        Structured [n]: number of the file in the catalogue, entry in it.
    """

    table: NDArray[np.float32]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    entries: NDArray[Any]

    @classmethod
    def empty(cls, size: int, width: int, *, lasting: bool = True) -> Rows:
        """Rows to be written to; those that are not ``lasting`` may lie in memory that was used before."""
        return cls(
            np.empty((size, width), dtype=np.float32) if lasting else _recycled(size, width),
            np.empty(size, dtype=np.int64),
            np.empty(size, dtype=np.float64),
            np.empty(size, dtype=ENTRY),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def begin(self) -> None:
        """See `Slots.begin`: what is not written again is not looked at."""

    def take(self, index: slice | NDArray[np.int64]) -> Rows:
        """Some rows, copied."""
        if isinstance(index, slice):
            sides = self.labels[index].copy(), self.weights[index].copy(), self.entries[index].copy()
            return Rows(self.table[index].copy(), *sides)
        # ``take`` is three times faster than an index in brackets.
        sides = self.labels.take(index), self.weights.take(index), self.entries.take(index)
        return Rows(self.table.take(index, axis=0), *sides)

    def view(self, low: int, high: int) -> Rows:
        """Rows ``low`` to ``high``, sharing memory."""
        at = slice(low, high)
        return Rows(self.table[at], self.labels[at], self.weights[at], self.entries[at])

    @classmethod
    def concat(cls, parts: list[Rows]) -> Rows:
        """Join rows."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([one.table for one in parts]),
            np.concatenate([one.labels for one in parts]),
            np.concatenate([one.weights for one in parts]),
            np.concatenate([one.entries for one in parts]),
        )

    def put(self, slots: NDArray[np.int64], rows: Rows) -> None:
        """Write rows into places of their own."""
        self.table[slots] = rows.table
        self.labels[slots] = rows.labels
        self.weights[slots] = rows.weights
        self.entries[slots] = rows.entries


def _recycled(size: int, width: int) -> NDArray[np.float32]:
    return np.frombuffer(recycled(4 * size * width), np.float32).reshape(size, width)


@dataclass
class LentRows(Rows):
    """Rows of a window that are not copied when they are taken in stretches, but for the last two.

    What was lent is the taker's own: the next window gets another table, the same memory if all was let go of. A batch
    that is kept keeps its whole window; whoever keeps some for longer gets copies from then on, so that a few batches
    put aside never hold all that was read.
    """

    _lent: bool = field(default=False, init=False)
    _lends: bool = field(default=True, init=False)
    _before: weakref.ref[Any] | None = field(default=None, init=False)

    def begin(self) -> None:
        """See `Slots.begin`."""
        if not self._lent:
            return
        if self._before is not None and self._before() is not None:
            self._lends = False
        size, width = self.table.shape
        self._before, self._lent = weakref.ref(self.table.base), False
        del self.table
        self.table = _recycled(size, width)

    def take(self, index: slice | NDArray[np.int64]) -> Rows:
        """See `Rows.take`.

        When the window is given back its last stretches are still looked at: the one before in the loop of whoever asks
        for the next, the last one in a batch with rows of the next window. Lent, they would cost another table.
        """
        if not self._lends or not isinstance(index, slice) or 2 * index.stop - index.start >= len(self):
            return super().take(index)
        self._lent = True
        sides = self.labels[index].copy(), self.weights[index].copy(), self.entries[index].copy()
        return Rows(self.table[index], *sides)


class Writer(NamedTuple):
    """What puts events into rows: their variables into ``table``, everything else ``beside``."""

    table: Callable[[Assembled, NDArray[np.float32], NDArray[np.int64]], None]
    """As `mlaas4hep.spec.padding.write_rows`."""
    beside: Callable[[Rows, NDArray[np.int64], Beside], None]
    """As `write_beside`."""


class Beside(NamedTuple):
    """What stands beside the variables of M events: bool, int64 and float64 [M], their file, and int64 [M]."""

    kept: NDArray[np.bool_]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    file: int
    entries: NDArray[np.int64]


def write_beside(rows: Rows, slots: NDArray[np.int64], beside: Beside) -> None:
    """Put labels, weights, files and entries of the events that are kept into their rows; ``slots`` is int64 [M]."""
    kept, labels, weights, file, entries = beside
    everything = bool(kept.all())
    where = slots if everything else slots[kept]
    rows.labels[where] = labels if everything else labels[kept]
    rows.weights[where] = weights if everything else weights[kept]
    rows.entries["file"][where] = file
    rows.entries["entry"][where] = entries if everything else entries[kept]


class Window(Generic[S]):
    """Events in their final order, with holes where some were cut away.

    Parameters
    ----------
    capacity
        Events it can hold.
    rows
        So many slots.
    """

    def __init__(self, capacity: int, rows: S) -> None:
        self.rows = rows
        self.kept = np.zeros(capacity, dtype=np.bool_)
        self.number = -1
        self.size = 0
        self._order: slice | NDArray[np.int64] = slice(0)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def begin(self, number: int) -> None:
        """Become the window of that number, with nothing in it."""
        self.number = number
        self.kept[:] = False
        self.rows.begin()

    def seal(self, size: int) -> None:
        """Every event that will come is there; ``size`` slots were given out."""
        self.size = size
        self._length = int(np.count_nonzero(self.kept))
        self._order = slice(size) if self._length == size else np.flatnonzero(self.kept)

    def before(self, slot: int) -> int:
        """How many of the events that are there stand in front of a slot."""
        return min(slot, self.size) if isinstance(self._order, slice) else int(np.searchsorted(self._order, slot))

    def behind(self, event: int) -> int:
        """The slot after an event, counted among those that are there."""
        return (event if isinstance(self._order, slice) else int(self._order[event])) + 1

    def pick(self, start: int, stop: int) -> Any:
        """Events ``start`` to ``stop`` of those that are there, copied out."""
        if isinstance(self._order, slice):
            return self.rows.take(slice(start, stop))
        return self.rows.take(self._order[start:stop])


@dataclass(frozen=True)
class Cut:
    """A group of inputs as columns of a table of rows: [n, stop - start], or [n, K, F] where there is a ``shape``."""

    start: int
    stop: int
    shape: tuple[int, ...]

    def of(self, table: Any) -> Any:
        """The group in a table (of numpy, or a tensor of torch), as a view of it."""
        part = table[:, self.start : self.stop]
        return part.reshape(len(table), *self.shape) if self.shape else part


def cuts_of(features: FeatureSpec, *, targets: int = 0) -> tuple[dict[str, Cut], Cut]:
    """Where the groups stand in a row, and the targets.

    So many ``targets`` stand behind the variables of ``event``, or first where that group is not there.
    """
    first = sum(group.width for group in features.inputs if group.length is None)
    found, at = {}, 0
    for group in features.inputs:
        start = at if group.length is None else at + targets
        shape = () if group.length is None else (group.length, len(group.variables))
        found[group.name] = Cut(start, start + group.width, shape)
        at += group.width
    return found, Cut(first, first + targets, ())


def pays_compiling(values: int) -> bool:
    """Whether so many values an epoch are worth the seconds that compiling takes, once a machine."""
    return values >= _WORTH_COMPILING


def writer(values: int) -> Writer:
    """What writes rows: compiled where that pays, numpy's otherwise. Both give the same bits."""
    return _compiled() if pays_compiling(values) else Writer(padding.write_rows, write_beside)


def permuter(values: int) -> Permute:
    """What permutes: compiled where that pays, numpy's otherwise. Both give the same."""
    if not pays_compiling(values):
        return permuted
    from mlaas4hep.data import kernel

    return kernel.permuted


@lru_cache(maxsize=1)
def _compiled() -> Writer:
    from mlaas4hep.data import packing

    return Writer(packing.write_rows, packing.write_beside)
