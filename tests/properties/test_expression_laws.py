"""Laws of expressions over random expressions and columns: alone = in a batch, types, canonical text, no surprises."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep.errors import ExpressionError
from mlaas4hep.spec.columns import (
    Column,
    ColumnType,
    DType,
    Jagged,
    Nested,
    compress_columns,
    kind_of,
    slice_columns,
    values_of,
)
from mlaas4hep.spec.expressions import Expression

TYPES = {
    "f": ColumnType("flat", "float32"),
    "d": ColumnType("flat", "float64"),
    "i": ColumnType("flat", "int64"),
    "u": ColumnType("flat", "uint64"),
    "b": ColumnType("flat", "bool"),
    "jf": ColumnType("jagged", "float32"),
    "jd": ColumnType("jagged", "float64"),
    "ji": ColumnType("jagged", "int64"),
    "jb": ColumnType("jagged", "bool"),
    **{f"jet_{name}": ColumnType("jagged", "float32") for name in ("pt", "eta", "phi", "mass")},
    **{f"lep_{name}": ColumnType("flat", "float64") for name in ("pt", "eta", "phi", "mass")},
    "nd": ColumnType("nested", "float64"),
    "nb": ColumnType("nested", "bool"),
}
AWKWARD = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-310, 1e300, -1.0, 0.1]


FUNCTIONS_OF_ONE = [
    *["abs", "log", "sqrt", "exp", "-", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh"],
    *["acosh", "atanh", "log10", "log2", "log1p", "expm1", "floor", "ceil", "round", "sign"],
]


def numbers(leaves: list[str], depth: int) -> st.SearchStrategy[str]:
    if depth == 0:
        return st.sampled_from([*leaves, "2", "0.1", "-3"])
    inner = numbers(leaves, depth - 1)
    return st.one_of(
        inner,
        st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "**"]), inner),
        st.builds("{}({})".format, st.sampled_from(FUNCTIONS_OF_ONE), inner),
        st.builds("{}({}, {})".format, st.sampled_from(["atan2", "hypot", "deltaphi"]), inner, inner),
        st.builds("where({} < {}, {}, {})".format, inner, inner, inner, inner),
        st.builds("{}({}, {})".format, st.sampled_from(["min", "max"]), inner, inner),
        st.builds("({} {} 7)".format, inner, st.sampled_from(["//", "%"])),
    )


def conditions(leaves: list[str], names: list[str], depth: int) -> st.SearchStrategy[str]:
    number = numbers(leaves, depth)
    simple = st.one_of(
        st.sampled_from(names),
        st.builds("({} {} {})".format, number, st.sampled_from(["<", "<=", "==", "!=", ">", ">="]), number),
        st.builds("({} < {} <= {})".format, number, number, number),
    )
    return st.one_of(
        simple,
        st.builds("({} {} {})".format, simple, st.sampled_from(["and", "or", "&", "|"]), simple),
        st.builds("({} {} {} {} {})".format, simple, *[st.sampled_from(["and", "or", "&&"]), simple] * 2),
    )


FLAT = ["f", "d", "i", "u"]
LISTS = ["jf", "jd", "ji"]
per_value = numbers([*FLAT, *LISTS], 2)
# The list first, so that the operand of a reduction is a list for sure.
lists = st.builds("({} * {})".format, st.sampled_from(LISTS), per_value)
list_conditions = st.builds("(jb and {})".format, conditions([*FLAT, *LISTS], ["b", "jb"], 1))
REDUCTIONS = ["sum", "count", "mean", "min", "max", "argmin", "argmax"]
SELECTORS = ["[jd > 0]", "[jb][:2]", "[1:]", "[::-1]", "[-3:-1]", "[ji]", "[jb or jf > 1]"]
picked = st.one_of(
    st.builds("{}{}".format, lists, st.sampled_from(SELECTORS)),
    st.builds("sort({}, {})".format, lists, lists),
    st.builds("sort({})".format, lists),
)
vectors = st.sampled_from(
    [
        *["jet", "jet[0]", "jet[-1]", "jet[jb]", "jet[1:3]", "sort(jet, -jd)", "sum(jet)", "sum(jet[jf > 0])", "lep"],
        *[
            "jet[0] + jet[1]",
            "jet - lep",
            "lep + sum(jet[:4])",
            "massless(jet)[i]",
            "transverse(lep)",
            "jet[argmax(jd)]",
        ],
    ]
)
measured = st.one_of(
    st.builds("{}({})".format, st.sampled_from(["mass", "pt", "eta", "phi", "energy", "rapidity", "p"]), vectors),
    st.builds("{}({}, lep)".format, st.sampled_from(["deltaR", "deltaphi", "deltaeta"]), vectors),
)
nested = st.sampled_from(["nd", "(nd * jf - d)", "nd[jb]", "nd[:2]", "abs(nd)", "where(nb, nd, jd)"])
deep = st.one_of(
    nested,
    st.builds("{}({})".format, st.sampled_from([*REDUCTIONS, "flatten"]), nested),
    st.builds("{}[{}]".format, nested, st.integers(-2, 2)),
    st.builds("{}({} > d)".format, st.sampled_from(["any", "all", "sum"]), nested),
)
reduced = st.one_of(
    st.builds("{}({})".format, st.sampled_from(REDUCTIONS), st.one_of(lists, picked)),
    st.builds("get({}, {}, d)".format, lists, st.integers(-3, 3)),
    st.builds("{}[{}]".format, lists, st.sampled_from(["i", "argmax(jd)", "count(jf) - 1"])),
    st.builds("{}({})".format, st.sampled_from(["any", "all", "sum"]), list_conditions),
    st.builds("{}[{}]".format, st.one_of(lists, list_conditions), st.integers(-3, 3)),
)
expressions = st.one_of(
    per_value, list_conditions, reduced, st.builds("{} * f + {}".format, reduced, reduced), picked, measured, deep
)


def values(rng: np.random.Generator, dtype: DType, size: int) -> np.ndarray[Any, Any]:
    if dtype == "bool":
        return rng.random(size) < 0.5
    if dtype == "int64":
        return np.where(rng.random(size) < 0.1, rng.integers(-(2**63), 2**63 - 1, size), rng.integers(-5, 9, size))
    if dtype == "uint64":
        return rng.integers(0, 2**64 - 1, size, dtype=np.uint64)
    some = rng.normal(size=size) * 10.0 ** rng.integers(-3, 4, size)
    with np.errstate(over="ignore"):
        return np.where(rng.random(size) < 0.1, rng.choice(AWKWARD, size), some).astype(dtype)


def make_columns(seed: int, size: int) -> dict[str, Column]:
    rng = np.random.default_rng(seed)
    counts = rng.choice([0, 1, 2, 3, 9, 200], size, p=[0.2, 0.2, 0.2, 0.2, 0.18, 0.02])
    inner = rng.choice([0, 1, 2, 5], int(counts.sum()), p=[0.3, 0.3, 0.3, 0.1])

    def column(one: ColumnType) -> Column:
        if one.kind == "flat":
            return values(rng, one.dtype, size)
        if one.kind == "jagged":
            return Jagged.from_counts(counts, values(rng, one.dtype, len(inner)))
        return Nested.from_counts(counts, Jagged.from_counts(inner, values(rng, one.dtype, int(inner.sum()))))

    return {name: column(one) for name, one in TYPES.items()}


def bits(column: Column, start: int, stop: int) -> bytes:
    part = column[start:stop]
    lengths = b"" if isinstance(part, np.ndarray) else part.counts.tobytes()
    return lengths + (part.inner.counts.tobytes() if isinstance(part, Nested) else b"") + values_of(part).tobytes()


@given(expressions, st.integers(0, 2**32), st.integers(1, 70))
@settings(max_examples=150, deadline=None)
def test_an_event_has_the_same_bits_alone_and_in_any_batch(text: str, seed: int, size: int) -> None:
    expression = Expression.parse(text)
    columns = make_columns(seed, size)
    together = expression.evaluate(columns, size)
    cut = size // 3
    rest = expression.evaluate(slice_columns(columns, cut, size), size - cut)
    assert bits(rest, 0, size) == bits(together, cut, size)
    for event in {0, size // 2, size - 1}:
        alone = expression.evaluate(compress_columns(columns, np.arange(size) == event), 1)
        assert bits(alone, 0, 1) == bits(together, event, event + 1)


@given(expressions, st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_the_declared_type_is_the_type_that_comes_out(text: str, seed: int) -> None:
    result = Expression.parse(text).evaluate(make_columns(seed, 5), 5)
    declared = Expression.parse(text).result_type(TYPES)
    assert kind_of(result) == declared.kind
    assert result.dtype == declared.dtype
    assert len(result) == 5


@given(expressions, st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_the_canonical_text_means_the_same(text: str, seed: int) -> None:
    expression = Expression.parse(text)
    again = Expression.parse(expression.canonical)
    assert again.canonical == expression.canonical
    assert again.names == expression.names
    assert Expression.parse(text.replace(" ", "  ")).canonical == expression.canonical
    columns = make_columns(seed, 7)
    assert bits(again.evaluate(columns, 7), 0, 7) == bits(expression.evaluate(columns, 7), 0, 7)


@pytest.mark.parametrize(
    "text",
    [
        *["x ** 1.7", "x ** 3", "2 ** x", "x ** y", "x // y", "x % y", "atan2(y, x)", "hypot(x, y)", "deltaphi(x, y)"],
        *[f"{name}(x)" for name in FUNCTIONS_OF_ONE if name != "-"],
        *["deltaR(x, y, y, x)", "where(x > y, x, y)", "mass(p4(x, y, x, y))", "rapidity(p4(x, y, y, x))"],
        *["deltaR(p4(x, y, x, 0), p4(1, x, y, 0))", "mass(p4(x, y, x, y) + p4(y, y, y, 0))"],
    ],
)
def test_functions_do_not_depend_on_place_size_or_stride(text: str) -> None:
    expression = Expression.parse(text)
    rng = np.random.default_rng(1)
    x, y = np.abs(rng.normal(size=3000)) * 30, rng.normal(size=3000)
    whole = expression.evaluate({"x": x, "y": y}, 3000)
    assert isinstance(whole, np.ndarray)
    for size in [*range(1, 40), 1000]:
        for start in (0, 1, 1003):
            part = slice(start, start + size)
            assert bits(expression.evaluate({"x": x[part], "y": y[part]}, size), 0, size) == whole[part].tobytes()
    strided = expression.evaluate({"x": x[::-3], "y": y[::-3]}, 1000)
    assert bits(strided, 0, 1000) == whole[::-3].tobytes()


@pytest.mark.parametrize("size", [1, 2, 5, 9, 17, 40])
def test_the_smaller_and_the_larger_of_two_zeros_have_one_sign(size: int) -> None:
    zeros = np.resize([0.0, -0.0, -0.0], size)
    flat: dict[str, Column] = {"x": zeros, "y": -zeros}
    lists: dict[str, Column] = {"x": Jagged.from_counts([size], zeros)}
    for columns, text, events in [(flat, "{}(x, y)", size), (lists, "{}(x)", 1)]:
        for function in ("min", "max"):
            result = Expression.parse(text.format(function)).evaluate(columns, events)
            assert isinstance(result, np.ndarray)
            assert not np.signbit(result).any()


@given(st.lists(st.lists(st.floats(width=32), max_size=40), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_a_sum_is_taken_from_left_to_right_in_float64(events: list[list[float]]) -> None:
    result = Expression.parse("sum(x)").evaluate({"x": Jagged.from_lists(events)}, len(events))
    expected = [reduce(lambda total, value: total + value, event, 0.0) for event in events]
    np.testing.assert_array_equal(result, expected)


TOKENS = [
    *["x", "Jet_pt", "sum", "min", "abs", "lambda", "import", "__class__", "and", "or", "not", "in", "is", "if"],
    *["else", "for", "True", "None", "1", "0", "2.5", "1e9", "9" * 30, "1j", ".", "(", ")", "[", "]", "{", "}", ","],
    *[":", "+", "-", "*", "/", "%", "**", "//", "@", "<", ">", "==", "=", "!=", "!", "&", "|", "^", "~", "<<", ":="],
    *["'", '"', "\\", "\n", "\t", " ", "#", "λ", "\0", ";", "yield", "await", "f''", "...", "->"],
    *[
        "`",
        "`x`",
        "`Jet",
        "&&",
        "||",
        "TMath::",
        "Abs",
        "::",
        "Sum$",
        "Alt$",
        "$",
        "mass",
        "deltaphi",
        "Jet",
        "sort",
        ".",
    ],
    *["massless", "p4", "get", "flatten", "where", "argmax", "x.y"],
]


def refusal(text: str, types: dict[str, ColumnType]) -> ExpressionError | None:
    try:
        Expression.parse(text).result_type(types)
    except ExpressionError as error:
        return error
    return None


@given(st.lists(st.sampled_from(TOKENS), max_size=12), st.sampled_from(["", " "]))
@settings(max_examples=400, deadline=None)
def test_any_text_is_either_read_or_refused_in_words(tokens: list[str], joint: str) -> None:
    types = {"x": ColumnType("flat", "float64"), "Jet_pt": ColumnType("jagged", "float64"), **TYPES}
    refused = refusal(joint.join(tokens), types)
    assert refused is None or (refused.reason and 0 <= refused.column <= len(refused.text))
