"""How the networks of several backends learn: optimiser, learning rate by steps, clipping, averaging, device.

The dials have one meaning whoever learns, and the learning rate of a step comes from one formula. Invariant: the rate
hangs on the number of the step alone, so that a training that was interrupted goes on with the same one.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec
import numpy as np

from mlaas4hep.backends.devices import device_problems
from mlaas4hep.backends.dials import Dials, out_of_range
from mlaas4hep.backends.losses import LossName

OptimiserName = Literal["adamw", "adam", "sgd"]
ScheduleName = Literal["constant", "cosine", "exponential"]

# What a cosine schedule ends at: with none of the rate left nothing would be learned any more.
_LEFT = 0.01


class Schedule(msgspec.Struct, frozen=True):
    """Learning rate by steps.

    Parameters
    ----------
    schedule, learning_rate, warmup_steps, decay_steps
        As in `LearningDials`.
    """

    schedule: ScheduleName
    learning_rate: float
    warmup_steps: int
    decay_steps: int

    @property
    def constant(self) -> bool:
        """Whether all steps have one rate."""
        return self.schedule == "constant" and not self.warmup_steps

    def rate(self, done: Any, numbers: Any = np) -> Any:
        """Learning rate after so many steps, for the next one.

        Parameters
        ----------
        done
            Steps taken: a number, or an array of another library.
        numbers
            Where ``minimum``, ``cos`` and ``exp2`` come from: numpy, or one like it.

        Examples
        --------
        >>> cosine = Schedule("cosine", 0.1, warmup_steps=2, decay_steps=10)
        >>> [round(float(cosine.rate(done)), 4) for done in (0, 2, 5, 10, 99)]
        [0.05, 0.0905, 0.0505, 0.001, 0.001]
        """
        rate = self.learning_rate
        if self.warmup_steps:
            rate = rate * numbers.minimum(1.0, (done + 1) / self.warmup_steps)
        passed = done / max(self.decay_steps, 1)
        if self.schedule == "cosine":
            return rate * (_LEFT + (1 - _LEFT) * (1 + numbers.cos(math.pi * numbers.minimum(passed, 1.0))) / 2)
        return rate * numbers.exp2(-passed) if self.schedule == "exponential" else rate


class LearningDials(Dials, frozen=True, forbid_unknown_fields=True):
    """Dials of how a network is learned, shared by all networks of a backend.

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
        `auto` takes a GPU where the framework has one, else the CPU; `cpu`, `gpu`, `cuda`, `cuda:1` or `mps` are taken
        or refused.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    optimiser: OptimiserName = "adamw"
    momentum: float = 0.9
    schedule: ScheduleName = "constant"
    decay_steps: int = 0
    warmup_steps: int = 0
    clip_norm: float | None = None
    averaging: float = 0.998
    loss: LossName = "squared"
    huber_delta: float = 0.3
    device: str = "auto"

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
        return problems + device_problems(self.device)

    def rates(self) -> Schedule:
        """The learning rate that they describe."""
        return Schedule(self.schedule, self.learning_rate, self.warmup_steps, self.decay_steps)
