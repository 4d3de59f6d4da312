"""Histograms of columns: pictures of many, a page that holds them."""

from __future__ import annotations

from pathlib import Path

from mlaas4hep.report.columns import PER_PICTURE, DrawnColumn, draw_columns, write_columns_page

COLUMN = DrawnColumn("Jet_<pt>", (0.0, 1.0, 2.0), (3, 1), 0.25)


def test_many_columns_take_several_pictures(tmp_path: Path) -> None:
    files = draw_columns([COLUMN] * (PER_PICTURE + 1), tmp_path / "stats.png", note="4 events")
    assert [path.name for path in files] == ["stats.png", "stats-2.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)


def test_the_page_holds_table_and_pictures_and_escapes_names(tmp_path: Path) -> None:
    path = tmp_path / "stats.html"
    write_columns_page(
        [COLUMN],
        path,
        title="Columns of Events",
        note="Figures of all 4 events.",
        picture_note="4 events",
        head=("column", "values"),
        rows=[("Jet_<pt>", "4")],
    )
    page = path.read_text()
    assert "<td>Jet_&lt;pt&gt;</td>" in page
    assert page.count("data:image/png;base64,") == 1
    assert 'src="http' not in page
