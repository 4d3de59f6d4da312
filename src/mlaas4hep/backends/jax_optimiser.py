"""AdamW, Adam and stochastic gradient descent in JAX, with schedules and clipping: functions of arrays and a count.

Used by `jax_learner`. Invariant: everything that the next step depends on is in what `start` and `update` give, so that
a training that was interrupted goes on by arrays alone.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
import msgspec

from mlaas4hep.backends.dials import Dials, out_of_range

OptimiserName = Literal["adamw", "adam", "sgd"]
Schedule = Literal["constant", "cosine", "exponential"]

_BETA, _BETA_SQUARE, _EPSILON = 0.9, 0.999, 1e-8
# What a cosine schedule ends at: with none of the rate left nothing would be learned any more.
_LEFT = 0.01


class Optimiser(msgspec.Struct, frozen=True):
    """One optimiser and its settings.

    Parameters
    ----------
    optimiser, learning_rate, weight_decay, momentum, schedule, warmup_steps, decay_steps, clip_norm
        As in `OptimiserDials`.
    """

    optimiser: OptimiserName
    learning_rate: float
    weight_decay: float
    momentum: float
    schedule: Schedule
    warmup_steps: int
    decay_steps: int
    clip_norm: float | None

    def start(self, values: jax.Array) -> dict[str, jax.Array]:
        """Moments before the first step."""
        names = ("velocity",) if self.optimiser == "sgd" else ("mean", "square")
        return {name: jnp.zeros_like(values) for name in names}

    def rate(self, step: jax.Array) -> jax.Array:
        """Learning rate of a step, counted from 1."""
        done = (step - 1).astype(jnp.float32)
        rate = jnp.float32(self.learning_rate)
        if self.warmup_steps:
            rate = rate * jnp.minimum(1.0, (done + 1) / self.warmup_steps)
        passed = done / max(self.decay_steps, 1)
        if self.schedule == "cosine":
            return rate * (_LEFT + (1 - _LEFT) * (1 + jnp.cos(math.pi * jnp.minimum(passed, 1.0))) / 2)
        return rate * jnp.exp2(-passed) if self.schedule == "exponential" else rate

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


class OptimiserDials(Dials, frozen=True, forbid_unknown_fields=True):
    """Dials of how a function is learned, shared by all models of the backend.

    Parameters
    ----------
    learning_rate, weight_decay
        Of the optimiser.
    optimiser
        `adamw`, `adam` (whose weight decay is a part of the loss) or `sgd`.
    momentum
        Of `sgd`.
    schedule
        How the learning rate falls with the steps: not at all, along a cosine down to 1 % within `decay_steps`, or by a
        factor of two each `decay_steps`.
    decay_steps
        Of the schedule.
    warmup_steps
        In so many steps the learning rate rises from zero at first.
    clip_norm
        Gradients longer than this are shortened to it, all together.
    averaging
        The scores are those of the weights averaged over the steps, of which the past keeps this share at each step;
        0 takes the last weights.
    loss
        Of a regression; classes are learned by cross-entropy.
    huber_delta
        Where Huber's loss turns from squared to absolute, in units of the target's spread.
    device
        `auto` takes a GPU where JAX has one, else the CPU. Nothing was measured on a GPU yet.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    optimiser: OptimiserName = "adamw"
    momentum: float = 0.9
    schedule: Schedule = "constant"
    decay_steps: int = 0
    warmup_steps: int = 0
    clip_norm: float | None = None
    averaging: float = 0.998
    loss: Literal["squared", "huber", "absolute"] = "squared"
    huber_delta: float = 0.3
    device: Literal["auto", "cpu", "gpu"] = "auto"

    def problems(self) -> list[str]:
        """What is out of range."""
        problems = out_of_range(
            self,
            above_zero=("learning_rate", "huber_delta"),
            at_least_zero=("weight_decay", "decay_steps", "warmup_steps"),
            between={"averaging": (0, 0.99999), "momentum": (0, 0.9999)},
        )
        if self.clip_norm is not None:
            problems += out_of_range(self, above_zero=("clip_norm",))
        if (self.schedule == "constant") != (self.decay_steps == 0):
            words = "wants decay_steps above 0" if self.decay_steps == 0 else "takes no decay_steps"
            problems.append(f"schedule: {self.schedule!r} {words}")
        return problems

    def build(self) -> Optimiser:
        """The optimiser that they describe."""
        return Optimiser(**{name: getattr(self, name) for name in Optimiser.__struct_fields__})
