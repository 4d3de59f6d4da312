"""``mlaas4hep train`` from the shell: figures on standard output, everything else on standard error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.cli import run
from mlaas4hep.testing import write_events

pytestmark = pytest.mark.usefixtures("plain_pictures")

CONFIG = """
tree: Events
samples:
  signal: {files: signal.root}
  background: {files: background.root}
inputs: {event: [x, y]}
model: {name: bdt, trees: 10}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for seed, name in enumerate(("background", "signal")):
        random = np.random.default_rng(seed)
        write_events(tmp_path / f"{name}.root", {one: random.normal(seed, 1, 600) for one in ("x", "y")})
    file = tmp_path / "toy.yaml"
    file.write_text(CONFIG, encoding="utf-8")
    return file


def test_json_ends_with_one_line_of_figures(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = config.parent / "run"
    assert run(["train", str(config), "-o", str(output), "--json", "--progress", "--set", "model.trees=5"]) == 0
    printed, told = capsys.readouterr()
    figures = json.loads(printed)
    assert 0.7 < figures["auc"] < 1
    assert figures["auc_part"] == "validation"
    assert figures["events"] == 1200
    assert Path(figures["report"]) == output / "report.html"
    assert Path(figures["bundle"]).is_dir()
    assert "scanning events" in told
    assert "1200 entries in 2 files" in told


def test_words_name_run_bundle_and_page(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(config.parent)
    assert run(["train", str(config), "-o", "run", "--no-progress"]) == 0
    printed, told = capsys.readouterr()
    named = dict(line.split(":", 1) for line in printed.splitlines() if line[:1].isupper())
    assert [named[one].strip() for one in ("Run", "Bundle", "Page")] == ["run", "run/model/toy/1", "run/report.html"]
    assert named["Serve it"].strip() == "mlaas4hep serve run/model/toy"
    assert "bdt (backend sklearn): round" in printed
    assert "mlaas4hep serve" in printed
    assert "not opened: mlaas4hep evaluate" in printed
    assert "%|" not in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "model.treees=5"], "did you mean 'trees'"),
        (["--set", "inputs.event=[x, yy]"], "yy"),
        (["--set", "samples.signal.files=signl.root"], "signl.root"),
        (["--max-events", "1"], "there are 2 samples"),
        (["--device", "cuda"], "model.device: 'cuda' cannot be used: this model learns on the CPU"),
    ],
)
def test_a_mistake_is_one_message_and_status_two(
    config: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert run(["train", str(config), "-o", str(config.parent / "run"), *arguments]) == 2
    printed, told = capsys.readouterr()
    assert printed == ""
    assert words in told
    assert "Traceback" not in told
    assert not (config.parent / "run").exists()


def test_train_and_evaluate_in_one_go_then_compare(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = config.parent / "one", config.parent / "other"
    assert run(["train", str(config), "-o", str(one), "--evaluate", "--no-progress"]) == 0
    printed, _ = capsys.readouterr()
    assert "test " in printed
    assert "not opened" not in printed
    assert "Kolmogorov-Smirnov" in printed
    shutil.copytree(one, other)
    assert run(["evaluate", str(one), str(other), "-o", str(config.parent / "both"), "--json"]) == 0
    printed, told = capsys.readouterr()
    figures = json.loads(printed)
    assert [one["test_part_opened"] for one in figures["runs"]] == [False, False]
    assert Path(figures["report"]) == config.parent / "both" / "report.html"
    assert told.count("was opened before") == 2


def test_the_folder_of_a_comparison_needs_runs_to_compare(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", str(config.parent), "-o", str(config.parent / "page")]) == 2
    assert "give several runs" in capsys.readouterr().err
