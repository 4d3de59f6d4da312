"""All that is decided before anything is learned: files, scan, contract, parts; what cannot be learned from is refused.

Between `mlaas4hep.train.run`, which learns, judges and writes, and the data layer; a search and a training in folds ask
for it too. Invariant: nothing is written, and of the test part only events are counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.backends.registry import Choice
from mlaas4hep.config import Config
from mlaas4hep.data.account import Counts
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.duplicates import Duplicates
from mlaas4hep.data.pace import default_threads
from mlaas4hep.data.split import Part
from mlaas4hep.progress import Progress
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.train.beside import check_beside
from mlaas4hep.train.callbacks import Watch
from mlaas4hep.train.figures import accounts, first_rows
from mlaas4hep.train.health import (
    notes_on_inputs,
    require_labels,
    require_parts,
    require_spread,
    require_targets,
    tell_duplicates,
)
from mlaas4hep.train.lengths import collection_figures, notes
from mlaas4hep.train.limit import limit_events
from mlaas4hep.train.lost import lost_since
from mlaas4hep.train.provenance import Begun, versions
from mlaas4hep.train.room import refuse_without_room, require_folder
from mlaas4hep.train.scanned import account_of, scanned
from mlaas4hep.train.scoring import events_by_part

_EVALUATION_BATCH = 4096
_PARITY_ROWS = 2048


@dataclass(frozen=True, slots=True, eq=False)
class RunPlan:
    """All that is decided before anything is learned."""

    config: Config
    choice: Choice
    catalogue: Catalogue
    spec: ModelSpec
    files: tuple[Counts, ...]
    threads: int
    max_events: int | None
    scanned: Catalogue
    begun: Begun
    duplicates: Duplicates | None
    on_epoch: Watch | None = None
    on_judged: Callable[[dict[str, Any]], None] | None = None

    def corrected(self) -> RunPlan:
        """With weights that make up for what was lost after the scan: for all that is judged."""
        return dataclasses.replace(self, catalogue=self.scanned.corrected())

    @property
    def seed(self) -> int:
        """Of the order and of the learner."""
        return self.config.training.seed

    @property
    def events(self) -> dict[Part, int]:
        """Events by part."""
        return events_by_part(self.spec.statistics)

    def dataset(self, part: Part, *, training: bool, shuffle: bool = False) -> EventDataset:
        """A part as a stream, with training weights for learning or with physics weights for judging."""
        settings = self.config.training
        return EventDataset(
            self.catalogue,
            Preprocessor(self.config.features, self.catalogue.types),
            part=part,
            batch_size=settings.batch_size if training and shuffle else _EVALUATION_BATCH,
            shuffle="exact" if shuffle and training and settings.shuffle == "exact" else shuffle,
            cache=self.config.cache,
            shuffle_window=settings.shuffle_window,
            seed=self.seed,
            weights="training" if training else "physics",
            statistics=self.spec.statistics,
            threads=self.threads,
            max_memory=settings.max_memory_bytes,
        )


def prepare(
    config: Config, choice: Choice, *, max_events: int | None, threads: int | None, rescan: bool, progress: Progress
) -> RunPlan:
    """Open and scan the files of a config and seal its contract; refuses what cannot be learned from."""
    for line in (*config.not_built(), *config.unused()):
        progress.note(line)
    require_folder(config)
    whole = _open(config, progress)
    begun = Begun.now(config, choice, whole, max_events=max_events, progress=progress)
    catalogue = whole if max_events is None else limit_events(whole, max_events)
    preprocessor = Preprocessor(config.features, catalogue.types)
    check_beside(config.features, catalogue)
    threads = default_threads() if threads is None else threads
    refuse_without_room(config, choice, catalogue, preprocessor)
    catalogue, found = scanned(
        catalogue,
        preprocessor,
        threads=threads,
        max_memory=config.training.max_memory_bytes,
        rescan=rescan,
        progress=progress,
        duplicates=config.duplicates != "ignore",
    )
    tell_duplicates(found.duplicates, config.duplicates, progress)
    statistics = found.statistics
    require_labels(catalogue, preprocessor, statistics)
    require_targets(statistics)
    progress.note(account_of(catalogue, statistics))
    if unlabelled := sum(one.unlabelled for one in found.files):
        lack = "lack a target" if config.features.target_texts else "have none of the classes"
        progress.note(f"{unlabelled} selected events {lack}, and are left out")
    for line in notes_on_inputs(statistics, config.features.inputs):
        progress.note(line)
    require_spread(statistics, config.features.inputs)
    require_parts(events_by_part(statistics), config.features.split, identity=str(catalogue.identity))
    for line in notes(collection_figures(statistics, config.features.inputs)):
        progress.note(line)
    spec = ModelSpec.seal(config.name, preprocessor=preprocessor, statistics=statistics)
    return RunPlan(
        config, choice, catalogue, spec, found.files, threads, max_events, catalogue, begun, found.duplicates
    )


def _open(config: Config, progress: Progress) -> Catalogue:
    progress.start("opening files", unit="files")
    catalogue = Catalogue.open(config, progress=progress.update)
    progress.close()
    return catalogue


def facts_of(plan: RunPlan) -> dict[str, Any]:
    """What a run says of its config and its events, whatever was learned."""
    return {
        "name": plan.config.name,
        "model": plan.choice.title if plan.choice.file is None else Path(plan.choice.title).name,
        "task": plan.spec.task,
        "classes": list(plan.spec.classes),
        "target_names": [one.name for one in plan.spec.targets],
        "split_by": str(plan.catalogue.identity),
        "seed": plan.seed,
        "max_events": plan.max_events,
        "entries_read": plan.catalogue.num_entries,
        "samples": msgspec.to_builtins(plan.spec.statistics.samples),
        "samples_not_used": list(plan.config.observed),
        "collections": msgspec.to_builtins(collection_figures(plan.spec.statistics, plan.spec.features.inputs)),
        "files": accounts(plan.catalogue, plan.files),
        "duplicates": msgspec.json.decode(msgspec.json.encode(plan.duplicates)),
        "on_error": str(plan.config.on_error),
        "skipped": [one.as_plain() for one in plan.catalogue.quarantine.records],
        "lost_after_scan": [msgspec.to_builtins(one) for one in lost_since(plan.scanned)],
        "versions": versions(),
    }


def parity_rows(plan: RunPlan) -> dict[str, NDArray[np.float32]]:
    """Raw inputs of events of the training part, for the gate before a bundle is written."""
    with plan.dataset("train", training=False, shuffle=True) as dataset, dataset.epoch(0) as batches:
        return first_rows(batches, _PARITY_ROWS)
