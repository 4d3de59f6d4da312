"""Functions of the JAX backend: `mlp` on the flat view, `deepsets` on collections, each as `init` and `apply`.

They are what a user's own file gives, too. Invariant: empty slots of a collection never reach the logits, so that a
longer padding changes no score.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlaas4hep.backends.jax_optimiser import OptimiserDials
from mlaas4hep.backends.network_sizes import Activation, DeepSetsSizes, MlpSizes
from mlaas4hep.backends.protocol import Task
from mlaas4hep.graph.core import MASK_SUFFIX

Layers = list[dict[str, Any]]

_ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
}
# Below every value that an object can have, yet finite: an infinity would turn into NaN where it meets a zero.
_FLOOR = -1e9


class MlpDials(MlpSizes, OptimiserDials, frozen=True, forbid_unknown_fields=True):
    """Dials of `mlp`."""


class DeepSetsDials(DeepSetsSizes, OptimiserDials, frozen=True, forbid_unknown_fields=True):
    """Dials of `deepsets`."""


@dataclass(frozen=True)
class Mlp:
    """A multi-layer perceptron that returns logits."""

    width: int
    outputs: int
    dials: MlpDials

    def init(self, key: jax.Array) -> Layers:
        """First weights."""
        return _init_layers(_random(key), [self.width, *self.dials.hidden, self.outputs])

    def apply(self, params: Layers, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Logits [N, outputs]; a key makes it drop values."""
        return _through(params, x, self.dials.activation, self.dials.dropout, key)


@dataclass(frozen=True)
class DeepSets:
    """Objects one by one, pooled by collection, then the event: the order of the objects plays no role."""

    # Name and number of variables of each group.
    event: tuple[tuple[str, int], ...]
    collections: tuple[tuple[str, int], ...]
    outputs: int
    dials: DeepSetsDials

    @classmethod
    def of(cls, task: Task, dials: DeepSetsDials) -> DeepSets:
        """For the groups of a task."""
        sizes = [(group.name, len(group.features), group.length is None) for group in task.groups]
        flat = tuple((name, size) for name, size, is_event in sizes if is_event)
        lists = tuple((name, size) for name, size, is_event in sizes if not is_event)
        return cls(flat, lists, task.outputs, dials)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """First weights."""
        dials = self.dials
        random = _random(key)
        objects = {
            name: _init_layers(random, [size, *dials.hidden_object, dials.latent]) for name, size in self.collections
        }
        pooled = 2 * dials.latent * len(self.collections) + sum(size for _, size in self.event)
        return {"event": _init_layers(random, [pooled, *dials.hidden_event, self.outputs]), "objects": objects}

    def apply(self, params: dict[str, Any], *, key: jax.Array | None = None, **inputs: jax.Array) -> jax.Array:
        """Logits [N, outputs] of scaled groups, [N, F] or [N, K, F], with ``<group>_mask`` [N, K] for collections."""
        parts = [inputs[name] for name, _ in self.event]
        for name, _ in self.collections:
            each = _through(params["objects"][name], inputs[name], self.dials.activation)
            parts += _pool(each, inputs[name + MASK_SUFFIX])
        joined = jnp.concatenate(parts, axis=1)
        return _through(params["event"], joined, self.dials.activation, self.dials.dropout, key)


def _pool(values: jax.Array, mask: jax.Array) -> list[jax.Array]:
    """Mean and maximum [N, L] of the values [N, K, L] of the objects that exist; zeros for an event without any."""
    there = mask[..., None]
    number = there.astype(values.dtype).sum(axis=1)
    mean = jnp.where(there, values, 0.0).sum(axis=1) / jnp.maximum(number, 1.0)
    highest = jnp.where(there, values, _FLOOR).max(axis=1)
    return [mean, jnp.where(number > 0, highest, 0.0)]


def _init_layers(random: np.random.Generator, sizes: Sequence[int]) -> Layers:
    """Weights and biases, uniform within one over the square root of a layer's inputs, as PyTorch has it."""
    layers = []
    for size, following in itertools.pairwise(sizes):
        bound = size**-0.5
        weights = random.uniform(-bound, bound, (size, following)).astype(np.float32)
        biases = random.uniform(-bound, bound, following).astype(np.float32)
        layers.append({"bias": biases, "weight": weights})
    return layers


def _random(key: jax.Array) -> np.random.Generator:
    """numpy's generator at a key: JAX would compile for a second before the first weights are there."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())


def _through(
    layers: Layers, x: jax.Array, activation: Activation, dropout: float = 0.0, key: jax.Array | None = None
) -> jax.Array:
    """Layer after layer, with an activation and, for a key, dropout between them."""
    for place, layer in enumerate(layers):
        if place:
            x = _ACTIVATIONS[activation](x)
            if key is not None and dropout > 0:
                kept = jax.random.bernoulli(jax.random.fold_in(key, place), 1 - dropout, x.shape)
                x = jnp.where(kept, x / (1 - dropout), 0.0)
        x = x @ layer["weight"] + layer["bias"]
    return x
