"""What is particular to scikit-learn: the definition of its loss, its memory, its files."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from mlaas4hep.backends.arrays import unpack
from mlaas4hep.backends.protocol import InMemoryLearner, Table, Task
from mlaas4hep.backends.registry import choose
from mlaas4hep.backends.sklearn import MlpLearner
from mlaas4hep.config import Model
from mlaas4hep.errors import BundleError, DataError
from mlaas4hep.graph.merge import merge
from mlaas4hep.graph.session import Session
from mlaas4hep.spec.scaling import FeatureScaling, GroupScaling
from mlaas4hep.testing_backends import as_table, make_events, make_spec


def wide_task(width: int) -> Task:
    names = tuple(f"x{i}" for i in range(width))
    group = GroupScaling("event", names, (FeatureScaling("none"),) * width)
    return Task("binary", ("background", "signal"), (group,))


@pytest.mark.parametrize(("rows", "width"), [(40_000, 30), (240_000, 8)])
def test_the_memory_of_boosting_is_known_beforehand_within_a_factor_of_two(rows: int, width: int) -> None:
    learner = choose(Model(name="bdt", dials={"trees": 3})).build(wide_task(width))
    assert isinstance(learner, InMemoryLearner)
    held = rows // 8
    estimate = learner.memory_estimate(rows, held)
    random = np.random.default_rng(0)
    tracemalloc.start()
    tables = [Table(random.random((size, width)), random.integers(0, 2, size), np.ones(size)) for size in (rows, held)]
    learner.fit(tables[0], tables[1], patience=5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.5 < peak / estimate < 2.0


def test_the_l2_pull_does_not_depend_on_the_size_of_a_batch() -> None:
    # Without a gradient of the loss (weights cancel it) only the pull is left: same batch, once and ten times over.
    states = []
    for times in (1, 10):
        learner = choose(Model(name="mlp", dials={"hidden": [8], "l2": 0.1})).build(Task.of(make_spec(), seed=1))
        assert isinstance(learner, MlpLearner)
        events = make_events(64)
        batch = events.pick(np.tile(np.arange(64), times))
        for _ in range(3):
            learner.learn(batch.inputs, batch.labels, batch.weights)
        states.append(learner.state())
    for name, values in states[0].items():
        np.testing.assert_allclose(states[1][name], values, atol=1e-5, err_msg=name)


def test_weights_stay_float32_through_training() -> None:
    learner = choose(Model(name="mlp", dials={"hidden": [8]})).build(Task.of(make_spec(), seed=1))
    assert isinstance(learner, MlpLearner)
    events = make_events(64)
    learner.learn(events.inputs, events.labels, events.weights)
    assert {values.dtype for values in learner.state().values()} == {np.dtype(np.float32)}
    assert learner.predict(events.inputs).dtype == np.float32


def test_a_class_without_training_events_is_named() -> None:
    learner = choose(Model(name="bdt")).build(Task.of(make_spec(3), seed=1))
    assert isinstance(learner, InMemoryLearner)
    events = make_events(200)  # labels 0 and 1 alone
    with pytest.raises(DataError, match="class third has no event"):
        learner.fit(as_table(learner, events), None, patience=5)


def test_native_files_that_hold_objects_are_refused() -> None:
    import io

    buffer = io.BytesIO()
    np.savez(buffer, bad=np.array([object()], dtype=object))
    with pytest.raises(BundleError, match="cannot be read"):
        unpack({"settings.json": b"{}", "weights.npz": buffer.getvalue()})


def test_native_files_that_are_missing_are_named() -> None:
    with pytest.raises(BundleError, match=r"weights.npz is not among settings.json"):
        unpack({"settings.json": b"{}"})


@pytest.mark.parametrize("weights", ["equal", "one event only"])
def test_columns_without_values_and_trees_without_splits_are_learned_and_exported(weights: str) -> None:
    learner = choose(Model(name="bdt", dials={"trees": 5})).build(Task.of(make_spec(), seed=1))
    assert isinstance(learner, InMemoryLearner)
    events = make_events(300)
    events.inputs["jets"][:, 1:] = np.nan
    events.inputs["event"][:, 0] = 3.0
    if weights == "one event only":
        events = events.weighing(np.where(np.arange(300) == 4, 1.0, 0.0))
    learner.fit(as_table(learner, events), None, patience=5)
    served = Session(merge(make_spec(), learner.export())).run(make_events(50).inputs)
    np.testing.assert_allclose(served, learner.predict(make_events(50).inputs), atol=1e-6)
