"""The rows of the table: by name what the project learns, and the peer that learns the same in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from benchmarks.table.folds import Fold
from benchmarks.table.plain_loop import learn
from mlaas4hep.config import Model, Training

Scores = NDArray[Any]


class Row(NamedTuple):
    """A model of the project, its peer, and whether it sees collections as such and so wants some."""

    model: Model
    peer: Callable[[Fold, Training], Scores]
    collections: bool = False


def _sklearn(fold: Fold, training: Training) -> Scores:
    from benchmarks.table.plain_sklearn import SklearnPeer

    return learn(SklearnPeer(fold, training.seed), fold, training)


def _bdt(fold: Fold, training: Training) -> Scores:
    from benchmarks.table.plain_sklearn import boosting

    return boosting(fold, training.seed)


def _xgboost(fold: Fold, training: Training) -> Scores:
    from benchmarks.table.plain_trees import xgboost_scores

    return xgboost_scores(fold, training.seed)


def _lightgbm(fold: Fold, training: Training) -> Scores:
    from benchmarks.table.plain_trees import lightgbm_scores

    return lightgbm_scores(fold, training.seed)


def _torch(model: str) -> Callable[[Fold, Training], Scores]:
    def peer(fold: Fold, training: Training) -> Scores:
        from benchmarks.table.plain_torch import TorchPeer

        return learn(TorchPeer(model, fold, training.seed), fold, training)

    return peer


def _keras(fold: Fold, training: Training) -> Scores:
    from benchmarks.table.plain_keras import KerasPeer

    return learn(KerasPeer(fold, training.seed), fold, training)


def _jax(model: str) -> Callable[[Fold, Training], Scores]:
    def peer(fold: Fold, training: Training) -> Scores:
        from benchmarks.table.plain_jax import JaxPeer

        return learn(JaxPeer(model, fold, training.seed, training.batch_size), fold, training)

    return peer


ROWS: Mapping[str, Row] = {
    "bdt_sklearn": Row(Model(name="bdt"), _bdt),
    "xgboost": Row(Model(name="xgboost"), _xgboost),
    "lightgbm": Row(Model(name="lightgbm"), _lightgbm),
    "mlp_sklearn": Row(Model(name="mlp", backend="sklearn"), _sklearn),
    "mlp_torch": Row(Model(name="mlp", backend="torch"), _torch("mlp")),
    "mlp_jax": Row(Model(name="mlp", backend="jax"), _jax("mlp")),
    "mlp_keras": Row(Model(name="mlp", backend="keras"), _keras),
    "deepsets_torch": Row(Model(name="deepsets", backend="torch"), _torch("deepsets"), collections=True),
    "deepsets_jax": Row(Model(name="deepsets", backend="jax"), _jax("deepsets"), collections=True),
    "attention_torch": Row(Model(name="attention"), _torch("attention"), collections=True),
}
# Data sets, with whether they have collections.
DATASETS: Mapping[str, bool] = {
    "higgs": False,
    "htautau": False,
    "flares": False,
    "quark_gluon": True,
    "tth": True,
    "top": True,
}


def combinations(datasets: Sequence[str], models: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, str, int]]:
    """What the table is made of: all data sets with the first seed, then with the next."""
    return [
        (dataset, model, seed)
        for seed in seeds
        for dataset in datasets
        for model in models
        if DATASETS[dataset] or not ROWS[model].collections
    ]
