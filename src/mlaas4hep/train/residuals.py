"""Weighted figures of a regression: how far predictions are from the truth, and how well that is known.

A residual is predicted minus true. Every figure comes with the pull of each event on it (the infinitesimal jackknife),
so that uncertainties need no random numbers and two models are compared event by event. Invariant: nothing depends on
the order of the events but the last rounding of a sum.

Negative weights are taken as they are, as measures with a sign.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import DataError

Floats = NDArray[np.float64]
LOW, HIGH = 0.16, 0.84
MAX_BINS, MIN_EVENTS = 12, 40


class TargetFigures(msgspec.Struct, frozen=True):
    """Figures of one target in its own units, each with its standard uncertainty.

    Parameters
    ----------
    bias
        Mean residual.
    resolution
        Half the width of the central 68 % of the residuals: the core, which tails do not move.
    rmse, mae
        Root of the mean squared residual, and mean absolute residual.
    r2
        Share of the variance of the target that the predictions account for.
    spread
        Standard deviation of the target itself: what a constant prediction leaves.
    """

    bias: float
    bias_err: float
    resolution: float
    resolution_err: float
    rmse: float
    rmse_err: float
    mae: float
    mae_err: float
    r2: float
    r2_err: float
    spread: float


class TargetBin(msgspec.Struct, frozen=True):
    """Bias and resolution where the true value is from ``low`` to ``high``; ``mean`` is the mean true value there."""

    low: float
    high: float
    mean: float
    events: int
    bias: float
    bias_err: float
    resolution: float
    resolution_err: float


Pulls = Mapping[str, tuple[float, Floats]]


def target_figures(predicted: NDArray[np.floating], true: NDArray[np.floating], weights: Floats) -> TargetFigures:
    """Figures of one target.

    Parameters
    ----------
    predicted, true
        [N].
    weights
        [N], signed.

    Raises
    ------
    DataError
        There are no events, or their weights do not add up to a positive number.
    """
    found = figure_pulls(predicted, true, weights)
    told = {name: value for name, (value, _) in found.items()}
    errors = {f"{name}_err": float(np.sqrt(np.sum(pull**2))) for name, (_, pull) in found.items()}
    values = true.astype(np.float64)
    return TargetFigures(**told, **errors, spread=float(np.sqrt(_variance(values, weights / weights.sum()))))


def figure_pulls(predicted: NDArray[np.floating], true: NDArray[np.floating], weights: Floats) -> Pulls:
    """By name the figure, and by how much each event pulls it, [N]: the squares add up to its variance."""
    values = true.astype(np.float64)
    residuals = predicted.astype(np.float64) - values
    shares = _shares(residuals, weights)
    bias = float(np.sum(shares * residuals))
    mae = float(np.sum(shares * np.abs(residuals)))
    square = float(np.sum(shares * residuals**2))
    rmse = float(np.sqrt(max(square, 0.0)))
    of_square = residuals**2 - square
    resolution, of_resolution = _resolution(residuals, shares)
    r2, of_r2 = _explained(values, shares, square, of_square)
    return {
        "bias": (bias, shares * (residuals - bias)),
        "resolution": (resolution, shares * of_resolution),
        "rmse": (rmse, shares * of_square / (2 * rmse) if rmse > 0 else np.zeros_like(shares)),
        "mae": (mae, shares * (np.abs(residuals) - mae)),
        "r2": (r2, shares * of_r2),
    }


def mean_explained(
    predicted: NDArray[np.floating], true: NDArray[np.floating], weights: Floats
) -> tuple[float, Floats]:
    """R2, the mean over the targets of [N, T], and by how much each event pulls it, [N]."""
    found = [figure_pulls(one, other, weights)["r2"] for one, other in zip(predicted.T, true.T, strict=True)]
    return float(np.mean([value for value, _ in found])), np.mean([pull for _, pull in found], axis=0)


def target_bins(predicted: NDArray[np.floating], true: NDArray[np.floating], weights: Floats) -> tuple[TargetBin, ...]:
    """Bias and resolution in bins of the true value that hold about the same number of events each.

    A bin whose weights do not add up to a positive number is left out; so are all, where there are too few events.
    """
    values = true.astype(np.float64)
    number = min(MAX_BINS, len(values) // MIN_EVENTS)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, number + 1))) if number else np.zeros(0)
    found = []
    for place in range(len(edges) - 1):
        last = place == len(edges) - 2
        own = (values >= edges[place]) & ((values <= edges[-1]) if last else (values < edges[place + 1]))
        if own.any() and weights[own].sum() > 0:
            found.append(_bin(edges[place], edges[place + 1], predicted[own], values[own], weights[own]))
    return tuple(found)


def _bin(low: float, high: float, predicted: NDArray[np.floating], true: Floats, weights: Floats) -> TargetBin:
    residuals = predicted.astype(np.float64) - true
    shares = _shares(residuals, weights)
    bias = float(np.sum(shares * residuals))
    resolution, of_resolution = _resolution(residuals, shares)
    return TargetBin(
        low=float(low),
        high=float(high),
        mean=float(np.sum(shares * true)),
        events=len(true),
        bias=bias,
        bias_err=float(np.sqrt(np.sum((shares * (residuals - bias)) ** 2))),
        resolution=resolution,
        resolution_err=float(np.sqrt(np.sum((shares * of_resolution) ** 2))),
    )


def _shares(residuals: Floats, weights: Floats) -> Floats:
    total = float(weights.sum())
    if not len(residuals) or not total > 0:
        raise DataError(f"the weights of {len(residuals)} events sum to {total:g}: no residuals to tell of")
    if not np.isfinite(residuals).all():
        raise DataError(f"{int((~np.isfinite(residuals)).sum())} of {len(residuals)} residuals are not finite")
    return weights / total


def _variance(values: Floats, shares: Floats) -> float:
    mean = np.sum(shares * values)
    return max(float(np.sum(shares * (values - mean) ** 2)), 0.0)


def _explained(values: Floats, shares: Floats, square: float, of_square: Floats) -> tuple[float, Floats]:
    """R2 and the influence of each event; 0 where all true values are the same."""
    variance = _variance(values, shares)
    if not variance > 0:
        return 0.0, np.zeros_like(values)
    of_variance = (values - np.sum(shares * values)) ** 2 - variance
    return 1 - square / variance, (square / variance * of_variance - of_square) / variance


def _resolution(residuals: Floats, shares: Floats) -> tuple[float, Floats]:
    """Half the central width, and the influence of each event."""
    order = np.argsort(residuals, kind="stable")
    rising = residuals[order]
    # Negative weights let the sum turn back: a quantile is where it is passed for the first time.
    below = np.maximum.accumulate(np.cumsum(shares[order]))
    (low, of_low), (high, of_high) = (_quantile(residuals, shares, rising, below, rank) for rank in (LOW, HIGH))
    return (high - low) / 2, (of_high - of_low) / 2


def _quantile(residuals: Floats, shares: Floats, rising: Floats, below: Floats, rank: float) -> tuple[float, Floats]:
    """A quantile, and the influence of each event: its side over the density there.

    The density is that between the quantiles one standard uncertainty of the rank away (Woodruff, J. Am. Stat. Assoc.
    47, 1952).
    """

    def value(at: float) -> float:
        return float(rising[min(int(np.searchsorted(below, at)), len(rising) - 1)])

    found = value(rank)
    side: Floats = rank - (residuals <= found).astype(np.float64)
    width = max(float(np.sqrt(np.sum((shares * side) ** 2))), 1e-6)
    low, high = max(rank - width, 0.0), min(rank + width, 1.0)
    sparsity = (value(high) - value(low)) / (high - low)
    return found, side * sparsity
