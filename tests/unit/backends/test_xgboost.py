"""What is particular to XGBoost: external memory, its JSON, the estimators of a user's file."""

from __future__ import annotations

import hashlib
import json
import threading
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlaas4hep.backends.protocol import Learner, OutOfCoreLearner, Pages, Task
from mlaas4hep.backends.registry import choose
from mlaas4hep.backends.spool import write_spool
from mlaas4hep.config import Model
from mlaas4hep.errors import BundleError, ConfigError, DataError, MissingExtraError, ModelError
from mlaas4hep.graph.merge import merge
from mlaas4hep.graph.parity import check_parity
from mlaas4hep.graph.session import Session
from mlaas4hep.spec.scaling import FeatureScaling, GroupScaling
from mlaas4hep.testing_backends import Events, as_pages, fit, make_events, make_spec

xgboost = pytest.importorskip("xgboost")

SMALL = {"trees": 30, "learning_rate": 0.2, "depth": 4}


def build(dials: Mapping[str, Any] = SMALL, *, classes: int = 2, name: str = "xgboost", threads: int = 1) -> Any:
    model = Model(name=name, backend="xgboost", dials=dict(dials))
    return choose(model).build(Task.of(make_spec(classes), seed=3, threads=threads))


def learned(events: Events, path: Path, *, page_bytes: int, threads: int = 1, dials: Mapping[str, Any] = SMALL) -> Any:
    learner = build(dials, threads=threads)
    folder = path / f"{page_bytes}-{threads}"
    folder.mkdir()
    pages = as_pages(learner, events, path / "rows", page_bytes=page_bytes)
    learner.fit(pages, None, patience=5, folder=folder)
    return learner


def sha256(learner: Learner) -> str:
    return hashlib.sha256(learner.export().model).hexdigest()


def test_one_that_is_interrupted_lets_go_of_its_files_before_their_folder_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []

    def update(booster: Any, matrix: Any, *_: Any, **__: Any) -> None:
        held.append(weakref.ref(matrix))
        raise KeyboardInterrupt

    monkeypatch.setattr(xgboost.Booster, "update", update)
    with pytest.raises(KeyboardInterrupt) as caught:
        learned(make_events(500, seed=1), tmp_path, page_bytes=4000)
    assert held[0]() is None, "XGBoost warns of every file that is gone before its matrix is"
    assert caught.traceback[-1].name == "update"


def test_external_memory_learns_what_memory_learns_to_the_bit(tmp_path: Path) -> None:
    events = make_events(6000, seed=1)
    dials = {**SMALL, "subsample": 0.7, "l2": 1.0, "min_child_weight": 1.0}
    learner = learned(events, tmp_path, page_bytes=40_000, dials=dials)
    weights = events.weights / events.weights.mean()
    plain = xgboost.XGBClassifier(
        n_estimators=30, learning_rate=0.2, max_depth=4, subsample=0.7, min_child_weight=1.0, random_state=3, n_jobs=1
    )
    plain.fit(learner.view(events.inputs), events.labels, sample_weight=weights)
    own = json.loads(learner.native()["xgboost.json"])["learner"]["gradient_booster"]["model"]["trees"]
    theirs = json.loads(plain.get_booster().save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]
    assert own == theirs


@pytest.mark.parametrize(("page_bytes", "threads"), [(40_000, 1), (2**24, 2)])
def test_neither_pages_nor_threads_nor_chance_change_the_graph(tmp_path: Path, page_bytes: int, threads: int) -> None:
    events = make_events(3000, seed=2)
    first = learned(events, tmp_path, page_bytes=2**24)
    again = learned(events, tmp_path, page_bytes=page_bytes, threads=threads)
    assert sha256(first) == sha256(again)


def test_the_order_of_events_reaches_xgboost_as_it_is(tmp_path: Path) -> None:
    learner = build()
    events = make_events(1000)
    pages = as_pages(learner, events, tmp_path / "rows", page_bytes=10_000)
    for _ in range(2):
        tables = list(pages)
        assert len(tables) > 3
        np.testing.assert_array_equal(np.concatenate([one.x for one in tables]), learner.view(events.inputs))
        np.testing.assert_array_equal(np.concatenate([one.labels for one in tables]), events.labels)
        np.testing.assert_array_equal(np.concatenate([one.weights for one in tables]), events.weights)


