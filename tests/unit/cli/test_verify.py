"""``mlaas4hep verify``: what it says and how it ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mlaas4hep.bundle import verify
from mlaas4hep.cli import run
from mlaas4hep.graph.invariance import Variance

GOLDEN = Path(__file__).parents[2] / "golden" / "bundle_v1"


def test_bundles_that_keep_the_law_are_told_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(GOLDEN / "network"), str(GOLDEN / "trees" / "1")]
    assert run(["verify", *paths, "--threads", "1", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["ok"], one["name"], one["threads"], one["joined"]) for one in found] == [
        (True, "network", [1], 256),
        (True, "trees", [1], 256),
    ]


def test_one_that_does_not_ends_with_status_1_and_says_where(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Variance(row=4, threads=1, batch=3, difference=1e-7, rows=2)
    monkeypatch.setattr(verify, "find_company", lambda *_, **__: ([broken], 256))
    assert run(["verify", str(GOLDEN / "network")]) == 1
    said = capsys.readouterr().out
    assert "in batches of 3 on 1 thread 2 rows get other scores than alone, first row 4" in said
    assert "bit-equal" not in said


def test_a_bundle_that_was_changed_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(GOLDEN / "network", tmp_path / "network")
    (tmp_path / "network" / "1" / "model.onnx").write_bytes(b"other")
    assert run(["verify", str(tmp_path / "network")]) == 2
    assert "was changed since the bundle was written" in capsys.readouterr().err
