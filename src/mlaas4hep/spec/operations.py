"""What each operation of an expression does: the types it takes and gives, and how it computes on arrays.

`syntax` picks an operation for each construct of the text, `nodes` apply it; nothing here knows text or columns.
Functions stand in `functions`, what makes one value of a list in `reductions`. Invariant: what an operation gives for
one event depends on that event alone, bit for bit, whatever the batch around it. So every computation is one IEEE
operation a value, a numpy function whose result does not depend on where in an array the value lies (`positionless`),
or a sum taken from left to right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.spec.columns import ColumnType, DType

Array = NDArray[Any]

_INTEGERS = frozenset({"bool", "int64", "uint64"})


class Operand(NamedTuple):
    """What is known about one operand before any event is seen.

    Parameters
    ----------
    type
        Flat or of lists, and the type of a value.
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


def arithmetic(operands: Sequence[Operand]) -> Signature:
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
    return arithmetic(operands)


def real(operands: Sequence[Operand]) -> Signature:
    return Signature("float64", "float64")


def keeps_whole(operands: Sequence[Operand]) -> Signature:
    return Signature("uint64", "uint64") if operands[0].dtype == "uint64" else arithmetic(operands)


def _comparison(operands: Sequence[Operand]) -> Signature:
    """Whole numbers are compared exactly, signed with unsigned too; anything else as float64."""
    exact = all(operand.dtype in _INTEGERS for operand in operands)
    return Signature(None if exact else "float64", "bool")


_PRECEDENCE = {
    "and": " ('&' binds tighter than comparisons, 'and' does not)",
    "or": " ('|' binds tighter than comparisons, 'or' does not)",
}


def conditions(word: str) -> Callable[[Sequence[Operand]], Signature]:
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


def positionless(function: np.ufunc) -> Callable[..., Array]:
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


_power = positionless(np.power)


def _raise_to(base: Array, exponent: Array) -> Array:
    """A square is one multiplication, exactly rounded; other powers are numpy's."""
    if exponent.ndim == 0 and exponent == 2:
        return np.multiply(base, base)
    return _power(base, exponent)


ADD = Elementwise("+", arithmetic, np.add)
SUBTRACT = Elementwise("-", arithmetic, np.subtract)
MULTIPLY = Elementwise("*", arithmetic, np.multiply)
DIVIDE = Elementwise("/", real, np.divide)
FLOOR_DIVIDE = Elementwise("//", _integer_division, np.floor_divide)
MODULO = Elementwise("%", _integer_division, np.remainder)
POWER = Elementwise("**", real, _raise_to)
NEGATE = Elementwise("-", arithmetic, np.negative)
PLUS = Elementwise("+", keeps_whole, np.positive)

LESS = Elementwise("<", _comparison, np.less)
LESS_EQUAL = Elementwise("<=", _comparison, np.less_equal)
GREATER = Elementwise(">", _comparison, np.greater)
GREATER_EQUAL = Elementwise(">=", _comparison, np.greater_equal)
EQUAL = Elementwise("==", _comparison, np.equal)
NOT_EQUAL = Elementwise("!=", _comparison, np.not_equal)


def _folded(function: np.ufunc) -> Callable[..., Array]:
    """Of any number of operands: a ufunc would take the third for the place to write to."""

    def compute(*arrays: Array) -> Array:
        return np.asarray(reduce(function, arrays))

    return compute


AND = Elementwise("and", conditions("and"), _folded(np.logical_and))
OR = Elementwise("or", conditions("or"), _folded(np.logical_or))
NOT = Elementwise("not", conditions("not"), np.logical_not)
