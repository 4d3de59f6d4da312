"""scikit-learn's own network and boosting on arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neural_network import MLPClassifier

from benchmarks.table.folds import FLAT, Fold, Inputs
from benchmarks.table.plain_loop import Arrays
from mlaas4hep.backends.sklearn import BdtDials, MlpDials


class SklearnPeer:
    """`Network` of scikit-learn: a `partial_fit` of one batch is a step."""

    def __init__(self, fold: Fold, seed: int) -> None:
        dials = MlpDials()
        self.averaging = dials.averaging
        self.l2 = dials.l2
        self.classes = np.arange(fold.classes)
        # There are no layers before a first call: another network of the same seed takes one that moves nothing.
        idle = _network(1e-30, seed)
        idle.partial_fit(np.zeros((1, fold.train.inputs[FLAT].shape[1])), self.classes[:1], classes=self.classes)
        self.first = [*idle.coefs_, *idle.intercepts_]
        self.network = _network(dials.learning_rate, seed)
        self.shown = idle

    def step(self, inputs: Inputs, labels: NDArray[np.int64], shares: NDArray[np.float32]) -> None:
        """scikit-learn takes the mean over weights, and divides alpha by their sum."""
        self.network.set_params(batch_size=len(labels), alpha=self.l2 * len(labels))
        self.network.partial_fit(inputs[FLAT], labels, shares * len(labels), classes=self.classes)

    def weights(self) -> Arrays:
        """Views of all layers."""
        if not hasattr(self.network, "coefs_"):
            return self.first
        return [*self.network.coefs_, *self.network.intercepts_]

    def scores(self, weights: Arrays, inputs: Inputs) -> NDArray[Any]:
        """By a copy of the network."""
        half = len(weights) // 2
        self.shown.coefs_, self.shown.intercepts_ = list(weights[:half]), list(weights[half:])
        found: NDArray[Any] = self.shown.predict_proba(inputs[FLAT])
        return found[:, 1:] if len(self.classes) == 2 else found


def _network(rate: float, seed: int) -> MLPClassifier:
    return MLPClassifier(MlpDials().hidden, learning_rate_init=rate, random_state=seed, shuffle=False)


def boosting(fold: Fold, seed: int) -> NDArray[Any]:
    """Scores of the test part by `HistGradientBoostingClassifier` with our dials, its own bins and stopping."""
    dials = BdtDials()
    trees = HistGradientBoostingClassifier(
        max_iter=dials.trees,
        learning_rate=dials.learning_rate,
        max_leaf_nodes=dials.leaves,
        max_depth=dials.depth,
        min_samples_leaf=dials.min_events,
        l2_regularization=dials.l2,
        max_bins=dials.bins,
        n_iter_no_change=dials.patience,
        early_stopping=True,
        random_state=seed,
    )
    # A column without any value ends scikit-learn's binning in an error.
    filled = ~np.isnan(fold.train.raw).all(axis=0)
    train, check = fold.train, fold.validation
    scale = len(train) / train.training.sum()
    trees.fit(
        train.raw[:, filled],
        train.labels,
        train.training * scale,
        X_val=check.raw[:, filled],
        y_val=check.labels,
        sample_weight_val=check.training * scale,
    )
    found: NDArray[Any] = trees.predict_proba(fold.test.raw[:, filled])
    return found[:, 1:] if fold.outputs == 1 else found
