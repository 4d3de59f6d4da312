"""One pass over each part of a run: scores by the served graph, the inputs in histograms, their importance.

This is where an evaluation opens the events, the test part last. Invariant: parts, order and weights are those of the
training; the test part holds, sample by sample, the events that the scan counted, or nothing comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.bundle import Bundle
from mlaas4hep.config import Config
from mlaas4hep.data.batches import Batch
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.pace import default_threads
from mlaas4hep.data.split import PARTS, Part
from mlaas4hep.errors import DataError
from mlaas4hep.graph.core import Missing
from mlaas4hep.graph.session import Inputs
from mlaas4hep.progress import Progress
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.statistics import Statistics
from mlaas4hep.train.figures import MAX_TRAIN_EVENTS, at_most, positives_of
from mlaas4hep.train.importance import REPEATS, Importance, permutation_importance, permuted_inputs, rows_for
from mlaas4hep.train.inputs import InputCounter
from mlaas4hep.train.kept import Kept, ScoredPart
from mlaas4hep.train.limit import limit_events
from mlaas4hep.train.loop import Judged
from mlaas4hep.train.shifts import Shift
from mlaas4hep.train.varied import Setting, read_test_part

BATCH = 4096
_SEED = 0


def score_parts(
    config: Config,
    bundle: Bundle,
    *,
    missing: Missing,
    max_events: int | None,
    skipped: Iterable[Mapping[str, Any]] = (),
    lost: Mapping[str, int] | None = None,
    threads: int | None,
    progress: Progress,
) -> Kept:
    """Read and score the events that a model was trained and is judged on.

    Parameters
    ----------
    config
        As the run was trained with.
    bundle
        The model.
    missing
        How it sees its inputs: ``impute`` (scaled) or ``native`` (as they are).
    max_events
        As asked for in the training.
    skipped
        What could not be read then, and was left out.
    lost
        By sample, how many of those entries the scan could still read: the test part may hold so many fewer events.
    threads
        That read ahead; changes speed only.
    progress
        Told event by event.

    Raises
    ------
    DataError
        Files that are missing or hold other events than when the model was trained.
    """
    catalogue = open_catalogue(config, max_events, progress)
    catalogue.leave_out(skipped)
    catalogue = catalogue.corrected()
    preprocessor = Preprocessor(config.features, catalogue.types)
    spec = bundle.spec
    events = events_by_part(spec.statistics)
    counter = InputCounter(spec, missing)
    pick = Picker(events["test"], rows_for(len(permuted_inputs(spec.features.inputs)), events["test"]))
    watchers = {"train": counter.watch, "validation": _as_it_is, "test": pick.watch}
    parts: dict[str, ScoredPart] = {}
    for part in PARTS:
        if not events[part]:
            continue
        progress.start(f"scoring the {part} part", total=events[part])
        with EventDataset(
            catalogue,
            preprocessor,
            part=part,
            batch_size=BATCH,
            shuffle=part == "train",
            shuffle_window=config.training.shuffle_window,
            seed=config.training.seed,
            threads=default_threads() if threads is None else threads,
            max_memory=config.training.max_memory_bytes,
            cache=config.cache,
        ) as dataset:
            batches = at_most(dataset, MAX_TRAIN_EVENTS) if part == "train" else dataset
            parts[part] = score_batches(bundle, watchers[part](batches), catalogue, progress)
        progress.close()
    if "test" not in parts:
        return Kept(parts, counter.counts(), None)
    check_counts(spec.statistics, catalogue, parts["test"], lost or {})
    importance = importance_of(spec, pick, parts["test"].judged, lambda _: bundle.predict, progress)
    shifts: tuple[Shift, ...] = ()
    if spec.task != "regression":
        read = read_test_part(Setting(config, bundle, catalogue, parts["test"].judged, threads, progress))
        parts["test"], shifts = replace(parts["test"], observers=read.observers), read.shifts
    return Kept(parts, counter.counts(), importance, shifts)


def events_by_part(statistics: Statistics) -> dict[Part, int]:
    """Events of each part, as the scan counted them."""
    return {part: sum(int(getattr(one, part)) for one in statistics.samples.values()) for part in PARTS}


def open_catalogue(config: Config, max_events: int | None, progress: Progress) -> Catalogue:
    """The files that a run was trained on."""
    progress.start("opening files", unit="files")
    catalogue = Catalogue.open(config, progress=progress.update)
    progress.close()
    return catalogue if max_events is None else limit_events(catalogue, max_events)


def _as_it_is(batches: Iterable[Batch]) -> Iterable[Batch]:
    return batches


@dataclass(slots=True)
class Picker:
    """Holds the inputs of every k-th event of a stream, so many that ``wanted`` come together."""

    events: int
    wanted: int
    _held: list[Batch] = field(default_factory=list)
    _places: list[NDArray[np.int64]] = field(default_factory=list)
    _seen: int = 0

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Pass the batches on."""
        step = max(1, -(-self.events // max(self.wanted, 1)))
        for batch in batches:
            own = np.arange(-self._seen % step, len(batch), step)
            self._held.append(
                Batch(
                    {name: one[own] for name, one in batch.inputs.items()},
                    batch.labels[own],
                    batch.weights[own],
                    batch.entries[own],
                )
            )
            self._places.append(own + self._seen)
            self._seen += len(batch)
            yield batch

    def rows(self) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
        """Inputs of the events held, and their places in the stream."""
        names = self._held[0].inputs
        inputs = {name: np.concatenate([one.inputs[name] for one in self._held]) for name in names}
        return inputs, np.concatenate(self._places)


def score_batches(
    bundle: Bundle, batches: Iterable[Batch], catalogue: Catalogue, progress: Progress, *, places: bool = False
) -> ScoredPart:
    """Scores of a stream by a model; `DataError` where it is empty. With ``places`` told which event is which."""
    sample_of = np.array([file.sample for file in catalogue.files], np.int64)
    scores, labels, weights, samples, entries = [], [], [], [], []
    targets: list[NDArray[np.float32]] = []
    for batch in batches:
        scores.append(bundle.predict(batch.inputs))
        labels.append(batch.labels)
        weights.append(batch.weights)
        samples.append(sample_of[batch.entries["file"]])
        if places:
            entries.append(batch.entries.copy())
        if batch.targets is not None:
            targets.append(batch.targets.copy())
        progress.update(len(batch))
    if not scores:
        raise DataError("a part that held events when the model was trained is empty now; were the files changed?")
    given = np.concatenate(targets) if targets else None
    judged = Judged(np.concatenate(scores), np.concatenate(labels), np.concatenate(weights), given)
    return ScoredPart(judged, np.concatenate(samples), entries=np.concatenate(entries) if places else None)


def check_counts(statistics: Statistics, catalogue: Catalogue, test: ScoredPart, lost: Mapping[str, int]) -> None:
    """Events of the test part, sample by sample, are those that the scan counted before the training."""
    found = np.bincount(test.samples, minlength=len(catalogue.samples))
    for sample, count in zip(catalogue.samples, found.tolist(), strict=True):
        known = statistics.samples[sample.name].test
        if not known - lost.get(sample.name, 0) <= count <= known:
            raise DataError(
                f"samples.{sample.name}: the test part holds {count} events, {known} when the model was trained; were "
                "its files or the config of the run changed since?"
            )


def importance_of(
    spec: ModelSpec,
    pick: Picker,
    test: Judged,
    scorer: Callable[[NDArray[np.int64]], Callable[[Inputs], NDArray[np.float32]]],
    progress: Progress,
) -> Importance | None:
    """Of the events that a picker holds; None where they give no figure.

    ``scorer`` gives what scores those events, told by their places in ``test``.
    """
    inputs, places = pick.rows()
    targets = None if test.targets is None else test.targets[places]
    judged = Judged(test.scores[places], test.labels[places], test.weights[places], targets)
    groups = spec.features.inputs
    try:
        judged.auc() if targets is None else judged.loss()
    except DataError:
        return None  # a class without events or weight: no area, so no fall of it
    progress.start("permuting inputs", total=REPEATS * len(permuted_inputs(groups)) * len(places))
    importance = permutation_importance(
        scorer(places),
        inputs,
        judged,
        groups=groups,
        positives=positives_of(spec),
        seed=_SEED,
        update=progress.update,
    )
    progress.close()
    return importance
