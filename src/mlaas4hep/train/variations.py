"""Systematic variations in figures: areas, yields and significance beside the nominal ones, with paired uncertainties.

Made from the sums that `mlaas4hep.train.shifts` keeps. Invariant: yields are scaled up by the factors of the nominal
test part and taken at the nominal best cut, so that all that differs is the variation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.train.counting import MIN_BACKGROUND_EVENTS, Scan, asimov_significance
from mlaas4hep.train.processes import Processes
from mlaas4hep.train.shifts import Shift

Floats = NDArray[np.float64]


class Change(msgspec.Struct, frozen=True):
    """A number of expected events: nominal, varied, and the relative change with its paired uncertainty.

    The change is null where nothing is expected nominally.
    """

    nominal: float
    varied: float
    relative: float | None
    relative_err: float | None


class AreaChange(msgspec.Struct, frozen=True):
    """An area, and by how much it differs from the nominal one, with the paired uncertainty of that."""

    auc: float
    difference: float
    difference_err: float


class Changes(msgspec.Struct, frozen=True):
    """Changes of the yields by sample, and of signal and background together."""

    samples: dict[str, Change]
    signal: Change
    background: Change


class VariedCounting(msgspec.Struct, frozen=True):
    """Yields of a variation, one class taken as signal.

    Parameters
    ----------
    before, after
        A cut, the nominal best one; ``after`` is null where there is none.
    significance, nominal_significance
        At that cut, the background uncertain as asked for; null where there is none.
    """

    before: Changes
    after: Changes | None
    significance: float | None
    nominal_significance: float | None


class Variation(msgspec.Struct, frozen=True):
    """What one variation changes on the test part.

    Parameters
    ----------
    replaced
        What takes the place of what.
    events, gained, lost
        Events selected; those that are not selected nominally, and the reverse.
    auc
        Of several classes the mean of one against the rest; null where there is none.
    classes
        By score.
    counting
        By class taken as signal.
    reason
        Why there are no figures.
    """

    replaced: dict[str, str]
    events: int
    gained: int
    lost: int
    auc: AreaChange | None
    classes: dict[str, AreaChange | None]
    counting: dict[str, VariedCounting]
    reason: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Nominal:
    """What variations are held against.

    Parameters
    ----------
    sums, squares
        By score, float64 [M, P]: weights of each cell with a score of at least each cut, and their squares, as in
        `Shift`.
    scans
        By class taken as signal, the significance against the cut.
    kinds
        Processes of the run.
    cells
        int64 [P]: process of each cell (sample times number of classes, plus label); -1 of none.
    scales
        By process, what the test part is multiplied by.
    uncertainty
        Relative, of the background.
    """

    sums: Sequence[Floats]
    squares: Sequence[Floats]
    scans: Mapping[str, Scan]
    kinds: Processes
    cells: NDArray[np.int64]
    scales: Mapping[str, float | None]
    uncertainty: float


def variations_of(
    shifts: Sequence[Shift], nominal: Nominal, declared: Mapping[str, Mapping[str, str]]
) -> dict[str, Variation]:
    """By name, in the order of the config."""
    return {
        one.name: Variation(
            replaced=dict(declared[one.name]),
            events=one.events,
            gained=one.gained,
            lost=one.lost,
            auc=_area(one.areas[-1]),
            classes={name: _area(one.areas[column]) for column, name in enumerate(nominal.scans)},
            counting={
                name: _counting(one, nominal, column, name, scan)
                for column, (name, scan) in enumerate(nominal.scans.items())
            }
            if not one.reason
            else {},
            reason=one.reason or None,
        )
        for one in shifts
    }


def _area(values: Floats) -> AreaChange | None:
    return AreaChange(*values.tolist()) if np.isfinite(values).all() else None


def _counting(one: Shift, nominal: Nominal, column: int, signal: str, scan: Scan) -> VariedCounting:
    before = _changes(one, nominal, column, 0, signal)
    if scan.best is None:
        return VariedCounting(before, None, None, None)
    after = _changes(one, nominal, column, scan.best, signal)
    background = after.background.varied
    others = [name for name, of in nominal.kinds.classes.items() if of != signal]
    squares, counts = one.squares[column][scan.best], one.counts[column][scan.best]
    error = sum(_scale(nominal, name) ** 2 * float(squares[_cells(nominal, name)].sum()) for name in others) ** 0.5
    spread = np.hypot(nominal.uncertainty * background, (error**2 + scan.one_more) ** 0.5)
    found = float(asimov_significance(after.signal.varied, background, spread))
    enough = sum(int(counts[_cells(nominal, name)].sum()) for name in others) >= MIN_BACKGROUND_EVENTS
    return VariedCounting(before, after, found if enough and np.isfinite(found) else None, scan.uncertain[scan.best])


def _changes(one: Shift, nominal: Nominal, column: int, row: int, signal: str) -> Changes:
    """At one cut."""
    of = nominal.kinds.classes
    own, others = ([name for name in of if (of[name] == signal) is wanted] for wanted in (True, False))
    change = partial(_change, one, nominal, column, row)
    return Changes({name: change([name]) for name in of}, change(own), change(others))


def _change(one: Shift, nominal: Nominal, column: int, row: int, names: Sequence[str]) -> Change:
    """Of some processes together."""
    base = varied = base2 = varied2 = changed2 = 0.0
    for name in names:
        cells, scale = _cells(nominal, name), _scale(nominal, name)
        base += scale * float(nominal.sums[column][row][cells].sum())
        varied += scale * float(one.sums[column][row][cells].sum())
        base2 += scale**2 * float(nominal.squares[column][row][cells].sum())
        varied2 += scale**2 * float(one.squares[column][row][cells].sum())
        changed2 += scale**2 * float(one.changes[column][row][cells].sum())
    if not base > 0:
        return Change(base, varied, None, None)
    # Each event pulls the ratio r by (v - r b) / B with its varied weight v and its nominal one b.
    ratio, both = varied / base, 0.5 * (varied2 + base2 - changed2)
    variance = max(varied2 + ratio**2 * base2 - 2 * ratio * both, 0.0)
    small = 1e-24 * (varied2 + ratio**2 * base2)  # what rounding leaves of a factor common to all
    return Change(base, varied, ratio - 1, variance**0.5 / base if variance > 1e10 * small else 0.0)


def _cells(nominal: Nominal, process: str) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = nominal.cells == list(nominal.kinds.classes).index(process)
    return found


def _scale(nominal: Nominal, process: str) -> float:
    return nominal.scales[process] or 0.0
