"""What a regression is worth, target by target: predicted against true, residuals, bias and resolution.

Invariant: the numbers come from the caller; nothing is computed here but ranges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.report.style import COLOURS, Histogram, colour, line_style, picture

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Plane:
    """A histogram of true (first axis) and predicted values, with the same edges [M + 1] on both; values [M, M]."""

    edges: Floats
    values: Floats


@dataclass(frozen=True)
class Point:
    """A figure of the events from ``low`` to ``high`` in the true value, of which ``mean`` is the mean."""

    low: float
    high: float
    mean: float
    value: float
    error: float


def draw_predicted(plane: Plane, path: Path, *, target: str) -> None:
    """Predicted against true, the share of the events in colour (logarithmic), and the line on which both agree."""
    from matplotlib.colors import LogNorm

    shown = np.where(plane.values > 0, plane.values, np.nan).T
    low, high = plane.edges[0], plane.edges[-1]
    with picture(path) as axes:
        if np.isfinite(shown).any():
            smallest, largest = float(np.nanmin(shown)), float(np.nanmax(shown))
            scale = LogNorm(smallest, max(largest, 1.001 * smallest))
            mesh = axes.pcolormesh(plane.edges, plane.edges, shown, cmap="Blues", norm=scale)
            axes.figure.colorbar(mesh, ax=axes, fraction=0.046, pad=0.03).set_label("Share of the events by bin")
        axes.plot([low, high], [low, high], color=COLOURS[2], linestyle="--", label="predicted = true")
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.set_xlabel(f"True {target}")
        axes.set_ylabel(f"Predicted {target}")
        axes.legend(loc="upper left")


def draw_residuals(train: Histogram, test: Histogram, path: Path, *, target: str, words: str) -> None:
    """The training part filled, the test part as points; ``words`` tells its figures."""
    with picture(path) as axes:
        axes.stairs(train.values, train.edges, fill=True, color=COLOURS[0], alpha=0.35, label="train")
        axes.stairs(train.values, train.edges, color=COLOURS[0], linewidth=1.5)
        axes.errorbar(
            test.centres, test.values, yerr=test.errors, label=f"test: {words}", fmt="o", markersize=5, color="black"
        )
        axes.axvline(0.0, color="0.4", linestyle=":")
        axes.set_xlim(test.edges[0], test.edges[-1])
        axes.set_ylim(0.0, 1.45 * max(float(np.max(one.values)) for one in (train, test)) or 1.0)
        axes.set_xlabel(f"Predicted minus true {target}")
        axes.set_ylabel("Share of the events by bin")
        axes.legend(loc="upper left")


def draw_runs_by_true(
    runs: Mapping[str, Sequence[Point]], path: Path, *, target: str, figure: str = "Resolution"
) -> None:
    """A figure of several runs in bins of the true value; that of a resolution begins at zero."""
    with picture(path) as axes:
        for number, (name, points) in enumerate(runs.items()):
            means, values = [one.mean for one in points], [one.value for one in points]
            errors = [one.error for one in points]
            style = line_style(number)
            axes.errorbar(means, values, yerr=errors, fmt="o", linestyle=style, color=colour(number), label=name)
        axes.set_xlabel(f"True {target}")
        axes.set_ylabel(f"{figure} of {target}")
        axes.margins(y=0.25)
        if figure == "Resolution":
            axes.set_ylim(bottom=0.0)
        else:
            axes.axhline(0.0, color="0.4", linestyle="--")
        axes.legend(
            loc="upper left" if figure == "Resolution" else "upper right",  # biases fall
            fontsize=15 if len(runs) < 6 else 10,
        )


def draw_by_true(
    points: Sequence[Point], path: Path, *, target: str, figure: str, line: float, shown: tuple[float, float]
) -> None:
    """A figure in bins of the true value.

    Parameters
    ----------
    points
        The bins; the outer ones reach as far as the events do, and beyond the picture.
    path
        The file.
    target, figure
        Names.
    line
        Where the figure stands for all events, or should.
    shown
        Range of the true value.
    """
    with picture(path) as axes:
        means = np.array([one.mean for one in points])
        across = np.array([[one.mean - one.low for one in points], [one.high - one.mean for one in points]])
        axes.errorbar(
            means,
            [one.value for one in points],
            xerr=np.maximum(across, 0.0),
            yerr=[one.error for one in points],
            fmt="o",
            color=COLOURS[0],
            ecolor=COLOURS[0],
        )
        axes.axhline(line, color="0.4", linestyle="--")
        axes.set_xlim(*shown)
        axes.set_xlabel(f"True {target}")
        axes.set_ylabel(f"{figure} of {target}")
        axes.margins(y=0.2)
        if figure == "Resolution":
            axes.set_ylim(bottom=0.0)
