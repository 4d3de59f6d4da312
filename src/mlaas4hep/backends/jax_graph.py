"""A function of JAX as an ONNX graph: its jaxpr, taken apart primitive by primitive.

The function is traced with an open number of events and never run. `jax_operations` and `jax_products` have the words
for single primitives; what hangs on parameters alone is computed by JAX here and becomes a constant. Invariant: a
primitive without a word, or one that would mix events, is refused by name (`NotCovered`), with the user's line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import jax
import numpy as np
from jax.extend import core as jax_core
from numpy.typing import NDArray

from mlaas4hep.backends.blame import place
from mlaas4hep.errors import ModelError
from mlaas4hep.graph.builder import GraphBuilder

# Types of the graph, with their numbers in ONNX.
TYPES: Mapping[str, int] = {"float32": 1, "int32": 6, "bool": 9}

# Primitives that hold a function and do nothing else when they score.
_CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat2", "checkpoint")


class NotCovered(ModelError):
    """A part of a function has no word in the graph."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the graph that hangs on the event.

    Parameters
    ----------
    name
        In the graph.
    shape
        As JAX has it; the number of events is a symbol there.
    dtype
        One of `TYPES`.
    thin
        Axes along which all values are equal and only one is kept: ONNX spreads them where it computes.
    """

    name: str
    shape: tuple[Any, ...]
    dtype: str
    thin: frozenset[int] = frozenset()


Word = Callable[["Lowering", Any, Sequence[Any], Value], Any]


def is_open(size: Any) -> bool:
    """Whether a size hangs on the number of events."""
    return not isinstance(size, int)


def is_constant(value: Any) -> bool:
    """Whether a value is the same for all events."""
    return not isinstance(value, Value)


class Lowering:
    """Writes jaxprs into a graph.

    Parameters
    ----------
    words
        By the name of the primitive.
    where
        The user's file, whose lines refusals name.

    Attributes
    ----------
    graph
        What was written so far.
    """

    def __init__(self, words: Mapping[str, Word], *, where: str) -> None:
        self.graph = GraphBuilder("j")
        self._words = words
        self._where = where
        self._events = ""
        self._equations: list[Any] = []

    def trace(self, function: Callable[..., Any], inputs: Mapping[str, tuple[tuple[int, ...], str]]) -> Value:
        """What a function gives for inputs by name, each with its shape without the events and its type."""
        (events,) = jax.export.symbolic_shape("N")
        shapes = [jax.ShapeDtypeStruct((events, *shape), np.dtype(kind)) for shape, kind in inputs.values()]
        closed = self._traced(function, shapes)
        self._events = next(iter(inputs))
        given = [Value(name, tuple(one.shape), str(one.dtype)) for name, one in zip(inputs, shapes, strict=True)]
        found = self.run(closed, given)
        if len(found) != 1 or is_constant(found[0]):
            self.refuse("the scores do not hang on the event")
        value: Value = self.full(found[0])
        return value

    def _traced(self, function: Callable[..., Any], shapes: Sequence[Any]) -> Any:
        try:
            return jax.make_jaxpr(function)(*shapes)
        except TypeError as error:
            if "_DimExpr" not in str(error):
                raise
            raise NotCovered(
                f"{place(self._where, error)}: cannot be written as a graph: the number of events is taken for a whole "
                "number; write x.shape[0], or -1 in a shape, where it says len(x)"
            ) from error

    def run(self, jaxpr: Any, given: Sequence[Any]) -> list[Any]:
        """What a jaxpr gives: a `Value`, or a constant."""
        constants = jaxpr.consts if isinstance(jaxpr, jax_core.ClosedJaxpr) else ()
        inner = getattr(jaxpr, "jaxpr", jaxpr)
        table: dict[Any, Any] = dict(zip([*inner.constvars, *inner.invars], [*constants, *given], strict=True))

        def read(variable: Any) -> Any:
            if isinstance(variable, jax_core.Literal):
                return np.asarray(variable.val, variable.aval.dtype)
            return table[variable]

        for equation in inner.eqns:
            found = self._lower(equation, [read(one) for one in equation.invars])
            table.update(zip(equation.outvars, found, strict=True))
        return [read(one) for one in inner.outvars]

    def _lower(self, equation: Any, given: Sequence[Any]) -> list[Any]:
        self._equations.append(equation)
        found = self._found(equation, given)
        self._equations.pop()
        return found

    def _found(self, equation: Any, given: Sequence[Any]) -> list[Any]:
        name = equation.primitive.name
        if name in _CALLS:
            return self.run(_function_of(equation.params), given)
        if name == "dim_as_value":
            self.refuse("it uses the number of events in a batch, so that a score would hang on its neighbours")
        if name == "cond" and is_constant(given[0]):
            branches = equation.params["branches"]
            return self.run(branches[min(max(int(given[0]), 0), len(branches) - 1)], given[1:])
        shapes = [tuple(one.aval.shape) for one in equation.outvars]
        if all(map(is_constant, given)) and not any(is_open(size) for shape in shapes for size in shape):
            found = equation.primitive.bind(*given, **equation.params)
            return list(found) if equation.primitive.multiple_results else [found]
        if name.startswith("random_") or name == "threefry2x32":
            self.refuse("it draws random numbers where it scores; draw them only where key is not None")
        if name not in self._words:
            self.refuse(f"primitive '{name}' has no word in the graph")
        outs = [Value("", shape, str(one.aval.dtype)) for one, shape in zip(equation.outvars, shapes, strict=True)]
        for one in outs:
            if one.dtype not in TYPES:
                self.refuse(f"primitive '{name}' gives {one.dtype}; the graph knows {', '.join(TYPES)}")
        found = self._words[name](self, equation.params, given, outs[0])
        return found if isinstance(found, list) else [found]

    def refuse(self, reason: str) -> NoReturn:
        """End with `NotCovered`, naming the user's line where there is one."""
        raise NotCovered(f"{self._place()}: cannot be written as a graph: {reason}")

    def _place(self) -> str:
        # What JAX itself compiled earlier remembers who called it first: the next one out is the user's.
        for equation in reversed(self._equations):
            traceback = equation.source_info.traceback
            lines = [one.line_num for one in traceback.frames if one.file_name == self._where] if traceback else []
            if lines:
                return f"{self._where}, line {lines[0]}"
        return self._where

    def name_of(self, value: Any, dtype: str | None = None) -> str:
        """The name of a value or of a constant, cast to a type where it has another."""
        if is_constant(value):
            array = constant_of(value)
            return self.graph.constant(array if dtype is None else array.astype(dtype))
        return value.name if dtype in (None, value.dtype) else self.cast(value.name, str(dtype))

    def cast(self, name: str, dtype: str) -> str:
        """A value as another type."""
        return self.node("Cast", [name], to=TYPES[dtype])

    def node(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node and give the name of its output."""
        return self.graph.node(operator, inputs, attributes=attributes)

    def numbers(self, *values: int) -> str:
        """A constant of whole numbers, such as axes."""
        return self.graph.constant(np.array(values, np.int64))

    def scalar(self, number: float) -> str:
        """A constant of one float32."""
        return self.graph.constant(np.float32(number))

    def full(self, value: Any, axes: Sequence[int] | None = None) -> Any:
        """A value whose axes (all, or those named) hold as many values as its shape says."""
        if is_constant(value):
            return value
        thin = value.thin if axes is None else value.thin & set(axes)
        if not thin:
            return value
        kept = value.thin - thin
        sizes = [size if axis in thin else 1 for axis, size in enumerate(value.shape)]
        return replace(value, name=self.node("Expand", [value.name, self._sizes(sizes)]), thin=kept)

    def _sizes(self, sizes: Sequence[Any]) -> str:
        """A shape as a value of the graph; the number of events is that of the first input."""
        if not any(map(is_open, sizes)):
            return self.numbers(*sizes)
        if any(is_open(size) and str(size) != "N" for size in sizes):
            self.refuse(f"a constant is spread to the shape {shown(sizes)}; the number of events may only stand alone")
        shape = self.node("Shape", [self._events], start=0, end=1)
        parts = [shape if is_open(size) else self.numbers(size) for size in sizes]
        return self.node("Concat", parts, axis=0) if len(parts) > 1 else parts[0]


def _function_of(parameters: Mapping[str, Any]) -> Any:
    return next(parameters[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in parameters)


def constant_of(value: Any) -> NDArray[Any]:
    """A constant as a numpy array of a type that the graph knows."""
    array = np.asarray(value)
    if str(array.dtype) in TYPES:
        return array
    raise NotCovered(f"a constant is {array.dtype}; the graph knows {', '.join(TYPES)}")


def shown(sizes: Sequence[Any]) -> str:
    """A shape in words."""
    return f"[{', '.join(map(str, sizes))}]"
