"""Pictures and the page are written whole, whatever the figures are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mlaas4hep.report.inputs import InputPanel, draw_inputs, missing_text
from mlaas4hep.report.page import chance, expected, figure, share, write_page
from mlaas4hep.report.plots import LossCurve, RocCurve, draw_loss, draw_roc
from mlaas4hep.report.scores import Confusion, ScoreOfClass, draw_confusion, draw_scores
from mlaas4hep.report.style import Histogram
from mlaas4hep.report.verdict import SignificanceCurve, draw_importance, draw_significance

COUNTS = ("entries", "read", "cut", "selected", "not_read")


def test_pictures_are_png_files_and_matplotlib_is_left_as_it_was(tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    x = np.linspace(0, 1, 50)
    draw_roc([RocCurve("test", x, x**3, 0.75, 0.01)], tmp_path / "roc.png")
    draw_roc([], tmp_path / "none.png")
    draw_loss([LossCurve("training", [0.7]), LossCurve("validation", [0.8])], tmp_path / "loss.png", best_epoch=1)
    for name in ("roc.png", "none.png", "loss.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert dict(mpl.rcParams) == before


def test_pictures_of_nothing_are_drawn_too(tmp_path: Path) -> None:
    """Classes without events, inputs that are all missing, no significance: what a first try often gives."""
    edges, none = np.linspace(0, 1, 5), np.full(3, np.nan)
    empty = Histogram("nothing", edges, np.zeros(4), np.zeros(4))
    draw_scores([ScoreOfClass("a", empty, empty)], tmp_path / "score.png", score="a")
    draw_confusion(
        Confusion(["a", "b"], np.full((2, 2), np.nan), np.full((2, 2), np.nan), "x"), tmp_path / "matrix.png"
    )
    draw_inputs([InputPanel("x", [], 1.0), InputPanel("y", [empty], 0.0)], tmp_path / "inputs.png", note="as read")
    draw_importance([], tmp_path / "importance.png")
    curve = SignificanceCurve("a", np.linspace(0, 1, 3), none, none, None, None)
    draw_significance(curve, tmp_path / "significance.png", uncertainty=0.1, note="Simulation")
    assert len(list(tmp_path.glob("*.png"))) == 5


def test_a_picture_has_the_same_bytes_when_drawn_again(tmp_path: Path) -> None:
    x = np.linspace(0, 1, 50)
    for name in ("one.png", "other.png"):
        draw_roc([RocCurve("test", x, x**3, 0.75, 0.01)], tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()


def test_the_page_escapes_names_and_shows_dashes_for_what_is_not_there(tmp_path: Path) -> None:
    part = {"events": 0, "negative": 0, "auc": None, "auc_err": None, "loss": None, "classes": {}, "reason": "<empty>"}
    file = {"file": "<b>.root", "sample": "<i>", "tree": "Events", **dict.fromkeys(COUNTS, 0)}
    metrics = {
        "name": "<script>",
        "model": "mlp",
        "classes": [],
        "epoch_unit": "epoch",
        "best_epoch": 1,
        "epochs": 1,
        "seed": 0,
        "seconds": {"total": 1.0},
        "auc": None,
        "parts": {"validation": part},
        "events": {"train": 0, "validation": 0, "test": 3},
        "split_by": "run",
        "max_events": None,
        "entries_read": 0,
        "samples": {},
        "collections": {},
        "files": [file],
        "versions": {},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    text = write_page(tmp_path).read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "No area under the curve: &lt;empty&gt;" in text
    assert "&lt;b&gt;.root" in text
    assert "not opened" in text
    assert "<img" not in text


def test_the_page_tells_cut_entries_from_those_that_could_not_be_read(tmp_path: Path) -> None:
    counts = {"entries": 100, "read": 100, "cut": 20, "selected": 70, "quarantined": 10, "not_read": 0}
    weights = {"events": 70, "sum_weights": 80.0}
    place = {"file": "s.root", "sample": "s", "tree": "t", "index": 0, "start": 40, "stop": 50, "entries": 10}
    whole = {**dict.fromkeys(place), "file": "gone.root", "sample": "s", "reason": "is an empty file (0 bytes)"}
    metrics = {
        "name": "x",
        "model": "mlp",
        "classes": [],
        "epoch_unit": "epoch",
        "best_epoch": 1,
        "epochs": 1,
        "seed": 0,
        "seconds": {"total": 1.0},
        "auc": None,
        "parts": {},
        "events": {"test": 3},
        "split_by": "run",
        "max_events": None,
        "entries_read": 100,
        "collections": {},
        "versions": {},
        "on_error": "skip",
        "samples": {"s": {"read": 100, "selected": weights, "train": 70, "validation": 0, "test": 0}},
        "files": [{"file": "s.root", "sample": "s", "tree": "t", **counts}],
        "skipped": [whole, {**place, "reason": "branch 'x': is damaged"}],
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    text = " ".join(write_page(tmp_path).read_text().split())
    assert "2 files or places in files could not be read and were left out" in text
    assert "<tr><td>s</td><td>100</td><td>70</td> <td>20</td> <td>10</td><td>70</td>" in text
    assert "or is damaged in the file; 100 entries in all" in text
    assert '<td class="left">whole file</td>' in text
    assert '<td class="left">40 to 50</td>' in text
    assert "<th>not read</th>" not in text


def test_figures_read_well() -> None:
    assert [figure(12345), figure(0.81237, 3), figure(None), figure(1234567.8)] == ["12,345", "0.812", "-", "1.235e+06"]
    assert [expected(83940406.4), expected(64.53), expected(0.00574), expected(None)] == [
        "83,940,406",
        "64.5",
        "0.00574",
        "-",
    ]
    assert [chance(0.345), chance(1e-12), share(0.1234), share(None)] == ["0.345", "< 0.001", "12.3 %", "-"]
    assert [missing_text(0.1234), missing_text(0.012), missing_text(0.0001)] == [
        "12 % missing",
        "1.2 % missing",
        "< 0.1 % missing",
    ]
