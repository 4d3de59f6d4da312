"""Weights averaged over the steps of a training: what a network shows, while another one goes on learning.

A step on a small batch throws the weights about; their average lies in the middle, scores better on small samples and
depends less on the seed (Polyak and Juditsky 1992, in its exponential form). Invariant: a function of the weights
alone; no random numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.backends.protocol import Arrays


class Average:
    """An exponential average over steps.

    Parameters
    ----------
    share
        What the past keeps at each step; 0 is no average at all. The first steps keep less, so that the start of the
        training is soon forgotten.

    Attributes
    ----------
    steps
        Taken so far.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.steps = 0

    def next_share(self) -> float:
        """Count a step, and say what the past keeps at it."""
        self.steps += 1
        return min(self.share, (1 + self.steps) / (10 + self.steps))

    def update(self, average: Arrays, latest: Arrays) -> None:
        """Bring arrays by name one step closer to the latest, in place; integers are copied."""
        kept = self.next_share()
        for name, values in average.items():
            _blend(values, latest[name], kept)


def _blend(average: NDArray[Any], latest: NDArray[Any], kept: float) -> None:
    if not np.issubdtype(average.dtype, np.floating):
        average[...] = latest
        return
    average *= kept
    average += (1 - kept) * latest
