"""Learner around XGBoost's histogram boosting, with the training part in external memory.

Used by `mlaas4hep.backends.xgboost`. XGBoost walks over pages on disk a few times to find its bins, keeps the bin
numbers in a cache on disk, and reads that level by level. Invariant: pages come in the order of the stream, weights
with a mean of 1; on the same number of threads the same events give the same trees to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from traceback import clear_frames
from typing import Any

import numpy as np
import xgboost

from mlaas4hep.backends.boosting import BoostingBase, best_round
from mlaas4hep.backends.forest import linked
from mlaas4hep.backends.protocol import Capabilities, Pages, Round, Scores, Table, Task
from mlaas4hep.backends.spool import PAGE_BYTES
from mlaas4hep.backends.weights import require_positive
from mlaas4hep.backends.xgboost_trees import BINARY, MULTICLASS, REGRESSIONS, Forest, read_forest
from mlaas4hep.errors import DataError
from mlaas4hep.graph.core import Core
from mlaas4hep.spec.scaling import Scaler, Tensors

BOOSTING = Capabilities(streams=False, out_of_core=True, missing_native=True, regression=True, gpu=True)
MODEL_FILE, SETTINGS_FILE = "xgboost.json", "xgboost_settings.json"
MAX_BIN = 256

_TRAIN, _VALIDATION = "train", "validation"
# Metric of each objective of a regression.
_METRICS = dict(zip(REGRESSIONS, ("rmse", "mae", "mphe"), strict=True))
# XGBoost adds up trees in float32; a few at a time, and these sums in float64, keep 1e-6 for any number of trees.
_ROUNDS_AT_ONCE = 32


class BoostedTrees:
    """Trees that have been learned.

    Parameters
    ----------
    booster
        XGBoost's.
    task
        What was learned.
    """

    def __init__(self, booster: xgboost.Booster, task: Task) -> None:
        self.booster = booster
        self.task = task
        self._scaler = Scaler(task.groups)
        # Scores are those of the CPU, wherever the trees were learned.
        booster.set_param({"nthread": task.threads, "device": "cpu"})

    @cached_property
    def forest(self) -> Forest:
        """The trees as node arrays."""
        return read_forest(self.written())

    def written(self) -> bytes:
        """XGBoost's own file."""
        return bytes(self.booster.save_raw("json"))

    def predict(self, inputs: Tensors) -> Scores:
        """Scores [N, C], float64: margins of all trees by XGBoost, 32 rounds at a time."""
        rows = self._scaler.native(inputs)
        margins = np.tile(self.forest.base, (len(rows), 1))
        if not len(rows):
            return margins
        nothing = np.zeros(len(rows) if self.task.outputs == 1 else margins.shape, np.float32)
        total = self.booster.num_boosted_rounds()
        for start in range(0, total, _ROUNDS_AT_ONCE):
            some = (start, min(start + _ROUNDS_AT_ONCE, total))
            found = self.booster.inplace_predict(rows, iteration_range=some, predict_type="margin", base_margin=nothing)
            margins += np.asarray(found).reshape(margins.shape)
        return linked(margins, self.task.link)

    def export(self) -> Core:
        """The trees as a float64 ensemble, read from XGBoost's own file."""
        return self.forest.export()


