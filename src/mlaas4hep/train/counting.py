"""Counting events: expected yields of each sample, and the significance of a cut on the score.

Yields are physics weights summed: cross-section x luminosity x efficiency. The test part stands for all events; each
sample of it is scaled up by the inverse of its share of the sample's weight. Invariant: before any cut the scaled yield
is the sum of weights of all selected events, exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlaas4hep.spec.statistics import SampleCounts
from mlaas4hep.train.loop import Judged

Floats = NDArray[np.float64]
# Of a cut that leaves fewer simulated background events nobody knows the background.
MIN_BACKGROUND_EVENTS = 10
_LINEAR_CUTS, _QUANTILE_CUTS = 200, 200


def asimov_significance(signal: ArrayLike, background: ArrayLike, background_error: ArrayLike = 0.0) -> Floats:
    """Median significance with which a signal is expected to be discovered in a counting experiment.

    Parameters
    ----------
    signal, background
        Expected events s and b, of one shape.
    background_error
        Absolute uncertainty sigma of b; 0 where it is known exactly.

    Returns
    -------
    Z of the Asimov data set; NaN where s or b is not positive. Known background: G. Cowan, K. Cranmer, E. Gross, O.
    Vitells, Eur. Phys. J. C 71 (2011) 1554, arXiv:1007.1727, equation 97, sqrt(2 ((s + b) ln(1 + s/b) - s)). Uncertain
    one: G. Cowan, Discovery sensitivity for a counting experiment with background uncertainty (2012), equation 20. For
    s much smaller than b they become s / sqrt(b) and s / sqrt(b + sigma^2).

    Examples
    --------
    >>> asimov_significance(10.0, 100.0).round(3), asimov_significance(10.0, 100.0, 10.0).round(3)
    (np.float64(0.984), np.float64(0.69))
    """
    s, b, error = np.broadcast_arrays(*(np.asarray(one, np.float64) for one in (signal, background, background_error)))
    usable = (s > 0) & (b > 0) & np.isfinite(error)
    s, b = np.where(usable, s, 1.0), np.where(usable, b, 1.0)
    variance = np.where(usable, error, 0.0) ** 2
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        uncertain = (s + b) * np.log1p(s * b / (b**2 + (s + b) * variance))
        uncertain -= b**2 / variance * np.log1p(variance * s / (b * (b + variance)))
    known = (s + b) * np.log1p(s / b) - s
    half = np.where(variance > 1e-20 * b**2, uncertain, known)
    small = s < 1e-4 * b  # both are then differences of nearly equal numbers
    return np.where(usable, np.where(small, s / np.sqrt(b + variance), np.sqrt(np.maximum(2 * half, 0.0))), np.nan)


@dataclass(frozen=True, slots=True, eq=False)
class Weighed:
    """Scores of the test part with everything that counting needs.

    Parameters
    ----------
    scores
        float [N], of one class.
    is_signal
        bool [N], whether an event is of that class.
    weights
        Physics weights [N], scaled up to all events.
    samples
        int [N], place of the sample.
    """

    scores: Floats
    is_signal: NDArray[np.bool_]
    weights: Floats
    samples: NDArray[np.int64]


class Scan(msgspec.Struct, frozen=True):
    """Significance against the cut ``score >= cut``; rising cuts, null where a figure cannot be given.

    Parameters
    ----------
    cuts
        [M].
    signal, background, background_err
        Expected events [M], and the statistical uncertainty of the background from the number of simulated events, with
        one event more of each sample.
    known, uncertain
        Significance [M] with a background known exactly, and with its relative uncertainty and that of simulation;
        null where the cut keeps fewer than `MIN_BACKGROUND_EVENTS` simulated background events.
    best
        Place of the highest ``uncertain``; None where there is none. It is the highest on these very events, and so a
        little too high.
    crossed
        The same significance of all events where either half is cut at what is best on the other half: no event counts
        at a cut that it has chosen. Null where there is none.
    one_more
        Variance of the background by one event more of each of its samples, with the root of the mean squared weight.
    """

    cuts: tuple[float, ...]
    signal: tuple[float, ...]
    background: tuple[float, ...]
    background_err: tuple[float, ...]
    known: tuple[float | None, ...]
    uncertain: tuple[float | None, ...]
    best: int | None
    crossed: float | None = None
    one_more: float = 0.0

    @property
    def best_cut(self) -> float | None:
        """The cut at ``best``."""
        return None if self.best is None else self.cuts[self.best]


@dataclass(frozen=True, slots=True, eq=False)
class _Counted:
    """Sums [M] of what passes each cut; ``kept`` counts background events, ``one_more`` is as in `Scan`."""

    signal: Floats
    background: Floats
    variance: Floats
    kept: Floats
    one_more: float

    @classmethod
    def at(cls, cuts: Floats, events: Weighed) -> _Counted:
        order = np.argsort(events.scores, kind="stable")
        first = np.searchsorted(events.scores[order], cuts, side="left")
        weights, signal = events.weights[order], events.is_signal[order]
        others = np.where(signal, 0.0, weights)
        return cls(
            _above(np.where(signal, weights, 0.0), first),
            _above(others, first),
            _above(others**2, first),
            _above((~signal).astype(np.float64), first),
            _one_more(events),
        )

    @property
    def error(self) -> Floats:
        """Of the background, by the number of its simulated events."""
        return np.sqrt(self.variance + self.one_more)

    def significance(self, uncertainty: float, *, least: int = MIN_BACKGROUND_EVENTS) -> Floats:
        """With the uncertain background; NaN where too few of its events are kept."""
        found = asimov_significance(self.signal, self.background, np.hypot(uncertainty * self.background, self.error))
        return np.where(self.kept >= least, found, np.nan)


def _one_more(events: Weighed) -> float:
    """Square of a typical weight, summed over the samples of the background.

    A sample of which no simulated event is left is not known to be gone: it may have a few hundred events that stand
    for a million each.
    """
    others = ~events.is_signal
    counts = np.bincount(events.samples[others])
    squares = np.bincount(events.samples[others], events.weights[others] ** 2)
    return float(np.sum(squares[counts > 0] / counts[counts > 0]))


def scan_cuts(events: Weighed, *, uncertainty: float) -> Scan:
    """Significance of one class against all others for rising cuts on its score.

    ``uncertainty`` is the relative one of the background; that of the simulation is added in quadrature.
    """
    cuts = cuts_of(events.scores, events.is_signal)
    found = _Counted.at(cuts, events)
    known = asimov_significance(found.signal, found.background)
    uncertain = found.significance(uncertainty)
    return Scan(
        cuts=tuple(cuts.tolist()),
        signal=tuple(found.signal.tolist()),
        background=tuple(found.background.tolist()),
        background_err=tuple(found.error.tolist()),
        known=_plain(np.where(found.kept >= MIN_BACKGROUND_EVENTS, known, np.nan)),
        uncertain=_plain(uncertain),
        best=_best(uncertain),
        crossed=_crossed(events, uncertainty),
        one_more=found.one_more,
    )


def _best(significance: Floats) -> int | None:
    offered = np.where(np.isfinite(significance), significance, -1.0)
    return int(np.argmax(offered)) if offered.max(initial=-1.0) > 0 else None


def _crossed(events: Weighed, uncertainty: float) -> float | None:
    """Every second event is cut at what is best on the others, and the reverse; then all are counted together."""
    even = np.arange(len(events.scores)) % 2 == 0
    halves = [_of(events, even), _of(events, ~even)]
    passed = []
    for chosen_by, counted in ((halves[0], halves[1]), (halves[1], halves[0])):
        cuts = cuts_of(chosen_by.scores, chosen_by.is_signal)
        # A half stands for all events, as the whole does.
        doubled = dataclasses.replace(chosen_by, weights=2 * chosen_by.weights)
        best = _best(_Counted.at(cuts, doubled).significance(uncertainty, least=MIN_BACKGROUND_EVENTS // 2))
        if best is None:
            return None
        passed.append(_Counted.at(cuts[best : best + 1], counted))
    one, other = passed
    both = _Counted(
        one.signal + other.signal,
        one.background + other.background,
        one.variance + other.variance,
        one.kept + other.kept,
        _one_more(events),
    )
    return _plain(both.significance(uncertainty))[0]


def _of(events: Weighed, chosen: NDArray[np.bool_]) -> Weighed:
    return Weighed(events.scores[chosen], events.is_signal[chosen], events.weights[chosen], events.samples[chosen])


def cuts_of(scores: Floats, is_signal: NDArray[np.bool_]) -> Floats:
    """Cuts [M] that are offered, rising: evenly from 0 to 1, and evenly in the efficiency of the signal."""
    own = scores[is_signal]
    ranks = np.quantile(own, np.linspace(0, 1, _QUANTILE_CUTS)) if len(own) else np.zeros(0)
    found: Floats = np.unique(np.concatenate([np.linspace(0, 1, _LINEAR_CUTS, endpoint=False), ranks]))
    return found


def _above(values: Floats, first: NDArray[np.int64]) -> Floats:
    """Sum of the values from each place to the end."""
    sums = np.concatenate([np.cumsum(values[::-1])[::-1], [0.0]])
    found: Floats = sums[first]
    return found


def _plain(values: Floats) -> tuple[float | None, ...]:
    return tuple(float(one) if np.isfinite(one) else None for one in values)


class Yield(msgspec.Struct, frozen=True):
    """Expected events of one sample, or of several together, with their statistical uncertainty.

    Parameters
    ----------
    events
        Simulated events of the test part.
    expected, expected_err
        Events expected, from all selected events before a cut, from the test part after it; null where the test part
        holds no event of the sample.
    """

    events: int
    expected: float | None
    expected_err: float | None


def scale_factors(
    samples: Mapping[str, SampleCounts], judged: Judged, places: NDArray[np.int64]
) -> dict[str, float | None]:
    """By sample, what its test part must be multiplied by to stand for all of its selected events.

    The inverse of the share that the test part has in the sum of weights of the sample; None where that sum is not
    positive.
    """
    sums = np.bincount(places, judged.weights, minlength=len(samples))
    return {
        name: one.selected.sum_weights / total if total > 0 else None
        for (name, one), total in zip(samples.items(), sums.tolist(), strict=True)
    }


def yields_before(samples: Mapping[str, SampleCounts]) -> dict[str, Yield]:
    """Expected events of each sample before any cut on a score, from all of its selected events."""
    return {
        name: Yield(one.test, one.selected.sum_weights, float(np.sqrt(one.selected.sum_weights2)))
        for name, one in samples.items()
    }


def yields_after(events: Weighed, scales: Mapping[str, float | None], cut: float) -> dict[str, Yield]:
    """Expected events of each sample with ``score >= cut``, from the test part."""
    passed = events.scores >= cut
    size = len(scales)
    counts = np.bincount(events.samples[passed], minlength=size)
    sums = np.bincount(events.samples[passed], events.weights[passed], minlength=size)
    errors = np.sqrt(np.bincount(events.samples[passed], events.weights[passed] ** 2, minlength=size))
    return {
        name: Yield(int(counts[n]), float(sums[n]), float(errors[n])) if scale is not None else Yield(0, None, None)
        for n, (name, scale) in enumerate(scales.items())
    }


def total_yield(parts: Sequence[Yield]) -> Yield:
    """Several samples together; those without a figure count nothing."""
    known = [one for one in parts if one.expected is not None]
    squares = sum((one.expected_err or 0.0) ** 2 for one in known)
    expected = sum(one.expected or 0.0 for one in known)
    return Yield(sum(one.events for one in parts), expected if known else None, squares**0.5 if known else None)
