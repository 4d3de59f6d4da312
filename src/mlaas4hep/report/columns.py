"""Pictures and a page of the columns of files: what ``mlaas4hep inspect --stats -o`` writes.

Invariant: the numbers come from the caller; the page holds its pictures, so that it can be sent by itself.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlaas4hep.report.inputs import COLUMNS, InputPanel, draw_inputs
from mlaas4hep.report.style import Histogram

PER_PICTURE = 10 * COLUMNS
"""Columns a picture."""


@dataclass(frozen=True)
class DrawnColumn:
    """One column: name, M + 1 edges and M counts of its histogram, share of missing values."""

    name: str
    edges: Sequence[float]
    counts: Sequence[int]
    missing: float


def draw_columns(columns: Sequence[DrawnColumn], path: Path, *, note: str) -> list[Path]:
    """Histograms in a grid, `PER_PICTURE` a file.

    Parameters
    ----------
    columns
        At least one.
    path
        Of the first picture; further ones have ``-2``, ``-3``, ... before the ending.
    note
        Of what they are.

    Returns
    -------
    The files.
    """
    files = []
    for start in range(0, len(columns), PER_PICTURE):
        part = columns[start : start + PER_PICTURE]
        number = start // PER_PICTURE + 1
        files.append(path if number == 1 else path.with_stem(f"{path.stem}-{number}"))
        draw_inputs([_panel(one) for one in part], files[-1], note=note, words="Share of the values by bin")
    return files


def write_columns_page(
    columns: Sequence[DrawnColumn],
    path: Path,
    *,
    title: str,
    note: str,
    picture_note: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> None:
    """A page with a table and the histograms.

    Parameters
    ----------
    columns, picture_note
        As of `draw_columns`.
    path
        Of the page.
    title, note
        Its heading, and what stands below it.
    head, rows
        The table.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        for one in draw_columns(columns, Path(folder) / "columns.png", note=picture_note):
            pictures.append(base64.b64encode(one.read_bytes()).decode())
    environment = Environment(loader=PackageLoader("mlaas4hep.report"), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("columns.html")
    path.write_text(page.render(title=title, note=note, head=head, rows=rows, pictures=pictures), encoding="utf-8")


def _panel(one: DrawnColumn) -> InputPanel:
    counts = np.asarray(one.counts, dtype=np.float64)
    values = counts / max(counts.sum(), 1.0)
    edges = np.asarray(one.edges, dtype=np.float64)
    return InputPanel(one.name, [Histogram("", edges, values, np.zeros_like(values))], one.missing)
