"""The inputs by class, in a grid of small pictures: as read from the files, or as the model sees them.

Invariant: the numbers come from the caller, the first and last bin hold what lies outside the range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlaas4hep.report.style import Histogram, colour, grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS, ROWS = 4, 4
PER_PICTURE = COLUMNS * ROWS


@dataclass(frozen=True, eq=False)
class InputPanel:
    """One variable by class.

    Parameters
    ----------
    name
        With its group where it belongs to a collection.
    classes
        One histogram a class, each normalised to one.
    missing
        Share of the values that are missing.
    """

    name: str
    classes: Sequence[Histogram]
    missing: float


def draw_inputs(
    panels: Sequence[InputPanel], path: Path, *, note: str, words: str = "Share of the class by bin"
) -> None:
    """Some `PER_PICTURE` variables; ``note`` says of what they are, ``words`` what is drawn."""
    count = len(panels)
    with grid(path, count=count, columns=COLUMNS, note=note) as (figure, places):
        for panel, axes in zip(panels, places, strict=True):
            _draw_panel(panel, axes)
        figure.supylabel(words, x=0.008, fontsize=13)
        lines, names = places[0].get_legend_handles_labels()
        if names:
            figure.legend(lines, names, loc="lower center", ncols=len(names))


def _draw_panel(panel: InputPanel, axes: Axes) -> None:
    top = 0.0
    for number, one in enumerate(panel.classes):
        axes.stairs(one.values, one.edges, color=colour(number), linewidth=1.6, label=one.label)
        top = max(top, float(one.values.max(initial=0.0)))
    if panel.classes:
        axes.set_xlim(panel.classes[0].edges[0], panel.classes[0].edges[-1])
    axes.set_ylim(0.0, 1.3 * top or 1.0)
    axes.set_xlabel(panel.name, loc="center")
    axes.ticklabel_format(axis="both", style="sci", scilimits=(-3, 4), useMathText=True)
    axes.locator_params(axis="x", nbins=5)
    axes.locator_params(axis="y", nbins=4)
    if panel.missing > 0:
        axes.text(0.96, 0.93, missing_text(panel.missing), transform=axes.transAxes, ha="right", va="top", fontsize=10)


def missing_text(share: float) -> str:
    """How much is missing, in words.

    Examples
    --------
    >>> missing_text(0.1234), missing_text(0.0001)
    ('12 % missing', '< 0.1 % missing')
    """
    if share < 0.001:
        return "< 0.1 % missing"
    return f"{100 * share:.0f} % missing" if share >= 0.1 else f"{100 * share:.1f} % missing"
