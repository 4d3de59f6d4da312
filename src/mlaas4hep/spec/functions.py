"""The functions of an expression: what each takes and gives, value by value.

`FUNCTIONS` holds them under the one name that the canonical text has, `ALIASES` other spellings of the field (numpy's,
C's, ROOT's). Invariant: a function's value hangs on its arguments alone, not on where in an array they lie: what is
not one IEEE operation goes through `positionless`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.spec.operations import (
    Elementwise,
    Operand,
    Signature,
    TypeMismatch,
    arithmetic,
    keeps_whole,
    positionless,
    real,
)

Array = NDArray[Any]

_TWO_PI = 2 * np.pi


def _tested(operands: Sequence[Operand]) -> Signature:
    return Signature("float64", "bool")


def _chosen(operands: Sequence[Operand]) -> Signature:
    """Type of both choices together; the condition is cast along and compared with 0."""
    condition, *choices = operands
    if condition.dtype != "bool":
        raise TypeMismatch(
            f"'where' takes a condition first, and '{condition.text}' is {condition.type}: compare it, as in "
            f"where({condition.text} > 0, a, b)"
        )
    kinds = {choice.dtype for choice in choices}
    if kinds in ({"bool"}, {"uint64"}):
        (kind,) = kinds
        return Signature(kind, kind)
    return arithmetic(choices)


def _choose(condition: Array, first: Array, second: Array) -> Array:
    return np.where(condition != 0, first, second)


def _smaller(first: Array, second: Array) -> Array:
    """Element by element, a missing value (NaN) losing; adding 0 gives both zeros the same sign."""
    return np.asarray(np.fmin(first, second) + first.dtype.type(0))


def _larger(first: Array, second: Array) -> Array:
    return np.asarray(np.fmax(first, second) + first.dtype.type(0))


def _whole(function: np.ufunc) -> Any:
    """Whole numbers are their own floor, ceiling and rounding."""

    def compute(values: Array) -> Array:
        return np.asarray(function(values)) if values.dtype.kind == "f" else values

    return compute


def delta_phi(first: Array, second: Array) -> Array:
    """Difference of two angles between -pi and pi; exact where the plain difference lies there."""
    difference = np.subtract(first, second)
    return np.asarray(difference - _TWO_PI * np.rint(difference / _TWO_PI))


hypotenuse = positionless(np.hypot)


def delta_r(eta: Array, phi: Array, other_eta: Array, other_phi: Array) -> Array:
    """Distance of two directions, sqrt(deta^2 + dphi^2)."""
    return hypotenuse(np.subtract(eta, other_eta), delta_phi(phi, other_phi))


_REAL: dict[str, np.ufunc] = {
    "log": np.log,
    "log10": np.log10,
    "log2": np.log2,
    "log1p": np.log1p,
    "exp": np.exp,
    "expm1": np.expm1,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
}

FUNCTIONS: dict[str, tuple[int, Elementwise]] = {
    "abs": (1, Elementwise("abs", keeps_whole, np.abs)),
    "sqrt": (1, Elementwise("sqrt", real, np.sqrt)),
    **{name: (1, Elementwise(name, real, positionless(function))) for name, function in _REAL.items()},
    "floor": (1, Elementwise("floor", keeps_whole, _whole(np.floor))),
    "ceil": (1, Elementwise("ceil", keeps_whole, _whole(np.ceil))),
    "round": (1, Elementwise("round", keeps_whole, _whole(np.rint))),
    "sign": (1, Elementwise("sign", keeps_whole, np.sign)),
    "isnan": (1, Elementwise("isnan", _tested, np.isnan)),
    "isfinite": (1, Elementwise("isfinite", _tested, np.isfinite)),
    "isinf": (1, Elementwise("isinf", _tested, np.isinf)),
    "atan2": (2, Elementwise("atan2", real, positionless(np.arctan2))),
    "hypot": (2, Elementwise("hypot", real, hypotenuse)),
    "deltaphi": (2, Elementwise("deltaphi", real, delta_phi)),
    "deltaR": (4, Elementwise("deltaR", real, delta_r)),
    "where": (3, Elementwise("where", _chosen, _choose)),
}
"""By name: how many arguments, and what it does."""

PAIRWISE: dict[str, Elementwise] = {
    "min": Elementwise("min", arithmetic, _smaller),
    "max": Elementwise("max", arithmetic, _larger),
}
"""Of two values; of one list they are reductions."""

ALIASES: dict[str, str] = {
    "fabs": "abs",
    "len": "count",
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arctan2": "atan2",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "isNaN": "isnan",
    "delta_phi": "deltaphi",
    "deltaPhi": "deltaphi",
    "DeltaPhi": "deltaphi",
    "delta_r": "deltaR",
    "delta_R": "deltaR",
    "DeltaR": "deltaR",
    "delta_eta": "deltaeta",
    "deltaEta": "deltaeta",
    "DeltaEta": "deltaeta",
    "power": "pow",
}
"""Other spellings; the canonical text has ours."""

__all__ = ["ALIASES", "FUNCTIONS", "PAIRWISE", "delta_phi", "delta_r", "hypotenuse"]
