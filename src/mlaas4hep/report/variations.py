"""What systematic variations change: area under the curve, and yields after a cut.

Invariant: the numbers come from the caller; nothing is computed here but ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlaas4hep.report.style import COLOURS, side_by_side

MAX_VARIATIONS = 30


@dataclass(frozen=True)
class VariedBar:
    """One variation: changes of area, signal and background, each with its uncertainty; None where there is none."""

    name: str
    area: tuple[float, float] | None
    signal: tuple[float, float] | None
    background: tuple[float, float] | None


def draw_variations(bars: Sequence[VariedBar], path: Path, *, cut: str) -> None:
    """Change of the area, and of the yields after the cut, variation by variation, the first on top.

    Parameters
    ----------
    bars
        At most `MAX_VARIATIONS` are drawn.
    path
        The file.
    cut
        The cut, in words.
    """
    shown = list(bars[:MAX_VARIATIONS])
    places = np.arange(len(shown))
    with side_by_side(path, height=2.6 + 0.5 * max(len(shown), 2)) as (left, right):
        for place, one in zip(places, shown, strict=True):
            if one.area is not None:
                left.errorbar([one.area[0]], [place], xerr=[one.area[1]], fmt="o", color="black")
        for shift, name, shade in ((-0.15, "signal", COLOURS[2]), (0.15, "background", COLOURS[0])):
            found = [(place, getattr(one, name)) for place, one in zip(places, shown, strict=True)]
            found = [(place, one) for place, one in found if one is not None]
            right.errorbar(
                [100 * one[0] for _, one in found],
                [place + shift for place, _ in found],
                xerr=[100 * one[1] for _, one in found],
                fmt="o",
                color=shade,
                label=name,
            )
        for axes in (left, right):
            axes.axvline(0.0, color="0.4", linestyle="--", linewidth=1.2)
            axes.set_yticks(places, [one.name for one in shown], fontsize=14)
            axes.set_ylim(len(shown) - 0.5, -1.3)  # room for the legend
            axes.tick_params(axis="y", which="both", length=0)
            axes.minorticks_off()
            axes.margins(x=0.15)
        left.set_xlabel("Change of the AUC")
        left.ticklabel_format(axis="x", style="plain", useOffset=False)
        left.tick_params(axis="x", labelsize=13)
        right.tick_params(axis="x", labelsize=13)
        right.tick_params(axis="y", labelleft=False)
        right.set_xlabel(f"Change of the yields [%], {cut}")
        right.legend(loc="upper right", ncols=2)
