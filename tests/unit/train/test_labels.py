"""Training and evaluation of samples whose events have each their own class; what is left out is said."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mlaas4hep.config import Config, parse_config
from mlaas4hep.errors import DataError
from mlaas4hep.spec.statistics import SampleCounts, WeightSums
from mlaas4hep.testing import write_events
from mlaas4hep.train.evaluate import evaluate
from mlaas4hep.train.evaluation import Settings
from mlaas4hep.train.kept import ScoredPart
from mlaas4hep.train.loop import Judged
from mlaas4hep.train.processes import processes_of
from mlaas4hep.train.run import train
from tests.notes import Notes

pytestmark = pytest.mark.usefixtures("plain_pictures")

ENTRIES = 1500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("labelled")
    random = np.random.default_rng(1)
    y = random.choice([0, 1, 2], ENTRIES).astype(np.int32)
    events = {
        "run": np.ones(ENTRIES, np.uint32),
        "luminosityBlock": np.ones(ENTRIES, np.uint32),
        "event": np.arange(ENTRIES, dtype=np.uint64),
        "genWeight": random.choice([1.0, 0.5], ENTRIES).astype(np.float32),
        "met": random.normal(50 + 20 * y, 15).astype(np.float32),
        "y": y,
    }
    write_events(made / "all.root", events, cluster=300)  # type: ignore[arg-type]
    return made


def config(folder: Path, **keys: Any) -> Config:
    document = {
        "name": "toy",
        "samples": {"all": {"files": "all.root"}, "seen": {"files": "nowhere.root", "kind": "data"}},
        "new_variables": {"kind": "y + 10", "twice": "2 * kind"},  # of truth alone, so not of the contract's columns
        "labels": {"column": "kind", "classes": {"signal": 11, "background": 10}},
        "inputs": {"event": ["met"]},
        "weights": {"event": "genWeight"},
        "split": {"test": 0.3, "validation": 0.1},
        "model": {"name": "bdt", "trees": 10},
        **keys,
    }
    return parse_config(yaml.safe_dump(document), folder=folder)


def test_one_sample_with_its_classes_in_a_column_is_trained_and_evaluated(folder: Path, tmp_path: Path) -> None:
    notes = Notes()
    run = train(config(folder), output=tmp_path / "run", threads=0, progress=notes)
    assert run.metrics["auc"] > 0.7
    assert list(run.bundle.spec.columns) == ["met"]
    assert run.metrics["samples_not_used"] == ["seen"]
    [file] = run.metrics["files"]
    assert file["unlabelled"] > 0
    assert file["read"] == file["selected"] + file["cut"] + file["unlabelled"]
    assert f"{file['unlabelled']} selected events have none of the classes, and are left out" in notes.lines
    assert any(line.startswith("samples.seen: is of kind data") for line in notes.lines)

    found = evaluate(run.path, settings=Settings(replicas=10), threads=0).evaluation
    assert found.sample_classes == {"all: signal": "signal", "all: background": "background"}
    by_class = run.metrics["samples"]["all"]["classes"]
    for name in ("signal", "background"):
        assert found.before[f"all: {name}"].expected == by_class[name]["sum_weights"]
    counting = found.counting["signal"]
    assert counting.signal_before.expected == by_class["signal"]["sum_weights"]
    assert counting.background_before.expected == by_class["background"]["sum_weights"]
    # Before any cut the scaled test part stands for all selected events.
    assert counting.scan.signal[0] == pytest.approx(by_class["signal"]["sum_weights"])
    assert counting.scan.background[0] == pytest.approx(by_class["background"]["sum_weights"])
    page = re.sub(r"\s+", " ", (run.path / "report.html").read_text())
    assert "<th>no class</th>" in page
    assert "not used for learning, nor in any figure of this page: seen." in page
    assert "<td>all: signal</td>" in page
    json.loads((run.path / "evaluation.json").read_text())


def test_a_class_without_events_is_told(folder: Path, tmp_path: Path) -> None:
    labels = {"column": "y", "classes": {"signal": 7, "background": 0}}
    with pytest.raises(DataError, match="no training events of 'signal' are left"):
        train(config(folder, labels=labels), output=tmp_path / "run", threads=0)


def test_a_sample_of_several_classes_is_counted_once_a_class() -> None:
    sums = {"b": WeightSums(3, 0, 3.0, 3.0), "s": WeightSums(2, 1, 0.5, 2.0)}
    samples = {"one": SampleCounts(9, WeightSums(4), test=1), "all": SampleCounts(7, WeightSums(5), classes=sums)}
    judged = Judged(np.zeros((4, 1), np.float32), np.array([1, 0, 0, 1]), np.ones(4))
    test = ScoredPart(judged, np.array([1, 1, 0, 1]))
    found = processes_of(samples, {"one": "b", "all": None}, ("b", "s"), test)
    assert found.classes == {"one": "b", "all: b": "b", "all: s": "s"}
    assert found.places.tolist() == [2, 1, 0, 2]
    assert [one.test for one in found.counts.values()] == [1, 1, 2]
    assert [one.selected.sum_weights for one in found.counts.values()] == [0.0, 3.0, 0.5]
    assert processes_of(samples, {"one": "b", "all": None}, ("b", "s"), None).classes == found.classes


def test_a_class_whose_value_is_nowhere_ends_with_the_values_that_are(folder: Path, tmp_path: Path) -> None:
    made = config(folder, labels={"column": "kind", "classes": {"signal": 1, "background": 10}})
    with pytest.raises(
        DataError, match=r"column 'kind' holds 10 \(\d+\), 11 \(\d+\), 12 \(\d+\); asked for 1 for 'signal'"
    ):
        train(made, output=tmp_path / "run", progress=Notes())
