"""Whether scores are chances: observed share against mean score, with the weight of each bin below.

Invariant: the numbers come from the caller; nothing is computed here but ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.report.style import colour, line_style, two_pictures

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """Bins of one score.

    Parameters
    ----------
    label
        For the legend.
    scores, observed, errors, shares
        [M]: mean score, share of the class with its uncertainty, share of all weight.
    edges
        [M, 2].
    """

    label: str
    scores: Floats
    observed: Floats
    errors: Floats
    shares: Floats
    edges: Floats


def draw_calibration(curves: Sequence[ReliabilityCurve], path: Path, *, weights: str) -> None:
    """Points with error bars on the diagonal, if all is well; ``weights`` says by which weights.

    Parameters
    ----------
    curves
        Drawn over each other.
    path
        The file.
    weights
        For the axes.
    """
    with two_pictures(path) as (axes, below):
        axes.plot([0, 1], [0, 1], color="0.5", linestyle="--", label="score = chance")
        for number, one in enumerate(curves):
            shade, style = colour(number), line_style(number)
            axes.errorbar(
                one.scores, one.observed, yerr=one.errors, fmt="o", linestyle=style, color=shade, label=one.label
            )
            middle = one.edges.mean(axis=1)
            below.step(middle, one.shares, where="mid", color=shade, linestyle=style)
        axes.set_ylim(-0.05, 1.05 + 0.08 * max(len(curves), 1))
        axes.set_ylabel("Observed share of the class")
        axes.legend(loc="upper left", fontsize=15 if len(curves) < 5 else 11, ncols=1 if len(curves) < 7 else 2)
        below.set_yscale("log")
        smallest = min((float(one.shares.min()) for one in curves if len(one.shares)), default=0.1)
        below.set_ylim(min(10 ** np.floor(np.log10(max(smallest, 1e-6))), 0.1), 1.0)  # one bin of all events: from 0.1
        below.set_xlim(0.0, 1.0)
        below.set_xlabel(f"Mean score by bin, {weights}")
        below.set_ylabel("Share")
