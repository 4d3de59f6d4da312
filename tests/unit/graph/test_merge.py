"""Joining the contract's part with a core: any core that fits is taken, any other is refused with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlaas4hep.errors import ModelError
from mlaas4hep.graph.core import Core
from mlaas4hep.graph.invariance import find_variance
from mlaas4hep.graph.merge import merge
from mlaas4hep.graph.session import Session
from mlaas4hep.spec.scaling import Scaler
from tests.small_graphs import make_mlp, make_rows, make_spec, make_trees

FLOAT, BOOL = TensorProto.FLOAT, TensorProto.BOOL
Ends = Sequence[tuple[str, int, Sequence[object]]]


def make_core(
    nodes: Sequence[onnx.NodeProto], inputs: Ends, outputs: Ends, *, opset: int = 18, columns: tuple[int, ...] = (0,)
) -> Core:
    graph = helper.make_graph(
        nodes,
        "exported",
        [helper.make_tensor_value_info(*end) for end in inputs],
        [helper.make_tensor_value_info(*end) for end in outputs],
        [numpy_helper.from_array(np.array([1], np.int64), "one"), numpy_helper.from_array(np.array([1, 2]), "both")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    layout = "flat" if inputs[0][0] == "x" else "groups"
    return Core(model.SerializeToString(), layout, "impute", outputs[0][0], columns)


def deep_sets(*, mask_type: int = BOOL, opset: int = 18) -> Core:
    """The sum over all features of the objects that are there, and their number."""
    nodes = [
        helper.make_node("Cast", ["jets_mask"], ["there"], to=FLOAT),
        helper.make_node("ReduceSum", ["jets", "both"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["there", "one"], ["count"], keepdims=0),
        helper.make_node("Add", ["sum", "count"], ["both_sums"]),
        helper.make_node("Sigmoid", ["both_sums"], ["p"]),
    ]
    inputs = [("jets", FLOAT, ["n", 3, 5]), ("jets_mask", mask_type, ["n", 3])]
    return make_core(nodes, inputs, [("p", FLOAT, ["n"])], opset=opset)


def softmax_of(width: int, *, columns: tuple[int, ...]) -> Core:
    nodes = [helper.make_node("Softmax", ["x"], ["p"], axis=-1)]
    return make_core(nodes, [("x", FLOAT, ["n", width])], [("p", FLOAT, ["n", width])], columns=columns)


@pytest.mark.parametrize("opset", [13, 17, 18, 20, 23])
@pytest.mark.parametrize("mask_type", [BOOL, FLOAT])
def test_a_core_on_groups_gets_tensors_and_masks_at_its_own_opset(opset: int, mask_type: int) -> None:
    spec = make_spec()
    merged = merge(spec, deep_sets(mask_type=mask_type, opset=opset))
    model = onnx.ModelProto.FromString(merged)
    assert [one.version for one in model.opset_import] == [opset]
    assert model.ir_version == {13: 8, 17: 8, 18: 8, 20: 9, 23: 10}[opset]
    rows = make_rows(spec, 300)
    scaler = Scaler(spec.scaling)
    margin = scaler.tensors(rows)["jets"].sum(axis=(1, 2)) + scaler.masks(rows)["jets"].sum(axis=1)
    np.testing.assert_allclose(Session(merged).run(rows)[:, 0], 1 / (1 + np.exp(-margin)), atol=1e-6)
    assert find_variance(merged, rows) == []


def test_the_graph_takes_raw_groups_and_gives_scores() -> None:
    model = onnx.ModelProto.FromString(merge(make_spec(), make_mlp(make_spec())[0]))
    ends = {
        end.name: [dim.dim_param or dim.dim_value for dim in end.type.tensor_type.shape.dim]
        for end in [*model.graph.input, *model.graph.output]
    }
    assert ends == {"event": ["N", 4], "jets": ["N", 3, 5], "scores": ["N", 1]}
    assert (model.opset_import[0].version, model.ir_version) == (18, 8)


def test_columns_put_scores_in_the_order_of_the_contract() -> None:
    spec = make_spec(score_names=("c", "a"), task="multiclass", event=3, jets=None)
    rows = make_rows(spec, 50)
    everything = np.exp(Scaler(spec.scaling).flat(rows))
    everything /= everything.sum(axis=1, keepdims=True)
    scores = Session(merge(spec, softmax_of(3, columns=(2, 0)))).run(rows)
    np.testing.assert_allclose(scores, everything[:, [2, 0]], atol=1e-6)


def test_equal_contracts_and_cores_give_equal_bytes() -> None:
    assert merge(make_spec(), make_mlp(make_spec())[0]) == merge(make_spec(), make_mlp(make_spec())[0])


def test_names_of_groups_may_equal_names_inside_a_core() -> None:
    spec = make_spec(event=0)
    rows = make_rows(spec, 9)
    clash = onnx.ModelProto.FromString(deep_sets().model)
    for node in clash.graph.node:
        node.output[:] = [{"sum": "scores", "count": "__v0"}.get(name, name) for name in node.output]
        node.input[:] = [{"sum": "scores", "count": "__v0"}.get(name, name) for name in node.input]
    other = merge(spec, replace(deep_sets(), model=clash.SerializeToString()))
    assert other == merge(spec, deep_sets())
    assert Session(other).run(rows).shape == (9, 1)


def test_a_local_function_of_an_exporter_is_written_out() -> None:
    spec = make_spec(event=3, jets=None)
    plain = softmax_of(3, columns=(0,))
    model = onnx.ModelProto.FromString(plain.model)
    model.graph.node[0].op_type, model.graph.node[0].domain = "Wrapped", "exporter"
    del model.graph.node[0].attribute[:]
    inside = [helper.make_node("Softmax", ["a"], ["b"], axis=-1)]
    model.functions.append(
        helper.make_function("exporter", "Wrapped", ["a"], ["b"], inside, [helper.make_opsetid("", 18)])
    )
    model.opset_import.add(domain="exporter", version=1)
    assert merge(spec, replace(plain, model=model.SerializeToString())) == merge(spec, plain)


def with_input(core: Core, name: str) -> Core:
    model = onnx.ModelProto.FromString(core.model)
    model.graph.input[0].name = name
    model.graph.node[0].input[0] = name
    return replace(core, model=model.SerializeToString())


@pytest.mark.parametrize(
    ("core", "message"),
    [
        (with_input(softmax_of(19, columns=(0,)), "features"), "input 'features', which the contract lacks"),
        (softmax_of(7, columns=(0,)), r"input 'x' is \['N', 7\], the contract's is \['N', 19\]"),
        (softmax_of(19, columns=(0, 1)), "gives 2 scores, the contract names 1: signal"),
        (replace(softmax_of(19, columns=(0,)), output="probabilities"), "no output 'probabilities'; known: p"),
        (deep_sets(opset=12), "opset 12; 13 to 23 are supported"),
        (
            make_core(
                [helper.make_node("FusedSoftmax", ["x"], ["p"], domain="com.vendor")],
                [("x", FLOAT, ["n", 19])],
                [("p", FLOAT, ["n", 1])],
            ),
            "operators of com.vendor, which are not allowed",
        ),
    ],
)
def test_a_core_that_does_not_fit_is_refused_with_the_reason(core: Core, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        merge(make_spec(), core)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (make_spec(event=4097, jets=None), r"'event' has shape \[4097\]; at most 4096"),
        (make_spec(jets=(257, 1)), r"'jets' has shape \[257, 1\]"),
        (make_spec(jets=(256, 65)), "an event has 16644 numbers; at most 16384"),
    ],
)
def test_a_contract_past_the_limits_is_refused(spec: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        merge(spec, softmax_of(19, columns=(0,)))  # type: ignore[arg-type]


def test_trees_see_raw_values_and_networks_scaled_ones() -> None:
    spec = make_spec()
    operators = {
        name: [node.op_type for node in onnx.ModelProto.FromString(merge(spec, core)).graph.node]
        for name, core in (("trees", make_trees(spec)[0]), ("network", make_mlp(spec)[0]))
    }
    assert {"Mul", "Sub", "Log"} <= set(operators["network"])
    assert not {"Mul", "Sub", "Log"} & set(operators["trees"])
