"""What each operation of an expression does: the types it takes and gives, and how it computes on arrays.

`syntax` picks an operation for each construct of the text and `expressions` drives them; nothing here knows
text or columns. Invariant: what an operation gives for one event depends on that event alone, bit for bit,
whatever the batch around it. So every computation is one IEEE operation a value, a numpy function whose
result does not depend on where in an array the value lies (`_positionless`), or a sum taken from left to
right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.spec.columns import ColumnType, DType, Jagged

Array = NDArray[Any]

_INTEGERS = frozenset({"bool", "int64", "uint64"})


class Operand(NamedTuple):
    """What is known about one operand before any event is seen.

    Parameters
    ----------
    type
        Flat or jagged, and the type of a value.
    text
        The operand as written, for messages.
    constant
        Its value where it is a literal number, else None.
    """

    type: ColumnType
    text: str
    constant: int | float | bool | None = None

    @property
    def dtype(self) -> DType:
        """Type of a value."""
        return self.type.dtype


class TypeMismatch(Exception):
    """An operand does not fit; becomes an `ExpressionError` where text and place are known."""

    def __init__(self, message: str, operand: int = 0) -> None:
        self.message = message
        self.operand = operand
        super().__init__(message)


class Signature(NamedTuple):
    """Types chosen for given operands: what they are cast to (None: left as they are) and what comes out."""

    operands: DType | None
    result: DType


@dataclass(frozen=True)
class Elementwise:
    """An operation value by value; flat operands are repeated for the values of a jagged one."""

    name: str
    rule: Callable[[Sequence[Operand]], Signature]
    compute: Callable[..., Array]


@dataclass(frozen=True)
class Reduction:
    """An operation that makes one value an event out of a list."""

    name: str
    rule: Callable[[Operand], DType]
    compute: Callable[[Jagged], Array]


def _arithmetic(operands: Sequence[Operand]) -> Signature:
    """Whole numbers stay int64; a float, or a uint64 whose difference may be negative, makes float64."""
    whole = all(operand.dtype in ("bool", "int64") for operand in operands)
    return Signature("int64", "int64") if whole else Signature("float64", "float64")


def _integer_division(operands: Sequence[Operand]) -> Signature:
    """Exact for whole numbers by a literal other than 0; else float64, where division by 0 has a value."""
    dividend, divisor = operands
    literal = divisor.constant
    if not isinstance(literal, int) or literal == 0 or dividend.dtype not in _INTEGERS:
        return Signature("float64", "float64")
    if dividend.dtype == "uint64" and literal > 0:
        return Signature("uint64", "uint64")
    return _arithmetic(operands)


def _real(operands: Sequence[Operand]) -> Signature:
    return Signature("float64", "float64")


def _absolute(operands: Sequence[Operand]) -> Signature:
    return Signature("uint64", "uint64") if operands[0].dtype == "uint64" else _arithmetic(operands)


def _comparison(operands: Sequence[Operand]) -> Signature:
    """Whole numbers are compared exactly, signed with unsigned too; anything else as float64."""
    exact = all(operand.dtype in _INTEGERS for operand in operands)
    return Signature(None if exact else "float64", "bool")


_PRECEDENCE = {
    "and": " ('&' binds tighter than comparisons, 'and' does not)",
    "or": " ('|' binds tighter than comparisons, 'or' does not)",
}


def _conditions(word: str) -> Callable[[Sequence[Operand]], Signature]:
    def rule(operands: Sequence[Operand]) -> Signature:
        for index, operand in enumerate(operands):
            if operand.dtype != "bool":
                raise TypeMismatch(
                    f"'{word}' takes conditions, and '{operand.text}' is {operand.type}: compare it first, "
                    f"as in '{operand.text} > 0'{_PRECEDENCE.get(word, '')}",
                    index,
                )
        return Signature("bool", "bool")

    return rule


def _positionless(function: np.ufunc) -> Callable[..., Array]:
    """A function whose result for a value never depends on its neighbours.

    numpy may take another code path, with another last bit, for strided memory and for arrays of one value
    (which it gives a stride of 0). So the function always sees contiguous arrays of at least two values.
    """

    def compute(*arrays: Array) -> Array:
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        size = int(np.prod(shape))
        full = [np.ascontiguousarray(np.broadcast_to(array, shape)).reshape(size) for array in arrays]
        if size != 1:
            return np.asarray(function(*full)).reshape(shape)
        return np.asarray(function(*(np.repeat(array, 2) for array in full)))[:1].reshape(shape)

    return compute


_power = _positionless(np.power)


def _raise_to(base: Array, exponent: Array) -> Array:
    """A square is one multiplication, exactly rounded; other powers are numpy's."""
    if exponent.ndim == 0 and exponent == 2:
        return np.multiply(base, base)
    return _power(base, exponent)


