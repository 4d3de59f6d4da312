"""JSON: objects a line, and arrays of objects."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.data.source import Source, open_source
from mlaas4hep.data.tables import rows
from mlaas4hep.errors import DataError
from mlaas4hep.testing_tables import text_clusters

EVENTS = [
    {
        "run": 1,
        "met": {"pt": 20.5, "n": 1},
        "jets": [{"pt": 30, "q": 1}, {"pt": 20.25, "q": -1}],
        "mu": [1.5],
        "ok": True,
    },
    {"run": 2, "met": {"pt": None, "n": 2}, "jets": [], "mu": None, "ok": False, "extra": 7},
    {"run": 3, "jets": None, "ok": False, "mu": [None, 2], "met": None},
    {"run": 2**53 + 1, "met": {"pt": 3, "n": 4}, "jets": [{"pt": 1e-300, "q": 2}], "ok": True},
]


def opened(folder: Path, text: str | bytes, name: str = "a.json") -> Source:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_source(str(path), "Events")


def lines(events: Sequence[Any]) -> str:
    return "".join(json.dumps(one) + "\n" for one in events)


def types(source: Source) -> dict[str, str]:
    with source:
        return {name: str(info.type or info.reason) for name, info in source.columns.items()}


def plain(value: Any) -> Any:
    """Lists with None for NaN, so that they can be compared."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def all_of(source: Source) -> dict[str, Any]:
    names = [name for name, info in source.columns.items() if info.type is not None]
    with source:
        return {name: plain(column.tolist()) for name, column in source.read(names, 0, source.num_entries).items()}


EXPECTED = {
    "run": [1, 2, 3, 2**53 + 1],
    "met.pt": [20.5, None, None, 3],
    "met.n": [1, 2, None, 4],
    "jets.pt": [[30, 20.25], [], [], [1e-300]],
    "jets.q": [[1, -1], [], [], [2]],
    "mu": [[1.5], [], [None, 2], []],
    "ok": [True, False, False, True],
    "extra": [None, 7, None, None],
}


