"""Pictures and the page are written whole, whatever the figures are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mlaas4hep.report.page import figure, write_page
from mlaas4hep.report.plots import LossCurve, RocCurve, draw_loss, draw_roc


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


def test_a_picture_has_the_same_bytes_when_drawn_again(tmp_path: Path) -> None:
    x = np.linspace(0, 1, 50)
    for name in ("one.png", "other.png"):
        draw_roc([RocCurve("test", x, x**3, 0.75, 0.01)], tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()


def test_the_page_escapes_names_and_shows_dashes_for_what_is_not_there(tmp_path: Path) -> None:
    part = {"events": 0, "negative": 0, "auc": None, "auc_err": None, "loss": None, "classes": {}, "reason": "<empty>"}
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
        "parts": {"test": part},
        "split_by": "run",
        "entries_read": 0,
        "samples": {},
        "versions": {},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    text = write_page(tmp_path).read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "No area under the curve: &lt;empty&gt;" in text
    assert "<img" not in text


def test_figures_read_well() -> None:
    assert [figure(12345), figure(0.81237, 3), figure(None), figure(1234567.8)] == ["12,345", "0.812", "-", "1.235e+06"]
