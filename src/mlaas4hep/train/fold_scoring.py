"""The events of a run of folds, each scored by the one model that has not seen it.

One pass a fold over its held-out events; beside it, scores of events that each model did learn from, to compare with.
Invariant: every selected event is in the out-of-fold scores exactly once, counted sample by sample and fold by fold, or
nothing comes out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.bundle import Bundle
from mlaas4hep.config import Config
from mlaas4hep.data.batches import Batch
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.pace import default_threads
from mlaas4hep.data.split import Part
from mlaas4hep.errors import DataError
from mlaas4hep.graph.session import Inputs
from mlaas4hep.progress import Progress
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.train.figures import MAX_TRAIN_EVENTS, at_most
from mlaas4hep.train.folds import FoldRun
from mlaas4hep.train.importance import permuted_inputs, rows_for
from mlaas4hep.train.inputs import InputCounter
from mlaas4hep.train.kept import Kept, ScoredPart
from mlaas4hep.train.loop import Judged
from mlaas4hep.train.scoring import BATCH, Picker, check_counts, importance_of, open_catalogue, score_batches

Score = Callable[[Inputs], NDArray[np.float32]]


def score_folds(
    config: Config,
    bundle: Bundle,
    folds: Sequence[FoldRun],
    *,
    max_events: int | None,
    threads: int | None,
    progress: Progress,
) -> Kept:
    """Read and score the events of a run of folds.

    Parameters
    ----------
    config
        As the run was trained with.
    bundle
        The mean of the models: its contract.
    folds
        Their runs, in order.
    max_events, threads, progress
        As for `mlaas4hep.train.scoring.score_parts`.

    Returns
    -------
    As the test part the out-of-fold scores of all events; as the training part events that the model that scored them
    did learn from, at most about as many.

    Raises
    ------
    DataError
        Files that are missing or hold other events than when the models were trained.
    """
    catalogue = open_catalogue(config, max_events, progress)
    catalogue.leave_out(_skipped(folds))
    streams = _Streams(config, catalogue.corrected(), default_threads() if threads is None else threads)
    counter = InputCounter(bundle.spec, folds[0].metrics["missing_inputs"])
    events = sum(one.metrics["events"]["test"] for one in folds)
    picker = Picker(events, rows_for(len(permuted_inputs(bundle.spec.features.inputs)), events))
    tests, trains = [], []
    for one in folds:
        held_out, learned = one.metrics["events"]["test"], one.metrics["events"]["train"]
        name = f"fold {one.fold + 1} of {len(folds)}"
        if held_out:
            with _told(progress, f"scoring {name}", held_out), streams.part(one, "test") as stream:
                tests.append(_marked(one, counter.watch(picker.watch(stream)), streams.catalogue, progress))
            check_counts(one.bundle.spec.statistics, streams.catalogue, tests[-1], _lost(one))
        share = min(learned // (len(folds) - 1), MAX_TRAIN_EVENTS // len(folds))
        words = f"scoring what {name} learned from"
        with _told(progress, words, share), streams.part(one, "train", shuffle=True) as stream:
            trains.append(_marked(one, at_most(stream, share), streams.catalogue, progress))
    if not tests:
        raise DataError("no fold holds an event")
    test = joined(tests)
    importance = importance_of(bundle.spec, picker, test.judged, lambda places: _by_fold(folds, test, places), progress)
    return Kept({"train": joined(trains), "test": test}, counter.counts(), importance)


@dataclass(frozen=True, slots=True)
class _Streams:
    """The parts of each fold's training as streams with physics weights."""

    config: Config
    catalogue: Catalogue
    threads: int

    def part(self, run: FoldRun, part: Part, *, shuffle: bool = False) -> EventDataset:
        features = run.bundle.spec.features
        settings = self.config.training
        return EventDataset(
            dataclasses.replace(self.catalogue, features=features),
            Preprocessor(features, self.catalogue.types),
            part=part,
            batch_size=BATCH,
            shuffle=shuffle,
            shuffle_window=settings.shuffle_window,
            seed=settings.seed,
            threads=self.threads,
            max_memory=settings.max_memory_bytes,
            cache=self.config.cache,
        )


@contextmanager
def _told(progress: Progress, words: str, total: int) -> Iterator[None]:
    progress.start(words, total=total)
    yield
    progress.close()


def _skipped(folds: Iterable[FoldRun]) -> list[Mapping[str, Any]]:
    """What any of the trainings had to leave out, each once."""
    found: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for run in folds:
        for one in run.metrics.get("skipped", ()):
            found.setdefault(tuple(one.get(key) for key in ("sample", "file", "tree", "start", "stop", "index")), one)
    return list(found.values())


def _lost(run: FoldRun) -> dict[str, int]:
    return {one["sample"]: one["entries"] for one in run.metrics.get("lost_after_scan", ())}


def _marked(run: FoldRun, batches: Iterable[Batch], catalogue: Catalogue, progress: Progress) -> ScoredPart:
    """Scores of a stream by the model of a fold, which is noted with each."""
    part = score_batches(run.bundle, batches, catalogue, progress, places=True)
    return dataclasses.replace(part, folds=np.full(len(part.samples), run.fold, np.int64))


def joined(parts: Sequence[ScoredPart]) -> ScoredPart:
    """Scores of several folds as one part."""
    judged = [one.judged for one in parts]
    targets = [one.targets for one in judged if one.targets is not None]
    entries = [one.entries for one in parts if one.entries is not None]
    folds = [one.folds for one in parts if one.folds is not None]
    return ScoredPart(
        Judged(
            np.concatenate([one.scores for one in judged]),
            np.concatenate([one.labels for one in judged]),
            np.concatenate([one.weights for one in judged]),
            np.concatenate(targets) if targets else None,
        ),
        np.concatenate([one.samples for one in parts]),
        folds=np.concatenate(folds),
        entries=np.concatenate(entries),
    )


def _by_fold(folds: Sequence[FoldRun], test: ScoredPart, places: NDArray[np.int64]) -> Score:
    """Scores of some of the events, which stand in the order of ``places``, each by the model of its own fold."""
    own = test.folds[places] if test.folds is not None else np.zeros(len(places), np.int64)

    def score(inputs: Inputs) -> NDArray[np.float32]:
        scores = np.empty((len(own), test.judged.scores.shape[1]), np.float32)
        for run in folds:
            rows = own == run.fold
            scores[rows] = run.bundle.predict({name: one[rows] for name, one in inputs.items()})
        return scores

    return score
