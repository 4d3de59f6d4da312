"""Loops over baskets, compiled: elements of ``std::vector`` branches, list offsets that should be a counter's.

Runs outside Python's global lock. Invariant: nothing is read or written beyond the arrays given, whatever the bytes
say; the first entry whose vector does not fit is reported instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mlaas4hep.data.root.layout import HEAD_BYTES, MEMBERWISE

_LENGTH_FLAG = 0x40000000


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _number(raw: NDArray[np.uint8], at: int) -> int:
    found = 0
    for place in range(at, at + 4):
        found = found << 8 | int(raw[place])
    return found


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def offsets_agree(stored: NDArray[np.uint32], ends: NDArray[np.int64], size: int, keylen: int) -> bool:
    """Whether list offsets are those of a counter.

    Parameters
    ----------
    stored
        uint32 [N]: bytes before each entry and ``keylen``, in the byte order of the file.
    ends
        int64 [N + 1], from 0: elements before each entry; all of them times ``size`` stay below 2^31.
    """
    wrong = np.uint32(0)
    for at in range(len(stored)):
        one = stored[at]
        swapped = np.uint32(one >> 24 | (one >> 8) & 0xFF00 | (one << 8) & 0xFF0000 | one << 24)
        wrong = np.uint32(wrong | (swapped ^ np.uint32(ends[at] * size + keylen)))
    return wrong == 0


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def unwrap(
    raw: NDArray[np.uint8],
    starts: NDArray[np.int32],
    size: int,
    is_record: bool,
    ends: NDArray[np.int64],
    elements: NDArray[np.uint8],
) -> Any:
    """Copy the elements of each entry.

    Parameters
    ----------
    raw
        uint8: values of a basket.
    starts
        int32 [N + 1], rising, within ``raw``: bytes of each entry.
    size
        Bytes of an element.
    is_record
        Whether an element has members, which must not be stored one after the other.
    ends
        int64 [N + 1]: filled with where the elements of each entry begin.
    elements
        uint8: filled; as long as all entries without their heads.

    Returns
    -------
    Number of the first entry that does not fit, N where all do.
    """
    entries, at = len(starts) - 1, 0
    ends[0] = 0
    for entry in range(entries):
        begin, stop = int(starts[entry]), int(starts[entry + 1])
        length = stop - begin
        if length < HEAD_BYTES or _number(raw, begin) != _LENGTH_FLAG | (length - 4):
            return entry
        count = _number(raw, begin + 6)
        if count * size != length - HEAD_BYTES or (is_record and raw[begin + 4] & (MEMBERWISE >> 8)):
            return entry
        for place in range(begin + HEAD_BYTES, stop):
            elements[at] = raw[place]
            at += 1
        ends[entry + 1] = ends[entry] + count
    return entries
