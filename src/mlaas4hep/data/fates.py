"""What became of each entry of a range: its part of the split, and whether a row came out of it.

One byte an entry, so that any range of entries can be counted without the source. Invariant: what is counted of two
ranges adds up to what is counted of both together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.split import PARTS

_UNLABELLED = len(PARTS)
_KEPT = 2 * len(PARTS)
_UNREADABLE = 3 * len(PARTS)
# numpy counts 8 bytes an entry: in fresh memory, unless they are few.
_AT_ONCE = 8_192

Fates = NDArray[np.uint8]


def fates_of(parts: NDArray[np.int8], unlabelled: NDArray[np.int64], kept: NDArray[np.int64]) -> Fates:
    """Fates of N entries.

    Parameters
    ----------
    parts
        int8 [N]: position in `PARTS`.
    unlabelled
        Those that are selected, but have no class, or no value of a target.
    kept
        Those that a row came out of; all others were cut away.
    """
    fates = parts.astype(np.uint8)
    fates[unlabelled] += np.uint8(_UNLABELLED)
    fates[kept] += np.uint8(_KEPT)
    return fates


def unreadable(entries: int) -> Fates:
    """Of entries that are left out; what their part would be is not known."""
    return np.full(entries, _UNREADABLE, dtype=np.uint8)


def any_unreadable(fates: Fates) -> bool:
    """Whether some of the entries are left out."""
    return bool(np.any(fates == _UNREADABLE))


def parts_of_rows(fates: Fates) -> NDArray[np.uint8]:
    """Part of each row that came out of some entries, all of which were read, in their order."""
    found: Fates = fates[fates >= _KEPT] - np.uint8(_KEPT)
    return found


def tally(fates: Fates, part: int | None) -> tuple[int, int, int, int]:
    """How many of one part (of all for None) were cut away, have no class, gave a row; and how many are left out."""
    found = np.zeros(_UNREADABLE + 1, dtype=np.int64)
    for at in range(0, len(fates), _AT_ONCE):
        found += np.bincount(fates[at : at + _AT_ONCE], minlength=len(found))
    by_part = found[:_UNREADABLE].reshape(3, len(PARTS))
    cut, unlabelled, kept = (by_part if part is None else by_part[:, part : part + 1]).sum(axis=1).tolist()
    return cut, unlabelled, kept, int(found[_UNREADABLE])
