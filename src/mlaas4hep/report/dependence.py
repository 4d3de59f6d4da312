"""What cuts on a score do to the background's shape in an observer, and its efficiency along it.

Invariant: the numbers come from the caller; nothing is computed here but ranges and densities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.report.style import colour, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Shape:
    """Shares [K] of the background by bin, with their uncertainties."""

    label: str
    shares: Floats
    errors: Floats


def draw_shapes(
    before: Shape, after: Sequence[Shape], path: Path, *, edges: Floats, observer: str, shown: tuple[float, float]
) -> None:
    """The background before a cut filled, after each cut as points; each normalised to one.

    Parameters
    ----------
    before, after
        By bin.
    path
        The file.
    edges
        [K + 1].
    observer
        Its name, for the axis.
    shown
        Range of the axis: a long tail would hide the rest.
    """
    widths = np.diff(edges)
    with picture(path) as axes:
        axes.stairs(before.shares / widths, edges, fill=True, color="0.8", label=before.label)
        for number, one in enumerate(after):
            axes.stairs(one.shares / widths, edges, color=colour(number), linewidth=1.8, label=one.label)
            _bars(axes, edges, one.shares / widths, one.errors / widths, number, len(after), shown)
        top = max(float(np.max((one.shares + one.errors) / widths)) for one in (before, *after))
        axes.set_ylim(0.0, top * (1.2 + 0.09 * len(after)))
        axes.set_xlim(*shown)
        axes.set_xlabel(observer)
        axes.set_ylabel("Density of the background, normalised to one")
        axes.legend(loc="upper right")


def draw_efficiency(
    curves: Sequence[tuple[Shape, float]], path: Path, *, edges: Floats, observer: str, shown: tuple[float, float]
) -> None:
    """Background efficiency of each cut by bin; dashed, that of the cut over all bins. Logarithmic.

    Parameters
    ----------
    curves
        Efficiencies by bin, NaN where there is none, and that of all events.
    path
        The file.
    edges, observer, shown
        As of `draw_shapes`.
    """
    with picture(path) as axes:
        smallest = 1.0
        for number, (one, mean) in enumerate(curves):
            axes.axhline(mean, color=colour(number), linestyle="--", linewidth=1.2)
            axes.plot([], [], "o-", color=colour(number), label=one.label)
            axes.stairs(np.where(one.shares > 0, one.shares, np.nan), edges, color=colour(number), linewidth=1.5)
            _bars(axes, edges, one.shares, one.errors, number, len(curves), shown)
            positive = one.shares[np.isfinite(one.shares) & (one.shares > 0)]
            smallest = min(smallest, mean, float(positive.min()) if len(positive) else mean)
        axes.set_yscale("log")
        low = max(smallest / 2, 1e-5)
        axes.set_ylim(low, (1 / low) ** (0.12 * len(curves)) * 2)
        axes.set_xlim(*shown)
        axes.set_xlabel(observer)
        axes.set_ylabel("Background efficiency by bin")
        axes.legend(loc="upper right")


def _bars(
    axes: Axes, edges: Floats, values: Floats, errors: Floats, number: int, count: int, shown: tuple[float, float]
) -> None:
    """Error bars beside each other in a bin, within what is shown of it."""
    low, high = (np.clip(one, *shown) for one in (edges[:-1], edges[1:]))
    at = low + (high - low) * (number + 1) / (count + 1)
    good = np.isfinite(values) & (values > 0) & (high > low)
    axes.errorbar(
        at[good],
        values[good],
        yerr=[np.minimum(errors, 0.999 * values)[good], errors[good]],
        fmt="o",
        markersize=4,
        color=colour(number),
    )
