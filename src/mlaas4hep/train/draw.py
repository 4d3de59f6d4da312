"""An evaluation as pictures, figures and page: what `evaluate` writes into the run.

Turns figures into what `mlaas4hep.report` draws. Invariant: everything is drawn beside the run first and moved in
whole, the page last, so that an interrupted evaluation leaves the old page with its pictures.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.report.inputs import PER_PICTURE, InputPanel, draw_inputs
from mlaas4hep.report.page import EVALUATION_FILE, PICTURE_FOLDER, write_page
from mlaas4hep.report.plots import draw_roc
from mlaas4hep.report.scores import Confusion, ScoreOfClass, draw_confusion, draw_scores
from mlaas4hep.report.style import Histogram, file_name
from mlaas4hep.report.verdict import ImportanceBar, SignificanceCurve, draw_importance, draw_significance
from mlaas4hep.train.distributions import shares
from mlaas4hep.train.draw_judgement import draw_changes, draw_part
from mlaas4hep.train.evaluation import Evaluation, Matrix
from mlaas4hep.train.figures import Curve
from mlaas4hep.train.inputs import InputCounts
from mlaas4hep.train.kept import Kept, ScoredPart
from mlaas4hep.train.output import roc_curves, to_json

_SCORE_BINS = 25
Floats = NDArray[np.float64]


def write_evaluation(
    run: Path, evaluation: Evaluation, kept: Kept, curves: Sequence[Curve], classes: Sequence[str]
) -> None:
    """Pictures, ``evaluation.json`` and page into a run directory.

    Parameters
    ----------
    run
        The directory; holds ``metrics.json``.
    evaluation
        The figures.
    kept
        Scores and inputs.
    curves
        ROC curves of all parts.
    classes
        Names, in label order.
    """
    publish(run, evaluation.plain(), lambda folder: draw(folder, evaluation, kept, curves, classes))


def publish(run: Path, figures: dict[str, Any], draw: Callable[[Path], None]) -> None:
    """Figures, what ``draw`` puts into a folder, and the page: beside the run first, then moved in."""
    with tempfile.TemporaryDirectory(prefix=".evaluation-", dir=run) as temporary:
        draft = Path(temporary)
        pictures = draft / PICTURE_FOLDER
        pictures.mkdir()
        draw(pictures)
        (draft / EVALUATION_FILE).write_text(to_json(figures), encoding="utf-8")
        (run / PICTURE_FOLDER).mkdir(exist_ok=True)
        for file in sorted(pictures.iterdir()):
            file.replace(run / PICTURE_FOLDER / file.name)
        (draft / EVALUATION_FILE).replace(run / EVALUATION_FILE)
        write_page(run)


def draw(folder: Path, evaluation: Evaluation, kept: Kept, curves: Sequence[Curve], classes: Sequence[str]) -> None:
    """All pictures that the figures allow."""
    errors = {name: area.auc_err for name, area in evaluation.classes.items()}
    shown = roc_curves(curves, classes, part="test", errors=errors)
    if shown:
        draw_roc(shown, folder / "roc.png", several=len(classes) > 2)
    _draw_scores(folder, evaluation, kept, classes)
    if evaluation.confusion is not None:
        draw_confusion(_confusion(evaluation.confusion, classes), folder / "confusion.png")
    if evaluation.importance is not None:
        bars = [ImportanceBar(*one) for one in evaluation.importance.inputs]
        draw_importance(bars, folder / "importance.png")
    note = "Simulation" if evaluation.lumi_fb is None else f"Simulation, {evaluation.lumi_fb:.4g} fb$^{{-1}}$"
    for number, curve in enumerate(_significances(evaluation)):
        path = folder / f"significance_{number}_{file_name(curve.name)}.png"
        draw_significance(curve, path, uncertainty=evaluation.background_uncertainty, note=note)
    draw_part(evaluation.parts.get("test"), folder, training_weights=evaluation.training_weights)
    draw_changes(evaluation.variations, folder)
    draw_counts(folder, kept.inputs, classes)


def _draw_scores(folder: Path, evaluation: Evaluation, kept: Kept, classes: Sequence[str]) -> None:
    edges = np.linspace(0.0, 1.0, _SCORE_BINS + 1)
    for column, name in enumerate(evaluation.compatibility):
        shown = [
            ScoreOfClass(
                one,
                *(_score_histogram(kept.parts.get(part), column, label, edges, part) for part in ("train", "test")),
            )
            for label, one in enumerate(classes)
        ]
        draw_scores(shown, folder / f"score_{column}_{file_name(name)}.png", score=name)


def _score_histogram(part: ScoredPart | None, column: int, label: int, edges: Floats, name: str) -> Histogram:
    if part is None:
        return shares(np.zeros(0), np.zeros(0), edges, label=name)
    own = part.judged.labels == label
    return shares(part.judged.scores[own, column], part.judged.weights[own], edges, label=name)


def _confusion(matrix: Matrix, classes: Sequence[str]) -> Confusion:
    shares_, errors = (np.array(one, dtype=np.float64) for one in (matrix.shares, matrix.errors))
    return Confusion(classes, shares_, errors, matrix.rule)


def _significances(evaluation: Evaluation) -> Iterator[SignificanceCurve]:
    for name, one in evaluation.counting.items():
        scan = one.scan
        known, uncertain = (np.array(values, dtype=np.float64) for values in (scan.known, scan.uncertain))
        if np.isfinite(uncertain).any():
            best = None if scan.best is None else scan.uncertain[scan.best]
            yield SignificanceCurve(name, np.array(scan.cuts), known, uncertain, scan.best_cut, best)


def draw_counts(folder: Path, inputs: InputCounts, classes: Sequence[str]) -> None:
    """The inputs of each class, as read and as the model sees them."""
    for kind, edges, counts, note in (
        ("read", inputs.read_edges, inputs.read, "as read from the files"),
        ("seen", inputs.seen_edges, inputs.seen, "as the model sees them"),
    ):
        if kind == "seen" and np.array_equal(edges, inputs.read_edges) and np.array_equal(counts, inputs.read):
            continue  # a tree without clips sees what was read
        panels = [
            InputPanel(name, _by_class(edges[place], counts[place], classes), float(inputs.missing[place]))
            for place, name in enumerate(inputs.names)
        ]
        for start in range(0, len(panels), PER_PICTURE):
            name = f"inputs_{start // PER_PICTURE + 1}_{kind}.png"
            draw_inputs(panels[start : start + PER_PICTURE], folder / name, note=note)


def _by_class(edges: Floats, counts: Floats, classes: Sequence[str]) -> list[Histogram]:
    """Each class normalised to one; bins at the end that no class fills are left out."""
    filled = np.flatnonzero(np.any(counts != 0, axis=0))
    stop = int(filled[-1]) + 1 if len(filled) else len(edges) - 1
    totals = counts.sum(axis=1, keepdims=True)
    found = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)[:, :stop]
    return [
        Histogram(name, edges[: stop + 1], found[label], np.zeros(stop))
        for label, name in enumerate(classes)
        if totals[label, 0] > 0
    ]
