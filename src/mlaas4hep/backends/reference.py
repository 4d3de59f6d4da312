"""The yardstick: scikit-learn's histogram boosting with its defaults, in memory, without anything of ours around it.

A model of ours is worth no more than its distance to what anyone gets in three lines. It learns on one thread: beside
other work OpenMP's threads wait for each other in a busy loop, and seconds become minutes.
Invariant: no dial, no weight and no validation part reaches it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]


def default_boosting_scores(
    x: NDArray[np.float32], labels: NDArray[np.int64], x_test: NDArray[np.float32]
) -> NDArray[Any]:
    """Probabilities [M, classes] of ``x_test`` [M, W] by default boosting learned from ``x`` [N, W]; NaN is missing."""
    # A column without any value, such as a jet slot that is never filled, ends scikit-learn's binning in an error.
    filled = ~np.isnan(x).all(axis=0)
    with threadpool_limits(1):
        boosting = HistGradientBoostingClassifier(random_state=0).fit(x[:, filled], labels)
        scores: NDArray[Any] = boosting.predict_proba(x_test[:, filled])
    return scores


def default_boosting_targets(
    x: NDArray[np.float32], targets: NDArray[np.float32], x_test: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Predictions [M, T] for ``x_test`` [M, W] by default boosting, one model a target, from ``x`` [N, W]."""
    filled = ~np.isnan(x).all(axis=0)
    with threadpool_limits(1):
        models = [HistGradientBoostingRegressor(random_state=0).fit(x[:, filled], one) for one in targets.T]
        return np.stack([model.predict(x_test[:, filled]) for model in models], axis=1)