@pytest.mark.parametrize(("shape", "indent"), [("lines", None), ("array", None), ("array", 1)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_objects_become_columns(tmp_path: Path, shape: str, indent: int | None, pack: Any) -> None:
    text = lines(EVENTS) if shape == "lines" else json.dumps(EVENTS, indent=indent)
    name = {bytes: "a.json", gzip.compress: "a.json.gz", bz2.compress: "a.jsonl.bz2"}[pack]
    with text_clusters(2), opened(tmp_path, pack(text.encode()), name) as source:
        assert source.clusters.tolist() == [0, 2, 4]
        assert all_of(source) == EXPECTED


def test_types_hang_on_all_events(tmp_path: Path) -> None:
    assert types(opened(tmp_path, lines(EVENTS))) == {
        "run": "int64",
        "met.pt": "float64",
        "met.n": "float64",
        "jets.pt": "float64[]",
        "jets.q": "int64[]",
        "mu": "float64[]",
        "ok": "bool",
        "extra": "float64",
    }


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2], "int64"),
        ([1, 2.5], "float64"),
        ([1, None], "float64"),
        ([True, None], "float64"),
        ([2**63, 0], "uint64"),
        ([2**63, -1], "float64"),
        ([2**64, 1], "float64"),
        ([None, None], "float64"),
        ([[], []], "float64[]"),
        ([[1], []], "int64[]"),
        ([[1], [1.5]], "float64[]"),
        ([[[1], []], []], "int64[][]"),
        ([[[1.5]], [None]], "float64[][]"),
        ([[[[1]]], []], "lists more than two deep"),
        (["a", "b"], "text, not numbers"),
        ([1, "b"], "a number in some events, text in others"),
        ([1, [2]], "a number in some events, a list in others"),
        ([True, 1], "true or false in some events, a number in others"),
        ([{"b": 1}, 2], "a number in some events, an object in others"),
        ([[{"b": 1}], [2]], "a number in some events, an object in others"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_types_of_values(tmp_path: Path, values: list[Any], expected: str, turned: bool) -> None:
    events = [{"a": one} for one in (reversed(values) if turned else values)]
    assert types(opened(tmp_path, lines(events * 3))) == {"a": expected}


def test_a_name_that_comes_in_two_ways_is_refused(tmp_path: Path) -> None:
    assert types(opened(tmp_path, lines([{"a.b": 1, "a": {"b": 2}}]))) == {"a.b": "several columns have this name"}


def test_nan_and_infinity_are_taken_as_python_writes_them(tmp_path: Path) -> None:
    events = [{"x": float("nan"), "l": [1.0, float("-inf")]}, {"x": 1.0, "l": []}, {"x": float("inf"), "l": [2]}]
    assert all_of(opened(tmp_path, lines(events))) == {"x": [None, 1, math.inf], "l": [[1, -math.inf], [], [2]]}
    assert all_of(opened(tmp_path, json.dumps(events), "b.json")) == {
        "x": [None, 1, math.inf],
        "l": [[1, -math.inf], [], [2]],
    }


def test_only_asked_columns_are_decoded(tmp_path: Path) -> None:
    with opened(tmp_path, lines(EVENTS)) as source:
        read = source.read(["jets.q", "run"], 1, 4)
        assert list(read) == ["jets.q", "run"]
        assert read["jets.q"].tolist() == [[], [], [2]]
        assert read["run"].tolist() == [2, 3, 2**53 + 1]


def test_files_are_known_by_what_they_hold(tmp_path: Path) -> None:
    for name, text in (("a.txt1", lines(EVENTS)), ("events", json.dumps(EVENTS, indent=2))):
        with opened(tmp_path, text, name) as source:
            assert source.num_entries == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1}\n{"a": 2\n{"a": 3}\n', "line 2: is no JSON object: .*; it begins with b'{\"a\": 2'"),
        ('{"a": 1}\n\n[1]\n', r"line 3: an event is an object \(\{...\}\), this is b'\[1\]'"),
        ('{"a": 1}\n{"a": ', "line 2: is no JSON object"),
        ('{\n "a": 1\n}\n', "line 1: is no JSON object"),
        ('[{"a": 1}, {"a": 2}', "is truncated: its array of objects has no closing bracket"),
        ('[{"a": 1}, {"a": 2', "is truncated: its array of objects has no closing bracket"),
        ('[{"a": 1}] {"a": 2}', "more behind the closing bracket"),
        ('[\n{"a": 1},\n{"a": x},\n{"a": 1}]', "line 3: is no JSON object"),
        ('[{"a": 1},}', "no closing bracket; cut at b'}'"),
        ('[{"a": 1},,{"a": 1}]', "line 1: is no JSON object"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 1: is no JSON object: brackets inside brackets"),
    ],
)
def test_damage_is_told_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=rf"a\.json.*{words}"):
        opened(tmp_path, text)


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json, line 2: is no JSON object"):
        opened(tmp_path, b'{"a": 1}\n{"\xff\xfe": 1}\n')


def test_blocks_of_any_size_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (7, 64, 1000):
        monkeypatch.setattr(rows, "_BLOCK_BYTES", size)
        for name, text in (("a", lines(EVENTS * 5)), ("b", json.dumps(EVENTS * 5, indent=1))):
            found = all_of(opened(tmp_path, text, f"{name}{size}.json"))
            assert found == {column: values * 5 for column, values in EXPECTED.items()}


NUMBERS = st.one_of(st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False))


@given(st.lists(NUMBERS, min_size=1, max_size=10), st.booleans())
def test_numbers_are_those_of_python(
    tmp_path_factory: pytest.TempPathFactory, values: list[int | float], is_array: bool
) -> None:
    events = [{"a": one, "l": [one] * (place % 3)} for place, one in enumerate(values)]
    text = json.dumps(events) if is_array else lines(events)
    with opened(tmp_path_factory.mktemp("json"), text) as source:
        dtype = source.columns["a"].description
        column = source.read(["a"], 0, len(values))["a"]
        whole = all(isinstance(one, int) for one in values)
        small = max(values) < 2**63
        assert dtype == ("float64" if not whole or (not small and min(values) < 0) else "int64" if small else "uint64")
        assert np.array_equal(column, np.array(values, dtype=dtype))


@given(st.binary(max_size=200))
def test_any_bytes_give_a_table_or_one_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    for begin in (b'{"a": 1}\n', b'[{"a": 1},'):
        with contextlib.suppress(DataError):
            all_of(opened(folder, begin + data, "a.json"))
