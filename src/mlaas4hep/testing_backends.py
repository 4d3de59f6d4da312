"""Rules that every backend keeps, as tests: subclass `BackendContract`, name a model, and pytest runs them all.

Public, for backends of third parties::

    from mlaas4hep.config import Model
    from mlaas4hep.testing_backends import BackendContract

    class TestMine(BackendContract):
        model = Model(name="mlp", backend="mine")

Invariant: the rules ask only for what `mlaas4hep.backends.protocol` promises, so a backend that passes them works with
the training loop, the bundle and the server.
"""

from __future__ import annotations

import copy

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from mlaas4hep.backends.protocol import Learner, Scores, StreamingLearner, Task
from mlaas4hep.backends.registry import Choice, choose
from mlaas4hep.errors import ConfigError, ModelError
from mlaas4hep.graph.core import Core
from mlaas4hep.graph.merge import merge
from mlaas4hep.graph.parity import check_parity
from mlaas4hep.graph.session import Session
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.testing_events import (
    Events,
    as_pages,
    as_table,
    fit,
    make_events,
    make_regression_spec,
    make_spec,
    teach,
    with_subtraction,
)
from mlaas4hep.testing_regression import RegressionRules
from mlaas4hep.testing_resume import assert_learner_resumable

__all__ = ["BackendContract", "Events", "as_pages", "as_table", "fit", "make_events", "make_spec", "teach"]


def _auc(scores: Scores, labels: NDArray[np.int64]) -> float:
    signal, background = scores[labels == 1, 0], scores[labels == 0, 0]
    return float((signal[:, None] > background[None, :]).mean())


def auc_by_subtraction(learner: Learner) -> float:
    """AUC of a fresh learner taught what negative weights put right; below 0.1 of one that ignores signs."""
    teach(learner, with_subtraction(make_events(1500, seed=13)))
    check = make_events(1000, seed=14)
    return _auc(learner.predict(check.inputs), check.labels)


