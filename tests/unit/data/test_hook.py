"""The user's ``preprocessing(rec)`` sees plain Python values, and gives columns of one type for all batches."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep.data.hook import RecordHook
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Column, ColumnType, Jagged, Nested, compress_columns, slice_columns
from mlaas4hep.testing import same_column

COLUMNS: dict[str, Column] = {
    "nJet": np.array([2, 0, 1], np.int32),
    "isMC": np.array([True, False, True]),
    "MET": np.array([10.5, np.nan, 30.0], np.float32),
    "Jet_pt": Jagged.from_lists([[50.0, 30.0], [], [40.0]]),
    "hits": Nested.from_lists([[[1], [2, 3]], [], [[]]], "int64"),
}


def hook(function: Any) -> RecordHook:
    return RecordHook("mine.py", b"", function)


def refusal(function: Any, *batches: dict[str, Column]) -> str:
    made = hook(function)
    *before, last = batches or (COLUMNS,)
    for batch in before:
        made.apply(batch, 1)
    with pytest.raises(DataError) as caught:
        made.apply(last, len(next(iter(last.values()))))
    return str(caught.value)


def test_the_function_sees_plain_python_values() -> None:
    seen: list[Any] = []
    hook(lambda rec: seen.append(rec) or rec).apply(COLUMNS, 3)
    assert seen[0] == {"nJet": 2, "isMC": True, "MET": 10.5, "Jet_pt": [50.0, 30.0], "hits": [[1], [2, 3]]}
    assert [type(value) for value in seen[0].values()] == [int, bool, float, list, list]
    assert np.isnan(seen[1]["MET"])
    assert seen[1]["Jet_pt"] == []


def test_what_is_returned_as_it_came_comes_out_in_64_bits() -> None:
    made = hook(lambda rec: rec)
    columns, kept = made.apply(COLUMNS, 3)
    assert kept.tolist() == [True, True, True]
    assert made.types == {
        "nJet": ColumnType("flat", "int64"),
        "isMC": ColumnType("flat", "bool"),
        "MET": ColumnType("flat", "float64"),
        "Jet_pt": ColumnType("jagged", "float64"),
        "hits": ColumnType("nested", "int64"),
    }
    for name, declared in made.types.items():
        assert same_column(columns[name], COLUMNS[name].astype(declared.dtype))


def test_events_are_dropped_changed_and_given_new_values() -> None:
    def preprocessing(rec: dict[str, Any]) -> dict[str, Any] | None:
        if rec["nJet"] == 0:
            return None
        tight = [pt for pt in rec["Jet_pt"] if pt > 35]
        return {
            "ht": sum(rec["Jet_pt"]),
            "tight": np.array(tight),
            "n": np.int32(len(tight)),
            "MET": None,
            "t": (1, 2.5),
        }

    columns, kept = hook(preprocessing).apply(COLUMNS, 3)
    assert kept.tolist() == [True, False, True]
    assert {name: column.tolist() for name, column in columns.items() if name != "MET"} == {
        "ht": [80.0, 40.0],
        "tight": [[50.0], [40.0]],
        "n": [1, 1],
        "t": [[1.0, 2.5], [1.0, 2.5]],
    }
    assert np.isnan(columns["MET"]).tolist() == [True, True]  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=5), st.integers(0, 2**32))
def test_the_cut_into_batches_changes_nothing(cuts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, 40)
    counts[0], counts[1] = 1, 2  # the first events settle the types
    events: dict[str, Column] = {
        "x": rng.normal(size=40),
        "keep": (rng.random(40) < 0.8) | (np.arange(40) < 1),
        "l": Jagged.from_counts(counts, rng.normal(size=int(counts.sum()))),
    }

    def preprocessing(rec: dict[str, Any]) -> dict[str, Any] | None:
        if not rec["keep"]:
            return None
        return {"y": rec["x"] * 2, "n": len(rec["l"]), "m": [[one, -one] for one in rec["l"]]}

    whole, kept = hook(preprocessing).apply(events, 40)
    assert kept.tolist() == events["keep"].tolist()
    made, bounds = hook(preprocessing), sorted({0, 40, *(min(cut, 40) for cut in cuts)})
    for start, stop in pairwise(bounds):
        part, here = made.apply(slice_columns(events, start, stop), stop - start)
        mask = np.zeros(int(kept.sum()), bool)
        mask[int(kept[:start].sum()) : int(kept[:stop].sum())] = True
        assert here.tolist() == kept[start:stop].tolist()
        for name, column in compress_columns(whole, mask).items():
            assert same_column(part[name], column)


def test_no_events_and_events_that_are_all_dropped_are_fine() -> None:
    made = hook(lambda rec: rec if rec["x"] > 0 else None)
    assert made.apply({"x": np.array([-1.0])}, 1)[0] == {}
    made.apply({"x": np.array([1.0])}, 1)
    for values in ([], [-1.0]):
        columns, kept = made.apply({"x": np.array(values)}, len(values))
        assert columns["x"].dtype == "float64"
        assert (len(columns["x"]), kept.tolist()) == (0, [False] * len(values))


def test_empty_lists_fit_any_list() -> None:
    made = hook(lambda rec: {"x": [[1.0]] if rec["i"] == 0 else []})
    made.apply({"i": np.array([0])}, 1)
    columns, _ = made.apply({"i": np.array([1, 1])}, 2)
    assert isinstance(columns["x"], Nested)
    assert columns["x"].tolist() == [[], []]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda rec: [1], "event 0: preprocessing returned list; wants a dictionary, or None to drop it"),
        (lambda rec: {"x": "text"}, "event 0: 'x' holds str; wants numbers, conditions, or lists of one of those"),
        (lambda rec: {"x": {"y": 1}}, "'x' holds dict"),
        (lambda rec: {"x": 1} if rec["nJet"] else {"x": [1]}, "event 1: 'x' mixes lists and single values"),
        (lambda rec: {"x": 1 if rec["nJet"] else True}, "event 1: 'x' mixes conditions and numbers"),
        (lambda rec: {"x": [[[1]]]}, "event 0: 'x' has lists three deep; two are the most"),
        (lambda rec: {"x": 2**64}, "'x' holds a whole number beyond 64 bits"),
        (
            lambda rec: {"x": 1} if rec["nJet"] else {"y": 1},
            "event 1: has y and lacks x, unlike the events before: all need the same keys",
        ),
        (lambda rec: rec["nope"], "mine.py: preprocessing failed in event 0: KeyError"),
    ],
)  # fmt: skip
def test_what_makes_no_column_is_refused_with_its_event(function: Any, said: str) -> None:
    assert said in refusal(function)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (1, 2.5, "event 0: 'x' is float64, and was int64 in the events before; return float(...) in every event"),
        (1.0, True, "event 0: 'x' is bool, and was float64 in the events before"),
        (1.0, [1.0], "event 0: 'x' is jagged, and was flat in the events before"),
        ([1.0], [[1.0]], "event 0: 'x' is nested, and was jagged in the events before"),
        ([1.0], 1.0, "event 0: 'x' is flat, and was jagged in the events before"),
    ],
)
def test_types_that_change_between_batches_are_refused(first: Any, second: Any, said: str) -> None:
    values = iter([first, second])
    one: dict[str, Column] = {"i": np.zeros(1)}
    assert said in refusal(lambda rec: {"x": next(values)}, one, one)


def test_whole_numbers_go_where_floats_were() -> None:
    values = iter([1.5, 2])
    made, one = hook(lambda rec: {"x": next(values)}), {"i": np.zeros(1)}
    made.apply(one, 1)
    columns, _ = made.apply(one, 1)
    assert columns["x"].tolist() == [2.0]
    assert columns["x"].dtype == "float64"


def test_a_file_is_run_from_its_path_and_known_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import math\n\ndef preprocessing(rec):\n    return {'x': math.sqrt(rec['x'])}\n")
    made = RecordHook.load(str(path))
    assert made.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert made.apply({"x": np.array([4.0])}, 1)[0]["x"].tolist() == [2.0]
    with pytest.raises(DataError, match=r"mine.py: preprocessing failed in event 1: ValueError in line 4: "):
        made.apply({"x": np.array([4.0, -1.0])}, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def preprocess(rec): return rec", "has no function 'preprocessing'; did you mean 'preprocess'"),
        ("def preprocessing(rec:\n", "cannot be run: SyntaxError in line 1"),
        ("\n1 / 0\n", "cannot be run: ZeroDivisionError in line 2"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        RecordHook.load(str(path))
    with pytest.raises(DataError, match=r"preproc: .*my.py does not exist; did you mean 'mine.py'"):
        RecordHook.load(str(tmp_path / "my.py"))
