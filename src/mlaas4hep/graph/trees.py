"""Boosted trees and forests as ONNX, from plain node arrays, with sums in float64.

Backends fill `Tree` from a framework's own dump; no converter is involved. Invariant: leaves and base are rounded to
multiples of a power of two so small that a sum over trees is exact, in any order, on any number of threads; only the
last rounding to float32 is left, so that a row's score does not depend on its neighbours (law 11).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlaas4hep.errors import ModelError
from mlaas4hep.graph.builder import ML_DOMAIN, GraphBuilder, tensor, value_info
from mlaas4hep.graph.core import FLAT_INPUT, Core, Link
from mlaas4hep.graph.dense import add_link

# Leaves in steps of 2^-40 cost 1e-12 and leave 12 bits before the point for the sum: float64 holds 53.
LEAF_BITS = 40
_FLOAT64_BITS = 53


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """One tree as arrays over its nodes; node 0 is the root.

    Parameters
    ----------
    feature
        int [n], flat index that an inner node looks at; ignored at leaves.
    threshold
        float64 [n], what it compares to, exactly as the framework does with float32 inputs cast to float64; +inf with
        ``"<="`` sends every present value left. Ignored at leaves.
    left, right
        int [n], child taken where the comparison is true, and where it is false. Ignored at leaves.
    value
        float64 [n] with ``output``, or [n, C]: one number for each output. Ignored at inner nodes.
    is_leaf
        bool [n].
    missing_left
        bool [n], whether NaN goes left.
    output
        Which output the tree adds to; ignored where ``value`` is [n, C].
    """

    feature: NDArray[np.integer[Any]]
    threshold: NDArray[np.float64]
    left: NDArray[np.integer[Any]]
    right: NDArray[np.integer[Any]]
    value: NDArray[np.float64]
    is_leaf: NDArray[np.bool_]
    missing_left: NDArray[np.bool_]
    output: int = 0


def lower_trees(
    trees: Sequence[Tree],
    *,
    num_features: int,
    base: ArrayLike,
    link: Link,
    mode: Literal["<=", "<"] = "<=",
    columns: Sequence[int] | None = None,
) -> Core:
    """A sum of trees on the flat view of raw values, NaN where missing.

    Parameters
    ----------
    trees
        Their values are added up; a forest's leaves are divided by the number of trees beforehand.
    num_features
        Width W of the flat view.
    base
        float64 [C], added to the sums, on the scale of the margin; its length is the number of outputs.
    link
        From margins to scores.
    mode
        ``"<="``: a value equal to the threshold goes left (scikit-learn, LightGBM); ``"<"``: right (XGBoost).
    columns
        Which outputs are the scores, in order; all of them where None.

    Raises
    ------
    ModelError
        Node arrays that are no tree, or look at a feature that is not there.
    """
    start = np.atleast_1d(np.asarray(base, np.float64))
    if not trees:
        raise ModelError("the model has no trees: the training stopped before the first one")
    for index, tree in enumerate(trees):
        _check(tree, index, num_features, len(start))
    graph = GraphBuilder("t")
    values = graph.node("Cast", [FLAT_INPUT], attributes={"to": 11})
    attributes = _ensemble(trees, start, "BRANCH_LEQ" if mode == "<=" else "BRANCH_LT")
    margin = graph.node("TreeEnsembleRegressor", [values], attributes=attributes, domain=ML_DOMAIN)
    score = add_link(graph, margin, link)
    model = graph.model(
        [value_info(FLAT_INPUT, np.float32, [num_features])], [value_info(score, np.float32, [len(start)])]
    )
    return Core(
        model=model.SerializeToString(deterministic=True),
        layout="flat",
        missing="native",
        output=score,
        columns=tuple(range(len(start)) if columns is None else columns),
        thresholds=_thresholds(trees),
    )


def _check(tree: Tree, index: int, num_features: int, num_outputs: int) -> None:
    size = len(tree.feature)
    arrays = (tree.threshold, tree.left, tree.right, tree.value, tree.is_leaf, tree.missing_left)
    if size == 0 or any(len(array) != size for array in arrays):
        raise ModelError(f"tree {index}: node arrays of different lengths, or empty")
    inner = ~tree.is_leaf
    features = tree.feature[inner]
    if features.size and not 0 <= features.min() <= features.max() < num_features:
        raise ModelError(f"tree {index} looks at feature {features.max()}, but there are {num_features}")
    if np.isnan(tree.threshold[inner]).any() or not np.isfinite(tree.value[tree.is_leaf]).all():
        raise ModelError(f"tree {index} holds a threshold that is NaN or a leaf that is not finite")
    if tree.value.ndim == 2 and tree.value.shape[1] != num_outputs:
        raise ModelError(f"tree {index} has leaves of {tree.value.shape[1]} values for {num_outputs} outputs")
    if tree.value.ndim == 1 and not 0 <= tree.output < num_outputs:
        raise ModelError(f"tree {index} adds to output {tree.output}, but there are {num_outputs}")


def _reachable(tree: Tree, index: int) -> NDArray[np.int64]:
    """Nodes that the root leads to, level by level; a dump may keep pruned ones, which would count as further roots."""
    size = len(tree.feature)
    levels = [np.zeros(1, np.int64)]
    seen = 1
    while True:
        inner = levels[-1][~tree.is_leaf[levels[-1]]]
        if not inner.size:
            return np.concatenate(levels)
        children = np.stack([tree.left[inner], tree.right[inner]], axis=1).ravel().astype(np.int64)
        seen += len(children)
        if children.min() < 1 or children.max() >= size or seen > size:
            raise ModelError(f"tree {index}: the children of its nodes form no tree")
        levels.append(children)


def _ensemble(trees: Sequence[Tree], base: NDArray[np.float64], mode: str) -> dict[str, Any]:
    """Attributes of TreeEnsembleRegressor; values as float64 tensors make ONNX Runtime add in float64."""
    nodes: dict[str, list[NDArray[Any]]] = {key: [] for key in ("tree", "id", "feature", "value", "yes", "no", "nan")}
    leaves: dict[str, list[NDArray[Any]]] = {key: [] for key in ("tree", "id", "output", "value")}
    is_leaf: list[NDArray[np.bool_]] = []
    for index, tree in enumerate(trees):
        order = _reachable(tree, index)
        number = np.zeros(len(tree.feature), np.int64)
        number[order] = np.arange(len(order))
        leaf = tree.is_leaf[order]
        is_leaf.append(leaf)
        nodes["tree"].append(np.full(len(order), index))
        nodes["id"].append(np.arange(len(order)))
        nodes["feature"].append(np.where(leaf, 0, tree.feature[order]))
        nodes["value"].append(np.where(leaf, 0.0, tree.threshold[order]))
        nodes["yes"].append(np.where(leaf, 0, number[np.where(leaf, 0, tree.left[order])]))
        nodes["no"].append(np.where(leaf, 0, number[np.where(leaf, 0, tree.right[order])]))
        nodes["nan"].append(tree.missing_left[order] & ~leaf)
        _add_leaves(leaves, tree, index, order, leaf)
    joined = {key: np.concatenate(parts) for key, parts in nodes.items()}
    targets = {key: np.concatenate(parts) for key, parts in leaves.items()}
    step = _step(trees, base)
    return {
        "n_targets": len(base),
        "aggregate_function": "SUM",
        "post_transform": "NONE",
        "nodes_treeids": joined["tree"].tolist(),
        "nodes_nodeids": joined["id"].tolist(),
        "nodes_featureids": joined["feature"].tolist(),
        "nodes_modes": np.where(np.concatenate(is_leaf), "LEAF", mode).tolist(),
        "nodes_truenodeids": joined["yes"].tolist(),
        "nodes_falsenodeids": joined["no"].tolist(),
        "nodes_missing_value_tracks_true": joined["nan"].astype(int).tolist(),
        "nodes_values_as_tensor": tensor(joined["value"].astype(np.float64)),
        "target_treeids": targets["tree"].tolist(),
        "target_nodeids": targets["id"].tolist(),
        "target_ids": targets["output"].tolist(),
        "target_weights_as_tensor": tensor(_rounded(targets["value"], step)),
        "base_values_as_tensor": tensor(_rounded(base, step)),
    }


def _add_leaves(
    leaves: dict[str, list[NDArray[Any]]],
    tree: Tree,
    index: int,
    order: NDArray[np.int64],
    leaf: NDArray[np.bool_],
) -> None:
    ids = np.flatnonzero(leaf)
    values = tree.value[order[ids]]
    outputs = 1 if values.ndim == 1 else values.shape[1]
    first = tree.output if values.ndim == 1 else 0
    leaves["tree"].append(np.full(len(ids) * outputs, index))
    leaves["id"].append(np.repeat(ids, outputs))
    leaves["output"].append(np.tile(np.arange(first, first + outputs), len(ids)))
    leaves["value"].append(values.ravel())


def _step(trees: Sequence[Tree], base: NDArray[np.float64]) -> float:
    """The unit of leaves: 2^-40, or coarser where the sums would not fit the 53 bits of float64 exactly."""
    bound = float(np.abs(base).max()) + sum(float(np.abs(tree.value[tree.is_leaf]).max()) for tree in trees)
    bits = min(LEAF_BITS, _FLOAT64_BITS - 1 - int(np.frexp(bound)[1]))
    return float(np.ldexp(1.0, -bits))


def _rounded(values: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    rounded: NDArray[np.float64] = np.round(np.asarray(values, np.float64) / step) * step
    return rounded


def _thresholds(trees: Sequence[Tree]) -> NDArray[np.float64]:
    """(flat index, value) of every comparison, each once."""
    inner = [~tree.is_leaf for tree in trees]
    features = np.concatenate([tree.feature[mask] for tree, mask in zip(trees, inner, strict=True)])
    values = np.concatenate([tree.threshold[mask] for tree, mask in zip(trees, inner, strict=True)])
    pairs = np.stack([features.astype(np.float64), values], axis=1)
    return np.unique(pairs[np.isfinite(values)], axis=0)
