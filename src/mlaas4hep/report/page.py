"""The page of a run: one HTML file that shows its figures and pictures, readable without a network.

It is written beside ``metrics.json`` and the pictures, to which it links by relative paths, so that the folder can be
moved or sent. Invariant: every figure on it stands in ``metrics.json``; text from configs and files is escaped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PAGE = "report.html"
PICTURES = (
    ("roc.png", "ROC", "Background efficiency against signal efficiency by the served graph, with physics weights."),
    ("loss.png", "Loss", "Weighted cross-entropy by epoch; the dashed line marks the weights that were kept."),
)


def write_page(folder: Path) -> Path:
    """Draw the page of a run from what lies in its folder.

    Parameters
    ----------
    folder
        Holds ``metrics.json`` and those pictures that there are.

    Returns
    -------
    Path of the page.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    environment = Environment(
        loader=PackageLoader("mlaas4hep.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["figure"] = figure
    pictures = [picture for picture in PICTURES if (folder / picture[0]).exists()]
    page = folder / PAGE
    page.write_text(environment.get_template("run.html").render(run=metrics, pictures=pictures), encoding="utf-8")
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
