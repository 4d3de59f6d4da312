"""Laws of collections in a served network: empty slots do not exist, however many there are; slots with holes do."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("torch")

from mlaas4hep.backends.protocol import StreamingLearner, Task
from mlaas4hep.backends.registry import choose
from mlaas4hep.config import Model
from mlaas4hep.graph.merge import merge
from mlaas4hep.graph.session import Session
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.scaling import FeatureScaling, GroupScaling
from tests.examples import examples

Inputs = dict[str, NDArray[np.float32]]
# `train` is also the name of a method of every module.
LENGTHS = {"jets": 6, "train": 3}
FEATURES = (FeatureScaling("standard", 40.0, 0.03125), FeatureScaling("none"), FeatureScaling("log", 2.0, 1.5))
MORE = 5
SETS = {"hidden_object": [16], "latent": 9, "hidden_event": [16]}
TOKENS = {"width": 18, "heads": 3, "hidden_event": [16]}
MODELS = {
    "deepsets-relu": Model(name="deepsets", dials={**SETS, "activation": "relu"}),
    "deepsets-gelu": Model(name="deepsets", dials={**SETS, "activation": "gelu"}),
    "attention-relu": Model(name="attention", dials={**TOKENS, "layers": 3, "activation": "relu"}),
    "attention-gelu": Model(name="attention", dials={**TOKENS, "layers": 1, "activation": "gelu"}),
}
# What the order of the objects may change of a regression, beside what float32 holds of the value; the target is around
# 125 within 20. Attention sums its weights over the objects in another order: 1e-6 of the target's spread.
REGRESSIONS = {"deepsets-relu regression": 1e-6, "attention-relu regression": 20e-6}


def make_spec(more: int, task: str) -> ModelSpec:
    """``event`` and two collections that are longer by ``more``; for two classes or one target."""
    from mlaas4hep.testing_events import make_regression_spec, make_spec

    names = ("pt", "eta", "mass")
    groups = [GroupScaling("event", names, FEATURES)]
    groups += [GroupScaling(name, names, FEATURES, length + more) for name, length in LENGTHS.items()]
    spec = make_spec() if task == "binary" else make_regression_spec()
    return msgspec.structs.replace(spec, scaling=tuple(groups))


def make_rows(count: int, seed: int, *, full: bool = False) -> Inputs:
    """Collections of 0 to K objects, one value in ten missing."""
    random = np.random.default_rng(seed)
    rows = {"event": (random.normal(size=(count, 3)) * 30 + 40).astype(np.float32)}
    for name, length in LENGTHS.items():
        values = (random.normal(size=(count, length, 3)) * 30 + 40).astype(np.float32)
        values[random.random(values.shape) < 0.1] = np.nan
        if not full:
            values[np.arange(length) >= random.integers(0, length + 1, count)[:, np.newaxis]] = np.nan
        rows[name] = values
    return rows


def padded(rows: Inputs) -> Inputs:
    return {
        name: values if name == "event" else np.pad(values, ((0, 0), (0, MORE), (0, 0)), constant_values=np.nan)
        for name, values in rows.items()
    }


# Of each architecture and each task one; the others cost seconds of exporting each and wait for `make check`.
QUICK = ("deepsets-relu binary", "attention-relu regression")
SERVED = [
    pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow)
    for one in (*(f"{name} binary" for name in MODELS), *REGRESSIONS)
]


@pytest.fixture(scope="module", params=SERVED)
def served(request: pytest.FixtureRequest) -> str:
    """A model and its task."""
    return str(request.param)


@pytest.fixture(scope="module")
def sessions(served: str) -> tuple[Session, Session]:
    """One set of weights, served with collections of length K and of K + 5."""
    model, task = served.split()
    choice = choose(MODELS[model])
    spec, longer = make_spec(0, task), make_spec(MORE, task)
    learner, other = (choice.build(Task.of(one, seed=4)) for one in (spec, longer))
    assert isinstance(learner, StreamingLearner)
    assert isinstance(other, StreamingLearner)
    random = np.random.default_rng(1)
    for seed in range(20):
        truth = random.integers(0, 2, 64) if task == "binary" else random.normal(size=(64, 1)).astype(np.float32)
        learner.learn(make_rows(64, seed), truth, np.ones(64))
    other.restore(learner.state())
    return Session(merge(spec, learner.export())), Session(merge(longer, other.export()))


@settings(max_examples=examples(20), deadline=None)
@given(count=st.integers(1, 70), seed=st.integers(0, 2**32 - 1), full=st.booleans())
def test_more_padding_changes_no_bit_of_a_score(
    sessions: tuple[Session, Session], count: int, seed: int, full: bool
) -> None:
    rows = make_rows(count, seed, full=full)
    scores = sessions[0].run(rows)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(sessions[1].run(padded(rows)), scores)


@settings(max_examples=examples(10), deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_where_the_empty_slots_stand_plays_no_role(sessions: tuple[Session, Session], served: str, seed: int) -> None:
    rows = padded(make_rows(20, seed))
    order = np.random.default_rng(seed)
    shuffled = {
        name: values if name == "event" else values[:, order.permutation(values.shape[1])]
        for name, values in rows.items()
    }
    # 1e-6 of a probability; of a target, `REGRESSIONS` and what float32 holds of it.
    bound = REGRESSIONS.get(served, 1e-6)
    np.testing.assert_allclose(sessions[1].run(shuffled), sessions[1].run(rows), rtol=3e-7, atol=bound)


def test_a_missing_value_does_not_remove_its_object(sessions: tuple[Session, Session]) -> None:
    rows = make_rows(50, 1, full=True)
    rows["jets"][:, 2] = [[45.0, 1.0, 3.0]]
    holed, filled, removed = ({name: one.copy() for name, one in rows.items()} for _ in range(3))
    holed["jets"][:, 2, 0] = np.nan
    filled["jets"][:, 2, 0] = FEATURES[0].offset  # what becomes 0 after scaling
    removed["jets"][:, 2] = np.nan
    scores = sessions[0].run(holed)
    np.testing.assert_array_equal(scores, sessions[0].run(filled))
    assert (scores != sessions[0].run(removed)).mean() > 0.9


def test_events_without_any_object_have_finite_scores_of_their_own(sessions: tuple[Session, Session]) -> None:
    rows = make_rows(50, 2)
    rows["jets"][:], rows["train"][:] = np.nan, np.nan
    scores = sessions[0].run(rows)
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) > 40
    rows["event"][:] = np.nan
    assert len(np.unique(sessions[0].run(rows))) == 1
