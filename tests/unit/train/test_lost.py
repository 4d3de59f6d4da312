"""What falls out after the scan is made up for in all figures, and the run says by how much learning was off."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import uproot

from mlaas4hep.testing import write_events
from mlaas4hep.train import run_plan
from mlaas4hep.train.evaluate import evaluate
from mlaas4hep.train.run import train
from mlaas4hep.train.scanned import scanned
from tests.unit.train.test_run import ENTRIES, columns, config

pytestmark = pytest.mark.usefixtures("plain_pictures")


def break_cluster(path: Path, cluster: int) -> None:
    """As a bad sector does: other bytes in the same file of the same time."""
    with uproot.open(path) as file:
        branch = file["Events"]["met"]
        seek, size = int(branch.member("fBasketSeek")[cluster]), int(branch.member("fBasketBytes")[cluster])
    before = path.stat()
    with open(path, "r+b") as file:
        file.seek(seek)
        file.write(bytes(size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("early", [False, True])
def test_what_is_lost_after_the_scan_is_told_and_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, early: bool
) -> None:
    """With and without something that the scan has met already."""
    for seed, name in enumerate(("qcd", "tt", "tth")):
        write_events(tmp_path / f"{name}.root", columns(float(seed), seed), cluster=150)  # type: ignore[arg-type]
    if early:
        break_cluster(tmp_path / "tth.root", 4)

    def then_broken(*given: Any, **named: Any) -> Any:
        found = scanned(*given, **named)
        break_cluster(tmp_path / "tth.root", 2)
        return found

    monkeypatch.setattr(run_plan, "scanned", then_broken)
    setting = config(tmp_path, on_error="skip")
    train(setting, output=tmp_path / "run", threads=0, rescan=True)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    [lost] = metrics["lost_after_scan"]
    left = ENTRIES - 150 * (2 if early else 1)
    assert (lost["sample"], lost["entries"]) == ("tth", 150)
    assert lost["factor"] == pytest.approx((left + 150) / left)
    assert len(metrics["skipped"]) == 2 if early else 1
    assert "weighed\n  less than they should" in (tmp_path / "run" / "report.html").read_text()
    validation = metrics["parts"]["validation"]["classes"]["signal"]
    share = metrics["samples"]["tth"]["validation"] / left
    assert validation["sum_weights"] == pytest.approx(ENTRIES * share, rel=0.25)

    evaluated = evaluate(tmp_path / "run", threads=0)
    assert evaluated.test is not None
    assert 0 < metrics["samples"]["tth"]["test"] - evaluated.evaluation.parts["test"].classes["signal"].events < 150
    expected = evaluated.evaluation.before["tth"].expected
    assert expected == metrics["samples"]["tth"]["selected"]["sum_weights"]
    own = evaluated.test.weights[evaluated.test.labels == 1].sum()
    assert evaluated.evaluation.scales["tth"] == pytest.approx(expected / own)


def test_a_run_that_loses_nothing_says_nothing(tmp_path: Path) -> None:
    for seed, name in enumerate(("qcd", "tt", "tth")):
        write_events(tmp_path / f"{name}.root", columns(float(seed), seed), cluster=150)  # type: ignore[arg-type]
    found = train(config(tmp_path, on_error="skip"), output=tmp_path / "run", threads=0)
    assert found.metrics["lost_after_scan"] == []
    assert "less than they should" not in (tmp_path / "run" / "report.html").read_text()
