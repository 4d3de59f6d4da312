"""Wherever between two batches a training stops, what was kept goes on to the same weights and the same history."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlaas4hep.backends.arrays import below
from mlaas4hep.backends.protocol import Capabilities
from mlaas4hep.data.batches import Batch
from mlaas4hep.errors import ModelError, UserError
from mlaas4hep.progress import Silent
from mlaas4hep.train.callbacks import History
from mlaas4hep.train.checkpoint import CheckpointFolder
from mlaas4hep.train.interrupt import Interrupt, Interrupted
from mlaas4hep.train.loop import Part, learn_streaming
from mlaas4hep.train.standing import Keeper, Standing, standing_of

EPOCHS, BATCHES = 5, 3


class Batches:
    """Three batches of an epoch that know their place."""

    def __init__(self, epoch: int) -> None:
        self.epoch, self.place = epoch, 0

    def __iter__(self) -> Iterator[Batch]:
        while self.place < BATCHES:
            self.place += 1
            random = np.random.default_rng([self.epoch, self.place])
            x = random.normal(size=(8, 1)).astype(np.float32)
            yield Batch({"event": x}, np.arange(8) % 2, random.uniform(0.5, 1.5, 8), np.zeros(8))

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "place": self.place}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.place = state["epoch"], state["place"]


class Stream:
    def epoch(self, number: int) -> Batches:
        return Batches(number)


class Momentum:
    """A learner whose next step depends on all before it."""

    capabilities = Capabilities(streams=True, resume="exact")

    def __init__(self) -> None:
        self.weight, self.velocity = np.zeros(1), np.zeros(1)

    def learn(self, inputs: Any, labels: Any, weights: Any) -> float:
        self.velocity = 0.7 * self.velocity + 0.3 * np.average(inputs["event"][:, 0], weights=weights)
        self.weight = self.weight + self.velocity
        return float(np.exp(-self.weight[0]))

    def predict(self, inputs: Any) -> Any:
        return 1 / (1 + np.exp(-self.weight * inputs["event"]))

    def state(self) -> dict[str, Any]:
        return {"weight": self.weight.copy()}

    def restore(self, state: Any) -> None:
        self.weight = state["weight"]

    def checkpoint(self) -> dict[str, Any]:
        return {"weight": self.weight.copy(), "velocity": self.velocity.copy()}

    def recover(self, arrays: Any) -> None:
        self.weight, self.velocity = arrays["weight"], arrays["velocity"]

    def export(self) -> Any:
        raise NotImplementedError

    def native(self) -> dict[str, bytes]:
        return {}


class AskedAt(Interrupt):
    """A signal that comes before a visit of a given number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number

    @property
    def urgent(self) -> bool:
        if self.left == 0:
            self._heard.append(2)
        self.left -= 1
        return len(self._heard) > 1


class SignalAt(Stream):
    """A signal comes while the batch of a given number is waited for, which was taken already."""

    def __init__(self, number: int) -> None:
        self.left = number

    def epoch(self, number: int) -> Batches:
        stream = self

        class Awaited(Batches):
            def __iter__(self) -> Iterator[Batch]:
                for batch in super().__iter__():
                    if stream.left == 0:
                        signal.raise_signal(signal.SIGTERM)
                    stream.left -= 1
                    yield batch

        return Awaited(number)


def learned(
    learner: Momentum, keeper: Keeper | None = None, standing: Standing | None = None, stream: Stream | None = None
) -> History:
    part = Part(stream or Stream(), 24)
    return learn_streaming(
        learner, part, part, epochs=EPOCHS, patience=2, progress=Silent(), keeper=keeper, standing=standing
    )


def keeper_of(folder: CheckpointFolder, learner: Momentum, *, asked_at: int = -1, every_s: float = math.inf) -> Keeper:
    return Keeper(folder, learner, {}, {}, {}, every_s, AskedAt(asked_at), Silent())


def figures(history: History) -> list[tuple[object, ...]]:
    return [(one.train_loss, one.validation_loss, one.validation_auc, one.events) for one in history.records]


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    folder = CheckpointFolder(tmp_path / "run")
    folder.claim()
    return folder


def test_stopped_between_any_two_batches_it_goes_on_as_if_it_had_not_been(folder: CheckpointFolder) -> None:
    whole = Momentum()
    expected = learned(whole)
    # After each batch of both parts, and after each epoch.
    visits = len(expected.records) * (2 * BATCHES + 1)
    assert 1 < expected.best_epoch < len(expected.records), "the weights that are kept are not the last ones"
    for visit in range(visits):
        first, second = Momentum(), Momentum()
        with pytest.raises(Interrupted):
            learned(first, keeper_of(folder, first, asked_at=visit))
        saved = folder.read()
        second.recover(below("learner", saved.arrays))
        history = learned(second, keeper_of(folder, second), standing_of(saved))
        assert figures(history) == figures(expected), f"stopped at visit {visit}"
        assert history.best_epoch == expected.best_epoch
        assert second.weight.tobytes() == whole.weight.tobytes()


def test_a_signal_ends_the_wait_for_any_batch_and_it_goes_on_as_if_it_had_not(folder: CheckpointFolder) -> None:
    whole = Momentum()
    expected = learned(whole)
    for wait in range(len(expected.records) * 2 * BATCHES):
        first, second = Momentum(), Momentum()
        keeper = Keeper(folder, first, {}, {}, {}, math.inf, Interrupt(), Silent())
        with pytest.raises(Interrupted, match="SIGTERM"), keeper.interrupt, keeper.interrupt.held():
            learned(first, keeper, stream=SignalAt(wait))
        saved = folder.read()
        second.recover(below("learner", saved.arrays))
        history = learned(second, keeper_of(folder, second), standing_of(saved))
        assert figures(history) == figures(expected), f"stopped while batch {wait} was waited for"
        assert second.weight.tobytes() == whole.weight.tobytes()


def test_keeping_changes_nothing_and_a_full_disk_is_told(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    class Told(Silent):
        def note(self, text: str) -> None:
            told.append(text)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "write", full)
    whole, learner = Momentum(), Momentum()
    keeper = keeper_of(folder, learner, every_s=0)
    keeper.progress = Told()
    assert figures(learned(learner, keeper)) == figures(learned(whole))
    assert "No space left on device); the training goes on" in told[0]


def test_batches_that_do_not_know_their_place_cannot_be_kept(folder: CheckpointFolder) -> None:
    class Plain(Stream):
        def epoch(self, number: int) -> Any:
            return iter(Batches(number))

    learner = Momentum()
    with pytest.raises(ModelError, match="does not know its place"):
        learn_streaming(
            learner,
            Part(Plain(), 24),
            None,
            epochs=1,
            patience=1,
            progress=Silent(),
            keeper=keeper_of(folder, learner, every_s=0),
        )


def test_a_checkpoint_of_another_version_is_refused(folder: CheckpointFolder) -> None:
    folder.write({"version": 99}, {})
    with pytest.raises(UserError, match="checkpoint version 99; this program reads version 1"):
        standing_of(folder.read())
    folder.write({"version": 1}, {})
    with pytest.raises(UserError, match="not a checkpoint of this program"):
        standing_of(folder.read())