class BoostingLearner(BoostingBase[BoostedTrees]):
    """`xgboost.train` on pages of raw values, NaN where missing.

    Parameters
    ----------
    parameters
        XGBoost's, without threads and seed where the task gives them; the objective is that of the task, unless one of
        a regression is named.
    rounds
        At most so many.
    patience
        Rounds without a better validation loss before it stops; None learns all rounds. The best are kept either way.
    task
        What is learned.
    """

    capabilities = BOOSTING
    library, version = "xgboost", xgboost.__version__
    files = (MODEL_FILE, SETTINGS_FILE)

    def __init__(self, parameters: Mapping[str, Any], *, rounds: int, patience: int | None, task: Task) -> None:
        given = _with_metric(_of_task(task) | dict(parameters))
        super().__init__(given, rounds=rounds, patience=patience, task=task)
        self.device = str(self.parameters.get("device", "cpu"))
        on_gpu = f"model xgboost: learns on {self.device}, with the bins of all events in memory"
        self.notes = () if self.device == "cpu" else (on_gpu,)

    def memory_estimate(self, rows: int, validation_rows: int) -> int:
        """A few pages, and the larger of two: sketches of the variables, or what learning keeps of every event.

        Measured with XGBoost 3.2: a sketch grows with the logarithm of the events; label, weight, gradients, margins
        and place in the tree take about 52 bytes an event of two classes. The values themselves stay on disk.
        """
        width, outputs, events = self.task.width, self.task.outputs, rows + validation_rows
        pages = 5 * min(PAGE_BYTES, events * (4 * width + 12))
        sketches = width * self._bins * 2048 * math.log2(1 + rows / 20_000) + 16 * events
        depth = min(int(self.parameters.get("max_depth") or 6), 16)
        histograms = width * self._bins * 16 * 2**depth
        learning = rows * (32 + 20 * outputs) + validation_rows * (10 + 8 * outputs) + histograms
        if self.device != "cpu":
            learning += events * width * (1 if self._bins < MAX_BIN else 2)
        return int(pages + max(sketches, learning))

    def disk_estimate(self, rows: int, validation_rows: int) -> int:
        """XGBoost's cache: at most a bin number of 4 bytes and its copy by columns a value, and 16 bytes an event.

        None for a GPU.
        """
        own = 2 if self._bins <= MAX_BIN else 4
        return (rows + validation_rows) * (self.task.width * (4 + own) + 16) if self.device == "cpu" else 0

    @property
    def _bins(self) -> int:
        return int(self.parameters.get("max_bin") or MAX_BIN)

    def fit(self, train: Pages, validation: Pages | None, *, patience: int, folder: Path) -> Sequence[Round]:
        """Learn, and keep the rounds up to the best on the validation part.

        ``patience`` of the training counts epochs and is not used: a round is one tree a class.
        """
        try:
            return self._fit(train, validation, folder)
        except BaseException as error:
            # An error keeps all that was there when it came. XGBoost's matrices have to go before the folder with
            # their files does, or each would complain of it beneath the message to the user.
            clear_frames(error.__traceback__)
            raise

    def _fit(self, train: Pages, validation: Pages | None, folder: Path) -> Sequence[Round]:
        scale = _survey(train, self.task, part="training")
        matrix = self._matrix(train, scale, folder / _TRAIN)
        parts = [(matrix, _TRAIN)]
        if validation is not None and len(validation):
            scale = _survey(validation, self.task, part="validation")
            parts.append((self._matrix(validation, scale, folder / _VALIDATION, binned_like=matrix), _VALIDATION))
        losses: dict[str, dict[str, list[float]]] = {}
        stop = self.patience is not None and len(parts) > 1
        booster = xgboost.train(
            self.parameters,
            matrix,
            self.rounds,
            evals=parts,
            evals_result=losses,
            early_stopping_rounds=self.patience if stop else None,
            verbose_eval=False,
        )
        rounds = _rounds(losses)
        self._learned = BoostedTrees(booster[: best_round(rounds) + 1], self.task)
        return rounds

    def _matrix(
        self, pages: Pages, scale: float, cache: Path, *, binned_like: xgboost.DMatrix | None = None
    ) -> xgboost.DMatrix:
        """Bins on disk; for a GPU in memory, since XGBoost reads disk for it only from pages that lie on the GPU."""
        kind = xgboost.ExtMemQuantileDMatrix if self.device == "cpu" else xgboost.QuantileDMatrix
        iterator = _PageIterator(pages, scale, cache if self.device == "cpu" else None)
        return kind(iterator, missing=np.nan, nthread=self.task.threads, max_bin=self._bins, ref=binned_like)


def _of_task(task: Task) -> dict[str, Any]:
    shared = {"tree_method": "hist", "nthread": task.threads, "seed": task.seed}
    if task.kind == "regression":
        return {"objective": REGRESSIONS[0], **shared}
    if task.outputs > 1:
        return {"objective": MULTICLASS, "eval_metric": "mlogloss", "num_class": len(task.classes), **shared}
    return {"objective": BINARY, "eval_metric": "logloss", **shared}


def _with_metric(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with the metric that is the objective itself, where it is one of a regression."""
    metric = _METRICS.get(parameters["objective"])
    return dict(parameters) if metric is None else {**parameters, "eval_metric": metric}


def _rounds(losses: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Round]:
    by_part: dict[str, list[float]] = {part: _losses(found) for part, found in losses.items()}
    if _VALIDATION not in by_part:
        return [Round(loss) for loss in by_part[_TRAIN]]
    return [Round(loss, after) for loss, after in zip(by_part[_TRAIN], by_part[_VALIDATION], strict=True)]


def _losses(found: Mapping[str, Sequence[float]]) -> list[float]:
    """Of each round; XGBoost tells the root of the mean squared error, and half of a Huber loss."""
    ((metric, values),) = found.items()
    if metric == "rmse":
        return [value**2 for value in values]
    return [2 * value for value in values] if metric == "mphe" else list(values)


def _survey(pages: Pages, task: Task, *, part: str) -> float:
    """One over the mean weight; refuses what cannot be learned from before XGBoost sees it."""
    total, counts = 0.0, np.zeros(len(task.classes), np.int64)
    for page in pages:
        require_positive(page.weights, model="xgboost")
        total += float(page.weights.sum())
        if task.classes:
            counts += np.bincount(page.labels, minlength=len(counts))
    empty = [name for name, count in zip(task.classes, counts, strict=True) if not count]
    if empty and part == "training":
        raise DataError(f"class {', '.join(empty)} has no event in the training part")
    if not total > 0:
        raise DataError(f"the weights of {len(pages)} {part} events sum to {total:g}: nothing to learn from")
    return len(pages) / total


class _PageIterator(xgboost.DataIter):
    """Hands pages to XGBoost, which asks for all of them several times."""

    def __init__(self, pages: Pages, scale: float, cache: Path | None) -> None:
        self._pages = pages
        self._scale = scale
        self._rest: Iterator[Table] = iter(pages)
        super().__init__(cache_prefix=None if cache is None else str(cache))

    def reset(self) -> None:
        """Back to the first page."""
        self._rest = iter(self._pages)

    def next(self, input_data: Callable[..., None]) -> bool:
        """The next page; False after the last."""
        page = next(self._rest, None)
        if page is None:
            return False
        input_data(data=page.x, label=page.truth, weight=page.weights * self._scale)
        return True
