"""Learner around LightGBM's histogram boosting, which keeps one byte a value in memory.

Used by `mlaas4hep.backends.lightgbm`. LightGBM reads pages on disk twice: a sample of rows, from which it makes its
bins, then all of them, of which it keeps the bin numbers. Invariant: pages come in the order of the stream, weights
with a mean of 1; the same events give the same trees to the bit, on any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlaas4hep.backends.boosting import BoostingBase, best_round
from mlaas4hep.backends.lightgbm_trees import Forest, read_forest
from mlaas4hep.backends.protocol import Capabilities, Pages, Round, Scores, Table, Task
from mlaas4hep.backends.spool import PAGE_BYTES
from mlaas4hep.backends.weights import require_positive
from mlaas4hep.errors import DataError
from mlaas4hep.graph.core import Core
from mlaas4hep.spec.scaling import Scaler, Tensors

BOOSTING = Capabilities(streams=False, missing_native=True, gpu=True)
MODEL_FILE, SETTINGS_FILE = "lightgbm.txt", "lightgbm_settings.json"
MAX_BIN, SAMPLE = 255, 200_000

# LightGBM counts rows with 32 bits.
_MOST_ROWS = 2**31 - 1
# In the sample, a column with so many missing values has one but for a chance of exp(-50).
_SURELY_SAMPLED = 50


class BoostedTrees:
    """Trees that have been learned.

    Parameters
    ----------
    text
        LightGBM's own, of which `read_forest` has nothing to complain.
    task
        What was learned.
    """

    def __init__(self, text: bytes, task: Task) -> None:
        self.text = text
        self.task = task
        self._booster = lightgbm.Booster(model_str=text.decode())
        self._scaler = Scaler(task.groups)

    @cached_property
    def forest(self) -> Forest:
        """The trees as node arrays."""
        return read_forest(self.text)

    def predict(self, inputs: Tensors) -> Scores:
        """Scores [N, C], float64, by LightGBM."""
        rows = np.ascontiguousarray(self._scaler.native(inputs))
        if not len(rows):
            return np.zeros((0, self.task.outputs))
        found = self._booster.predict(rows, num_threads=self.task.threads)
        return np.asarray(found, np.float64).reshape(len(rows), self.task.outputs)

    def written(self) -> bytes:
        """LightGBM's own text."""
        return self.text

    def export(self) -> Core:
        """The trees as a float64 ensemble, read from LightGBM's own text."""
        return self.forest.export()


class BoostingLearner(BoostingBase[BoostedTrees]):
    """LightGBM on raw values, NaN where missing.

    Parameters
    ----------
    parameters
        LightGBM's, by its main names, without objective, threads and seed where the task gives them.
    rounds
        At most so many.
    patience
        Rounds without a better validation loss before it stops; None learns all rounds. The best are kept either way.
    task
        What is learned.
    """

    capabilities = BOOSTING
    library, version = "lightgbm", lightgbm.__version__
    files = (MODEL_FILE, SETTINGS_FILE)

    def __init__(self, parameters: Mapping[str, Any], *, rounds: int, patience: int | None, task: Task) -> None:
        super().__init__(_of_task(task) | dict(parameters), rounds=rounds, patience=patience, task=task)
        self.device = str(self.parameters.get("device_type", "cpu"))
        self.notes = () if self.device == "cpu" else (f"model lightgbm: learns on {self.device}",)

    def memory_estimate(self, rows: int, validation_rows: int) -> int:
        """The largest of three: while the sample is sorted by columns, while all events are read, while it learns.

        Measured with LightGBM 4.7: a value takes one byte (two above 256 bins), in the sample 20 and then 16; an event
        takes 16 bytes beside its values while it is read, then 36 and 18 an output, 8 more where rounds draw events;
        one of the validation part 30 and 8 an output. Two or three pages are held while they are read.
        """
        width, outputs, events = self.task.width, self.task.outputs, rows + validation_rows
        values = width * self._bytes
        page = min(PAGE_BYTES, events * (4 * width + 12))
        sample = width * min(rows, self._sample)
        sampling = 2 * page + 20 * sample + 8 * rows
        reading = 3 * page + 16 * sample + events * (values + 16)
        drawing = 8 if self.parameters.get("bagging_freq") else 0
        learning = rows * (values + 36 + drawing + 18 * outputs) + validation_rows * (values + 30 + 8 * outputs)
        histograms = width * self._bins * 16 * int(self.parameters.get("num_leaves") or 31)
        return int(max(sampling, reading, learning + 1.5 * page + histograms))

    def disk_estimate(self, rows: int, validation_rows: int) -> int:
        """Nothing besides the pages."""
        return 0

    @property
    def _sample(self) -> int:
        return int(self.parameters.get("bin_construct_sample_cnt") or SAMPLE)

    @property
    def _bins(self) -> int:
        return int(self.parameters.get("max_bin") or MAX_BIN)

    @property
    def _bytes(self) -> int:
        return 1 if self._bins <= 256 else 2 if self._bins <= 65536 else 4

    def fit(self, train: Pages, validation: Pages | None, *, patience: int, folder: Path) -> Sequence[Round]:
        """Learn, and keep the rounds up to the best on the validation part.

        ``patience`` of the training counts epochs and is not used: a round is one tree a class.
        """
        # LightGBM makes its bins without being told how many threads it may use.
        with threadpool_limits(limits=self.task.threads, user_api="openmp"):
            part = self._part(train, name="training")
            booster = lightgbm.Booster(self.parameters, part)
            if validation is not None and len(validation):
                booster.add_valid(self._part(validation, name="validation", binned_like=part), "validation")
            rounds = self._boost(booster)
        self._learned = BoostedTrees(_text(booster, rounds=best_round(rounds) + 1), self.task)
        return rounds

    def _part(self, pages: Pages, *, name: str, binned_like: lightgbm.Dataset | None = None) -> lightgbm.Dataset:
        survey = _survey(pages, self.task, part=name)
        return lightgbm.Dataset(
            _Rows(pages, rare=survey.rarely_missing(self._sample)),
            survey.labels,
            weight=survey.weights,
            reference=binned_like,
            params=dict(self.parameters),
        ).construct()

    def _boost(self, booster: lightgbm.Booster) -> list[Round]:
        """Round by round, until no tree can be split any more, or ``patience`` is over."""
        rounds: list[Round] = []
        for _ in range(self.rounds):
            before = booster.num_trees()
            finished = booster.update()
            if booster.num_trees() == before:
                break
            losses = [found[2] for found in (*booster.eval_train(), *booster.eval_valid())]
            rounds.append(Round(*losses))
            waited = len(rounds) - 1 - best_round(rounds)
            if finished or (self.patience is not None and waited >= self.patience):
                break
        return rounds


