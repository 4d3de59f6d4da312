"""Runs side by side: one sorted table of their test parts, their ROC curves and calibrations over each other.

Where two runs judge the same events, their areas are compared event by event, each with each. Invariant: only what the
runs keep is read; no file of events is opened.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path

import msgspec
import numpy as np

from mlaas4hep.errors import UserError
from mlaas4hep.report.calibration import draw_calibration
from mlaas4hep.report.page import COMPARISON_FILE, PICTURE_FOLDER, write_comparison
from mlaas4hep.report.plots import RocCurve, draw_roc
from mlaas4hep.report.style import file_name
from mlaas4hep.train.calibration import Calibration
from mlaas4hep.train.compare_targets import compare_targets
from mlaas4hep.train.draw_judgement import WEIGHTS, reliability_curve
from mlaas4hep.train.evaluate import EvaluatedRun
from mlaas4hep.train.loop import Judged
from mlaas4hep.train.metrics import area_influence, roc_curve
from mlaas4hep.train.output import draft_folder, free_path, to_json

# More curves cannot be told apart in one picture; the table has all runs.
MAX_CURVES = 12


class OfClass(msgspec.Struct, frozen=True):
    """One of several classes in one run: area against all others, and calibration of its score as in `Compared`."""

    auc: float
    auc_err: float
    ece: float | None
    ece_err: float | None
    ece_expected: float | None
    brier: float | None
    brier_err: float | None


class Compared(msgspec.Struct, frozen=True):
    """One line of the comparison.

    Parameters
    ----------
    name, model, run, report
        What it is, the directory, and its page as a link from the comparison's page.
    events_test, auc, auc_err, loss
        Of the test part.
    difference, difference_err
        Area minus that of the first run given with its uncertainty; null where the test parts are not the same events.
    ece, ece_err, ece_expected, brier, brier_err
        Calibration of the score of the signal (the last class) with the weights that the model learned with.
    training_weights
        Those.
    best_significance
        At the best cut on the score of the signal.
    seconds
        Wall time of the training.
    classes
        Of several classes, each of them.
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
    ece: float | None
    ece_err: float | None
    ece_expected: float | None
    brier: float | None
    brier_err: float | None
    training_weights: str
    classes: dict[str, OfClass] = {}


class Pair(msgspec.Struct, frozen=True):
    """Area of one run minus that of another on the same events, with its paired uncertainty."""

    one: str
    other: str
    difference: float
    difference_err: float


