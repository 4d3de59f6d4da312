"""A Keras model with what stands around it: what it is given, what its output means, and how it becomes a graph.

Used by `mlaas4hep.backends.keras`. Invariant: the inputs that are learned, predicted and exported are put together by
one function, `Network.arrange`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import keras
import numpy as np
import scipy.special
from keras.src.models.functional import Functional
from numpy.typing import NDArray

from mlaas4hep.backends.keras_graph import Lowering, NotCovered
from mlaas4hep.backends.keras_values import Value, array_of
from mlaas4hep.backends.protocol import Labels, Scores, Task
from mlaas4hep.errors import ModelError, nearest
from mlaas4hep.graph.builder import value_info
from mlaas4hep.graph.core import FLAT_INPUT, MASK_SUFFIX, Core
from mlaas4hep.graph.pre import core_inputs
from mlaas4hep.spec.scaling import Scaler, Tensors

OutputKind = Literal["logits", "probabilities"]
InputKind = Literal["flat", "groups"]

_ROWS = 256


class Network:
    """A model, which inputs it is given, and what its output means.

    Parameters
    ----------
    model
        Returns logits or probabilities, [N], [N, 1], [N, 2] for two classes or [N, C].
    task
        What is learned.
    inputs
        ``flat`` or ``groups`` for a model whose inputs have no names; ``flat`` where None.
    where
        The user's file, for messages.

    Attributes
    ----------
    names
        ``x``, or names of groups and ``<group>_mask``.
    types
        Of each of them, in Keras's words.
    output
        What the model returns.
    columns
        Length of what it returns for one event.
    """

    def __init__(self, model: keras.Model, task: Task, *, inputs: InputKind | None, where: str) -> None:
        self.model = model
        self.task = task
        self.where = where
        self.output: OutputKind = "logits"
        self.columns = task.outputs
        self._scaler = Scaler(task.groups)
        self._symbols = _symbols_of(model)
        self.types: dict[str, str] = {}
        self.names = self._find_names(inputs)

    def _find_names(self, inputs: InputKind | None) -> tuple[str, ...]:
        """What the model asks for by name; the flat view where it names no group."""
        known = core_inputs(self.task.groups, "groups")
        symbols = [] if self._symbols is None else keras.tree.flatten(self._symbols)
        named = [one.name for one in symbols]
        if inputs == "groups" and self._symbols is None:
            self.types = {name: "bool" if name.endswith(MASK_SUFFIX) else "float32" for name in known}
            return tuple(known)
        if inputs == "flat" or not set(named) & set(known):
            return self._flat(symbols)
        for one in symbols:
            if one.name not in known:
                raise ModelError(
                    f"{self.where}: the model has an input '{one.name}', which is none{nearest(one.name, known)}"
                )
            if tuple(one.shape[1:]) != known[one.name]:
                raise ModelError(
                    f"{self.where}: the model's input '{one.name}' is {_shape(one.shape)}, "
                    f"the contract's is {_shape((None, *known[one.name]))}"
                )
        self.types = {one.name: str(one.dtype) for one in symbols}
        return tuple(named)

    def _flat(self, symbols: list[Any]) -> tuple[str, ...]:
        if len(symbols) > 1:
            raise ModelError(
                f"{self.where}: the model has inputs {', '.join(one.name for one in symbols)}; name them as the groups "
                f"of the config: {', '.join(core_inputs(self.task.groups, 'groups'))}"
            )
        for one in symbols:
            if tuple(one.shape[1:]) not in ((self.task.width,), (None,)):
                raise ModelError(
                    f"{self.where}: the model takes {_shape(one.shape)}, the flat view is [N, {self.task.width}]"
                )
        self.types = {FLAT_INPUT: "float32"}
        return (FLAT_INPUT,)

    def prepare(self, inputs: Tensors) -> Any:
        """What the model is given for raw input groups, as arrays."""
        if self.names == (FLAT_INPUT,):
            return self.arrange({FLAT_INPUT: self._scaler.flat(inputs)})
        arrays: dict[str, NDArray[Any]] = dict(self._scaler.tensors(inputs))
        arrays |= {f"{name}{MASK_SUFFIX}": mask for name, mask in self._scaler.masks(inputs).items()}
        return self.arrange({name: arrays[name].astype(self.types[name], copy=False) for name in self.names})

    def arrange(self, values: Mapping[str, Any]) -> Any:
        """Values by input name in the nesting that the model wants."""
        if self._symbols is None:
            return values[FLAT_INPUT] if self.names == (FLAT_INPUT,) else dict(values)
        if self.names == (FLAT_INPUT,):
            return keras.tree.map_structure(lambda _: values[FLAT_INPUT], self._symbols)
        return keras.tree.map_structure(lambda one: values[one.name], self._symbols)

    def raw(self, prepared: Any) -> NDArray[np.float32]:
        """The model's output as [N, columns]."""
        ends = keras.tree.flatten(self._forward(prepared))
        if len(ends) != 1:
            raise ModelError(f"{self.where}: the model returns {len(ends)} outputs; wants one")
        array = array_of(ends[0])
        return array[:, None] if array.ndim == 1 else array

    def _forward(self, prepared: Any) -> Any:
        if keras.config.backend() != "torch":
            return self.model.predict_on_batch(prepared)
        from mlaas4hep.backends.keras_torch import forward_without_gradients

        # Keras's own way to predict makes numpy arrays by a call that numpy 2 warns of.
        return forward_without_gradients(self.model, prepared)

    def scores(self, prepared: Any) -> Scores:
        """Scores [N, C]."""
        found = self.probabilities(self.raw(prepared))
        return found[:, 1:] if self.task.outputs == 1 and found.shape[1] == 2 else found

    def probabilities(self, found: NDArray[np.float32]) -> NDArray[np.float32]:
        """The model's output as probabilities."""
        if self.output == "probabilities":
            return found
        if found.shape[1] == 1:
            return np.asarray(scipy.special.expit(found))
        return np.asarray(scipy.special.softmax(found, axis=1))

    def loss(self, prepared: Any, labels: Labels, shares: NDArray[np.float32]) -> float:
        """Cross-entropy, weighted by shares of the mean weight."""
        found = self.scores(prepared).astype(np.float64)
        own = np.where(labels == 1, found[:, 0], 1 - found[:, 0])
        if self.task.outputs > 1:
            own = found[np.arange(len(labels)), labels]
        return float((-np.log(np.clip(own, 1e-7, 1.0)) * shares).mean())

    def try_out(self) -> NDArray[np.float32]:
        """The model's output on random rows, by which it is built too; `ModelError` where the shape is wrong."""
        found = self.raw(self.prepare(self.random_rows()))
        wanted = {1, 2} if self.task.outputs == 1 else {self.task.outputs}
        if found.ndim != 2 or found.shape[0] != _ROWS or found.shape[1] not in wanted:
            sizes = " or ".join(f"[N, {size}]" for size in sorted(wanted))
            shape = _shape([None if size == _ROWS else size for size in found.shape])
            raise ModelError(f"the model returns {shape} for {len(self.task.classes)} classes; wants {sizes}")
        self.columns = found.shape[1]
        return found

    def random_rows(self) -> dict[str, NDArray[np.float32]]:
        """256 events of random numbers, always the same."""
        random = np.random.default_rng(0)
        shapes = {group.name: (_ROWS, *group.shape) for group in self.task.groups}
        return {name: random.normal(0, 3, shape).astype(np.float32) for name, shape in shapes.items()}

    def lower(self) -> Core:
        """The model as a graph; `NotCovered` where a part of it has no word there."""
        shapes = core_inputs(self.task.groups, "flat" if self.names == (FLAT_INPUT,) else "groups")
        values = {name: Value(name, (None, *shapes[name]), self.types[name]) for name in self.names}
        low = Lowering()
        found = low.apply(self._call, (self.arrange(values),))
        ends = [one for one in keras.tree.flatten(found) if isinstance(one, Value)]
        if len(ends) != 1:
            raise NotCovered(f"the model returns {len(ends)} outputs that hang on its inputs; wants one")
        name = ends[0].name
        if len(ends[0].shape) == 1:
            name = low.node("Reshape", [name, low.numbers(-1, 1)])
        link = "Identity" if self.output == "probabilities" else "Sigmoid" if self.columns == 1 else "Softmax"
        low.graph.node(link, [name], attributes={"axis": 1} if link == "Softmax" else None, output="scores")
        asked = [value_info(one, np.dtype(self.types[one]), shapes[one]) for one in self.names]
        model = low.graph.model(asked, [value_info("scores", np.float32, [self.columns])])
        return self.core(model.SerializeToString(deterministic=True))

    def _call(self, arranged: Any) -> Any:
        return self.model(arranged, training=False)

    def core(self, model: bytes) -> Core:
        """A graph that gives the model's probabilities as ``scores``, with what it wants to be fed."""
        return Core(
            model=model,
            layout="flat" if self.names == (FLAT_INPUT,) else "groups",
            missing="impute",
            output="scores",
            columns=(1,) if self.task.outputs == 1 and self.columns == 2 else tuple(range(self.columns)),
        )


def are_probabilities(found: NDArray[np.float32]) -> bool:
    """Whether what a model returned lies inside 0 to 1, and adds up to 1 where there are several columns."""
    # Open bounds: a last layer that starts at zero gives logits of exactly 0.
    inside = bool(((found > 0) & (found < 1)).all())
    return inside and (found.shape[1] == 1 or bool(np.abs(found.sum(axis=1) - 1).max() < 1e-4))


def _symbols_of(model: keras.Model) -> Any:
    """The named inputs of a model that was built from them, in their nesting; None for others."""
    functional = getattr(model, "_functional", model)
    return functional.input if isinstance(functional, Functional) else None


def _shape(shape: Any) -> str:
    return f"[{', '.join('N' if size is None else str(size) for size in shape)}]"
