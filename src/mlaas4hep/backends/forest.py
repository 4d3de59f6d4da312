"""Boosted trees kept as plain arrays: written into a bundle's native folder, read back and evaluated by numpy.

Used by backends that learn trees. Invariant: the arrays alone give the scores; no framework is needed to read them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.backends.protocol import Arrays, Scores, Task
from mlaas4hep.graph.core import Core, Link
from mlaas4hep.graph.trees import Tree, lower_trees
from mlaas4hep.spec.scaling import Scaler, Tensors

_NODE_ARRAYS = ("feature", "threshold", "left", "right", "value", "is_leaf", "missing_left")


def pack_trees(trees: Sequence[Tree], base: NDArray[np.float64]) -> dict[str, NDArray[np.generic]]:
    """Node arrays of all trees one after the other, with their offsets [T + 1], outputs [T] and the base [C]."""
    arrays: dict[str, NDArray[np.generic]] = {
        name: np.concatenate([getattr(tree, name) for tree in trees]) for name in _NODE_ARRAYS
    }
    arrays["offsets"] = np.cumsum([0, *(len(tree.feature) for tree in trees)])
    arrays["output"] = np.array([tree.output for tree in trees], np.int64)
    arrays["base"] = base
    return arrays


def unpack_trees(arrays: Arrays) -> list[Tree]:
    """The trees that `pack_trees` put together."""
    offsets = arrays["offsets"]
    return [
        Tree(**{name: arrays[name][start:stop] for name in _NODE_ARRAYS}, output=int(output))
        for start, stop, output in zip(offsets[:-1], offsets[1:], arrays["output"], strict=True)
    ]


class StoredForest:
    """Trees read back: predicts and exports, does not learn.

    Parameters
    ----------
    arrays
        What `pack_trees` gave.
    task
        What was learned.
    """

    def __init__(self, arrays: Arrays, task: Task) -> None:
        self.trees = unpack_trees(arrays)
        self.base = arrays["base"]
        self.task = task
        self._scaler = Scaler(task.groups)

    def predict(self, inputs: Tensors) -> Scores:
        """Scores [N, C], float64; in numpy, for checks rather than for speed."""
        rows = self._scaler.native(inputs).astype(np.float64)
        margins = np.tile(self.base, (len(rows), 1))
        for tree in self.trees:
            margins[:, tree.output] += tree.value[leaves(tree, rows)]
        return linked(margins, self.task.link)

    def export(self) -> Core:
        """The trees as a float64 ensemble."""
        return lower_trees(self.trees, num_features=self.task.width, base=self.base, link=self.task.link)


def linked(margins: NDArray[np.float64], link: Link) -> Scores:
    """Scores [N, C] of margins [N, C]."""
    if link == "identity":
        return margins
    if link == "sigmoid":
        signal: Scores = 1.0 / (1.0 + np.exp(-margins))
        return signal
    shifted = np.exp(margins - margins.max(axis=1, keepdims=True))
    scores: Scores = shifted / shifted.sum(axis=1, keepdims=True)
    return scores


def leaves(tree: Tree, rows: NDArray[np.float64]) -> NDArray[np.int64]:
    """Leaf that each row [N, W] of a tree with ``<=`` splits ends in, int64 [N]."""
    node = np.zeros(len(rows), np.int64)
    inner = ~tree.is_leaf[node]
    while inner.any():
        at = node[inner]
        values = rows[inner, tree.feature[at]]
        goes_left = np.where(np.isnan(values), tree.missing_left[at], values <= tree.threshold[at])
        node[inner] = np.where(goes_left, tree.left[at], tree.right[at])
        inner = ~tree.is_leaf[node]
    return node
