"""Small contracts and models with fixed random weights, for the tests of graphs and bundles: no framework, no files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.graph.core import Core
from mlaas4hep.graph.dense import lower_dense
from mlaas4hep.graph.trees import Tree, lower_trees
from mlaas4hep.spec.columns import ColumnType
from mlaas4hep.spec.contract import ModelSpec, Task
from mlaas4hep.spec.features import FeatureSpec, InputGroup, Scale, Variable
from mlaas4hep.spec.scaling import FeatureScaling, GroupScaling, Scaler, flatten
from mlaas4hep.spec.statistics import FeatureStatistics, Statistics

Inputs = dict[str, NDArray[np.float32]]
Reference = Callable[[Inputs], NDArray[np.float64]]
KINDS: tuple[Scale, ...] = ("none", "standard", "minmax", "log")


def make_spec(
    *,
    name: str = "toy",
    score_names: tuple[str, ...] = ("signal",),
    task: Task = "binary",
    event: int = 4,
    jets: tuple[int, int] | None = (3, 5),
) -> ModelSpec:
    """A contract with ``event`` of some variables and ``jets`` of K objects with F variables."""
    groups = [_group("event", event, None)] if event else []
    if jets is not None:
        groups.append(_group("jets", jets[1], jets[0]))
    features = FeatureSpec(inputs=tuple(groups), classes=("background", "signal"))
    columns = {
        variable.name: ColumnType("flat" if group.length is None else "jagged", "float32")
        for group in groups
        for variable in group.variables
    }
    return ModelSpec(
        name=name,
        task=task,
        classes=("background", "signal"),
        score_names=score_names,
        features=features,
        columns=columns,
        scaling=tuple(_scaling(group) for group in groups),
        statistics=Statistics(groups={one.name: (FeatureStatistics(),) * len(one.variables) for one in groups}),
    )


def _group(name: str, size: int, length: int | None) -> InputGroup:
    variables = tuple(Variable(f"{name}_{i}", KINDS[i % len(KINDS)]) for i in range(size))
    return InputGroup(name, variables, length)


def _scaling(group: InputGroup) -> GroupScaling:
    features = tuple(
        FeatureScaling(one.scale) if one.scale == "none" else FeatureScaling(one.scale, 0.5 + i, 0.25)
        for i, one in enumerate(group.variables)
    )
    return GroupScaling(group.name, tuple(one.name for one in group.variables), features, group.length)


def make_rows(spec: ModelSpec, count: int, *, seed: int = 0) -> Inputs:
    """Raw tensors: collections of 0 to K objects, one value in ten missing."""
    random = np.random.default_rng(seed)
    rows = {}
    for group in spec.scaling:
        values = (random.normal(size=(count, *group.shape)) * 4 + 1).astype(np.float32)
        values[random.random(values.shape) < 0.1] = np.nan
        if group.length is not None:
            values[np.arange(group.length) >= random.integers(0, group.length + 1, count)[:, None]] = np.nan
        rows[group.name] = values
    return rows


def make_mlp(spec: ModelSpec, *, hidden: int = 8, seed: int = 0) -> tuple[Core, Reference]:
    """A network on the flat view, and the same in numpy and float64."""
    random = np.random.default_rng(seed)
    outputs = len(spec.score_names)
    sizes = [spec.width, hidden, outputs]
    weights = [(random.normal(size=size) / np.sqrt(size[0])).astype(np.float32) for size in pairwise(sizes)]
    biases = [random.normal(size=size).astype(np.float32) for size in sizes[1:]]
    scaler = Scaler(spec.scaling)

    def reference(inputs: Inputs) -> NDArray[np.float64]:
        flat = scaler.flat(inputs).astype(np.float64)
        return _linked(np.maximum(flat @ weights[0] + biases[0], 0) @ weights[1] + biases[1])

    link = "sigmoid" if outputs == 1 else "softmax"
    return lower_dense(weights, biases, activation="relu", link=link), reference


def make_tree(num_features: int, *, depth: int, output: int = 0, random: np.random.Generator) -> Tree:
    """A full tree with random thresholds and leaves, some of its inner nodes leaves already."""
    size = 2 ** (depth + 1) - 1
    inner = 2**depth - 1
    is_leaf = np.arange(size) >= inner
    is_leaf[1:inner] |= random.random(max(inner - 1, 0)) < 0.1
    children = 2 * np.arange(size) + 1
    return Tree(
        feature=random.integers(0, num_features, size),
        threshold=np.round(random.normal(size=size) * 4, 1),
        left=np.where(is_leaf, 0, children),
        right=np.where(is_leaf, 0, children + 1),
        value=random.normal(size=size) * 0.2,
        is_leaf=is_leaf,
        missing_left=random.random(size) < 0.5,
        output=output,
    )


def walk(tree: Tree, flat: NDArray[np.float32], *, mode: str = "<=") -> NDArray[np.float64]:
    """Leaf value of each row, in the plainest way."""
    values = np.zeros(len(flat))
    for index, row in enumerate(flat.astype(np.float64)):
        node = 0
        while not tree.is_leaf[node]:
            x, threshold = row[tree.feature[node]], tree.threshold[node]
            left = tree.missing_left[node] if np.isnan(x) else (x <= threshold if mode == "<=" else x < threshold)
            node = int(tree.left[node] if left else tree.right[node])
        values[index] = tree.value[node]
    return values


def make_trees(
    spec: ModelSpec, *, count: int = 6, depth: int = 3, seed: int = 0
) -> tuple[Core, Reference, Sequence[Tree]]:
    """Boosted trees on the raw flat view, the same in numpy, and the trees."""
    random = np.random.default_rng(seed)
    outputs = len(spec.score_names)
    trees = [make_tree(spec.width, depth=depth, output=i % outputs, random=random) for i in range(count)]
    base = np.linspace(-0.3, 0.3, outputs)
    scaler = Scaler(spec.scaling)

    def reference(inputs: Inputs) -> NDArray[np.float64]:
        flat = scaler.native(inputs)
        margin = np.tile(base, (len(flat), 1))
        for tree in trees:
            margin[:, tree.output] += walk(tree, flat)
        return _linked(margin)

    link = "sigmoid" if outputs == 1 else "softmax"
    return lower_trees(trees, num_features=spec.width, base=base, link=link), reference, trees


def _linked(margin: NDArray[np.float64]) -> NDArray[np.float64]:
    if margin.shape[1] == 1:
        return 1 / (1 + np.exp(-margin))
    powers = np.exp(margin - margin.max(axis=1, keepdims=True))
    softmax: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return softmax


def bits(array: NDArray[np.float32]) -> NDArray[np.int32]:
    """The bits of float32 values, all NaN alike: equal where values are the same down to the sign of zero."""
    return np.where(np.isnan(array), np.float32(np.nan), array).view(np.int32)


__all__ = ["bits", "flatten", "make_mlp", "make_rows", "make_spec", "make_tree", "make_trees", "walk"]
