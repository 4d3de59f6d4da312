"""Learning: epochs of a stream for models that take batches, one table for models that do not.

Works with any learner of `mlaas4hep.backends`. Invariant: afterwards the learner has the weights of the epoch with the
lowest validation loss, and the history says which that is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.backends.protocol import Arrays, InMemoryLearner, Round, Scores, StreamingLearner
from mlaas4hep.data.dataset import Batch
from mlaas4hep.errors import DataError, ModelError
from mlaas4hep.train.callbacks import EarlyStopping, EpochRecord, History, Progress, describe
from mlaas4hep.train.memory import collect, require_memory
from mlaas4hep.train.metrics import log_loss, mean_auc, weighted_auc

Score = Callable[[dict[str, NDArray[np.float32]]], Scores]


class Stream(Protocol):
    """A part of the events, in batches; another order each epoch where it is shuffled."""

    def epoch(self, number: int) -> Iterable[Batch]:
        """The batches of one pass."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stream and how many events it holds, as the scan counted them."""

    stream: Stream
    events: int


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Scores [N, C] of a part with its labels and weights [N]."""

    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]

    def loss(self) -> float:
        """Weighted cross-entropy."""
        return log_loss(self.scores, self.labels, self.weights)

    def auc(self) -> float:
        """Weighted area; the mean of one class against the rest where there are several."""
        if self.scores.shape[1] == 1:
            return weighted_auc(self.scores[:, 0], self.labels == 1, self.weights).value
        return mean_auc(self.scores, self.labels, self.weights).value


def judge(score: Score, batches: Iterable[Batch], *, update: Callable[[int], None] = lambda _: None) -> Judged:
    """Scores of a part by a model; holds 16 bytes an event and 4 a score.

    Parameters
    ----------
    score
        Raw input groups to scores [n, C].
    batches
        The part.
    update
        Told the number of events of each batch.
    """
    scores, labels, weights = [], [], []
    for batch in batches:
        scores.append(np.asarray(score(batch.inputs), np.float32))
        labels.append(batch.labels)
        weights.append(batch.weights)
        update(len(batch.labels))
    if not scores:
        raise DataError("a part of the events is empty: nothing to judge")
    return Judged(np.concatenate(scores), np.concatenate(labels), np.concatenate(weights))


def learn_streaming(
    learner: StreamingLearner,
    train: Part,
    validation: Part | None,
    *,
    epochs: int,
    patience: int,
    progress: Progress,
) -> History:
    """Epochs over a stream until the validation loss rises, or there are enough.

    Parameters
    ----------
    learner
        Learns batch by batch.
    train, validation
        Parts with training weights; without a validation part all epochs are run and the last is kept.
    epochs
        At most so many.
    patience
        Epochs without a better validation loss before it stops.
    progress
        Told event by event.

    Raises
    ------
    ModelError
        The loss is no longer a number.
    """
    watch = EarlyStopping(patience=patience)
    records: list[EpochRecord] = []
    best: Arrays | None = None
    for epoch in range(1, epochs + 1):
        started = time.perf_counter()
        progress.start(f"epoch {epoch}/{epochs}", total=train.events)
        loss, events = _one_epoch(learner, train.stream.epoch(epoch - 1), progress)
        judged = judge(learner.predict, validation.stream.epoch(0)) if validation else None
        progress.close()
        record = _record(epoch, loss, events, judged, time.perf_counter() - started)
        records.append(record)
        progress.note(describe(records))
        if watch.improved(loss if record.validation_loss is None else record.validation_loss):
            best = learner.state() if validation else None
        elif validation and watch.stop:
            break
    if best is None:
        return History(tuple(records), len(records))
    learner.restore(best)
    return History(tuple(records), watch.best_epoch)


def _one_epoch(learner: StreamingLearner, batches: Iterable[Batch], progress: Progress) -> tuple[float, int]:
    """Mean loss, and events."""
    total = sum_weights = 0.0
    events = 0
    for batch in batches:
        loss = learner.learn(batch.inputs, batch.labels, batch.weights)
        share = float(np.abs(batch.weights).sum())
        total += loss * share
        sum_weights += share
        events += len(batch.labels)
        progress.update(len(batch.labels))
    if not sum_weights > 0:
        raise DataError(f"the weights of {events} training events sum to {sum_weights:g}: nothing to learn from")
    return total / sum_weights, events


def _record(epoch: int, loss: float, events: int, judged: Judged | None, seconds: float) -> EpochRecord:
    if judged is None:
        return EpochRecord(epoch, loss, events=events, seconds=seconds)
    after = judged.loss()
    if not np.isfinite(loss + after):
        raise ModelError(f"epoch {epoch}: the loss is {loss}, on the validation part {after}: the training diverged")
    return EpochRecord(epoch, loss, after, judged.auc(), events, seconds)


def learn_in_memory(
    learner: InMemoryLearner,
    train: Part,
    validation: Part | None,
    *,
    patience: int,
    max_memory: int,
    title: str,
    progress: Progress,
) -> History:
    """One table, one fit; refused beforehand where it would not fit into the memory allowed.

    Parameters
    ----------
    learner
        Learns from a table.
    train, validation
        Parts with training weights; the validation part says when to stop.
    patience
        Passed on; a learner may have a dial of its own for its rounds.
    max_memory
        Bytes.
    title
        The model in words, for messages.
    progress
        Told event by event while the table is filled.

    Raises
    ------
    ModelError
        The estimate is above ``max_memory``.
    """
    started = time.perf_counter()
    held = validation.events if validation else 0
    require_memory(learner, rows=train.events, validation_rows=held, max_memory=max_memory, title=title)
    progress.start("collecting events", total=train.events + held)
    table = collect(learner, train.stream.epoch(0), rows=train.events, update=progress.update)
    check = collect(learner, validation.stream.epoch(0), rows=held, update=progress.update) if validation else None
    progress.close()
    progress.start(f"learning {title} from {len(table):,} events", unit="rounds")
    rounds = learner.fit(table, check, patience=patience)
    progress.close()
    history = _rounds(rounds, len(table), time.perf_counter() - started)
    progress.note(describe(history.records[: history.best_epoch], unit=history.unit))
    return history


def _rounds(rounds: Iterable[Round], events: int, seconds: float) -> History:
    done = list(rounds)
    records = tuple(
        EpochRecord(number, one.train_loss, one.validation_loss, None, events, seconds / len(done))
        for number, one in enumerate(done, start=1)
    )
    after = [one.validation_loss for one in done if one.validation_loss is not None]
    return History(records, int(np.argmin(after)) + 1 if after else len(done), unit="round")
