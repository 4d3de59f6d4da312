"""Inflated baskets to columns: byte order, list offsets, members of records.

Lists have their lengths twice in a file: in a counter branch and in the basket's own offsets. Invariant: both agree
before a value is copied, so that no announced length ever reaches beyond the bytes that are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.root.baskets import Basket
from mlaas4hep.data.root.blame import DamageError
from mlaas4hep.data.root.layout import ColumnPlan, Layout
from mlaas4hep.spec.columns import Column, Jagged, Nested

_WORTH_COMPILING = 10_000
"""Entries of a basket; shorter ones are compared as fast by numpy."""


class Counts:
    """Numbers of elements of the entries from ``first`` on, as a counter branch has them.

    Parameters
    ----------
    first
        Entry of the first number.
    counts
        int64 [M].
    most
        No list can be longer.

    Raises
    ------
    DamageError
        A number is negative or larger than ``most``.
    """

    def __init__(self, first: int, counts: NDArray[np.int64], most: int) -> None:
        if len(counts) and not 0 <= int(counts.min()) <= int(counts.max()) <= most:
            wrong = int(np.argmax((counts < 0) | (counts > most)))
            raise DamageError(f"entry {first + wrong} has a list of {int(counts[wrong])} values")
        self._first = first
        self._ends = np.zeros(len(counts) + 1, dtype=np.int64)
        np.cumsum(counts, out=self._ends[1:])
        self._spans: dict[tuple[int, int], NDArray[np.int64]] = {}

    def offsets(self, start: int, stop: int) -> NDArray[np.int64]:
        """int64 [stop - start + 1], from 0: where the elements of each entry begin. One array for all who ask."""
        found = self._spans.get((start, stop))
        if found is None:
            part = self._ends[start - self._first : stop - self._first + 1]
            found = self._spans[start, stop] = part - part[0]
        return found

    def total(self, start: int, stop: int) -> int:
        """Elements of some entries."""
        return int(self._ends[stop - self._first] - self._ends[start - self._first])


class Part(NamedTuple):
    """What a basket gives to the entries asked for: ``elements`` [E], and for lists ``ends`` int64 [entries + 1]."""

    elements: NDArray[Any]
    ends: NDArray[np.int64] | None


def single_part(layout: Layout, basket: Basket, start: int, stop: int) -> Part:
    """One element an entry, whose number was checked when the basket was opened."""
    elements = np.frombuffer(basket.data, layout.element, basket.last - basket.first)
    return Part(elements[max(start - basket.first, 0) : stop - basket.first], None)


def list_part(layout: Layout, basket: Basket, start: int, stop: int, counts: Counts | None) -> Part:
    """A list of elements an entry.

    Raises
    ------
    DamageError
        Counter, offsets and bytes do not agree.
    """
    low, high = max(start, basket.first) - basket.first, min(stop, basket.last) - basket.first
    if layout.header:
        return _unwrapped(layout, basket, low, high)
    ends = _announced(layout, basket) if counts is None else _counted(layout, basket, counts)
    ends = ends[low : high + 1]
    first, last = int(ends[0]), int(ends[-1])
    return Part(np.frombuffer(basket.data, layout.element, last - first, first * layout.element.itemsize), ends)


def _counted(layout: Layout, basket: Basket, counts: Counts) -> NDArray[np.int64]:
    size, announced = layout.element.itemsize, counts.total(basket.first, basket.last)
    if announced * size != basket.border:
        raise DamageError(
            f"its counter '{layout.counter}' announces {announced} values of {size} bytes, but {basket.border} bytes "
            "are there"
        )
    own = basket.stored_offsets()
    if own is not None:
        ends = counts.offsets(basket.first, basket.last)
        if len(ends) < _WORTH_COMPILING or not _agree(own, ends, size, basket.keylen):
            differ = np.frombuffer(own, ">i4") != ends[:-1] * size + basket.keylen
            if differ.any():
                entry = basket.first + max(int(differ.argmax()) - 1, 0)
                raise DamageError(f"its list offsets and its counter '{layout.counter}' disagree at entry {entry}")
    return counts.offsets(basket.first, basket.last)


def _agree(stored: memoryview, ends: NDArray[np.int64], size: int, keylen: int) -> bool:
    from mlaas4hep.data.root.vectors import offsets_agree

    return bool(offsets_agree(np.frombuffer(stored, np.uint32), ends, size, keylen))


def _announced(layout: Layout, basket: Basket) -> NDArray[np.int64]:
    """Ends of the lists by the basket's own offsets."""
    ends, rest = np.divmod(_own_offsets(basket).astype(np.int64), layout.element.itemsize)
    if np.any(rest):
        entry = basket.first + int(np.argmax(rest != 0)) - 1
        raise DamageError(f"the bytes of entry {entry} are no whole number of values")
    return ends


