"""Losses of regressions: what each learns, told alike by all backends, and refused where a model lacks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlaas4hep.backends.losses import Loss
from mlaas4hep.backends.protocol import StreamingLearner, Task
from mlaas4hep.backends.registry import choose
from mlaas4hep.config import Model
from mlaas4hep.errors import ConfigError, ModelError
from mlaas4hep.graph.merge import merge
from mlaas4hep.graph.parity import check_parity
from mlaas4hep.testing_events import Events, fit, make_regression_spec, make_spec, make_targets, teach
from mlaas4hep.testing_regression import explained

SPEC = make_regression_spec(2)
LOSSES = [
    ("mlp", "torch", "huber"),
    pytest.param("mlp", "torch", "absolute", marks=pytest.mark.slow),
    ("deepsets", "torch", "huber"),
    ("bdt", "sklearn", "absolute"),
    pytest.param("xgboost", "xgboost", "huber", marks=pytest.mark.slow),
    ("xgboost", "xgboost", "absolute"),
]


def with_outliers(events: Events) -> Events:
    """One target in twenty is far off, always above."""
    targets = events.truth.copy()
    targets[::20] += 10
    return Events(events.inputs, events.labels, events.weights, targets)


@pytest.mark.parametrize(("name", "backend", "loss"), LOSSES)
def test_a_loss_other_than_squares_is_not_drawn_by_outliers(name: str, backend: str, loss: str) -> None:
    pytest.importorskip(backend)
    events, check = with_outliers(make_targets(3000, num_targets=2)), make_targets(1000, seed=9, num_targets=2)
    dials: dict[str, Any] = {"learning_rate": 5e-3} if backend == "torch" else {"learning_rate": 0.1, "trees": 80}
    shifts = {}
    for each in ("squared", loss):
        learner = choose(Model(name=name, backend=backend, dials={**dials, "loss": each})).build(Task.of(SPEC, seed=1))
        teach(learner, events, epochs=12)
        values = learner.predict(check.inputs)
        shifts[each] = float((values - check.truth).mean())
    # The mean is drawn by 0.5, the median by little.
    assert shifts["squared"] > 0.4
    assert abs(shifts[loss]) < 0.15
    assert explained(values, check.truth) > 0.7
    core = learner.export()
    check_parity(merge(SPEC, core), spec=SPEC, core=core, reference=learner.predict, rows=check.inputs)


def test_all_backends_tell_the_same_loss_for_the_same_residuals() -> None:
    events, check = make_targets(2000, seed=1), make_targets(1000, seed=2)
    task = Task.of(make_regression_spec(), seed=1)
    for backend in ("sklearn", "xgboost"):
        pytest.importorskip(backend)
        learner = choose(Model(name="bdt", backend=backend, dials={"trees": 40})).build(task)
        rounds = fit(learner, events, check)
        found = Loss().of(learner.predict(events.inputs) - events.truth)
        best = min(rounds, key=lambda one: one.validation_loss or 0.0)
        assert best.train_loss == pytest.approx(float(np.average(found, weights=events.weights)), rel=1e-3)
    # Without the hidden values that torch sets to 0 in a step.
    for backend, dials in (("sklearn", {"averaging": 0}), ("torch", {"averaging": 0, "dropout": 0})):
        pytest.importorskip(backend)
        learner = choose(Model(name="mlp", backend=backend, dials=dials)).build(task)
        assert isinstance(learner, StreamingLearner)
        batch = events.pick(slice(0, 500))
        learner.learn(batch.inputs, batch.truth, batch.weights)
        before = Loss().of(learner.predict(batch.inputs) - batch.truth)
        told = learner.learn(batch.inputs, batch.truth, batch.weights)
        assert told == pytest.approx(float(np.average(before, weights=batch.weights)), rel=1e-4)


def test_losses_are_refused_where_they_mean_nothing() -> None:
    pytest.importorskip("torch")
    with pytest.raises(ModelError, match=r"mlp \(backend torch\): loss 'huber' is one of regressions"):
        choose(Model(name="mlp", backend="torch", dials={"loss": "huber"})).build(Task.of(make_spec(), seed=0))
    with pytest.raises(ConfigError, match=r"model\.loss"):
        choose(Model(name="bdt", dials={"loss": "huber"}))
    with pytest.raises(ConfigError, match=r"huber_delta: 0\.0 is out of range"):
        choose(Model(name="mlp", backend="torch", dials={"huber_delta": 0.0}))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "from sklearn.neural_network import MLPClassifier as R",
            "returned a MLPClassifier.*known estimators of a regr",
        ),
        ("from xgboost import XGBClassifier as R", "returned a XGBClassifier.*return an XGBRegressor"),
        ("from sklearn.ensemble import HistGradientBoostingRegressor as H\nR = lambda: H(loss='poisson')", "'poisson'"),
        ("from torch import nn\nR = lambda: nn.Linear(10, 3)", r"returns \['N', 3\] for 2 targets; wants \[N, 2\]"),
    ],
)
def test_what_learns_no_targets_is_refused_by_name(tmp_path: Path, source: str, words: str) -> None:
    file = tmp_path / "own.py"
    pytest.importorskip(source.split()[1].partition(".")[0])
    file.write_text(f"{source}\ndef model():\n    return R()\n")
    with pytest.raises(ModelError, match=words):
        choose(Model(file=str(file))).build(Task.of(SPEC, seed=0))
