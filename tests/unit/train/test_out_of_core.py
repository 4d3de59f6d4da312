"""Learning from disk is refused with the number where memory or disk do not suffice, and leaves nothing behind."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from mlaas4hep.backends.protocol import Capabilities, InMemoryLearner, OutOfCoreLearner, Pages, Round
from mlaas4hep.config import Config, Model
from mlaas4hep.data.batches import Batch
from mlaas4hep.errors import DataError, ModelError
from mlaas4hep.progress import Silent
from mlaas4hep.train.callbacks import History
from mlaas4hep.train.loop import Part
from mlaas4hep.train.out_of_core import learn_out_of_core
from mlaas4hep.train.run import train

pytestmark = pytest.mark.usefixtures("plain_pictures")


class FixedStream:
    """40 events."""

    def epoch(self, number: int) -> Iterator[Batch]:
        for start in (0, 20):
            x = np.arange(start, start + 20, dtype=np.float32)[:, None]
            yield Batch({"event": x}, np.arange(20) % 2, np.ones(20), np.zeros(20, np.int64))


class Reader:
    """Remembers what it was given, and where."""

    capabilities = Capabilities(streams=False, out_of_core=True)

    def __init__(self, *, memory: int = 1000, disk: int = 1000, error: Exception | None = None) -> None:
        self.memory, self.disk, self.error = memory, disk, error
        self.seen: list[np.ndarray] = []
        self.folder = Path()

    def view(self, inputs: Any) -> np.ndarray:
        return inputs["event"]

    def memory_estimate(self, rows: int, validation_rows: int) -> int:
        return self.memory

    def disk_estimate(self, rows: int, validation_rows: int) -> int:
        return self.disk

    def fit(self, train: Pages, validation: Pages | None, *, patience: int, folder: Path) -> Sequence[Round]:
        self.seen, self.folder = [page.x[:, 0] for page in train], folder
        assert folder.is_dir()
        if self.error:
            raise self.error
        return [Round(0.6, 0.65), Round(0.4, 0.5), Round(0.3, 0.55)]

    def predict(self, inputs: Any) -> Any:
        raise NotImplementedError

    def export(self) -> Any:
        raise NotImplementedError

    def native(self) -> dict[str, bytes]:
        return {}


def learn(learner: Reader, *, events: int = 40, max_memory: int = 10**9) -> History:
    part = Part(FixedStream(), events)
    return learn_out_of_core(
        learner, part, part, width=1, patience=3, max_memory=max_memory, title="reader", progress=Silent()
    )


def test_events_arrive_in_the_order_of_the_stream_and_the_best_round_is_named() -> None:
    learner = Reader()
    assert isinstance(learner, OutOfCoreLearner)
    assert not isinstance(learner, InMemoryLearner)
    history = learn(learner)
    np.testing.assert_array_equal(np.concatenate(learner.seen), np.arange(40))
    assert (history.best_epoch, history.unit, len(history.records)) == (2, "round", 3)


@pytest.mark.parametrize("error", [None, RuntimeError("broken")])
def test_nothing_is_left_on_disk(error: Exception | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    learner = Reader(error=error)
    if error:
        with pytest.raises(RuntimeError, match="broken"):
            learn(learner)
    else:
        learn(learner)
    assert learner.folder.is_relative_to(tmp_path)
    assert not any(tmp_path.iterdir())


def test_too_little_memory_is_refused_with_the_number() -> None:
    with pytest.raises(
        ModelError, match=r"reader.*of all 80 in memory: about 3 GB, and training.max_memory allows 1 GB"
    ):
        learn(Reader(memory=3 * 10**9))


def test_too_little_disk_is_refused_with_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 5000, 5000))  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=r"about 6.28 kB on disk for 80 events, and .* has 5 kB free. Set TMPDIR"):
        learn(Reader(disk=5000))


def test_files_that_changed_since_the_scan_are_told() -> None:
    with pytest.raises(DataError, match="40 events instead of the 41"):
        learn(Reader(), events=41)


@pytest.mark.parametrize(
    ("name", "dials", "native"),
    [
        ("xgboost", {"trees": 20, "min_child_weight": 1.0}, "xgboost.json"),
        ("lightgbm", {"num_iterations": 20, "min_data_in_leaf": 5}, "lightgbm.txt"),
    ],
)
def test_a_run_of_boosted_trees_gives_one_graph_twice(
    name: str, dials: dict[str, float], native: str, small_config: Callable[..., Config], tmp_path: Path
) -> None:
    pytest.importorskip(name)
    config = replace(small_config(), model=Model(name=name, dials=dials))
    runs = [train(config, output=tmp_path / name) for name in ("one", "two")]
    assert runs[0].metrics["model_sha256"] == runs[1].metrics["model_sha256"]
    assert runs[0].history.unit == "round"
    assert (runs[0].bundle.path / "native" / native).exists()
