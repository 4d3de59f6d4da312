"""Multi-layer perceptrons as ONNX: a chain of MatMul, Add and an activation.

Used by backends whose networks are plain lists of matrices, so that no converter is needed. Invariant: only operators
that ONNX Runtime computes row by row in the same way at every batch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from mlaas4hep.errors import ModelError
from mlaas4hep.graph.builder import GraphBuilder, value_info
from mlaas4hep.graph.core import FLAT_INPUT, Core, Link

Activation = Literal["relu", "tanh", "logistic", "identity", "gelu"]

_OPERATORS = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid"}


def lower_dense(
    weights: Sequence[ArrayLike],
    biases: Sequence[ArrayLike],
    *,
    activation: Activation,
    link: Link,
    columns: Sequence[int] | None = None,
) -> Core:
    """An MLP on the flat view, scaled inputs, zeros where missing.

    Parameters
    ----------
    weights
        One matrix a layer, [in, out] (scikit-learn's ``coefs_``; the transpose of torch's ``weight``); kept as float32.
    biases
        One vector a layer, [out].
    activation
        Between the layers; ``"logistic"`` is the sigmoid, ``"gelu"`` the exact one (by the error function).
    link
        After the last layer.
    columns
        Which outputs are the scores, in order; all of them where None.

    Raises
    ------
    ModelError
        The shapes do not fit each other, a name is unknown, or a weight is not finite.

    Examples
    --------
    >>> core = lower_dense([np.ones((3, 1))], [np.zeros(1)], activation="relu", link="sigmoid")
    >>> core.layout, core.missing, core.columns
    ('flat', 'impute', (0,))
    """
    layers = _checked(weights, biases)
    graph = GraphBuilder("d")
    value = FLAT_INPUT
    for index, (matrix, bias) in enumerate(layers):
        if index:
            value = add_activation(graph, value, activation)
        value = graph.node("Add", [graph.node("MatMul", [value, graph.constant(matrix)]), graph.constant(bias)])
    value = add_link(graph, value, link)
    width, size = layers[0][0].shape[0], layers[-1][0].shape[1]
    model = graph.model([value_info(FLAT_INPUT, np.float32, [width])], [value_info(value, np.float32, [size])])
    return Core(
        model=model.SerializeToString(deterministic=True),
        layout="flat",
        missing="impute",
        output=value,
        columns=tuple(range(size) if columns is None else columns),
    )


def add_activation(graph: GraphBuilder, value: str, activation: Activation) -> str:
    """Add an activation by name; gives the name of the result."""
    if activation == "identity":
        return value
    if activation == "gelu":
        return _gelu(graph, value)
    if activation not in _OPERATORS:
        known = ", ".join(["identity", "gelu", *_OPERATORS])
        raise ModelError(f"activation '{activation}' cannot be written as a graph; known: {known}")
    return graph.node(_OPERATORS[activation], [value])


def add_link(graph: GraphBuilder, value: str, link: Link) -> str:
    """Add what turns margins [N, C] into scores; gives the name of the result."""
    if link == "identity":
        return graph.node("Identity", [value])
    if link == "sigmoid":
        return graph.node("Sigmoid", [value])
    if link == "softmax":
        return graph.node("Softmax", [value], attributes={"axis": -1})
    raise ModelError(f"link '{link}' cannot be written as a graph; known: identity, sigmoid, softmax")


def _gelu(graph: GraphBuilder, value: str) -> str:
    """x / 2 * (1 + erf(x / sqrt 2)), spelt out: opset 18 has no Gelu."""
    scaled = graph.node("Div", [value, graph.constant(np.float32(np.sqrt(2.0)))])
    bell = graph.node("Add", [graph.node("Erf", [scaled]), graph.constant(np.float32(1))])
    return graph.node("Mul", [graph.node("Mul", [value, bell]), graph.constant(np.float32(0.5))])


def _checked(
    weights: Sequence[ArrayLike], biases: Sequence[ArrayLike]
) -> list[tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], np.ndarray[tuple[int, ...], np.dtype[np.float32]]]]:
    layers = [(np.asarray(w, np.float32), np.asarray(b, np.float32)) for w, b in zip(weights, biases, strict=True)]
    if not layers:
        raise ModelError("a network needs at least one layer")
    size = layers[0][0].shape[0]
    for index, (matrix, bias) in enumerate(layers):
        if matrix.ndim != 2 or matrix.shape[0] != size or bias.shape != matrix.shape[1:]:
            raise ModelError(
                f"layer {index}: weights {list(matrix.shape)} and bias {list(bias.shape)} do not fit {size} inputs"
            )
        if not (np.isfinite(matrix).all() and np.isfinite(bias).all()):
            raise ModelError(f"layer {index} holds weights that are not finite: the training has diverged")
        size = matrix.shape[1]
    return layers
