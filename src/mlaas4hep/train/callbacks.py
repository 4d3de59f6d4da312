"""What happens between epochs: the record of each, when to stop, and who is told.

Invariant: the record is made of figures only, so that a run can be repeated and compared line by line.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence

import msgspec


class EpochRecord(msgspec.Struct, frozen=True):
    """One epoch of a model that streams, or one round of a model that learns in memory.

    Parameters
    ----------
    epoch
        From 1.
    train_loss
        Mean over the epoch's steps, each before its step, by training weight.
    validation_loss, validation_auc
        After the epoch, by training weight; None without a validation part. Not every model gives an area.
    events
        Events learned from.
    seconds
        Wall time of the epoch and its validation.
    """

    epoch: int
    train_loss: float
    validation_loss: float | None = None
    validation_auc: float | None = None
    events: int = 0
    seconds: float = 0.0

    @property
    def watched(self) -> float:
        """The loss that says which epoch is best."""
        return self.train_loss if self.validation_loss is None else self.validation_loss


Watch = Callable[[EpochRecord], None]
"""Who is told of each epoch of a model that streams, and may end the training by raising."""


class History(msgspec.Struct, frozen=True):
    """All epochs, and which of them was kept.

    Parameters
    ----------
    records
        In order.
    best_epoch
        Whose weights the model has now.
    unit
        ``epoch``, or ``round`` for a model that learns in memory.
    """

    records: tuple[EpochRecord, ...]
    best_epoch: int
    unit: str = "epoch"

    @property
    def best(self) -> EpochRecord:
        """The record of the kept epoch."""
        return self.records[self.best_epoch - 1]

    def to_csv(self) -> str:
        """One line an epoch, the names of the figures first; an empty cell where there is none."""
        out = io.StringIO()
        fields = EpochRecord.__struct_fields__
        table = csv.writer(out, lineterminator="\n")
        table.writerow(fields)
        table.writerows([getattr(record, name) for name in fields] for record in self.records)
        return out.getvalue()


class EarlyStopping:
    """Watches the validation loss.

    Parameters
    ----------
    patience
        Epochs without a better loss before it says stop.

    Examples
    --------
    >>> watch = EarlyStopping(patience=2)
    >>> [watch.improved(loss) for loss in (0.7, 0.6, 0.65, 0.61)], watch.stop
    ([True, True, False, False], True)
    """

    def __init__(self, *, patience: int) -> None:
        self.patience = patience
        self.best_loss = math.inf
        self.best_epoch = 0
        self._epoch = 0

    def improved(self, loss: float) -> bool:
        """Whether this epoch is the best so far."""
        self._epoch += 1
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, self._epoch
            return True
        return False

    @property
    def stop(self) -> bool:
        """Whether patience is over."""
        return self._epoch - self.best_epoch >= self.patience


def describe(records: Sequence[EpochRecord], *, unit: str = "epoch") -> str:
    """The last record in words: ``epoch 3: loss 0.412, validation 0.433, AUC 0.871``."""
    last = records[-1]
    words = f"{unit} {last.epoch}: loss {last.train_loss:.4f}"
    if last.validation_loss is not None:
        words += f", validation {last.validation_loss:.4f}"
    if last.validation_auc is not None:
        words += f", AUC {last.validation_auc:.4f}"
    return words
