"""A small real bundle with every kind of column, for the tests of the inference layer.

Made by the same calls as any other bundle, parity gate included, with random weights instead of a training.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.bundle import Bundle, write_bundle
from mlaas4hep.config import parse_config
from mlaas4hep.graph.dense import lower_dense
from mlaas4hep.spec.accumulate import StatisticsAccumulator
from mlaas4hep.spec.columns import Column, ColumnType, Jagged, Nested
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.scaling import Scaler

CONFIG = """
samples: {s: {files: s.root, label: signal}, b: {files: b.root, label: background}}
preselection: "HLT and nJet > 0"
new_variables: {ht: sum(Jet_pt)}
inputs:
  event: [MET_pt, ht, nJet]
  jets: {vars: [Jet_pt, Jet_btag, Jet_id], length: 3, sort: -Jet_pt}
"""

# The same with what the expression language offers beyond arithmetic: four-vectors, picks, lists of lists.
GROWN = """
samples: {s: {files: s.root, label: signal}, b: {files: b.root, label: background}}
preselection: "HLT && Length$(Jet_id) >= 0"
new_variables:
  mjj: mass(p4(Jet_pt, Jet_btag, 0, 1)[0] + p4(Jet_pt, Jet_btag, 1, 1)[1])
  tagged: sum(Jet_pt[Jet_btag > 0.5][:2]) + nJet
  Jet_peak: max(Jet_hits)
  Jet_ordered: sort(Jet_pt, Jet_btag)
inputs:
  event: [MET_pt, mjj, tagged]
  jets: {vars: [Jet_id, Jet_peak, Jet_ordered], length: 3, sort: -Jet_pt}
"""

TYPES = {
    "HLT": ColumnType("flat", "bool"),
    "nJet": ColumnType("flat", "int64"),
    "MET_pt": ColumnType("flat", "float32"),
    "Jet_pt": ColumnType("jagged", "float32"),
    "Jet_btag": ColumnType("jagged", "float64"),
    "Jet_id": ColumnType("jagged", "uint64"),
}
GROWN_TYPES = TYPES | {"Jet_hits": ColumnType("nested", "float32")}


def make_events(count: int, *, seed: int = 0) -> dict[str, Column]:
    """Events of those columns: lists of 0 to 5, some values missing."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, 6, count)
    size = int(counts.sum())
    btag = random.random(size)
    return {
        "HLT": random.random(count) < 0.9,
        "nJet": counts.astype(np.int64),
        "MET_pt": np.where(random.random(count) < 0.05, np.nan, random.exponential(40, count)).astype(np.float32),
        "Jet_pt": Jagged.from_counts(counts, random.exponential(60, size).astype(np.float32)),
        "Jet_btag": Jagged.from_counts(counts, np.where(btag < 0.1, np.nan, btag)),
        "Jet_id": Jagged.from_counts(counts, random.integers(0, 7, size).astype(np.uint64)),
    }


def make_grown_events(count: int, *, seed: int = 0) -> dict[str, Column]:
    """The same with a list of 0 to 2 values for each jet."""
    random = np.random.default_rng(seed)
    events = make_events(count, seed=seed)
    counts = np.array([len(one) for one in events["Jet_pt"].tolist()])
    inner = random.integers(0, 3, int(counts.sum()))
    values = random.exponential(5, int(inner.sum())).astype(np.float32)
    return events | {"Jet_hits": Nested.from_counts(counts, Jagged.from_counts(inner, values))}


def as_instances(columns: dict[str, Column]) -> list[dict[str, object]]:
    """The same events by name, one mapping an event."""
    lists = {name: column.tolist() for name, column in columns.items()}
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def write_small_bundle(
    folder: Path,
    *,
    name: str = "tth",
    seed: int = 0,
    hidden: int = 16,
    grown: bool = False,
    more: str = "",
    config: str = CONFIG,
) -> Bundle:
    """Write ``folder/name`` with one version; ``grown`` has the inputs of `GROWN`, ``more`` is added to ``config``."""
    random = np.random.default_rng(seed)
    features = parse_config((GROWN if grown else config) + more).features
    preprocessor = Preprocessor(features, GROWN_TYPES if grown else TYPES)
    prepared = preprocessor.run((make_grown_events if grown else make_events)(3000, seed=seed), 3000)
    found = StatisticsAccumulator({group: tensor.shape[-1] for group, tensor in prepared.inputs.items()})
    found.add_inputs(prepared.inputs, lengths=prepared.lengths, truncated=prepared.truncated)
    spec = ModelSpec.seal(name, preprocessor=preprocessor, statistics=found.seal())
    weights = [random.normal(size=(spec.width, hidden)) * 0.3, random.normal(size=(hidden, 1))]
    weights = [one.astype(np.float32) for one in weights]
    scaler = Scaler(spec.scaling)

    def reference(inputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float64]:
        margin = np.maximum(scaler.flat(inputs) @ weights[0], 0) @ weights[1]
        return 1 / (1 + np.exp(-margin.astype(np.float64)))

    core = lower_dense(weights, [np.zeros(hidden), np.zeros(1)], activation="relu", link="sigmoid")
    bundle: Bundle = write_bundle(folder, spec=spec, core=core, reference=reference, rows=prepared.inputs)
    return bundle
