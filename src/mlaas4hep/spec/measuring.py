"""The inner loops of statistics, and the values that they look at: those that padding would keep, column by column.

`measured` finds what a tensor of the contract would hold (the first K objects of each list, of wanted events alone)
without making the tensor. Its loops are handed in as `Loops`: plain numpy here, compiled ones where there is much to
read. Invariant: whichever loops run, the values, their order and all sums are the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.spec.features import EVENT
from mlaas4hep.spec.padding import Assembled, Collection

FRACTION_BITS = 23

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Measured:
    """Values of one feature in slots that exist.

    Parameters
    ----------
    finite
        float32 [n], events in order, zeros all positive.
    missing, infinite
        NaN, and infinities of either sign, besides.
    """

    finite: Floats
    missing: int = 0
    infinite: int = 0


@dataclass(frozen=True)
class Loops:
    """What takes the time of a scan.

    Parameters
    ----------
    places
        Offsets of lists, wanted events, K and order of a collection: position of each value that padding would keep.
    take
        Values of a column and positions in it: its finite values as float32, number of NaN, number of infinities.
    add_sorted
        Adds up to 2^16 sorted values to the sums of exact moments.
    thinned
        Two sorted buffers of one length and a turn of 0 or 1: every second value of both, sorted, from that turn on.
    """

    places: Callable[[Places, Bools, int, Places | None], Places]
    take: Callable[[NDArray[Any], Places], tuple[Floats, int, int]]
    add_sorted: Callable[[NDArray[np.int64], Floats], None]
    thinned: Callable[[Floats, Floats, int], Floats]


def measured(rows: Assembled, wanted: Bools, loops: Loops) -> dict[str, list[Measured]]:
    """Values of every feature by input group.

    Parameters
    ----------
    rows
        M events.
    wanted
        bool [M]: those that are looked at.
    loops
        To look with.
    """
    found = {}
    if rows.flats:
        events = np.flatnonzero(wanted)
        found[EVENT] = [Measured(*loops.take(column, events)) for column in rows.flats]
    for one in rows.collections:
        found[one.name] = _measured_lists(one, wanted, loops)
    return found


def _measured_lists(one: Collection, wanted: Bools, loops: Loops) -> list[Measured]:
    places = loops.places(one.lists[0].offsets, wanted, one.length, one.order)
    found = [Measured(*loops.take(column.values, places)) for column in one.lists]
    if not all(feature.missing for feature in found):
        return found
    # An object of which nothing is known does not exist: padding would look the same.
    nothing = np.ones(len(places), dtype=np.bool_)
    for column in one.lists:
        nothing &= np.isnan(column.values[places])
    absent = int(np.count_nonzero(nothing))
    return [Measured(feature.finite, feature.missing - absent, feature.infinite) for feature in found]


def places(offsets: Places, wanted: Bools, length: int, order: Places | None) -> Places:
    """See `Loops`."""
    counts = np.diff(offsets)
    held = np.minimum(counts, length)[wanted]
    starts = offsets[:-1][wanted]
    found = np.arange(int(held.sum())) + np.repeat(starts - (np.cumsum(held) - held), held)
    taken: Places = found if order is None else order[found]
    return taken


def take(values: NDArray[Any], places: Places) -> tuple[Floats, int, int]:
    """See `Loops`."""
    with np.errstate(over="ignore"):
        taken = values[places].astype(np.float32)
    finite = np.isfinite(taken)
    kept = taken[finite]
    kept += np.float32(0)  # one sign for all zeros
    missing = int(np.count_nonzero(np.isnan(taken))) if len(kept) < len(taken) else 0
    return kept, missing, len(taken) - len(kept) - missing


def add_sorted(sums: NDArray[np.int64], values: Floats) -> None:
    """See `Loops`; sorted values come in runs of one sign and exponent, which makes summing fast."""
    if not len(values):
        return
    bits = values.view(np.uint32)
    keys = bits >> np.uint32(FRACTION_BITS)
    starts = np.concatenate([[0], np.flatnonzero(keys[1:] != keys[:-1]) + 1])
    fractions = (bits & np.uint32(2**FRACTION_BITS - 1)).astype(np.int64)
    squares = np.add.reduceat(fractions * fractions, starts)
    sums[:, keys[starts]] += [
        np.diff(starts, append=len(values)),
        np.add.reduceat(fractions, starts),
        squares >> 32,
        squares & (2**32 - 1),
    ]


def thinned(one: Floats, other: Floats, turn: int) -> Floats:
    """See `Loops`."""
    both = np.concatenate([one, other])
    both.sort(kind="stable")  # merges two sorted runs
    return both[turn::2].copy()


NUMPY = Loops(places, take, add_sorted, thinned)
