"""Runs of a regression side by side: a line for each run and target, and the resolution of all in one picture.

Used by `mlaas4hep.train.compare`. Where two runs judge the same events, their figures are compared event by event.
Invariant: only what the runs keep is read; no file of events is opened.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from mlaas4hep.errors import UserError
from mlaas4hep.report.page import COMPARISON_FILE, PICTURE_FOLDER, write_target_comparison
from mlaas4hep.report.style import file_name
from mlaas4hep.report.targets import Point, draw_runs_by_true
from mlaas4hep.train.evaluate import EvaluatedRun
from mlaas4hep.train.loop import Judged
from mlaas4hep.train.output import draft_folder, to_json
from mlaas4hep.train.residuals import TargetFigures, figure_pulls
from mlaas4hep.train.target_figures import wanted_of


class ComparedTarget(msgspec.Struct, frozen=True):
    """One target of one run.

    Parameters
    ----------
    name, model, run, report
        What it is, the directory, and its page as a link from the comparison's page.
    target
        Which.
    events_test
        Of the test part.
    figures
        Of the target; null where the test part gives none.
    differences
        Of resolution and RMSE, minus those of the first run, each with its uncertainty; empty where the test parts are
        not the same events.
    seconds
        Wall time of the training.
    """

    name: str
    model: str
    run: str
    report: str
    target: str
    events_test: int
    figures: TargetFigures | None
    differences: dict[str, tuple[float, float]]
    seconds: float


def compare_targets(runs: Mapping[str, EvaluatedRun], target: Path) -> Path:
    """Write the folder of a comparison.

    Parameters
    ----------
    runs
        Evaluated, by a name for each; the others are compared with the first.
    target
        A folder that is not there yet.

    Returns
    -------
    Path of the page.

    Raises
    ------
    UserError
        The runs learned other targets.
    """
    first = next(iter(runs.values()))
    names: list[str] = first.metrics["target_names"]
    for run in runs.values():
        if run.metrics.get("target_names") != names:
            raise UserError(
                f"{run.path} learned {', '.join(run.metrics.get('target_names') or ['classes'])}, {first.path} "
                f"{', '.join(names)}: runs are compared where their targets are the same"
            )
    lines = [
        _line(run, name, column, one, first, target) for column, one in enumerate(names) for name, run in runs.items()
    ]
    # The best resolution first, target by target.
    lines.sort(key=lambda one: (names.index(one.target), one.figures.resolution if one.figures else float("inf")))
    with draft_folder(target) as draft:
        (draft / PICTURE_FOLDER).mkdir()
        for column, one in enumerate(names):
            points = {name: _resolutions(run, one) for name, run in runs.items()}
            draw_runs_by_true(points, draft / PICTURE_FOLDER / f"resolution_{column}_{file_name(one)}.png", target=one)
        figures = {"targets": names, "runs": msgspec.to_builtins(lines)}
        (draft / COMPARISON_FILE).write_text(to_json(figures), encoding="utf-8")
        page = write_target_comparison(draft).name
    return target / page


def _line(run: EvaluatedRun, name: str, column: int, asked: str, first: EvaluatedRun, target: Path) -> ComparedTarget:
    assert run.targets is not None
    part = run.targets.parts.get("test")
    return ComparedTarget(
        name=name,
        model=run.metrics["model"],
        run=str(run.path),
        report=os.path.relpath(run.report.absolute(), target.absolute()),
        target=asked,
        events_test=part.events if part else 0,
        figures=run.targets.test.get(asked),
        differences={} if run is first else _differences(run, first, column),
        seconds=run.metrics["seconds"]["total"],
    )


def _differences(run: EvaluatedRun, first: EvaluatedRun, column: int) -> dict[str, tuple[float, float]]:
    """With the uncertainties that are left when the fluctuations of the common events cancel."""
    one, other = run.test, first.test
    if one is None or other is None or not _same_events(one, other):
        return {}
    if run.targets is None or first.targets is None or not (run.targets.test and first.targets.test):
        return {}
    own, base = (
        figure_pulls(judged.scores[:, column], wanted_of(judged)[:, column], judged.weights) for judged in (one, other)
    )
    return {
        name: (own[name][0] - base[name][0], float(np.sqrt(np.sum((own[name][1] - base[name][1]) ** 2))))
        for name in ("resolution", "rmse")
    }


def _same_events(one: Judged, other: Judged) -> bool:
    """Equal truth and weights in the order of the files: the same split of the same selection."""
    return np.array_equal(wanted_of(one), wanted_of(other)) and np.array_equal(one.weights, other.weights)


def _resolutions(run: EvaluatedRun, target: str) -> Sequence[Point]:
    assert run.targets is not None
    bins = run.targets.bins.get(target, ())
    return [Point(one.low, one.high, one.mean, one.resolution, one.resolution_err) for one in bins]
