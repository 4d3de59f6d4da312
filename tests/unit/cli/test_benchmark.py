"""``mlaas4hep benchmark``: a table of rates, and tables side by side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.cli import run
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.testing import write_events

CONFIG = """
samples: {signal: {files: signal.root}, background: {files: background.root}}
inputs: {event: [x, y]}
model: {name: mlp, hidden: [4]}
training: {batch_size: 64}
"""
FAST = ["--seconds", "0.05", "--no-progress"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for seed, name in enumerate(("background", "signal")):
        random = np.random.default_rng(seed)
        write_events(tmp_path / f"{name}.root", {one: random.normal(seed, 1, 600) for one in "xy"}, cluster=200)
    file = tmp_path / "toy.yaml"
    file.write_text(CONFIG, encoding="utf-8")
    return file


@pytest.mark.parametrize("model", ["{name: mlp, hidden: [4]}", "{name: bdt, trees: 3}"])
def test_every_stage_has_a_rate_and_the_test_part_stays_closed(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    parts = []
    before = EventDataset.__init__

    def noted(self: EventDataset, *arguments: object, **settings: object) -> None:
        parts.append(settings["part"])
        before(self, *arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(EventDataset, "__init__", noted)
    assert run(["benchmark", str(config), *FAST, "--json", "--set", f"model={model}"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert list(table["rates"]) == ["read", "pack", "train", "score"]
    assert all(one["events_per_s"] > 0 and one["events"] > 0 for one in table["rates"].values())
    assert table["device"] == "cpu"
    assert table["machine"]["cores"] >= 1
    assert set(parts) == {"train"}


def test_tables_lie_side_by_side_with_ratios_to_the_first(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = config.parent / "one.json"
    assert run(["benchmark", str(config), *FAST, "-o", str(table)]) == 0
    plain = json.loads(table.read_text())
    plain["rates"]["train"]["events_per_s"] *= 2
    del plain["rates"]["score"]
    other = config.parent / "other.json"
    other.write_text(json.dumps(plain))
    capsys.readouterr()
    assert run(["benchmark", "--compare", str(table), str(other), "--json"]) == 0
    rows = {row["stage"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["train, events/s"]["other ratio"], rows["read, events/s"]["other ratio"]) == ("2.00", "1.00")
    assert rows["score, events/s"]["other"] == "-"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--device", "cuda"],
            "model.device: 'cuda' cannot be used: this model learns on the CPU; for a GPU take backend: torch",
        ),
        (["--compare"], "--compare wants two tables or more"),
        (["toy.yaml"], "give one CONFIG"),
    ],
)
def test_what_cannot_be_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert run(["benchmark", str(config), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_file_that_is_no_table_is_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["benchmark", "--compare", str(config), str(config)]) == 2
    assert "toy.yaml: is no table of 'mlaas4hep benchmark -o'" in capsys.readouterr().err
