"""A training that is killed at random moments and resumed ends with the weights of one that nobody disturbed."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.resume import OFTEN, Tally, finish, killed_run, start
from mlaas4hep.testing import write_events
from mlaas4hep.train.checkpoint import CheckpointFolder
from tests.examples import ALL

CONFIG = """
samples: {signal: {files: signal.root}, background: {files: background.root}}
inputs: {event: [x, y, z]}
split: {test: 0.1, validation: 0.1}
training: {epochs: 25, patience: 25, batch_size: 32}
"""
MODELS = {"sklearn": "model={name: mlp, hidden: [16]}", "torch": "model={name: mlp, backend: torch, hidden: [16]}"}
# Of the processes below: about three seconds, of which one learns.
LIFE_S, LEARNING_S = 3.0, 1.0


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("events")
    for seed, name in enumerate(("background", "signal")):
        numbers = np.random.default_rng(seed)
        write_events(folder / f"{name}.root", {one: numbers.normal(seed, 2, 1000) for one in "xyz"}, cluster=200)
    file = folder / "toy.yaml"
    file.write_text(CONFIG, encoding="utf-8")
    return file


@pytest.mark.parametrize("backend", ["sklearn", pytest.param("torch", marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_weights(config: Path, tmp_path: Path, backend: str) -> None:
    if backend == "torch":
        pytest.importorskip("torch")
    seed = time.time_ns()
    tally, moments = Tally(), random.Random(seed)
    undisturbed = start(config, tmp_path / "whole", [MODELS[backend]])
    killed_run(
        config,
        tmp_path / "killed",
        [MODELS[backend]],
        tally,
        until=(3 if backend == "sklearn" else 2) if ALL else 1,
        moments=moments,
        spans_s=(LIFE_S, LEARNING_S),
    )
    assert tally.hashes == [finish(undisturbed)["model_sha256"]], f"moments of seed {seed}"
    assert (tmp_path / "killed" / "report.html").is_file()


def test_asked_to_end_it_keeps_what_it_learned_and_says_how_to_go_on(config: Path, tmp_path: Path) -> None:
    process = start(config, tmp_path / "run", [MODELS["sklearn"], OFTEN, "training.epochs=100000"])
    folder = CheckpointFolder(tmp_path / "run")
    while not folder.found and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    printed, told = process.communicate(timeout=60)
    assert (process.returncode, printed) == (143, "")
    assert "--resume" in told
    assert told.endswith("interrupted by SIGTERM\n")
    assert "Traceback" not in told
    assert folder.found
