"""What makes one value out of a list: sums, extremes, conditions, and where an extreme stands.

Of a list of lists the inner lists are reduced. Invariant: the value of a list hangs on that list alone, bit for bit;
sums are taken from left to right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.spec.columns import DType, Jagged
from mlaas4hep.spec.operations import Operand, TypeMismatch, conditions

Array = NDArray[Any]


@dataclass(frozen=True)
class Reduction:
    """An operation that makes one value an event out of a list."""

    name: str
    rule: Callable[[Operand], DType]
    compute: Callable[[Jagged], Array]


def _float64(operand: Operand) -> DType:
    return "float64"


def _count_type(operand: Operand) -> DType:
    if operand.dtype == "bool":
        raise TypeMismatch(
            f"'count' is the length of a list, false ones included: sum({operand.text}) counts the true ones"
        )
    return "int64"


def _condition_type(word: str) -> Callable[[Operand], DType]:
    def rule(operand: Operand) -> DType:
        return conditions(word)([operand]).result

    return rule


def events_of(jagged: Jagged) -> NDArray[np.int64]:
    """Number of the event that each value belongs to, int64 [M]."""
    return np.repeat(np.arange(len(jagged), dtype=np.int64), jagged.counts)


def _sum(jagged: Jagged) -> Array:
    """From left to right in float64, starting at 0: `np.bincount` adds one value after the other."""
    values = jagged.values.astype(np.float64, copy=False)
    sums = np.bincount(events_of(jagged), weights=values, minlength=len(jagged))
    return sums.astype(np.float64, copy=False)  # of no values at all, bincount gives integers


def _count(jagged: Jagged) -> Array:
    return jagged.counts


def _mean(jagged: Jagged) -> Array:
    """The sum over the number; of none NaN."""
    return np.asarray(_sum(jagged) / jagged.counts)


def _extreme(function: np.ufunc) -> Callable[[Jagged], Array]:
    def compute(jagged: Jagged) -> Array:
        result = np.full(len(jagged), np.nan)
        filled = jagged.counts > 0
        if filled.any():
            values = np.ascontiguousarray(jagged.values, dtype=np.float64)
            result[filled] = function.reduceat(values, jagged.offsets[:-1][filled]) + 0.0
        return result

    return compute


_smallest, _largest = _extreme(np.fmin), _extreme(np.fmax)


def _place(extreme: Callable[[Jagged], Array]) -> Callable[[Jagged], Array]:
    """Position of the first value that equals the extreme; NaN where there is none."""

    def compute(jagged: Jagged) -> Array:
        values = jagged.values.astype(np.float64, copy=False)
        event = events_of(jagged)
        equal = np.flatnonzero(values == extreme(jagged)[event])
        result = np.full(len(jagged), np.nan)
        # Backwards, so that of several the first is written last.
        result[event[equal][::-1]] = (equal - jagged.offsets[:-1][event[equal]])[::-1]
        return result

    return compute


def _any(jagged: Jagged) -> Array:
    return _holds_one(jagged, jagged.values)


def _all(jagged: Jagged) -> Array:
    return ~_holds_one(jagged, ~jagged.values)


def _holds_one(jagged: Jagged, mask: Array) -> Array:
    found = np.zeros(len(jagged), dtype=bool)
    found[events_of(jagged)[mask]] = True
    return found


REDUCTIONS: dict[str, Reduction] = {
    "sum": Reduction("sum", _float64, _sum),
    "count": Reduction("count", _count_type, _count),
    "mean": Reduction("mean", _float64, _mean),
    "min": Reduction("min", _float64, _smallest),
    "max": Reduction("max", _float64, _largest),
    "argmin": Reduction("argmin", _float64, _place(_smallest)),
    "argmax": Reduction("argmax", _float64, _place(_largest)),
    "any": Reduction("any", _condition_type("any"), _any),
    "all": Reduction("all", _condition_type("all"), _all),
}