@pytest.mark.parametrize(("classes", "trees"), [(2, 700), (3, 150), (2, 1)])
def test_graph_and_framework_agree_next_to_every_threshold(classes: int, trees: int) -> None:
    dials = {"trees": trees, "learning_rate": 0.3, "depth": 3}
    learner, spec = build(dials, classes=classes), make_spec(classes)
    fit(learner, make_events(1500, num_classes=classes), None)
    core = learner.export()
    rows = make_events(1000, seed=5).inputs
    report = check_parity(merge(spec, core), spec=spec, core=core, reference=learner.predict, rows=rows)
    assert report.worst < 5e-7
    assert report.rows["next to a tree threshold"] >= 3


def test_scores_are_those_of_xgboost_itself() -> None:
    for classes in (2, 3):
        learner = build(classes=classes)
        fit(learner, make_events(2000, num_classes=classes), None)
        rows = make_events(500, seed=6).inputs
        booster = xgboost.Booster(model_file=bytearray(learner.native()["xgboost.json"]))
        own = booster.inplace_predict(learner.view(rows)).reshape(500, -1)
        np.testing.assert_allclose(learner.predict(rows), own, atol=1e-6)


def test_infinities_in_the_training_part_are_learned_as_the_largest_numbers() -> None:
    events = make_events(2000)
    events.inputs["event"][:300, 0] = np.inf
    events.inputs["event"][300:600, 0] = -np.inf
    events.inputs["event"][:, 1] = np.nan
    learner, spec = build(), make_spec()
    fit(learner, events, None)
    core = learner.export()
    check_parity(merge(spec, core), spec=spec, core=core, reference=learner.predict, rows=events.inputs)


def test_memory_holds_a_fraction_of_the_events_and_the_estimates_cover_it(tmp_path: Path) -> None:
    width, size, times = 64, 4000, 60
    group = GroupScaling("event", tuple(f"x{i}" for i in range(width)), (FeatureScaling("none"),) * width)
    task = Task("binary", ("background", "signal"), (group,))
    learner = choose(Model(name="xgboost", dials={"trees": 2, "bins": 16})).build(task)
    assert isinstance(learner, OutOfCoreLearner)
    x = np.random.default_rng(0).normal(size=(size, width)).astype(np.float32)
    x[::7, 3] = np.nan
    batch = Events({"event": x}, (x[:, 0] > 0).astype(np.int64), np.ones(size))
    pages = write_spool(tmp_path / "rows", [batch] * times, view=learner.view, width=width, page_bytes=2**20)
    own = tmp_path / "own"
    own.mkdir()
    memory, disk = peaks_of_fit(learner, pages, own)
    assert memory < 0.6 * 4 * width * size * times
    assert memory < learner.memory_estimate(size * times, 0)
    assert 0 < disk < learner.disk_estimate(size * times, 0)
    assert not any(own.iterdir()), "XGBoost removes its cache"


