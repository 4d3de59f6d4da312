"""Where the events end up: the score by class in two parts of the data, and which class is taken for which.

Invariant: the numbers come from the caller; a class that is empty is left out of the picture, not drawn as zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.report.style import Histogram, colour, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class ScoreOfClass:
    """One score of the events of one class, in the training part and in the test part, each normalised to one.

    Parameters
    ----------
    name
        The class.
    train, test
        Shares of the class by bin.
    """

    name: str
    train: Histogram
    test: Histogram


def draw_scores(classes: Sequence[ScoreOfClass], path: Path, *, score: str) -> None:
    """The training part filled, the test part as points with error bars; the share of events logarithmic.

    Parameters
    ----------
    classes
        In label order.
    path
        The file.
    score
        Name of the class whose score it is.
    """
    with picture(path) as axes:
        shown = [(number, one) for number, one in enumerate(classes) if not (one.train.is_empty and one.test.is_empty)]
        for number, one in shown:
            _draw_class(axes, one, colour(number))
        low, high = _range([one for _, one in shown])
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axes.set_xlim(0.0, 1.0)
        axes.set_xlabel(f"Score of {score}")
        axes.set_ylabel("Share of the class by bin")
        if shown:
            axes.legend(loc="upper center", ncols=2, columnspacing=1.2)


def _draw_class(axes: Axes, one: ScoreOfClass, shade: str) -> None:
    train, test = one.train, one.test
    axes.stairs(train.values, train.edges, fill=True, color=shade, alpha=0.35, label=f"{one.name}, train")
    axes.stairs(train.values, train.edges, color=shade, linewidth=1.5)
    filled = test.values > 0
    axes.errorbar(
        test.centres[filled],
        test.values[filled],
        # Down to the axis at most: an error bar cannot reach below zero on a logarithmic axis.
        yerr=[np.minimum(test.errors, 0.999 * test.values)[filled], test.errors[filled]],
        fmt="o",
        markersize=5,
        color=shade,
        markeredgecolor="black",
        markeredgewidth=0.5,
        label=f"{one.name}, test",
    )


def _range(classes: Sequence[ScoreOfClass]) -> tuple[float, float]:
    """From a little under the smallest share to far above the largest one, where the legend has room."""
    values = np.concatenate([[1.0], *(part.values for one in classes for part in (one.train, one.test))])
    positive = values[values > 0]
    low = max(float(positive.min()) / 2, 1e-6)
    top = float(positive[1:].max()) if len(positive) > 1 else 1.0
    return low, top * (top / low) ** 0.38


@dataclass(frozen=True, eq=False)
class Confusion:
    """Shares of each true class by the class it was taken for.

    Parameters
    ----------
    classes
        Names, C of them.
    shares, errors
        [C, C]: row is the true class; a row adds up to one, NaN for a class without events.
    rule
        How a class is chosen from the scores, in words.
    """

    classes: Sequence[str]
    shares: NDArray[np.float64]
    errors: NDArray[np.float64]
    rule: str


def draw_confusion(confusion: Confusion, path: Path) -> None:
    """The matrix with its figures, in per cent of each row."""
    with picture(path) as axes:
        count = len(confusion.classes)
        image = axes.imshow(100 * confusion.shares, cmap="Blues", vmin=0, vmax=100)
        for row, column in np.ndindex(count, count):
            share, error = 100 * confusion.shares[row, column], 100 * confusion.errors[row, column]
            if np.isfinite(share):
                ink = "white" if share > 55 else "black"
                text = f"{share:.1f}\n$\\pm$ {error:.1f}"
                axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=18 if count < 5 else 12)
        axes.set_xticks(range(count), confusion.classes)
        axes.set_yticks(range(count), confusion.classes, rotation=90, va="center")
        axes.tick_params(which="both", length=0)
        axes.minorticks_off()
        axes.set_xlabel(f"Class by {confusion.rule}")
        axes.set_ylabel("True class")
        bar = axes.figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
        bar.set_label("Share of the true class [%]")
