"""Which values of lists are picked: elements, slices, masks, places given by numbers, sorted order.

A `Selection` says it once, so that the four columns of a four-vector are picked alike. Invariant: what is picked of an
event's list hangs on that event alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.spec.columns import Jagged
from mlaas4hep.spec.padding import sorted_order

Array = NDArray[Any]
Offsets = NDArray[np.int64]


class Selection(NamedTuple):
    """Places of values.

    Parameters
    ----------
    offsets
        int64 [N + 1] of the picked lists; None where one value an event is picked.
    places
        int64 [M]: place of each picked value among all values.
    there
        bool [M]: whether there is such a value; None where all are.
    """

    offsets: Offsets | None
    places: NDArray[np.int64]
    there: NDArray[np.bool_] | None = None

    def of(self, values: Array) -> Array:
        """The picked values; where there may be none, float64 with NaN, and of conditions False."""
        if self.there is None:
            return values[self.places]
        condition = values.dtype == np.bool_
        picked = np.zeros(len(self.places), dtype=bool) if condition else np.full(len(self.places), np.nan)
        picked[self.there] = values[self.places[self.there]]
        return picked


def element(offsets: Offsets, index: int) -> Selection:
    """Element ``index`` of each list, counted from the end where negative."""
    counts = np.diff(offsets)
    there = counts > index if index >= 0 else counts >= -index
    start = offsets[:-1] if index >= 0 else offsets[1:]
    return Selection(None, start + index, there)


def element_by(offsets: Offsets, index: Array) -> Selection:
    """Element of each list by a number of its event, [N]; negative ones, fractions and NaN pick nothing."""
    place, there = _places(index, np.diff(offsets))
    return Selection(None, offsets[:-1] + place, there)


def elements_by(offsets: Offsets, index: Jagged) -> Selection:
    """A value for every number of a list of places, such as the jet of each muon."""
    counts = index.counts
    place, there = _places(index.values, np.repeat(np.diff(offsets), counts))
    return Selection(index.offsets, np.repeat(offsets[:-1], counts) + place, there)


def _places(index: Array, counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    if index.dtype.kind == "f":
        whole = np.floor(index) == index
        there = whole & (index >= 0) & (index < counts)
    else:
        there = (index >= 0) & (index < counts)
    return np.where(there, index, 0).astype(np.int64), there


def masked(offsets: Offsets, mask: NDArray[np.bool_]) -> Selection:
    """Values for which ``mask`` [M] is true."""
    before = np.zeros(len(mask) + 1, dtype=np.int64)
    np.cumsum(mask, out=before[1:])
    return Selection(before[offsets], np.flatnonzero(mask))


def sliced(offsets: Offsets, span: slice) -> Selection:
    """A slice of each list, as Python takes it."""
    counts = np.diff(offsets)
    step = 1 if span.step is None else int(span.step)
    start, stop = _bounds(counts, span, step)
    lengths = np.maximum((stop - start + step - (1 if step > 0 else -1)) // step, 0)
    picked = _offsets(lengths)
    slot = np.arange(picked[-1]) - np.repeat(picked[:-1], lengths)
    return Selection(picked, np.repeat(offsets[:-1] + start, lengths) + slot * step)


def _bounds(counts: NDArray[np.int64], span: slice, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last (excluded) place in each list, by the rules of ``slice.indices``."""
    low, high = (0 * counts, counts) if step > 0 else (0 * counts - 1, counts - 1)
    start, stop = (low, high) if step > 0 else (high, low)
    if span.start is not None:
        start = np.clip(span.start + counts if span.start < 0 else span.start + 0 * counts, low, high)
    if span.stop is not None:
        stop = np.clip(span.stop + counts if span.stop < 0 else span.stop + 0 * counts, low, high)
    return start, stop


def _offsets(lengths: NDArray[np.int64]) -> Offsets:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def ordered(key: Jagged) -> Selection:
    """All values of each list in rising order of the key; NaN last, ties as they stand."""
    order = sorted_order(key, key)
    return Selection(key.offsets, np.arange(len(key.values)) if order is None else order)
