"""A function of JAX with what stands around it: its parameters, what it is given, and what its output means.

Used by `mlaas4hep.backends.jax`. Invariant: what is learned, predicted and exported comes from one ``apply``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.backends.jax_graph import Lowering
from mlaas4hep.backends.jax_products import ALL_WORDS
from mlaas4hep.backends.losses import Loss
from mlaas4hep.backends.protocol import Task
from mlaas4hep.errors import ModelError, nearest
from mlaas4hep.graph.builder import value_info
from mlaas4hep.graph.core import FLAT_INPUT, MASK_SUFFIX, Core
from mlaas4hep.graph.pre import core_inputs
from mlaas4hep.spec.scaling import Scaler, Tensors

OutputKind = Literal["logits", "probabilities"]
Leaves = list[jax.Array]

# What ``apply`` is given in training alone.
KEY = "key"
_ROWS = 256
# A probability this close to 0 or 1 costs as much as float32 can tell.
_TINY = 1e-7


class Functions(Protocol):
    """``init`` and ``apply``; equal ones are compiled once."""

    @property
    def apply(self) -> Callable[..., Any]:
        """From parameters and inputs to the output."""


@dataclass(frozen=True)
class Pair:
    """The two functions of a user's file."""

    init: Callable[..., Any]
    apply: Callable[..., Any]


@dataclass(frozen=True)
class Form:
    """All of a network but its numbers: what JAX compiles it by.

    Parameters
    ----------
    functions
        The functions.
    structure
        How parameters are nested.
    learned
        Which of them are learned: those of float32.
    inputs
        ``x``, or names of groups and ``<group>_mask``.
    draws
        Whether ``apply`` takes a key for random numbers.
    outputs
        Number of scores.
    output
        What ``apply`` returns; ``values`` of a regression.
    """

    functions: Functions
    structure: Any
    learned: tuple[bool, ...]
    inputs: tuple[str, ...]
    draws: bool
    outputs: int
    output: OutputKind | Literal["values"]

    def raw(self, learned: Leaves, fixed: Leaves, tensors: Sequence[Any], key: Any = None) -> jax.Array:
        """The function's output as [N, columns]."""
        ours, theirs = iter(learned), iter(fixed)
        params = jax.tree.unflatten(self.structure, [next(ours if one else theirs) for one in self.learned])
        further = {KEY: key} if self.draws else {}
        if self.inputs == (FLAT_INPUT,):
            found = self.functions.apply(params, *tensors, **further)
        else:
            found = self.functions.apply(params, **dict(zip(self.inputs, tensors, strict=True)), **further)
        if not isinstance(found, jax.Array):
            raise ModelError(f"apply returned a {type(found).__name__}; wants one array")
        return found[:, None] if found.ndim == 1 else found

    def scores(self, learned: Leaves, fixed: Leaves, tensors: Sequence[Any]) -> jax.Array:
        """Scores [N, C]."""
        found = self.raw(learned, fixed, tensors)
        if self.output == "logits":
            found = jax.nn.sigmoid(found) if found.shape[1] == 1 else jax.nn.softmax(found, axis=1)
        if self.output == "values":
            return found
        return found[:, 1:] if self.outputs == 1 and found.shape[1] == 2 else found

    def losses(self, found: jax.Array, truth: jax.Array, loss: Loss) -> jax.Array:
        """Cross-entropy of each event, [N]; of a regression ``loss``, the mean over the targets."""
        if self.output == "values":
            return _of_residuals(found - truth, loss)
        if self.output == "logits":
            if found.shape[1] == 1:
                return jnp.logaddexp(0.0, found[:, 0]) - truth * found[:, 0]
            own = jnp.take_along_axis(found, truth[:, None], axis=1)[:, 0]
            return jax.nn.logsumexp(found, axis=1) - own
        if found.shape[1] == 1:
            found = jnp.concatenate([1 - found, found], axis=1)
        own = jnp.take_along_axis(found, truth[:, None], axis=1)[:, 0]
        return -jnp.log(jnp.maximum(own, _TINY))


