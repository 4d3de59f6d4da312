"""Weighted figures of merit: ROC curve, the area under it with its uncertainty, cross-entropy.

Everything that is said about a run is computed here from scores, labels and physics weights. Invariant: ties are
counted half, and nothing depends on the order of the events but the last rounding of a sum.

Negative weights are taken as they are, as measures with a sign: curves may then turn back a little and leave [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlaas4hep.errors import DataError

Floats = NDArray[np.float64]
# A probability below this costs no more: what float32 scores can tell from 0.
_TINY = 1e-7


class Auc(msgspec.Struct, frozen=True):
    """Area under a ROC curve and its standard uncertainty."""

    value: float
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class Roc:
    """Efficiencies of signal and background for falling cuts on the score, from (0, 0) to (1, 1); float64 [M]."""

    signal: Floats
    background: Floats
    cuts: Floats


@dataclass(frozen=True, slots=True, eq=False)
class _Ranked:
    """Signal and background weight at each distinct score, scores rising; ``place`` maps events to scores."""

    scores: Floats
    signal: Floats
    background: Floats
    place: NDArray[np.int64]


def weighted_auc(scores: ArrayLike, is_signal: ArrayLike, weights: ArrayLike | None = None) -> Auc:
    """Probability that a signal event scores higher than a background event, ties counted half.

    Parameters
    ----------
    scores
        [N], higher is more like signal.
    is_signal
        bool [N].
    weights
        [N], signed; 1 where None.

    Returns
    -------
    The area and its uncertainty by the influence of single events (the infinitesimal jackknife): for signal event i
    with weight w_i, the background below it is a share V_i, and the variance is the sum of w_i^2 (V_i - A)^2 over the
    squared sum of signal weights, plus the same the other way round. With equal weights that is the estimate of DeLong,
    DeLong and Clarke-Pearson (Biometrics 44, 1988) up to a factor n / (n - 1). Exact, no random numbers.

    Raises
    ------
    DataError
        One of the two has no events, or weights that sum to zero.

    Examples
    --------
    >>> weighted_auc([0.1, 0.4, 0.4, 0.9], [False, False, True, True]).value
    0.875
    """
    value, influence = _auc_influence(*_arrays(scores, is_signal, weights))
    return Auc(value, float(np.sqrt(np.sum(influence**2))))


def mean_auc(scores: NDArray[Any], labels: NDArray[np.int64], weights: ArrayLike | None = None) -> Auc:
    """Mean over the classes of one class against the rest.

    Parameters
    ----------
    scores
        [N, C], one column a class.
    labels
        int64 [N].
    weights
        [N]; 1 where None.

    Returns
    -------
    The mean area; its uncertainty takes into account that the same events stand in all areas.
    """
    value, influence = area_influence(scores, labels, range(scores.shape[1]), weights)
    return Auc(value, float(np.sqrt(np.sum(influence**2))))


def area_influence(
    scores: NDArray[Any], labels: NDArray[np.int64], positives: Iterable[int], weights: ArrayLike | None = None
) -> tuple[float, Floats]:
    """The area, and by how much each event pulls it: two models are compared event by event with it.

    Parameters
    ----------
    scores
        [N, C].
    labels
        int64 [N].
    positives
        Label of the class that each column is the score of; of several columns the mean area is taken.
    weights
        [N]; 1 where None.

    Returns
    -------
    The area and the pulls [N], whose squares add up to its variance.
    """
    parts = [
        _auc_influence(*_arrays(scores[:, column], labels == label, weights)) for column, label in enumerate(positives)
    ]
    return float(np.mean([value for value, _ in parts])), np.mean([influence for _, influence in parts], axis=0)


def bootstrap_areas(
    scores: NDArray[Any],
    labels: NDArray[np.int64],
    positives: Sequence[int],
    weights: Floats,
    *,
    replicas: int,
    seed: int,
) -> Floats:
    """Areas of each class against the rest in replicas of the sample, float64 [R, C].

    In each replica every event counts a Poisson number of times with mean 1, the same number in all columns; their
    standard deviation is the uncertainty of an area (G. Bohm and G. Zech, Nucl. Instrum. Meth. A 691, 2012: of weighted
    events it is the compound Poisson distribution, so right for signed weights too). NaN where a replica left a class
    without weight.

    Parameters
    ----------
    scores, labels, positives
        As for `area_influence`.
    weights
        [N].
    replicas
        R.
    seed
        Of the numbers drawn.
    """
    ranked = []
    for column, label in enumerate(positives):
        values, is_signal, _ = _arrays(scores[:, column], labels == label, weights)
        distinct, place = np.unique(values, return_inverse=True)
        ranked.append((is_signal, place, len(distinct)))
    random = np.random.default_rng(seed)
    areas = np.empty((replicas, len(ranked)))
    for replica in range(replicas):
        share = weights * random.poisson(1.0, len(weights))
        areas[replica] = [_area(*one, share) for one in ranked]
    return areas


def _area(is_signal: NDArray[np.bool_], place: NDArray[np.int64], size: int, weights: Floats) -> float:
    signal = np.bincount(place, np.where(is_signal, weights, 0.0), minlength=size)
    background = np.bincount(place, np.where(is_signal, 0.0, weights), minlength=size)
    total = signal.sum() * background.sum()
    return float(np.sum(signal * (np.cumsum(background) - 0.5 * background)) / total) if total else float("nan")


def roc_curve(scores: ArrayLike, is_signal: ArrayLike, weights: ArrayLike | None = None, *, points: int = 2000) -> Roc:
    """Efficiencies against the cut ``score >= cut``.

    Parameters
    ----------
    scores, is_signal, weights
        As for `weighted_auc`.
    points
        At most about so many, spread evenly over the length of the curve; the ends are kept.
    """
    ranked = _rank(*_arrays(scores, is_signal, weights))
    signal = np.concatenate([[0.0], np.cumsum(ranked.signal[::-1]) / ranked.signal.sum()])
    background = np.concatenate([[0.0], np.cumsum(ranked.background[::-1]) / ranked.background.sum()])
    cuts = np.concatenate([[np.inf], ranked.scores[::-1]])
    keep = _spread(signal, background, points)
    return Roc(signal[keep], background[keep], cuts[keep])


def log_loss(scores: NDArray[Any], labels: NDArray[np.int64], weights: ArrayLike | None = None) -> float:
    """Weighted mean of -log(score of the true class).

    Parameters
    ----------
    scores
        [N, 1] for two classes (the score of class 1), else [N, C].
    labels
        int64 [N].
    weights
        [N]; 1 where None.
    """
    require_events(len(scores), labels=labels, weights=weights)
    classes = max(scores.shape[1], 2)
    if not np.all((labels >= 0) & (labels < classes)):
        raise DataError(f"labels must be from 0 to {classes - 1}, got {np.min(labels)} to {np.max(labels)}")
    own = (
        np.where(labels == 1, scores[:, 0], 1.0 - scores[:, 0])
        if scores.shape[1] == 1
        else scores[np.arange(len(labels)), labels]
    )
    return mean_loss(-np.log(np.clip(own.astype(np.float64), _TINY, 1.0)), weights)


def mean_loss(losses: Floats, weights: ArrayLike | None = None) -> float:
    """Weighted mean of the losses [N] of events.

    Raises
    ------
    DataError
        There are none, or their weights sum to zero.
    """
    share = np.ones(len(losses)) if weights is None else np.asarray(weights, np.float64)
    total = share.sum()
    if not len(losses) or total == 0.0:
        raise DataError(f"the weights of {len(losses)} events sum to {total:g}: no mean loss")
    return float(np.sum(share * losses) / total)


def _arrays(scores: ArrayLike, is_signal: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Any, Floats]:
    values = numbers_of(scores, "scores")
    require_events(len(values), is_signal=is_signal, weights=weights)
    if np.isnan(values).any():
        raise DataError(f"{int(np.isnan(values).sum())} of {len(values)} scores are NaN")
    share = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    return values, np.asarray(is_signal, np.bool_), share


def numbers_of(values: ArrayLike, name: str) -> Floats:
    """Numbers [N]; `DataError` where they are none."""
    try:
        found = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be numbers: {error}") from error
    if found.ndim != 1:
        raise DataError(f"{name} must be one number an event, [N], but have the shape {list(found.shape)}")
    return found


def require_events(events: int, **others: ArrayLike | None) -> None:
    """Refuse what is of other events than the scores: one value each, or None."""
    for name, values in others.items():
        if values is not None and np.shape(values) != (events,):
            raise DataError(f"{name} must be one value an event, [{events}] as the scores, but have {np.shape(values)}")


def _rank(scores: Floats, is_signal: NDArray[np.bool_], weights: Floats) -> _Ranked:
    distinct, place = np.unique(scores, return_inverse=True)
    signal, background = (
        np.bincount(place, np.where(mask, weights, 0.0), minlength=len(distinct)).astype(np.float64)
        for mask in (is_signal, ~is_signal)
    )
    for name, mask, sums in (("signal", is_signal, signal), ("background", ~is_signal, background)):
        if not mask.any() or sums.sum() == 0.0:
            raise DataError(f"{int(mask.sum())} {name} events with a sum of weights of {sums.sum():g}: no ROC curve")
    return _Ranked(distinct, signal, background, place)


def _auc_influence(scores: Floats, is_signal: NDArray[np.bool_], weights: Floats) -> tuple[float, Floats]:
    """The area, and by how much each event pulls it, [N]."""
    ranked = _rank(scores, is_signal, weights)
    signal, background = ranked.signal.sum(), ranked.background.sum()
    below = (np.cumsum(ranked.background) - 0.5 * ranked.background) / background
    above = 1.0 - (np.cumsum(ranked.signal) - 0.5 * ranked.signal) / signal
    area = float(np.sum(ranked.signal * below) / signal)
    pull = np.where(is_signal, (below[ranked.place] - area) / signal, (above[ranked.place] - area) / background)
    return area, weights * pull


def _spread(x: Floats, y: Floats, points: int) -> NDArray[np.int64]:
    """Indices of about so many points, evenly along the curve on linear and logarithmic axes."""
    if len(x) <= points:
        return np.arange(len(x))
    logarithm = np.log10(np.maximum(y, 1e-6)) / 6
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)) + np.abs(np.diff(logarithm)))])
    wanted = np.linspace(0.0, length[-1], points)
    return np.unique(np.concatenate([[0], np.searchsorted(length, wanted).clip(max=len(x) - 1), [len(x) - 1]]))


def class_sums(labels: Sequence[int] | NDArray[np.int64], weights: Floats, num_classes: int) -> list[tuple[int, float]]:
    """Events and sum of weights of each class."""
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels, weights, minlength=num_classes)
    return [(int(count), float(total)) for count, total in zip(counts, sums, strict=True)]
