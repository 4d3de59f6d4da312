"""From XGBoost's own JSON to plain node arrays: no XGBoost and no converter needed.

The JSON is what `Booster.save_raw("json")` gives and what a bundle keeps. Invariant: a decimal in it stands for the
float32 next to it; rows on both sides of a threshold go where XGBoost sends them only if it is read as such.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import ModelError
from mlaas4hep.graph.core import Core, Link
from mlaas4hep.graph.trees import Tree, lower_trees

BINARY, MULTICLASS = "binary:logistic", "multi:softprob"
REGRESSIONS = ("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror")
_IDENTITY: Link = "identity"
_LINKS: Mapping[str, Link] = {BINARY: "sigmoid", MULTICLASS: "softmax", **dict.fromkeys(REGRESSIONS, _IDENTITY)}


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """Boosted trees.

    Parameters
    ----------
    trees
        In the order in which they were learned, with ``<`` splits.
    base
        float64 [C], margin before the first tree.
    width
        Features W.
    link
        From margins to scores.
    """

    trees: tuple[Tree, ...]
    base: NDArray[np.float64]
    width: int
    link: Link

    def export(self) -> Core:
        """As a float64 ensemble."""
        return lower_trees(
            self.trees,
            num_features=self.width,
            base=self.base,
            link=self.link,
            mode="<",
        )


def read_forest(model: bytes) -> Forest:
    """The trees of a model in XGBoost's JSON.

    Raises
    ------
    ModelError
        It is no such JSON, or of a kind that is not written as a graph: DART, linear, categorical splits, several
        outputs in one leaf, another objective.
    """
    try:
        learner = json.loads(model)["learner"]
        objective, booster = learner["objective"]["name"], learner["gradient_booster"]["name"]
        _require("objective", objective, tuple(_LINKS))
        _require("booster", booster, ("gbtree",))
        parts = learner["gradient_booster"]["model"]
        trees = [_tree(one, int(output)) for one, output in zip(parts["trees"], parts["tree_info"], strict=True)]
        base = _base(learner["learner_model_param"], binary=objective == BINARY)
        width = int(learner["learner_model_param"]["num_feature"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"this is no model in XGBoost's JSON: {type(error).__name__}: {error}") from error
    return Forest(tuple(trees), base, width, _LINKS[objective])


def _require(what: str, found: str, known: tuple[str, ...]) -> None:
    if found not in known:
        raise ModelError(f"XGBoost's {what} {found} cannot be written as a graph yet; known: {', '.join(known)}")


def _base(parameters: Mapping[str, Any], *, binary: bool) -> NDArray[np.float64]:
    """Base margin [C]: a number, or from version 3 on a list in brackets; a probability where there are two classes."""
    found = json.loads(parameters["base_score"])
    score = np.atleast_1d(np.asarray(found, np.float32))
    if binary:
        # In float32, as XGBoost computes it.
        score = -np.log(np.float32(1) / score - np.float32(1))
    outputs = max(1, int(parameters["num_class"]), int(parameters.get("num_target", 1)))
    return np.broadcast_to(score.astype(np.float64), (outputs,)).copy()


def _tree(dump: Mapping[str, Any], output: int) -> Tree:
    if any(dump["split_type"]):
        raise ModelError("XGBoost's categorical splits cannot be written as a graph yet; give numbers")
    if int(dump["tree_param"]["size_leaf_vector"]) > 1:
        raise ModelError("XGBoost's trees with several outputs in one leaf cannot be written as a graph yet")
    left = np.asarray(dump["left_children"], np.int64)
    # Leaves keep their value where inner nodes keep their threshold.
    numbers = np.asarray(dump["split_conditions"], np.float32).astype(np.float64)
    return Tree(
        feature=np.asarray(dump["split_indices"], np.int64),
        threshold=numbers,
        left=left,
        right=np.asarray(dump["right_children"], np.int64),
        value=numbers,
        is_leaf=left < 0,
        missing_left=np.asarray(dump["default_left"], np.bool_),
        output=output,
    )
