"""A search by the command line: one of two workers is killed, all trials are made, and what comes out can be used."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.cli import run
from mlaas4hep.testing import write_events

pytest.importorskip("optuna", reason="the extra 'tune' is not installed")

from benchmarks.tuning import killed_search, outcome
from mlaas4hep.train.tuning.study import Study

pytestmark = pytest.mark.usefixtures("plain_pictures")

CONFIG = """
samples: {signal: {files: signal.root}, background: {files: background.root}}
inputs: {event: [x, y, z]}
split: {test: 0.1, validation: 0.2}
model: {name: mlp, hidden: "choice([8], [4])", learning_rate: "log(1e-3, 1e-1)"}
training: {epochs: 12, patience: 12, batch_size: 32}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("events")
    for seed, name in enumerate(("background", "signal")):
        random = np.random.default_rng(seed)
        write_events(folder / f"{name}.root", {one: random.normal(0.4 * seed, 2, 1500) for one in "xyz"})
    file = folder / "toy.yaml"
    file.write_text(CONFIG, encoding="utf-8")
    return file


@pytest.mark.slow
def test_with_a_worker_killed_in_the_middle_all_trials_are_made(config: Path, tmp_path: Path) -> None:
    search, killed, figures = killed_search(config, tmp_path / "search", [], [], trials=5, workers=2)
    found = outcome(search, killed, figures, trials=5)
    assert found["ended"] == found["trials"] == 5
    assert (found["killed_state"], found["counts"]["lost"], found["counts"]["failed"]) == ("lost", 1, 0)
    assert len(found["begun_anew_as"]) == 1
    assert found["same_values"]
    assert not found["test_part_opened_by_search"]
    assert found["beats"] in (True, False)
    assert not list((search / "cache").iterdir()), "the rows of the search go with it"
    assert run(["train", str(search / "best.yaml"), "-o", str(tmp_path / "best"), "--no-progress"]) == 0
    metrics = json.loads((tmp_path / "best" / "metrics.json").read_text())
    assert metrics["auc"] == pytest.approx(found["auc_best"], abs=1e-5), "the same config gives the same model"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ended_in_the_middle_it_goes_on_and_leaves_no_process(config: Path, tmp_path: Path, number: int) -> None:
    folder = tmp_path / "search"
    command = [
        sys.executable,
        "-m",
        "mlaas4hep",
        "tune",
        str(config),
        "-o",
        str(folder),
        "--trials",
        "3",
        "--no-progress",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for_a_trial(folder)
        process.send_signal(number)
        told = process.communicate(timeout=300)[1]
    if number == signal.SIGTERM:
        assert process.returncode == 128 + number
        assert f"go on with: mlaas4hep tune --resume {folder}" in told
        assert "Traceback" not in told
    wait_until(lambda: not Study(folder).workers.names())
    assert run(["tune", "--resume", str(folder), "--no-progress"]) == 0
    records = Study(folder).records()
    assert sum(one.counts for one in records) == 3
    assert all(one.state == "lost" or one.counts for one in records)
    assert (folder / "tune.html").is_file()


def wait_for_a_trial(folder: Path) -> None:
    wait_until((folder / "search.json").is_file)
    study = Study(folder)
    wait_until(lambda: any(one.state == "running" and one.epochs for one in study.records()))


def wait_until(happened: object, *, at_most_s: float = 300.0) -> None:
    deadline = time.monotonic() + at_most_s
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_plain_training_of_the_same_config_points_to_tune(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", str(config)]) == 2
    told = capsys.readouterr().err
    assert "model.learning_rate: log(0.001, 0.1) is a range to be searched" in told
    assert f"mlaas4hep tune {config}" in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a CONFIG to begin a search, or --resume DIR"),
        (["CONFIG", "--resume", "x"], "give a CONFIG to begin a search, or --resume DIR"),
        (["--resume", "x", "--seed", "1", "-o", "y"], "-o, --seed: a search goes on as it began"),
        (["--resume", "nowhere"], "nowhere: is no search: lacks search.json"),
        (["--resume", "x", "--device", "cpu"], "--device: a search goes on as it began"),
        (["CONFIG", "--device", "cuda"], "model.device: 'cuda' cannot be used: this model learns on the CPU"),
        (["CONFIG", "--set", "model=mlp"], "nothing is to be searched: write a range where a value would stand"),
        (["CONFIG", "--set", "model.hidden=choice([0], [4])"], "model.hidden: choice([0], [4]) with [0]: "),
    ],
)
def test_mistakes_are_told_before_anything_is_read(
    config: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    given = [str(config) if one == "CONFIG" else one for one in arguments]
    assert run(["tune", *given]) == 2
    assert words in capsys.readouterr().err


def test_an_old_search_is_not_written_over(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "search.json").write_text("{}")
    assert run(["tune", str(config), "-o", str(tmp_path)]) == 2
    assert f"{tmp_path}: is a search already; go on with it by --resume {tmp_path}" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["search.json"]
