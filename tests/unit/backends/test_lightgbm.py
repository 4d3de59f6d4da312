"""What is particular to LightGBM: pages, one byte a value in memory, dials, the estimators of a user's file."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlaas4hep.backends.protocol import InMemoryLearner, Learner, OutOfCoreLearner, Task
from mlaas4hep.backends.registry import choose
from mlaas4hep.backends.spool import Spool
from mlaas4hep.config import Model
from mlaas4hep.errors import ConfigError, DataError, MissingExtraError, ModelError
from mlaas4hep.testing_backends import Events, as_pages, fit, make_events, make_spec
from tests.small_lightgbm import SMALL, build, task_of

lightgbm = pytest.importorskip("lightgbm")


def learned(events: Events, path: Path, *, page_bytes: int, threads: int = 1, dials: Mapping[str, Any] = SMALL) -> Any:
    learner = build(dials, threads=threads)
    pages = as_pages(learner, events, path / "rows", page_bytes=page_bytes)
    learner.fit(pages, None, patience=5, folder=path)
    return learner


def sha256(learner: Learner) -> str:
    return hashlib.sha256(learner.export().model).hexdigest()


def trees_of(text: str) -> str:
    return text.partition("\nTree=0")[2].partition("end of trees")[0]


def plain(learner: Any, x: NDArray[Any], labels: Any, weights: Any, **changes: Any) -> str:
    """The trees of plain LightGBM on an array, with the same parameters."""
    parameters = {**learner.parameters, **changes}
    data = lightgbm.Dataset(x, labels, weight=weights, params=dict(parameters))
    return trees_of(lightgbm.train(dict(parameters), data, learner.rounds).model_to_string())


def test_pages_teach_what_memory_teaches_to_the_bit(tmp_path: Path) -> None:
    events = make_events(6000, seed=1)
    dials = {**SMALL, "bagging_fraction": 0.7, "feature_fraction": 0.8}
    learner = learned(events, tmp_path, page_bytes=40_000, dials=dials)
    weights = events.weights / events.weights.mean()
    theirs = plain(learner, learner.view(events.inputs), events.labels, weights)
    assert trees_of(learner.native()["lightgbm.txt"].decode()) == theirs


@pytest.mark.parametrize(("page_bytes", "threads"), [(40_000, 1), (2**24, 2), (50_000, 3)])
def test_neither_pages_nor_threads_nor_chance_change_the_graph(tmp_path: Path, page_bytes: int, threads: int) -> None:
    events = make_events(3000, seed=2)
    first = learned(events, tmp_path, page_bytes=2**24)
    again = learned(events, tmp_path, page_bytes=page_bytes, threads=threads)
    assert sha256(first) == sha256(again)


def test_rounds_end_with_the_last_tree_that_can_be_split() -> None:
    events = make_events(120)
    learner = build({**SMALL, "num_iterations": 40, "min_data_in_leaf": 59, "lambda_l2": 0.0, "bagging_fraction": 1.0})
    rounds = fit(learner, events.weighing(np.ones(120)), None)
    assert len(rounds) == len(learner.learned.forest.trees)


MEASURE = """
import sys, threading
from pathlib import Path
import numpy as np
from mlaas4hep.backends.registry import choose
from mlaas4hep.backends.spool import write_spool
from mlaas4hep.config import Model
from mlaas4hep.testing_backends import Events
from tests.small_lightgbm import task_of

def anonymous_bytes():
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024

width, size, times = 40, 20_000, 20
learner = choose(Model(name="lightgbm", dials={"num_iterations": 2, "bin_construct_sample_cnt": 100_000}))
learner = learner.build(task_of(width))
x = np.random.default_rng(0).normal(size=(size, width)).astype(np.float32)
x[::7, 3] = np.nan
batch = Events({"event": x}, (x[:, 0] > 0).astype(np.int64), np.linspace(0.5, 1.5, size))
pages = write_spool(Path(sys.argv[1]), [batch] * times, view=learner.view, width=width)
before, peaks, done = anonymous_bytes(), [], threading.Event()

