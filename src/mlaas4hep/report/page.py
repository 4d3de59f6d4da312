"""The page of a run, and the page that compares runs: HTML files that are read without a network.

They are written beside the figures (``metrics.json``, ``evaluation.json``, ``comparison.json``) and link to pictures by
relative paths, so that a folder can be moved or sent. Invariant: every figure on a page stands in those files; text
from configs and files is escaped.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE = "report.html"
METRICS_FILE = "metrics.json"
EVALUATION_FILE = "evaluation.json"
COMPARISON_FILE = "comparison.json"
SEARCH_FILE = "tune.json"
TRIALS_FILE = "trials.json"
SEARCH_PAGE = "tune.html"
PICTURE_FOLDER = "pictures"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of the page: its path below the folder, a title, and what it shows."""

    file: str
    title: str
    words: str


# By place on the page: which files of the pictures' folder, and what is said about them.
_PICTURES = {
    "separation": [
        ("roc.png", "ROC", "By the graph that is served, weighted by physics weights."),
        ("confusion.png", "Confusion", "Row by row, which class the events of a class are taken for, by weight."),
    ],
    "learning": [
        ("loss.png", "Loss", "Weighted as in training; the dashed line marks the weights that were kept."),
        ("score_*.png", "Score by class", "Training part filled, test part as points; each class adds up to one."),
    ],
    "calibration": [
        (
            "calibration.png",
            "Calibration",
            "Observed share against the score; below, where the events are.",
        ),
    ],
    "observers": [
        ("shape_*.png", "Shape of the background", "Background before and after cuts on the score."),
        ("efficiency_*.png", "Background efficiency", "By bin; dashed, that of the whole background."),
    ],
    "variations": [("variations_*.png", "Systematic variations", "Changes with their paired uncertainties.")],
    "cuts": [("significance_*.png", "Significance", "Against the cut on the score; the dot marks the best cut.")],
    "importance": [("importance.png", "Importance", "Fall when an input is permuted between events.")],
    "inputs": [
        ("inputs_*_read.png", "Inputs as read", "As read from the files, after the selection."),
        ("inputs_*_seen.png", "Inputs as the model sees them", "The same as the model sees them."),
    ],
}


# What is another thing where a run has folds.
_OF_FOLDS = {
    "roc.png": "Out of fold: each event by the one model that has not seen it, weighted by physics weights.",
    "loss.png": "Of the validation part of each fold, weighted as in training.",
}


# The same of each target of a regression; {} is its number.
_TARGET_PICTURES = [
    ("predicted_{}_*.png", "Predicted against true", "Test part, the central 99 %; on the dashed line both agree."),
    ("residuals_{}_*.png", "Residuals", "Training part filled, test part as points; each adds up to one."),
    ("bias_{}_*.png", "Bias", "Mean residual in bins of the true value that hold about the same number of events."),
    ("resolution_{}_*.png", "Resolution", "Half the central 68 % of the residuals; dashed: of all events."),
]


_SEARCH_PICTURES = {
    "history": [
        ("history.png", "History", "Validation part, in the order of beginning; the line is the best so far."),
        ("learning.png", "Learning", "After each epoch, weighted as in training; dotted: ended early."),
    ],
    "dials": [("dials_*.png", "Dials", "The figure against each dial; later trials are darker.")],
    "importance": [
        (
            "importance.png",
            "Importance of the dials",
            "Share of each dial in the spread of the figure (fANOVA); of few trials a guess.",
        ),
    ],
}


def write_page(folder: Path) -> Path:
    """Draw the page of a run from what lies in its folder.

    Parameters
    ----------
    folder
        Holds ``metrics.json``, ``evaluation.json`` where the run was evaluated, and those pictures that there are.

    Returns
    -------
    Path of the page.
    """
    evaluation = _read(folder / EVALUATION_FILE) if (folder / EVALUATION_FILE).exists() else None
    run = _read(folder / METRICS_FILE)
    words = _OF_FOLDS if run.get("folds") else {}
    asked = {
        place: [(file, title, words.get(file, told)) for file, title, told in shown]
        for place, shown in _PICTURES.items()
    }
    values: dict[str, Any] = {"pictures": {place: list(_found(folder, shown)) for place, shown in asked.items()}}
    values["pictures"]["observers"].sort(key=lambda one: one.file.split("_")[1:3])
    if run.get("task") == "regression":
        values["by_target"] = [list(_found(folder, _numbered(number))) for number in range(len(run["target_names"]))]
    template = "regression.html" if "by_target" in values else "run.html"
    return _write(folder, template, run=run, evaluation=evaluation, **values)


def write_comparison(folder: Path) -> Path:
    """Draw the page that compares runs, from the ``comparison.json`` and the pictures of its folder."""
    kinds = (("roc", _PICTURES["separation"][0]), ("calibration", _PICTURES["calibration"][0]))
    pictures = list(_found(folder, [(f"{kind}*.png", title, words) for kind, (_, title, words) in kinds]))
    return _write(folder, "comparison.html", comparison=_read(folder / COMPARISON_FILE), pictures=pictures)


