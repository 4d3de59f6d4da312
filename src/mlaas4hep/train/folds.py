"""k models of one config, each of which never sees one fold of the events, and their mean as the model that is served.

::

    RUN/folds/0/      a whole run: statistics, training, stopping and bundle without the fold, which is its test part
    RUN/folds/1/      ...
    RUN/model/NAME/   the bundle: the mean of the models, whose graphs lie in native/models
    RUN/metrics.json  the folds side by side; RUN/report.html the page

Invariant: the fold of an event is a hash of what identifies it; a model's scaling, weights, learning and stopping come
from the other folds alone.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mlaas4hep.backends.registry import choose
from mlaas4hep.bundle import Bundle, load_bundle
from mlaas4hep.bundle.write import write_mean_bundle
from mlaas4hep.config import Config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.errors import ConfigError
from mlaas4hep.progress import Progress, Silent
from mlaas4hep.train.callbacks import EpochRecord, History
from mlaas4hep.train.fold_folder import FoldFolder
from mlaas4hep.train.output import REPORT_FOLDER, draft_folder, write_fold_report, write_run
from mlaas4hep.train.over_folds import OverFolds
from mlaas4hep.train.provenance import own_sources
from mlaas4hep.train.resume import Unfinished, data_facts
from mlaas4hep.train.run import MODEL_FOLDER, RunResult, train_one
from mlaas4hep.train.run_plan import RunPlan, facts_of, parity_rows, prepare
from mlaas4hep.train.tracking import Tracks, require_address

FOLDS_FOLDER = "folds"
FOLDS_FILE = "folds.json"


def train_folds(
    config: Config,
    *,
    output: str | Path | None,
    max_events: int | None,
    threads: int | None,
    progress: Progress | None,
    unfinished: Unfinished,
    rescan: bool,
) -> RunResult:
    """Train one model a fold, and put their mean into a bundle; parameters and errors are those of `train`.

    A run that was interrupted goes on with the fold where it was; folds that were finished are not learned again.
    """
    started = time.perf_counter()
    told = _Heard(progress or Silent())
    choice = choose(config.model, where=config.path)
    _refuse_beside(config)
    require_address(config)
    folder = FoldFolder.begin(config, output=output, max_events=max_events, unfinished=unfinished)
    with folder.kept(told):
        plan = prepare(config, choice, max_events=max_events, threads=threads, rescan=rescan, progress=told)
        folder.claim(data_facts(choice, plan.catalogue, plan.spec, order=str(plan.catalogue.identity)))
        with Tracks(config, folder.target, resumed=unfinished == "resume", progress=told) as tracks:
            _train_each(config, folder, told, max_events=max_events, threads=threads, rescan=rescan)
            result = _put_together(plan, folder, started)
            # Epochs are those of the folds, which are told of each by itself.
            tracks.result(result.metrics, History((), 0), result.bundle, result.path)
    return result


def _train_each(
    config: Config,
    folder: FoldFolder,
    told: _Heard,
    *,
    max_events: int | None,
    threads: int | None,
    rescan: bool,
) -> None:
    """The folds that are not finished, one after the other."""
    for fold in range(folder.folds):
        if folder.finished(fold):
            told.note(f"fold {fold + 1} of {folder.folds}: was finished before")
            continue
        train_one(
            _holding_out(config, fold),
            output=folder.path(fold),
            max_events=max_events,
            threads=threads,
            progress=_OfFold(told, fold, folder.folds),
            unfinished=folder.standing(fold),
            rescan=rescan,
            tracked_as=folder.target.with_name(f"{folder.target.name}-fold-{fold}"),
        )


def _put_together(plan: RunPlan, folder: FoldFolder, started: float) -> RunResult:
    """The run of all folds, and the mean of their models, from the runs of the folds."""
    runs = [FoldRun.read(folder.path(fold), fold) for fold in range(folder.folds)]
    file = plan.choice.file
    with draft_folder(folder.target) as draft:
        metrics = _metrics(runs, time.perf_counter() - started) | facts_of(plan)
        folder.copy_to(draft / FOLDS_FOLDER)
        write_fold_report(draft, metrics, [one.history for one in runs])
        bundle = write_mean_bundle(
            draft / MODEL_FOLDER,
            spec=plan.spec.with_provenance(plan.begun.told(plan.catalogue, plan.files)),
            models=[one.bundle for one in runs],
            rows=parity_rows(plan),
            native={
                FOLDS_FILE: _document(runs, plan.catalogue),
                **({} if file is None else file.native()),
                **own_sources(plan.catalogue),
            },
            report=draft / REPORT_FOLDER,
        )
        metrics |= {"spec_sha256": bundle.spec_sha256, "model_sha256": bundle.model_sha256}
        write_run(draft, plan.config, metrics)
    written = folder.target / MODEL_FOLDER / bundle.path.parent.name / bundle.path.name
    return RunResult(folder.target, load_bundle(written), metrics, runs[0].history)


def _refuse_beside(config: Config) -> None:
    found = [name for name in ("observers", "variations") if getattr(config.features, name)]
    if found:
        raise ConfigError(
            f"{config.path}: {' and '.join(found)} with split.folds: they are judged on one test part, not out of "
            "fold; leave either out"
        )


def _holding_out(config: Config, fold: int) -> Config:
    split = config.features.split.holding_out(fold)
    # Duplicates were looked for among all events.
    return msgspec.structs.replace(
        config, duplicates="ignore", features=msgspec.structs.replace(config.features, split=split)
    )


@dataclass(frozen=True, slots=True, eq=False)
class FoldRun:
    """The run that holds out one fold: its number, its figures, its model and its losses."""

    fold: int
    metrics: dict[str, Any]
    bundle: Bundle
    history: History

    @classmethod
    def read(cls, path: Path, fold: int) -> FoldRun:
        """From its run directory."""
        metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
        bundle = load_bundle(path / MODEL_FOLDER / metrics["name"])
        return cls(fold, metrics, bundle, _history(path / "history.csv", metrics))

    def plain(self) -> dict[str, Any]:
        """What the run of all folds says of it."""
        keys = ("auc", "auc_err", "targets", "events", "best_epoch", "epochs", "spec_sha256", "model_sha256")
        found = {key: self.metrics[key] for key in keys if key in self.metrics}
        return {"fold": self.fold, **found, "seconds": self.metrics["seconds"]["total"]}


def read_folds(run: Path, folds: int) -> list[FoldRun]:
    """The runs of all folds of a run."""
    return [FoldRun.read(run / FOLDS_FOLDER / str(fold), fold) for fold in range(folds)]


def _history(path: Path, metrics: dict[str, Any]) -> History:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [{name: text for name, text in row.items() if text} for row in csv.DictReader(file)]
    records = tuple(msgspec.convert(row, EpochRecord, strict=False) for row in rows)
    return History(records, metrics["best_epoch"], metrics["epoch_unit"])


def _metrics(runs: Sequence[FoldRun], seconds: float) -> dict[str, Any]:
    """The folds side by side. Each event is of the test part of one of them."""
    of_folds = [one.plain() for one in runs]
    areas = OverFolds.of(one.metrics.get("auc") for one in runs)
    figures: dict[str, Any] = {"auc": areas.mean, "auc_err": areas.error, "auc_part": "validation"}
    if runs[0].metrics["task"] == "regression":
        figures = {"targets": {}, "targets_part": "validation"}
    return {
        **figures,
        "folds": of_folds,
        "validation": msgspec.json.decode(msgspec.json.encode(areas)),
        "events": {"train": 0, "validation": 0, "test": sum(one.metrics["events"]["test"] for one in runs)},
        "parts": {},
        "missing_inputs": runs[0].metrics["missing_inputs"],
        "best_epoch": None,
        "epochs": None,
        "epoch_unit": runs[0].metrics["epoch_unit"],
        "seconds": {
            "total": round(seconds, 3),
            "until_learned": round(sum(one.metrics["seconds"]["total"] for one in runs), 3),
        },
    }


def _document(runs: Sequence[FoldRun], catalogue: Catalogue) -> bytes:
    """What tells the fold of an event, and which model has not seen it: ``native/folds.json``."""
    split, identity = catalogue.features.split, catalogue.identity
    types = {name: msgspec.to_builtins(catalogue.types[name]) for name in identity.columns}
    document = {
        "folds": len(runs),
        "seed": split.seed,
        "identity": {"columns": list(identity.columns), "origin": identity.origin, "types": types},
        "models": [one.bundle.model_sha256 for one in runs],
    }
    return (json.dumps(document, indent=1) + "\n").encode()


class _Heard:
    """Passes everything on, and knows the lines that were told."""

    def __init__(self, told: Progress) -> None:
        self._told = told
        self.lines: set[str] = set()

    def start(self, description: str, *, total: int | None = None, unit: str = "events") -> None:
        self._told.start(description, total=total, unit=unit)

    def update(self, count: int) -> None:
        self._told.update(count)

    def note(self, text: str) -> None:
        self.lines.add(text)
        self._told.note(text)

    def close(self) -> None:
        self._told.close()


class _OfFold:
    """Tells which fold a step is of; a line that was told of all folds is not told again."""

    def __init__(self, told: _Heard, fold: int, folds: int) -> None:
        self._told = told
        self._name = f"fold {fold + 1} of {folds}"

    def start(self, description: str, *, total: int | None = None, unit: str = "events") -> None:
        self._told.start(f"{self._name}: {description}", total=total, unit=unit)

    def update(self, count: int) -> None:
        self._told.update(count)

    def note(self, text: str) -> None:
        if text not in self._told.lines:
            self._told.note(f"{self._name}: {text}")

    def close(self) -> None:
        self._told.close()
