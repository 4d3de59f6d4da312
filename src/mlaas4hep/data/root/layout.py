"""What is known of a TTree before any event is read: columns, baskets, and how values lie in them.

Invariant: a `TTreeTable` is a value. It holds no file, may be shared by threads and sent to other processes, and is the
same whoever built it from the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.source import ColumnInfo

HEAD_BYTES = 10
"""Before each ``std::vector``: its length (4 bytes), its version (2), and its number of elements (4)."""
MEMBERWISE = 0x4000
"""Bit in the version of a vector: its objects are stored first member first."""


@dataclass(frozen=True)
class Layout:
    """How the values of a branch lie in its baskets.

    Parameters
    ----------
    element
        One element as stored (big-endian): a number, or a record of numbers.
    jagged
        Whether an event has a list of elements, not one.
    header
        Bytes before the elements of an event: 10 for a ``std::vector``.
    counter
        Path of the branch with the number of elements of each event; None where only the baskets say it.
    """

    element: np.dtype[Any]
    jagged: bool = False
    header: int = 0
    counter: str | None = None


@dataclass(frozen=True)
class ColumnPlan:
    """Which part of a branch is a column.

    Parameters
    ----------
    branch
        Path of the branch.
    member
        Field of its elements, with slashes where records hold records; None where an element is a number.
    shape
        Lengths of the fixed arrays within an element.
    dtype
        Type of a value in memory.
    """

    branch: str
    member: str | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Embedded:
    """A basket that stands in the tree itself, because the writer never flushed it."""

    data: bytes
    border: int
    """Where values end and list offsets begin, in bytes."""
    keylen: int = 0
    """What was added to each offset."""


@dataclass(frozen=True)
class Branch:
    """Where the baskets of a branch are.

    Parameters
    ----------
    path
        Names from the tree down, with slashes.
    entries
        int64 [B + 1]: basket b holds the entries from ``entries[b]`` to ``entries[b + 1]`` (excluded).
    seeks, stored
        int64 [B - E]: first byte in the file and number of bytes, its key included, of the baskets outside the tree.
    embedded
        The last E baskets.
    layout
        None where uproot must read it.
    inflated_bytes
        Of all its baskets, as the file says.
    """

    path: str
    entries: NDArray[np.int64]
    seeks: NDArray[np.int64]
    stored: NDArray[np.int64]
    embedded: tuple[Embedded, ...]
    layout: Layout | None
    inflated_bytes: int

    def baskets(self, start: int, stop: int) -> range:
        """Numbers of the baskets that hold some of the entries from ``start`` to ``stop`` (excluded)."""
        if stop <= start:
            return range(0)
        first = int(self.entries.searchsorted(start, side="right")) - 1
        return range(first, int(self.entries.searchsorted(stop, side="left")))

    def embedded_bytes(self, start: int, stop: int) -> int:
        """Bytes of such baskets that stand in the tree itself."""
        free = len(self.seeks)
        return sum(len(self.embedded[number - free].data) for number in self.baskets(start, stop) if number >= free)


@dataclass(frozen=True)
class TTreeTable:
    """Reading table of a TTree.

    Parameters
    ----------
    name
        Of the tree, with its folders.
    num_entries
        Events.
    columns
        What can be asked for, and what cannot and why.
    plans
        By name of a column that can be read.
    branches
        By path.
    clusters
        int64 [C + 1]: entries at which the baskets of all readable branches end together.
    packing
        Bytes in the file for each byte of the tree's own record, in which embedded baskets are.
    """

    name: str
    num_entries: int
    columns: Mapping[str, ColumnInfo]
    plans: Mapping[str, ColumnPlan]
    branches: Mapping[str, Branch]
    clusters: NDArray[np.int64]
    packing: float = 1.0
    nbytes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nbytes", sum(map(_memory, self.branches.values())) + 800 * len(self.columns))

    def paths(self, names: Iterable[str]) -> list[str]:
        """Paths of the branches behind some columns and of their counters, counters first, each once."""
        own = [self.plans[name].branch for name in names]
        layouts = [self.branches[path].layout for path in own]
        counters = [layout.counter for layout in layouts if layout is not None and layout.counter is not None]
        return list(dict.fromkeys([*counters, *own]))

    def ranges(self, names: Sequence[str], start: int, stop: int) -> list[tuple[int, int]]:
        """Byte ranges of all baskets that a read needs, in the order of the file: for plans and reading ahead."""
        found = [
            (int(branch.seeks[number]), int(branch.seeks[number] + branch.stored[number]))
            for branch in map(self.branches.__getitem__, self.paths(names))
            for number in branch.baskets(start, stop)
            if number < len(branch.seeks)
        ]
        return sorted(found)


def _memory(branch: Branch) -> int:
    return 24 * len(branch.entries) + sum(len(one.data) for one in branch.embedded) + 600
