"""AdamW, Adam and stochastic gradient descent of torch, with the schedules of `learning` and clipping of gradients.

Used by `mlaas4hep.backends.torch`. Invariant: what the next step hangs on is torch's own state and the number of
steps; the learning rate is computed from that number, never kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from numpy.typing import NDArray

from mlaas4hep.backends.learning import LearningDials
from mlaas4hep.backends.protocol import Arrays
from mlaas4hep.backends.torch_checkpoint import optimiser_arrays, recover_optimiser
from mlaas4hep.backends.torch_device import Precision


class TorchDials(LearningDials, frozen=True, forbid_unknown_fields=True):
    """Dials of how a network of torch is learned, shared by all models of the backend.

    Parameters
    ----------
    precision
        Of a step: `bf16` is mixed precision, bfloat16 where torch holds it for safe and float32 elsewhere, on CUDA GPUs
        that have it. Scores are always those of float32.
    """

    precision: Precision = "float32"


class Optimiser:
    """An optimiser by name with its schedule.

    Parameters
    ----------
    parameters
        Of the network, where they will stay.
    dials
        Of the learning.

    Attributes
    ----------
    steps
        Taken so far.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], dials: LearningDials) -> None:
        self.steps = 0
        self._parameters = list(parameters)
        self._rates = dials.rates()
        self._clip_norm = dials.clip_norm
        self._optimiser = _by_name(self._parameters, dials)

    def clear(self) -> None:
        """Forget the gradients of the last step."""
        self._optimiser.zero_grad(set_to_none=True)

    def step(self) -> None:
        """One step along the gradients."""
        if self._clip_norm is not None:
            shorten(self._parameters, self._clip_norm)
        if not self._rates.constant:
            for group in self._optimiser.param_groups:
                group["lr"] = float(self._rates.rate(self.steps))
        self._optimiser.step()
        self.steps += 1

    def checkpoint(self) -> dict[str, NDArray[Any]]:
        """Moments and counts."""
        return optimiser_arrays(self._optimiser)

    def recover(self, arrays: Arrays, *, steps: int) -> None:
        """Back to what `checkpoint` gave after so many steps."""
        recover_optimiser(self._optimiser, arrays)
        self.steps = steps


def _by_name(parameters: list[torch.nn.Parameter], dials: LearningDials) -> torch.optim.Optimizer:
    shared: dict[str, Any] = {"lr": dials.learning_rate, "weight_decay": dials.weight_decay}
    if dials.optimiser == "sgd":
        return torch.optim.SGD(parameters, momentum=dials.momentum, **shared)
    return (torch.optim.AdamW if dials.optimiser == "adamw" else torch.optim.Adam)(parameters, **shared)


def shorten(parameters: Iterable[torch.nn.Parameter], most: float) -> None:
    """Make all gradients together no longer than ``most``, in place."""
    slopes = [one.grad for one in parameters if one.grad is not None]
    if not slopes:
        return
    length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(one) for one in slopes]))
    factor = (most / (length + 1e-12)).clamp(max=1.0)
    for one in slopes:
        one.mul_(factor)