class BackendContract(RegressionRules):
    """Rules for one model of one backend; set ``model``.

    A model that declares regressions keeps the rules of `mlaas4hep.testing_regression` too.
    """

    @pytest.fixture(scope="class", params=[2, 3], ids=["two-classes", "three-classes"])
    @classmethod
    def taught(cls, choice: Choice, request: pytest.FixtureRequest) -> tuple[Learner, ModelSpec]:
        """A learner that has learned, with its contract."""
        spec = make_spec(request.param)
        learner = choice.build(Task.of(spec, seed=3))
        teach(learner, make_events(4000, num_classes=request.param))
        return learner, spec

    @pytest.fixture(scope="class")
    @classmethod
    def core(cls, taught: tuple[Learner, ModelSpec]) -> Core:
        """What that learner exports; once, since a framework may take seconds."""
        return taught[0].export()

    def test_it_learns_a_known_function(self, taught: tuple[Learner, ModelSpec]) -> None:
        learner, spec = taught
        events = make_events(2000, seed=9, num_classes=len(spec.classes))
        scores = learner.predict(events.inputs)
        if len(spec.classes) == 2:
            assert _auc(scores, events.labels) > 0.9
        else:
            assert (scores.argmax(axis=1) == events.labels).mean() > 0.7

    def test_scores_are_probabilities_in_the_order_of_the_contract(self, taught: tuple[Learner, ModelSpec]) -> None:
        learner, spec = taught
        scores = learner.predict(make_events(100).inputs)
        assert scores.shape == (100, len(spec.score_names))
        assert ((scores >= 0) & (scores <= 1)).all()
        if len(spec.score_names) > 1:
            np.testing.assert_allclose(scores.sum(axis=1), 1.0, atol=1e-5)

    def test_the_graph_gives_the_scores_of_the_framework(self, taught: tuple[Learner, ModelSpec], core: Core) -> None:
        learner, spec = taught
        events = make_events(1000, seed=4)
        check_parity(merge(spec, core), spec=spec, core=core, reference=learner.predict, rows=events.inputs)

    def test_an_event_with_nothing_in_it_has_a_score(self, taught: tuple[Learner, ModelSpec]) -> None:
        learner, _ = taught
        nothing = {name: np.full_like(array, np.nan) for name, array in make_events(3).inputs.items()}
        assert np.isfinite(learner.predict(nothing)).all()

    def test_infinities_in_an_event_have_a_score(self, taught: tuple[Learner, ModelSpec]) -> None:
        learner, _ = taught
        inputs = copy.deepcopy(make_events(4).inputs)
        inputs["event"][:2, 0] = np.inf, -np.inf
        inputs["jets"][2:, 0, 0] = np.inf, -np.inf
        assert np.isfinite(learner.predict(inputs)).all()

    def test_one_seed_gives_the_same_model_to_the_bit(self, choice: Choice) -> None:
        files = [self._learned(choice, make_events(600), epochs=2).native() for _ in range(2)]
        assert files[0] == files[1]

    def test_a_model_read_back_gives_the_same_scores(
        self, choice: Choice, taught: tuple[Learner, ModelSpec], core: Core
    ) -> None:
        if choice.file is not None:
            pytest.skip("a model of a user's file comes back through its source")
        learner, spec = taught
        assert choice.backend is not None
        again = choice.backend.load(learner.native(), Task.of(spec, seed=99))
        rows = make_events(500, seed=8).inputs
        np.testing.assert_allclose(again.predict(rows), learner.predict(rows), atol=1e-7)
        served = Session(merge(spec, again.export())).run(rows)
        np.testing.assert_array_equal(served, Session(merge(spec, core)).run(rows))

    def test_an_event_of_weight_two_counts_like_two_events(self, choice: Choice) -> None:
        events = make_events(3000, seed=5)
        double = np.flatnonzero(events.labels == 1)
        weights = np.where(events.labels == 1, 2.0, 1.0)
        twice = np.sort(np.concatenate([np.arange(3000), double]))
        once = events.weighing(np.ones(3000))
        heavy = self._stepped(choice, events.weighing(weights), size=3000)
        doubled = self._stepped(choice, once.pick(twice), size=len(twice))
        rows = make_events(1000, seed=7).inputs
        difference = heavy.predict(rows) - doubled.predict(rows)
        if isinstance(heavy, StreamingLearner):
            assert np.abs(difference).max() < 1e-4
        else:
            # Bins and the fewest events of a leaf count rows, so single rows differ where trees are unsure.
            plain = self._stepped(choice, once, size=3000)
            shift = heavy.predict(rows) - plain.predict(rows)
            assert shift.mean() > 0.02
            assert abs(difference.mean()) < 0.2 * shift.mean()

    def test_only_ratios_of_weights_count(self, choice: Choice) -> None:
        events = make_events(1500, seed=6)
        plain = self._stepped(choice, events, size=500)
        tiny = self._stepped(choice, events.weighing(events.weights * 2.0**-30), size=500)
        rows = make_events(300, seed=7).inputs
        np.testing.assert_allclose(tiny.predict(rows), plain.predict(rows), atol=1e-5)

    def test_an_event_of_weight_zero_teaches_nothing(self, choice: Choice) -> None:
        events = make_events(2000, seed=11)
        noise = np.arange(2000) % 2 == 1
        labels = np.where(noise, 1 - events.labels, events.labels)
        silent = Events(events.inputs, labels, np.where(noise, 0.0, 1.0))
        learner = self._learned(choice, silent, epochs=10)
        check = make_events(1000, seed=12)
        assert _auc(learner.predict(check.inputs), check.labels) > 0.85

    def test_negative_weights_are_learned_or_refused_as_declared(self, choice: Choice) -> None:
        learner = choice.build(Task.of(make_spec(), seed=1))
        if not learner.capabilities.negative_weights:
            with pytest.raises(ModelError, match="negative event weights"):
                auc_by_subtraction(learner)
            return
        assert auc_by_subtraction(learner) > 0.85

    def test_a_weight_that_is_not_a_number_is_refused(self, choice: Choice) -> None:
        events = make_events(300)
        weights = events.weights.copy()
        weights[7] = np.nan
        learner = choice.build(Task.of(make_spec(), seed=1))
        with pytest.raises(Exception, match="NaN or infinite"):
            teach(learner, events.weighing(weights), epochs=1)

    def test_a_state_brings_the_scores_back(self, choice: Choice) -> None:
        learner = self._learned(choice, make_events(600), epochs=1)
        if not isinstance(learner, StreamingLearner):
            pytest.skip("it does not stream")
        rows = make_events(200, seed=2).inputs
        before, state = learner.predict(rows), learner.state()
        teach(learner, make_events(600), epochs=1)
        assert np.abs(learner.predict(rows) - before).max() > 1e-4
        learner.restore(state)
        np.testing.assert_array_equal(learner.predict(rows), before)

    def test_stopped_anywhere_and_resumed_it_takes_the_same_steps(self, choice: Choice) -> None:
        if choice.build(Task.of(make_spec(), seed=3)).capabilities.resume == "none":
            pytest.skip("it declares that it cannot be resumed")
        events = make_events(1300)
        batches = [*events.batches(), *events.pick(np.arange(1300)[::-1]).batches()]
        stops = {0, len(batches), *np.random.default_rng().integers(1, len(batches), 3).tolist()}
        steps = [(one.inputs, one.labels, one.weights) for one in batches]
        assert_learner_resumable(lambda: choice.build(Task.of(make_spec(), seed=3)), steps, stops=sorted(stops))

    def test_a_batch_of_one_event_is_learned(self, choice: Choice) -> None:
        learner = self._learned(choice, make_events(600), epochs=1)
        if not isinstance(learner, StreamingLearner):
            pytest.skip("it does not stream")
        one = make_events(1)
        assert np.isfinite(learner.learn(one.inputs, one.labels, one.weights))

    def test_with_a_validation_part_the_best_rounds_are_kept(self, choice: Choice) -> None:
        learner = choice.build(Task.of(make_spec(), seed=1))
        if isinstance(learner, StreamingLearner):
            pytest.skip("it streams: the loop keeps the best epoch")
        events, check = make_events(2000, seed=1), make_events(1000, seed=2)
        rounds = fit(learner, events, check)
        losses = [one.validation_loss for one in rounds if one.validation_loss is not None]
        scores = learner.predict(check.inputs)[:, 0]
        own = np.where(check.labels == 1, scores, 1 - scores)
        assert len(losses) == len(rounds)
        assert np.average(-np.log(own), weights=check.weights) == pytest.approx(min(losses), rel=1e-6)

    def test_without_a_validation_part_the_loss_of_the_last_round_is_told(self, choice: Choice) -> None:
        learner = choice.build(Task.of(make_spec(), seed=1))
        if isinstance(learner, StreamingLearner):
            pytest.skip("it streams: the loop keeps the record")
        events = make_events(2000, seed=1)
        rounds = fit(learner, events, None)
        scores = learner.predict(events.inputs)[:, 0]
        own = np.where(events.labels == 1, scores, 1 - scores)
        assert np.average(-np.log(own), weights=events.weights) == pytest.approx(rounds[-1].train_loss, rel=1e-5)
        assert all(one.validation_loss is None for one in rounds)

    def test_a_task_beyond_it_is_refused_by_name(self, choice: Choice) -> None:
        if choice.build(Task.of(make_spec(), seed=0)).capabilities.regression:
            pytest.skip("it learns regressions")
        with pytest.raises(ModelError, match="not a regression of mass"):
            choice.build(Task.of(make_regression_spec(), seed=0))

    def test_an_unknown_dial_is_refused_with_the_nearest(self, choice: Choice) -> None:
        if choice.file is not None:
            pytest.skip("a user's file has no dials of ours")
        dials = {**self.model.dials, "learning_rat": 0.1}
        with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
            choose(msgspec.structs.replace(self.model, dials=dials))

    def _learned(self, choice: Choice, events: Events, *, epochs: int) -> Learner:
        learner = choice.build(Task.of(make_spec(), seed=3))
        teach(learner, events, epochs=epochs)
        return learner

    def _stepped(self, choice: Choice, events: Events, *, size: int) -> Learner:
        """Learned in few large steps without shuffling, so that two sets of events meet in the same batches."""
        learner = choice.build(Task.of(make_spec(), seed=3))
        if not isinstance(learner, StreamingLearner):
            teach(learner, events)
            return learner
        for start in range(0, len(events), size):
            batch = events.pick(slice(start, start + size))
            learner.learn(batch.inputs, batch.labels, batch.weights)
        return learner
