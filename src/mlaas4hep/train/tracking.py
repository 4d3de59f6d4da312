"""Figures of a training told to others while it goes on: TensorBoard and MLflow.

Invariant: what is tracked changes nothing that is learned, and whoever is told and fails ends no training.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from msgspec.structs import asdict

from mlaas4hep.bundle import Bundle
from mlaas4hep.config import Config, Tracking
from mlaas4hep.config.text import load_yaml
from mlaas4hep.errors import UserError
from mlaas4hep.progress import Progress
from mlaas4hep.train.callbacks import EpochRecord, History, Watch
from mlaas4hep.train.mlflow import MlflowRun
from mlaas4hep.train.provenance import travelling, versions
from mlaas4hep.train.tensorboard import ENDING, EventFile

TENSORBOARD_FOLDER = "tensorboard"
ADDRESS_VARIABLE = "MLFLOW_TRACKING_URI"
FROM_ENVIRONMENT = "env"
_LAST_WAIT_S = 30.0
_FILES = ("report.html", "metrics.json", "config.yaml", "history.csv")


class Told(Protocol):
    """Someone who is told."""

    def epoch(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of one epoch."""

    def result(self, values: Mapping[str, float], tags: Mapping[str, str], *, run: Path, bundle: Path) -> None:
        """The last figures, what the model is, and where everything lies."""

    def end(self, status: str) -> None:
        """Nothing more comes."""

    def notes(self) -> Iterator[str]:
        """Lines for the user."""


