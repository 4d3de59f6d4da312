"""Boosting of scikit-learn for a regression: one `HistGradientBoostingRegressor` a target, on one table.

Used by `mlaas4hep.backends.sklearn`. scikit-learn's boosting has one output, so each target has trees of its own and
stops by itself. Invariant: output t of the exported trees is target t; rounds are told as if all were learned together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor

from mlaas4hep.backends.arrays import pack
from mlaas4hep.backends.binning import bin_edges
from mlaas4hep.backends.forest import pack_trees
from mlaas4hep.backends.losses import Loss, LossName
from mlaas4hep.backends.protocol import Round, Scores, Table, Task
from mlaas4hep.backends.sklearn_learners import (
    BDT,
    boosting_memory,
    settings_of,
    split_values,
    threads_of,
    tree_of,
    write_bins,
)
from mlaas4hep.backends.weights import relative, require_positive
from mlaas4hep.graph.core import Core
from mlaas4hep.graph.trees import Tree, lower_trees
from mlaas4hep.spec.scaling import Scaler, Tensors

# scikit-learn's names, and ours.
LOSSES: dict[str, LossName] = {"squared_error": "squared", "absolute_error": "absolute"}


class BdtTargets:
    """Boosted trees of targets in standard units, on raw values, NaN where missing.

    Parameters
    ----------
    boosting
        Not fitted yet; copied for each target.
    task
        What is learned.
    """

    capabilities = BDT
    dtype: np.dtype[Any] = np.dtype(np.float64)

    def __init__(self, boosting: HistGradientBoostingRegressor, task: Task) -> None:
        self.boostings: list[HistGradientBoostingRegressor] = [clone(boosting) for _ in task.targets]
        self.task = task
        self.loss = Loss(LOSSES[boosting.loss])
        self._scaler = Scaler(task.groups)

    def view(self, inputs: Tensors) -> NDArray[Any]:
        """Raw flat rows."""
        return self._scaler.native(inputs)

    def memory_estimate(self, rows: int, validation_rows: int) -> int:
        """As `boosting_memory`."""
        return boosting_memory(rows, validation_rows, self.task, leaves=self.boostings[0].max_leaf_nodes)

    def fit(self, train: Table, validation: Table | None, *, patience: int) -> Sequence[Round]:
        """Learn target by target, and keep of each the rounds up to its best; writes over the tables.

        ``patience`` of the training counts epochs and is not used: a round is one tree a target.
        """
        if validation is not None and not len(validation):
            validation = None
        parts = [part for part in (train, validation) if part is not None]
        for part in parts:
            require_positive(part.weights, model="bdt (backend sklearn)")
        weights = relative(train.weights)
        edges = [bin_edges(column, weights, bins=self.boostings[0].max_bins) for column in train.x.T]
        for part in parts:
            write_bins(part.x, edges)
        with threads_of(self.task):
            found = [self._fit(place, train, validation, weights) for place in range(len(self.boostings))]
        for boosting in self.boostings:
            split_values(boosting, edges)
        return _together(found)

    def _fit(self, place: int, train: Table, validation: Table | None, weights: NDArray[np.float64]) -> list[Round]:
        """Rounds of one target."""
        boosting, wanted = self.boostings[place], train.targets[:, place].astype(np.float64)
        if validation is None or boosting.early_stopping is False:
            boosting.set_params(early_stopping=False)
            boosting.fit(train.x, wanted, weights)
            # scikit-learn keeps no losses of rounds that nothing watches; the table holds bins, as do the trees so far.
            residuals = (boosting.predict(train.x) - wanted)[:, None]
            last = float(np.average(self.loss.of(residuals), weights=weights))
            return [Round(math.nan)] * (boosting.n_iter_ - 1) + [Round(last)]
        watched = {"X_val": validation.x, "y_val": validation.targets[:, place].astype(np.float64)}
        boosting.fit(train.x, wanted, weights, **watched, sample_weight_val=relative(validation.weights))
        return self._kept(boosting)

    def _kept(self, boosting: HistGradientBoostingRegressor) -> list[Round]:
        """Rounds, and the trees after the best of them taken away."""
        factor = 2.0 if self.loss.name == "squared" else 1.0  # scikit-learn halves squares
        losses, after = (-factor * scores[1:] for scores in (boosting.train_score_, boosting.validation_score_))
        del boosting._predictors[int(np.argmin(after)) + 1 :]
        return [Round(float(one), float(other)) for one, other in zip(losses, after, strict=True)]

    def predict(self, inputs: Tensors) -> Scores:
        """Targets in standard units, [N, T], float64."""
        rows = self._scaler.native(inputs)
        with threads_of(self.task):
            scores: Scores = np.stack([boosting.predict(rows) for boosting in self.boostings], axis=1)
        return scores

    def trees(self) -> list[Tree]:
        """All trees, target by target."""
        return [
            tree_of(predictor.nodes, output)
            for output, boosting in enumerate(self.boostings)
            for (predictor,) in boosting._predictors
        ]

    @property
    def base(self) -> NDArray[np.float64]:
        """Value before the first tree, [T]."""
        return np.concatenate([np.ravel(one._baseline_prediction) for one in self.boostings]).astype(np.float64)

    def export(self) -> Core:
        """The trees as a float64 ensemble."""
        return lower_trees(self.trees(), num_features=self.task.width, base=self.base, link=self.task.link)

    def native(self) -> dict[str, bytes]:
        """Node arrays of all trees and the estimator's parameters."""
        return pack(settings_of("bdt", self.boostings[0]), pack_trees(self.trees(), self.base))


def _together(found: Sequence[Sequence[Round]]) -> list[Round]:
    """Rounds of several targets as those of one model: the mean over the targets.

    A target that has seen its best round, or has stopped, goes on with that: it is what is kept of it.
    """
    if len(found) == 1:
        return list(found[0])
    length = max(map(len, found))
    kept = [_kept_so_far(rounds, length) for rounds in found]
    return [_mean([rounds[number] for rounds in kept]) for number in range(length)]


def _kept_so_far(rounds: Sequence[Round], length: int) -> list[Round]:
    best, kept = rounds[0], []
    for one in rounds:
        if one.validation_loss is None or best.validation_loss is None or one.validation_loss < best.validation_loss:
            best = one
        kept.append(best)
    return kept + [best] * (length - len(kept))


def _mean(rounds: Sequence[Round]) -> Round:
    after = [one.validation_loss for one in rounds if one.validation_loss is not None]
    return Round(float(np.mean([one.train_loss for one in rounds])), float(np.mean(after)) if after else None)
