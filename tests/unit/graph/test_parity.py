"""The gate: a graph that differs from its framework anywhere, or from itself in another batch, does not pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mlaas4hep.errors import ParityError
from mlaas4hep.graph import parity
from mlaas4hep.graph.core import Core
from mlaas4hep.graph.invariance import BATCHES, affordable_batch, find_company, find_variance, probe_rows
from mlaas4hep.graph.merge import merge
from mlaas4hep.graph.parity import ParityReport, Reference, check_parity
from mlaas4hep.graph.session import Session
from mlaas4hep.graph.trees import lower_trees
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.scaling import flatten
from tests.small_graphs import Inputs, make_mlp, make_rows, make_spec, make_trees

SPEC = make_spec()


def gate(core: Core, reference: Reference, *, spec: ModelSpec = SPEC, count: int = 1200) -> ParityReport:
    return check_parity(merge(spec, core), spec=spec, core=core, reference=reference, rows=make_rows(spec, count))


def test_a_faithful_network_passes() -> None:
    report = gate(*make_mlp(SPEC))
    assert report.worst <= report.bar == 1e-6
    assert report.rows["real"] == 1200


def test_faithful_trees_pass_on_both_sides_of_every_threshold() -> None:
    core, reference, trees = make_trees(SPEC)
    report = gate(core, reference)
    thresholds = {(int(t.feature[i]), t.threshold[i]) for t in trees for i in np.flatnonzero(~t.is_leaf)}
    assert report.rows["next to a tree threshold"] == 3 * len(thresholds)
    assert report.worst <= 1e-6


def test_the_gate_tries_missing_and_full_events_too() -> None:
    seen = []

    def reference(inputs: Inputs) -> NDArray[np.float64]:
        seen.append(flatten(SPEC.scaling, inputs))
        return make_mlp(SPEC)[1](inputs)

    gate(make_mlp(SPEC)[0], reference, count=0)
    rows = np.concatenate(seen)
    assert np.isnan(rows).all(axis=1).any()
    assert (~np.isnan(rows)).all(axis=1).sum() >= 64


def test_a_comparison_turned_round_is_found() -> None:
    _, reference, trees = make_trees(SPEC)
    trees = [replace(tree, threshold=tree.threshold.astype(np.float32).astype(np.float64)) for tree in trees]
    wrong = lower_trees(trees, num_features=SPEC.width, base=[-0.3], link="sigmoid", mode="<")
    with pytest.raises(
        ParityError, match=r"rows 'next to a tree threshold', score 'signal': graph .* nothing was written"
    ):
        gate(wrong, reference)


def test_a_missing_value_sent_the_wrong_way_is_found() -> None:
    _, reference, trees = make_trees(SPEC)
    turned = [replace(tree, missing_left=~tree.missing_left) for tree in trees]
    with pytest.raises(ParityError, match="does not give the framework's scores"):
        gate(lower_trees(turned, num_features=SPEC.width, base=[-0.3], link="sigmoid"), reference)


def test_a_difference_over_the_bar_names_the_worst_row() -> None:
    core, faithful = make_mlp(SPEC)
    rows = make_rows(SPEC, 1200)

    def reference(inputs: Inputs) -> NDArray[np.float64]:
        scores = faithful(inputs)
        odd = np.nan_to_num(inputs["event"]) == np.nan_to_num(rows["event"][17])
        scores[odd.all(axis=1)] += 3e-6
        return scores

    with pytest.raises(
        ParityError, match=r"model 'toy' .* row 17 of the rows 'real'.* difference 3.*e-06, allowed 1.0e-06"
    ):
        gate(core, reference)


def test_scores_that_are_not_finite_are_found() -> None:
    core, faithful = make_mlp(SPEC)
    with pytest.raises(ParityError, match="framework nan, difference inf"):
        gate(core, lambda inputs: faithful(inputs) * np.nan)


def test_a_framework_with_another_number_of_scores_is_found() -> None:
    with pytest.raises(ParityError, match=r"gives scores \[\d+, 2\] for \d+ rows; the contract names 1: signal"):
        gate(make_mlp(SPEC)[0], lambda inputs: np.zeros((len(inputs["event"]), 2)))


def test_a_regression_is_compared_on_its_own_scale() -> None:
    spec = make_spec(task="regression")
    _, _, trees = make_trees(spec)
    large = [replace(tree, value=tree.value * 1e4) for tree in trees]
    core = lower_trees(large, num_features=spec.width, base=[0.0], link="identity")
    session = Session(merge(spec, core))
    report = gate(core, lambda inputs: session.run(inputs) * (1 + 1e-6), spec=spec)
    assert report.bar > 1e-3
    with pytest.raises(ParityError):
        gate(core, lambda inputs: session.run(inputs) * (1 + 1e-4), spec=spec)


def batch_mean() -> Core:
    """A core whose scores depend on the other rows of the batch."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "rows"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("ReduceSum", ["centred", "columns"], ["sum"], keepdims=1),
        helper.make_node("Sigmoid", ["sum"], ["p"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", SPEC.width])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.array([axis], np.int64), name) for axis, name in ((0, "rows"), (1, "columns"))],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return Core(model.SerializeToString(), "flat", "impute", "p", (0,))


def test_a_graph_that_mixes_the_rows_of_a_batch_is_found() -> None:
    core = batch_mean()
    session = Session(merge(SPEC, core))

    found = find_variance(merge(SPEC, core), make_rows(SPEC, 2000))
    assert {one.batch for one in found} == set(BATCHES) - {0, 1}
    assert "rows get other scores than alone" in str(found[0])
    company, most = find_company(merge(SPEC, core), make_rows(SPEC, 100), threads=(1,))
    assert ({one.batch for one in company}, most) == (set(range(2, 101)), 100)
    assert find_company(merge(SPEC, core), make_rows(SPEC, 300), budget_s=0.0)[1] == 64, "a slow graph: fewer rows"
    with pytest.raises(ParityError, match="breaks batch invariance: in batches of 2 on 1 thread"):
        gate(core, session.run)


def test_a_graph_that_takes_too_long_is_proven_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    core, reference = make_mlp(SPEC)
    session = Session(merge(SPEC, core))
    assert gate(core, reference).batch == BATCHES[-1]
    assert affordable_batch(session, make_rows(SPEC, 4), budget_s=0.0) == 64

    monkeypatch.setattr(parity, "affordable_batch", lambda *_: 128)
    report = gate(core, reference)
    assert (report.batch, report.rows["real"]) == (128, 256)
    assert {one.batch for one in find_variance(merge(SPEC, batch_mean()), make_rows(SPEC, 200), most=128)} == {
        2, 7, 64, 128
    }  # fmt: skip


def test_probe_rows_follow_from_the_contract_alone() -> None:
    first, again = (probe_rows(SPEC.scaling, 64) for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    flat = flatten(SPEC.scaling, first)
    assert np.isnan(flat[0]).all()
    assert not np.isnan(flat[1]).any()
    assert np.isfinite(flat[~np.isnan(flat)]).all()
