"""What a regression makes small: squared error, Huber's, or the absolute one, of targets in standard units.

Squared error, the default, learns the mean of what the inputs leave open; the absolute one learns the median and cares
little for tails; Huber's is squared near zero and absolute beyond. Invariant: the loss of an event is the mean over its
targets, so that figures of one target and of several can be laid side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.backends.dials import Dials
from mlaas4hep.errors import ModelError

LossName = Literal["squared", "huber", "absolute"]


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss of a regression.

    Parameters
    ----------
    name
        ``squared``: r^2; ``absolute``: \\|r\\|; ``huber``: r^2 up to delta, beyond delta (2 \\|r\\| - delta).
    delta
        Where Huber's loss turns, in units of the spread of the target.

    Examples
    --------
    >>> Loss("huber", 0.5).of(np.array([[0.25], [2.0]])).tolist()
    [0.0625, 1.75]
    """

    name: LossName = "squared"
    delta: float = 0.3

    def of(self, residuals: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Loss of each event, [N], by its residuals in standard units, [N, T]."""
        far = np.abs(residuals.astype(np.float64))
        if self.name == "absolute":
            found = far
        elif self.name == "huber":
            found = np.where(far <= self.delta, far**2, self.delta * (2 * far - self.delta))
        else:
            found = far**2
        each: NDArray[np.float64] = found.mean(axis=1)
        return each


SQUARED = Loss()


def loss_of(dials: Dials) -> Loss:
    """The loss that dials ask for by ``loss`` and ``huber_delta``; squared error where they have no such dials."""
    given = msgspec.structs.asdict(dials)
    return Loss(given.get("loss", SQUARED.name), given.get("huber_delta", SQUARED.delta))


def refuse_loss(dials: Dials, *, kind: str, title: str) -> None:
    """`ModelError` where a loss of regressions is asked for and classes are learned."""
    name = loss_of(dials).name
    if kind != "regression" and name != SQUARED.name:
        raise ModelError(f"model {title}: loss '{name}' is one of regressions; classes are learned by cross-entropy")