def _of_task(task: Task) -> dict[str, Any]:
    """What the run decides, and what makes its bits a function of events and seed.

    Bins by columns are half the memory of bins by rows, of which LightGBM keeps both. Bundles of sparse columns lose
    values where two are there at once, and a filter by the sample loses columns that are seldom filled: both are off.
    """
    several = {"num_class": len(task.classes)} if task.outputs > 1 else {}
    return {
        "objective": "multiclass" if several else "binary",
        "metric": "multi_logloss" if several else "binary_logloss",
        "num_threads": task.threads,
        "seed": task.seed,
        "deterministic": True,
        "force_col_wise": True,
        "enable_bundle": False,
        "feature_pre_filter": False,
        "verbosity": -1,
        **several,
    }


def _text(booster: lightgbm.Booster, *, rounds: int) -> bytes:
    return booster.model_to_string(num_iteration=rounds).encode()


@dataclass(frozen=True, slots=True, eq=False)
class _Survey:
    """A part before LightGBM sees it: labels and weights of mean 1 [N], and how often each column is missing [W]."""

    labels: NDArray[np.float32]
    weights: NDArray[np.float32]
    missing: NDArray[np.int64]

    def rarely_missing(self, sample: int) -> NDArray[np.bool_]:
        """Columns whose missing values a sample of so many events may not show."""
        events = len(self.labels)
        if sample >= events:
            return np.zeros(len(self.missing), np.bool_)
        return (self.missing > 0) & (self.missing * sample < _SURELY_SAMPLED * events)


def _survey(pages: Pages, task: Task, *, part: str) -> _Survey:
    """One pass; refuses what cannot be learned from."""
    events = len(pages)
    if events > _MOST_ROWS:
        raise DataError(f"{events:,} {part} events: LightGBM takes at most {_MOST_ROWS:,}; see --max-events")
    labels, weights = np.empty(events, np.float32), np.empty(events)
    missing, start = np.zeros(task.width, np.int64), 0
    for page in pages:
        require_positive(page.weights, model="lightgbm")
        stop = start + len(page)
        labels[start:stop], weights[start:stop] = page.labels, page.weights
        missing += np.isnan(page.x).sum(axis=0)
        start = stop
    _require_classes(labels, task, part)
    total = float(weights.sum())
    if not total > 0:
        raise DataError(f"the weights of {events} {part} events sum to {total:g}: nothing to learn from")
    weights *= events / total
    return _Survey(labels, weights.astype(np.float32), missing)


def _require_classes(labels: NDArray[np.float32], task: Task, part: str) -> None:
    empty = [name for label, name in enumerate(task.classes) if not (labels == label).any()]
    if empty and part == "training":
        raise DataError(f"class {', '.join(empty)} has no event in the training part")


class _Rows(lightgbm.Sequence):
    """Rows of pages as LightGBM asks for them: once a sample, number by number, then all, slice by slice.

    LightGBM takes a column without a missing value in the sample for one that has none anywhere, and would then learn a
    missing value as 0. So the first row of the sample stands for the columns in ``rare``.
    """

    def __init__(self, pages: Pages, *, rare: NDArray[np.bool_]) -> None:
        self._pages = pages
        self._rare = rare
        self._shown = False
        self._rest: Iterator[Table] = iter(())
        self._page, self._start = np.empty((0, len(rare)), np.float32), len(pages)
        self.batch_size = max(1, len(next(iter(pages)))) if len(pages) else 1

    def __len__(self) -> int:
        return len(self._pages)

    def __getitem__(self, index: int | slice | list[int]) -> NDArray[Any]:
        if isinstance(index, slice):
            return self._between(index.start, index.stop)
        if isinstance(index, list):
            raise TypeError("rows are read in order: give a number or a slice")
        row: NDArray[np.float64] = self._between(index, index + 1)[0].astype(np.float64)
        if not self._shown:
            row[self._rare], self._shown = np.nan, True
        return row

    def _between(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows [n, W]; cheap where they follow those read before."""
        if start < self._start:
            self._rest, self._start = iter(self._pages), 0
            self._page = next(self._rest).x
        parts = []
        while start < stop:
            while start >= self._start + len(self._page):
                self._start += len(self._page)
                self._page = next(self._rest).x
            part = self._page[start - self._start : stop - self._start]
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