def write_target_comparison(folder: Path) -> Path:
    """Draw the page that compares regressions, from the ``comparison.json`` and the pictures of its folder."""
    comparison = _read(folder / COMPARISON_FILE)
    words = "Half the central 68 % of the residuals, in bins of the true value."
    bias = "Mean residual in the same bins; what a model leaves open draws it to the mean."
    asked = [
        [(f"resolution_{number}_*.png", "Resolution", words), (f"bias_{number}_*.png", "Bias", bias)]
        for number in range(len(comparison["targets"]))
    ]
    pictures = [list(_found(folder, one)) for one in asked]
    return _write(folder, "comparison_targets.html", comparison=comparison, by_target=pictures)


def write_search(folder: Path) -> Path:
    """Draw the page of a search, from the ``tune.json``, the ``trials.json`` and the pictures of its folder."""
    pictures = {place: list(_found(folder, _SEARCH_PICTURES[place])) for place in _SEARCH_PICTURES}
    found, trials = _read(folder / SEARCH_FILE), _read(folder / TRIALS_FILE)
    return _write(folder, "search.html", page=SEARCH_PAGE, search=found, trials=trials["trials"], pictures=pictures)


def _numbered(number: int) -> list[tuple[str, str, str]]:
    return [(pattern.format(number), title, words) for pattern, title, words in _TARGET_PICTURES]


def _found(folder: Path, asked: Iterable[tuple[str, str, str]]) -> Iterator[Picture]:
    for pattern, title, words in asked:
        for path in sorted((folder / PICTURE_FOLDER).glob(pattern)):
            yield Picture(f"{PICTURE_FOLDER}/{path.name}", title, words)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@cache
def _environment() -> Environment:
    """Where templates come from; compiled once a process, since a run of folds draws many pages."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mlaas4hep.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = figure
    environment.filters["share"] = share
    environment.filters["rounded"] = rounded
    environment.globals["measured"] = measured
    environment.filters["expected"] = expected
    environment.filters["chance"] = chance
    environment.filters["dial"] = dial
    return environment


def _write(folder: Path, template: str, page: str = PAGE, **values: Any) -> Path:
    draft = folder / f".{page}.part"
    draft.write_text(_environment().get_template(template).render(values), encoding="utf-8")
    os.replace(draft, folder / page)
    return folder / page


def figure(value: Any, digits: int = 4) -> str:
    """A number for people: thousands set apart, a dash where there is none.

    Examples
    --------
    >>> figure(12345), figure(0.81237, 3), figure(None), figure(1234567.8)
    ('12,345', '0.812', '-', '1.235e+06')
    """
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.{digits}f}" if not value or 1e-4 <= abs(value) < 1e6 else f"{value:.4g}"
    return str(value)


def expected(value: float | None) -> str:
    """A number of expected events, or a significance: three digits at least, none that nobody needs.

    Examples
    --------
    >>> expected(83940406.4), expected(64.53), expected(0.00574), expected(None)
    ('83,940,406', '64.5', '0.00574', '-')
    """
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def rounded(value: float) -> str:
    """A number to four digits that count, whatever its size.

    Examples
    --------
    >>> rounded(0.0012345), rounded(125.0421), rounded(-98765.4)
    ('0.001234', '125', '-9.877e+04')
    """
    return f"{value:.4g}"


def measured(value: float, error: float) -> str:
    """A figure with its uncertainty, to two digits of that.

    Examples
    --------
    >>> measured(11.9876, 0.3), measured(-0.0123456, 0.00051), measured(98765.4, 1234.0), measured(3.0, 0.0)
    ('11.99 ± 0.30', '-0.01235 ± 0.00051', '98765 ± 1234', '3 ± 0')
    """
    if not error > 0:
        return f"{value:.4g} ± {error:g}"
    places = 1 - math.floor(math.log10(error))
    if places > 8:
        return f"{value:.4g} ± {error:.2g}"
    places = max(places, 0)
    return f"{value:.{places}f} ± {error:.{places}f}"


def chance(value: float) -> str:
    """A p-value; those nobody tells apart from zero are given a bound.

    Examples
    --------
    >>> chance(0.345), chance(1e-12)
    ('0.345', '< 0.001')
    """
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def dial(value: Any) -> str:
    """A value of a dial: numbers to four digits, a dash for none.

    Examples
    --------
    >>> dial(0.00123456), dial(128), dial([64, 32]), dial(None)
    ('0.001235', '128', '[64, 32]', '-')
    """
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def share(value: float | None, digits: int = 1) -> str:
    """A share in per cent.

    Examples
    --------
    >>> share(0.1234), share(None)
    ('12.3 %', '-')
    """
    return "-" if value is None else f"{100 * value:.{digits}f} %"
