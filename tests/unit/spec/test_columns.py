"""Jagged columns behave like lists of lists, whatever is done to them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import ColumnType, Jagged, cast, compress_columns, concat_columns, promote

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