def peaks_of_fit(learner: OutOfCoreLearner, pages: Pages, folder: Path) -> tuple[int, int]:
    """Growth of anonymous memory and bytes on disk during a fit, sampled."""
    done, before = threading.Event(), anonymous_bytes()
    memory, disk = [0], [0]

    def watch() -> None:
        while not done.wait(0.005):
            memory.append(anonymous_bytes() - before)
            disk.append(sum(one.stat().st_size for one in present(folder)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        learner.fit(pages, None, patience=5, folder=folder)
    finally:
        done.set()
        watcher.join()
    return max(memory), max(disk)


def present(folder: Path) -> Iterator[Path]:
    return (one for one in folder.iterdir() if one.exists())


def anonymous_bytes() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc")
    return int(status.read_text().split("RssAnon:")[1].split()[0]) * 1024


def test_memory_of_an_event_does_not_depend_on_its_width() -> None:
    learner = build()
    growth = learner.memory_estimate(20_000_000, 0) - learner.memory_estimate(10_000_000, 0)
    assert 40 < growth / 10_000_000 < 60


def test_a_class_without_training_events_is_named() -> None:
    with pytest.raises(DataError, match="class third has no event"):
        fit(build(classes=3), make_events(200), None)


def test_weights_that_sum_to_zero_are_refused() -> None:
    events = make_events(200)
    with pytest.raises(DataError, match="200 training events sum to 0"):
        fit(build(), events.weighing(np.zeros(200)), None)


def test_negative_weights_are_refused_with_what_to_do_instead() -> None:
    events = make_events(200)
    with pytest.raises(ModelError, match=r"backend: torch.*training: none.*abs\("):
        fit(build(), events.weighing(events.weights - 0.8), None)
    assert not build().capabilities.negative_weights


def test_bdt_is_learned_by_xgboost_where_the_config_says_so() -> None:
    assert build(name="bdt").native.__self__.capabilities.out_of_core
    assert choose(Model(name="bdt", backend="xgboost")).title == "bdt (backend xgboost)"


@pytest.mark.parametrize(
    ("dials", "words"),
    [
        ({"subsample": 0}, "subsample: 0.0 is out of range; wants above 0"),
        ({"subsample": 1.5}, "subsample: 1.5 is out of range"),
        ({"depth": 17}, "depth: 17 is out of range; wants 1 to 16"),
        ({"bins": 1}, "bins: 1 is out of range"),
    ],
)
def test_a_dial_out_of_range_is_refused(dials: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        choose(Model(name="xgboost", dials=dials))


def own_estimator(text: str, tmp_path: Path) -> Any:
    file = tmp_path / "own.py"
    file.write_text(f"import xgboost\n\ndef model():\n    return xgboost.{text}\n", encoding="utf-8")
    return choose(Model(file=str(file))).build(Task.of(make_spec(), seed=3))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("XGBClassifier(booster='dart')", "booster='dart' is not taken; wants 'gbtree'"),
        ("XGBClassifier(booster='gblinear')", "booster='gblinear' is not taken"),
        ("XGBClassifier(tree_method='exact')", "tree_method='exact' is not taken; wants 'auto' or 'hist'"),
        ("XGBClassifier(enable_categorical=True)", "enable_categorical=True is not taken"),
        ("XGBClassifier(missing=-999.0)", "missing=-999.0: missing values are NaN here"),
        ("XGBClassifier(objective='binary:hinge')", "objective='binary:hinge' is not taken"),
        ("XGBClassifier(interaction_constraints='[[0]]')", "interaction_constraints is not taken"),
        ("XGBClassifier(rate_drop=0.1)", "rate_drop is not taken"),
        ("XGBRFClassifier()", "returned a XGBRFClassifier"),
        ("XGBRegressor()", "returned a XGBRegressor"),
    ],
)
def test_what_an_own_estimator_would_not_get_is_refused_by_name(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=words):
        own_estimator(text, tmp_path)


def test_an_own_estimator_keeps_its_parameters(tmp_path: Path) -> None:
    text = "XGBClassifier(n_estimators=7, max_depth=2, random_state=5, num_parallel_tree=2, base_score=0.3)"
    learner = own_estimator(text, tmp_path)
    fit(learner, make_events(500), make_events(200, seed=1))
    settings = json.loads(learner.native()["xgboost_settings.json"])["parameters"]
    assert (settings["max_depth"], settings["seed"], settings["num_parallel_tree"]) == (2, 5, 2)
    assert learner.learned.forest.base == pytest.approx([np.log(3 / 7)], abs=1e-6)
    served = Session(merge(make_spec(), learner.export())).run(make_events(100).inputs)
    np.testing.assert_allclose(served, learner.predict(make_events(100).inputs), atol=1e-6)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "xgboost.json is not among no files"),
        ({"xgboost.json": b"\x80\x04"}, "no model in XGBoost's JSON"),
        ({"xgboost.json": b"{}"}, "no model in XGBoost's JSON"),
    ],
)
def test_native_files_that_are_no_model_are_refused(files: dict[str, bytes], words: str) -> None:
    backend = choose(Model(name="xgboost")).backend
    assert backend is not None
    with pytest.raises(BundleError, match=words):
        backend.load(files, Task.of(make_spec(), seed=0))


def test_what_cannot_be_written_as_a_graph_is_refused_by_name() -> None:
    learner = build({"trees": 2})
    fit(learner, make_events(500), None)
    backend = choose(Model(name="xgboost")).backend
    assert backend is not None
    for before, after, words in (
        (b'"name":"gbtree"', b'"name":"dart"', "booster dart cannot be written"),
        (b'"binary:logistic"', b'"rank:pairwise"', "objective rank:pairwise cannot be written"),
        (b'"split_type":[0', b'"split_type":[1', "categorical splits cannot be written"),
        (b'"size_leaf_vector":"1"', b'"size_leaf_vector":"2"', "several outputs in one leaf"),
    ):
        text = learner.native()["xgboost.json"]
        assert before in text
        with pytest.raises(BundleError, match=words):
            backend.load({"xgboost.json": text.replace(before, after)}, Task.of(make_spec(), seed=0))


def test_without_xgboost_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "xgboost", None)
    for module in ("xgboost", "xgboost_learner"):
        monkeypatch.delitem(sys.modules, f"mlaas4hep.backends.{module}", raising=False)
    with pytest.raises(MissingExtraError, match=r"needs the package 'xgboost'.*mlaas4hep\[xgboost\]"):
        choose(Model(name="xgboost"))
