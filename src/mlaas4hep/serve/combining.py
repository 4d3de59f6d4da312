"""Scores of several models to one.

Invariant: each element of the result is made of the same elements of the members, in their order, in float64, and
rounded once. So a row has the same answer alone and among others (law 11), and the mean is that of a bundle of folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = Sequence[NDArray[Any]]
Doubles = NDArray[np.float64]


def mean_of(scores: Scores, weights: Sequence[float] | None = None) -> Doubles:
    """The mean; with weights, of which the sum is not 0, the weighted one.

    Examples
    --------
    >>> mean_of([np.float32([[0.5]]), np.float32([[1.0]])], weights=(3, 1)).tolist()
    [[0.625]]
    """
    if weights is not None:
        return sum_of(scores, weights) / sum(weights)
    total: Doubles = scores[0].astype(np.float64)
    for one in scores[1:]:
        total = total + one
    return total / len(scores)


def sum_of(scores: Scores, weights: Sequence[float], intercept: float = 0.0) -> Doubles:
    """``weights[0] * scores[0] + weights[1] * scores[1] + ... + intercept``."""
    total: Doubles = scores[0].astype(np.float64) * weights[0]
    for one, weight in zip(scores[1:], weights[1:], strict=True):
        total = total + one.astype(np.float64) * weight
    return total + intercept


def votes_of(scores: Scores, weights: Sequence[float] | None = None, threshold: float = 0.5) -> Doubles:
    """The share of the votes that each class gets, NaN in rows where a member has NaN.

    A member of one score votes for the signal where it is at least ``threshold``; of several scores, for the highest,
    and for the first of equal ones.

    Examples
    --------
    >>> votes_of([np.float32([[0.4]]), np.float32([[0.6]]), np.float32([[0.5]])]).tolist()
    [[0.6666666666666666]]
    """
    classes = scores[0].shape[-1] if scores[0].ndim else 1
    votes = []
    for one in scores:
        if classes == 1:
            voted = (one >= threshold).astype(np.float64)
        else:
            voted = (np.arange(classes) == one.argmax(axis=-1)[..., None]).astype(np.float64)
        votes.append(np.where(np.isnan(one).any(axis=-1, keepdims=True), np.nan, voted))
    return mean_of(votes, weights)
