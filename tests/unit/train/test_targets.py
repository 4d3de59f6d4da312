"""Runs of a regression: what is refused before anything is learned, what is told, kept and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlaas4hep.config import Config, parse_config
from mlaas4hep.errors import ConfigError, DataError, ModelError, UserError
from mlaas4hep.testing import write_events
from mlaas4hep.train.compare import compare
from mlaas4hep.train.evaluate import EvaluatedRun, evaluate
from mlaas4hep.train.kept import SCORES_FILE
from mlaas4hep.train.reference import reference_auc, reference_targets
from mlaas4hep.train.residuals import target_figures
from mlaas4hep.train.run import train
from tests.notes import Notes

pytestmark = pytest.mark.usefixtures("plain_pictures")

ENTRIES = 3000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("targets")
    random = np.random.default_rng(1)
    x, z = random.normal(size=(2, ENTRIES))
    true = 1000 + 50 * (x + z**2 / 2 + random.normal(0, 0.2, ENTRIES))
    true[::100] = np.nan
    events = {
        "event": np.arange(ENTRIES, dtype=np.uint64),
        "x": x.astype(np.float32),
        "z": z.astype(np.float32),
        "true": true,
        "signed": np.where(random.random(ENTRIES) < 0.1, -1.0, 1.0),
    }
    write_events(made / "all.root", events, cluster=500)  # type: ignore[arg-type]
    return made


def document(model: str = "bdt") -> dict[str, Any]:
    dials = {"bdt": {"trees": 60, "learning_rate": 0.1}, "mlp": {"hidden": [16]}}[model]
    return {
        "name": "toy",
        "samples": {"all": {"files": "all.root"}},
        "inputs": {"event": ["x", "z"]},
        "targets": {"energy": "true"},
        "split": {"by": ["event"], "test": 0.3, "validation": 0.2},
        "model": {"name": model, **dials},
        "training": {"epochs": 3, "batch_size": 64},
    }


def config(folder: Path, model: str = "bdt", **keys: Any) -> Config:
    return parse_config(json.dumps(document(model) | keys), folder=folder)


@pytest.fixture(scope="module")
def runs(folder: Path) -> dict[str, EvaluatedRun]:
    found = {}
    for model in ("bdt", "mlp"):
        train(config(folder, model), output=folder / model, threads=0)
        found[model] = evaluate(folder / model, threads=0)
    return found


def test_figures_are_of_the_test_part_in_the_units_of_the_target(runs: dict[str, EvaluatedRun]) -> None:
    run = runs["bdt"]
    assert run.targets is not None
    figures = run.targets.test["energy"]
    assert run.test is not None
    assert run.test.targets is not None
    assert 900 < run.test.targets.mean() < 1100
    assert figures == target_figures(run.test.scores[:, 0], run.test.targets[:, 0], run.test.weights)
    assert 10 < figures.resolution < 25
    assert run.metrics["parts"]["validation"]["targets"]["energy"] == run.metrics["targets"]["energy"]
    # The loss that stopped the training is the one told of the validation part, in standard units.
    best = min(record["validation_loss"] for record in history(run))
    assert run.metrics["parts"]["validation"]["loss"] == pytest.approx(best, rel=1e-3)
    with pytest.raises(UserError, match="is a regression of energy; it has no classes"):
        _ = run.evaluation


def history(run: EvaluatedRun) -> list[dict[str, float]]:
    head, *lines = (run.path / "history.csv").read_text().splitlines()
    return [
        {key: float(value) for key, value in zip(head.split(","), line.split(","), strict=True) if value}
        for line in lines
    ]


def test_a_second_evaluation_reads_what_was_kept(runs: dict[str, EvaluatedRun]) -> None:
    again = evaluate(runs["mlp"].path, threads=0)
    assert not again.opened
    assert again.found == runs["mlp"].found
    with np.load(runs["mlp"].path / SCORES_FILE, allow_pickle=False) as kept:
        assert kept["test.targets"].dtype == np.float32
        assert (kept["test.labels"] == -1).all()


def test_events_without_a_target_are_left_out_and_said(folder: Path, tmp_path: Path) -> None:
    notes = Notes()
    run = train(config(folder), output=tmp_path / "run", threads=0, progress=notes)
    assert "30 selected events lack a target, and are left out" in notes.lines
    assert sum(run.metrics["events"].values()) == ENTRIES - 30
    assert not any("AUC" in line for line in notes.lines)


def test_default_boosting_is_the_yardstick(runs: dict[str, EvaluatedRun], folder: Path) -> None:
    assert runs["bdt"].targets is not None
    reference = reference_targets(config(folder))["energy"]
    assert runs["bdt"].targets.test["energy"].rmse < 1.1 * reference.rmse
    assert reference.spread == runs["bdt"].targets.test["energy"].spread
    with pytest.raises(ConfigError, match="the reference is for two classes"):
        reference_auc(config(folder))


def test_runs_are_compared_event_by_event(runs: dict[str, EvaluatedRun], tmp_path: Path) -> None:
    page = compare([runs["bdt"], runs["mlp"]], output=tmp_path / "both")
    found = json.loads((page.parent / "comparison.json").read_text())
    assert [one["figures"]["resolution"] for one in found["runs"]] == sorted(
        one["figures"]["resolution"] for one in found["runs"]
    )
    first, second = sorted(found["runs"], key=lambda one: one["name"])
    assert (first["target"], first["differences"]) == ("energy", {})
    difference, error = second["differences"]["rmse"]
    assert difference == pytest.approx(second["figures"]["rmse"] - first["figures"]["rmse"])
    assert 0 < error < np.hypot(second["figures"]["rmse_err"], first["figures"]["rmse_err"])
    text = page.read_text()
    assert "Regressions of energy" in text
    for figure in ("resolution", "bias"):
        assert (page.parent / "pictures" / f"{figure}_0_energy.png").exists()


def test_what_cannot_be_learned_is_refused_before_it_is(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"targets\.energy: is 3 in every event of the training part"):
        train(config(folder, targets={"energy": "0 * x + 3"}), output=tmp_path / "run", threads=0)
    with pytest.raises(DataError, match="no training events are left"):
        train(config(folder, preselection="x > 1e9"), output=tmp_path / "run", threads=0)
    with pytest.raises(ModelError, match=r"model bdt \(backend sklearn\) cannot learn from negative event weights"):
        train(config(folder, weights={"event": "signed"}), output=tmp_path / "run", threads=0)
    assert not (tmp_path / "run").exists()


def test_negative_weights_are_learned_where_the_model_declares_it(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    model = {"name": "mlp", "backend": "torch", "loss": "absolute"}
    made = parse_config(json.dumps({**document(), "weights": {"event": "signed"}, "model": model}), folder=folder)
    train(made, output=tmp_path / "run", threads=0)
    run = evaluate(tmp_path / "run", threads=0)
    assert run.targets is not None
    part = run.targets.parts["test"]
    assert part.negative > 50
    assert part.targets["energy"].r2 > 0.3


def test_without_a_test_part_there_are_no_figures_but_a_page(folder: Path, tmp_path: Path) -> None:
    split = {"by": ["event"], "test": 0.0, "validation": 0.2}
    train(config(folder, split=split), output=tmp_path / "run", threads=0)
    run = evaluate(tmp_path / "run", threads=0)
    assert run.targets is not None
    assert (run.targets.test, run.targets.reason) == ({}, "the split keeps no test part")
    assert "No figures: the split keeps no test part." in run.report.read_text()
