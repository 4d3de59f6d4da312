"""Learning: epochs of a stream for models that take batches, one table for models that do not.

Works with any learner of `mlaas4hep.backends`. Invariant: afterwards the learner has the weights of the epoch with the
lowest validation loss, and the history says which that is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.backends.losses import SQUARED, Loss
from mlaas4hep.backends.protocol import InMemoryLearner, RegressionLearner, Round, Scores, StreamingLearner, Truth
from mlaas4hep.data.batches import Batch
from mlaas4hep.errors import DataError, ModelError
from mlaas4hep.progress import Progress
from mlaas4hep.spec.targets import Targets, TargetScaler
from mlaas4hep.train.callbacks import EarlyStopping, EpochRecord, History, Watch, describe
from mlaas4hep.train.interrupt import Interrupted
from mlaas4hep.train.memory import collect, require_memory
from mlaas4hep.train.metrics import log_loss, mean_auc, mean_loss, weighted_auc
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
    """A part of the events.

    Parameters
    ----------
    stream
        Its batches.
    events
        How many it holds, as the scan counted them.
    targets
        Of a regression: brings its targets to the standard units that are learned.
    """

    stream: Stream
    events: int
    targets: TargetScaler | None = None

    def truth(self, batch: Batch) -> Truth:
        """What a learner is given of a batch: labels, or targets in standard units."""
        if self.targets is None or batch.targets is None:
            return batch.labels
        return self.targets.standard(batch.targets)

    def learned(self, number: int) -> Iterator[Learned]:
        """The batches of one pass as learners are given them."""
        return (Learned(batch.inputs, self.truth(batch), batch.weights) for batch in self.stream.epoch(number))


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """A batch as a learner is given it: raw inputs, truth [n] or [n, T], weights [n]."""

    inputs: dict[str, NDArray[np.float32]]
    truth: Truth
    weights: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Scores of a part, and what they should have been.

    Parameters
    ----------
    scores
        [N, C].
    labels
        [N]; -1 of a regression.
    weights
        [N].
    targets
        float32 [N, T] of a regression, in the units of the scores; else None.
    """

    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    targets: Targets | None = None

    def loss(self, loss: Loss = SQUARED) -> float:
        """Weighted cross-entropy; of a regression the weighted mean of ``loss``, which wants standard units."""
        if self.targets is None:
            return log_loss(self.scores, self.labels, self.weights)
        return mean_loss(loss.of(self.scores.astype(np.float64) - self.targets), self.weights)

    def auc(self) -> float | None:
        """Weighted area; the mean of one class against the rest where there are several; none of a regression."""
        if self.targets is not None:
            return None
        if self.scores.shape[1] == 1:
            return weighted_auc(self.scores[:, 0], self.labels == 1, self.weights).value
        return mean_auc(self.scores, self.labels, self.weights).value


def judge(
    score: Score,
    batches: Iterable[Batch],
    *,
    targets: TargetScaler | None = None,
    update: Callable[[int], None] = lambda _: None,
) -> Judged:
    """Scores of a part by a model; holds 16 bytes an event and 4 a score or target.

    Parameters
    ----------
    score
        Raw input groups to scores [n, C].
    batches
        The part.
    targets
        Brings the targets of a regression to standard units, where scores are such; None leaves them in their own.
    update
        Told the number of events of each batch.
    """
    scores, labels, weights = [], [], []
    wanted: list[Targets] = []
    for batch in batches:
        scores.append(np.asarray(score(batch.inputs), np.float32))
        labels.append(batch.labels)
        weights.append(batch.weights)
        if batch.targets is not None:
            wanted.append(batch.targets.copy() if targets is None else targets.standard(batch.targets))
        update(len(batch.labels))
    if not scores:
        raise DataError("a part of the events is empty: nothing to judge")
    given = np.concatenate(wanted) if wanted else None
    return Judged(np.concatenate(scores), np.concatenate(labels), np.concatenate(weights), given)


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
    on_epoch: Watch | None = None,
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
    on_epoch
        Told each epoch's record; what it raises ends the training.

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
        if on_epoch is not None:
            on_epoch(record)
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

    position = tally.position

    def place() -> Standing:
        tally.seconds = time.perf_counter() - started
        tally.position = position
        return standing

    def visit(_: int) -> None:
        nonlocal position
        if keeper is not None:
            # Asked for here: of a batch that is waited for, nobody can tell whether it was taken yet.
            position = _positioned(batches).state_dict()
            keeper.visit(place)

    for batch in _waited_for(batches, keeper, place):
        _learn_batch(learner, train, batch, tally)
        progress.update(len(batch.labels))
        visit(len(batch.labels))
    if not tally.sum_weights > 0:
        raise DataError(
            f"the weights of {tally.events} training events sum to {tally.sum_weights:g}: nothing to learn from"
        )
    judged = None
    if validation:
        check = _waited_for(validation.stream.epoch(0), keeper, place)
        judged = judge(learner.predict, check, targets=validation.targets, update=visit)
    own = learner.loss if isinstance(learner, RegressionLearner) else SQUARED
    loss = tally.total_loss / tally.sum_weights
    return _record(number + 1, loss, tally.events, judged, own, time.perf_counter() - started)


def _waited_for(batches: Iterable[Batch], keeper: Keeper | None, standing: Callable[[], Standing]) -> Iterator[Batch]:
    """The same batches; a signal ends the wait for one of them, and what was learned before it is kept."""
    rest = iter(batches)
    while True:
        try:
            with keeper.interrupt.listening() if keeper is not None else nullcontext():
                batch = next(rest, None)
        except Interrupted:
            if keeper is not None:
                keeper.visit(standing)
            raise
        if batch is None:
            return
        yield batch


def _learn_batch(learner: StreamingLearner, part: Part, batch: Batch, tally: Tally) -> None:
    loss = learner.learn(batch.inputs, part.truth(batch), batch.weights)
    share = float(np.abs(batch.weights).sum())
    tally.total_loss += float(loss) * share
    tally.sum_weights += share
    tally.events += len(batch.labels)


def _positioned(batches: Iterable[Batch]) -> Positioned:
    if not isinstance(batches, Positioned):
        raise ModelError(f"a {type(batches).__name__} does not know its place: a training on it cannot be kept")
    return batches


def _record(epoch: int, loss: float, events: int, judged: Judged | None, own: Loss, seconds: float) -> EpochRecord:
    if judged is None:
        if not np.isfinite(loss):
            raise ModelError(f"epoch {epoch}: the loss is {loss}: the training diverged; lower model.learning_rate")
        return EpochRecord(epoch, loss, events=events, seconds=seconds)
    after = judged.loss(own)
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
    table = collect(learner, train.learned(0), rows=train.events, update=progress.update)
    check = collect(learner, validation.learned(0), rows=held, update=progress.update) if validation else None
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
