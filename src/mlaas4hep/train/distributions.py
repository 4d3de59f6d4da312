"""Weighted distributions of a score: histograms with their uncertainties, and how far two of them are apart.

Used to hold the training part against the test part. Invariant: weights of one give the textbook's unweighted figures.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import DataError
from mlaas4hep.report.style import Histogram

Floats = NDArray[np.float64]


class KolmogorovSmirnov(msgspec.Struct, frozen=True):
    """Largest distance of two cumulative distributions, and how often chance alone gives a larger one."""

    distance: float
    p_value: float


def weighted_ks(
    one: NDArray[Any], other: NDArray[Any], one_weights: Floats, other_weights: Floats
) -> KolmogorovSmirnov:
    """Kolmogorov-Smirnov test of two weighted samples.

    Parameters
    ----------
    one, other
        Values [N], [M].
    one_weights, other_weights
        Their weights.

    Returns
    -------
    The distance, and the p-value as in ``scipy.stats.ks_2samp(method="asymp")`` with the effective number of events of
    each sample, (sum w)^2 / sum w^2, in the place of its size. It is a guide: weights that go with the score, and
    negative ones, are not covered by the theory.

    Raises
    ------
    DataError
        A sample without a positive sum of weights.
    """
    from scipy.stats import kstwo

    size_one, size_other = (effective_events(weights) for weights in (one_weights, other_weights))
    at = np.unique(np.concatenate([one, other]))
    distance = float(np.max(np.abs(_cumulative(one, one_weights, at) - _cumulative(other, other_weights, at))))
    size = max(1.0, np.round(size_one * size_other / (size_one + size_other)))
    return KolmogorovSmirnov(distance, float(kstwo.sf(distance, size)))


def effective_events(weights: Floats) -> float:
    """Number of equal weights with the same relative uncertainty: (sum w)^2 / sum w^2.

    Raises
    ------
    DataError
        The weights do not add up to a positive number.
    """
    total = float(np.sum(weights))
    if not total > 0:
        raise DataError(f"the weights of {len(weights)} events add up to {total:g}: no distribution")
    return total**2 / float(np.sum(weights**2))


def _cumulative(values: NDArray[Any], weights: Floats, at: NDArray[Any]) -> Floats:
    """Share of the weight at or below each point."""
    order = np.argsort(values, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(weights[order])])
    found: Floats = sums[np.searchsorted(values[order], at, side="right")] / sums[-1]
    return found


def shares(values: NDArray[Any], weights: Floats, edges: Floats, *, label: str) -> Histogram:
    """A histogram normalised to one over all events; empty where the weights do not add up to a positive number.

    Parameters
    ----------
    values, weights
        [N].
    edges
        [M + 1].
    label
        For the legend.
    """
    sums, _ = np.histogram(values, edges, weights=weights)
    squares, _ = np.histogram(values, edges, weights=weights**2)
    total = float(np.sum(weights))
    if not total > 0:
        return Histogram(label, edges, np.zeros(len(edges) - 1), np.zeros(len(edges) - 1))
    return Histogram(label, edges, sums / total, np.sqrt(squares) / total)
