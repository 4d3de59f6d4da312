from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mlaas4hep.errors import RequestError
from mlaas4hep.serve import events
from mlaas4hep.serve.events import EventReader, Prediction, encode_prediction, example_event
from mlaas4hep.spec.columns import ColumnType, Jagged, Nested

TYPES = {
    "MET.pt": ColumnType("flat", "float32"),
    "nJet": ColumnType("flat", "int64"),
    "event": ColumnType("flat", "uint64"),
    "HLT": ColumnType("flat", "bool"),
    "Jet_pt": ColumnType("jagged", "float32"),
    "Jet_id": ColumnType("jagged", "int64"),
}
EVENT: dict[str, Any] = {"MET.pt": 31.2, "nJet": 2, "event": 2**63, "HLT": True, "Jet_pt": [88.1, 42.0], "Jet_id": [3]}


def read(*events: Any, **changes: Any) -> dict[str, Any]:
    columns, count = EventReader(TYPES).read(json.dumps({"instances": events, **changes}).encode(), max_instances=100)
    assert count == len(events)
    return columns


def test_events_become_columns_of_their_declared_types() -> None:
    second = {"MET.pt": None, "nJet": 0, "event": 1, "HLT": False, "Jet_pt": [], "Jet_id": []}
    columns = read(EVENT, second)
    assert {name: str(column.dtype) for name, column in columns.items()} == {
        name: declared.dtype for name, declared in TYPES.items()
    }
    np.testing.assert_array_equal(columns["MET.pt"], np.array([31.2, np.nan], np.float32))
    assert columns["event"].tolist() == [2**63, 1]
    assert isinstance(columns["Jet_pt"], Jagged)
    assert columns["Jet_pt"].counts.tolist() == [2, 0]
    assert columns["Jet_id"].tolist() == [[3], []]


def test_no_instances_are_no_events() -> None:
    columns = read()
    assert len(columns["MET.pt"]) == 0
    assert len(columns["Jet_pt"]) == 0


def test_integers_stand_for_floats_and_words_for_what_json_lacks() -> None:
    columns = read({**EVENT, "MET.pt": "-Infinity", "Jet_pt": [3, None, "NaN", "Infinity", 1e300]})
    assert columns["MET.pt"].tolist() == [-np.inf]
    np.testing.assert_array_equal(columns["Jet_pt"].values, np.array([3, np.nan, np.nan, np.inf, np.inf], "f4"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"MET.pt": "31"}, r"column 'MET.pt' \(flat, float32\): asked for a number, found the text '31'"),
        ({"MET.pt": True}, "asked for a number, found true"),
        ({"MET.pt": [1.0, 2.0]}, "asked for a number, found a list of 2"),
        ({"nJet": 2.5}, r"column 'nJet' \(flat, int64\): asked for an integer, found 2.5"),
        ({"Jet_id": [1, 2.0, -2.5]}, r"asked for a list, each an integer, found -2.5 at \[2\]"),
        ({"event": 1e300}, "is outside 0 to"),
        ({"nJet": None}, "asked for an integer, found null"),
        ({"nJet": True}, "asked for an integer, found true"),
        ({"nJet": 2**63}, "9223372036854775808 is outside"),
        ({"event": -1}, "-1 is outside 0 to"),
        ({"HLT": 1}, "asked for true or false, found 1"),
        ({"Jet_pt": 88.1}, r"column 'Jet_pt' \(jagged, float32\): asked for a list, each a number, found 88.1"),
        ({"Jet_pt": None}, "asked for a list, each a number, found null"),
        ({"Jet_pt": [1.0, [2.0]]}, r"found a list of 1 at \[1\]"),
        ({"Jet_pt": [{"a": 1}]}, r"found an object at \[0\]"),
        ({"Jet_ptt": [1.0]}, "'Jet_ptt' is not one of the model's; did you mean 'Jet_pt'"),
    ],
)
def test_an_event_that_does_not_fit_is_refused_by_column_and_number(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said) as refused:
        read(EVENT, {**EVENT, **changes})
    assert "outside" in said or str(refused.value).startswith("instances[1]: ")


def test_a_missing_column_is_named_with_its_kind_and_the_first_event_without_it() -> None:
    without = {name: value for name, value in EVENT.items() if name != "Jet_pt"}
    with pytest.raises(RequestError, match=r"^instances\[1\]: column 'Jet_pt' \(jagged, float32\) is missing$"):
        read(EVENT, without, without)