def compare(runs: Sequence[EvaluatedRun], *, output: str | Path | None = None) -> Path:
    """Write a folder with a page, its picture and ``comparison.json``.

    Parameters
    ----------
    runs
        Evaluated, as many as there are.
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
    named = dict(zip(_names(runs), runs, strict=True))
    first_name = next(iter(named))
    ranked = sorted(named.items(), key=lambda one: -(one[1].evaluation.auc or 0.0))
    pairs = _pairs(dict(ranked))
    lines = [_line(run, name, pairs.get((name, first_name)), target) for name, run in ranked]
    with draft_folder(target) as draft:
        (draft / PICTURE_FOLDER).mkdir()
        _draw(dict(ranked[:MAX_CURVES]), draft / PICTURE_FOLDER)
        above = [(one.name, other.name) for place, one in enumerate(lines) for other in lines[place + 1 :]]
        figures = {
            "classes": first.metrics["classes"],
            "background_uncertainty": first.evaluation.background_uncertainty,
            "first": first_name,
            "drawn": min(len(ranked), MAX_CURVES),
            "runs": msgspec.to_builtins(lines),
            "pairs": [msgspec.to_builtins(Pair(*key, *pairs[key])) for key in above if key in pairs],
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


def _line(run: EvaluatedRun, name: str, difference: tuple[float, float] | None, target: Path) -> Compared:
    evaluation, metrics = run.evaluation, run.metrics
    part = evaluation.parts.get("test")
    learned = _calibration(run, metrics["classes"][-1])
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
        difference=difference[0] if difference else None,
        difference_err=difference[1] if difference else None,
        best_significance=None if scan is None or scan.best is None else scan.uncertain[scan.best],
        seconds=metrics["seconds"]["total"],
        ece=learned.ece if learned else None,
        ece_err=learned.ece_err if learned else None,
        ece_expected=learned.ece_expected if learned else None,
        brier=learned.brier if learned else None,
        brier_err=learned.brier_err if learned else None,
        training_weights=evaluation.training_weights,
        classes={} if len(evaluation.classes) < 2 else {one: _of_class(run, one) for one in evaluation.classes},
    )


def _of_class(run: EvaluatedRun, name: str) -> OfClass:
    area, learned = run.evaluation.classes[name], _calibration(run, name)
    if learned is None:
        return OfClass(area.auc, area.auc_err, None, None, None, None, None)
    figures = (learned.ece, learned.ece_err, learned.ece_expected, learned.brier, learned.brier_err)
    return OfClass(area.auc, area.auc_err, *figures)


def _calibration(run: EvaluatedRun, name: str) -> Calibration | None:
    """Of the score of a class, with the weights that the model learned with."""
    part = run.evaluation.parts.get("test")
    found = None if part is None else part.calibration.get(name)
    return None if found is None else found.learned


def _pairs(runs: Mapping[str, EvaluatedRun]) -> dict[tuple[str, str], tuple[float, float]]:
    """Differences of areas, with the uncertainty that is left when the fluctuations of the common events cancel."""
    pulls = {}
    for name, run in runs.items():
        if run.test is not None and run.evaluation.auc is not None:
            test = run.test
            pulls[name] = test, *area_influence(test.scores, test.labels, _positives(run), test.weights)
    found = {}
    for one, other in permutations(pulls, 2):
        (judged, area, pull), (base, other_area, other_pull) = pulls[one], pulls[other]
        if _same_events(judged, base):
            found[one, other] = area - other_area, float(np.sqrt(np.sum((pull - other_pull) ** 2)))
    return found


def _same_events(one: Judged, other: Judged) -> bool:
    """Equal labels and weights in the order of the files: the same split of the same selection."""
    return np.array_equal(one.labels, other.labels) and np.array_equal(one.weights, other.weights)


def _draw(runs: Mapping[str, EvaluatedRun], folder: Path) -> None:
    """ROC curves and calibration: of two classes those of the signal, of several a picture each."""
    classes: list[str] = next(iter(runs.values())).metrics["classes"]
    several = len(classes) > 2
    for number, shown in enumerate(classes if several else classes[-1:]):
        ending = f"_{number}_{file_name(shown)}.png" if several else ".png"
        _draw_class(runs, shown, folder, ending, several=several)


def _draw_class(runs: Mapping[str, EvaluatedRun], shown: str, folder: Path, ending: str, *, several: bool) -> None:
    words = {name: f"{name}, {shown}" if several else name for name in runs}
    curves = [curve for name, run in runs.items() for curve in _curves(run, shown, words[name])]
    if not curves:
        return
    draw_roc(curves, folder / f"roc{ending}", several=several)
    found = {words[name]: _calibration(run, shown) for name, run in runs.items() if run.test}
    lines = [reliability_curve(name, one) for name, one in found.items() if one is not None]
    if lines:
        weights = {run.evaluation.training_weights for run in runs.values()}
        told = WEIGHTS[weights.pop()] if len(weights) == 1 else "each with its training weights"
        draw_calibration(lines, folder / f"calibration{ending}", weights=told)


def _positives(run: EvaluatedRun) -> list[int]:
    classes: list[str] = run.metrics["classes"]
    return [1] if len(classes) == 2 else list(range(len(classes)))


def _curves(run: EvaluatedRun, shown: str, words: str) -> list[RocCurve]:
    """The curve of one class against all others, if there is one."""
    if run.test is None or run.evaluation.auc is None:
        return []
    classes: list[str] = run.metrics["classes"]
    label = classes.index(shown)
    column = 0 if run.test.scores.shape[1] == 1 else label
    roc = roc_curve(run.test.scores[:, column], run.test.labels == label, run.test.weights)
    own = run.evaluation.classes[shown]
    return [RocCurve(words, roc.signal, roc.background, own.auc, own.auc_err)]
