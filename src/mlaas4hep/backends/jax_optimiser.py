"""AdamW, Adam and stochastic gradient descent in JAX, with schedules and clipping: functions of arrays and a count.

Used by `jax_learner`. Invariant: everything that the next step depends on is in what `start` and `update` give, so that
a training that was interrupted goes on by arrays alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import msgspec

from mlaas4hep.backends.learning import LearningDials, OptimiserName, Schedule, ScheduleName

_BETA, _BETA_SQUARE, _EPSILON = 0.9, 0.999, 1e-8


class Optimiser(msgspec.Struct, frozen=True):
    """One optimiser and its settings.

    Parameters
    ----------
    optimiser, learning_rate, weight_decay, momentum, schedule, warmup_steps, decay_steps, clip_norm
        As in `mlaas4hep.backends.learning.LearningDials`.
    """

    optimiser: OptimiserName
    learning_rate: float
    weight_decay: float
    momentum: float
    schedule: ScheduleName
    warmup_steps: int
    decay_steps: int
    clip_norm: float | None

    def start(self, values: jax.Array) -> dict[str, jax.Array]:
        """Moments before the first step."""
        names = ("velocity",) if self.optimiser == "sgd" else ("mean", "square")
        return {name: jnp.zeros_like(values) for name in names}

    def rate(self, step: jax.Array) -> jax.Array:
        """Learning rate of a step, counted from 1."""
        rates = Schedule(self.schedule, self.learning_rate, self.warmup_steps, self.decay_steps)
        return jnp.float32(rates.rate((step - 1).astype(jnp.float32), jnp))

    def update(
        self, values: jax.Array, slopes: jax.Array, moments: dict[str, jax.Array], step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """All parameters [P] and their moments after a step, counted from 1."""
        if self.clip_norm is not None:
            length = jnp.sqrt(jnp.sum(slopes * slopes))
            slopes = slopes * jnp.minimum(1.0, self.clip_norm / (length + 1e-12))
        rate = self.rate(step)
        if self.optimiser == "adamw":
            values = values * (1 - rate * self.weight_decay)
        elif self.weight_decay:
            slopes = slopes + self.weight_decay * values
        if self.optimiser == "sgd":
            velocity = self.momentum * moments["velocity"] + slopes
            return values - rate * velocity, {"velocity": velocity}
        count = step.astype(jnp.float32)
        mean = _BETA * moments["mean"] + (1 - _BETA) * slopes
        square = _BETA_SQUARE * moments["square"] + (1 - _BETA_SQUARE) * slopes * slopes
        spread = jnp.sqrt(square) / jnp.sqrt(1 - _BETA_SQUARE**count) + _EPSILON
        return values - rate / (1 - _BETA**count) * mean / spread, {"mean": mean, "square": square}


class OptimiserDials(LearningDials, frozen=True, forbid_unknown_fields=True):
    """Dials of how a function is learned, shared by all models of the backend."""

    def build(self) -> Optimiser:
        """The optimiser that they describe."""
        return Optimiser(**{name: getattr(self, name) for name in Optimiser.__struct_fields__})
