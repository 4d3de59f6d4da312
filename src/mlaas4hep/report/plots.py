"""How learning went and how well it separates: loss by epoch, ROC curves.

Every function draws one picture into one file. Invariant: the numbers come from the caller; nothing is computed here
but ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.report.style import colour, line_style, picture


@dataclass(frozen=True)
class RocCurve:
    """One curve: efficiencies for falling cuts on the score, from 0 to 1.

    Parameters
    ----------
    label
        For the legend.
    signal, background
        Efficiencies [M] of signal and background.
    auc, auc_err
        Area under the curve and its uncertainty.
    """

    label: str
    signal: NDArray[np.float64]
    background: NDArray[np.float64]
    auc: float
    auc_err: float


@dataclass(frozen=True)
class LossCurve:
    """Loss by epoch of one part of the data; the first epoch is 1."""

    label: str
    loss: Sequence[float]


def draw_loss(curves: Sequence[LossCurve], path: Path, *, best_epoch: int | None = None, unit: str = "epoch") -> None:
    """Loss against epoch (or round), with a line at the one whose weights were kept."""
    from matplotlib.ticker import MaxNLocator

    with picture(path) as axes:
        for number, curve in enumerate(curves):
            epochs = np.arange(1, len(curve.loss) + 1)
            axes.plot(
                epochs, curve.loss, color=colour(number), label=curve.label, marker="o" if len(epochs) < 15 else None
            )
        if best_epoch is not None:
            axes.axvline(best_epoch, color="0.4", linestyle="--", label=f"kept: {unit} {best_epoch}")
        axes.set_xlabel(unit.capitalize())
        axes.set_ylabel("Weighted loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(x=0.02)
        axes.legend()


def draw_roc(curves: Sequence[RocCurve], path: Path, *, several: bool = False) -> None:
    """Background efficiency (logarithmic) against signal efficiency, with the area under each curve.

    With ``several``, each curve takes one class for the signal and all others for the background.
    """
    with picture(path) as axes:
        floor = min((_smallest(curve.background) for curve in curves), default=1e-3)
        for number, curve in enumerate(curves):
            label = f"{curve.label}: AUC {curve.auc:.3f} $\\pm$ {curve.auc_err:.3f}"
            values = np.maximum(curve.background, floor / 2)
            axes.plot(curve.signal, values, color=colour(number), linestyle=line_style(number), label=label)
        diagonal = np.geomspace(floor, 1.0, 100)
        axes.plot(diagonal, diagonal, color="0.6", linestyle=":", label="guessing")
        axes.set_yscale("log")
        axes.set_xlim(0.0, 1.0)
        axes.set_ylim(floor, 1.5)
        axes.set_xlabel("Efficiency of the class" if several else "Signal efficiency")
        axes.set_ylabel("Efficiency of all other classes" if several else "Background efficiency")
        axes.legend(loc="lower right", fontsize=15 if len(curves) < 6 else 10)


def _smallest(efficiency: NDArray[np.float64]) -> float:
    """Where the picture ends below: the power of ten under the smallest efficiency above zero."""
    positive = efficiency[efficiency > 0]
    return max(float(10 ** np.floor(np.log10(positive.min()))), 1e-5) if len(positive) else 1e-3
