"""A regression through the command line: train on ROOT files, evaluate, serve, ask; equal to the offline prediction."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlaas4hep.bundle import load_bundle
from mlaas4hep.bundle.verify import verify_bundle
from mlaas4hep.config import read_config
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.testing import write_events
from mlaas4hep.train.reference import reference_targets
from tests import warm

SIZE = 4000
CONFIG = """
name: energies
samples:
  first: {files: first.root}
  second: {files: second.root, selection: met > -1e9}
  seen: {files: first.root, kind: data}
targets: {energy: 120 + 15 * truth, share: truth_share / 1000}
new_variables: {doubled: 2 * met}
inputs:
  event: [met, doubled, ht]
  jets: {vars: [Jet_pt, Jet_eta], length: 3, sort: -Jet_pt}
weights: {event: weight}
split: {test: 0.3, validation: 0.2}
training: {epochs: 15, batch_size: 128}
"""
MODELS = {
    "mlp": "{name: mlp, hidden: [64, 32]}",
    "bdt": "{name: bdt, trees: 80, learning_rate: 0.1, loss: absolute}",
    "deepsets": "{name: deepsets, loss: huber}",
    "xgboost": "{name: xgboost, trees: 150, learning_rate: 0.1}",
}


def events(seed: int) -> dict[str, Any]:
    """A target that hangs on two variables and the first jet, in units far from 1; some values and truths missing."""
    random = np.random.default_rng(seed)
    met, ht = random.normal(30, 10, SIZE), random.normal(0, 1, SIZE)
    counts = random.integers(0, 4, SIZE)
    pt = [np.sort(random.exponential(40, size))[::-1] for size in counts]
    leading = np.array([one[0] if len(one) else 0.0 for one in pt])
    truth = 0.7 * (met - 30) / 10 + 0.5 * np.tanh(ht) + 0.01 * leading + random.normal(0, 0.15, SIZE)
    truth[::97] = np.nan
    met[::41] = np.nan
    return {
        "met": met.astype(np.float32),
        "ht": ht.astype(np.float32),
        "Jet_pt": Jagged.from_lists([one.astype(np.float32).tolist() for one in pt]),
        "Jet_eta": Jagged.from_lists([random.normal(size=len(one)).astype(np.float32).tolist() for one in pt]),
        "truth": truth,
        "truth_share": ht + random.normal(0, 0.2, SIZE),
        "weight": random.uniform(0.5, 1.5, SIZE),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("regression")
    for seed, name in enumerate(("first", "second")):
        write_events(folder / f"{name}.root", events(seed))
    for name, model in MODELS.items():
        (folder / f"{name}.yaml").write_text(f"{CONFIG}model: {model}\n")
    return folder


def run(*arguments: str | Path, cwd: Path, started: Sequence[str] | None = None) -> str:
    command = [*(started or warm.command()), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=400)
    assert done.returncode == 0, done.stderr
    return done.stdout


# One that streams and one that learns in one go; the others keep the rules of tests/contracts.
QUICK = ("mlp", "bdt")


@pytest.fixture(
    scope="module", params=[pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in MODELS]
)
def trained(folder: Path, request: pytest.FixtureRequest) -> tuple[Path, dict[str, Any]]:
    """A run directory and the last line of its training."""
    backend = {"deepsets": "torch", "xgboost": "xgboost"}.get(request.param)
    if backend:
        pytest.importorskip(backend)
    path = folder / request.param
    # The pictures of one model are painted.
    started = warm.REAL if request.param == "mlp" else None
    told = run("train", f"{request.param}.yaml", "-o", path, "--evaluate", "--json", cwd=folder, started=started)
    return path, json.loads(told.splitlines()[-1])


def test_each_target_is_learned_in_its_own_units(trained: tuple[Path, dict[str, Any]], folder: Path) -> None:
    _, figures = trained
    assert figures["targets_part"] == "test"
    energy, share = figures["targets"]["energy"], figures["targets"]["share"]
    assert 10 < energy["spread"] < 25
    assert 5e-4 < share["spread"] < 2e-3
    reference = reference_targets(read_config(folder / "mlp.yaml"))
    for name, one in (("energy", energy), ("share", share)):
        assert one["r2"] > reference[name].r2 - 0.05
        assert 0 < one["resolution"] < one["rmse"] * 1.2
        assert abs(one["bias"]) < 5 * one["bias_err"] + 0.05 * one["spread"]
        assert all(one[f"{key}_err"] > 0 for key in ("bias", "resolution", "rmse", "mae", "r2"))


def test_the_page_tells_and_shows_each_target(trained: tuple[Path, dict[str, Any]]) -> None:
    path, figures = trained
    page = (path / "report.html").read_text()
    assert "a regression of energy, share" in page
    assert f"{figures['targets']['energy']['spread']:.4g}" in page
    for kind in ("predicted", "residuals", "bias", "resolution"):
        for target in ("0_energy", "1_share"):
            assert f'src="pictures/{kind}_{target}.png' in page
    for picture in re.findall(r'src="([^"]+)"', page):
        assert (path / picture).read_bytes().startswith(b"\x89PNG")
    assert "AUC" not in page
    again = json.loads(run("evaluate", path, "--json", cwd=path).splitlines()[-1])
    assert (again["targets"], again["test_part_opened"]) == (figures["targets"], False)


def test_what_is_served_is_the_offline_prediction_under_the_names_of_the_targets(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path, _ = trained
    bundle = load_bundle(path / "model" / "energies")
    asked = events(9)
    names = ("met", "ht", "Jet_pt", "Jet_eta")
    columns = {name: first(asked[name], 200) for name in names}
    rows = [{name: plain(columns[name], n) for name in names} for n in range(200)]
    (tmp_path / "events.json").write_text("\n".join(map(json.dumps, rows)))
    command = [*warm.command(), "serve", str(bundle.path.parent), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert server.stdout is not None
            url = next(found[0] for line in server.stdout if (found := re.search(r"http://[\d.:a-z]+", line)))
            told = run("predict", "--url", url, "--file", tmp_path / "events.json", "--json", cwd=tmp_path)
        finally:
            server.terminate()
    answers = json.loads(told)["predictions"]
    assert list(answers[0]) == ["energy", "share"]
    served = np.array([list(one.values()) for one in answers], np.float32)
    offline, selected = bundle.score(columns, 200)
    assert selected.all()
    np.testing.assert_array_equal(served, offline)
    assert 90 < np.median(served[:, 0]) < 150
    assert "(the targets, in their own units)" in (bundle.path / "README.md").read_text()
    assert verify_bundle(bundle).ok


def first(column: Any, count: int) -> Any:
    if isinstance(column, Jagged):
        offsets = column.offsets[: count + 1]
        return Jagged(offsets, column.values[: offsets[-1]])
    return column[:count]


def plain(column: Any, place: int) -> Any:
    """A value for JSON, which has no NaN."""
    if isinstance(column, Jagged):
        return column.values[column.offsets[place] : column.offsets[place + 1]].tolist()
    value = float(column[place])
    return None if np.isnan(value) else value
