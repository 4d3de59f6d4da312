"""Learning with a Keras model, batch by batch, and everything that the next batch depends on.

Used by `mlaas4hep.backends.keras`. Invariant: only ratios of weights reach the model, as sample weights of mean
``|weight|`` 1; a model that does not look at them is found out before it learns.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import keras
import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.backends.arrays import below, pack, under
from mlaas4hep.backends.average import Average
from mlaas4hep.backends.blame import told_with
from mlaas4hep.backends.keras_graph import NotCovered
from mlaas4hep.backends.keras_loss import form_of_labels, targets
from mlaas4hep.backends.keras_network import Network
from mlaas4hep.backends.keras_values import array_of
from mlaas4hep.backends.protocol import Arrays, Capabilities, EventWeights, Labels, Scores
from mlaas4hep.backends.weights import require_finite
from mlaas4hep.errors import ModelError
from mlaas4hep.graph.core import Core
from mlaas4hep.spec.scaling import Tensors

# PyTorch under Keras is held to the CPU, see `keras_start`.
_SEES_GPUS = keras.config.backend() != "torch"
KERAS = Capabilities(streams=True, negative_weights=True, masks=True, resume="exact", gpu=_SEES_GPUS)

Way = Literal["batch", "train_step", "fit"]


def way_of(model: keras.Model) -> Way:
    """Who takes a step: Keras, the model's own ``train_step`` (or what that calls), or its own ``fit``."""
    kind, plain = type(model), keras.Model
    if kind.fit is not plain.fit:
        return "fit"
    own = any(getattr(kind, name) is not getattr(plain, name) for name in ("train_step", "compute_loss"))
    return "train_step" if own else "batch"


