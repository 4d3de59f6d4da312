"""Learning: epochs of a stream for models that take batches, one table for models that do not.

Works with any learner of `mlaas4hep.backends`. Invariant: afterwards the learner has the weights of the epoch with the
lowest validation loss, and the history says which that is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.backends.protocol import InMemoryLearner, Round, Scores, StreamingLearner
from mlaas4hep.data.batches import Batch
from mlaas4hep.errors import DataError, ModelError
from mlaas4hep.train.callbacks import EarlyStopping, EpochRecord, History, Progress, describe
from mlaas4hep.train.memory import collect, require_memory
from mlaas4hep.train.metrics import log_loss, mean_auc, weighted_auc
from mlaas4hep.train.standing import Keeper, Standing, Tally

Score = Callable[[dict[str, NDArray[np.float32]]], Scores]


class Stream(Protocol):
    """A part of the events, in batches; another order each epoch where it is shuffled."""

    def epoch(self, number: int) -> Iterable[Batch]:
        """The batches of one pass."""


@runtime_checkable
class Positioned(Protocol):
    """Batches that can be left and taken up at the same place."""

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, in plain values."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go there."""


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
    keeper: Keeper | None = None,
    standing: Standing | None = None,
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
    keeper
        Visited after each batch; the train stream's batches are then `Positioned`.
    standing
        Where a training stood that goes on here, and that the learner was brought to. None begins.

    Raises
    ------
    ModelError
        The loss is no longer a number.
    Interrupted
        By a signal, from the keeper.
    """
    standing = standing or Standing()
    watch = EarlyStopping(patience=patience)
    for record in standing.records:
        watch.improved(record.watched)
    while len(standing.records) < epochs and not (validation and watch.stop):
        progress.start(f"epoch {len(standing.records) + 1}/{epochs}", total=train.events)
        record = _one_epoch(learner, train, validation, standing, progress, keeper)
        progress.close()
        standing.records.append(record)
        standing.tally = Tally()
        progress.note(describe(standing.records))
        if watch.improved(record.watched) and validation:
            standing.best = learner.state()
        if keeper is not None:
            keeper.visit(lambda: standing)
    records = tuple(standing.records)
    if standing.best is None:
        return History(records, len(records))
    learner.restore(standing.best)
    return History(records, watch.best_epoch)


def _one_epoch(
    learner: StreamingLearner,
    train: Part,
    validation: Part | None,
    standing: Standing,
    progress: Progress,
    keeper: Keeper | None,
) -> EpochRecord:
    """What is left of an epoch, and its validation."""
    tally, number = standing.tally, len(standing.records)
    batches = train.stream.epoch(number)
    if tally.position is not None:
        _positioned(batches).load_state_dict(tally.position)
        progress.update(tally.events)
    started = time.perf_counter() - tally.seconds

    def place() -> Standing:
        tally.seconds = time.perf_counter() - started
        tally.position = _positioned(batches).state_dict()
        return standing

    def visit(_: int) -> None:
        if keeper is not None:
            keeper.visit(place)

    for batch in batches:
        _learn_batch(learner, batch, tally)
        progress.update(len(batch.labels))
        visit(len(batch.labels))
    if not tally.sum_weights > 0:
        raise DataError(
            f"the weights of {tally.events} training events sum to {tally.sum_weights:g}: nothing to learn from"
        )
    judged = judge(learner.predict, validation.stream.epoch(0), update=visit) if validation else None
    loss = tally.total_loss / tally.sum_weights
    return _record(number + 1, loss, tally.events, judged, time.perf_counter() - started)


def _learn_batch(learner: StreamingLearner, batch: Batch, tally: Tally) -> None:
    loss = learner.learn(batch.inputs, batch.labels, batch.weights)
    share = float(np.abs(batch.weights).sum())
    tally.total_loss += float(loss) * share
    tally.sum_weights += share
    tally.events += len(batch.labels)


def _positioned(batches: Iterable[Batch]) -> Positioned:
    if not isinstance(batches, Positioned):
        raise ModelError(f"a {type(batches).__name__} does not know its place: a training on it cannot be kept")
    return batches


def _record(epoch: int, loss: float, events: int, judged: Judged | None, seconds: float) -> EpochRecord:
    if judged is None:
        if not np.isfinite(loss):
            raise ModelError(f"epoch {epoch}: the loss is {loss}: the training diverged; lower model.learning_rate")
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
    history = rounds_history(rounds, len(table), time.perf_counter() - started)
    progress.note(describe(history.records[: history.best_epoch], unit=history.unit))
    return history


def rounds_history(rounds: Iterable[Round], events: int, seconds: float) -> History:
    """The record of a model that learned in rounds; the best of them is kept."""
    done = list(rounds)
    records = tuple(
        EpochRecord(number, one.train_loss, one.validation_loss, None, events, seconds / len(done))
        for number, one in enumerate(done, start=1)
    )
    after = [one.validation_loss for one in done if one.validation_loss is not None]
    return History(records, int(np.argmin(after)) + 1 if after else len(done), unit="round")
