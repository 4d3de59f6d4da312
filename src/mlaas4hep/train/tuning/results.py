"""What a search leaves behind: the best config, tables of the trials, the verdict, pictures and the page.

::

    SEARCH/best.yaml      an ordinary config, ready for ``train``
    SEARCH/trials.csv     one line a trial; trials.json has the same with every epoch
    SEARCH/tune.json      the best, the default, the verdict
    SEARCH/tune.html      the page

Invariant: written anew from the study alone, as often as it is asked for; the runs of the trials are not changed.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mlaas4hep.config.search import Choice, Dial
from mlaas4hep.errors import UserError, told_once
from mlaas4hep.progress import Progress
from mlaas4hep.report.page import PICTURE_FOLDER, SEARCH_FILE, TRIALS_FILE, write_search
from mlaas4hep.report.search import (
    PER_PICTURE,
    DialPanel,
    TrialPoint,
    draw_dials,
    draw_history,
    draw_importance,
    draw_learning,
)
from mlaas4hep.train.document import to_yaml
from mlaas4hep.train.output import to_json
from mlaas4hep.train.tuning.setup import Setup
from mlaas4hep.train.tuning.study import Record, Study, best_of
from mlaas4hep.train.tuning.verdict import Verdict, compare_runs

BEST_FILE, TABLE_FILE = "best.yaml", "trials.csv"
FIGURES = {"auc": "AUC", "loss": "Loss"}


def write_results(study: Study, progress: Progress) -> dict[str, Any]:
    """Write all of it.

    Parameters
    ----------
    study
        With as many trials as were asked for, or with those that there are.
    progress
        Told how far it is.

    Returns
    -------
    Content of ``tune.json``.

    Raises
    ------
    UserError
        No trial is complete.
    """
    folder, setup, records = study.folder, study.setup, study.records()
    best = best_of(records, setup.sign)
    if best is None:
        why = told_once((f"trial {one.number}", f": {one.reason}") for one in records if one.reason)
        raise UserError("\n".join([f"{folder}: no trial is complete, so there is no best one", *why]))
    default = next((one for one in records if one.default and one.state == "complete"), None)
    verdict = _verdict(study, records, best, default, progress)
    importance = study.importance()
    found = {
        "name": setup.ordinary(best.values).name,
        "config": setup.config,
        "metric": setup.metric,
        "dials": {name: str(dial) for name, dial in setup.dials.items()},
        "trials": study.total,
        "counts": {
            state: sum(one.state == state for one in records) for state in ("complete", "pruned", "failed", "lost")
        },
        "start": next(one.values for one in records if one.default),
        "best": _plain(best),
        "default": None if default is None else _plain(default),
        "verdict": None if verdict is None else msgspec.to_builtins(verdict),
        "words": words_of(best, default, verdict, setup.metric, records),
        "importance": importance,
        "trial_seconds": round(sum(one.seconds or 0.0 for one in records), 1),
        "seed": setup.seed,
    }
    (folder / BEST_FILE).write_text(to_yaml(setup.ordinary(best.values)), encoding="utf-8")
    (folder / TRIALS_FILE).write_text(to_json({"trials": [_plain(one) for one in records]}), encoding="utf-8")
    _write_table(records, list(setup.dials), folder / TABLE_FILE)
    (folder / SEARCH_FILE).write_text(to_json(found), encoding="utf-8")
    _draw(records, best, setup, importance, folder / PICTURE_FOLDER)
    write_search(folder)
    return found


def _verdict(
    study: Study, records: Sequence[Record], best: Record, default: Record | None, progress: Progress
) -> Verdict | None:
    if default is None or best.default or best.run is None or default.run is None:
        return None
    return compare_runs(
        study.folder / best.run,
        study.folder / default.run,
        metric=study.setup.metric,
        trials=sum(one.state in ("complete", "pruned") and not one.default for one in records),
        max_events=study.setup.max_events,
        progress=progress,
    )


def words_of(
    best: Record, default: Record | None, verdict: Verdict | None, metric: str, records: Sequence[Record]
) -> str:
    """The verdict as a sentence or two."""
    if best.default:
        return "No trial did better than the default config."
    if default is None:
        why = next((one.reason for one in records if one.default and one.state == "failed"), "it is not complete")
        return f"Whether trial {best.number} beats the default config cannot be said: that failed ({why})."
    figure = FIGURES[metric]
    told = f"{figure} {best.value:.4f} against {default.value:.4f}"
    if verdict is None:
        return f"Trial {best.number} and the default config were not judged by the same events: {told}."
    gain = f"a gain of {verdict.difference:.4f} +- {verdict.error:.4f} on the same {verdict.events:,} events"
    shown = f"{verdict.chance_of_best:.2g}" if verdict.chance_of_best >= 1e-3 else "below 0.001"
    tried = f"the best of {verdict.trials} trials" if verdict.trials > 1 else "a trial"
    chance = f"The chance of that for {tried} no better than the default is {shown}."
    if verdict.beats:
        return f"Trial {best.number} beats the default config: {told}, {gain}. {chance}"
    return f"No trial is shown to beat the default config: the best, trial {best.number}, has {told}, {gain}. {chance}"


def _plain(record: Record) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(msgspec.json.encode(record))
    return plain


def _write_table(records: Sequence[Record], dials: Sequence[str], path: Path) -> None:
    facts = ("number", "state", "value", "error", "default", "retry_of", "seconds", "worker", "run", "reason")
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*facts[:4], *dials, "epochs", *facts[4:]])
        for one in records:
            plain = msgspec.structs.asdict(one)
            values = [_cell(one.values.get(name)) for name in dials]
            table.writerow(
                [*(plain[name] for name in facts[:4]), *values, len(one.epochs), *(plain[name] for name in facts[4:])]
            )


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value)


def _draw(records: Sequence[Record], best: Record, setup: Setup, importance: Mapping[str, float], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    figure = FIGURES[setup.metric]
    points = list(filter(None, (_point(one, best) for one in records)))
    draw_history(points, folder / "history.png", figure=figure, sign=setup.sign)
    if learned := [one for one in points if one.epochs]:
        draw_learning(learned, folder / "learning.png", figure=figure)
    complete = [one for one in records if one.state == "complete"]
    if len(complete) < 2:
        return
    panels = [_panel(name, dial, complete) for name, dial in setup.dials.items()]
    for number, start in enumerate(range(0, len(panels), PER_PICTURE)):
        draw_dials(panels[start : start + PER_PICTURE], folder / f"dials_{number}.png", figure=figure)
    if importance:
        draw_importance(importance, folder / "importance.png")


def _point(record: Record, best: Record) -> TrialPoint | None:
    """None of a trial without a figure."""
    last = next(reversed(record.epochs.values()), None)
    value = record.value if record.state == "complete" else last if record.state == "pruned" else None
    if value is None:
        return None
    complete, is_best = record.state == "complete", record.number == best.number
    return TrialPoint(record.number, value, record.error, complete, record.default, is_best, record.epochs)


def _panel(name: str, dial: Dial, complete: Sequence[Record]) -> DialPanel:
    values = [one.values[name] for one in complete]
    figures = [one.value for one in complete if one.value is not None]
    if isinstance(dial, Choice):
        texts = [dial.labels[dial.values.index(one)] for one in values]
        return DialPanel(name, texts, figures, dial.labels, False)
    return DialPanel(name, values, figures, None, dial.logarithmic)
