"""Figures of one raw column, gathered in one pass: what `mlaas4hep inspect --stats` shows.

Unlike the statistics of a contract they are of values as they stand in the files, wide whole numbers included.
Invariant: tallies of parts, merged in the order of the parts, give the same bits on every run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.spec.accumulate import FeatureAccumulator
from mlaas4hep.spec.columns import Column, Jagged, values_of
from mlaas4hep.spec.measuring import NUMPY, Loops, Measured
from mlaas4hep.spec.statistics import MAX_LENGTH

BINS = 50
QUANTILES = (0.01, 0.5, 0.99)
_BORDERS = (0.005, 0.995)
# Types whose values are float32 numbers, exactly.
_NARROW = frozenset({"bool", "int8", "uint8", "int16", "uint16", "float16", "float32"})


class Histogram(msgspec.Struct, frozen=True):
    """Counts between rising edges; the first and the last bin hold what lies outside too. Good to 0.1 % of all."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class ListLengths(msgspec.Struct, frozen=True):
    """Lengths of lists: extremes, mean, and what 95 % and 99 % of events do not exceed (up to 1024)."""

    minimum: int
    mean: float
    q95: int
    q99: int
    maximum: int


class ColumnFigures(msgspec.Struct, frozen=True):
    """Figures of the finite values of a column; None of no value at all.

    Parameters
    ----------
    count
        Finite values.
    missing, infinite
        NaN, and infinities of either sign.
    minimum, maximum, mean, std
        Of whole numbers the extremes are exact.
    quantiles
        By rank of `QUANTILES`; within 0.1 % in rank.
    histogram
        Of what lies between the ranks 0.5 and 99.5 %.
    lengths
        Of the lists, where it holds lists.
    """

    count: int
    missing: int = 0
    infinite: int = 0
    minimum: float | int | None = None
    maximum: float | int | None = None
    mean: float | None = None
    std: float | None = None
    quantiles: dict[str, float] = {}
    histogram: Histogram | None = None
    lengths: ListLengths | None = None


@dataclass
class _Wide:
    """Moments of values that float32 does not hold, by two passes a part and exact joining of parts (Chan 1979)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float | int | None = None
    high: float | int | None = None

    @classmethod
    def of(cls, values: NDArray[Any]) -> _Wide:
        if not len(values):
            return cls()
        mean = float(values.mean(dtype=np.float64))
        squares = float(np.square(values.astype(np.float64) - mean).sum())
        return cls(len(values), mean, squares, values.min().item(), values.max().item())

    def merge(self, other: _Wide) -> _Wide:
        if not other.count or self.low is None or self.high is None or other.low is None or other.high is None:
            return self if self.count else other
        count, step = self.count + other.count, other.mean - self.mean
        mean = self.mean + step * other.count / count
        squares = self.squares + other.squares + step * step * self.count * other.count / count
        return _Wide(count, mean, squares, min(self.low, other.low), max(self.high, other.high))


class ColumnTally:
    """Gathers the figures of one column.

    Parameters
    ----------
    loops
        To count with; they change speed only.
    """

    def __init__(self, loops: Loops = NUMPY) -> None:
        self._single = FeatureAccumulator(loops)
        self._wide = _Wide()
        self._whole = True
        self._lengths: NDArray[np.int64] | None = None
        self._longest = 0
        self._objects = 0

    def add(self, column: Column) -> None:
        """Add the values of some events."""
        values = values_of(column)
        if isinstance(column, Jagged):
            self._add_lengths(column.counts)
        finite, missing, infinite = _finite(values)
        self._whole &= values.dtype.kind != "f"
        with np.errstate(over="ignore"):
            singles = finite.astype(np.float32) + np.float32(0)
        self._single.add_measured(Measured(singles, missing, infinite))
        if values.dtype.name not in _NARROW:
            self._wide = self._wide.merge(_Wide.of(finite))

    def merge(self, other: ColumnTally) -> None:
        """Add what another one has seen."""
        self._single.merge(other._single)
        self._wide = self._wide.merge(other._wide)
        self._whole &= other._whole
        if other._lengths is not None:
            self._join(other._lengths, other._longest, other._objects)

    def seal(self) -> ColumnFigures:
        """The figures so far."""
        single, wide = self._single.seal(), self._wide
        exact = wide.count > 0
        return ColumnFigures(
            count=single.count,
            missing=single.missing,
            infinite=single.infinite,
            minimum=wide.low if exact else single.minimum,
            maximum=wide.high if exact else single.maximum,
            mean=wide.mean if exact else single.mean,
            std=float(np.sqrt(wide.squares / wide.count)) if exact else single.std,
            quantiles={str(rank): value for rank in QUANTILES if (value := single.quantile(rank)) is not None},
            histogram=self._histogram() if single.count else None,
            lengths=self._list_lengths(),
        )

    def _histogram(self) -> Histogram:
        values, reached = self._single.cumulative()
        low, high = (float(values[np.searchsorted(reached, rank * reached[-1])]) for rank in _BORDERS)
        edges = _edges(low, high, whole=self._whole)
        # How many are below each inner edge.
        places = np.searchsorted(values, edges[1:-1].astype(np.float32), side="left")
        below = np.concatenate([[0], np.concatenate([[0], reached])[places], reached[-1:]])
        return Histogram(tuple(edges.tolist()), tuple(np.diff(below).tolist()))

    def _add_lengths(self, counts: NDArray[np.int64]) -> None:
        if len(counts):
            found = np.bincount(np.minimum(counts, MAX_LENGTH))
            self._join(found, int(counts.max()), int(counts.sum()))

    def _join(self, lengths: NDArray[np.int64], longest: int, objects: int) -> None:
        there = np.zeros(0, dtype=np.int64) if self._lengths is None else self._lengths
        total = np.zeros(max(len(there), len(lengths)), dtype=np.int64)
        total[: len(there)] += there
        total[: len(lengths)] += lengths
        self._lengths, self._longest, self._objects = total, max(self._longest, longest), self._objects + objects

    def _list_lengths(self) -> ListLengths | None:
        if self._lengths is None:
            return None
        reached = np.cumsum(self._lengths)
        q95, q99 = (int(np.searchsorted(reached, rank * reached[-1])) for rank in (0.95, 0.99))
        first = int(np.flatnonzero(self._lengths)[0])
        return ListLengths(first, self._objects / int(reached[-1]), q95, q99, self._longest)


def _finite(values: NDArray[Any]) -> tuple[NDArray[Any], int, int]:
    """Finite values, number of NaN, number of infinities."""
    if values.dtype.kind != "f":
        return values, 0, 0
    finite = np.isfinite(values)
    if finite.all():
        return values, 0, 0
    missing = int(np.count_nonzero(np.isnan(values)))
    return values[finite], missing, len(values) - int(np.count_nonzero(finite)) - missing


def _edges(low: float, high: float, *, whole: bool) -> NDArray[np.float64]:
    """Of bins of equal width; of whole numbers each bin holds as many."""
    if whole:
        width = math.ceil((high - low + 1) / BINS)
        return low - 0.5 + width * np.arange(math.ceil((high - low + 1) / width) + 1, dtype=np.float64)
    if not high > low:
        half = max(abs(low) * 1e-3, 0.5)
        low, high = low - half, high + half
    return np.linspace(low, high, BINS + 1)
