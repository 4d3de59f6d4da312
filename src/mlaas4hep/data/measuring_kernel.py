"""What `mlaas4hep.data.measuring` compiles; the second module that knows numba.

Invariant: each function stays inside its arrays for positions and lengths that `measuring` has checked.
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def count_places(offsets, wanted, length):  # pragma: no cover
    """Values that padding keeps."""
    total = 0
    for event in range(len(wanted)):
        if wanted[event]:
            total += min(offsets[event + 1] - offsets[event], length)
    return total


@numba.njit(nogil=True, cache=True)
def fill_places(offsets, wanted, length, found):  # pragma: no cover
    """Position of each of them."""
    at = 0
    for event in range(len(wanted)):
        if wanted[event]:
            first = offsets[event]
            for place in range(first, first + min(offsets[event + 1] - first, length)):
                found[at] = place
                at += 1


@numba.njit(nogil=True, cache=True)
def take(values, places, finite):  # pragma: no cover
    """Finite values as float32, side by side; how many there are, and how many NaN."""
    odd = 0
    for at in range(len(places)):
        value = np.float32(values[places[at]]) + np.float32(0)
        finite[at] = value
        odd += np.int64(value - value != np.float32(0))
    if odd == 0:  # the usual case, and one without a branch a value
        return len(places), 0
    size = missing = 0
    for at in range(len(places)):
        value = finite[at]
        finite[size] = value
        if np.isfinite(value):
            size += 1
        elif np.isnan(value):
            missing += 1
    return size, missing


@numba.njit(nogil=True, cache=True)
def add_sorted(sums, bits, fraction_bits):  # pragma: no cover
    """Run by run of one sign and exponent."""
    mask = np.uint32((1 << fraction_bits) - 1)
    start = 0
    while start < len(bits):
        key = bits[start] >> fraction_bits
        # Values are sorted: the end of the run is found by halving.
        low, high = start + 1, len(bits)
        while low < high:
            middle = (low + high) // 2
            if bits[middle] >> fraction_bits == key:
                low = middle + 1
            else:
                high = middle
        first = second = np.int64(0)
        for place in range(start, low):
            fraction = np.int64(bits[place] & mask)
            first += fraction
            second += fraction * fraction
        sums[0, key] += low - start
        sums[1, key] += first
        sums[2, key] += second >> 32
        sums[3, key] += second & 0xFFFFFFFF
        start = low


@numba.njit(nogil=True, cache=True)
def thin(one, other, turn, found):  # pragma: no cover
    """Every second value of two sorted buffers, merged."""
    here = there = 0
    for place in range(len(one) + len(other)):
        if there == len(other) or (here < len(one) and one[here] <= other[there]):
            value = one[here]
            here += 1
        else:
            value = other[there]
            there += 1
        if place >= turn and (place - turn) % 2 == 0:
            found[(place - turn) // 2] = value
