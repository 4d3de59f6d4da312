"""Jagged columns behave like lists of lists, whatever is done to them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import (
    Column,
    ColumnType,
    Jagged,
    Nested,
    cast,
    compress_columns,
    concat_columns,
    hide_missing,
    promote,
    slice_columns,
)

LISTS = st.lists(st.lists(st.integers(0, 1000), max_size=5), max_size=8)


@given(LISTS, st.data())
def test_slicing_taking_and_masking_agree_with_python_lists(lists: list[list[int]], data: st.DataObject) -> None:
    column = Jagged.from_lists(lists, "int64")
    start = data.draw(st.integers(0, len(lists)))
    stop = data.draw(st.integers(0, len(lists)))
    assert column[start:stop].tolist() == lists[start:stop]
    assert column[start:stop].offsets[0] == 0
    index = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=6)) if lists else []
    assert column.take(np.array(index, dtype=np.int64)).tolist() == [lists[i] for i in index]
    mask = data.draw(st.lists(st.booleans(), min_size=len(lists), max_size=len(lists)))
    kept = compress_columns({"x": column}, np.array(mask, dtype=bool))["x"]
    assert kept.tolist() == [one for one, keep in zip(lists, mask, strict=True) if keep]


@given(LISTS, LISTS)
def test_joining_is_list_addition(one: list[list[int]], other: list[list[int]]) -> None:
    joined = concat_columns([{"x": Jagged.from_lists(part, "int64")} for part in (one, other)])["x"]
    assert joined.tolist() == one + other


def test_cast_brings_any_spelling_to_the_declared_type() -> None:
    types = {"a": ColumnType("flat", "float32"), "b": ColumnType("jagged", "int64"), "c": ColumnType("flat", "bool")}
    columns = {"a": np.array([1, 2]), "b": Jagged.from_lists([[1], [2, 3]], "int8"), "c": np.array([1, 0], dtype="u1")}
    done = cast(columns | {"extra": np.zeros(2)}, types)
    assert set(done) == {"a", "b", "c"}
    assert [done[name].dtype.name for name in "abc"] == ["float32", "int64", "bool"]


def test_cast_refuses_a_list_where_a_value_is_declared() -> None:
    with pytest.raises(DataError, match="'a' is declared flat, but is jagged"):
        cast({"a": Jagged.from_lists([[1]])}, {"a": ColumnType("flat", "float32")})


def test_the_promoted_type_holds_both() -> None:
    assert promote("float32", "float64") == "float64"
    assert promote("int64", "float32") == "float64"
    assert promote("bool", "float32") == "float32"
    assert promote("bool", "int64") == "int64"


NESTED = st.lists(st.lists(st.lists(st.integers(0, 1000), max_size=3), max_size=4), max_size=8)


@given(NESTED, NESTED, st.data())
def test_lists_of_lists_are_sliced_taken_masked_and_joined_like_those_of_python(
    lists: list[list[list[int]]], others: list[list[list[int]]], data: st.DataObject
) -> None:
    column = Nested.from_lists(lists, "int64")
    assert column.tolist() == lists
    assert column.counts.tolist() == [len(one) for one in lists]
    start, stop = data.draw(st.integers(0, len(lists))), data.draw(st.integers(0, len(lists)))
    part = slice_columns({"x": column}, start, stop)["x"]
    assert part.tolist() == lists[start:stop]
    assert isinstance(part, Nested)
    assert part.offsets[0] == part.inner.offsets[0] == 0
    assert column[::-2].tolist() == lists[::-2]
    index = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=6)) if lists else []
    assert column.take(np.array(index, dtype=np.int64)).tolist() == [lists[i] for i in index]
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(lists), max_size=len(lists))), dtype=bool)
    kept = compress_columns({"x": column}, mask)["x"]
    assert kept.tolist() == [one for one, keep in zip(lists, mask, strict=True) if keep]
    joined = concat_columns([{"x": column}, {"x": Nested.from_lists(others, "int64")}])["x"]
    assert joined.tolist() == lists + others
    assert column.flatten().tolist() == [[value for inner in one for value in inner] for one in lists]
    assert column.astype("float64").tolist() == lists
    assert repr(column).startswith(f"Nested({len(lists)} events")


def test_lists_of_lists_are_cast_and_checked_like_other_columns() -> None:
    columns: dict[str, Column] = {"x": Nested.from_lists([[[1, 2], []], [[-999]]], "int32")}
    done = cast(columns, {"x": ColumnType("nested", "float32")})
    assert done["x"].dtype == "float32"
    hidden = hide_missing(done, [-999.0])["x"]
    np.testing.assert_array_equal(hidden.values, [1, 2, np.nan])  # type: ignore[union-attr]
    assert str(ColumnType("nested", "float32")) == "float32[][]"
    with pytest.raises(DataError, match=r"'x' is declared jagged, but is nested \(a list of lists an event\)"):
        cast(columns, {"x": ColumnType("jagged", "float32")})
    with pytest.raises(DataError, match="numbers of lists add up to 3, but there are 2 lists"):
        Nested.from_counts([1, 2], Jagged.from_lists([[1.0], []]))