class Tracks:
    """Everyone who is told of one training.

    Parameters
    ----------
    config
        Of the training.
    run
        Its run directory, not there yet.
    resumed
        Whether it goes on from an earlier one.
    progress
        Told what is wrong with those who are told.

    """

    def __init__(self, config: Config, run: Path, *, resumed: bool, progress: Progress) -> None:
        self._progress = progress
        self._steps: set[int] = set()
        self._everyone = list(_everyone(config, run, resumed=resumed))
        self._tell()

    def epoch(self, record: EpochRecord) -> None:
        """Tell an epoch, once."""
        if record.epoch in self._steps:
            return
        self._steps.add(record.epoch)
        values = _numbers({key: value for key, value in asdict(record).items() if key != "epoch"})
        for one in self._everyone:
            one.epoch(record.epoch, values)
        self._tell()

    def watching(self, other: Watch | None) -> Watch:
        """Who is told of each epoch: everyone here, then ``other``."""

        def told(record: EpochRecord) -> None:
            self.epoch(record)
            if other is not None:
                other(record)

        return told

    def result(self, metrics: Mapping[str, Any], history: History, bundle: Bundle, run: Path) -> None:
        """Tell the end; epochs that were not told, since they were learned before, come first."""
        for record in history.records:
            self.epoch(record)
        hashes = {"spec_sha256": bundle.spec_sha256, "model_sha256": bundle.model_sha256}
        for one in self._everyone:
            one.result(final_figures(metrics), hashes, run=run, bundle=bundle.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What is no failure ends a run early: a signal, or a search that has seen enough of it.
        failed = isinstance(error, Exception)
        for one in self._everyone:
            one.end("FINISHED" if error is None else "FAILED" if failed else "KILLED")
        self._tell()

    def _tell(self) -> None:
        for one in self._everyone:
            for line in one.notes():
                self._progress.note(line)


def _everyone(config: Config, run: Path, *, resumed: bool) -> Iterator[Told]:
    tracking = config.tracking
    if tracking is None:
        return
    if tracking.tensorboard:
        yield _Board(run.parent / TENSORBOARD_FOLDER / run.name, config, resumed=resumed)
    if tracking.mlflow is not None:
        yield _Server(config, run, resumed=resumed)


class _Board:
    """TensorBoard's files beside the runs; a disk that fails is told once."""

    def __init__(self, folder: Path, config: Config, *, resumed: bool) -> None:
        self._notes: list[str] = []
        self._file: EventFile | None = None
        try:
            if not resumed:
                for old in folder.glob(f"*{ENDING}"):
                    old.unlink()
            self._file = EventFile(folder)
            self._file.text("config", f"```yaml\n{travelling(config)}```")
            self._notes.append(f"tracking: tensorboard --logdir {folder.parent}")
        except OSError as error:
            self._lost(error)

    def epoch(self, step: int, values: Mapping[str, float]) -> None:
        self._scalars(values, step)

    def result(self, values: Mapping[str, float], tags: Mapping[str, str], *, run: Path, bundle: Path) -> None:
        self._scalars({f"final/{name}": value for name, value in values.items()}, 0)

    def end(self, status: str) -> None:
        if self._file is not None:
            self._file.close()

    def notes(self) -> Iterator[str]:
        while self._notes:
            yield self._notes.pop(0)

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        if self._file is None:
            return
        try:
            self._file.scalars(values, step=step)
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        self._file = None
        self._notes.append(f"tracking: TensorBoard's files cannot be written ({error.strerror}); the training goes on")


class _Server:
    """A run on an MLflow server."""

    def __init__(self, config: Config, run: Path, *, resumed: bool) -> None:
        tracking = config.tracking or Tracking()
        self._with_bundle = tracking.bundle
        self._run = MlflowRun(
            _address(config, tracking.mlflow or FROM_ENVIRONMENT),
            experiment=tracking.experiment or config.name,
            name=run.name,
            params=parameters(config),
            tags={
                "mlflow.source.name": "mlaas4hep train",
                **({"resumed": "true"} if resumed else {}),
                **{f"version.{name}": version for name, version in versions().items()},
            },
        )

    def epoch(self, step: int, values: Mapping[str, float]) -> None:
        self._run.metrics(values, step=step)

    def result(self, values: Mapping[str, float], tags: Mapping[str, str], *, run: Path, bundle: Path) -> None:
        self._run.metrics({f"final.{name}": value for name, value in values.items()}, step=0)
        self._run.tags(tags)
        for name in _FILES:
            if (run / name).is_file():  # with folds, each of them has a history of its own
                self._run.file(run / name, name)
        for path in sorted((run / "pictures").glob("*")):
            self._run.file(path, f"pictures/{path.name}")
        if self._with_bundle:
            for path in (one for one in sorted(bundle.rglob("*")) if one.is_file()):
                self._run.file(path, f"model/{bundle.parent.name}/{bundle.name}/{path.relative_to(bundle).as_posix()}")
            self._run.file(bundle.parent / "config.pbtxt", f"model/{bundle.parent.name}/config.pbtxt")

    def end(self, status: str) -> None:
        self._run.end(status, wait_s=_LAST_WAIT_S)

    def notes(self) -> Iterator[str]:
        yield from self._run.notes()


def require_address(config: Config) -> None:
    """`UserError` where the server's address is asked of the environment, which has none."""
    if config.tracking is not None and config.tracking.mlflow is not None:
        _address(config, config.tracking.mlflow)


def _address(config: Config, told: str) -> str:
    if told != FROM_ENVIRONMENT:
        return told
    found = os.environ.get(ADDRESS_VARIABLE, "").strip()
    if not found.startswith(("http://", "https://")):
        raise UserError(
            f"{config.path}: tracking.mlflow: env takes the server from {ADDRESS_VARIABLE}, which is "
            f"{'not set' if not found else 'no address of a server'}; wants http://host:port"
        )
    return found


def final_figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of ``metrics.json`` that one compares runs by, flat: ``auc``, ``parts.validation.loss``, ..."""
    kept = ("auc", "auc_err", "targets", "parts", "events", "seconds", "best_epoch", "epochs", "entries_read")
    return _numbers(dict(_leaves({key: metrics[key] for key in kept if key in metrics})))


def parameters(config: Config) -> dict[str, str]:
    """The config by dotted keys, as text."""
    return {key: str(value) for key, value in _leaves(load_yaml(travelling(config), config.path))}


def _leaves(plain: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in plain.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those that are finite numbers."""
    told = {key: one for key, one in values.items() if isinstance(one, int | float) and not isinstance(one, bool)}
    return {key: float(value) for key, value in told.items() if math.isfinite(value)}