def _of_residuals(residuals: jax.Array, loss: Loss) -> jax.Array:
    """`Loss.of`, for JAX to differentiate."""
    far = jnp.abs(residuals)
    if loss.name == "squared":
        far = residuals * residuals
    elif loss.name == "huber":
        far = jnp.where(far <= loss.delta, far * far, loss.delta * (2 * far - loss.delta))
    return far.mean(axis=1)


class Network:
    """Functions and their first parameters, tried out.

    Parameters
    ----------
    functions
        Return logits or probabilities, [N], [N, 1], [N, 2] for two classes or [N, C]; of a regression targets in
        standard units, [N, T], or [N] for one.
    params
        What ``init`` gave.
    task
        What is learned.
    inputs
        What ``apply`` asks for; see `inputs_of`.
    output
        What ``apply`` returns for classes; null tries it on random rows.
    where
        The user's file, for messages.

    Attributes
    ----------
    names
        Of all parameters, by their places in the nesting.
    leaves
        All parameters.
    form
        The rest.
    """

    def __init__(
        self,
        functions: Functions,
        params: Any,
        task: Task,
        *,
        inputs: tuple[str, ...],
        output: OutputKind | None,
        where: str,
    ) -> None:
        self.task = task
        self.where = where
        self.names, self.leaves, structure = _taken_apart(params, where)
        learned = tuple(one.dtype == jnp.float32 for one in self.leaves)
        if not any(learned):
            raise ModelError(f"{where}: init gave no float32 parameter, so there is nothing to learn")
        draws = KEY in inspect.signature(functions.apply).parameters
        kind = "values" if task.kind == "regression" else output or "logits"
        self.form = Form(functions, structure, learned, inputs, draws, task.outputs, kind)
        self._scaler = Scaler(task.groups)
        self._try_out()
        if output is None and task.kind != "regression" and self._gives_probabilities():
            self.form = Form(functions, structure, learned, inputs, draws, task.outputs, "probabilities")

    def prepare(self, inputs: Tensors) -> list[NDArray[Any]]:
        """What ``apply`` is given for raw input groups."""
        if self.form.inputs == (FLAT_INPUT,):
            return [self._scaler.flat(inputs)]
        arrays: dict[str, NDArray[Any]] = dict(self._scaler.tensors(inputs))
        arrays |= {f"{name}{MASK_SUFFIX}": mask for name, mask in self._scaler.masks(inputs).items()}
        return [np.ascontiguousarray(arrays[name]) for name in self.form.inputs]

    def apart(self, leaves: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Parameters that are learned, and the others."""
        pairs = list(zip(leaves, self.form.learned, strict=True))
        return [one for one, learned in pairs if learned], [one for one, learned in pairs if not learned]

    def together(self, learned: Sequence[Any], fixed: Sequence[Any]) -> list[Any]:
        """All parameters in the order of `names`."""
        ours, theirs = iter(learned), iter(fixed)
        return [next(ours if one else theirs) for one in self.form.learned]

    def _try_out(self) -> None:
        """Refuse a wrong shape, from an abstract run on some rows."""
        found = jax.eval_shape(self.form.raw, *self.apart(self.leaves), self._random_rows(), _key())
        binary = self.task.outputs == 1 and self.form.output != "values"
        wanted = {1, 2} if binary else {self.task.outputs}
        if len(found.shape) != 2 or found.shape[0] != _ROWS or found.shape[1] not in wanted:
            sizes = " or ".join(f"[N, {size}]" for size in sorted(wanted))
            shape = ", ".join("N" if size == _ROWS else str(size) for size in found.shape)
            task = self.task
            asked = f"{len(task.targets)} targets" if task.targets else f"{len(task.classes)} classes"
            raise ModelError(f"apply returns [{shape}] for {asked}; wants {sizes}")
        if found.dtype != jnp.float32:
            raise ModelError(f"apply returns {found.dtype}; wants float32")

    def _gives_probabilities(self) -> bool:
        found = np.asarray(jax.jit(self.form.raw)(*self.apart(self.leaves), self._random_rows()))
        # Open bounds: a last layer that starts at zero gives logits of exactly 0.
        inside = bool(((found > 0) & (found < 1)).all())
        return inside and (found.shape[1] == 1 or bool(np.abs(found.sum(axis=1) - 1).max() < 1e-4))

    def _random_rows(self) -> list[NDArray[Any]]:
        random = np.random.default_rng(0)
        shapes = {group.name: (_ROWS, *group.shape) for group in self.task.groups}
        return self.prepare({name: random.normal(0, 3, shape).astype(np.float32) for name, shape in shapes.items()})

    def export(self, leaves: Sequence[Any]) -> Core:
        """Parameters and ``apply`` as a graph; `NotCovered` where a primitive has no word there."""
        flat = self.form.inputs == (FLAT_INPUT,)
        shapes = core_inputs(self.task.groups, "flat" if flat else "groups")
        learned, fixed = self.apart(leaves)
        kinds = {name: "float32" if name in _tensors(self.task) else "bool" for name in self.form.inputs}
        low = Lowering(ALL_WORDS, where=self.where)
        asked = {name: (shapes[name], kinds[name]) for name in self.form.inputs}
        found = low.trace(lambda *tensors: self.form.scores(learned, fixed, tensors), asked)
        low.graph.node("Identity", [found.name], output="scores")
        ends = [value_info(name, np.dtype(kinds[name]), shapes[name]) for name in self.form.inputs]
        model = low.graph.model(ends, [value_info("scores", np.float32, [self.task.outputs])])
        return Core(
            model=model.SerializeToString(deterministic=True),
            layout="flat" if flat else "groups",
            missing="impute",
            output="scores",
            columns=tuple(range(self.task.outputs)),
        )


def _key() -> jax.Array:
    return jax.random.key(0)


def _tensors(task: Task) -> set[str]:
    return {FLAT_INPUT, *(group.name for group in task.groups)}


def _taken_apart(params: Any, where: str) -> tuple[list[str], Leaves, Any]:
    """Names, arrays and nesting of parameters; `ModelError` where one is no array of a type that can be kept."""
    found, structure = jax.tree_util.tree_flatten_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") or "params" for path, _ in found]
    for name, (_, one) in zip(names, found, strict=True):
        kind = str(getattr(one, "dtype", type(one).__name__))
        if kind not in ("float32", "int32", "bool", "uint32", "float", "int"):
            raise ModelError(f"{where}: parameter '{name}' is {kind}; wants an array of float32 (int32 is not learned)")
        if names.count(name) > 1:
            raise ModelError(f"{where}: two parameters are called '{name}'")
    return names, [jnp.array(one) for _, one in found], structure


def inputs_of(apply: Callable[..., Any], task: Task, where: str) -> tuple[str, ...]:
    """What ``apply`` asks for by name after its parameters; the flat view where it names no group."""
    known = core_inputs(task.groups, "groups")
    named = {group.name for group in task.groups}
    given = list(inspect.signature(apply).parameters.values())[1:]
    kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    asked = [
        one.name
        for one in given
        if one.kind in kinds and one.name != KEY and (one.default is one.empty or one.name in known)
    ]
    if named & set(asked):
        for name in asked:
            if name not in known:
                raise ModelError(f"{where}: apply asks for '{name}', which is no input{nearest(name, known)}")
        return tuple(asked)
    positional = [
        one for one in given if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) and one.name != KEY
    ]
    if not positional or len(asked) > 1:
        raise ModelError(
            f"{where}: apply takes {', '.join(one.name for one in given) or 'nothing'} after its parameters; write "
            f"apply(params, x) for the flat view, or name groups and masks: {', '.join(known)}"
        )
    return (FLAT_INPUT,)


def first_params(init: Callable[..., Any], key: jax.Array, task: Task, where: str) -> Any:
    """What ``init(key, idim)``, ``init(key, spec)`` or ``init(key)`` gives."""
    required = [
        one
        for one in inspect.signature(init).parameters.values()
        if one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    if not 1 <= len(required) <= 2:
        names = ", ".join(one.name for one in required)
        raise ModelError(f"{where}: init({names}) wants {len(required)} arguments; write init(key, idim)")
    if len(required) == 1:
        return init(key)
    return init(key, task.spec if required[1].name == "spec" else task.width)


def all_inputs(task: Task) -> tuple[str, ...]:
    """All groups, and the masks of the collections."""
    return tuple(core_inputs(task.groups, "groups"))
