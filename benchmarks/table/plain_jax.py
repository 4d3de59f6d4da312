"""Plain networks of JAX, with AdamW written out: `mlp` and Deep Sets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from benchmarks.table.folds import FLAT, Fold, Inputs
from benchmarks.table.plain_loop import Arrays
from mlaas4hep.backends.jax_models import DeepSetsDials, MlpDials

Layers = list[Any]


class JaxPeer:
    """`Network` of JAX."""

    def __init__(self, model: str, fold: Fold, seed: int, batch_size: int) -> None:
        self.dials: Any = MlpDials() if model == "mlp" else DeepSetsDials()
        self.averaging: float = self.dials.averaging
        self.names = list(fold.sizes)
        self.collections = [name for name in self.names if f"{name}_mask" in fold.train.inputs]
        self.flat = model == "mlp"
        self.batch_size = batch_size
        random = np.random.default_rng(seed)
        params = self._first(random, fold)
        self.tree = jax.tree.structure(params)
        zeros = jax.tree.map(np.zeros_like, params)
        self.state: Any = (params, zeros, zeros, 0.0)
        key = jax.random.key(seed)
        self._updated = jax.jit(lambda *given: self._adamw(key, *given))
        self._probabilities = jax.jit(self._scores)

    def _first(self, random: np.random.Generator, fold: Fold) -> Any:
        if self.flat:
            return _layers(random, [fold.train.inputs[FLAT].shape[1], *self.dials.hidden, fold.outputs])
        each = [self.dials.hidden_object, self.dials.latent]
        objects = [_layers(random, [fold.sizes[name], *each[0], each[1]]) for name in self.collections]
        event = sum(size for name, size in fold.sizes.items() if name not in self.collections)
        pooled = event + 2 * self.dials.latent * len(objects)
        return objects, _layers(random, [pooled, *self.dials.hidden_event, fold.outputs])

    def _logits(self, params: Any, inputs: Any, key: Any) -> Any:
        if self.flat:
            return self._through(params, inputs[FLAT], key)
        objects, last = params
        parts = [inputs[name] for name in self.names if name not in self.collections]
        for name, layers in zip(self.collections, objects, strict=True):
            mask = inputs[f"{name}_mask"][..., None]
            # A rectifier stands last, so that nothing is below what an empty slot is set to.
            values = jnp.maximum(self._through(layers, inputs[name], None), 0) * mask
            parts += [values.sum(axis=1) / jnp.maximum(mask.sum(axis=1), 1), values.max(axis=1)]
        return self._through(last, jnp.concatenate(parts, axis=1), key)

    def _through(self, layers: Layers, x: Any, key: Any) -> Any:
        for place, (weight, bias) in enumerate(layers):
            if place:
                x = jnp.maximum(x, 0)
                if key is not None:
                    kept = jax.random.bernoulli(jax.random.fold_in(key, place), 1 - self.dials.dropout, x.shape)
                    x = kept * x / (1 - self.dials.dropout)
            x = x @ weight + bias
        return x

    def _adamw(self, key: Any, state: Any, inputs: Any, labels: Any, shares: Any) -> Any:
        params, first, second, count = state

        def loss_of(params: Any) -> Any:
            return jnp.sum(shares * _entropies(self._logits(params, inputs, jax.random.fold_in(key, count)), labels))

        slopes = jax.grad(loss_of)(params)
        count += 1
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, slopes)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, slopes)

        def moved(p: Any, m: Any, v: Any) -> Any:
            way = m / (1 - 0.9**count) / (jnp.sqrt(v / (1 - 0.999**count)) + 1e-8)
            return p * (1 - self.dials.learning_rate * self.dials.weight_decay) - self.dials.learning_rate * way

        return jax.tree.map(moved, params, first, second), first, second, count

    def _scores(self, params: Any, inputs: Any) -> Any:
        logits = self._logits(params, inputs, None)
        return jax.nn.sigmoid(logits) if logits.shape[1] == 1 else jax.nn.softmax(logits, axis=1)

    def step(self, inputs: Inputs, labels: NDArray[np.int64], shares: NDArray[np.float32]) -> None:
        """Always as many rows, so that it is compiled once: those that are too many have no share."""
        given = self._given(inputs)
        rows = np.resize(np.arange(len(labels)), self.batch_size)
        full = np.zeros(self.batch_size, np.float32)
        full[: len(labels)] = shares
        self.state = self._updated(self.state, {k: v[rows] for k, v in given.items()}, labels[rows], full)

    def weights(self) -> Arrays:
        """All parameters."""
        return [np.array(one) for one in jax.tree.leaves(self.state[0])]

    def scores(self, weights: Arrays, inputs: Inputs) -> NDArray[Any]:
        """By given parameters."""
        return np.asarray(self._probabilities(jax.tree.unflatten(self.tree, weights), self._given(inputs)))

    def _given(self, inputs: Inputs) -> dict[str, NDArray[Any]]:
        """What the network looks at: the flat view or the groups."""
        return {name: one for name, one in inputs.items() if (name == FLAT) == self.flat}


def _layers(random: np.random.Generator, sizes: Sequence[int]) -> Layers:
    return [
        tuple(random.uniform(-(size**-0.5), size**-0.5, shape).astype(np.float32) for shape in ((size, after), after))
        for size, after in itertools.pairwise(sizes)
    ]


def _entropies(logits: Any, labels: Any) -> Any:
    if logits.shape[1] == 1:
        return jnp.logaddexp(0, logits[:, 0]) - labels * logits[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - logits[jnp.arange(len(labels)), labels]
