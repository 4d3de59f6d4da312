"""The inner loops of the scan, compiled: see `mlaas4hep.spec.measuring`, whose functions they equal bit for bit.

They run outside Python's global lock. `loops` chooses. Invariant: nothing is read beyond the arrays that were given;
what would lead there is refused first.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.rows import pays_compiling
from mlaas4hep.errors import DataError
from mlaas4hep.spec.measuring import FRACTION_BITS, NUMPY, Bools, Floats, Loops, Places


def loops(values: int) -> Loops:
    """What measures so many values: compiled where that is worth it, numpy's otherwise."""
    return compiled() if pays_compiling(values) else NUMPY


@lru_cache(maxsize=1)
def compiled() -> Loops:
    """The compiled loops."""
    import mlaas4hep.data.measuring_kernel as kernel

    def places(offsets: Places, wanted: Bools, length: int, order: Places | None) -> Places:
        bounds = np.ascontiguousarray(offsets, dtype=np.int64)
        if len(bounds) != len(wanted) + 1 or np.any(bounds[1:] < bounds[:-1]):
            raise DataError(f"the offsets of a collection are not those of {len(wanted)} lists")
        held = np.empty(kernel.count_places(bounds, wanted, length), dtype=np.int64)
        kernel.fill_places(bounds, wanted, length, held)
        return held if order is None else order[held]

    def take(values: NDArray[Any], places: Places) -> tuple[Floats, int, int]:
        if len(places) and not 0 <= int(places.min()) <= int(places.max()) < len(values):
            raise DataError(f"the lists of a collection reach beyond its {len(values)} values")
        finite = np.empty(len(places), dtype=np.float32)
        size, missing = kernel.take(np.ascontiguousarray(values), places, finite)
        return finite[:size], missing, len(places) - size - missing

    def add_sorted(sums: NDArray[np.int64], values: Floats) -> None:
        kernel.add_sorted(sums, values.view(np.uint32), FRACTION_BITS)

    def thinned(one: Floats, other: Floats, turn: int) -> Floats:
        found = np.empty((len(one) + len(other) - turn + 1) // 2, dtype=np.float32)
        kernel.thin(one, other, turn, found)
        return found

    return Loops(places, take, add_sorted, thinned)
