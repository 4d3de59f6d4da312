"""What the words for Keras's operations work on: values of the graph, and constants of a model as numpy.

Invariant: the number of events is the only open size of a value, comes first, and is never reduced over (`axes_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mlaas4hep.backends.keras_graph import Lowering


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the graph: name, shape with None for the number of events, type in Keras's words."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


def array_of(value: Any, dtype: str | None = None) -> NDArray[Any]:
    """A copy of a constant of a model as numpy: a number, an array, a variable or a tensor of its framework."""
    if isinstance(value, keras.Variable):
        value = value.value
    # Of tensors numpy's own call gives a warning.
    value = value.detach().cpu() if hasattr(value, "detach") else value
    array = np.array(value.numpy() if hasattr(value, "numpy") else value)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return array if dtype is None else array.astype(dtype)


# Writes one operation: the lowering, the operation with its settings, its arguments, shape and type of what it gives.
Word = Callable[["Lowering", Any, Mapping[str, Any], Value], str]


def first_of(arguments: Mapping[str, Any]) -> Any:
    """The one argument of an operation that has one, whatever its name."""
    return next(iter(arguments.values()))


def axes_of(low: Lowering, axis: Any, rank: int) -> list[int]:
    """Axes from 0; refused where events would be mixed."""
    given = range(rank) if axis is None else [axis] if isinstance(axis, int) else axis
    axes = sorted(int(one) % rank for one in given)
    if 0 in axes:
        low.refuse("it reduces over the events of a batch, so that a score would hang on its neighbours")
    return axes
