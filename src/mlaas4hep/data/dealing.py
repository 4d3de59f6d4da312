"""How strands of entries are cut: ranges side by side, the share of a process, the share of a window.

Invariant: whatever is cut, every entry is in exactly one part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Units:
    """Entry ranges side by side: file, first entry, number of entries."""

    file: NDArray[np.int64]
    start: NDArray[np.int64]
    size: NDArray[np.int64]

    def take(self, index: NDArray[np.int64] | slice) -> Units:
        return Units(self.file[index], self.start[index], self.size[index])


def share_of_rank(units: Units, rank: int, ranks: int, start: int = 0) -> Units:
    """The part of a strand that one of several processes reads, without so many entries at its beginning."""
    if ranks == 1 and not start:
        return units
    ends = np.cumsum(units.size)
    total = int(ends[-1]) if len(ends) else 0
    low, high = rank * total // ranks + start, (rank + 1) * total // ranks
    begins = ends - units.size
    first, last = np.maximum(begins, low), np.minimum(ends, high)
    inside = first < last
    return Units(units.file[inside], (units.start + first - begins)[inside], (last - first)[inside])


def window_bounds(sizes: NDArray[np.int64], window: int) -> NDArray[np.int64]:
    """How much of each strand has been taken when so many windows are full, int64 [windows + 1, strands].

    The strands are merged evenly: entry i of a strand of n stands at (2i + 1) / 2n of the way (Sainte-Lague), so that
    every window takes of each strand its share to within one.
    """
    total = int(sizes.sum())
    full = np.minimum(np.arange(-(-total // window) + 1, dtype=np.int64) * window, total)
    if len(sizes) == 1:
        return full[:, np.newaxis]
    # In whole numbers, or equal places of two strands would be rounded apart; Python's own where 64 bits do not do.
    exact = np.int64 if total < 2**30 else object
    steps: NDArray[Any] = 2 * full.astype(exact)[:, np.newaxis] * sizes.astype(exact) + total
    taken: NDArray[np.int64] = np.clip((steps // (2 * max(total, 1))).astype(np.int64), 0, sizes)
    rows = np.flatnonzero(taken.sum(axis=1) != full)
    while len(rows):
        part = taken[rows]
        short = part.sum(axis=1) < full[rows]
        with np.errstate(divide="ignore"):
            following = np.where(part < sizes, (2 * part + 1) / sizes, np.inf)
            latest = np.where(part > 0, (2 * part - 1) / sizes, -np.inf)
        # Ties: the first strand gets first, the last one gives first.
        gains = following.argmin(axis=1)
        gives = len(sizes) - 1 - latest[:, ::-1].argmax(axis=1)
        taken[rows, np.where(short, gains, gives)] += np.where(short, 1, -1)
        rows = rows[taken[rows].sum(axis=1) != full[rows]]
    return taken


def strata_at(strata: Sequence[tuple[int, int]], entries: NDArray[np.int64]) -> NDArray[np.int64]:
    """Stratum of each of some entries of a file that has these; 0 where it has none."""
    if not strata:
        return np.zeros(len(entries), dtype=np.int64)
    table = np.array(strata, dtype=np.int64)
    found: NDArray[np.int64] = table[np.searchsorted(table[:, 0], entries, side="right") - 1, 1]
    return found


def sizes_of_strata(strata: Sequence[tuple[int, int]], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Stratum and number of entries of each stretch of a file, of its entries from ``start`` to ``stop``."""
    bounds = [one for one, _ in strata[1:]]
    for low, high, (_, stratum) in zip([start, *bounds], [*bounds, stop], strata or ((start, 0),), strict=True):
        size = min(high, stop) - max(low, start)
        if size > 0:
            yield stratum, size
