"""One line of the table: all folds of a data set with one model and seed, streamed and in memory."""

from __future__ import annotations

import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from benchmarks.table.folds import Fold, Which, in_memory
from benchmarks.table.lines import SIDES, Line, area, paired
from benchmarks.table.models import ROWS
from mlaas4hep.backends.reference import default_boosting_scores
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.train.limit import limit_events
from mlaas4hep.train.loop import judge
from mlaas4hep.train.run import train

Scores = NDArray[Any]


class _Sides(NamedTuple):
    """One fold of all sides: scores of its events by side, CPU seconds, and the epoch or round that was kept."""

    scores: dict[str, Scores]
    cpu_seconds: tuple[float, float]
    best_epoch: int


def measure(dataset: str, model: str, seed: int, *, folds: int, events: int, epochs: int | None) -> Line:
    """Train and judge all sides fold by fold."""
    every = [Which(dataset, seed, fold, folds, events, epochs) for fold in range(folds)]
    found = [_both(which, model) for which in every]
    tests = [in_memory(which).test for which in every]
    labels, weights = (np.concatenate([getattr(one, name) for one in tests]) for name in ("labels", "physics"))
    all_ = {side: np.concatenate([one.scores[side] for one in found]) for side in SIDES}
    areas = {side: area(scores, labels, weights) for side, scores in all_.items()}
    by_fold = [
        {side: round(area(scores, test.labels, test.physics).value, 6) for side, scores in one.scores.items()}
        for one, test in zip(found, tests, strict=True)
    ]
    difference = paired(*([one[side] for one in by_fold] for side in SIDES[:2]))
    seconds = [round(sum(own), 1) for own in zip(*(one.cpu_seconds for one in found), strict=True)]
    return {
        "dataset": dataset,
        "model": model,
        "seed": seed,
        "events": len(labels),
        "classes": np.bincount(labels).tolist(),
        "area": "of two classes" if all_["auc"].shape[1] == 1 else "mean of one class against the rest",
        **{side: round(one.value, 5) for side, one in areas.items()},
        "auc_err": round(areas["auc"].error, 5),
        "difference": difference.mean,
        "difference_err": difference.error,
        "by_fold": by_fold,
        "best_epochs": [one.best_epoch for one in found],
        "folds": folds,
        "limit": events,
        "epochs": epochs,
        "cpu_seconds": dict(zip(("streamed", "in_memory"), seconds, strict=True)),
    }


def _both(which: Which, model: str) -> _Sides:
    fold = in_memory(which)
    started = time.process_time()
    ours, best_epoch = _streamed(which, model, fold)
    between = time.process_time()
    peers = ROWS[model].peer(fold, which.config().training)
    seconds = between - started, time.process_time() - between
    return _Sides(dict(zip(SIDES, (ours, peers, _boosting(which)), strict=True)), seconds, best_epoch)


def _streamed(which: Which, model: str, fold: Fold) -> tuple[Scores, int]:
    """Out-of-fold scores by the graph of the bundle, and the epoch or round that was kept."""
    config = replace(which.config(), model=ROWS[model].model)
    with tempfile.TemporaryDirectory() as folder:
        result = train(config, output=Path(folder) / "run", max_events=which.events)
        catalogue = limit_events(Catalogue.open(config), which.events)
        preprocessor = Preprocessor(config.features, catalogue.types)
        with EventDataset(catalogue, preprocessor, part="test", batch_size=4096) as dataset:
            found = judge(result.bundle.predict, dataset)
    if not (np.array_equal(found.labels, fold.test.labels) and np.array_equal(found.weights, fold.test.physics)):
        raise RuntimeError(f"{which}: the test part of the run is not that of its peer")
    return found.scores, result.history.best_epoch


@lru_cache(maxsize=16)
def _boosting(which: Which) -> Scores:
    """Default boosting of scikit-learn on the flat view, a collection slot by slot."""
    fold = in_memory(which)
    found = default_boosting_scores(fold.train.raw, fold.train.labels, fold.test.raw)
    return found[:, 1:] if fold.outputs == 1 else found