def watch():
    while not done.wait(0.002):
        peaks.append(anonymous_bytes() - before)

watcher = threading.Thread(target=watch)
watcher.start()
learner.fit(pages, None, patience=5, folder=Path())
done.set()
watcher.join()
print(max(peaks), learner.memory_estimate(len(pages), 0), 8 * width * len(pages))
"""


def test_the_estimate_of_memory_is_right_to_a_fifth(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "rows")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=True)
    peak, estimate, as_float64 = map(int, done.stdout.split())
    assert 0.8 < estimate / peak < 1.2
    # No table of the events: not in float64, nor in the float32 of the pages, for all that is kept beside the values.
    assert peak < 1.1 * as_float64


def test_memory_of_an_event_is_a_byte_a_value_and_a_little() -> None:
    def growth(width: int, **dials: Any) -> float:
        learner = choose(Model(name="lightgbm", dials=dials)).build(task_of(width))
        assert isinstance(learner, OutOfCoreLearner)
        assert not isinstance(learner, InMemoryLearner)
        return (learner.memory_estimate(30_000_000, 0) - learner.memory_estimate(20_000_000, 0)) / 10_000_000

    assert growth(100) == pytest.approx(100 + 62)
    assert growth(200) - growth(100) == pytest.approx(100)
    assert growth(200, max_bin=1000) - growth(100, max_bin=1000) == pytest.approx(200)


def test_it_declares_that_the_values_stay_in_memory_and_that_it_cannot_be_resumed() -> None:
    capabilities = build().capabilities
    assert not capabilities.out_of_core
    assert capabilities.resume == "none"
    assert capabilities.missing_native


def test_a_class_without_training_events_is_named() -> None:
    with pytest.raises(DataError, match="class third has no event"):
        fit(build(classes=3), make_events(200), None)


def test_weights_that_sum_to_zero_are_refused() -> None:
    events = make_events(200)
    with pytest.raises(DataError, match="200 training events sum to 0"):
        fit(build(), events.weighing(np.zeros(200)), None)


def test_negative_weights_are_refused_with_what_to_do_instead() -> None:
    events = make_events(200)
    with pytest.raises(ModelError, match=r"model lightgbm.*backend: torch.*training: none.*abs\("):
        fit(build(), events.weighing(events.weights - 0.8), None)
    assert not build().capabilities.negative_weights


def test_more_events_than_lightgbm_counts_are_refused() -> None:
    class Endless(Spool):
        def __len__(self) -> int:
            return 2**31

    with pytest.raises(DataError, match=r"2,147,483,648 training events: LightGBM takes at most 2,147,483,647"):
        build().fit(Endless(Path("none"), 10, 0), None, patience=1, folder=Path())


def test_nothing_is_printed_while_it_learns(capfd: pytest.CaptureFixture[str]) -> None:
    fit(build({**SMALL, "min_data_in_leaf": 500}), make_events(900), make_events(200, seed=1))
    assert capfd.readouterr() == ("", "")


def test_before_it_has_learned_it_says_so() -> None:
    with pytest.raises(ModelError, match="lightgbm has not learned anything yet"):
        build().export()


def test_no_events_have_no_scores() -> None:
    learner = build()
    fit(learner, make_events(500), None)
    assert learner.predict(make_events(0).inputs).shape == (0, 1)


@pytest.mark.parametrize(
    ("dials", "words"),
    [
        ({"bagging_fraction": 0}, "bagging_fraction: 0.0 is out of range; wants above 0 to 1"),
        ({"feature_fraction": 1.5}, "feature_fraction: 1.5 is out of range"),
        ({"num_leaves": 1}, "num_leaves: 1 is out of range; wants 2 to 131072"),
        ({"max_depth": 0}, "max_depth: 0 is out of range; wants above 0, or -1"),
        ({"max_bin": 1}, "max_bin: 1 is out of range"),
        ({"bin_construct_sample_cnt": 99}, "bin_construct_sample_cnt: 99 is out of range; wants 100000"),
        ({"num_leafs": 5}, "num_leafs: is no dial of lightgbm .backend lightgbm.; did you mean 'num_leaves'"),
    ],
)
def test_a_dial_out_of_range_is_refused(dials: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        choose(Model(name="lightgbm", dials=dials))


def test_dials_reach_lightgbm_by_their_names() -> None:
    dials = {
        "learning_rate": 0.07,
        "num_leaves": 5,
        "max_depth": 3,
        "min_data_in_leaf": 7,
        "max_bin": 63,
        "min_sum_hessian_in_leaf": 0.5,
        "lambda_l1": 0.25,
        "lambda_l2": 2.0,
        "bagging_fraction": 0.5,
        "feature_fraction": 0.75,
        "bin_construct_sample_cnt": 150_000,
    }
    learner = build({**dials, "num_iterations": 3})
    fit(learner, make_events(500), None)
    text = learner.native()["lightgbm.txt"].decode()
    for name, value in dials.items():
        assert f"[{name}: {value:g}]" in text
    for line in ("[bagging_freq: 1]", "[seed: 3]", "[deterministic: 1]", "[force_col_wise: 1]"):
        assert line in text


def own_estimator(text: str, tmp_path: Path) -> Any:
    file = tmp_path / "own.py"
    file.write_text(f"import lightgbm\n\ndef model():\n    return lightgbm.{text}\n", encoding="utf-8")
    return choose(Model(file=str(file))).build(Task.of(make_spec(), seed=3))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("LGBMClassifier(boosting_type='dart')", "boosting_type='dart' is not taken; wants 'gbdt'"),
        ("LGBMClassifier(objective='multiclassova')", "objective='multiclassova' is not taken"),
        ("LGBMClassifier(linear_tree=True)", "linear_tree=True is not taken; wants False"),
        ("LGBMClassifier(zero_as_missing=True)", "zero_as_missing=True is not taken"),
        ("LGBMClassifier(use_missing=False)", "use_missing=False is not taken"),
        ("LGBMClassifier(class_weight='balanced')", "class_weight is not taken"),
        ("LGBMClassifier(categorical_feature=[0])", "categorical_feature is not taken"),
        ("LGBMClassifier(sigmoid=2.0)", "sigmoid is not taken"),
        ("LGBMClassifier(random_state=__import__('numpy').random.RandomState(1))", "random_state is a RandomState"),
        ("LGBMRegressor()", "returned a LGBMRegressor"),
    ],
)
def test_what_an_own_estimator_would_not_get_is_refused_by_name(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=words):
        own_estimator(text, tmp_path)


def test_an_own_estimator_learns_what_it_learns_by_itself(tmp_path: Path) -> None:
    text = "LGBMClassifier(n_estimators=9, num_leaves=6, random_state=5, subsample=0.6, subsample_freq=2, reg_lambda=3)"
    learner, events = own_estimator(text, tmp_path), make_events(3000)
    fit(learner, events, None)
    estimator = eval(f"lightgbm.{text}")
    # What is off here is off there: bundles of columns, and the filter by the sample.
    estimator.set_params(deterministic=True, force_col_wise=True, enable_bundle=False, feature_pre_filter=False)
    estimator.set_params(n_jobs=1, verbose=-1)
    x = learner.view(events.inputs)
    estimator.fit(x, events.labels, sample_weight=events.weights / events.weights.mean())
    own = trees_of(learner.native()["lightgbm.txt"].decode())
    assert own == trees_of(estimator.booster_.model_to_string())


def test_without_lightgbm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    for module in ("lightgbm", "lightgbm_learner"):
        monkeypatch.delitem(sys.modules, f"mlaas4hep.backends.{module}", raising=False)
    with pytest.raises(MissingExtraError, match=r"needs the package 'lightgbm'.*mlaas4hep\[lightgbm\]"):
        choose(Model(name="lightgbm"))
