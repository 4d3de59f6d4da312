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
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from mlaas4hep.backends.protocol import (
    InMemoryLearner,
    Learner,
    OutOfCoreLearner,
    Round,
    Scores,
    StreamingLearner,
    Table,
    Task,
)
from mlaas4hep.backends.registry import Choice, choose
from mlaas4hep.backends.spool import Spool, write_spool
from mlaas4hep.config import Model
from mlaas4hep.errors import ConfigError, ModelError
from mlaas4hep.graph.core import Core
from mlaas4hep.graph.merge import merge
from mlaas4hep.graph.parity import check_parity
from mlaas4hep.graph.session import Session
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.features import FeatureSpec, InputGroup, Variable
from mlaas4hep.spec.scaling import FeatureScaling, GroupScaling
from mlaas4hep.spec.statistics import Statistics
from mlaas4hep.testing_resume import assert_learner_resumable

Tensors = dict[str, NDArray[np.float32]]
_BATCH = 256
_CLASSES = {2: ("background", "signal"), 3: ("first", "second", "third")}


@dataclass(frozen=True, eq=False)
class Events:
    """Made-up events: raw input groups with missing values, labels and weights."""

    inputs: Tensors
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)

    def pick(self, index: NDArray[np.int64] | slice) -> Events:
        """Some of the events."""
        inputs = {name: array[index] for name, array in self.inputs.items()}
        return Events(inputs, self.labels[index], self.weights[index])

    def weighing(self, weights: NDArray[np.float64]) -> Events:
        """The same events with other weights."""
        return Events(self.inputs, self.labels, weights)

    def batches(self) -> Iterator[Events]:
        """In batches, in order."""
        for start in range(0, len(self), _BATCH):
            yield self.pick(slice(start, start + _BATCH))


def make_spec(num_classes: int = 2) -> ModelSpec:
    """The contract of the made-up events: ``event`` with 4 variables, ``jets`` with 3 slots of 2 variables."""
    classes = _CLASSES[num_classes]
    variables = {"event": ("met", "ht", "nvtx", "angle"), "jets": ("pt", "eta")}
    lengths = {"event": None, "jets": 3}
    scaling = tuple(
        GroupScaling(name, names, tuple(_scaling(one) for one in names), lengths[name])
        for name, names in variables.items()
    )
    groups = tuple(
        InputGroup(name, tuple(Variable(one) for one in names), lengths[name]) for name, names in variables.items()
    )
    return ModelSpec(
        name="toy",
        task="binary" if num_classes == 2 else "multiclass",
        classes=classes,
        score_names=classes[-1:] if num_classes == 2 else classes,
        features=FeatureSpec(inputs=groups, classes=classes),
        columns={},
        scaling=scaling,
        statistics=Statistics(),
    )


def _scaling(name: str) -> FeatureScaling:
    if name in ("met", "ht", "pt"):
        return FeatureScaling("standard", offset=50.0, scale=0.02)
    return FeatureScaling("none")


def make_events(number: int, *, seed: int = 0, num_classes: int = 2) -> Events:
    """Events whose class depends on ``angle``, on the product of ``met`` and ``ht`` and on the first jet.

    Jets are filled from the front, one value in thirty is missing, the weights vary by a factor of three.
    """
    random = np.random.default_rng(seed)
    event = random.normal(size=(number, 4))
    jets = random.normal(size=(number, 3, 2))
    margin = 1.5 * event[:, 3] + event[:, 0] * event[:, 1] + 0.7 * jets[:, 0, 0]
    margin += random.normal(size=number) * 0.5
    cuts = [0.3] if num_classes == 2 else [-0.8, 0.8]
    event[:, :2] = event[:, :2] * 50 + 50
    jets[..., 0] = jets[..., 0] * 50 + 50
    jets[np.arange(3) >= random.integers(1, 4, (number, 1))] = np.nan
    event[random.random(event.shape) < 1 / 30] = np.nan
    inputs = {"event": event.astype(np.float32), "jets": jets.astype(np.float32)}
    return Events(inputs, np.searchsorted(cuts, margin).astype(np.int64), random.uniform(0.5, 1.5, number))


def teach(learner: Learner, events: Events, *, epochs: int = 8, seed: int = 1) -> None:
    """Let any learner learn from events: shuffled epochs, one table, or pages."""
    if isinstance(learner, StreamingLearner):
        random = np.random.default_rng(seed)
        for _ in range(epochs):
            for batch in events.pick(random.permutation(len(events))).batches():
                learner.learn(batch.inputs, batch.labels, batch.weights)
    else:
        fit(learner, events, None)


def fit(learner: Learner, events: Events, check: Events | None) -> Sequence[Round]:
    """Let a learner that does not stream learn from events, stopped by others where there are any."""
    if isinstance(learner, InMemoryLearner):
        return learner.fit(as_table(learner, events), as_table(learner, check) if check else None, patience=5)
    assert isinstance(learner, OutOfCoreLearner)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pages = as_pages(learner, events, folder / "train.rows")
        held = as_pages(learner, check, folder / "validation.rows") if check else None
        return learner.fit(pages, held, patience=5, folder=folder)


def as_pages(learner: OutOfCoreLearner, events: Events, path: Path, *, page_bytes: int = 2**16) -> Spool:
    """Events as a learner's pages."""
    width = learner.view(events.pick(slice(0, 1)).inputs).shape[1]
    return write_spool(path, events.batches(), view=learner.view, width=width, page_bytes=page_bytes)


def as_table(learner: InMemoryLearner, events: Events) -> Table:
    """Events as a learner's table."""
    return Table(learner.view(events.inputs).astype(learner.dtype), events.labels, events.weights)


def _auc(scores: Scores, labels: NDArray[np.int64]) -> float:
    signal, background = scores[labels == 1, 0], scores[labels == 0, 0]
    return float((signal[:, None] > background[None, :]).mean())


class BackendContract:
    """Rules for one model of one backend; set ``model``."""

    model: Model

    @pytest.fixture(scope="class")
    @classmethod
    def choice(cls) -> Choice:
        """The model, found by name."""
        return choose(cls.model)

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
        events = make_events(2000, seed=13)
        # What is generated too often by a positive weight is taken away by a negative one.
        wrong = Events(events.inputs, 1 - events.labels, events.weights)
        order = np.random.default_rng(0).permutation(4000)
        both = {name: np.concatenate([a, wrong.inputs[name]])[order] for name, a in events.inputs.items()}
        labels = np.concatenate([events.labels, wrong.labels])[order]
        signed = Events(both, labels, np.concatenate([events.weights, -0.3 * wrong.weights])[order])
        learner = choice.build(Task.of(make_spec(), seed=1))
        if not learner.capabilities.negative_weights:
            with pytest.raises(ModelError, match="negative event weights"):
                teach(learner, signed)
            return
        teach(learner, signed)
        check = make_events(1000, seed=14)
        assert _auc(learner.predict(check.inputs), check.labels) > 0.85

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
        spec = msgspec.structs.replace(make_spec(), task="regression")
        if choice.build(Task.of(make_spec(), seed=0)).capabilities.regression:
            pytest.skip("it learns regressions")
        with pytest.raises(ModelError, match="not a regression"):
            choice.build(Task.of(spec, seed=0))

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
