"""What a framework adapter is: the words shared by the training loop, the registry and every backend.

A `Backend` builds a `Learner` for a `Task`. A learner takes input groups as the preprocessor gives them, raw and padded
with NaN, and prepares them itself by the constants of the contract. Invariant: what a learner predicts is what its
exported `Core` gives behind the same preparation, to 1e-6 on a score.

A regression is learned in standard units: learners are given targets with mean 0 and width 1, float32 [n, T], in place
of labels, and predict such values, [n, T]. The constants stand in the contract; the served graph puts the targets' own
units back, and no learner needs to know them.

What every learner promises about weights: only their ratios count, within a batch for one that streams, over the whole
table for one that does not; an event of weight 2 is learned like two events of weight 1 in the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.backends.dials import Dials
from mlaas4hep.backends.losses import Loss
from mlaas4hep.graph.core import Core, Link
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.contract import Task as TaskKind
from mlaas4hep.spec.scaling import GroupScaling, Tensors
from mlaas4hep.spec.targets import Targets, TargetScaling

Scores = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]
# What is to be learned of each event: labels, int64 [n]; of a regression targets in standard units, float32 [n, T].
Truth = NDArray[Any]
EventWeights = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]


class Capabilities(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model can do; what it cannot is refused by name, never done silently.

    Parameters
    ----------
    streams
        Learns batch by batch; else the whole training part is held in memory, with an estimate beforehand.
    out_of_core
        Does not stream, yet holds only a few numbers an event in memory: it reads the training part from disk, over and
        over.
    weights, negative_weights
        Takes event weights; also those below zero, as generators at next-to-leading order give them.
    missing_native
        Sees missing values as such (trees); else they are 0 after scaling.
    masks
        Is told which slots of a collection hold an object.
    multiclass, regression
        Tasks beyond two classes.
    resume
        Whether an interrupted training goes on as if it had not been: to the bit, in distribution, or not at all.
        All but ``none`` are `ResumableLearner`.
    gpu
        Can use one.
    """

    streams: bool
    weights: bool = True
    negative_weights: bool = False
    missing_native: bool = False
    masks: bool = False
    multiclass: bool = True
    regression: bool = False
    resume: Literal["exact", "statistical", "none"] = "none"
    gpu: bool = False
    out_of_core: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be learned, as far as a model needs to know.

    Parameters
    ----------
    kind
        ``binary`` has one score, that of the last class.
    classes
        Names; the position is the label.
    groups
        Input groups with the constants of their scaling, in the order of the contract.
    seed
        Of first weights and of everything random in the learner.
    threads
        That the numerical libraries may use inside a learner's methods. Results can depend on it in the last bits, so
        it is part of the task and not taken from the machine.
    spec
        The whole contract, for a user's ``model(spec)``.
    targets
        Of a regression, in the order of the contract: names and the constants of their standard units.
    """

    kind: TaskKind
    classes: tuple[str, ...]
    groups: tuple[GroupScaling, ...]
    seed: int = 0
    threads: int = 1
    spec: ModelSpec | None = None
    targets: tuple[TargetScaling, ...] = ()

    @classmethod
    def of(cls, spec: ModelSpec, *, seed: int, threads: int = 1) -> Task:
        """The task that a contract states."""
        return cls(spec.task, spec.classes, spec.scaling, seed, threads, spec, spec.targets)

    @property
    def width(self) -> int:
        """Length W of the flat view."""
        return sum(group.width for group in self.groups)

    @property
    def outputs(self) -> int:
        """Number of scores C: 1 for two classes (the signal's), else one a class; of a regression one a target."""
        if self.kind == "regression":
            return len(self.targets)
        return len(self.classes) if self.kind == "multiclass" else 1

    @property
    def link(self) -> Link:
        """From the margins of a model to its scores; a regression's are its margins."""
        if self.kind == "regression":
            return "identity"
        return "sigmoid" if self.outputs == 1 else "softmax"


class Predictor(Protocol):
    """A model that has learned."""

    def predict(self, inputs: Tensors) -> Scores:
        """Scores [N, C] of raw, padded input groups, by the framework itself."""

    def export(self) -> Core:
        """The same as a graph."""


class Learner(Predictor, Protocol):
    """A model that learns; one of `StreamingLearner`, `InMemoryLearner` and `OutOfCoreLearner`."""

    capabilities: Capabilities

    def native(self) -> dict[str, bytes]:
        """The framework's own weights in files without pickles, by name."""


@runtime_checkable
class NotingLearner(Learner, Protocol):
    """One that has something to tell of how it learns; the run tells it before it begins."""

    notes: Sequence[str]


@runtime_checkable
class PlacedLearner(Learner, Protocol):
    """One that says where it learns: ``cpu``, ``cuda:0``; without it that is the CPU."""

    device: str


@runtime_checkable
class MovedLearner(PlacedLearner, Protocol):
    """One whose `predict` runs on a GPU, and that can do the same on the CPU, where graphs are served."""

    def predict_on_cpu(self, inputs: Tensors) -> Scores:
        """As `predict`."""


def reference_of(learner: Learner) -> Callable[[Tensors], Scores]:
    """What a graph is held against: the framework's own scores, by the CPU where it can.

    Sums of float32 in another order differ by as much as a graph may.
    """
    return learner.predict_on_cpu if isinstance(learner, MovedLearner) else learner.predict


@runtime_checkable
class StreamingLearner(Learner, Protocol):
    """Learns batch by batch."""

    def learn(self, inputs: Tensors, truth: Truth, weights: EventWeights) -> float:
        """One step on one batch.

        Parameters
        ----------
        inputs
            Raw and padded.
        truth
            Labels, int64 [n]; of a regression targets in standard units, float32 [n, T].
        weights
            float64 [n].

        Returns
        -------
        The mean loss of the batch before the step, weighted by ``|weights|``; regularisation may be included.

        Raises
        ------
        ModelError
            A weight is negative and the model does not take those.
        """

    def state(self) -> dict[str, NDArray[Any]]:
        """A copy of everything that `predict` depends on."""

    def restore(self, state: Arrays) -> None:
        """Back to what `state` gave."""


@runtime_checkable
class ResumableLearner(StreamingLearner, Protocol):
    """Learns batch by batch and can be interrupted; asked of those whose `Capabilities` do not say ``none``."""

    def checkpoint(self) -> dict[str, NDArray[Any]]:
        """A copy of everything that the next steps depend on, between two of them: plain arrays, no objects.

        Weights, their average, the optimiser's moments and counts, random numbers; not the stream, which is the
        training loop's.
        """

    def recover(self, arrays: Arrays) -> None:
        """On a learner that was just built for an equal task: the same steps from here on as the one interrupted."""


@runtime_checkable
class RegressionLearner(Learner, Protocol):
    """Says which loss of a regression it makes small, so that the validation part is judged by the same.

    Asked of those that stream; without it squared error is taken.
    """

    loss: Loss


class Round(msgspec.Struct, frozen=True):
    """Losses after one round of a learner that does not stream."""

    train_loss: float
    validation_loss: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A part of the events in memory.

    Parameters
    ----------
    x
        [N, W], as the learner's `view` gives it.
    truth
        Labels, int64 [N]; of a regression targets in standard units, float32 [N, T].
    weights
        [N].
    """

    x: NDArray[Any]
    truth: Truth
    weights: EventWeights

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def labels(self) -> Labels:
        """The truth where classes are learned."""
        return self.truth

    @property
    def targets(self) -> Targets:
        """The truth of a regression."""
        return self.truth


@runtime_checkable
class InMemoryLearner(Learner, Protocol):
    """Learns from a table of the whole training part."""

    dtype: np.dtype[Any]

    def view(self, inputs: Tensors) -> NDArray[Any]:
        """Rows [N, W] of the table for one batch."""

    def memory_estimate(self, rows: int, validation_rows: int) -> int:
        """Bytes that the tables and `fit` take at their peak, known before anything is read."""

    def fit(self, train: Table, validation: Table | None, *, patience: int) -> Sequence[Round]:
        """Learn; with a validation part, stop after ``patience`` rounds without a better loss and keep the best.

        Tables may be written over, so that nothing has to be held twice.

        Raises
        ------
        ModelError
            A weight is negative and the model does not take those.
        """


class Pages(Protocol):
    """A part of the events in tables that fit memory one by one: each time the same, in plan order."""

    def __len__(self) -> int:
        """Events in all."""

    def __iter__(self) -> Iterator[Table]:
        """From the first page; each is a new object."""


@runtime_checkable
class OutOfCoreLearner(Learner, Protocol):
    """Learns from pages on disk that it reads as often as it needs."""

    def view(self, inputs: Tensors) -> NDArray[np.float32]:
        """Rows [N, W] of the pages for one batch."""

    def memory_estimate(self, rows: int, validation_rows: int) -> int:
        """Bytes that `fit` takes at its peak, known before anything is read."""

    def disk_estimate(self, rows: int, validation_rows: int) -> int:
        """Bytes that `fit` writes below its folder, besides the pages."""

    def fit(self, train: Pages, validation: Pages | None, *, patience: int, folder: Path) -> Sequence[Round]:
        """Learn; with a validation part, stop after ``patience`` rounds without a better loss and keep the best.

        Parameters
        ----------
        train, validation
            The parts.
        patience
            A learner may have a dial of its own for its rounds.
        folder
            An empty one for files of its own; removed afterwards.

        Raises
        ------
        ModelError
            A weight is negative and the model does not take those.
        """


class Backend(Protocol):
    """A framework adapter.

    ``models`` maps the name of each model that it knows to the type of its dials, a `Dials`.
    """

    name: str
    models: Mapping[str, type[Dials]]

    def capabilities(self, model: str) -> Capabilities:
        """What one of its models can do."""

    def build(self, model: str, dials: Dials, task: Task) -> Learner:
        """A learner with fresh weights.

        Raises
        ------
        ModelError
            The task is beyond the model, or a dial is out of range.
        """

    def load(self, files: Mapping[str, bytes], task: Task) -> Predictor:
        """A learned model back from what `Learner.native` gave."""

    def adopt(self, found: Any, dials: Mapping[str, Any], task: Task, *, where: str) -> Learner:
        """A learner around an object that a user's own file returned.

        Raises
        ------
        ModelError
            It is of a kind that cannot be learned or exported; named with ``where``.
        """
