"""The evaluation of a regression as pictures, figures and page: what `evaluate` writes into the run.

Turns predictions into what `mlaas4hep.report.targets` draws. Invariant: as for classes, everything is drawn beside the
run first and moved in whole, the page last.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.report.style import Histogram, file_name
from mlaas4hep.report.targets import Plane, Point, draw_by_true, draw_predicted, draw_residuals
from mlaas4hep.report.verdict import ImportanceBar, draw_importance
from mlaas4hep.train.distributions import shares
from mlaas4hep.train.draw import draw_counts, publish
from mlaas4hep.train.kept import Kept
from mlaas4hep.train.loop import Judged
from mlaas4hep.train.residuals import TargetBin, TargetFigures
from mlaas4hep.train.target_evaluation import TargetEvaluation
from mlaas4hep.train.target_figures import wanted_of

# What is drawn of a distribution: its central 99 %.
_LOW, _HIGH = 0.005, 0.995
_PLANE_BINS, _RESIDUAL_BINS = 50, 40
Floats = NDArray[np.float64]


def write_target_evaluation(run: Path, evaluation: TargetEvaluation, kept: Kept) -> None:
    """Pictures, ``evaluation.json`` and page into a run directory."""
    publish(run, evaluation.plain(), lambda folder: _draw(folder, evaluation, kept))


def _draw(folder: Path, evaluation: TargetEvaluation, kept: Kept) -> None:
    judged = {part: one.judged for part, one in kept.parts.items()}
    for column, (name, figures) in enumerate(evaluation.test.items()):
        place = f"{column}_{file_name(name)}.png"
        plane = _plane(judged["test"], column)
        draw_predicted(plane, folder / f"predicted_{place}", target=name)
        _draw_residuals(judged, column, name, figures, folder / f"residuals_{place}")
        _draw_bins(plane, evaluation.bins[name], name, figures, folder / place)
    if evaluation.importance is not None:
        bars = [ImportanceBar(*one) for one in evaluation.importance.inputs]
        draw_importance(bars, folder / "importance.png", figure="$R^2$")
    draw_counts(folder, kept.inputs, ("all events",))


def _draw_residuals(judged: dict[str, Judged], column: int, name: str, figures: TargetFigures, path: Path) -> None:
    residuals = {part: _residuals(one, column) for part, one in judged.items()}
    edges = _even(np.concatenate([residuals[part] for part in ("train", "test") if part in residuals]), _RESIDUAL_BINS)
    train, test = (_shares(residuals.get(part), judged.get(part), edges, part) for part in ("train", "test"))
    words = f"bias {figures.bias:.3g} $\\pm$ {figures.bias_err:.1g}, core width {figures.resolution:.3g}"
    draw_residuals(train, test, path, target=name, words=words)


def _draw_bins(plane: Plane, bins: Sequence[TargetBin], name: str, figures: TargetFigures, path: Path) -> None:
    """Bias and resolution over the range of true values that the first picture shows."""
    if not bins:
        return
    shown = float(plane.edges[0]), float(plane.edges[-1])
    bias = [Point(one.low, one.high, one.mean, one.bias, one.bias_err) for one in bins]
    width = [Point(one.low, one.high, one.mean, one.resolution, one.resolution_err) for one in bins]
    for figure, points, line in (("Bias", bias, 0.0), ("Resolution", width, figures.resolution)):
        file = path.with_name(f"{figure.lower()}_{path.name}")
        draw_by_true(points, file, target=name, figure=figure, line=line, shown=shown)


def _plane(judged: Judged, column: int) -> Plane:
    true, predicted = wanted_of(judged)[:, column].astype(np.float64), judged.scores[:, column].astype(np.float64)
    edges = _even(np.concatenate([true, predicted]), _PLANE_BINS)
    sums, _, _ = np.histogram2d(true, predicted, bins=[edges, edges], weights=judged.weights)
    return Plane(edges, sums / judged.weights.sum())


def _residuals(judged: Judged, column: int) -> Floats:
    return judged.scores[:, column].astype(np.float64) - wanted_of(judged)[:, column]


def _shares(residuals: Floats | None, judged: Judged | None, edges: Floats, part: str) -> Histogram:
    if residuals is None or judged is None:
        return shares(np.zeros(0), np.zeros(0), edges, label=part)
    return shares(residuals, judged.weights, edges, label=part)


def _even(values: Floats, bins: int) -> Floats:
    """Edges of bins of one width over the central 99 %."""
    low, high = np.quantile(values, [_LOW, _HIGH])
    return np.linspace(low, high, bins + 1) if high > low else np.linspace(low - 0.5, low + 0.5, bins + 1)
