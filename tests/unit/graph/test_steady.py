"""Operators that change a row's last bit with its place in the batch are replaced by ones that do not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mlaas4hep.graph.core import Core
from mlaas4hep.graph.invariance import find_variance
from mlaas4hep.graph.merge import merge
from mlaas4hep.graph.session import Session
from mlaas4hep.spec.scaling import Scaler
from tests.small_graphs import make_rows, make_spec

SPEC = make_spec(event=25, jets=None, task="regression", score_names=tuple(f"s{i}" for i in range(25)))
EXPECTED = {
    "Elu": lambda x: np.where(x > 0, x, 0.7 * np.expm1(np.minimum(x, 0))),
    "Selu": lambda x: 1.1 * np.where(x > 0, x, 0.7 * np.expm1(np.minimum(x, 0))),
    "Celu": lambda x: np.where(x > 0, x, 0.7 * np.expm1(np.minimum(x, 0) / 0.7)),
    "Softplus": lambda x: np.logaddexp(0, x),
    "Log": lambda x: np.log(np.abs(x) + 1),
    "ReduceSum": lambda x: x + x.sum(axis=1, keepdims=True),
    "ReduceMean": lambda x: x + x.mean(axis=1, keepdims=True),
}
ATTRIBUTES = {"Elu": {"alpha": 0.7}, "Selu": {"alpha": 0.7, "gamma": 1.1}, "Celu": {"alpha": 0.7}}


def make_core(operator: str) -> Core:
    if operator.startswith("Reduce"):
        nodes = [
            helper.make_node(operator, ["x", "last"], ["r"], keepdims=1),
            helper.make_node("Add", ["x", "r"], ["y"]),
        ]
    elif operator == "Log":
        nodes = [
            helper.make_node("Abs", ["x"], ["a"]),
            helper.make_node("Add", ["a", "one"], ["b"]),
            helper.make_node("Log", ["b"], ["y"]),
        ]
    else:
        nodes = [helper.make_node(operator, ["x"], ["y"], **ATTRIBUTES.get(operator, {}))]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", SPEC.width]) for name in "xy"]
    constants = [
        numpy_helper.from_array(np.array([-1], np.int64), "last"),
        numpy_helper.from_array(np.float32(1), "one"),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return Core(model.SerializeToString(), "flat", "impute", "y", tuple(range(SPEC.width)))


@pytest.mark.parametrize("operator", EXPECTED)
def test_the_same_is_computed_and_alike_in_every_batch(operator: str) -> None:
    merged, rows = merge(SPEC, make_core(operator)), make_rows(SPEC, 3000)
    flat: NDArray[np.float64] = Scaler(SPEC.scaling).flat(rows).astype(np.float64)
    np.testing.assert_allclose(Session(merged).run(rows), EXPECTED[operator](flat), rtol=3e-7, atol=3e-6)
    assert find_variance(merged, rows) == []


def test_sums_of_integers_stay_as_they_are() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("ReduceSum", ["shape"], ["total"], keepdims=1),
        helper.make_node("Cast", ["total"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["number", "zero"], ["nothing"]),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", SPEC.width]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(np.float32(0), "zero")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    merged = merge(SPEC, Core(model.SerializeToString(), "flat", "impute", "y", tuple(range(SPEC.width))))
    rows = make_rows(SPEC, 5)
    np.testing.assert_array_equal(Session(merged).run(rows), Scaler(SPEC.scaling).flat(rows))