def test_all_problems_of_a_request_are_told_at_once() -> None:
    with pytest.raises(RequestError) as refused:
        read({"MET_pt": 3, "nJet": "2", "event": 1, "HLT": True, "Jet_pt": [], "Jet_id": []})
    missing, wrong, unknown = str(refused.value).splitlines()
    assert missing == "instances[0]: column 'MET.pt' (flat, float32) is missing"
    assert wrong == "instances[0]: column 'nJet' (flat, int64): asked for an integer, found the text '2'"
    assert unknown.startswith("instances[0]: column 'MET_pt' is not one of the model's; did you mean 'MET.pt'")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"[1]", "Expected `object`"),
        (b"{}", "found nothing"),
        (b'{"inputs": []}', "found 'inputs'"),
        (b'{"instances": {}}', r'asked for a list of events, \{"instances": \[.*, found an object under \'instances\''),
        (b'{"instances": null}', "found null under 'instances'"),
        (b'{"instances": [[1, 2]]}', r"instances\[0\]: asked for an object \{column: value\}, found a list of 2"),
        (b'{"instances": ' + b"[" * 100_000, "nested too deeply|not JSON"),
        (b'{"instances": [{"MET.pt": 1e999}]}', "does not fit"),
    ],
)
def test_a_body_of_another_form_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        EventReader(TYPES).read(body, max_instances=10)


def test_whole_numbers_written_as_floats_are_integers() -> None:
    columns = read({**EVENT, "nJet": 6.0, "event": 3.0, "Jet_id": [1, 2.0, -3.0]}, EVENT)
    assert columns["nJet"].tolist() == [6, 2]
    assert columns["event"].tolist() == [3, 2**63]
    assert columns["Jet_id"].tolist() == [[1, 2, -3], [3]]


def test_what_is_near_is_looked_for_only_where_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(events, "nearest", lambda name, known: asked.append(name) or "")
    with pytest.raises(RequestError) as refused:
        read({**EVENT, **{f"x{i}": 1 for i in range(20_000)}, "y" * 100_000: 1})
    assert len(str(refused.value).splitlines()) == len(asked) == 8
    with pytest.raises(RequestError) as refused:
        read(*[{**EVENT, "y" * 100_000: 1}] * 10)
    assert len(asked) == 9
    assert len(str(refused.value)) < 300


def test_a_very_large_request_is_refused_in_the_words_of_the_parser() -> None:
    body = b'{"instances": [' + json.dumps(EVENT).encode() + b", {}" * 3_000_000 + b"]}"
    with pytest.raises(RequestError, match=r"missing required field `MET.pt` - at `\$\.instances\[1\]`"):
        EventReader(TYPES).read(body, max_instances=10)


def test_more_instances_than_allowed_are_refused() -> None:
    with pytest.raises(RequestError, match="101 instances are asked; this server takes 100"):
        read(*[EVENT] * 101)


def test_a_prediction_names_its_scores_and_is_null_where_an_event_is_not_selected() -> None:
    scores = np.array([[0.1, 0.9], [np.nan, 1.0]], np.float32)
    prediction = Prediction("tth", "1", ("ttbar", "ttH"), np.array([True, False, True]), scores)
    assert json.loads(encode_prediction(prediction)) == {
        "predictions": [
            {"ttbar": float(np.float32(0.1)), "ttH": float(np.float32(0.9))},
            None,
            {"ttbar": None, "ttH": 1.0},
        ],
        "model_name": "tth",
        "model_version": "1",
    }


def test_a_prediction_of_nothing_is_an_empty_list() -> None:
    nothing = Prediction("tth", "1", ("signal",), np.zeros(0, bool), np.zeros((0, 1), np.float32))
    assert json.loads(encode_prediction(nothing))["predictions"] == []


def test_the_example_is_an_event_that_fits() -> None:
    example = example_event(TYPES, {"MET.pt": 31.23456, "nJet": None})
    assert example["MET.pt"] == 31.23
    read(example)


HITS = {"hits": ColumnType("nested", "float32"), "flags": ColumnType("nested", "bool")}


def test_lists_of_lists_become_columns_of_their_declared_types() -> None:
    event = {"hits": [[1, None], [], ["Infinity"]], "flags": [[True]]}
    body = json.dumps({"instances": [event, {"hits": [], "flags": [[], []]}]}).encode()
    columns, count = EventReader(HITS).read(body, max_instances=2)
    assert count == 2
    hits, flags = columns["hits"], columns["flags"]
    assert isinstance(hits, Nested)
    assert (hits.counts.tolist(), hits.inner.counts.tolist(), hits.dtype.name) == ([3, 0], [2, 0, 1], "float32")
    np.testing.assert_array_equal(hits.values, [1, np.nan, np.inf])
    assert flags.tolist() == [[[True]], [[], []]]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1.0], r"column 'hits' \(nested, float32\): asked for a list of lists, each a number, found 1.0 at \[0\]"),
        ([[1.0], [2.0, True]], r"found true at \[1\]\[1\]"),
        ([[[1.0]]], r"found a list of 1 at \[0\]\[0\]"),
        (None, "found null"),
    ],
)
def test_what_is_no_list_of_lists_is_refused_at_its_place(value: Any, said: str) -> None:
    body = json.dumps({"instances": [{"hits": value, "flags": []}]}).encode()
    with pytest.raises(RequestError, match=said):
        EventReader(HITS).read(body, max_instances=1)


def test_an_example_of_a_list_of_lists_fits() -> None:
    example = example_event(HITS, {})
    columns, _ = EventReader(HITS).read(json.dumps({"instances": [example]}).encode(), max_instances=1)
    assert columns["hits"].tolist() == [[[1.0, 1.0], [1.0]]]
