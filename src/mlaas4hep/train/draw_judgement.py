"""Pictures of what scores are worth beside their area: calibration, dependence on observers, systematic variations.

Turns figures into what `mlaas4hep.report` draws. Invariant: nothing is drawn that does not stand in the figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.report.calibration import ReliabilityCurve, draw_calibration
from mlaas4hep.report.dependence import Shape, draw_efficiency, draw_shapes
from mlaas4hep.report.style import file_name
from mlaas4hep.report.variations import MAX_VARIATIONS, VariedBar, draw_variations
from mlaas4hep.train.calibration import Calibration, Calibrations
from mlaas4hep.train.dependence import Dependence, Kept
from mlaas4hep.train.figures import PartFigures
from mlaas4hep.train.variations import Change, Variation

Floats = NDArray[np.float64]
WEIGHTS = {
    "balanced": "training weights (balanced)",
    "physics": "physics weights",
    "none": "every event counted once",
}


def draw_part(figures: PartFigures | None, folder: Path, *, training_weights: str) -> None:
    """Calibration and dependence of a part that is held out."""
    if figures is None:
        return
    if figures.calibration:
        curves = reliability_curves(figures.calibration)
        draw_calibration(curves, folder / "calibration.png", weights=WEIGHTS[training_weights])
    for column, observers in enumerate(figures.dependence.values()):
        for place, (name, one) in enumerate(observers.items()):
            if any(kept.js is not None for kept in one.kept):
                _draw_dependence(one, folder, f"{column}_{place}_{file_name(name)}.png", name)


def reliability_curves(found: Mapping[str, Calibrations]) -> list[ReliabilityCurve]:
    """One for each score, with the weights of the training."""
    return [
        reliability_curve(f"{name}: ECE {one.learned.ece:.3f} $\\pm$ {one.learned.ece_err:.3f}", one.learned)
        for name, one in found.items()
    ]


def reliability_curve(label: str, one: Calibration) -> ReliabilityCurve:
    """Bins as arrays."""
    rows = [(each.score, each.observed, each.observed_err, each.share) for each in one.bins]
    score, observed, errors, shares = np.array(rows).T
    return ReliabilityCurve(
        label, score, observed, errors, shares, np.array([(each.low, each.high) for each in one.bins])
    )


def _draw_dependence(one: Dependence, folder: Path, name: str, observer: str) -> None:
    """Of cuts at an efficiency of the background; those of the signal stand in the table."""
    edges = np.array(one.edges)
    shown = _range(edges)
    kept = [each for each in one.kept if each.of == "background" and each.js is not None]
    kept = kept or [each for each in one.kept if each.js is not None]
    labels = [f"{100 * each.wanted:g} % of the {each.of} kept" for each in kept]
    shapes = [
        Shape(f"{label}, JS {each.js:.3g}", np.array(each.shares), np.array(each.shares_err))
        for label, each in zip(labels, kept, strict=True)
    ]
    before = Shape("all background", np.array(one.shares), np.array(one.shares_err))
    draw_shapes(before, shapes, folder / f"shape_{name}", edges=edges, observer=observer, shown=shown)
    efficiencies = [(_efficiency(label, each), each.background) for label, each in zip(labels, kept, strict=True)]
    draw_efficiency(efficiencies, folder / f"efficiency_{name}", edges=edges, observer=observer, shown=shown)


def _efficiency(label: str, one: Kept) -> Shape:
    values, errors = (np.array(each, dtype=np.float64) for each in (one.efficiency, one.efficiency_err))
    return Shape(label, values, errors)


def _range(edges: Floats) -> tuple[float, float]:
    """Without the far ends of the outer bins, which reach as far as the events do."""
    low, high = edges[0], edges[-1]
    if len(edges) > 4:
        low = max(low, edges[1] - 2 * (edges[2] - edges[1]))
        high = min(high, edges[-2] + 2 * (edges[-2] - edges[-3]))
    return float(low), float(high)


def draw_changes(variations: Mapping[str, Variation], folder: Path) -> None:
    """A picture for each class taken as signal; the largest changes where not all can be shown."""
    variations = {name: one for name, one in variations.items() if one.reason is None}
    if not variations:
        return
    for column, signal in enumerate(next(iter(variations.values())).classes):
        chosen = list(variations.items())
        if len(chosen) > MAX_VARIATIONS:
            chosen.sort(key=lambda one: -abs(area.difference if (area := one[1].classes[signal]) else 0.0))
        bars = [_bar(name, one, signal) for name, one in chosen]
        cut = any(one.counting[signal].after is not None for one in variations.values())
        path = folder / f"variations_{column}_{file_name(signal)}.png"
        draw_variations(bars, path, cut="at the best cut" if cut else "before a cut")


def _bar(name: str, one: Variation, signal: str) -> VariedBar:
    area, counting = one.classes[signal], one.counting[signal]
    yields = counting.after or counting.before
    own = None if area is None else (area.difference, area.difference_err)
    return VariedBar(name, own, _relative(yields.signal), _relative(yields.background))


def _relative(one: Change) -> tuple[float, float] | None:
    return None if one.relative is None or one.relative_err is None else (one.relative, one.relative_err)
