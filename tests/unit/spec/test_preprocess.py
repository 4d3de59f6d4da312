"""Columns become tensors: cast, select, compute, sort, pad."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import pytest

from mlaas4hep.config import parse_config
from mlaas4hep.errors import ConfigError, DataError
from mlaas4hep.spec.columns import Column, ColumnType, Jagged, Nested
from mlaas4hep.spec.features import FeatureSpec, InputGroup, Variable
from mlaas4hep.spec.new_variables import MAX_NEW_VARIABLES, computable
from mlaas4hep.spec.preprocess import Preprocessor, columns_of

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


def test_codes_of_missing_values_are_nan_before_anything_is_computed() -> None:
    declared = features(missing="[-999, -99.9]", preselection="MET > -500")
    given = events() | {
        "MET": np.array([-999.0, 20.0, -99.9], dtype=np.float32),
        "Jet_pt": Jagged.from_lists([[1.0, -999.0, 3.0], [], [7.0]]),
    }
    preprocessor = Preprocessor(declared, TYPES)
    prepared = preprocessor.run(given, 3)
    assert prepared.selected.tolist() == [False, True, False], "NaN passes no cut"
    np.testing.assert_array_equal(prepared.inputs["event"], np.float32([[20, 0]]))
    assert np.isnan(preprocessor.evaluate("sum(Jet_pt)", given, 3)[0])
    assert given["MET"][0] == -999, "what was given stays as it was"


def test_whole_numbers_can_be_missing_where_codes_are_declared() -> None:
    declared = features(missing="[-1]", inputs="{event: [nJet, twice]}", new_variables="{twice: 2 * nJet}")
    preprocessor = Preprocessor(declared, TYPES)
    assert preprocessor.types["nJet"] == ColumnType("flat", "float64")
    rows = preprocessor.run({"nJet": np.array([3, -1], dtype=np.int32)}, 2).inputs["event"]
    np.testing.assert_array_equal(rows, np.float32([[3, 6], [np.nan, np.nan]]))


def test_features_without_codes_are_written_as_before_there_were_any() -> None:
    assert b"missing" not in msgspec.json.encode(features())
    assert features(missing="[]") == features() == FeatureSpec(**msgspec.structs.asdict(features()))
    one, other = features(missing="[-999, -1]"), features(missing="[-1, -999.0, -1]")
    assert one == other == msgspec.json.decode(msgspec.json.encode(one), type=FeatureSpec)
    assert one.missing_values == (-999.0, -1.0)


def declared(new_variables: dict[str, str], **changes: object) -> FeatureSpec:
    return msgspec.structs.replace(features(inputs="{event: [MET]}"), new_variables=new_variables, **changes)


def test_a_chain_in_which_each_variable_uses_two_before_it_is_settled_at_once() -> None:
    chain = {"f0": "MET", "f1": "MET"} | {f"f{i}": f"f{i - 1} + f{i - 2}" for i in range(2, 200)}
    spec = declared(dict(reversed(chain.items())), preselection="f9 > 100")
    start = time.thread_time()
    preprocessor = Preprocessor(spec, TYPES)
    assert time.thread_time() - start < 1
    assert preprocessor.columns == {"MET"}
    assert preprocessor.type_of("f199") == ColumnType("flat", "float64")
    assert preprocessor.run(events(), 3).selected.tolist() == [True] * 3
    assert preprocessor.evaluate("f9", events(), 3).tolist() == [550.0, 1100.0, 1650.0]


def test_the_longest_chain_of_new_variables_needs_no_deep_stack() -> None:
    chain = {"v0": "MET"} | {f"v{i}": f"v{i - 1} + 1" for i in range(1, MAX_NEW_VARIABLES)}
    preprocessor = Preprocessor(declared(chain), TYPES)
    assert preprocessor.evaluate(f"v{MAX_NEW_VARIABLES - 1}", events(), 3)[0] == 10 + MAX_NEW_VARIABLES - 1
    with pytest.raises(ConfigError, match=f"lists {MAX_NEW_VARIABLES + 1}; at most {MAX_NEW_VARIABLES}"):
        Preprocessor(declared(chain | {"one_more": "MET"}), TYPES)


def test_a_circle_is_named_without_what_only_hangs_on_it() -> None:
    with pytest.raises(ConfigError) as caught:
        Preprocessor(declared({"z": "a", "a": "b + MET", "b": "c", "c": "a", "free": "MET"}), TYPES)
    assert caught.value.problems == ("new_variables: a, b, c need each other in a circle",)
    with pytest.raises(ConfigError, match=r"new_variables\.ht: needs itself"):
        Preprocessor(declared({"ht": "ht / 1000"}), TYPES)


def test_a_new_variable_may_not_hide_a_column_of_the_files() -> None:
    with pytest.raises(ConfigError) as caught:
        Preprocessor(declared({"unused": "MET * 2"}), TYPES)
    assert caught.value.problems == ("new_variables.unused: the files have a column 'unused'; choose another name",)


@pytest.mark.parametrize("neighbours", ["none", "many", "few and long"])
@pytest.mark.parametrize("dtype", ["int64", "uint64", "float32", "float64", "bool"])
def test_sorting_is_exact_in_the_type_of_the_key_whatever_stands_beside(dtype: str, neighbours: str) -> None:
    if dtype == "bool":
        key, order = [True, False, True], [1, 0, 2]
    elif dtype.startswith("float"):
        key, order = [np.nan, 2.0, -np.inf, np.inf, np.nan], [2, 1, 3, 0, 4]
    else:
        top = int(np.iinfo(dtype).max)  # also what the padding of the table is
        key, order = [top, 2**60 + 3, 2**60 + 2, 2**60 + 1, top, 0], [5, 3, 2, 1, 0, 4]
    more = {"none": [], "many": [[1, 0]] * 300, "few and long": [[0]] * 3000 + [[1, 0] * 1500]}[neighbours]
    lists = [key, *more]
    spec = declared(
        {}, inputs=features(inputs="{jets: {vars: [slot], length: 6, sort: key}}", new_variables="{}").inputs
    )
    types = {"slot": ColumnType("jagged", "int64"), "key": ColumnType("jagged", dtype)}  # type: ignore[arg-type]
    columns = {
        "slot": Jagged.from_lists([range(len(one)) for one in lists], "int64"),
        "key": Jagged.from_lists(lists, dtype),
    }
    rows = Preprocessor(spec, types).run(columns, len(lists)).inputs["jets"]
    assert rows[0, : len(order), 0].tolist() == order


P4_TYPES = TYPES | {
    "Jet_phi": ColumnType("jagged", "float32"),
    "Jet_m": ColumnType("jagged", "float32"),
    "Trk_hits": ColumnType("nested", "float32"),
    "Lep_pt": ColumnType("jagged", "float32"),
}
P4_EVENTS = events() | {
    "Jet_phi": Jagged.from_lists([[1.0, -2.0, 3.0], [], [0.0]]),
    "Jet_m": Jagged.from_lists([[1.0, 2.0, 3.0], [], [4.0]]),
    "Trk_hits": Nested.from_lists([[[1.0, 2.0], []], [], [[3.0]]]),
    "Lep_pt": Jagged.from_lists([[1.0], [2.0], []]),
}


def test_a_collection_brings_its_columns_and_a_sealed_contract_means_the_same() -> None:
    asked = features(
        inputs="{event: [mjj, ptsum], jets: {vars: [Jet_pt, dphi], length: 2}}",
        new_variables="{mjj: 'mass(Jet[0] + Jet[1])', ptsum: pt(sum(Jet)), dphi: 'deltaphi(Jet, Jet[0])'}",
        preselection="nJet == 0 or mass(Jet[0]) > 0",
    )
    whole = Preprocessor(asked, P4_TYPES)
    assert whole.columns == {"Jet_pt", "Jet_eta", "Jet_phi", "Jet_m", "nJet"}
    assert columns_of(asked, known=P4_TYPES) == whole.columns
    sealed = Preprocessor(asked, whole.types)
    assert sealed.columns == whole.columns
    for made in (whole, sealed):
        prepared = made.run(P4_EVENTS, 3)
        assert prepared.selected.all()
        assert prepared.inputs["event"].tobytes() == whole.run(P4_EVENTS, 3).inputs["event"].tobytes()
    assert np.isnan(prepared.inputs["event"][:, 0]).tolist() == [False, True, True]


def test_a_new_variable_may_be_a_member_of_a_collection() -> None:
    asked = features(
        inputs="{event: [m]}", new_variables="{m: 'mass(Lep[0])', Lep_eta: Lep_pt * 0, Lep_phi: Lep_eta, Lep_m: Lep_pt}"
    )
    made = Preprocessor(asked, P4_TYPES)
    assert made.columns == {"Lep_pt"}
    np.testing.assert_array_equal(made.run(P4_EVENTS, 3).inputs["event"][:, 0], np.float32([1.0, 2.0, np.nan]))


def test_a_circle_through_a_collection_is_told() -> None:
    asked = features(inputs="{event: [Jet_m]}", new_variables="{Jet_m: 'mass(Jet)'}")
    with pytest.raises(ConfigError, match=r"new_variables.Jet_m: needs itself"):
        Preprocessor(asked, {name: one for name, one in P4_TYPES.items() if name != "Jet_m"})


def test_a_collection_without_its_columns_is_told_at_its_character() -> None:
    with pytest.raises(
        ConfigError, match="'Lep' stands for the columns Lep_pt, Lep_eta, Lep_phi, Lep_mass here"
    ) as told:
        Preprocessor(features(inputs="{event: [m]}", new_variables="{m: '1 + mass(Lep[0])'}"), P4_TYPES)
    assert "    1 + mass(Lep[0])\n" in str(told.value)
    assert str(told.value).endswith(" " * 15 + "^")


def test_lists_of_lists_are_refused_as_inputs_and_taken_when_reduced() -> None:
    asked = features(inputs="{event: [MET, Trk_hits], jets: {vars: [Trk_hits], length: 2}}")
    with pytest.raises(ConfigError) as refused:
        Preprocessor(asked, P4_TYPES)
    assert refused.value.problems == (
        "inputs.event[1]: 'Trk_hits' is float32[][], a list of lists an event, which no input takes; reduce it in "
        "new_variables, as in max(Trk_hits) or flatten(Trk_hits)",
        "inputs.jets.vars[0]: 'Trk_hits' is float32[][], a list of lists an event, which no input takes; reduce it in "
        "new_variables, as in max(Trk_hits) or flatten(Trk_hits)",
    )
    reduced = features(
        inputs="{event: [n], trks: {vars: [Trk_sum], length: 2}}",
        new_variables="{n: count(flatten(Trk_hits)), Trk_sum: sum(Trk_hits)}",
    )
    prepared = Preprocessor(reduced, P4_TYPES).run(P4_EVENTS, 3)
    assert prepared.inputs["event"][:, 0].tolist() == [2.0, 0.0, 1.0]
    np.testing.assert_array_equal(prepared.inputs["trks"][:, :, 0], [[3, 0], [np.nan, np.nan], [3, np.nan]])


def test_a_contract_leaves_out_new_variables_whose_columns_it_does_not_have() -> None:
    declared = {"a": "x + 1", "truth": "gen - x", "b": "truth * a", "c": "a * a", "d": "c + b"}
    assert computable(declared, ["x"]) == {"a": "x + 1", "c": "a * a"}
    assert computable(declared, ["x", "gen"]) == declared
    wanted = FeatureSpec(inputs=(InputGroup("event", (Variable("c"),)),), new_variables=declared)
    types = {"x": ColumnType("flat", "float32")}
    with pytest.raises(ConfigError, match=r"new_variables\.truth: there is no column 'gen'"):
        Preprocessor(wanted, types)
    sealed = Preprocessor(wanted, types, sealed=True)
    assert sealed.run({"x": np.array([1.0, 2.0], np.float32)}, 2).inputs["event"][:, 0].tolist() == [4.0, 9.0]
    needy = FeatureSpec(inputs=(InputGroup("event", (Variable("d"),)),), new_variables=declared)
    with pytest.raises(ConfigError, match="'d' is neither a column nor a new variable"):
        Preprocessor(needy, types, sealed=True)
