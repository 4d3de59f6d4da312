"""How a search went: the figure by trial, by epoch and by dial, and which dials matter.

Every function draws one picture into one file. Invariant: the numbers come from the caller; a trial that gave no figure
is not drawn as if it had one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlaas4hep.report.style import colour, grid, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS, ROWS = 3, 3
PER_PICTURE = COLUMNS * ROWS
_NOTE = "Validation part"
_GREY, _RED = "0.55", 2


@dataclass(frozen=True, slots=True)
class TrialPoint:
    """One trial.

    Parameters
    ----------
    number
        From 0.
    value, error
        Its figure, that of its last epoch where it was ended early; and the uncertainty where that is known.
    complete
        Whether it was not ended early.
    default, best
        Whether it is the default config, or the best of all.
    epochs
        The figure after each epoch.
    """

    number: int
    value: float
    error: float | None
    complete: bool
    default: bool
    best: bool
    epochs: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class DialPanel:
    """One dial: its value in each trial that has a figure.

    Parameters
    ----------
    name
        Path in the config.
    values, figures
        One a complete trial, in the order of the trials; values are numbers, or texts of a choice.
    choices
        All texts of a choice; None of numbers.
    logarithmic
        Whether the axis is.
    """

    name: str
    values: Sequence[Any]
    figures: Sequence[float]
    choices: Sequence[str] | None
    logarithmic: bool


def draw_history(trials: Sequence[TrialPoint], path: Path, *, figure: str, sign: int) -> None:
    """The figure by trial, the best so far as a line, the default config with its uncertainty as a band."""
    from matplotlib.ticker import MaxNLocator

    complete = [one for one in trials if one.complete]
    early = [one for one in trials if not one.complete]
    with picture(path, note=_NOTE) as axes:
        default = next((one for one in complete if one.default), None)
        if default is not None and default.error is not None:
            low, high = default.value - default.error, default.value + default.error
            axes.axhspan(low, high, color=colour(0), alpha=0.15, linewidth=0, label="default config $\\pm 1\\sigma$")
        best_so_far: list[float] = []
        for one in complete:
            best_so_far.append(max([one.value, *best_so_far[-1:]], key=lambda value: sign * value))
        ends = [*(one.number for one in complete), max(one.number for one in trials)]
        axes.step(ends, [*best_so_far, best_so_far[-1]], where="post", color=colour(1), label="best so far")
        axes.plot(
            [one.number for one in complete], [one.value for one in complete], "o", color="0.25", label="complete"
        )
        if early:
            numbers, values = [one.number for one in early], [one.value for one in early]
            axes.plot(numbers, values, "x", color=colour(_RED), markersize=9, label="ended early, last epoch")
        for one in complete:
            if one.best:
                axes.plot(
                    one.number, one.value, "*", color=colour(1), markersize=22, markeredgecolor="black", label="best"
                )
        axes.set_xlabel("Trial")
        axes.set_ylabel(figure)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.35 * (high - low))  # room for the legend
        axes.legend(fontsize=13, ncols=2, loc="upper right")


def draw_learning(trials: Sequence[TrialPoint], path: Path, *, figure: str) -> None:
    """The figure after each epoch, a line a trial."""
    from matplotlib.ticker import MaxNLocator

    with picture(path, note=_NOTE) as axes:
        for one in sorted(trials, key=lambda one: (one.best, one.default)):
            look: dict[str, Any] = {"color": _GREY, "linewidth": 1.0}
            if not one.complete:
                look = {"color": colour(_RED), "linewidth": 1.0, "linestyle": ":"}
            if one.default:
                look = {"color": colour(0), "linewidth": 2.5, "label": "default config"}
            if one.best:
                look = {"color": colour(1), "linewidth": 2.5, "label": f"best: trial {one.number}"}
            axes.plot(list(one.epochs), list(one.epochs.values()), marker="." if len(one.epochs) < 15 else None, **look)
        axes.set_xlabel("Epoch")
        axes.set_ylabel(figure)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axes.get_legend_handles_labels()[0]:
            axes.legend()


def draw_dials(panels: Sequence[DialPanel], path: Path, *, figure: str) -> None:
    """Some `PER_PICTURE` dials; later trials are darker."""
    columns = min(COLUMNS, len(panels))
    with grid(path, count=len(panels), columns=columns, note=_NOTE, legend=False) as (drawn, places):
        for panel, axes in zip(panels, places, strict=True):
            _draw_dial(panel, axes)
        drawn.supylabel(figure, x=0.004, fontsize=14)


def _draw_dial(panel: DialPanel, axes: Axes) -> None:
    shades = [0.25 + 0.7 * place / max(1, len(panel.values) - 1) for place in range(len(panel.values))]
    at = [panel.choices.index(one) for one in panel.values] if panel.choices is not None else panel.values
    axes.scatter(at, panel.figures, c=shades, cmap="Blues", vmin=0, vmax=1, edgecolors="0.2", linewidths=0.6, s=34)
    axes.set_xlabel(panel.name, loc="center")
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.locator_params(axis="y", nbins=4)
    axes.margins(x=0.08, y=0.12)
    if panel.choices is not None:
        axes.set_xticks(range(len(panel.choices)), [_short(one) for one in panel.choices])
        axes.set_xlim(-0.5, len(panel.choices) - 0.5)
    elif panel.logarithmic:
        from matplotlib.ticker import NullFormatter

        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())


def _short(text: str) -> str:
    return text if len(text) <= 14 else f"{text[:13]}…"


def draw_importance(shares: Mapping[str, float], path: Path) -> None:
    """Bars, the largest on top."""
    rising = sorted(shares.items(), key=lambda one: one[1])
    with picture(path, note=_NOTE, size=(8.0, 2.2 + 0.55 * len(rising))) as axes:
        axes.barh([name for name, _ in rising], [share for _, share in rising], color=colour(0))
        axes.set_xlabel("Share of the spread")
        axes.set_xlim(0.0, 1.0)
        axes.tick_params(axis="y", which="minor", left=False, right=False)
