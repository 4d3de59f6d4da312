"""Files that a model cannot learn from, through the command line: one message, exit status 2, nothing left behind.

And files that look odd and are fine: collections without a single object, NaN and infinities, one file for two classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
import yaml

from mlaas4hep.cli import run
from mlaas4hep.spec.columns import Column, Jagged
from mlaas4hep.testing import write_events

pytestmark = pytest.mark.usefixtures("plain_pictures")

ENTRIES = 300
Columns = dict[str, Any]


def columns(shift: float, seed: int) -> Columns:
    """An honest sample: two flat columns and jets."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, 4, ENTRIES)
    total = int(counts.sum())
    return {
        "id": np.arange(ENTRIES) + ENTRIES * seed,
        "met": random.normal(50 + 30 * shift, 20, ENTRIES).astype(np.float32),
        "weight": np.ones(ENTRIES, np.float32),
        "Jet_pt": Jagged.from_counts(counts, random.exponential(40, total).astype(np.float32)),
        "Jet_eta": Jagged.from_counts(counts, random.normal(size=total).astype(np.float32)),
    }


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_events(tmp_path_factory.mktemp("honest") / "background.root", columns(0.0, 0))


class Trained:
    """One ``mlaas4hep train`` and what it said."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def figures(self) -> dict[str, Any]:
        """The JSON line of a run that went well."""
        assert self.status == 0, self.err
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return found


@pytest.fixture
def train(honest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Trained]:
    """Train on the honest background and a given signal file; keys change the config."""

    def act(signal: Path, **keys: object) -> Trained:
        document = {
            "samples": {
                "signal": {"files": str(signal)},
                "background": {"files": str(honest)},
            },
            "inputs": {"event": ["met"], "jets": {"vars": ["Jet_pt", "Jet_eta"], "length": 2}},
            "split": {"by": ["id"]},
            "training": {"epochs": 1},
            **keys,
        }
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump(document), encoding="utf-8")
        status = run(["train", str(config), "-o", str(tmp_path / "runs" / "run"), "--json", "--no-progress"])
        said = capsys.readouterr()
        return Trained(status, said.out, said.err)

    return act


def refused(found: Trained, folder: Path, *words: str) -> None:
    assert found.status == 2, found.err
    assert [line.partition(":")[0] for line in found.err.splitlines()].count("Error") == 1
    assert "Traceback" not in found.err
    for one in words:
        assert one in found.err
    assert not (folder / "runs").exists() or not list((folder / "runs").iterdir()), "nothing is left behind"


def write_ntuple(path: Path, arrays: Mapping[str, object], more: Columns) -> Path:
    """An RNTuple with columns that TTrees of ours cannot hold, beside those of a sample."""
    plain = {name: _to_awkward(one) for name, one in more.items()}
    with uproot.recreate(path) as file:
        file.mkrntuple("Events", {**plain, **arrays})
    return path


def _to_awkward(column: Column) -> Any:
    return ak.unflatten(column.values, column.counts) if isinstance(column, Jagged) else column


def test_a_branch_of_text_is_refused_as_an_input(train: Callable[..., Trained], tmp_path: Path) -> None:
    signal = write_ntuple(tmp_path / "s.root", {"channel": ak.Array(["ee", "mm"] * (ENTRIES // 2))}, columns(1.0, 1))
    found = train(signal, inputs={"event": ["met", "channel"]})
    refused(found, tmp_path, "s.root", "column 'channel'", "text, not numbers")


def test_a_doubly_nested_branch_is_refused_as_an_input(train: Callable[..., Trained], tmp_path: Path) -> None:
    nested = ak.Array([[[1.0, 2.0], []], [[3.0]]] * (ENTRIES // 2))
    paths = [
        write_ntuple(tmp_path / f"{name}.root", {"Jet_tracks": nested}, columns(1.0, at))
        for at, name in enumerate("bs")
    ]
    samples = {"background": {"files": str(paths[0])}, "signal": {"files": str(paths[1])}}
    found = train(paths[1], samples=samples, inputs={"jets": {"vars": ["Jet_pt", "Jet_tracks"], "length": 2}})
    refused(found, tmp_path, "inputs.jets.vars[1]: 'Jet_tracks' is float64[][]", "flatten(Jet_tracks)")


def test_branches_that_are_not_read_may_be_of_any_kind(train: Callable[..., Trained], tmp_path: Path) -> None:
    odd = {"channel": ak.Array(["ee", "mm"] * (ENTRIES // 2)), "deep": ak.Array([[[1.0], []]] * ENTRIES)}
    assert train(write_ntuple(tmp_path / "s.root", odd, columns(1.0, 1))).figures["bundle"]


def test_a_collection_of_unequal_lists_is_refused_with_the_event(train: Callable[..., Trained], tmp_path: Path) -> None:
    sample = columns(1.0, 1)
    counts = sample["Jet_eta"].counts.copy()
    counts[17] += 2
    longer = Jagged.from_counts(counts, np.ones(int(counts.sum()), np.float32))
    # Another prefix gives it a counter of its own in the file.
    signal = write_events(tmp_path / "s.root", sample | {"Other_eta": longer})
    new = {"eta": "Other_eta + 0"}
    background = write_events(tmp_path / "b.root", columns(0.0, 0) | {"Other_eta": columns(0.0, 0)["Jet_eta"]})
    samples = {"signal": {"files": str(signal)}, "background": {"files": str(background)}}
    inputs = {"jets": {"vars": ["Jet_pt", "eta"], "length": 2}}
    found = train(signal, samples=samples, inputs=inputs, new_variables=new)
    refused(found, tmp_path, "s.root", "collection 'jets'", "'eta' and 'Jet_pt'", "event 17", str(int(counts[17])))


def test_a_class_whose_weights_sum_to_zero_is_refused_with_its_name(
    train: Callable[..., Trained], tmp_path: Path
) -> None:
    sample = columns(1.0, 1)
    sample["weight"] *= 0
    signal = write_events(tmp_path / "s.root", sample)
    found = train(signal, weights={"event": "weight"})
    refused(found, tmp_path, "class 'signal'", "add up to 0", "need a positive sum", "none")


def test_weights_that_sum_to_zero_in_every_class_teach_nothing(train: Callable[..., Trained], tmp_path: Path) -> None:
    signal = write_events(tmp_path / "s.root", columns(1.0, 1))
    found = train(signal, weights={"event": "0 * weight", "training": "physics"})
    refused(found, tmp_path, "sum to 0", "nothing to learn from")


def test_two_samples_of_the_same_entries_are_refused(
    train: Callable[..., Trained], honest: Path, tmp_path: Path
) -> None:
    refused(train(honest), tmp_path, str(honest), "selects the same entries as the sample '")


def test_one_file_serves_two_samples_whose_selections_differ(train: Callable[..., Trained], honest: Path) -> None:
    samples = {
        "signal": {"files": str(honest), "selection": "met > 50"},
        "background": {"files": str(honest), "selection": "met <= 50"},
    }
    assert train(honest, samples=samples).figures["bundle"]


@pytest.mark.parametrize("model", ["mlp", "deepsets", pytest.param("attention", marks=pytest.mark.slow), "bdt"])
def test_a_collection_that_is_empty_in_every_event_is_learned_around(
    train: Callable[..., Trained], tmp_path: Path, model: str
) -> None:
    if model in ("deepsets", "attention"):
        pytest.importorskip("torch")
    empty = Jagged.from_counts(np.zeros(ENTRIES, int), np.zeros(0, np.float32))
    files = {
        name: write_events(tmp_path / f"{name}.root", columns(shift, seed) | {"Jet_pt": empty, "Jet_eta": empty})
        for seed, (name, shift) in enumerate({"background": 0.0, "signal": 2.0}.items())
    }
    samples = {name: {"files": str(path)} for name, path in files.items()}
    dials = {"trees": 20} if model == "bdt" else {"learning_rate": 0.01}
    found = train(files["signal"], samples=samples, model={"name": model, **dials}, training={"epochs": 3})
    assert found.figures["bundle"]
    assert "inputs.jets: no event of the training part holds an object" in found.err


@pytest.mark.parametrize("model", ["mlp", "bdt"])
def test_nan_and_infinities_are_learned_from(train: Callable[..., Trained], tmp_path: Path, model: str) -> None:
    sample = columns(2.0, 1)
    sample["met"][::5], sample["met"][1::7], sample["met"][2::11] = np.nan, np.inf, -np.inf
    sample["Jet_pt"].values[::3], sample["Jet_eta"].values[1::3] = np.nan, np.inf
    dials = {"trees": 20} if model == "bdt" else {}
    assert train(write_events(tmp_path / "s.root", sample), model={"name": model, **dials}).figures["bundle"]


def test_a_weight_that_is_not_a_number_is_refused_with_its_entry(train: Callable[..., Trained], tmp_path: Path) -> None:
    sample = columns(1.0, 1)
    sample["weight"][23] = np.nan
    found = train(write_events(tmp_path / "s.root", sample), weights={"event": "weight"})
    refused(found, tmp_path, "s.root", "entry 23", "weight is nan")


def test_bad_places_are_left_out_on_request_and_stand_in_the_report_and_the_bundle(
    train: Callable[..., Trained], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signal = write_events(tmp_path / "s.root", columns(1.0, 1), cluster=60)
    with uproot.open(signal) as file:
        branch = file["Events"]["met"]
        seek, size = int(branch.member("fBasketSeek")[1]), int(branch.member("fBasketBytes")[1])
    data = bytearray(signal.read_bytes())
    data[seek : seek + size] = bytes(size)
    signal.write_bytes(data)
    refused(train(signal), tmp_path, "s.root")
    found = train(signal, on_error="skip up to 3")
    run_folder, bundle = tmp_path / "runs" / "run", Path(found.figures["bundle"])
    metrics = json.loads((run_folder / "metrics.json").read_text())
    [skipped] = metrics["skipped"]
    assert (skipped["file"], skipped["start"], skipped["stop"], skipped["entries"]) == ("s.root", 60, 120, 60)
    counted = {one["file"]: one for one in metrics["files"]}
    assert [counted[name]["quarantined"] for name in ("s.root", "background.root")] == [60, 0]
    assert counted["s.root"]["read"] == counted["s.root"]["selected"] + counted["s.root"]["cut"] + 60
    assert metrics["samples"]["signal"]["selected"]["sum_weights"] == pytest.approx(ENTRIES)
    spec = json.loads(next(bundle.rglob("spec.json")).read_text())
    assert spec["provenance"]["skipped"] == [skipped]
    assert run(["evaluate", str(run_folder), "--no-progress"]) == 0
    assert "What could not be read" in (run_folder / "report.html").read_text()
    capsys.readouterr()
