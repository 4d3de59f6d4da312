"""Lowering of networks: each activation and link is that of numpy, and shapes that do not fit are refused."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from mlaas4hep.errors import ModelError
from mlaas4hep.graph.dense import lower_dense
from mlaas4hep.graph.merge import merge
from mlaas4hep.graph.session import Session
from mlaas4hep.spec.scaling import Scaler
from tests.small_graphs import make_rows, make_spec

ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "identity": lambda x: x,
    "gelu": lambda x: x / 2 * (1 + np.vectorize(math.erf)(x / np.sqrt(2))),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("link", ["sigmoid", "identity"])
def test_the_graph_computes_the_network(activation: Any, link: Any) -> None:
    spec = make_spec()
    random = np.random.default_rng(1)
    sizes = [spec.width, 12, 6, 1]
    weights = [random.normal(size=pair) / 4 for pair in pairwise(sizes)]
    biases = [random.normal(size=size) for size in sizes[1:]]
    rows = make_rows(spec, 200)
    value = Scaler(spec.scaling).flat(rows).astype(np.float64)
    for matrix, bias in zip(weights[:-1], biases[:-1], strict=True):
        value = ACTIVATIONS[activation](value @ matrix + bias)
    value = value @ weights[-1] + biases[-1]
    expected = value if link == "identity" else 1 / (1 + np.exp(-value))
    core = lower_dense(weights, biases, activation=activation, link=link)
    scores = Session(merge(spec, core)).run(rows)
    np.testing.assert_allclose(scores, expected, atol=1e-6 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize(
    ("weights", "biases", "message"),
    [
        ([], [], "at least one layer"),
        ([np.ones((3, 2)), np.ones((3, 1))], [np.ones(2), np.ones(1)], r"layer 1: weights \[3, 1\]"),
        ([np.ones((3, 2))], [np.ones(3)], r"bias \[3\] do not fit 3 inputs"),
        ([np.full((3, 1), np.nan)], [np.ones(1)], "not finite: the training has diverged"),
    ],
)
def test_layers_that_do_not_fit_are_refused(weights: Any, biases: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        lower_dense(weights, biases, activation="relu", link="sigmoid")


def test_an_unknown_activation_is_refused_with_the_known_ones() -> None:
    layers = [np.ones((2, 2)), np.ones((2, 1))]
    with pytest.raises(ModelError, match="activation 'swish' cannot be written as a graph; known: identity, gelu"):
        lower_dense(layers, [np.ones(2), np.ones(1)], activation="swish", link="sigmoid")  # type: ignore[arg-type]
