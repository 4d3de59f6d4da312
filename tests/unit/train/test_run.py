"""A run directory is whole or not there, repeats hash by hash, and says what became of every event."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from mlaas4hep.bundle import load_bundle
from mlaas4hep.config import Config, parse_config, read_config
from mlaas4hep.errors import DataError, ModelError, ParityError, UserError
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.testing import write_events
from mlaas4hep.train import run, run_plan
from mlaas4hep.train.run import train

pytestmark = pytest.mark.usefixtures("plain_pictures")

ENTRIES = 900
INPUTS = {"event": ["met"], "jets": {"vars": ["Jet_pt", "Jet_eta"], "length": 3, "sort": "-Jet_pt"}}
TRAINING = {"epochs": 3, "shuffle_window": 500}


def columns(shift: float, seed: int, *, negative: float = 0.0) -> dict[str, object]:
    random = np.random.default_rng(seed)
    counts = random.integers(0, 5, ENTRIES)
    total = int(counts.sum())
    weight = random.uniform(0.5, 1.5, ENTRIES) * np.where(random.random(ENTRIES) < negative, -1, 1)
    return {
        "run": np.ones(ENTRIES, np.uint32),
        "luminosityBlock": np.full(ENTRIES, seed, np.uint32),
        "event": np.arange(ENTRIES, dtype=np.uint64),
        "genWeight": weight.astype(np.float32),
        "met": random.normal(50 + 20 * shift, 20, ENTRIES).astype(np.float32),
        "Jet_pt": Jagged.from_counts(counts, random.exponential(40 + 30 * shift, total).astype(np.float32)),
        "Jet_eta": Jagged.from_counts(counts, random.normal(0, 1, total).astype(np.float32)),
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three processes, one of them also with negative weights."""
    folder = tmp_path_factory.mktemp("events")
    for seed, name in enumerate(("qcd", "tt", "tth")):
        write_events(folder / f"{name}.root", columns(float(seed), seed), cluster=200)  # type: ignore[arg-type]
    write_events(folder / "nlo.root", columns(2.0, 7, negative=0.2), cluster=200)  # type: ignore[arg-type]
    return folder


def config(folder: Path, *, signal: str = "tth", several: bool = False, **keys: object) -> Config:
    labels = {"qcd": "qcd", "tt": "tt"} if several else {"qcd": "background", "tt": "background"}
    samples = {name: {"files": f"{name}.root", "label": label} for name, label in labels.items()}
    samples["tth"] = {"files": f"{signal}.root", "label": "signal"}
    document = {
        "name": "toy",
        "tree": "Events",
        "samples": samples,
        "inputs": INPUTS,
        "weights": {"event": "genWeight"},
        "training": TRAINING,
        **keys,
    }
    return parse_config(yaml.safe_dump(document), folder=folder)


def left_behind(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir()) if folder.exists() else []


def never(*_: object, **__: object) -> object:
    raise AssertionError("the events were looked at")


