"""A Keras model as an ONNX graph: every layer is taken apart into the operations of its own ``call``.

Works whatever framework Keras runs on, since the model is only traced, never run. `keras_operations` has the words for
single operations. Invariant: what has no word is refused by name (`NotCovered`), with the layer that it stands in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras.src.ops.function import Function
from keras.src.ops.operation import Operation

from mlaas4hep.backends.keras_operations import LAYERS, OPERATIONS
from mlaas4hep.backends.keras_values import Value, array_of
from mlaas4hep.errors import ModelError
from mlaas4hep.graph.builder import GraphBuilder

_TYPES = ("float32", "int32", "int64", "bool")


class NotCovered(ModelError):
    """A part of a model has no word in the graph."""


class Lowering:
    """Writes traced operations into a graph.

    Attributes
    ----------
    graph
        What was written so far.
    """

    def __init__(self) -> None:
        self.graph = GraphBuilder("k")
        self._layers: list[str] = []

    def apply(self, function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any] | None = None) -> Any:
        """What a function of tensors gives for `Value` arguments, in any nesting; `NotCovered` with the reason."""
        symbols: list[Any] = []
        table: dict[int, Value] = {}

        def symbol(value: Any) -> Any:
            if not isinstance(value, Value):
                return value
            symbols.append(keras.KerasTensor(value.shape, value.dtype))
            table[id(symbols[-1])] = value
            return symbols[-1]

        args, kwargs = keras.tree.map_structure(symbol, (args, dict(kwargs or {})))
        with self._told():
            found = function(*args, **kwargs)
        inner = [one for one in keras.tree.flatten(found) if isinstance(one, keras.KerasTensor)]
        if any(id(one) not in table for one in inner):
            self._walk(Function(symbols, inner), table)
        return keras.tree.map_structure(lambda one: table.get(id(one), one), found)

    def _walk(self, function: Function, table: dict[int, Value]) -> None:
        # Private to Keras, and the only place where its graph of operations can be had.
        by_depth = function._nodes_by_depth
        for depth in sorted(by_depth, reverse=True):
            for node in by_depth[depth]:
                if node.operation is None or node.is_input or id(node.outputs[0]) in table:
                    continue
                args, kwargs = node.arguments.fill_in(table)
                found = keras.tree.flatten(self._lower(node.operation, args, kwargs, node.outputs[0]))
                table.update({id(one): _sized(value, one) for one, value in zip(node.outputs, found, strict=True)})

    def _lower(self, operation: Operation, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        name = _name(operation)
        if name in OPERATIONS:
            bound = inspect.signature(operation.call).bind(*args, **kwargs).arguments
            shape, dtype = tuple(output.shape), str(output.dtype)
            if dtype not in _TYPES:
                self.refuse(f"it computes in {dtype}; the graph knows {', '.join(_TYPES)}")
            return Value(OPERATIONS[name](self, operation, bound, Value("", shape, dtype)), shape, dtype)
        if name.startswith(("ops.", "activations.")):
            self.refuse(f"operation {type(operation).__name__} has no word in the graph")
        with self._inside(operation):
            return self.apply(*self._call_of(operation, name, args, kwargs))

    def _call_of(self, operation: Operation, name: str, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
        """What a layer does with its inputs when it scores."""
        if isinstance(operation, keras.Layer):
            if operation.compute_dtype != "float32":
                self.refuse(f"it computes in {operation.compute_dtype}; the graph is float32")
            # Keras hands this word on to layers that do not take it, too.
            kwargs = {key: value for key, value in kwargs.items() if key != "training"}
            if "training" in inspect.signature(operation.call).parameters:
                kwargs["training"] = False
        call = LAYERS.get(name)
        return (lambda *a, **k: call(operation, *a, **k)) if call else operation.call, args, kwargs

    def refuse(self, reason: str) -> None:
        """End with `NotCovered`."""
        inside = f"layer {' in '.join(reversed(self._layers))}: " if self._layers else ""
        raise NotCovered(f"{inside}{reason}")

    @contextmanager
    def _inside(self, operation: Operation) -> Iterator[None]:
        self._layers.append(f"{operation.name} ({type(operation).__name__})")
        if len(self._layers) > 100:
            self.refuse("layers call each other without end")
        yield
        self._layers.pop()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except NotCovered:
            raise
        except Exception as error:  # whatever a layer's own code raises on symbols
            text = str(error).strip().split("\n", 1)[0]
            inside = f"layer {' in '.join(reversed(self._layers))}: " if self._layers else ""
            raise NotCovered(f"{inside}cannot be followed: {type(error).__name__}: {text}") from error

    def name_of(self, value: Any, dtype: str | None = None) -> str:
        """The name of a value or of a constant, cast to a type where it has another."""
        if not isinstance(value, Value):
            return self.graph.constant(array_of(value, dtype))
        if dtype is None or value.dtype == dtype:
            return value.name
        return self.cast(value.name, dtype)

    def cast(self, name: str, dtype: str) -> str:
        """A value as another type."""
        return self.node("Cast", [name], to=_ONNX_TYPES[dtype])

    def node(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node and give the name of its output."""
        return self.graph.node(operator, inputs, attributes=attributes)

    def numbers(self, *values: int) -> str:
        """A constant of whole numbers, such as axes."""
        return self.graph.constant(np.array(values, np.int64))


_ONNX_TYPES = {"float32": 1, "int32": 6, "int64": 7, "bool": 9}


def _sized(value: Any, symbol: Any) -> Any:
    """A value with the sizes that its layer knows of what it gives, where its operations do not."""
    if not isinstance(value, Value) or len(value.shape) != len(symbol.shape):
        return value
    sizes = (one if one is not None else other for one, other in zip(value.shape, symbol.shape, strict=True))
    return Value(value.name, tuple(sizes), value.dtype)


def _name(operation: Operation) -> str:
    """Module and class of what Keras brings, ``ops.numpy.Add``; others have their own."""
    kind = type(operation)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("keras.src.")
