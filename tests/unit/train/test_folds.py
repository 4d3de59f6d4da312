"""Training in folds: whole runs without a fold each, their mean as the model, and scores out of fold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml

from mlaas4hep.config import Config, parse_config, read_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.split import Splitter
from mlaas4hep.errors import ConfigError, UserError
from mlaas4hep.graph.mean import mean_scores
from mlaas4hep.testing import write_events
from mlaas4hep.train import draw, output
from mlaas4hep.train import folds as folds_module
from mlaas4hep.train.cross_validation import cross_validate
from mlaas4hep.train.evaluate import evaluate
from mlaas4hep.train.evaluation import Settings
from mlaas4hep.train.folds import read_folds
from mlaas4hep.train.out_of_fold import FoldScorer
from mlaas4hep.train.run import RunResult, train
from tests.notes import Notes

pytestmark = pytest.mark.usefixtures("plain_pictures")

ENTRIES = 600
FOLDS = 3
QUICK = Settings(replicas=20)
BDT = {"name": "bdt", "trees": 6}
NET = {"name": "mlp", "hidden": [4]}


def columns(number: int, shift: float) -> dict[str, Any]:
    random = np.random.default_rng(number)
    return {
        "run": np.full(ENTRIES, number, np.int64),
        "luminosityBlock": np.ones(ENTRIES, np.int64),
        "event": np.arange(ENTRIES, dtype=np.int64),
        "x": random.normal(shift, 1, ENTRIES).astype(np.float32),
        "y": random.normal(0, 1, ENTRIES).astype(np.float32),
    }


@pytest.fixture(scope="module", autouse=True)
def _without_pictures() -> Iterator[None]:
    """They are most of the time of a small run, and tested where they are drawn."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_loss", "draw_roc"):
            patch.setattr(output, name, lambda *_, **__: None)
        patch.setattr(draw, "draw", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("events")
    for number, name in enumerate(("a", "b")):
        write_events(folder / f"{name}.root", columns(number, float(number)), cluster=150)
        write_events(folder / f"noise_{name}.root", columns(number, 0.0), cluster=150)
    return folder


def config(folder: Path, model: object = BDT, *, prefix: str = "", **keys: Any) -> Config:
    document: dict[str, Any] = {
        "name": "toy",
        "tree": "Events",
        "samples": {name: {"files": f"{prefix}{name}.root"} for name in ("a", "b")},
        "labels": {"signal": "b"},
        "inputs": {"event": ["x", "y"]},
        "split": {"folds": FOLDS, "validation": 0.15},
        "model": model,
        "training": {"epochs": 2, "checkpoint_s": 0.0},
        **keys,
    }
    return parse_config(yaml.safe_dump(document), folder=folder)


@pytest.fixture(scope="module")
def trained(files: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return train(config(files), output=tmp_path_factory.mktemp("runs") / "run", threads=0)


@pytest.fixture(scope="module")
def evaluated(trained: RunResult) -> Path:
    assert not (trained.path / "scores.npz").exists()
    evaluate(trained.path, settings=QUICK, threads=0)
    return trained.path


def test_each_fold_is_a_whole_run_whose_statistics_leave_it_out(trained: RunResult) -> None:
    runs = read_folds(trained.path, FOLDS)
    assert sum(one.metrics["events"]["test"] for one in runs) == 2 * ENTRIES
    for fold, run in enumerate(runs):
        path = trained.path / "folds" / str(fold)
        assert read_config(path / "config.yaml").features.split.held_out == fold
        assert (path / "report.html").exists()
        assert not (path / "scores.npz").exists()
        events = run.metrics["events"]
        assert run.bundle.spec.statistics.groups["event"][0].count == events["train"]
        assert sum(events.values()) == 2 * ENTRIES
    assert len({one.bundle.spec_sha256 for one in runs}) == FOLDS
    assert trained.metrics["validation"]["values"] == [one.metrics["auc"] for one in runs]
    assert json.loads((trained.path / "metrics.json").read_text()) == trained.metrics
    page = (trained.path / "report.html").read_text()
    assert "each held out once" in page
    assert "held-out AUC" not in page


def test_the_bundle_gives_the_mean_of_the_folds_to_the_bit(trained: RunResult) -> None:
    random = np.random.default_rng(5)
    rows = {"event": np.where(random.random((300, 2)) < 0.1, np.nan, random.normal(size=(300, 2))).astype(np.float32)}
    single = [one.bundle.predict(rows) for one in read_folds(trained.path, FOLDS)]
    assert np.array_equal(trained.bundle.predict(rows), mean_scores(single))
    assert not np.array_equal(single[0], single[1])
    held = sorted(one.name for one in (trained.bundle.path / "native" / "models").iterdir())
    assert held == [f"{fold}.onnx" for fold in range(FOLDS)]


def test_every_event_is_scored_once_by_the_model_that_has_not_seen_it(files: Path, evaluated: Path) -> None:
    with np.load(evaluated / "scores.npz") as kept:
        scores, fold, file, entry = (kept[f"test.{name}"] for name in ("scores", "folds", "file", "entry"))
    assert sorted(zip(file.tolist(), entry.tolist(), strict=True)) == [(n, i) for n in (0, 1) for i in range(ENTRIES)]
    catalogue = Catalogue.open(config(files))
    splitter = Splitter(catalogue.features.split, catalogue.identity, catalogue.types)
    runs = read_folds(evaluated, FOLDS)
    for number in (0, 1):
        own, events = file == number, columns(number, float(number))
        assert np.array_equal(splitter.folds(events, ENTRIES)[entry[own]], fold[own])
        rows = {"event": np.stack([events["x"], events["y"]], axis=1)}
        single = np.stack([one.bundle.predict(rows) for one in runs])
        assert np.array_equal(single[fold[own], entry[own]], scores[own])


def test_scores_out_of_fold_and_their_mean_come_from_the_run_alone(files: Path, evaluated: Path) -> None:
    scorer = FoldScorer.open(evaluated)
    events = columns(1, 1.0)
    with np.load(evaluated / "scores.npz") as kept:
        own = kept["test.file"] == 1
        wanted = np.empty((ENTRIES, 1), np.float32)
        wanted[kept["test.entry"][own]] = kept["test.scores"][own]
    assert np.array_equal(scorer.score(events, ENTRIES, learned=True)[0], wanted)
    rows = {"event": np.stack([events["x"], events["y"]], axis=1)}
    assert np.array_equal(scorer.score(events, ENTRIES, learned=False)[0], scorer.bundle.predict(rows))
    with pytest.raises(UserError, match="lack the columns event, run, by which"):
        scorer.score({name: events[name] for name in ("x", "y", "luminosityBlock")}, ENTRIES, learned=True)


def test_the_figures_are_of_each_fold_and_of_all_events_together(evaluated: Path) -> None:
    evaluation = json.loads((evaluated / "evaluation.json").read_text())
    folds = evaluation["folds"]
    assert sum(folds["events"]) == evaluation["parts"]["test"]["events"] == 2 * ENTRIES
    assert folds["areas"]["mean"] == pytest.approx(np.mean(folds["areas"]["values"]))
    assert abs(folds["areas"]["mean"] - evaluation["auc"]) < 4 * evaluation["auc_err"]
    assert set(evaluation["scales"].values()) == {1.0}
    page = (evaluated / "report.html").read_text()
    assert "each scored by the one model that has not seen it" in page
    assert "held-out AUC" in page


def test_a_second_evaluation_opens_no_event(evaluated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlaas4hep.train.evaluate.score_folds", lambda *_, **__: pytest.fail("opened again"))
    assert not evaluate(evaluated, settings=QUICK).opened


def test_out_of_fold_scores_of_noise_know_nothing_though_each_model_learned_it_by_heart(
    files: Path, tmp_path: Path
) -> None:
    model = {"name": "bdt", "trees": 60, "learning_rate": 0.5, "patience": 60}
    setting = config(files, model, prefix="noise_", split={"folds": FOLDS, "validation": 0.0})
    found = cross_validate(setting, output=tmp_path / "noise", settings=QUICK, threads=0)
    assert found.auc_err is not None
    assert abs(found.auc - 0.5) < 4 * found.auc_err
    seen = json.loads((tmp_path / "noise" / "evaluation.json").read_text())["parts"]["train"]["auc"]
    assert seen > 0.8
    assert found.events == 2 * ENTRIES
    assert len(found.folds.areas.values) == FOLDS


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trainings that were begun; the second one is interrupted."""
    begun: list[str] = []
    real = folds_module.train_one

    def interrupted(setting: Config, **keys: Any) -> RunResult:
        begun.append(f"{setting.features.split.held_out} {keys['unfinished']}")
        if len(begun) == 2:
            raise KeyboardInterrupt
        return real(setting, **keys)

    monkeypatch.setattr(folds_module, "train_one", interrupted)
    return begun


def test_a_run_that_was_stopped_goes_on_with_the_fold_where_it_was(
    files: Path, trained: RunResult, tmp_path: Path, stops: list[str]
) -> None:
    target = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(config(files), output=target, threads=0)
    assert not target.exists()
    assert (tmp_path / ".run.folds" / "0" / "metrics.json").exists()
    with pytest.raises(UserError, match=r"interrupted \(1 of 3 folds finished\). Go on with --resume"):
        train(config(files), output=target)
    with pytest.raises(UserError, match=r"model\.trees: 6 then, 7 now"):
        train(config(files, {**BDT, "trees": 7}), output=target, unfinished="resume")
    with pytest.raises(UserError, match="statistics of the training part"):
        train(config(files, prefix="noise_"), output=target, unfinished="resume")
    found = train(config(files), output=target, unfinished="resume", threads=2)
    assert stops == ["0 restart", "1 restart", "1 restart", "2 restart"]
    assert found.bundle.model_sha256 == trained.bundle.model_sha256
    assert not (tmp_path / ".run.folds").exists()


def test_a_fold_in_the_middle_of_its_epochs_goes_on_from_its_checkpoint(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(config(files, NET), output=tmp_path / "whole", threads=0)
    real, batches = folds_module.train_one, [0]

    class Stopping:
        """Asks the second fold to stop after some batches."""

        def start(self, description: str, **_: Any) -> None:
            self.counted = description.startswith("fold 2 of 3: epoch 2")

        def update(self, count: int) -> None:
            batches[0] += self.counted
            if batches[0] == 2:
                batches[0] += 1
                raise KeyboardInterrupt

        def note(self, text: str) -> None: ...
        def close(self) -> None: ...

    begun: list[str] = []

    def noted(setting: Config, **keys: Any) -> RunResult:
        begun.append(keys["unfinished"])
        return real(setting, **keys)

    monkeypatch.setattr(folds_module, "train_one", noted)
    with pytest.raises(KeyboardInterrupt):
        train(config(files, NET), output=tmp_path / "run", threads=0, progress=Stopping())
    found = train(config(files, NET), output=tmp_path / "run", unfinished="resume", threads=0)
    assert begun == ["restart", "restart", "resume", "restart"]
    assert found.bundle.model_sha256 == whole.bundle.model_sha256


def test_restart_forgets_the_folds_that_were_finished(files: Path, tmp_path: Path, stops: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(config(files), output=tmp_path / "run", threads=0)
    train(config(files), output=tmp_path / "run", unfinished="restart", threads=0)
    assert stops[2:] == ["0 restart", "1 restart", "2 restart"]


def test_nothing_to_go_on_from_is_said(files: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no training in folds to go on from"):
        train(config(files), output=tmp_path / "run", unfinished="resume")


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"folds": 1}, "split.folds: 1 is no number of folds; wants 2 to 100"),
        ({"folds": 5, "test": 0.2}, "split.test: 0.2 beside folds: each of the 5 folds is held out once"),
        ({"folds": 5, "fold": 5}, "split.fold: 5 is none of the 5 folds; wants 0 to 4"),
        ({"fold": 1}, "split.fold: 1 of how many[?]"),
        ({"folds": 2, "validation": 0.5}, "leaves nothing to train on"),
        ({"folds": "many"}, "split.folds: wants a whole number, found text"),
    ],
)
def test_folds_that_make_no_sense_are_refused(files: Path, split: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(files, split=split)


def test_a_regression_in_folds_predicts_every_event_out_of_fold(files: Path, tmp_path: Path) -> None:
    setting = config(files, {"name": "bdt", "trees": 5}, labels={}, inputs={"event": ["x"]}, targets={"t": "x + y"})
    run = train(setting, output=tmp_path / "run", threads=0)
    found = evaluate(run.path, settings=QUICK, threads=0)
    assert found.targets is not None
    assert found.targets.parts["test"].events == 2 * ENTRIES
    assert 0 < found.targets.test["t"].r2 < 1
    assert "each predicted by the one model that has not seen it" in run.report.read_text()


class Recorded:
    """Stands for a run on an MLflow server."""

    runs: ClassVar[dict[str, Recorded]] = {}

    def __init__(self, address: str, *, name: str, params: Mapping[str, str], **_: Any) -> None:
        self.runs[name] = self
        self.fold, self.files, self.status, self.values = params.get("split.fold"), set[str](), "", dict[str, float]()

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        self.values |= values

    def tags(self, values: Mapping[str, str]) -> None: ...

    def file(self, path: Path, name: str) -> None:
        assert path.is_file()
        self.files.add(name)

    def end(self, status: str, **_: Any) -> None:
        self.status = status

    def notes(self) -> Iterator[str]:
        yield from ()


def test_trackers_know_each_fold_and_the_whole_and_a_line_is_told_once(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlaas4hep.train.tracking.MlflowRun", Recorded)
    monkeypatch.setattr(Recorded, "runs", {})
    notes = Notes()
    setting = config(
        files,
        inputs={"event": ["x", "luminosityBlock"]},
        tracking={"tensorboard": True, "mlflow": "http://127.0.0.1:9"},
    )
    done = train(setting, output=tmp_path / "run", threads=0, progress=notes)
    of_folds = [f"run-fold-{fold}" for fold in range(FOLDS)]
    boards = {one.parent.name: one.read_bytes() for one in (tmp_path / "tensorboard").glob("*/*")}
    assert sorted(boards) == sorted(Recorded.runs) == ["run", *of_folds]
    for name, one in Recorded.runs.items():
        epochs = name != "run"
        assert (b"train_loss" in boards[name], "train_loss" in one.values) == (epochs, epochs)
        assert b"final/auc" in boards[name]
        assert one.fold == (name[-1] if epochs else None)
        assert ("history.csv" in one.files, one.files >= {"report.html", "metrics.json", "config.yaml"}) == (
            epochs,
            True,
        )
        assert one.status == "FINISHED"
    assert Recorded.runs["run"].values["final.auc"] == done.metrics["auc"]
    assert sum("'luminosityBlock': is 1 in every event" in line for line in notes.lines) == 1


def test_what_is_told_of_one_training_is_refused_with_folds(files: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"on_judged are told of one training, and split\.folds makes 3"):
        train(config(files), output=tmp_path / "run", on_judged=lambda _: None)
