"""Makes the golden bundles of format 1 and the scores that they must give; run from the checkout, writes beside itself.

    python -m tests.golden.make_bundle_v1

What it wrote is committed and read by every later version of the program (`tests/unit/test_golden.py`). It is not run
again unless the format's number changes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np

from mlaas4hep.bundle import write_bundle
from mlaas4hep.spec.accumulate import StatisticsAccumulator
from mlaas4hep.spec.columns import Column, ColumnType, Jagged
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.features import FeatureSpec, InputGroup, Split, Variable, Weights
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.statistics import SampleCounts, WeightSums
from tests.small_graphs import make_mlp, make_trees

FOLDER = Path(__file__).parent / "bundle_v1"

TYPES = {
    "HLT": ColumnType("flat", "bool"),
    "nJet": ColumnType("flat", "int64"),
    "MET_pt": ColumnType("flat", "float32"),
    "genWeight": ColumnType("flat", "float64"),
    "Jet_pt": ColumnType("jagged", "float32"),
    "Jet_btag": ColumnType("jagged", "float64"),
    "Jet_id": ColumnType("jagged", "uint64"),
}


def features(classes: tuple[str, ...]) -> FeatureSpec:
    """One of each thing that a contract can say."""
    return FeatureSpec(
        inputs=(
            InputGroup(
                "event",
                (Variable("MET_pt", "log"), Variable("ht", "standard", (0.5, 2000.0)), Variable("nJet", "minmax")),
            ),
            InputGroup(
                "jets",
                (Variable("Jet_pt", "log"), Variable("Jet_btag", "none"), Variable("Jet_id", "standard")),
                length=3,
                sort="-Jet_pt",
            ),
        ),
        preselection="HLT and nJet > 0",
        new_variables={"ht": "sum(Jet_pt)"},
        classes=classes,
        weights=Weights(event="genWeight"),
        split=Split(by=("nJet", "MET_pt"), seed=3),
        variations={"up": {"MET_pt": "Jet_pt"}},
        observers=("ht",),
    )


def make_events(count: int) -> dict[str, Column]:
    """Events with lists of 0 to 5 jets, some values missing."""
    random = np.random.default_rng(20)
    counts = random.integers(0, 6, count)
    size = int(counts.sum())
    met, btag = random.exponential(40, count), random.random(size)
    return {
        "HLT": random.random(count) < 0.9,
        "nJet": counts.astype(np.int64),
        "MET_pt": np.where(random.random(count) < 0.1, np.nan, met).astype(np.float32),
        "genWeight": np.ones(count),
        "Jet_pt": Jagged.from_counts(counts, random.exponential(60, size).astype(np.float32)),
        "Jet_btag": Jagged.from_counts(counts, np.where(btag < 0.1, np.nan, btag)),
        "Jet_id": Jagged.from_counts(counts, random.integers(0, 7, size).astype(np.uint64)),
    }


def make_spec(name: str, classes: tuple[str, ...]) -> tuple[ModelSpec, dict[str, np.ndarray]]:
    """A sealed contract and the tensors of the events that it was sealed on."""
    preprocessor = Preprocessor(features(classes), TYPES)
    prepared = preprocessor.run(make_events(1500), 1500)
    found = StatisticsAccumulator({group: tensor.shape[-1] for group, tensor in prepared.inputs.items()})
    found.add_inputs(prepared.inputs, lengths=prepared.lengths, truncated=prepared.truncated)
    sums = WeightSums(events=700, sum_weights=700.0, sum_weights2=700.0)
    statistics = msgspec.structs.replace(
        found.seal(),
        samples={"all": SampleCounts(read=1500, selected=sums, train=500, validation=100, test=100)},
        classes=dict.fromkeys(classes, sums),
    )
    spec = ModelSpec.seal(name, preprocessor=preprocessor, statistics=statistics)
    return spec.with_provenance({"files": ["events.root"], "seed": 0}), prepared.inputs


def main() -> None:
    """Write both bundles and ``expected.json``."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    events = make_events(40)
    expected = {}
    for name, classes in (("network", ("background", "signal")), ("trees", ("QCD", "ttH", "ttbar"))):
        spec, rows = make_spec(name, classes)
        core, reference = make_mlp(spec) if name == "network" else make_trees(spec)[:2]
        native = {"weights.json": b"{}\n"}
        bundle = write_bundle(FOLDER, spec=spec, core=core, reference=reference, rows=rows, native=native)
        scores, selected = bundle.score(events, 40)
        expected[name] = {
            "spec_sha256": bundle.spec_sha256,
            "model_sha256": bundle.model_sha256,
            "selected": selected.tolist(),
            "scores": [[float(score) for score in row] for row in scores],
        }
    columns = {name: _plain(column.tolist()) for name, column in events.items()}
    text = json.dumps({"columns": columns, "models": expected}, allow_nan=False)
    (FOLDER / "expected.json").write_text(text + "\n")


def _plain(values: object) -> object:
    """NaN as null, which JSON can say."""
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return None if values != values else values


if __name__ == "__main__":
    main()
