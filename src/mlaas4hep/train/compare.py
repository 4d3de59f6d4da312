"""Runs side by side: one table and one picture of their test parts.

Where two runs judge the same events, their areas are compared event by event. Invariant: only what the runs keep is
read; no file of events is opened.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from mlaas4hep.errors import UserError
from mlaas4hep.report.page import COMPARISON_FILE, PICTURE_FOLDER, write_comparison
from mlaas4hep.report.plots import RocCurve, draw_roc
from mlaas4hep.train.compare_targets import compare_targets
from mlaas4hep.train.evaluate import EvaluatedRun
from mlaas4hep.train.loop import Judged
from mlaas4hep.train.metrics import area_influence, roc_curve
from mlaas4hep.train.output import draft_folder, free_path, to_json


class Compared(msgspec.Struct, frozen=True):
    """One line of the comparison.

    Parameters
    ----------
    name, model, run, report
        What it is, the directory, and its page as a link from the comparison's page.
    events_test, auc, auc_err, loss
        Of the test part.
    difference, difference_err
        Area minus that of the first run with its uncertainty; null where the test parts are not the same events.
    best_significance
        At the best cut on the score of the signal.
    seconds
        Wall time of the training.
    """

    name: str
    model: str
    run: str
    report: str
    events_test: int
    auc: float | None
    auc_err: float | None
    loss: float | None
    difference: float | None
    difference_err: float | None
    best_significance: float | None
    seconds: float


def compare(runs: Sequence[EvaluatedRun], *, output: str | Path | None = None) -> Path:
    """Write a folder with a page, its picture and ``comparison.json``.

    Parameters
    ----------
    runs
        Evaluated; the others are compared with the first.
    output
        A folder that is not there yet; ``runs/comparison`` (or ``comparison-2``, ...) where None.

    Returns
    -------
    Path of the page.

    Raises
    ------
    UserError
        The runs tell other classes apart, or the folder is there.
    """
    first = runs[0]
    if any(run.targets is not None for run in runs):
        return _of_targets(runs, output)
    for run in runs[1:]:
        if run.metrics["classes"] != first.metrics["classes"]:
            raise UserError(
                f"{run.path} tells {', '.join(run.metrics['classes'])} apart, {first.path} "
                f"{', '.join(first.metrics['classes'])}: runs are compared where their classes are the same"
            )
    target = free_path(output, "comparison")
    names = _names(runs)
    lines = [_line(run, name, first, target) for run, name in zip(runs, names, strict=True)]
    with draft_folder(target) as draft:
        (draft / PICTURE_FOLDER).mkdir()
        curves = [curve for run, name in zip(runs, names, strict=True) for curve in _curves(run, name)]
        if curves:
            draw_roc(curves, draft / PICTURE_FOLDER / "roc.png", several=len(first.metrics["classes"]) > 2)
        figures = {
            "classes": first.metrics["classes"],
            "background_uncertainty": first.evaluation.background_uncertainty,
            "runs": msgspec.to_builtins(lines),
        }
        (draft / COMPARISON_FILE).write_text(to_json(figures), encoding="utf-8")
        page = write_comparison(draft).name
    return target / page


def _of_targets(runs: Sequence[EvaluatedRun], output: str | Path | None) -> Path:
    for run in runs:
        if run.targets is None:
            raise UserError(f"{run.path} tells classes apart, others are regressions: they have no figure in common")
    return compare_targets(dict(zip(_names(runs), runs, strict=True)), free_path(output, "comparison"))


def _names(runs: Sequence[EvaluatedRun]) -> list[str]:
    """The directories' names; with those above them where two are the same."""
    paths = [run.path.absolute() for run in runs]
    for depth in range(1, 1 + max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{paths[0]}: is given twice; a run is not compared with itself")


def _line(run: EvaluatedRun, name: str, first: EvaluatedRun, target: Path) -> Compared:
    difference, error = (None, None) if run is first else _difference(run, first)
    evaluation, metrics = run.evaluation, run.metrics
    part = evaluation.parts.get("test")
    counting = list(evaluation.counting.values())
    scan = counting[-1].scan if counting else None
    return Compared(
        name=name,
        model=metrics["model"],
        run=str(run.path),
        report=os.path.relpath(run.report.absolute(), target.absolute()),
        events_test=part.events if part else 0,
        auc=evaluation.auc,
        auc_err=evaluation.auc_err,
        loss=part.loss if part else None,
        difference=difference,
        difference_err=error,
        best_significance=None if scan is None or scan.best is None else scan.uncertain[scan.best],
        seconds=metrics["seconds"]["total"],
    )


def _difference(run: EvaluatedRun, first: EvaluatedRun) -> tuple[float | None, float | None]:
    """Of the areas, with the uncertainty that is left when the fluctuations of the common events cancel."""
    one, other = run.test, first.test
    if one is None or other is None or run.evaluation.auc is None or not _same_events(one, other):
        return None, None
    positives = _positives(run)
    (area, pull), (base, other_pull) = (
        area_influence(judged.scores, judged.labels, positives, judged.weights) for judged in (one, other)
    )
    return area - base, float(np.sqrt(np.sum((pull - other_pull) ** 2)))


def _same_events(one: Judged, other: Judged) -> bool:
    """Equal labels and weights in the order of the files: the same split of the same selection."""
    return np.array_equal(one.labels, other.labels) and np.array_equal(one.weights, other.weights)


def _positives(run: EvaluatedRun) -> list[int]:
    classes: list[str] = run.metrics["classes"]
    return [1] if len(classes) == 2 else list(range(len(classes)))


def _curves(run: EvaluatedRun, name: str) -> list[RocCurve]:
    """Of two classes the one curve; of several that of the signal."""
    if run.test is None or run.evaluation.auc is None:
        return []
    label = _positives(run)[-1]
    own = run.evaluation.classes[run.metrics["classes"][label]]
    roc = roc_curve(run.test.scores[:, -1], run.test.labels == label, run.test.weights)
    shown = f"{name}" if run.test.scores.shape[1] == 1 else f"{name}, {run.metrics['classes'][label]}"
    return [RocCurve(shown, roc.signal, roc.background, own.auc, own.auc_err)]
