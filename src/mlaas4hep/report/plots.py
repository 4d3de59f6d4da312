"""Pictures of a run in the style of the field, as PNG files.

Every function draws one picture into one file and leaves matplotlib as it found it. Invariant: the numbers come from
the caller; nothing is computed here but bins and ranges.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that stay apart for the colour-blind (Petroff 2021), as CMS and ATLAS use them.
COLOURS = ("#5790fc", "#f89c20", "#e42536", "#964a8b", "#9c9ca1", "#7a21dd")
_SIZE = (8.0, 7.0)
_DPI = 110


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


def draw_loss(curves: Sequence[LossCurve], path: Path, *, best_epoch: int | None = None) -> None:
    """Loss against epoch, with a line at the epoch whose weights were kept."""
    from matplotlib.ticker import MaxNLocator

    with _picture(path) as axes:
        for curve, colour in zip(curves, COLOURS, strict=False):
            epochs = np.arange(1, len(curve.loss) + 1)
            axes.plot(epochs, curve.loss, color=colour, label=curve.label, marker="o" if len(epochs) < 15 else None)
        if best_epoch is not None:
            axes.axvline(best_epoch, color="0.4", linestyle="--", label=f"kept: epoch {best_epoch}")
        axes.set_xlabel("Epoch")
        axes.set_ylabel("Weighted loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(x=0.02)
        axes.legend()


def draw_roc(curves: Sequence[RocCurve], path: Path) -> None:
    """Background efficiency (logarithmic) against signal efficiency, with the area under each curve."""
    with _picture(path) as axes:
        floor = min((_smallest(curve.background) for curve in curves), default=1e-3)
        for curve, colour in zip(curves, COLOURS, strict=False):
            label = f"{curve.label}  AUC {curve.auc:.3f} $\\pm$ {curve.auc_err:.3f}"
            axes.plot(curve.signal, np.maximum(curve.background, floor / 2), color=colour, label=label)
        diagonal = np.geomspace(floor, 1.0, 100)
        axes.plot(diagonal, diagonal, color="0.6", linestyle=":", label="guessing")
        axes.set_yscale("log")
        axes.set_xlim(0.0, 1.0)
        axes.set_ylim(floor, 1.5)
        axes.set_xlabel("Signal efficiency")
        axes.set_ylabel("Background efficiency")
        axes.legend(loc="lower right")


def _smallest(efficiency: NDArray[np.float64]) -> float:
    """Where the picture ends below: the power of ten under the smallest efficiency above zero."""
    positive = efficiency[efficiency > 0]
    return max(float(10 ** np.floor(np.log10(positive.min()))), 1e-5) if len(positive) else 1e-3


@contextlib.contextmanager
def _picture(path: Path) -> Iterator[Axes]:
    """One figure in the style of the field, written to a file when the block ends."""
    import matplotlib as mpl
    import mplhep
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {**mplhep.style.CMS, "font.size": 18, "legend.fontsize": 15, "axes.labelsize": 20}
    with mpl.rc_context(style):
        figure = Figure(figsize=_SIZE, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        yield axes
        axes.set_title("mlaas4hep", loc="left", fontsize=18, fontweight="bold")
        axes.set_title("Simulation", loc="right", fontsize=16)
        figure.savefig(path, dpi=_DPI, metadata={"Software": None})