class KerasLearner:
    """A compiled Keras model.

    Parameters
    ----------
    network
        With fresh weights.
    loss
        That the model was compiled with.
    averaging
        Share of the past in the average of the weights.
    settings
        Written beside the weights.
    device
        Where it learns, ``cpu`` or ``gpu``.
    notes
        What the user should be told.
    """

    def __init__(
        self,
        network: Network,
        loss: Any,
        *,
        averaging: float,
        settings: Mapping[str, Any],
        device: str = "cpu",
        notes: Sequence[str] = (),
    ) -> None:
        self.network = network
        self.task = network.task
        self.where = network.where
        self.device = device
        # Sums on a GPU come in any order.
        self.capabilities = KERAS if device == "cpu" else msgspec.structs.replace(KERAS, resume="statistical")
        self.notes = (*notes, *(() if device == "cpu" else (f"{network.where}: learns on a GPU",)))
        self._model = network.model
        self._settings = settings
        self._form = form_of_labels(loss, network.columns)
        self._way = way_of(self._model)
        self._average = Average(averaging)
        self._random = _randomness(network)
        if self._way != "fit" and keras.config.backend() == "tensorflow":
            from mlaas4hep.backends.keras_tensorflow import trace_once

            trace_once(self._model)
        self._model.optimizer.build(self._model.trainable_variables)
        self._shown = values_of(self._model.weights) if averaging else None
        self._weighs = self._way == "batch" or self._looks_at_weights()

    def learn(self, inputs: Tensors, labels: Labels, weights: EventWeights) -> float:
        """One step of the model's optimiser on the sum of weight times loss over the sum of ``|weight|``.

        With a loss that reduces otherwise (``reduction="sum"``), it is that sum for weights of mean ``|weight|`` 1.
        """
        require_finite(weights)
        total = float(np.abs(weights).sum())
        if total == 0.0:
            return 0.0
        shares = (weights * (len(weights) / total)).astype(np.float32)
        if not self._weighs and np.ptp(shares) > 0:
            raise ModelError(
                f"{self.where}: the model's own {self._way} does not look at sample weights, and the events have "
                "different ones; pass sample_weight on to the loss, or learn with equal weights (weights: {training: "
                "none})"
            )
        value = self._step(self.network.prepare(inputs), labels, shares)
        if not np.isfinite(value):
            raise ModelError(f"{self.where}: the loss is {value}: the training diverged; lower its learning rate")
        if self._shown is not None:
            self._average.update(self._shown, values_of(self._model.weights))
        return value

    def _step(self, prepared: Any, labels: Labels, shares: NDArray[np.float32]) -> float:
        y = targets(labels, self._form, self.network.columns)
        step = "a step" if self._way == "batch" else f"the model's own {self._way}"
        with told_with(self.where, f"{step} failed"), self._steadily():
            if self._way == "fit":
                loss = self.network.loss(prepared, labels, shares)
                self._fit(prepared, y, shares)
                return loss
            told = self._model.train_on_batch(prepared, y, sample_weight=shares, return_dict=True)
            if "loss" not in told:
                raise ModelError(f"train_step returns {', '.join(told) or 'nothing'}; wants 'loss' among them")
            return float(told["loss"])

    def _fit(self, prepared: Any, y: NDArray[Any], shares: NDArray[np.float32]) -> None:
        settings = {"batch_size": len(y), "epochs": 1, "shuffle": False, "verbose": 0, "sample_weight": shares}
        known = inspect.signature(self._model.fit).parameters
        if not any(one.kind is one.VAR_KEYWORD for one in known.values()):
            settings = {name: value for name, value in settings.items() if name in known}
        self._model.fit(prepared, y, **settings)

    def _looks_at_weights(self) -> bool:
        """Whether a step on random rows hangs on their weights; everything is afterwards as it was."""
        rows = self.network.prepare(self.network.random_rows())
        before, after = self.checkpoint(), []
        labels = np.arange(len(keras.tree.flatten(rows)[0])) % len(self.task.classes)
        for shares in (np.ones(len(labels)), np.where(labels == 0, 1.5, 0.5)):
            self._step(rows, labels, shares.astype(np.float32))
            after.append(values_of(self._model.weights))
            self.recover(before)
        return any(not np.array_equal(values, after[1][name]) for name, values in after[0].items())

    def predict(self, inputs: Tensors) -> Scores:
        """Scores [N, C], float32."""
        with told_with(self.where, "the model failed"), self._showing(), self._steadily():
            return self.network.scores(self.network.prepare(inputs))

    @contextlib.contextmanager
    def _showing(self) -> Iterator[None]:
        """The averaged weights in the model, where there are any."""
        if self._shown is None:
            yield
            return
        latest = values_of(self._model.weights)
        write_values(self._model.weights, self._shown)
        try:
            yield
        finally:
            write_values(self._model.weights, latest)

    def _steadily(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext() if self._random is None else self._random.used()

    def state(self) -> dict[str, NDArray[Any]]:
        """A copy of all weights that the scores hang on."""
        shown = values_of(self._model.weights) if self._shown is None else self._shown
        return {name: values.copy() for name, values in shown.items()}

    def restore(self, state: Arrays) -> None:
        """Write all weights back."""
        write_values(self._model.weights, state)
        if self._shown is not None:
            self._shown = {name: np.array(values) for name, values in state.items()}

    def checkpoint(self) -> dict[str, NDArray[Any]]:
        """Weights, moving figures and their average, the optimiser's variables, all generators."""
        arrays = under("model", values_of(self._model.variables))
        arrays |= under("optimiser", values_of(self._model.optimizer.variables))
        arrays |= under("average", self.state() if self._shown is not None else {})
        if self._random is not None:
            arrays["random"] = self._random.state.copy()
        return arrays | {"average_steps": np.array(self._average.steps)}

    def recover(self, arrays: Arrays) -> None:
        """Make a fresh learner one that goes on from what `checkpoint` gave."""
        write_values(self._model.variables, below("model", arrays))
        write_values(self._model.optimizer.variables, below("optimiser", arrays))
        if self._shown is not None:
            self._shown = {name: values.copy() for name, values in below("average", arrays).items()}
        if self._random is not None:
            self._random.state = arrays["random"].copy()
        self._average.steps = int(arrays["average_steps"])

    def export(self) -> Core:
        """The model as a graph."""
        with self._showing():
            return export(self.network)

    def native(self) -> dict[str, bytes]:
        """Weights in the order of ``model.weights``, and settings."""
        return pack(self._settings, self.state())


def require_exportable(network: Network) -> None:
    """`ModelError` where a model cannot be written as a graph: before it learns, not after."""
    export(network)


def export(network: Network) -> Core:
    """A model as a graph: by its operations, or on PyTorch by torch's exporter where one of them has no word."""
    try:
        return network.lower()
    except NotCovered as error:
        if not falls_back():
            raise ModelError(
                f"{network.where}: the model cannot be written as a graph: {error}; Keras on PyTorch knows more "
                "(KERAS_BACKEND=torch)"
            ) from error
        from mlaas4hep.backends.keras_torch import export_by_torch

        with told_with(network.where, f"the model cannot be written as a graph: {error}; nor by torch's exporter"):
            return export_by_torch(network)


def falls_back() -> bool:
    """Whether torch's exporter can stand in."""
    return bool(keras.config.backend() == "torch")


def _randomness(network: Network) -> Any:
    if keras.config.backend() != "torch":
        return None
    from mlaas4hep.backends.keras_torch import Randomness

    return Randomness(network.task.seed, network.task.threads)


def values_of(variables: Sequence[Any]) -> dict[str, NDArray[Any]]:
    """Copies of variables, named by their places: Keras's names hang on what was built before in the process."""
    return {f"{place:04d}": array_of(variable) for place, variable in enumerate(variables)}


def write_values(variables: Sequence[Any], arrays: Arrays) -> None:
    """Write back what `values_of` gave."""
    for place, variable in enumerate(variables):
        variable.assign(arrays[f"{place:04d}"])
