"""The loop keeps the best epoch, stops in time, and refuses what cannot be learned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mlaas4hep.backends.protocol import Capabilities, Round, Table
from mlaas4hep.data.batches import Batch
from mlaas4hep.errors import DataError, ModelError
from mlaas4hep.progress import Silent
from mlaas4hep.train.loop import Part, learn_in_memory, learn_streaming


class FixedStream:
    """The same 40 events each epoch; remembers which epochs were asked for."""

    def __init__(self, weight: float = 1.0) -> None:
        self.asked: list[int] = []
        self.weight = weight

    def epoch(self, number: int) -> Iterator[Batch]:
        self.asked.append(number)
        for start in (0, 20):
            x = np.arange(start, start + 20, dtype=np.float32)[:, None]
            labels = np.arange(start, start + 20) % 2
            yield Batch({"event": x}, labels, np.full(20, self.weight), np.zeros(20, np.int64))


class Scripted:
    """A learner whose score of the signal in each epoch is written down beforehand."""

    capabilities = Capabilities(streams=True)

    def __init__(self, script: list[float]) -> None:
        self.script = script
        self.steps = 0
        self.right = 0.5

    def learn(self, inputs: Any, labels: Any, weights: Any) -> float:
        self.right = self.script[self.steps // 2]
        self.steps += 1
        return 1.0 - self.right

    def predict(self, inputs: Any) -> np.ndarray:
        signal = inputs["event"][:, :1] % 2 == 1
        return np.where(signal, self.right, 1 - self.right).astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        return {"right": np.array(self.right)}

    def restore(self, state: Any) -> None:
        self.right = float(state["right"])

    def export(self) -> Any:
        raise NotImplementedError

    def native(self) -> dict[str, bytes]:
        return {}


def test_the_weights_of_the_best_epoch_are_kept_and_patience_ends_the_training() -> None:
    learner, stream = Scripted([0.6, 0.7, 0.9, 0.8, 0.85, 0.99]), FixedStream()
    history = learn_streaming(
        learner, Part(stream, 40), Part(FixedStream(), 40), epochs=6, patience=2, progress=Silent()
    )
    assert (history.best_epoch, len(history.records), learner.right) == (3, 5, 0.9)
    assert stream.asked == [0, 1, 2, 3, 4]
    assert history.best.validation_loss == pytest.approx(-np.log(0.9), rel=1e-6)
    assert history.best.validation_auc == 1.0
    assert history.best.events == 40


def test_without_a_validation_part_all_epochs_are_run_and_the_last_is_kept() -> None:
    learner = Scripted([0.9, 0.8, 0.7])
    history = learn_streaming(learner, Part(FixedStream(), 40), None, epochs=3, patience=1, progress=Silent())
    assert (history.best_epoch, len(history.records), learner.right) == (3, 3, 0.7)


def test_events_without_weight_teach_nothing_and_say_so() -> None:
    with pytest.raises(DataError, match="40 training events sum to 0"):
        learn_streaming(Scripted([0.9]), Part(FixedStream(0.0), 40), None, epochs=1, patience=1, progress=Silent())


def test_a_loss_that_is_not_a_number_ends_the_training() -> None:
    learner = Scripted([float("nan")])
    with pytest.raises((ModelError, DataError), match=r"diverged|NaN"):
        learn_streaming(
            learner, Part(FixedStream(), 40), Part(FixedStream(), 40), epochs=1, patience=1, progress=Silent()
        )


class InMemory(Scripted):
    """Needs 1 kB an event."""

    capabilities = Capabilities(streams=False)
    dtype = np.dtype(np.float64)

    def view(self, inputs: Any) -> np.ndarray:
        return inputs["event"]

    def memory_estimate(self, rows: int, validation_rows: int) -> int:
        return 1000 * (rows + validation_rows)

    def fit(self, train: Table, validation: Table | None, *, patience: int) -> list[Round]:
        self.table = train
        return [Round(0.6, 0.7), Round(0.5, 0.6), Round(0.4, 0.65)]


def in_memory(learner: InMemory, *, events: int = 40, max_memory: int = 10**6) -> Any:
    return learn_in_memory(
        learner,
        Part(FixedStream(), events),
        None,
        patience=5,
        max_memory=max_memory,
        title="trees",
        progress=Silent(),
    )


def test_a_table_holds_every_event_in_the_type_of_the_learner() -> None:
    learner = InMemory([])
    history = in_memory(learner)
    assert learner.table.x.dtype == np.float64
    np.testing.assert_array_equal(learner.table.x[:, 0], np.arange(40))
    assert (history.best_epoch, history.unit) == (2, "round")


def test_a_table_that_does_not_fit_is_refused_with_the_number_before_it_is_read() -> None:
    with pytest.raises(ModelError, match=r"40 need about 40 kB, and training.max_memory allows 20 kB") as error:
        in_memory(InMemory([]), max_memory=20_000)
    assert "about 20 in" in str(error.value)


@pytest.mark.parametrize("events", [39, 41])
def test_files_that_changed_since_the_scan_are_noticed(events: int) -> None:
    with pytest.raises(DataError, match="changed"):
        in_memory(InMemory([]), events=events)
