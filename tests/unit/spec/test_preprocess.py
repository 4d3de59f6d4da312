"""Columns become tensors: cast, select, compute, sort, pad."""

from __future__ import annotations

import numpy as np
import pytest

from mlaas4hep.config import parse_config
from mlaas4hep.errors import ConfigError, DataError
from mlaas4hep.spec.columns import Column, ColumnType, Jagged
from mlaas4hep.spec.features import FeatureSpec
from mlaas4hep.spec.preprocess import Preprocessor

TYPES = {
    "MET": ColumnType("flat", "float32"),
    "nJet": ColumnType("flat", "int64"),
    "Jet_pt": ColumnType("jagged", "float32"),
    "Jet_eta": ColumnType("jagged", "float32"),
    "unused": ColumnType("flat", "float64"),
}


def features(**changes: str) -> FeatureSpec:
    keys = {
        "inputs": "{event: [MET, ht], jets: {vars: [Jet_pt, Jet_x], length: 2, sort: -Jet_pt}}",
        "new_variables": "{ht: sum(Jet_pt), Jet_x: Jet_eta * 2}",
        **changes,
    }
    samples = "samples: {a: {files: a.root, label: signal}, b: {files: b.root, label: background}}\n"
    return parse_config(samples + "\n".join(f"{key}: {value}" for key, value in keys.items())).features


def events() -> dict[str, Column]:
    return {
        "MET": np.array([10.0, 20.0, 30.0]),
        "nJet": np.array([3, 0, 1], dtype=np.int32),
        "Jet_pt": Jagged.from_lists([[1.0, 5.0, 3.0], [], [7.0]]),
        "Jet_eta": Jagged.from_lists([[0.1, 0.5, 0.3], [], [0.7]]),
    }


def test_collections_are_sorted_cut_and_padded_with_nan() -> None:
    prepared = Preprocessor(features(), TYPES).run(events(), 3)
    nan = np.nan
    np.testing.assert_array_equal(prepared.inputs["event"], np.float32([[10, 9], [20, 0], [30, 7]]))
    expected = np.float32([[[5, 1], [3, np.float32(0.3) * 2]], [[nan, nan], [nan, nan]], [[7, 1.4], [nan, nan]]])
    np.testing.assert_array_equal(prepared.inputs["jets"], expected)
    assert prepared.truncated == {"jets": 1}
    assert prepared.lengths["jets"].tolist() == [3, 0, 1]


def test_the_preselection_keeps_rows_in_order_and_says_which() -> None:
    prepared = Preprocessor(features(preselection="nJet > 0"), TYPES).run(events(), 3)
    assert prepared.selected.tolist() == [True, False, True]
    assert prepared.inputs["event"][:, 0].tolist() == [10.0, 30.0]


def test_only_the_columns_behind_the_inputs_are_asked_for() -> None:
    assert Preprocessor(features(preselection="nJet > 0"), TYPES).columns == {"MET", "nJet", "Jet_pt", "Jet_eta"}
    assert Preprocessor(features(inputs="{event: [MET]}"), TYPES).columns == {"MET"}


def test_an_event_has_the_same_bits_alone_and_among_others() -> None:
    rng = np.random.default_rng(1)
    counts = rng.poisson(3, 200)
    columns: dict[str, Column] = {
        "MET": rng.exponential(30, 200).astype(np.float32),
        "nJet": counts,
        "Jet_pt": Jagged.from_counts(counts, rng.exponential(50, counts.sum()).astype(np.float32)),
        "Jet_eta": Jagged.from_counts(counts, rng.normal(size=counts.sum()).astype(np.float32)),
    }
    preprocessor = Preprocessor(features(), TYPES)
    together = preprocessor.run(columns, 200).inputs
    for entry in range(0, 200, 7):
        alone = preprocessor.run({name: column[entry : entry + 1] for name, column in columns.items()}, 1).inputs
        for name in together:
            np.testing.assert_array_equal(alone[name][0].view(np.uint32), together[name][entry].view(np.uint32))


def test_no_events_give_empty_tensors_of_the_right_shape() -> None:
    prepared = Preprocessor(features(), TYPES).run({name: column[:0] for name, column in events().items()}, 0)
    assert prepared.inputs["event"].shape == (0, 2)
    assert prepared.inputs["jets"].shape == (0, 2, 2)


def test_kinds_that_do_not_fit_are_reported_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Preprocessor(features(inputs="{event: [Jet_pt, METT], jets: {vars: [MET], length: 2}}"), TYPES)
    jagged, unknown, flat = caught.value.problems
    assert "'Jet_pt' is jagged (float32[]), listed as flat" in jagged
    assert "'METT' is neither a column nor a new variable; did you mean 'MET'" in unknown
    assert "'MET' is flat (float32), listed in the collection 'jets'" in flat


def test_columns_of_a_collection_with_different_lengths_are_refused_with_the_event() -> None:
    columns = events() | {"Jet_eta": Jagged.from_lists([[0.1, 0.5, 0.3], [], [0.7, 0.8]])}
    with pytest.raises(DataError, match=r"'Jet_x' and 'Jet_pt' differ first in event 2 of this block: 2 and 1 values"):
        Preprocessor(features(), TYPES).run(columns, 3)


def test_a_missing_column_is_named() -> None:
    columns = {name: column for name, column in events().items() if name != "Jet_eta"}
    with pytest.raises(DataError, match=r"column 'Jet_eta' \(float32\[\]\) is missing; given: Jet_pt, MET, nJet"):
        Preprocessor(features(), TYPES).run(columns, 3)


def test_a_value_beyond_float32_becomes_infinite_without_a_warning() -> None:
    columns = events() | {"MET": np.array([1e300, -1e300, np.nan])}
    met = Preprocessor(features(), TYPES).run(columns, 3).inputs["event"][:, 0]
    np.testing.assert_array_equal(met, np.float32([np.inf, -np.inf, np.nan]))