def _unwrapped(layout: Layout, basket: Basket, low: int, high: int) -> Part:
    """Elements of the entries ``low`` to ``high`` of a basket, without the heads of their vectors."""
    from mlaas4hep.data.root.vectors import unwrap  # numba is not needed for other kinds

    starts = _own_offsets(basket)[low : high + 1]
    ends = np.empty(len(starts), np.int64)
    room = int(starts[-1]) - int(starts[0]) - layout.header * (len(starts) - 1)
    elements = np.empty(max(room, 0), np.uint8)
    raw = np.frombuffer(basket.data, np.uint8, basket.border)
    size, is_record = layout.element.itemsize, layout.element.names is not None
    fitting = int(unwrap(raw, starts, size, is_record, ends, elements))
    if fitting < high - low:
        raise DamageError(f"the vector of entry {basket.first + low + fitting} does not have the length it announces")
    return Part(elements.view(layout.element), ends)


def _own_offsets(basket: Basket) -> NDArray[np.int32]:
    own = basket.offsets()
    if own is None:
        raise DamageError("it has no list offsets, and its branch no counter")
    return own


def to_column(
    plan: ColumnPlan,
    layout: Layout,
    parts: Sequence[Part],
    entries: int,
    shared: NDArray[np.int64] | None,
    *,
    as_stored: bool = False,
) -> Column:
    """Join what baskets give to a column.

    Parameters
    ----------
    plan
        Which member of the elements.
    layout
        Of its branch.
    parts
        In the order of entries.
    entries
        How many there are.
    shared
        List offsets that are known already, so that columns of one counter share them.
    as_stored
        Numbers of one basket may stay where they are, in the byte order of the file.
    """
    values = _values(plan, parts, as_stored=as_stored)
    if not layout.jagged:
        return _fixed(values, plan.shape, entries)
    offsets = shared if shared is not None else _joined_ends(parts, entries)
    if not plan.shape:
        return Jagged(offsets, values)
    return Nested(offsets, _equal_lists(values, plan.shape[0], int(offsets[-1])))


def _values(plan: ColumnPlan, parts: Sequence[Part], *, as_stored: bool) -> NDArray[Any]:
    elements = [part.elements if plan.member is None else part.elements[plan.member] for part in parts]
    if len(elements) == 1:
        stays = as_stored and not plan.shape and elements[0].dtype.newbyteorder("=") == plan.dtype
        return elements[0] if stays else elements[0].astype(plan.dtype)
    values = np.empty((sum(map(len, elements)), *plan.shape), dtype=plan.dtype)
    at = 0
    for one in elements:
        values[at : at + len(one)] = one
        at += len(one)
    return values


def _fixed(values: NDArray[Any], shape: tuple[int, ...], entries: int) -> Column:
    """An array an entry as lists of equal lengths."""
    if not shape:
        return values
    inner = _equal_lists(values, shape[-1], entries * prod(shape[:-1]))
    if len(shape) == 1:
        return inner
    return Nested(np.arange(entries + 1, dtype=np.int64) * shape[0], inner)


def _equal_lists(values: NDArray[Any], length: int, lists: int) -> Jagged:
    return Jagged(np.arange(lists + 1, dtype=np.int64) * length, values.reshape(-1))


def _joined_ends(parts: Sequence[Part], entries: int) -> NDArray[np.int64]:
    offsets = np.zeros(entries + 1, dtype=np.int64)
    at = 0
    for ends in (part.ends for part in parts if part.ends is not None):
        offsets[at + 1 : at + len(ends)] = ends[1:] + (offsets[at] - ends[0])
        at += len(ends) - 1
    return offsets
