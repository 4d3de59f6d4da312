"""Rules that every model keeps which declares regressions; part of `mlaas4hep.testing_backends.BackendContract`.

Targets are in standard units, as the training loop hands them to learners. A user's file that learns targets, not
classes, takes these rules alone: subclass `RegressionRules`. Invariant: the rules ask only for what
`mlaas4hep.backends.protocol` promises.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
from numpy.typing import NDArray

from mlaas4hep.backends.losses import SQUARED
from mlaas4hep.backends.protocol import Learner, RegressionLearner, Scores, StreamingLearner, Task
from mlaas4hep.backends.registry import Choice, choose
from mlaas4hep.config import Model
from mlaas4hep.errors import ModelError
from mlaas4hep.graph.core import Core
from mlaas4hep.graph.merge import merge
from mlaas4hep.graph.parity import check_parity, difference_of
from mlaas4hep.graph.session import Session
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.targets import TargetScaler
from mlaas4hep.testing_events import Events, fit, make_regression_spec, make_targets, teach
from mlaas4hep.testing_resume import assert_learner_resumable


def explained(values: Scores, targets: NDArray[np.float32]) -> float:
    """The least share of a target's variance that predictions [N, T] account for."""
    shares: NDArray[np.float64] = 1 - ((values - targets) ** 2).mean(axis=0) / targets.var(axis=0)
    return float(shares.min())


def slope_by_subtraction(learner: Learner) -> float:
    """How a fresh learner's values rise with the target where the opposite target was taken away by negative weights.

    That moves the least sum of squares to (1 + 0.3) / (1 - 0.3) of the target; to 0.54 of it where signs are ignored.
    """
    events = make_targets(2000, seed=13)
    wrong = _with_targets(events, -events.truth).weighing(-0.3 * events.weights)
    teach(learner, _joined(events, wrong).pick(np.random.default_rng(0).permutation(4000)))
    check = make_targets(1000, seed=14)
    return float(np.polyfit(check.truth[:, 0], learner.predict(check.inputs)[:, 0], 1)[0])


