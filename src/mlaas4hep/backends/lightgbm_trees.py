"""From LightGBM's own text model to plain node arrays: no LightGBM and no converter needed.

The text is what `Booster.model_to_string` gives and what a bundle keeps: 17 digits a number, so that a threshold is
read as the float64 that it is; LightGBM's JSON is not as exact. Invariant: a row ends in the leaf that LightGBM sends
it to, also at thresholds, next to zero (it takes everything within 1e-35 for zero) and where values are missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import ModelError
from mlaas4hep.graph.core import Core, Link
from mlaas4hep.graph.trees import Tree, lower_trees
from mlaas4hep.spec.scaling import FLOAT32_MAX

# By objective as the text says it; others have another link, or none that is written yet.
_LINKS: Mapping[str, Link] = {"binary sigmoid:1": "sigmoid", "multiclass": "softmax"}

# LightGBM's kZeroThreshold, a float32: what is as small counts as 0 when it predicts.
_ZERO = float(np.float32(1e-35))
_BELOW_ZERO = float(np.nextafter(-_ZERO, -np.inf))

# Bits of a node's decision type.
_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_MISSING_ZERO, _MISSING_NAN = 1, 2


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """Boosted trees with ``<=`` splits.

    Parameters
    ----------
    trees
        In the order in which they were learned; the first of each output holds the margin that learning began with.
    outputs
        C.
    width
        Features W.
    link
        From margins to scores.
    """

    trees: tuple[Tree, ...]
    outputs: int
    width: int
    link: Link

    def export(self) -> Core:
        """As a float64 ensemble."""
        return lower_trees(self.trees, num_features=self.width, base=np.zeros(self.outputs), link=self.link)


def read_forest(model: bytes) -> Forest:
    """The trees of a model in LightGBM's text.

    Raises
    ------
    ModelError
        It is no such text, or of a kind that is not written as a graph: categorical splits, linear trees, random
        forests, zero taken for missing, another objective.
    """
    try:
        head, blocks = _sections(model.decode())
        link = _link(head)
        outputs = int(head["num_tree_per_iteration"])
        trees = tuple(_tree(block, index % outputs) for index, block in enumerate(blocks))
        width = int(head["max_feature_idx"]) + 1
    except (ValueError, KeyError, IndexError, ZeroDivisionError) as error:
        raise ModelError(f"this is no model in LightGBM's text: {type(error).__name__}: {error}") from error
    return Forest(trees, outputs, width, link)


def _sections(text: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Keys and values of the head, and those of each tree; what follows the trees is left."""
    lines = iter(text.splitlines())
    if next(lines, "") != "tree":
        raise ValueError("it does not begin with 'tree'")
    head = dict(_pairs(lines))
    blocks: list[dict[str, str]] = []
    for line in lines:
        if line == "end of trees":
            return head, blocks
        if line.startswith("Tree="):
            blocks.append(dict(_pairs(lines)))
    raise ValueError("the end of the trees is missing")


def _pairs(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Of one section, up to the empty line behind it; a key may stand alone."""
    for line in lines:
        if not line:
            return
        key, _, value = line.partition("=")
        yield key, value


def _link(head: Mapping[str, str]) -> Link:
    if "average_output" in head:
        raise ModelError("LightGBM's random forests cannot be written as a graph yet; known: boosted trees")
    objective = head["objective"]
    for known in (objective, objective.partition(" ")[0]):
        if known in _LINKS:
            return _LINKS[known]
    raise ModelError(f"LightGBM's objective {objective} cannot be written as a graph yet; known: {', '.join(_LINKS)}")


def _tree(block: Mapping[str, str], output: int) -> Tree:
    if int(block["num_cat"]):
        raise ModelError("LightGBM's categorical splits cannot be written as a graph yet; give numbers")
    if int(block["is_linear"]):
        raise ModelError("LightGBM's linear trees cannot be written as a graph yet; known: constant leaves")
    values = np.array(block["leaf_value"].split(), np.float64)
    leaves, inner = len(values), len(values) - 1
    if leaves != int(block["num_leaves"]):
        raise ValueError(f"{leaves} leaves instead of {block['num_leaves']}")
    if inner == 0:
        return _constant(values, output)
    threshold = np.array(block["threshold"].split(), np.float64)
    decision = np.array(block["decision_type"].split(), np.int64)
    return Tree(
        feature=_filled([int(one) for one in block["split_feature"].split()], leaves),
        threshold=np.concatenate([_for_float32(threshold), np.zeros(leaves)]),
        left=_filled(_children(block["left_child"], inner), leaves),
        right=_filled(_children(block["right_child"], inner), leaves),
        value=np.concatenate([np.zeros(inner), values]),
        is_leaf=np.arange(inner + leaves) >= inner,
        missing_left=np.concatenate([_missing_left(decision, threshold), np.zeros(leaves, np.bool_)]),
        output=output,
    )


def _constant(values: NDArray[np.float64], output: int) -> Tree:
    nowhere, no = np.zeros(1, np.int64), np.zeros(1, np.bool_)
    return Tree(nowhere, np.zeros(1), nowhere, nowhere, values, ~no, no, output)


def _filled(inner: Sequence[int], leaves: int) -> NDArray[np.int64]:
    return np.array([*inner, *(0 for _ in range(leaves))], np.int64)


def _children(text: str, inner: int) -> list[int]:
    """Inner nodes come first here, then the leaves; LightGBM numbers leaves -1, -2, ..."""
    return [node if node >= 0 else inner + ~node for node in map(int, text.split())]


def _for_float32(threshold: NDArray[np.float64]) -> NDArray[np.float64]:
    """Thresholds that send each float32 x where LightGBM sends it: to where 0 goes if |x| <= 1e-35.

    A split between what is there and what is missing has 1e300, which is infinity for a float32.
    """
    left_of_zero = (threshold >= -_ZERO) & (threshold < 0)
    right_of_zero = (threshold >= 0) & (threshold < _ZERO)
    moved = np.where(left_of_zero, _BELOW_ZERO, np.where(right_of_zero, _ZERO, threshold))
    return np.where(moved >= FLOAT32_MAX, np.inf, moved)


def _missing_left(decision: NDArray[np.int64], threshold: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where NaN goes: its own way where the training part had missing values, else with 0."""
    if (decision & _CATEGORICAL).any():
        raise ModelError("LightGBM's categorical splits cannot be written as a graph yet; give numbers")
    missing = (decision >> 2) & 3
    if (missing == _MISSING_ZERO).any():
        raise ModelError("LightGBM's zero_as_missing cannot be written as a graph yet; NaN is missing here")
    return np.where(missing == _MISSING_NAN, (decision & _DEFAULT_LEFT) > 0, threshold >= 0)
