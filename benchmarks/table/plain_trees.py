"""`xgboost.train` and `lightgbm.train` on arrays of raw values, with our dials and their own settings otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
from msgspec.structs import asdict
from numpy.typing import NDArray

from benchmarks.table.folds import Fold, Rows


def xgboost_scores(fold: Fold, seed: int) -> NDArray[Any]:
    """Scores of the test part."""
    import xgboost

    from mlaas4hep.backends.xgboost import BoostingDials

    dials = BoostingDials()
    several = {"objective": "multi:softprob", "eval_metric": "mlogloss", "num_class": fold.classes}
    settings: dict[str, Any] = {
        "learning_rate": dials.learning_rate,
        "max_depth": dials.depth,
        "min_child_weight": dials.min_child_weight,
        "reg_lambda": dials.l2,
        "subsample": dials.subsample,
        "max_bin": dials.bins,
        "tree_method": "hist",
        "nthread": 1,
        "seed": seed,
        **({"objective": "binary:logistic", "eval_metric": "logloss"} if fold.outputs == 1 else several),
    }
    train, check = (xgboost.DMatrix(x, y, weight=w) for x, y, w in map(_given, (fold.train, fold.validation)))
    booster = xgboost.train(
        settings,
        train,
        dials.trees,
        evals=[(check, "validation")],
        early_stopping_rounds=dials.patience,
        verbose_eval=False,
    )
    found = booster.predict(xgboost.DMatrix(fold.test.raw), iteration_range=(0, booster.best_iteration + 1))
    return np.asarray(found).reshape(len(fold.test), -1)


def lightgbm_scores(fold: Fold, seed: int) -> NDArray[Any]:
    """Scores of the test part."""
    import lightgbm

    from mlaas4hep.backends.lightgbm import BoostingDials

    several = {"objective": "multiclass", "num_class": fold.classes, "metric": "multi_logloss"}
    settings: dict[str, Any] = {
        **asdict(BoostingDials()),
        **({"objective": "binary", "metric": "binary_logloss"} if fold.outputs == 1 else several),
        "bagging_freq": 1,
        "seed": seed,
        "num_threads": 1,
        "verbosity": -1,
    }
    x, labels, weights = _given(fold.train)
    train = lightgbm.Dataset(x, labels, weight=weights, params=settings)
    x, labels, weights = _given(fold.validation)
    check = lightgbm.Dataset(x, labels, weight=weights, reference=train, params=settings)
    booster = lightgbm.train(settings, train, valid_sets=[check])
    return np.asarray(booster.predict(fold.test.raw)).reshape(len(fold.test), -1)


def _given(rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
    return rows.raw, rows.labels, rows.training / rows.training.mean()