class RegressionRules:
    """Rules for one model; set ``model``, and for a user's file that returns a regression ``learns_targets``."""

    model: Model
    learns_targets = False

    @pytest.fixture(scope="class")
    @classmethod
    def choice(cls) -> Choice:
        """The model, found by name."""
        return choose(cls.model)

    @pytest.fixture(scope="class")
    @classmethod
    def of_targets(cls, choice: Choice) -> Choice:
        """The same, where it declares regressions."""
        declared = choice.backend is not None and choice.file is None
        if declared and choice.backend is not None:
            declared = choice.backend.capabilities(choice.model).regression
        if not (declared or cls.learns_targets):
            pytest.skip("it does not declare regressions")
        return choice

    @pytest.fixture(scope="class", params=[1, 2], ids=["one-target", "two-targets"])
    @classmethod
    def fitted(cls, of_targets: Choice, request: pytest.FixtureRequest) -> tuple[Learner, ModelSpec, Core]:
        """A learner that has learned, with its contract and its graph."""
        spec = make_regression_spec(request.param)
        learner = of_targets.build(Task.of(spec, seed=3))
        teach(learner, make_targets(4000, num_targets=request.param))
        return learner, spec, learner.export()

    def test_it_learns_a_known_function_of_targets(self, fitted: tuple[Learner, ModelSpec, Core]) -> None:
        learner, spec, _ = fitted
        check = make_targets(2000, seed=9, num_targets=len(spec.targets))
        values = learner.predict(check.inputs)
        assert values.shape == (2000, len(spec.targets))
        assert explained(values, check.truth) > 0.8

    def test_the_graph_gives_the_targets_in_their_own_units(self, fitted: tuple[Learner, ModelSpec, Core]) -> None:
        learner, spec, core = fitted
        rows = make_targets(1000, seed=4).inputs
        report = check_parity(merge(spec, core), spec=spec, core=core, reference=learner.predict, rows=rows)
        assert report.bar < 2e-5
        served = Session(merge(spec, core)).run(rows)
        own = TargetScaler(spec.targets).restored(learner.predict(rows))
        assert difference_of(spec, served, own).max() < 2e-5
        assert abs(served[:, -1].mean() - 125) < 10  # the mass; standard units have a mean of 0

    def test_targets_of_an_event_with_nothing_or_infinities_are_finite(
        self, fitted: tuple[Learner, ModelSpec, Core]
    ) -> None:
        learner, _, _ = fitted
        inputs = copy.deepcopy(make_targets(6).inputs)
        for array in inputs.values():
            array[:2] = np.nan
        inputs["event"][2:4, 0] = np.inf, -np.inf
        inputs["jets"][4:, 0, 0] = np.inf, -np.inf
        assert np.isfinite(learner.predict(inputs)).all()

    def test_a_regression_read_back_gives_the_same_values(
        self, of_targets: Choice, fitted: tuple[Learner, ModelSpec, Core]
    ) -> None:
        if of_targets.file is not None:
            pytest.skip("a model of a user's file comes back through its source")
        learner, spec, core = fitted
        assert of_targets.backend is not None
        again = of_targets.backend.load(learner.native(), Task.of(spec, seed=99))
        rows = make_targets(500, seed=8).inputs
        np.testing.assert_allclose(again.predict(rows), learner.predict(rows), atol=1e-6)
        served = Session(merge(spec, again.export())).run(rows)
        np.testing.assert_array_equal(served, Session(merge(spec, core)).run(rows))

    def test_one_seed_gives_the_same_regression_to_the_bit(self, of_targets: Choice) -> None:
        files = []
        for _ in range(2):
            learner = of_targets.build(Task.of(make_regression_spec(2), seed=3))
            teach(learner, make_targets(600, num_targets=2), epochs=2)
            files.append(learner.native())
        assert files[0] == files[1]

    def test_a_target_of_weight_two_counts_like_two_events(self, of_targets: Choice) -> None:
        events = make_targets(3000, seed=5)
        # Two values for the same inputs: their weights say where between them the prediction lies.
        upper = np.random.default_rng(0).random(3000) < 0.5
        events = _with_targets(events, events.truth + np.where(upper, 0.5, -0.5)[:, None].astype(np.float32))
        once = events.weighing(np.ones(3000))
        twice = np.sort(np.concatenate([np.arange(3000), np.flatnonzero(upper)]))
        heavy = self._in_one_batch(of_targets, events.weighing(np.where(upper, 2.0, 1.0)))
        doubled = self._in_one_batch(of_targets, once.pick(twice))
        rows = make_targets(1000, seed=7).inputs
        difference = heavy.predict(rows) - doubled.predict(rows)
        if isinstance(heavy, StreamingLearner):
            assert np.abs(difference).max() < 1e-4
        else:
            # Bins and the fewest events of a leaf count rows, so single rows differ where trees are unsure.
            shift = heavy.predict(rows) - self._in_one_batch(of_targets, once).predict(rows)
            assert shift.mean() > 0.05
            assert abs(difference.mean()) < 0.2 * shift.mean()

    def test_only_ratios_of_weights_count_for_targets(self, of_targets: Choice) -> None:
        events = make_targets(500, seed=6)
        plain = self._in_one_batch(of_targets, events)
        tiny = self._in_one_batch(of_targets, events.weighing(events.weights * 2.0**-30))
        rows = make_targets(300, seed=7).inputs
        np.testing.assert_allclose(tiny.predict(rows), plain.predict(rows), atol=2e-5)

    def test_a_target_of_weight_zero_teaches_nothing(self, of_targets: Choice) -> None:
        events = make_targets(3000, seed=11)
        noise = np.arange(3000) % 2 == 1
        silent = _with_targets(events, np.where(noise[:, None], -events.truth, events.truth))
        learner = of_targets.build(Task.of(make_regression_spec(), seed=3))
        teach(learner, silent.weighing(np.where(noise, 0.0, 1.0)), epochs=12)
        check = make_targets(1000, seed=12)
        assert explained(learner.predict(check.inputs), check.truth) > 0.7

    def test_targets_of_negative_weight_are_learned_or_refused_as_declared(self, of_targets: Choice) -> None:
        learner = of_targets.build(Task.of(make_regression_spec(), seed=1))
        if not learner.capabilities.negative_weights:
            with pytest.raises(ModelError, match="negative event weights"):
                slope_by_subtraction(learner)
            return
        assert 1.2 < slope_by_subtraction(learner) < 2.2

    def test_a_regression_stopped_anywhere_and_resumed_takes_the_same_steps(self, of_targets: Choice) -> None:
        if of_targets.build(Task.of(make_regression_spec(2), seed=3)).capabilities.resume == "none":
            pytest.skip("it declares that it cannot be resumed")
        events = make_targets(1300, num_targets=2)
        batches = [*events.batches(), *events.pick(np.arange(1300)[::-1]).batches()]
        steps = [(one.inputs, one.truth, one.weights) for one in batches]
        stops = sorted({0, len(batches), *np.random.default_rng().integers(1, len(batches), 3).tolist()})
        assert_learner_resumable(lambda: of_targets.build(Task.of(make_regression_spec(2), seed=3)), steps, stops=stops)

    def test_a_state_brings_the_targets_back(self, of_targets: Choice) -> None:
        learner = of_targets.build(Task.of(make_regression_spec(), seed=3))
        if not isinstance(learner, StreamingLearner):
            pytest.skip("it does not stream")
        teach(learner, make_targets(600), epochs=1)
        one = make_targets(1)
        assert np.isfinite(learner.learn(one.inputs, one.truth, one.weights))
        rows = make_targets(200, seed=2).inputs
        before, state = learner.predict(rows), learner.state()
        teach(learner, make_targets(600), epochs=1)
        assert np.abs(learner.predict(rows) - before).max() > 1e-4
        learner.restore(state)
        np.testing.assert_array_equal(learner.predict(rows), before)

    @pytest.mark.parametrize("num_targets", [1, 2])
    def test_of_a_regression_the_best_rounds_are_kept(self, of_targets: Choice, num_targets: int) -> None:
        learner = of_targets.build(Task.of(make_regression_spec(num_targets), seed=1))
        if isinstance(learner, StreamingLearner):
            pytest.skip("it streams: the loop keeps the best epoch")
        check = make_targets(1000, seed=2, num_targets=num_targets)
        rounds = fit(learner, make_targets(2000, seed=1, num_targets=num_targets), check)
        losses = [one.validation_loss for one in rounds if one.validation_loss is not None]
        loss = learner.loss if isinstance(learner, RegressionLearner) else SQUARED
        each = loss.of(learner.predict(check.inputs) - check.truth)
        assert len(losses) == len(rounds)
        assert np.average(each, weights=check.weights) == pytest.approx(min(losses), rel=1e-4)

    def _in_one_batch(self, choice: Choice, events: Events) -> Learner:
        """Learned in one large step, so that two sets of events meet in the same batches."""
        learner = choice.build(Task.of(make_regression_spec(), seed=3))
        if isinstance(learner, StreamingLearner):
            learner.learn(events.inputs, events.truth, events.weights)
        else:
            teach(learner, events)
        return learner


def _with_targets(events: Events, targets: NDArray[np.float32]) -> Events:
    return Events(events.inputs, events.labels, events.weights, targets)


def _joined(one: Events, other: Events) -> Events:
    inputs = {name: np.concatenate([array, other.inputs[name]]) for name, array in one.inputs.items()}
    labels, weights = np.concatenate([one.labels, other.labels]), np.concatenate([one.weights, other.weights])
    return Events(inputs, labels, weights, np.concatenate([one.truth, other.truth]))
