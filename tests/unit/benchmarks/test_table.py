import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.table import __main__ as command
from benchmarks.table.lines import append, area, finished, markdown, paired, verdicts
from benchmarks.table.models import DATASETS, combinations

SETTINGS = {"folds": 2, "limit": 10, "epochs": None}


def line(seed: int, ours: list[float], peers: list[float], **given: Any) -> dict[str, Any]:
    folds = [{"auc": a, "auc_in_memory": b, "auc_boosting": 0.5} for a, b in zip(ours, peers, strict=True)]
    sides = {"auc": ours[0], "auc_in_memory": peers[0], "auc_boosting": 0.5, "auc_err": 0.01}
    of = {"dataset": "higgs", "model": "xgboost", "seed": seed, "events": 10, "by_fold": folds}
    return of | sides | SETTINGS | {"cpu_seconds": {"streamed": 2.0, "in_memory": 1.0}} | given


def test_differences_are_of_the_same_fold_and_their_error_is_that_of_the_mean() -> None:
    found = paired([0.9, 0.7, 0.8, 0.6], [0.91, 0.68, 0.8, 0.61])
    differences = np.array([-0.01, 0.02, 0.0, -0.01])
    assert found.mean == pytest.approx(differences.mean())
    assert found.error == pytest.approx(differences.std(ddof=1) / 2, abs=1e-4)
    # Much less than the spread of either side.
    assert found.error < np.std([0.9, 0.7, 0.8, 0.6]) / 2


@pytest.mark.parametrize(
    ("shift", "wobble", "good"),
    [(-0.0049, 0.0, True), (-0.0051, 0.0, False), (-0.009, 0.01, True), (-0.012, 0.01, False), (0.1, 0.0, True)],
)
def test_a_row_may_be_below_its_peer_by_a_tolerance_or_two_errors_over_all_seeds(
    shift: float, wobble: float, good: bool
) -> None:
    # Errors of the four differences: wobble / sqrt(3).
    lines = [line(seed, [0.8 + shift + wobble, 0.8 + shift - wobble], [0.8, 0.8]) for seed in (0, 1)]
    (row,) = verdicts(lines)
    assert row["difference"] == pytest.approx(shift)
    assert row["good"] is good
    assert ("**no**" in markdown([row])) is not good
    assert row["seeds"] == [0, 1]


def test_areas_of_several_classes_are_the_mean_of_one_against_the_rest() -> None:
    labels, weights = np.array([0, 1, 2, 0, 1, 2]), np.ones(6)
    scores = np.eye(3)[labels] + np.linspace(0, 0.1, 6)[:, np.newaxis]
    scores[0] = [0.0, 0.5, 0.5]
    one_by_one = [area(scores[:, [c]], (labels == c).astype(np.int64), weights).value for c in range(3)]
    assert area(scores, labels, weights).value == pytest.approx(np.mean(one_by_one))
    assert 0.5 < np.mean(one_by_one) < 1


def test_a_run_that_was_stopped_measures_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, measured = tmp_path / "lines.jsonl", []

    def measure(dataset: str, model: str, seed: int, **settings: Any) -> dict[str, Any]:
        measured.append((model, seed))
        if measured == [("lightgbm", 0)]:
            raise ValueError("the first call")
        return line(seed, [0.8, 0.8], [0.8, 0.8], dataset=dataset, model=model)

    monkeypatch.setattr("benchmarks.table.one.measure", measure)
    monkeypatch.setenv("MLAAS4HEP_TEST_DATA", str(tmp_path))
    asked = ["table", "--json", "--datasets", "higgs", "--models", "xgboost", "lightgbm", "--seeds", "0", "1"]
    monkeypatch.setattr("sys.argv", [*asked, "--folds", "2", "--events", "10", "--resume", str(kept)])
    append(kept, line(0, [0.8, 0.8], [0.8, 0.8]))
    kept.write_bytes(kept.read_bytes() + b'{"dataset": "higgs", "mod')  # killed while it wrote
    assert command.main() == 1
    assert "the first call" in capsys.readouterr().err
    assert measured == [("lightgbm", 0), ("xgboost", 1), ("lightgbm", 1)]
    assert command.main() == 0
    assert measured[3:] == [("lightgbm", 0)]
    rows = [json.loads(one)["row"] for one in capsys.readouterr().out.splitlines() if '"row"' in one]
    assert [(one["model"], one["seeds"]) for one in rows] == [("xgboost", [0, 1]), ("lightgbm", [0, 1])]


def test_lines_of_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    kept = tmp_path / "lines.jsonl"
    append(kept, line(0, [0.8, 0.8], [0.8, 0.8], folds=5))
    with pytest.raises(SystemExit, match="folds"):
        finished(kept, SETTINGS)
    assert json.loads(kept.read_text())["folds"] == 5


def test_all_data_sets_come_with_one_seed_before_the_next() -> None:
    found = combinations(list(DATASETS), ["xgboost", "deepsets_torch"], [0, 1])
    assert [seed for *_, seed in found] == sorted(seed for *_, seed in found)
    assert {dataset for dataset, model, _ in found if model == "deepsets_torch"} == {"quark_gluon", "tth", "top"}
