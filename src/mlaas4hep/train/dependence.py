"""Dependence of a score on an observer, such as a mass: what a cut on the score does to the shape of the background.

An observer is a number of each event that the model is not given. Its background is put into bins that hold equal
shares before any cut, so that nothing hangs on its unit. Invariant: every figure stands beside its uncertainty and
beside what the finite number of events alone would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlaas4hep.errors import DataError

Floats = NDArray[np.float64]
# Cuts by the efficiency that they leave, of the background (all other classes) or of the signal.
WORKING_POINTS: tuple[tuple[Literal["background", "signal"], float], ...] = (
    ("background", 0.5),
    ("background", 0.1),
    ("background", 0.01),
    ("signal", 0.8),
    ("signal", 0.5),
)
MAX_BINS = 20
EVENTS_PER_BIN = 40
# Of fewer equal weights nobody knows a shape.
MIN_EFFECTIVE = 20.0
_REPLICAS = 400


def jensen_shannon(one: ArrayLike, other: ArrayLike) -> float:
    """Jensen-Shannon divergence of two histograms, in bits: 0 for equal shapes, 1 for shapes that nowhere overlap.

    Parameters
    ----------
    one, other
        [K]; each is normalised to one first, and bins below zero count as empty.

    Returns
    -------
    H((p + q) / 2) - (H(p) + H(q)) / 2 with Shannon's entropy H to base 2 (J. Lin, IEEE Trans. Inf. Theory 37, 1991);
    NaN where a histogram is empty.

    Examples
    --------
    >>> jensen_shannon([1, 1], [2, 2]), jensen_shannon([1, 0], [0, 1])
    (0.0, 1.0)
    """
    if np.ndim(one) != 1 or np.shape(one) != np.shape(other):
        raise DataError(f"the histograms must have the same bins, [K], but have {np.shape(one)} and {np.shape(other)}")
    found = _jensen_shannon(np.asarray(one, np.float64)[None], np.asarray(other, np.float64)[None])
    return float(found[0])


def _jensen_shannon(one: Floats, other: Floats) -> Floats:
    """Of many pairs of histograms [R, K] at once."""
    p, q = (np.maximum(values, 0.0) for values in (one, other))
    with np.errstate(divide="ignore", invalid="ignore"):
        p, q = (values / values.sum(axis=1, keepdims=True) for values in (p, q))
        middle = 0.5 * (p + q)
        each = [np.where(values > 0, values * np.log2(values / middle), 0.0) for values in (p, q)]
    found = 0.5 * (each[0].sum(axis=1) + each[1].sum(axis=1))
    empty = ~np.isfinite(p).all(axis=1) | ~np.isfinite(q).all(axis=1)
    return np.where(empty, np.nan, np.clip(found, 0.0, 1.0))


class Kept(msgspec.Struct, frozen=True):
    """The background that one cut on the score keeps.

    Parameters
    ----------
    of, wanted
        The efficiency that was asked for, and of what.
    cut
        Events with at least this score are kept.
    signal, background
        Efficiencies of the cut, of all events.
    events, effective
        Background events kept that have a value, and how many of equal weight know as much.
    shares, shares_err
        By bin, of the background that is kept; empty where ``js`` is null.
    efficiency, efficiency_err
        By bin, of the background.
    js, js_err
        Divergence of the shapes of the background after and before the cut, and its uncertainty by bootstrap; null
        where fewer than `MIN_EFFECTIVE` effective events are kept.
    js_expected, js_limit
        What the finite number of events gives where score and observer are independent: mean, and bound for 95 %.
    """

    of: str
    wanted: float
    cut: float
    signal: float
    background: float
    events: int
    effective: float
    shares: tuple[float, ...] = ()
    shares_err: tuple[float, ...] = ()
    efficiency: tuple[float | None, ...] = ()
    efficiency_err: tuple[float | None, ...] = ()
    js: float | None = None
    js_err: float | None = None
    js_expected: float | None = None
    js_limit: float | None = None


class Dependence(msgspec.Struct, frozen=True):
    """One score against one observer.

    Parameters
    ----------
    edges
        Of the bins, rising; the first and last are the smallest and largest value of the background.
    shares, shares_err
        By bin, of the background before a cut.
    events, missing
        Background events, and how many of them have no value (NaN): those are left out.
    kept
        By cut, in the order of `WORKING_POINTS`.
    reason
        Why there are no figures.
    """

    edges: tuple[float, ...]
    shares: tuple[float, ...]
    shares_err: tuple[float, ...]
    events: int
    missing: int
    kept: tuple[Kept, ...]
    reason: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Background:
    """Background events: bin, score and weight, [N] each."""

    place: NDArray[np.int64]
    scores: Floats
    weights: Floats
    bins: int

    def sums(self, chosen: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """Weights and squares of weights by bin, [K] each."""
        place, weights = self.place[chosen], self.weights[chosen]
        sums, squares = (np.bincount(place, one, minlength=self.bins) for one in (weights, weights**2))
        return sums.astype(np.float64), squares.astype(np.float64)


def dependence_of(
    scores: ArrayLike,
    is_signal: ArrayLike,
    weights: ArrayLike,
    observer: ArrayLike,
    *,
    seed: int = 0,
    points: Sequence[tuple[str, float]] = WORKING_POINTS,
) -> Dependence:
    """What cuts on a score do to the background's shape in an observer.

    Parameters
    ----------
    scores, observer
        [N]; events whose observer is NaN are left out.
    is_signal
        bool [N].
    weights
        [N], signed.
    seed
        Of the bootstrap.
    points
        ``background`` or ``signal``, and the efficiency that the cut is to leave of it.
    """
    score, signal, weight, value = (np.asarray(one) for one in (scores, is_signal, weights, observer))
    known = np.isfinite(value)
    others = ~signal & known
    missing = int(np.count_nonzero(~signal & ~known))
    count = int(np.count_nonzero(others))
    total = float(weight[others].sum())
    if not (total > 0 and float(weight[~signal].sum()) > 0 and float(weight[signal].sum()) > 0):
        lack = "signal" if not float(weight[signal].sum()) > 0 else "background"
        return Dependence((), (), (), count, missing, (), f"the weights of the {lack} do not add up to above zero")
    edges = _edges(value[others], weight[others])
    if count < 2 or len(edges) < 3:
        return Dependence((), (), (), count, missing, (), "has one value only, or too few background events")
    place = np.clip(np.searchsorted(edges, value[others], side="right") - 1, 0, len(edges) - 2)
    background = _Background(place, score[others].astype(np.float64), weight[others], len(edges) - 1)
    random = np.random.default_rng(seed)
    chosen = {"background": ~signal, "signal": signal}
    kept = []
    for of, wanted in points:
        cut = _cut(score[chosen[of]], weight[chosen[of]], wanted)
        left, cost = (
            float(weight[chosen[kind] & (score >= cut)].sum() / weight[chosen[kind]].sum())
            for kind in ("signal", "background")
        )
        kept.append(_kept(background, Kept(of, wanted, cut, left, cost, 0, 0.0), random))
    sums, squares = background.sums(np.ones(count, np.bool_))
    errors = np.sqrt(squares) / total
    return Dependence(_plain(edges), _plain(sums / total), _plain(errors), count, missing, tuple(kept))


def _edges(values: Floats, weights: Floats) -> Floats:
    """Bins of equal shares of the weight (its size: a negative one is an event too), where values allow it."""
    effective = float(weights.sum()) ** 2 / float(np.sum(weights**2))
    bins = int(np.clip(effective // EVENTS_PER_BIN, 2, MAX_BINS))
    order = np.argsort(values, kind="stable")
    sums = np.cumsum(np.abs(weights[order]))
    inner = np.searchsorted(sums, sums[-1] * np.arange(1, bins) / bins)
    edges = values[order][np.concatenate([[0], inner, [len(values) - 1]])].astype(np.float64)
    return np.unique(edges)


def _cut(scores: NDArray[Any], weights: NDArray[Any], wanted: float) -> float:
    """The highest score so that at least the wanted share of the weight is kept by ``score >= cut``."""
    order = np.argsort(-scores, kind="stable")
    sums = np.cumsum(weights[order])
    first = int(np.argmax(sums >= wanted * sums[-1]))
    return float(scores[order][first])


def _kept(one: _Background, asked: Kept, random: np.random.Generator) -> Kept:
    passed = one.scores >= asked.cut
    (inside, inside2), (outside, outside2) = one.sums(passed), one.sums(~passed)
    total = float(inside.sum())
    effective = total**2 / float(inside2.sum()) if total > 0 else 0.0
    share = total / float(inside.sum() + outside.sum())
    told = msgspec.structs.replace(asked, events=int(np.count_nonzero(passed)), effective=effective)
    if effective < MIN_EFFECTIVE:
        return told
    both = inside + outside
    with np.errstate(divide="ignore", invalid="ignore"):
        efficiency = np.where(both > 0, inside / both, np.nan)
        variance = (1 - efficiency) ** 2 * inside2 + efficiency**2 * outside2
        efficiency_err = np.sqrt(variance) / both
    replicas = _replicas(inside, inside2, random), _replicas(outside, outside2, random)
    spread = _jensen_shannon(replicas[0], replicas[0] + replicas[1])
    chance = _by_chance(
        both, share, (effective, float(outside.sum()) ** 2 / max(float(outside2.sum()), 1e-300)), random
    )
    return msgspec.structs.replace(
        told,
        shares=_plain(inside / total),
        shares_err=_plain(np.sqrt(inside2) / total),
        efficiency=_nullable(efficiency),
        efficiency_err=_nullable(efficiency_err),
        js=jensen_shannon(inside, both),
        js_err=float(np.nanstd(spread, ddof=1)),
        js_expected=float(np.mean(chance)),
        js_limit=float(np.quantile(chance, 0.95)),
    )


def _replicas(sums: Floats, squares: Floats, random: np.random.Generator) -> Floats:
    """Histograms [R, K] of replicas of the sample, each event a Poisson number of times.

    A sum of weights is then compound Poisson, and a Poisson number of equal weights with the same mean and variance
    comes near it (G. Bohm and G. Zech, Nucl. Instrum. Meth. A 748, 2014); bins below zero take a Gaussian.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = np.where(sums > 0, squares / sums, 0.0)
        means = np.where(sums > 0, sums / unit, 0.0)
    scaled = unit * random.poisson(np.minimum(means, 1e15), (_REPLICAS, len(sums)))
    other = sums + np.sqrt(squares) * random.standard_normal((_REPLICAS, len(sums)))
    return np.where(sums > 0, scaled, other)


def _by_chance(both: Floats, share: float, effective: tuple[float, float], random: np.random.Generator) -> Floats:
    """Divergences [R] where the events that are kept, and the others, are drawn from the shape of all."""
    shape = np.maximum(both, 0.0) / np.maximum(both, 0.0).sum()
    kept, left = (random.multinomial(max(round(one), 1), shape, _REPLICAS) / max(round(one), 1) for one in effective)
    found: Floats = _jensen_shannon(kept, share * kept + (1 - share) * left)
    return found


def _plain(values: Floats) -> tuple[float, ...]:
    return tuple(values.tolist())


def _nullable(values: Floats) -> tuple[float | None, ...]:
    return tuple(float(one) if np.isfinite(one) else None for one in values)
