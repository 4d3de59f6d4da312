"""The page of a run, and the page that compares runs: HTML files that are read without a network.

They are written beside the figures (``metrics.json``, ``evaluation.json``, ``comparison.json``) and link to pictures by
relative paths, so that a folder can be moved or sent. Invariant: every figure on a page stands in those files; text
from configs and files is escaped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = "report.html"
METRICS_FILE = "metrics.json"
EVALUATION_FILE = "evaluation.json"
COMPARISON_FILE = "comparison.json"
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
    "cuts": [("significance_*.png", "Significance", "Against the cut on the score; the dot marks the best cut.")],
    "importance": [("importance.png", "Importance", "Fall of the area when an input is permuted between events.")],
    "inputs": [
        ("inputs_*_read.png", "Inputs as read", "As read from the files, after the selection."),
        ("inputs_*_seen.png", "Inputs as the model sees them", "The same as the model sees them."),
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
    pictures = {place: list(_found(folder, place)) for place in _PICTURES}
    return _write(folder, "run.html", run=_read(folder / METRICS_FILE), evaluation=evaluation, pictures=pictures)


def write_comparison(folder: Path) -> Path:
    """Draw the page that compares runs, from the ``comparison.json`` and the pictures of its folder."""
    pictures = list(_found(folder, "separation"))
    return _write(folder, "comparison.html", comparison=_read(folder / COMPARISON_FILE), pictures=pictures)


def _found(folder: Path, place: str) -> Iterator[Picture]:
    for pattern, title, words in _PICTURES[place]:
        for path in sorted((folder / PICTURE_FOLDER).glob(pattern)):
            yield Picture(f"{PICTURE_FOLDER}/{path.name}", title, words)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _write(folder: Path, template: str, **values: Any) -> Path:
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
    environment.filters["expected"] = expected
    environment.filters["chance"] = chance
    page = folder / PAGE
    draft = folder / f".{PAGE}.part"
    draft.write_text(environment.get_template(template).render(values), encoding="utf-8")
    os.replace(draft, page)
    return page


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


def chance(value: float) -> str:
    """A p-value; those nobody tells apart from zero are given a bound.

    Examples
    --------
    >>> chance(0.345), chance(1e-12)
    ('0.345', '< 0.001')
    """
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def share(value: float | None, digits: int = 1) -> str:
    """A share in per cent.

    Examples
    --------
    >>> share(0.1234), share(None)
    ('12.3 %', '-')
    """
    return "-" if value is None else f"{100 * value:.{digits}f} %"
