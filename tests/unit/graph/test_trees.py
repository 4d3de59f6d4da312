"""Lowering of trees: the graph does what a framework's node arrays say, at thresholds and with missing values too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlaas4hep.errors import ModelError
from mlaas4hep.graph.merge import merge
from mlaas4hep.graph.session import Session
from mlaas4hep.graph.trees import Tree, lower_trees
from tests.small_graphs import make_spec

SPEC = make_spec(event=2, jets=None, task="regression", score_names=("energy",))
STUMP = Tree(
    feature=np.array([0, 0, 0]),
    threshold=np.array([0.1, 0.0, 0.0]),
    left=np.array([1, 0, 0]),
    right=np.array([2, 0, 0]),
    value=np.array([0.0, 1.0, 2.0]),
    is_leaf=np.array([False, True, True]),
    missing_left=np.array([True, False, False]),
)


def scores(*trees: Tree, x: list[float], base: float = 0.0, mode: Any = "<=") -> list[float]:
    core = lower_trees(trees, num_features=2, base=[base], link="identity", mode=mode)
    event = np.array([[value, 7.0] for value in x], np.float32)
    return Session(merge(SPEC, core)).run({"event": event})[:, 0].tolist()


def test_a_threshold_of_float64_is_compared_as_such() -> None:
    above = float(np.float32(0.1))  # 1.5e-9 above 0.1 in float64
    below = float(np.nextafter(np.float32(0.1), np.float32(0)))
    assert scores(STUMP, x=[below, above]) == [1.0, 2.0]


@pytest.mark.parametrize(("mode", "expected"), [("<=", 1.0), ("<", 2.0)])
def test_a_value_at_the_threshold_goes_where_the_framework_sends_it(mode: str, expected: float) -> None:
    assert scores(replace(STUMP, threshold=np.array([0.5, 0, 0])), x=[0.5], mode=mode) == [expected]


def test_missing_values_go_where_the_tree_says() -> None:
    assert scores(STUMP, x=[np.nan]) == [1.0]
    assert scores(replace(STUMP, missing_left=np.zeros(3, bool)), x=[np.nan]) == [2.0]


def test_infinite_values_go_to_the_far_sides() -> None:
    assert scores(STUMP, x=[-np.inf, np.inf]) == [1.0, 2.0]


def test_a_threshold_at_infinity_asks_only_whether_the_value_is_there() -> None:
    tree = replace(STUMP, threshold=np.array([np.inf, 0, 0]), missing_left=np.zeros(3, bool))
    assert scores(tree, x=[-5.0, np.inf, np.nan]) == [1.0, 1.0, 2.0]
    assert len(lower_trees([tree], num_features=2, base=[0], link="identity").thresholds) == 0


def test_nodes_that_the_root_does_not_reach_count_for_nothing() -> None:
    pruned = Tree(*(np.append(getattr(STUMP, name), 1).astype(getattr(STUMP, name).dtype) for name in FIELDS))
    assert scores(pruned, STUMP, x=[0.0]) == [2.0]


FIELDS = ("feature", "threshold", "left", "right", "value", "is_leaf", "missing_left")


def test_a_leaf_may_hold_one_value_for_each_output() -> None:
    spec = make_spec(event=2, jets=None, score_names=("a", "b"), task="multiclass")
    forest = [replace(STUMP, value=np.array([[0, 0], [0.25, 0.75], [0.5, 0.5]]) / 2)] * 2
    core = lower_trees(forest, num_features=2, base=[0, 0], link="identity")
    event = np.array([[0, 0], [1, 0]], np.float32)
    assert Session(merge(spec, core)).run({"event": event}).tolist() == [[0.25, 0.75], [0.5, 0.5]]


def test_large_leaves_are_rounded_in_proportion() -> None:
    trees = [replace(STUMP, value=np.array([0.0, scale, 0.0])) for scale in (1e6, 123.456, 1e-3)]
    assert scores(*trees, x=[0.0], base=-1e6) == pytest.approx([123.457], rel=1e-7)


def test_thresholds_are_listed_once_for_the_parity_gate() -> None:
    core = lower_trees([STUMP, STUMP], num_features=2, base=[0], link="sigmoid")
    assert core.thresholds.tolist() == [[0.0, 0.1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feature": np.array([2, 0, 0])}, "looks at feature 2, but there are 2"),
        ({"left": np.array([0, 0, 0])}, "form no tree"),
        ({"right": np.array([9, 0, 0])}, "form no tree"),
        ({"left": np.array([1, 2, 0]), "is_leaf": np.array([False, False, True])}, "form no tree"),
        ({"threshold": np.array([np.nan, 0, 0])}, "threshold that is NaN"),
        ({"value": np.array([0, np.inf, 0])}, "leaf that is not finite"),
        ({"value": np.zeros((3, 2))}, "leaves of 2 values for 1 outputs"),
        ({"output": 1}, "adds to output 1, but there are 1"),
        ({"left": np.array([1, 0])}, "different lengths"),
    ],
)
def test_node_arrays_that_are_no_tree_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        lower_trees([replace(STUMP, **change)], num_features=2, base=[0], link="identity")


def test_a_model_without_trees_is_refused() -> None:
    with pytest.raises(ModelError, match="no trees"):
        lower_trees([], num_features=2, base=[0], link="identity")
