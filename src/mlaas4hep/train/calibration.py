"""Calibration: whether a score of p is right in a share p of the events.

A score estimates the chance of its class in the mixture of events that the model learned from, so it is judged with
the training weights first; with physics weights it is another question. Invariant: every bin and every sum carries the
uncertainty of the finite number of events, and what a perfectly calibrated score would give beside it.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlaas4hep.errors import DataError
from mlaas4hep.train.metrics import numbers_of, require_events

Floats = NDArray[np.float64]
BINS = 15


class CalibrationBin(msgspec.Struct, frozen=True):
    """Events with a score from ``low`` to ``high``.

    Parameters
    ----------
    events
        Number of them.
    share
        Of the weight of all events.
    score
        Their mean score.
    observed, observed_err
        Share of the class among them, by weight, and its uncertainty.
    """

    low: float
    high: float
    events: int
    share: float
    score: float
    observed: float
    observed_err: float


class Calibration(msgspec.Struct, frozen=True):
    """How far the scores of one class are from being chances.

    Parameters
    ----------
    bins
        Those whose weights add up to more than zero.
    ece, ece_err
        Expected calibration error: mean over the bins, by weight, of the distance of observed share and mean score.
    ece_expected
        What chance alone gives where every score is right.
    brier, brier_err
        Mean squared difference of score and truth (1 or 0).
    brier_expected
        The same for scores that are all right: mean of p (1 - p).
    """

    bins: tuple[CalibrationBin, ...]
    ece: float
    ece_err: float
    ece_expected: float
    brier: float
    brier_err: float
    brier_expected: float


def calibration_of(
    scores: ArrayLike, is_class: ArrayLike, weights: ArrayLike | None = None, *, bins: int = BINS
) -> Calibration:
    """Reliability of the scores of one class, in equal bins from 0 to 1.

    Parameters
    ----------
    scores
        [N], between 0 and 1.
    is_class
        bool [N].
    weights
        [N], signed; 1 where None.
    bins
        Number of them.

    Returns
    -------
    Uncertainties by the influence of single events. With negative weights bins may fall below 0 or above 1.

    Raises
    ------
    DataError
        No events, weights that do not add up to a positive number, or scores that are no probabilities.

    Examples
    --------
    >>> found = calibration_of([0.1, 0.1, 0.9, 0.9], [False, False, True, True])
    >>> round(found.ece, 3), round(found.brier, 3)
    (0.1, 0.01)
    """
    p = numbers_of(scores, "scores")
    require_events(len(p), is_class=is_class, weights=weights)
    truth = np.asarray(is_class, np.float64)
    w = np.ones(len(p)) if weights is None else np.asarray(weights, np.float64)
    total = float(w.sum())
    if not total > 0:
        raise DataError(f"the weights of {len(p)} events add up to {total:g}: no calibration")
    if not np.all((p >= 0) & (p <= 1)):
        raise DataError("some scores are outside 0 to 1: they are no probabilities, and have no calibration")
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, p, side="right") - 1, 0, bins - 1)
    sums = _sums(place, bins, w)
    distance = _sums(place, bins, w * (truth - p))
    # Of a score that is right everywhere the distance fluctuates by this, and |Gaussian| is sqrt(2 / pi) on average.
    chance = np.sqrt(_sums(place, bins, w**2 * p * (1 - p)) * 2 / np.pi)
    ece = float(np.abs(distance).sum() / total)
    pull = w * (np.sign(distance)[place] * (truth - p) - ece) / total
    squared = (p - truth) ** 2
    brier = float(np.sum(w * squared) / total)
    found = []
    for n in np.flatnonzero(sums > 0).tolist():
        own = place == n
        observed, error = _observed(w[own], truth[own])
        mean = float(np.sum(w[own] * p[own]) / sums[n])
        share = float(sums[n] / total)
        found.append(CalibrationBin(float(edges[n]), float(edges[n + 1]), int(own.sum()), share, mean, observed, error))
    return Calibration(
        bins=tuple(found),
        ece=ece,
        ece_err=float(np.sqrt(np.sum(pull**2))),
        ece_expected=float(chance.sum() / total),
        brier=brier,
        brier_err=float(np.sqrt(np.sum((w * (squared - brier) / total) ** 2))),
        brier_expected=float(np.sum(w * p * (1 - p)) / total),
    )


def _observed(w: Floats, truth: Floats) -> tuple[float, float]:
    """Share of the class in a bin, and its uncertainty.

    The uncertainty is taken with one event more of either kind (Agresti and Coull 1998): where none or all of a few are
    of the class, it would else be zero.
    """
    total, inside, all_squares = float(w.sum()), float(np.sum(w**2 * truth)), float(np.sum(w**2))
    observed, more = float(np.sum(w * truth)) / total, all_squares / len(w)
    near = (observed * total + more**0.5) / (total + 2 * more**0.5)
    variance = (1 - near) ** 2 * (inside + more) + near**2 * (all_squares - inside + more)
    return observed, float(variance**0.5) / (total + 2 * more**0.5)


def _sums(place: NDArray[Any], size: int, values: Floats) -> Floats:
    return np.bincount(place, values, minlength=size).astype(np.float64)


class Calibrations(msgspec.Struct, frozen=True):
    """Calibration of one score, with the weights that the model learned with and with those of the analysis.

    Parameters
    ----------
    learned
        As ``weights.training`` says: in this mixture of the classes a score is meant to be a chance.
    physics
        In the mixture that an experiment sees.
    odds
        What the odds score / (1 - score) must be multiplied by to be those of the physics mixture; None of several
        classes, where it hangs on the shares of all.
    """

    learned: Calibration
    physics: Calibration
    odds: float | None
