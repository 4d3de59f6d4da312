"""Lists of values to tensors of fixed length: sorting, cutting, filling up with NaN.

`Assembled` is what the preprocessor hands over once every variable is computed: columns side by side. `write_rows` puts
them into the rows of one table, the flat view of the contract. Invariant: a row depends on its event alone; where it is
written, and by which code, changes no bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Jagged


@dataclass(frozen=True)
class Collection:
    """Columns of one collection, before padding.

    Parameters
    ----------
    name
        Of the input group.
    length
        K.
    lists
        F columns with the same counts, M events each.
    order
        int64: position of the value that comes next, over all events; None keeps the order of the lists.
    """

    name: str
    length: int
    lists: list[Jagged]
    order: NDArray[np.int64] | None

    def part(self, low: int, high: int) -> Collection:
        """Events ``low`` to ``high`` (excluded), sharing memory where it can."""
        first, last = self.lists[0].offsets[[low, high]].tolist()
        offsets = self.lists[0].offsets[low : high + 1] - first
        lists = [Jagged(offsets, one.values[first:last]) for one in self.lists]
        order = None if self.order is None else self.order[first:last] - first
        return Collection(self.name, self.length, lists, order)


@dataclass(frozen=True)
class Assembled:
    """Every variable of M events, computed; some of the events may not be wanted.

    Parameters
    ----------
    index
        int64 [M]: which of the events given they are, rising; None where they are all of them.
    kept
        bool [M]: which of them pass; the others have values that mean nothing.
    flats
        By channel of the group ``event``, [M].
    collections
        In the order of the contract.
    """

    index: NDArray[np.int64] | None
    kept: NDArray[np.bool_]
    flats: list[NDArray[Any]]
    collections: list[Collection]

    @property
    def width(self) -> int:
        """Numbers an event."""
        return len(self.flats) + sum(one.length * len(one.lists) for one in self.collections)

    def part(self, low: int, high: int) -> Assembled:
        """Events ``low`` to ``high`` (excluded) of them, sharing memory."""
        return Assembled(
            None if self.index is None else self.index[low:high],
            self.kept[low:high],
            [one[low:high] for one in self.flats],
            [one.part(low, high) for one in self.collections],
        )

    def lengths(self) -> dict[str, NDArray[np.int64]]:
        """By collection, the number of objects of each event that passes, before truncation."""
        return {one.name: one.lists[0].counts[self.kept] for one in self.collections}


def write_rows(rows: Assembled, table: NDArray[np.float32], slots: NDArray[np.int64]) -> None:
    """Put each event that is kept into its row: the flat view, ``event`` first, then each collection slot by slot.

    Parameters
    ----------
    table
        float32 [W, width], written to.
    slots
        int64 [M]: row of each event; those of events that are not kept are not looked at.
    """
    at = 0
    taken = slots[rows.kept]
    with np.errstate(over="ignore"):
        for values in rows.flats:
            table[taken, at] = values[rows.kept]
            at += 1
        for one in rows.collections:
            width = one.length * len(one.lists)
            padded = pad(one.lists, length=one.length, order=one.order)
            table[taken, at : at + width] = padded.reshape(len(padded), width)[rows.kept]
            at += width


def pad(lists: list[Jagged], *, length: int, order: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """Lists of equal lengths side by side, cut and filled up with NaN to a fixed length.

    Parameters
    ----------
    lists
        F columns with the same counts, N events each.
    length
        K.
    order
        int64 [M]: position of the value that comes next, over all events; None keeps the order of the lists.

    Returns
    -------
    float32 [N, K, F].
    """
    counts, offsets = lists[0].counts, lists[0].offsets
    num_entries, num_values = len(counts), len(lists[0].values)
    padded = np.full((num_entries * length, len(lists)), np.nan, dtype=np.float32)
    # Row of the padded table for each value: event * K + slot, where slot = position - start of the list.
    target = np.arange(num_values) + np.repeat(np.arange(num_entries) * length - offsets[:-1], counts)
    source: slice | NDArray[Any] = slice(None) if order is None else order
    if num_values and counts.max() > length:
        slot = np.arange(num_values) - np.repeat(offsets[:-1], counts)
        kept = slot < length
        target = target[kept]
        source = np.flatnonzero(kept) if order is None else order[kept]
    with np.errstate(over="ignore"):
        for channel, column in enumerate(lists):
            padded[target, channel] = column.values[source]
    return padded.reshape(num_entries, length, len(lists))


def sorted_order(key: Jagged, like: Jagged) -> NDArray[np.int64] | None:
    """Position of each list's values in rising order of the key, NaN last, ties as they stand; None if in order."""
    if not np.array_equal(key.offsets, like.offsets):
        raise DataError(f"the sort key has other list lengths than the collection: {first_difference(key, like)}")
    values = key.values
    event = np.repeat(np.arange(len(key)), key.counts)
    with np.errstate(invalid="ignore"):
        falling = (values[1:] < values[:-1]) | (np.isnan(values[:-1]) & ~np.isnan(values[1:]))
    if not np.any(falling & (event[1:] == event[:-1])):
        return None
    return _argsort_lists(key, event)


def _argsort_lists(key: Jagged, event: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions that sort each list by itself; stable, NaN last."""
    counts, starts = key.counts, key.offsets[:-1]
    longest = int(counts.max())
    if len(key) * longest > 8 * len(key.values) + 1_000_000:
        # A few very long lists: the table below would be mostly padding.
        return np.lexsort((key.values, event))
    # One row a list, padded with what sorts last, sorts 4 to 6 times faster than one sort over all values. It keeps the
    # type of the key (a float would take neighbouring whole numbers above 2^53 for equal); a value that equals the
    # padding stays before it, since the sort is stable.
    table = np.full((len(key), longest), _sorts_last(key.dtype), dtype=key.dtype)
    table[event, np.arange(len(event)) - np.repeat(starts, counts)] = key.values
    order = np.argsort(table, axis=1, kind="stable") + starts[:, np.newaxis]
    return order[np.arange(longest) < counts[:, np.newaxis]]


def _sorts_last(dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "f":
        return np.nan
    return True if dtype.kind == "b" else np.iinfo(dtype).max


def first_difference(one: Jagged, other: Jagged) -> str:
    """Where two columns have lists of different lengths, in words."""
    event = int(np.flatnonzero(one.counts != other.counts)[0])
    return f"differ first in event {event} of this block: {one.counts[event]} and {other.counts[event]} values"


def truncated_objects(lengths: NDArray[np.int64], length: int) -> int:
    """Objects beyond the first K, over all events."""
    return int(np.maximum(lengths - length, 0).sum())
