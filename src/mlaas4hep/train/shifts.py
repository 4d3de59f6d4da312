"""What a systematic variation changes: areas and yields of the test part, held against the nominal ones event by event.

Only sums leave this module, never events: by score, cut and process. Invariant: the uncertainty of every change is that
of what is left when the fluctuations of the common events cancel; a variation that changes nothing gives exactly zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import DataError
from mlaas4hep.train.loop import Judged
from mlaas4hep.train.metrics import area_influence

Floats = NDArray[np.float64]
# Areas of the same events, weighed by another constant, differ by so much.
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Judged events with who they are.

    Parameters
    ----------
    judged
        Scores, labels, physics weights of N events.
    entries
        File and entry, structured [N], rising.
    processes
        int64 [N]: sample times the number of classes, plus label.
    """

    judged: Judged
    entries: NDArray[Any]
    processes: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Shift:
    """One variation, in sums over the test part; physics weights, not scaled up.

    Parameters
    ----------
    name
        Of the variation.
    events, gained, lost
        Events selected with it; those among them that are not selected nominally, and the reverse.
    areas
        float64 [C + 1, 3]: area, its change and the uncertainty of that; of each score against the rest, the last row
        of their mean. NaN where there is no area.
    sums, squares
        By score, float64 [M, P]: weights and squares of weights of each process with a score of at least each cut.
    changes
        By score, float64 [M, P]: variance of the change of ``sums`` from the number of simulated events.
    counts
        By score, int64 [M, P]: events.
    reason
        Why there is none of all that.
    """

    name: str
    events: int
    gained: int
    lost: int
    areas: Floats
    sums: tuple[Floats, ...]
    squares: tuple[Floats, ...]
    changes: tuple[Floats, ...]
    counts: tuple[NDArray[np.int64], ...]
    reason: str = ""

    @classmethod
    def failed(cls, name: str, reason: str, *, cuts: Sequence[Floats], processes: int) -> Shift:
        """One that cannot be given; the test part is opened once, so that the others must not fail with it."""
        nothing = tuple(np.zeros((len(one), processes)) for one in cuts)
        counts = tuple(one.astype(np.int64) for one in nothing)
        areas = np.full((len(cuts) + 1, 3), np.nan)
        return cls(name, 0, 0, 0, areas, nothing, nothing, nothing, counts, reason)


def shift_of(
    name: str,
    nominal: Placed,
    varied: Placed,
    *,
    cuts: Sequence[Floats],
    processes: int,
    positives: Sequence[int],
) -> Shift:
    """Hold a variation against the nominal events.

    Parameters
    ----------
    name
        Of the variation.
    nominal, varied
        Of the same part.
    cuts
        By score, [M] rising.
    processes
        P.
    positives
        Label of the class that each score belongs to.
    """
    common, one, other = np.intersect1d(nominal.entries, varied.entries, assume_unique=True, return_indices=True)
    areas = np.array(
        [_area_change(nominal.judged, varied.judged, [column], positives, one, other) for column in range(len(cuts))]
        + [_area_change(nominal.judged, varied.judged, list(range(len(cuts))), positives, one, other)]
    )
    sums, squares, changes, counts = [], [], [], []
    for column, at in enumerate(cuts):
        base = _Column(nominal, column)
        own = _Column(varied, column)
        sums.append(above(own.scores, own.weights, own.processes, at, processes))
        squares.append(above(own.scores, own.weights**2, own.processes, at, processes))
        counts.append(above(own.scores, np.ones(len(own.scores)), own.processes, at, processes).astype(np.int64))
        # (w' [s' >= c] - w [s >= c])^2 = w'^2 [s' >= c] + w^2 [s >= c] - 2 w w' [min(s, s') >= c], event by event.
        cross = base.weights[one] * own.weights[other]
        lower = np.minimum(base.scores[one], own.scores[other])
        before = above(base.scores, base.weights**2, base.processes, at, processes)
        both = above(lower, cross, base.processes[one], at, processes)
        changes.append(np.maximum(squares[-1] + before - 2 * both, 0.0))
    gained, lost = len(varied.entries) - len(common), len(nominal.entries) - len(common)
    return Shift(
        name, len(varied.entries), gained, lost, areas, tuple(sums), tuple(squares), tuple(changes), tuple(counts)
    )


class _Column:
    """One score of placed events."""

    def __init__(self, placed: Placed, column: int) -> None:
        self.scores = placed.judged.scores[:, column].astype(np.float64)
        self.weights = placed.judged.weights
        self.processes = placed.processes


def _area_change(
    nominal: Judged,
    varied: Judged,
    columns: list[int],
    positives: Sequence[int],
    one: NDArray[np.int64],
    other: NDArray[np.int64],
) -> tuple[float, float, float]:
    """Area, change and its uncertainty: pulls of common events are subtracted, those of all others stand alone."""
    labels = [positives[column] for column in columns]
    try:
        (area, pull), (base, before) = (
            area_influence(judged.scores[:, columns], judged.labels, labels, judged.weights)
            for judged in (varied, nominal)
        )
    except DataError:
        return float("nan"), float("nan"), float("nan")  # a class without weight has no area
    variance = float(np.sum((pull[other] - before[one]) ** 2))
    for pulls, matched in ((pull, other), (before, one)):
        alone = np.ones(len(pulls), np.bool_)
        alone[matched] = False
        variance += float(np.sum(pulls[alone] ** 2))
    change, error = (value if abs(value) > _ROUNDING else 0.0 for value in (area - base, variance**0.5))
    return area, change, error


def above(scores: Floats, values: Floats, processes: NDArray[np.int64], cuts: Floats, size: int) -> Floats:
    """Sums of values [N] by process, of events with a score of at least each of the rising cuts, [M, P]."""
    passed = np.searchsorted(cuts, scores, side="right")  # how many cuts an event passes
    cells = np.bincount(processes * (len(cuts) + 1) + passed, values, minlength=size * (len(cuts) + 1))
    by_cut = cells.astype(np.float64).reshape(size, len(cuts) + 1)[:, 1:]
    found: Floats = np.cumsum(by_cut[:, ::-1], axis=1)[:, ::-1].T
    return found