def _smaller(first: Array, second: Array) -> Array:
    """Element by element, a missing value (NaN) losing; adding 0 gives both zeros the same sign."""
    return np.asarray(np.fmin(first, second) + first.dtype.type(0))


def _larger(first: Array, second: Array) -> Array:
    return np.asarray(np.fmax(first, second) + first.dtype.type(0))


ADD = Elementwise("+", _arithmetic, np.add)
SUBTRACT = Elementwise("-", _arithmetic, np.subtract)
MULTIPLY = Elementwise("*", _arithmetic, np.multiply)
DIVIDE = Elementwise("/", _real, np.divide)
FLOOR_DIVIDE = Elementwise("//", _integer_division, np.floor_divide)
MODULO = Elementwise("%", _integer_division, np.remainder)
POWER = Elementwise("**", _real, _raise_to)
NEGATE = Elementwise("-", _arithmetic, np.negative)
PLUS = Elementwise("+", _absolute, np.positive)

LESS = Elementwise("<", _comparison, np.less)
LESS_EQUAL = Elementwise("<=", _comparison, np.less_equal)
GREATER = Elementwise(">", _comparison, np.greater)
GREATER_EQUAL = Elementwise(">=", _comparison, np.greater_equal)
EQUAL = Elementwise("==", _comparison, np.equal)
NOT_EQUAL = Elementwise("!=", _comparison, np.not_equal)

AND = Elementwise("and", _conditions("and"), np.logical_and)
OR = Elementwise("or", _conditions("or"), np.logical_or)
NOT = Elementwise("not", _conditions("not"), np.logical_not)

FUNCTIONS: dict[str, Elementwise] = {
    "abs": Elementwise("abs", _absolute, np.abs),
    "log": Elementwise("log", _real, _positionless(np.log)),
    "sqrt": Elementwise("sqrt", _real, np.sqrt),
    "exp": Elementwise("exp", _real, _positionless(np.exp)),
}
PAIRWISE: dict[str, Elementwise] = {
    "min": Elementwise("min", _arithmetic, _smaller),
    "max": Elementwise("max", _arithmetic, _larger),
}


def _sum_type(operand: Operand) -> DType:
    return "float64"


def _count_type(operand: Operand) -> DType:
    if operand.dtype == "bool":
        raise TypeMismatch(
            f"'count' is the length of a list, false ones included: sum({operand.text}) counts the true ones"
        )
    return "int64"


def _extreme_type(operand: Operand) -> DType:
    return "float64"


def _condition_type(word: str) -> Callable[[Operand], DType]:
    def rule(operand: Operand) -> DType:
        return _conditions(word)([operand]).result

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


def _extreme(function: np.ufunc) -> Callable[[Jagged], Array]:
    def compute(jagged: Jagged) -> Array:
        result = np.full(len(jagged), np.nan)
        filled = jagged.counts > 0
        if filled.any():
            values = np.ascontiguousarray(jagged.values, dtype=np.float64)
            result[filled] = function.reduceat(values, jagged.offsets[:-1][filled]) + 0.0
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
    "sum": Reduction("sum", _sum_type, _sum),
    "count": Reduction("count", _count_type, _count),
    "min": Reduction("min", _extreme_type, _extreme(np.fmin)),
    "max": Reduction("max", _extreme_type, _extreme(np.fmax)),
    "any": Reduction("any", _condition_type("any"), _any),
    "all": Reduction("all", _condition_type("all"), _all),
}


def element_type(operand: Operand) -> DType:
    """Type of one element of a list: float64, for it may not be there (NaN); of conditions bool."""
    return "bool" if operand.dtype == "bool" else "float64"


def element(jagged: Jagged, index: int) -> Array:
    """Element ``index`` of each list, counted from the end where negative.

    Returns
    -------
    float64 [N], NaN where the list is too short; of conditions bool [N], False where the list is too short.
    """
    counts = jagged.counts
    there = counts > index if index >= 0 else counts >= -index
    first = jagged.offsets[:-1] if index >= 0 else jagged.offsets[1:]
    condition = jagged.values.dtype == np.bool_
    result = np.zeros(len(jagged), dtype=bool) if condition else np.full(len(jagged), np.nan)
    result[there] = jagged.values[first[there] + index]
    return result
