"""Where a training stands between two batches, and who keeps that.

The loop carries a `Standing` along; a `Keeper` writes it, with what the learner gives, when it is time or when the
process is asked to end. Invariant: a training that goes on from what was kept takes the steps of one that was never
interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mlaas4hep.backends.arrays import below, under
from mlaas4hep.backends.protocol import Arrays, ResumableLearner
from mlaas4hep.errors import UserError
from mlaas4hep.progress import Progress
from mlaas4hep.train.callbacks import EpochRecord
from mlaas4hep.train.checkpoint import CheckpointFolder, Saved
from mlaas4hep.train.interrupt import Interrupt

VERSION = 1
# Writing takes at most this share of the time, however large the model and slow the disk.
_SHARE = 0.05


class Tally(msgspec.Struct):
    """Sums of the epoch that is under way.

    Parameters
    ----------
    total_loss, sum_weights
        Of its batches; their ratio is the epoch's training loss.
    events
        Learned from.
    seconds
        Spent in it.
    position
        Of the stream; None at the beginning of an epoch.
    """

    total_loss: float = 0.0
    sum_weights: float = 0.0
    events: int = 0
    seconds: float = 0.0
    position: dict[str, Any] | None = None


@dataclass(slots=True, eq=False)
class Standing:
    """A training that is under way, besides the learner itself.

    Parameters
    ----------
    records
        Of the epochs that are done.
    best
        State of the learner after the best of them; None where the validation part has not chosen one.
    tally
        Of the epoch that is under way.
    """

    records: list[EpochRecord] = field(default_factory=list)
    best: Arrays | None = None
    tally: Tally = field(default_factory=Tally)

    def __str__(self) -> str:
        epochs = f"{len(self.records)} epoch{'s' if len(self.records) != 1 else ''}"
        return f"after {epochs} and {self.tally.events:,} events of the next"


class Document(msgspec.Struct, forbid_unknown_fields=True):
    """The part of a checkpoint that is not arrays.

    Parameters
    ----------
    version
        Of this form.
    config, data
        What the run must have in common with one that goes on from it, by name.
    packages
        Versions of the packages that computed it.
    written
        Local time.
    records, tally
        As in `Standing`.
    chosen
        Whether there is a best state.
    """

    version: int
    config: dict[str, Any]
    data: dict[str, Any]
    packages: dict[str, str]
    written: str
    records: list[EpochRecord]
    tally: Tally
    chosen: bool


def read_document(saved: Saved) -> Document:
    """The document of a checkpoint; `UserError` where it is of another version."""
    version = saved.document.get("version")
    if version != VERSION:
        raise UserError(
            f"{saved.file}: checkpoint version {version}; this program reads version {VERSION}. Go on with the program "
            "that wrote it, or begin anew with --restart"
        )
    try:
        return msgspec.convert(saved.document, Document)
    except msgspec.ValidationError as error:
        raise UserError(f"{saved.file}: is not a checkpoint of this program: {error}") from error


def standing_of(saved: Saved) -> Standing:
    """Where the training stood; the learner's own arrays are below ``learner``."""
    document = read_document(saved)
    best = below("best", saved.arrays) if document.chosen else None
    return Standing(document.records, best, document.tally)


@dataclass(slots=True, eq=False)
class Keeper:
    """Keeps a training, so that it can be interrupted.

    Parameters
    ----------
    folder
        Claimed.
    learner
        What learns.
    config, data, packages
        Of the run, as in `Document`.
    every_s
        Seconds between two checkpoints.
    interrupt
        Asks the process to end.
    progress
        Told what cannot be written.
    """

    folder: CheckpointFolder
    learner: ResumableLearner
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    packages: Mapping[str, str]
    every_s: float
    interrupt: Interrupt
    progress: Progress
    _next: float = field(init=False)

    def __post_init__(self) -> None:
        self._next = time.monotonic() + self.every_s

    def visit(self, standing: Callable[[], Standing]) -> None:
        """Called between any two steps: writes where it is time.

        Raises
        ------
        Interrupted
            A signal came; where it was the first, after writing.
        """
        if self.interrupt.urgent:
            self.interrupt.require_none()
        if self.interrupt.asked or time.monotonic() >= self._next:
            self._write(standing())
            self.interrupt.require_none()

    def _write(self, standing: Standing) -> None:
        started = time.monotonic()
        arrays = under("learner", self.learner.checkpoint()) | under("best", standing.best or {})
        document = Document(
            version=VERSION,
            config=dict(self.config),
            data=dict(self.data),
            packages=dict(self.packages),
            written=time.strftime("%Y-%m-%d %H:%M:%S"),
            records=standing.records,
            tally=standing.tally,
            chosen=standing.best is not None,
        )
        try:
            self.folder.write(msgspec.to_builtins(document), arrays)
        except OSError as error:
            self.progress.note(f"{self.folder.path}: no checkpoint written ({error.strerror}); the training goes on")
        taken = time.monotonic() - started
        self._next = time.monotonic() + max(self.every_s, taken / _SHARE)
