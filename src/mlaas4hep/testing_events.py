"""Made-up events for the rules that every backend keeps, and any learner let loose on them.

Used by `mlaas4hep.testing_backends` and `mlaas4hep.testing_regression`. Invariant: events follow from a seed alone, and
what they hold can be learned from the inputs up to a known noise.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.backends.protocol import InMemoryLearner, Learner, OutOfCoreLearner, Round, StreamingLearner, Table
from mlaas4hep.backends.spool import Spool, write_spool
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.features import FeatureSpec, InputGroup, Variable
from mlaas4hep.spec.scaling import FeatureScaling, GroupScaling
from mlaas4hep.spec.statistics import FeatureStatistics, Statistics, TargetStatistics

Tensors = dict[str, NDArray[np.float32]]
_BATCH = 256
NOISE = 0.2
# Weights of the wrong class in `with_subtraction`: by their size, and without the second, they outweigh the right one.
TOO_MUCH, TAKEN_AWAY = 1.2, -1.1
_CLASSES = {2: ("background", "signal"), 3: ("first", "second", "third")}


@dataclass(frozen=True, eq=False)
class Events:
    """Made-up events: raw input groups with missing values, labels and weights; of a regression targets."""

    inputs: Tensors
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    targets: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def pick(self, index: NDArray[np.int64] | slice) -> Events:
        """Some of the events."""
        inputs = {name: array[index] for name, array in self.inputs.items()}
        targets = None if self.targets is None else self.targets[index]
        return Events(inputs, self.labels[index], self.weights[index], targets)

    @property
    def truth(self) -> NDArray[Any]:
        """What is learned: labels, int64 [N]; of a regression targets in standard units, float32 [N, T]."""
        return self.labels if self.targets is None else self.targets

    def weighing(self, weights: NDArray[np.float64]) -> Events:
        """The same events with other weights."""
        return Events(self.inputs, self.labels, weights, self.targets)

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


def make_regression_spec(num_targets: int = 1) -> ModelSpec:
    """The same inputs with targets: ``mass`` around 125 in steps of 20, and ``angle_of`` around 0 within 0.1."""
    spec = make_spec()
    names = ("angle_of", "mass")[-num_targets:]
    constants = {"mass": (125.0, 20.0), "angle_of": (0.001, 0.1)}
    figures = {name: FeatureStatistics(mean=constants[name][0], std=constants[name][1]) for name in names}
    return msgspec.structs.replace(
        spec,
        task="regression",
        classes=(),
        score_names=names,
        features=msgspec.structs.replace(spec.features, classes=(), targets=dict.fromkeys(names, "met")),
        statistics=msgspec.structs.replace(spec.statistics, targets=TargetStatistics(figures)),
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


def make_targets(number: int, *, seed: int = 0, num_targets: int = 1) -> Events:
    """Events with targets in standard units and a noise of `NOISE`.

    The last hangs on ``angle``, on the product of ``met`` and ``ht`` and on the first jet; the first of two is a plain
    sum of two variables.
    """
    events = make_events(number, seed=seed)
    random = np.random.default_rng([seed, 1])
    event = events.inputs["event"].astype(np.float64)
    met, ht, jet = ((one - 50) / 50 for one in (event[:, 0], event[:, 1], events.inputs["jets"][:, 0, 0]))
    met, ht, jet, nvtx, angle = (np.nan_to_num(one, nan=0.0) for one in (met, ht, jet, event[:, 2], event[:, 3]))
    curved = (0.8 * angle + 0.5 * np.tanh(met * ht) + 0.4 * jet) / 1.1
    plain = (nvtx + angle) / 1.4
    targets = np.stack([plain, curved], axis=1)[:, -num_targets:] + random.normal(size=(number, num_targets)) * NOISE
    return Events(events.inputs, np.full(number, -1), events.weights, targets.astype(np.float32))


def with_subtraction(events: Events, *, seed: int = 0) -> Events:
    """The same events as a generator with negative weights gives them, shuffled: their net density is nearly theirs.

    Beside each stands its twin of the wrong class with `TOO_MUCH` times its weight, and again with `TAKEN_AWAY` times
    its weight. What is left of a twin is above zero, so that the loss of any scores is, too, as for a physical cross
    section. Who takes weights by their size, or leaves negative ones out, learns the wrong class.

    Parameters
    ----------
    events
        Of two classes, [N].
    seed
        Of the order.

    Returns
    -------
    Events
        [3 N].
    """
    shares = (1.0, TOO_MUCH, TAKEN_AWAY)
    order = np.random.default_rng(seed).permutation(len(shares) * len(events))
    inputs = {name: np.concatenate([array] * len(shares))[order] for name, array in events.inputs.items()}
    wrong = 1 - events.labels
    labels = np.concatenate([events.labels, wrong, wrong])[order]
    return Events(inputs, labels, np.concatenate([share * events.weights for share in shares])[order])


def teach(learner: Learner, events: Events, *, epochs: int = 8, seed: int = 1) -> None:
    """Let any learner learn from events: shuffled epochs, one table, or pages."""
    if isinstance(learner, StreamingLearner):
        random = np.random.default_rng(seed)
        for _ in range(epochs):
            for batch in events.pick(random.permutation(len(events))).batches():
                learner.learn(batch.inputs, batch.truth, batch.weights)
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
    targets = 0 if events.targets is None else events.targets.shape[1]
    return write_spool(path, events.batches(), view=learner.view, width=width, targets=targets, page_bytes=page_bytes)


def as_table(learner: InMemoryLearner, events: Events) -> Table:
    """Events as a learner's table."""
    return Table(learner.view(events.inputs).astype(learner.dtype), events.truth, events.weights)
