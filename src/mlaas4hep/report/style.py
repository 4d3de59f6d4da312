"""The look of all pictures: the field's style, colours that stay apart for everyone, one way to write a file.

Every picture is made inside `picture` or `grid`, which leave matplotlib as they found it. Invariant: the same figures
give the same bytes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that stay apart for the colour-blind (Petroff 2021), as CMS and ATLAS use them.
COLOURS = ("#5790fc", "#f89c20", "#e42536", "#964a8b", "#9c9ca1", "#7a21dd")
_SIZE = (8.0, 7.0)
_DPI = 110
_FONT: dict[str, Any] = {"font.size": 18, "legend.fontsize": 15, "axes.labelsize": 20}
_SMALL_FONT: dict[str, Any] = {
    "font.size": 11,
    "legend.fontsize": 13,
    "axes.labelsize": 12,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "xtick.major.size": 5,
    "ytick.major.size": 5,
    "axes.linewidth": 1.2,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
}


@dataclass(frozen=True, eq=False)
class Histogram:
    """A histogram of shares or counts: M bins with their uncertainties.

    Parameters
    ----------
    label
        For the legend.
    edges
        [M + 1], rising.
    values, errors
        [M].
    """

    label: str
    edges: NDArray[np.float64]
    values: NDArray[np.float64]
    errors: NDArray[np.float64]

    @property
    def centres(self) -> NDArray[np.float64]:
        """Middle of each bin, [M]."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not np.any(self.values)


def colour(number: int) -> str:
    """Colour of a class or curve by its place; they come round again after six."""
    return COLOURS[number % len(COLOURS)]


def line_style(number: int) -> str:
    """Style of a line by its place: full for the first six, then dashed, dash-dotted, dotted."""
    return ("-", "--", "-.", ":")[number // len(COLOURS) % 4]


def file_name(text: str) -> str:
    """A name that every file system takes.

    Examples
    --------
    >>> file_name("t t-bar/l+")
    't_t-bar_l_'
    """
    return re.sub(r"[^A-Za-z0-9.-]", "_", text)


@contextlib.contextmanager
def picture(path: Path, *, note: str = "Simulation", size: tuple[float, float] = _SIZE) -> Iterator[Axes]:
    """One pair of axes, written to a file when the block ends; ``note`` stands above its right end."""
    with _figure(path, size, _FONT, layout="constrained") as figure:
        axes = figure.add_subplot()
        yield axes
        axes.set_title("mlaas4hep", loc="left", fontsize=18, fontweight="bold")
        axes.set_title(note, loc="right", fontsize=16)


@contextlib.contextmanager
def two_pictures(path: Path, *, note: str = "Simulation") -> Iterator[tuple[Axes, Axes]]:
    """A large pair of axes above a small one that shares its horizontal axis."""
    with _figure(path, (8.0, 8.4), _FONT, layout="constrained") as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        yield above, below
        above.set_title("mlaas4hep", loc="left", fontsize=18, fontweight="bold")
        above.set_title(note, loc="right", fontsize=16)


@contextlib.contextmanager
def side_by_side(path: Path, *, height: float, note: str = "Simulation") -> Iterator[tuple[Axes, Axes]]:
    """Two pairs of axes with one vertical axis."""
    with _figure(path, (13.0, height), _FONT, layout="constrained") as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        yield left, right
        left.set_title("mlaas4hep", loc="left", fontsize=18, fontweight="bold")
        right.set_title(note, loc="right", fontsize=16)


@contextlib.contextmanager
def grid(
    path: Path, *, count: int, columns: int, note: str = "Simulation", legend: bool = True
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Small pairs of axes, row by row, written to a file when the block ends; below them is room for a ``legend``."""
    rows = -(-count // columns)
    below = 1.05 if legend else 0.65
    width, height = 3.4 * columns, 2.6 * rows + below - 0.15
    with _figure(path, (width, height), _SMALL_FONT) as figure:
        # Places by hand: letting matplotlib find them draws everything three times, seconds for sixteen panels.
        figure.subplots_adjust(
            0.8 / width, below / height, 1 - 0.15 / width, 1 - 0.4 / height, wspace=0.22, hspace=0.42
        )
        yield figure, [figure.add_subplot(rows, columns, place + 1) for place in range(count)]
        figure.axes[0].set_title("mlaas4hep", loc="left", fontsize=14, fontweight="bold")
        figure.axes[min(columns, count) - 1].set_title(note, loc="right", fontsize=12)


@contextlib.contextmanager
def _figure(
    path: Path, size: tuple[float, float], font: dict[str, Any], *, layout: Literal["constrained"] | None = None
) -> Iterator[Figure]:
    import matplotlib as mpl
    import mplhep
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {**mplhep.style.CMS, **font}
    with mpl.rc_context(style):
        figure = Figure(figsize=size, layout=layout)
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path, dpi=_DPI, metadata={"Software": None})