@pytest.mark.parametrize(
    ("cache", "words"),
    [
        ({"path": "file/below"}, r"cache .*file/below: cannot be written: "),
        (
            {"path": "rows", "limit": "10 kB"},
            r"keeps all 2700 rows on disk, which needs 1\d\d kB; cache.limit is 10 kB",
        ),
    ],
)
def test_a_cache_that_cannot_work_is_refused_before_the_scan(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: dict[str, str], words: str
) -> None:
    (tmp_path / "file").write_text("")
    place = {**cache, "path": str(tmp_path / cache["path"])}
    setting = config(files, model="mlp", cache=place, training={**TRAINING, "shuffle": "exact"})
    monkeypatch.setattr(run_plan, "scanned", never)
    with pytest.raises(DataError, match=words):
        train(setting, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_that_holds_its_events_takes_a_small_cache_for_what_it_is(files: Path, tmp_path: Path) -> None:
    cache = {"path": str(tmp_path / "rows"), "limit": "30 kB"}
    setting = config(files, model={"name": "bdt", "trees": 5}, cache=cache, training={**TRAINING, "shuffle": "exact"})
    assert train(setting, output=tmp_path / "run").metrics["entries_read"] == 3 * ENTRIES


def test_an_exact_order_without_room_for_the_rows_of_the_scan_is_refused_before_its_first_epoch(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = {"path": str(tmp_path / "rows"), "limit": "10 kB"}
    setting = config(
        files, model="mlp", cache=cache, preselection="met > 50", training={**TRAINING, "shuffle": "exact"}
    )
    monkeypatch.setattr(run, "learn", never)
    with pytest.raises(DataError, match=r"keeps all 20\d\d rows on disk, which needs .* kB; cache.limit is 10 kB"):
        train(setting, output=tmp_path / "run")


@pytest.mark.parametrize("model", ["mlp", {"name": "bdt", "trees": 30}], ids=["mlp", "bdt"])
def test_two_runs_of_one_seed_have_the_same_hashes(files: Path, tmp_path: Path, model: object) -> None:
    setting = config(files, model=model)
    first = train(setting, output=tmp_path / "a", threads=0)
    again = train(read_config(tmp_path / "a" / "config.yaml"), output=tmp_path / "b", threads=2)
    for name in ("spec_sha256", "model_sha256", "auc", "parts"):
        assert first.metrics[name] == again.metrics[name], name
    other = train(setting, output=tmp_path / "c", seed=5)
    if model == "mlp":
        assert other.metrics["model_sha256"] != first.metrics["model_sha256"]
    assert other.metrics["spec_sha256"] == first.metrics["spec_sha256"]


def test_a_run_directory_holds_all_that_it_promises(files: Path, tmp_path: Path) -> None:
    result = train(config(files, model="mlp"), output=tmp_path / "run")
    assert left_behind(tmp_path) == ["run"]
    assert left_behind(tmp_path / "run") == [
        "config.yaml",
        "history.csv",
        "metrics.json",
        "model",
        "pictures",
        "report.html",
    ]
    assert left_behind(tmp_path / "run" / "pictures") == ["calibration.png", "loss.png", "roc.png"]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics == result.metrics
    assert 0.6 < metrics["auc"] < 1.0
    assert metrics["auc_err"] > 0
    bundle = load_bundle(tmp_path / "run" / "model" / "toy")
    assert (metrics["spec_sha256"], metrics["model_sha256"]) == (bundle.spec_sha256, bundle.model_sha256)
    assert sum(metrics["events"].values()) == 3 * ENTRIES == metrics["entries_read"]
    lines = (tmp_path / "run" / "history.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + len(result.history.records)


def test_the_bundle_tells_nothing_of_this_machine(files: Path, tmp_path: Path) -> None:
    result = train(config(files, model="mlp"), output=tmp_path / "run")
    for path in result.bundle.path.rglob("*"):
        if path.is_file():
            held = path.read_bytes()
            assert str(tmp_path).encode() not in held, path
            assert str(files).encode() not in held, path


def test_several_classes_are_judged_one_against_the_rest(files: Path, tmp_path: Path) -> None:
    result = train(config(files, several=True, model="bdt"), output=tmp_path / "run")
    classes = result.metrics["parts"]["validation"]["classes"]
    assert list(classes) == ["qcd", "tt", "signal"]
    areas = [one["auc"] for one in classes.values()]
    assert result.metrics["auc"] == pytest.approx(np.mean(areas))
    assert result.bundle.spec.score_names == ("qcd", "tt", "signal")


def test_negative_weights_are_refused_before_the_first_step_or_learned_from(files: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"bdt \(backend sklearn\) cannot learn from negative event weights, and \d+"):
        train(config(files, signal="nlo", model="bdt"), output=tmp_path / "run")
    assert left_behind(tmp_path) == []
    equal = config(files, signal="nlo", model="bdt", weights={"event": "genWeight", "training": "none"})
    result = train(equal, output=tmp_path / "run")
    assert result.metrics["parts"]["validation"]["negative"] > 0


def test_max_events_takes_a_share_of_every_sample(files: Path, tmp_path: Path) -> None:
    result = train(config(files, model="bdt"), output=tmp_path / "run", max_events=1200)
    assert {name: one["read"] for name, one in result.metrics["samples"].items()} == dict.fromkeys(
        ("qcd", "tt", "tth"), 400
    )


def test_a_part_of_one_class_alone_has_a_reason_instead_of_an_area(files: Path, tmp_path: Path) -> None:
    few = config(files, model={"name": "bdt", "trees": 5}, split={"validation": 0.001, "seed": 4})
    result = train(few, output=tmp_path / "run")
    assert result.metrics["auc"] is None
    assert "0 signal events with a sum of weights of 0" in result.metrics["parts"]["validation"]["reason"]


def test_the_test_part_is_counted_but_not_judged(files: Path, tmp_path: Path) -> None:
    result = train(config(files, model={"name": "bdt", "trees": 5}), output=tmp_path / "run")
    assert list(result.metrics["parts"]) == ["train", "validation"]
    assert result.metrics["events"]["test"] > 0
    assert result.metrics["auc_part"] == "validation"


def test_every_entry_of_every_file_is_accounted_for(files: Path, tmp_path: Path) -> None:
    few = config(files, model={"name": "bdt", "trees": 5}, preselection="met > 40")
    result = train(few, output=tmp_path / "run", max_events=1200)
    for file in result.metrics["files"]:
        assert file["entries"] == ENTRIES == file["read"] + file["not_read"]
        assert file["read"] == 400 == file["selected"] + file["cut"]
        assert file["cut"] > 0


def test_a_run_never_writes_over_another(files: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="run: is there already"):
        train(config(files), output=tmp_path / "run")


def test_without_an_output_runs_are_numbered(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "toy").mkdir(parents=True)
    result = train(config(files, model={"name": "bdt", "trees": 5}))
    assert result.path == Path("runs/toy-2")
    assert result.bundle.path.is_dir()


def test_a_run_that_fails_late_leaves_nothing(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gate(*_: object, **__: object) -> None:
        raise ParityError("scores differ")

    monkeypatch.setattr(run, "write_bundle", gate)
    with pytest.raises(ParityError, match="scores differ"):
        train(config(files, model={"name": "bdt", "trees": 5}), output=tmp_path / "deep" / "run")
    assert left_behind(tmp_path / "deep") == []


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    [
        ({"model": "mpl"}, ModelError, "did you mean 'mlp'"),
        ({"preselection": "met > 1e9"}, DataError, "no training events"),
        ({"training": {"max_memory": "1 MB"}, "model": "bdt"}, UserError, "max_memory"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_nothing_is_left(
    files: Path, tmp_path: Path, keys: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        train(config(files, **keys), output=tmp_path / "run")
    assert left_behind(tmp_path) == []
