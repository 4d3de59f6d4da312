"""What the scores rest on and what they are worth: importance of the inputs, significance against the cut.

Invariant: the numbers come from the caller; nothing is computed here but ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.report.style import COLOURS, picture

MAX_BARS = 25


@dataclass(frozen=True)
class ImportanceBar:
    """By how much the area falls when one input is permuted, with its uncertainty; ``whole`` of a whole collection."""

    name: str
    drop: float
    error: float
    whole: bool


def draw_importance(bars: Sequence[ImportanceBar], path: Path, *, figure: str = "AUC") -> None:
    """The most important inputs, the first on top; those after `MAX_BARS` are left out. ``figure`` is what falls."""
    shown = list(bars[:MAX_BARS])
    with picture(path, size=(9.0, 2.2 + 0.42 * max(len(shown), 3))) as axes:
        places = np.arange(len(shown))
        for whole, shade, label in ((False, COLOURS[0], "one variable"), (True, COLOURS[1], "a whole collection")):
            own = [place for place in places if shown[place].whole == whole]
            if own:
                axes.barh(
                    own,
                    [shown[place].drop for place in own],
                    xerr=[shown[place].error for place in own],
                    color=shade,
                    height=0.7,
                    label=label,
                    error_kw={"elinewidth": 1.3, "ecolor": "black"},
                )
        axes.axvline(0.0, color="black", linewidth=1.0)
        axes.set_yticks(places, [one.name for one in shown], fontsize=14)
        axes.tick_params(axis="y", which="both", length=0)
        axes.minorticks_off()
        axes.invert_yaxis()
        axes.set_xlabel(f"Fall of the {figure} when permuted")
        if any(one.whole for one in shown):
            axes.legend(loc="lower right")


@dataclass(frozen=True, eq=False)
class SignificanceCurve:
    """Expected significance against the cut on the score of one class.

    Parameters
    ----------
    name
        The class taken as signal.
    cuts
        [M], rising.
    known, uncertain
        Significance [M] with a background that is known exactly, and with its uncertainty; NaN where none is given.
    best_cut, best
        Cut with the highest significance with uncertainty, and that significance; None where there is none.
    """

    name: str
    cuts: NDArray[np.float64]
    known: NDArray[np.float64]
    uncertain: NDArray[np.float64]
    best_cut: float | None
    best: float | None


def draw_significance(curve: SignificanceCurve, path: Path, *, uncertainty: float, note: str) -> None:
    """Dashed with a known background, full with an uncertain one, a dot at the best cut; logarithmic.

    ``uncertainty`` is the relative one of the background, ``note`` stands above the picture (the luminosity).
    """
    with picture(path, note=note) as axes:
        uncertain = f"background $\\pm$ {100 * uncertainty:g} % and statistics of simulation"
        axes.plot(curve.cuts, curve.known, color=COLOURS[0], linestyle="--", label="background known exactly")
        axes.plot(curve.cuts, curve.uncertain, color=COLOURS[2], label=uncertain)
        if curve.best is not None and curve.best_cut is not None:
            label = f"best cut {curve.best_cut:.3f}: $Z$ = {curve.best:.3g}"
            axes.plot([curve.best_cut], [curve.best], "o", color=COLOURS[2], markeredgecolor="black", label=label)
        low, high = _range(np.concatenate([curve.known, curve.uncertain]))
        axes.set_yscale("log")
        axes.set_ylim(low / 2, high * (high / low) ** 0.3 * 3)
        axes.set_xlim(0.0, 1.0)
        axes.set_xlabel(f"Cut on the score of {curve.name}")
        axes.set_ylabel("Expected significance $Z$")
        axes.legend(loc="upper left")


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    """Smallest and largest value that a logarithmic axis can show."""
    shown = values[np.isfinite(values) & (values > 0)]
    return (float(shown.min()), float(shown.max())) if len(shown) else (0.1, 1.0)
