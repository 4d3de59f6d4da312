"""Expressions: what they give, what they refuse, and where their messages point."""

from __future__ import annotations

import pickle
import time

import numpy as np
import pytest

from mlaas4hep.errors import DataError, ExpressionError
from mlaas4hep.spec.columns import Column, ColumnType, Jagged
from mlaas4hep.spec.expressions import Expression

COLUMNS: dict[str, Column] = {
    "Jet_pt": Jagged.from_lists([[50.0, 30.0, 20.5], [], [40.0]]),
    "Jet_eta": Jagged.from_lists([[0.5, -2.0, 1.0], [], [-1.5]]),
    "Jet_id": Jagged.from_lists([[6, 2, 0], [], [-3]], "int64"),
    "Jet_tight": Jagged.from_lists([[True, False, True], [], [False]], "bool"),
    "Muon_pt": Jagged.from_lists([[9.0], [8.0, 7.0], []]),
    "MET": np.array([10.0, 20.0, np.nan], np.float32),
    "nJet": np.array([3, 0, 1]),
    "charge": np.array([-7, 2**62, 0]),
    "event": np.array([2**64 - 1, 2**53 + 1, 0], np.uint64),
    "isMC": np.array([True, False, True]),
    "v[3]": np.array([1.0, 2.0, 3.0]),
}
TYPES = {
    name: ColumnType("jagged" if isinstance(column, Jagged) else "flat", column.dtype.name)  # type: ignore[arg-type]
    for name, column in COLUMNS.items()
}
nan, inf = np.nan, np.inf


@pytest.mark.parametrize(
    ("text", "dtype", "expected"),
    [
        ("nJet + 1", "int64", [4, 1, 2]),
        ("charge * 2 - nJet", "int64", [-17, -(2**63), -1]),
        ("charge // 2", "int64", [-4, 2**61, 0]),
        ("charge % -4", "int64", [-3, 0, 0]),
        ("nJet // (charge - charge)", "float64", [inf, nan, inf]),
        ("nJet % 0", "float64", [nan, nan, nan]),
        ("event % 10", "uint64", [5, 3, 0]),
        ("event // 3", "uint64", [(2**64 - 1) // 3, (2**53 + 1) // 3, 0]),
        ("event - 1", "float64", [2.0**64, 2.0**53 - 1, -1.0]),
        ("event == 9007199254740993", "bool", [False, True, False]),
        ("event > charge", "bool", [True, False, False]),
        ("event == 18446744073709551615", "bool", [True, False, False]),
        ("nJet / 2", "float64", [1.5, 0.0, 0.5]),
        ("nJet / 0", "float64", [inf, nan, inf]),
        ("-nJet ** 2", "float64", [-9.0, 0.0, -1.0]),
        ("MET ** 2", "float64", [100.0, 400.0, nan]),
        ("MET", "float32", [10.0, 20.0, nan]),
        ("MET > 15", "bool", [False, True, False]),
        ("MET != 10", "bool", [False, True, True]),
        ("5 < MET < 15", "bool", [True, False, False]),
        ("isMC and not (nJet > 2)", "bool", [False, False, True]),
        ("isMC & ~(nJet > 2) | (nJet == 3)", "bool", [True, False, True]),
        ("isMC * 2 + 1", "int64", [3, 1, 3]),
        ("abs(charge)", "int64", [7, 2**62, 0]),
        ("sqrt(charge)", "float64", [nan, 2.0**31, 0.0]),
        ("log(nJet)", "float64", [np.log(3.0), -inf, 0.0]),
        ("exp(nJet - nJet)", "float64", [1.0, 1.0, 1.0]),
        ("min(MET, 15)", "float64", [10.0, 15.0, 15.0]),
        ("max(nJet, 2)", "int64", [3, 2, 2]),
        ("sum(Jet_pt)", "float64", [100.5, 0.0, 40.0]),
        ("sum(Jet_pt > 25)", "float64", [2.0, 0.0, 1.0]),
        ("count(Jet_pt)", "int64", [3, 0, 1]),
        ("min(Jet_pt)", "float64", [20.5, nan, 40.0]),
        ("max(Jet_eta)", "float64", [1.0, nan, -1.5]),
        ("any(Jet_tight)", "bool", [True, False, False]),
        ("all(Jet_tight)", "bool", [False, True, False]),
        ("Jet_pt[0]", "float64", [50.0, nan, 40.0]),
        ("Jet_id[1]", "float64", [2.0, nan, nan]),
        ("Jet_pt[-1]", "float64", [20.5, nan, 40.0]),
        ("Jet_pt[-2]", "float64", [30.0, nan, nan]),
        ("Jet_tight[0]", "bool", [True, False, False]),
        ("sum(Jet_pt * Jet_eta) / MET", "float64", [-1.45, 0.0, nan]),
        ("(Jet_pt * 2)[0]", "float64", [100.0, nan, 80.0]),
        ("3", "int64", [3, 3, 3]),
        ("1.5 * 2", "float64", [3.0, 3.0, 3.0]),
    ],
)
def test_a_flat_expression_gives_one_value_an_event(text: str, dtype: str, expected: list[float]) -> None:
    expression = Expression.parse(text)
    result = expression.evaluate(COLUMNS, 3)
    assert isinstance(result, np.ndarray)
    assert expression.result_type(TYPES) == ColumnType("flat", dtype)  # type: ignore[arg-type]
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, np.array(expected, dtype=dtype))


@pytest.mark.parametrize(
    ("text", "dtype", "expected"),
    [
        ("Jet_pt / MET", "float64", [[5.0, 3.0, 2.05], [], [nan]]),
        ("Jet_pt > 25 and abs(Jet_eta) < 1", "bool", [[True, False, False], [], [False]]),
        ("20.5 < Jet_pt <= 40", "bool", [[False, True, False], [], [True]]),
        ("Jet_id // 2 + nJet", "int64", [[6, 4, 3], [], [-1]]),
        ("isMC and Jet_tight", "bool", [[True, False, True], [], [False]]),
        ("max(Jet_pt, Jet_id)", "float64", [[50.0, 30.0, 20.5], [], [40.0]]),
        ("Jet_pt - Jet_pt[0]", "float64", [[0.0, -20.0, -29.5], [], [0.0]]),
    ],
)
def test_an_expression_with_a_list_works_value_by_value(text: str, dtype: str, expected: list[list[float]]) -> None:
    expression = Expression.parse(text)
    result = expression.evaluate(COLUMNS, 3)
    assert isinstance(result, Jagged)
    assert expression.result_type(TYPES) == ColumnType("jagged", dtype)  # type: ignore[arg-type]
    assert result.dtype == dtype
    np.testing.assert_array_equal(result.offsets, [0, 3, 3, 4])
    np.testing.assert_array_equal(result.values, np.concatenate([np.array(one, dtype) for one in expected]))


def test_missing_values_are_passed_over_by_min_and_max_and_kept_by_sum() -> None:
    columns = {"x": Jagged.from_lists([[3.0, nan, 2.0], [nan], [nan, inf]])}
    for text, expected in [("min(x)", [2.0, nan, inf]), ("max(x)", [3.0, nan, inf]), ("sum(x)", [nan, nan, nan])]:
        np.testing.assert_array_equal(Expression.parse(text).evaluate(columns, 3), expected)


def test_events_may_be_none_at_all() -> None:
    empty: dict[str, Column] = {name: column[:0] for name, column in COLUMNS.items()}
    for text in ("sum(Jet_pt) > MET", "max(Jet_pt)", "Jet_pt[0]", "any(Jet_tight)", "Jet_pt * MET", "log(MET)", "1"):
        assert len(Expression.parse(text).evaluate(empty, 0)) == 0


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("Jet_pt > 30 && nJet > 2", 12, "'&&' is written 'and'"),
        ("isMC || isMC", 5, "'||' is written 'or'"),
        ("nJet > 2 and !isMC", 13, "'!' is written 'not'"),
        ("MET^2", 3, "a power is written '**'"),
        ("nJet = 3", 5, "equality is written '=='"),
        ("nJet > 3 ? 1 : 0", 9, "a choice"),
        ("nJet + 2x", 7, "a number runs into a name"),
        ("0x10", 0, "a number runs into a name"),
        ("nJet + 'a'", 7, "text in quotes"),
        ("TMath::Abs(MET)", 5, "functions are written plainly"),
        ("np.abs(MET)", 0, "functions are written plainly"),
        ("MET + Jet.pt", 6, "names with dots ('Jet.pt')"),
        ("1 + (MET", 4, "'(' was never closed"),
        ("sum(Jet_pt", 3, "'(' was never closed"),
        ("", 0, "the expression is empty"),
        (" \n", 0, "the expression is empty"),
        ("sumpt(Jet_pt)", 0, "there is no function 'sumpt'; did you mean 'sum'?"),
        ("abs(MET, 1)", 0, "'abs' takes one argument, and 2 are given"),
        ("max(1, 2, 3)", 0, "'max' takes one list, or two values, and 3 are given"),
        ("Jet_pt[0:2]", 7, "slices are not built yet"),
        ("Jet_pt[Jet_pt > 30]", 7, "no masks yet"),
        ("Jet_pt[1.0]", 7, "taken by a whole number"),
        ("Jet_pt[99999999999]", 7, "no list is as long"),
        ("nJet in 3", 0, "write '=='"),
        ("[1, 2]", 0, "a list written out"),
        ("(lambda: 1)()", 0, "functions are written plainly"),
        ("sum(x for x in Jet_pt)", 3, "loops are not part"),
        ("1 if isMC else 2", 0, "a choice"),
        ("nJet << 2", 0, "the operator LShift is not part"),
        ("foo(MET)", 0, "there is no function 'foo'; known: abs, all, any"),
        ("None", 0, "None is neither"),
        ("2 ** 100000", 5, "the power 100000 is too large"),
        ("1 + 99999999999999999999", 4, "too large for 64 bits"),
        ("1e400", 0, "too large for 64 bits"),
        ("π * ñ - 'a'", 8, "text in quotes"),
        ("π + (ñ - Jet.pt)", 9, "names with dots"),
        ("-" * 3000 + "MET", 0, "more than 100 levels deep"),
        ("MET" + " + MET" * 150, 0, "more than 100 levels deep"),
        ("(" * 300 + "MET" + ")" * 300, None, "too many nested parentheses"),
        ("min(" + "isMC and " * 440 + "isMC, 1)", None, "ok"),
        ("-1 + " * 3 + " and ".join(["1<2<3"] * 250), None, "more than 1000 parts"),
        ("1" * 4001, 4000, "has 4001 characters, the most is 4000"),
    ],
)
def test_text_that_is_no_expression_is_refused_at_its_character(text: str, column: int | None, message: str) -> None:
    if message == "ok":
        Expression.parse(text)
        return
    with pytest.raises(ExpressionError) as caught:
        Expression.parse(text, where="preselection")
    assert message in caught.value.reason
    assert str(caught.value).startswith("preselection: ")
    assert column is None or caught.value.column == column


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("MET + Jet_ptt", 6, "there is no column 'Jet_ptt'; did you mean 'Jet_pt'"),
        ("v[3] > 1", 0, "the column 'v[3]' has brackets in its name"),
        ("MET[0]", 0, "'MET' is flat (one value an event), so it has no element [0]"),
        ("1 + sum(MET)", 8, "'sum' takes a list an event, and 'MET' is flat"),
        ("max(MET)", 4, "of two values write max(a, b)"),
        ("Jet_pt > 30 & Jet_eta < 2", 9, "'&' binds tighter than comparisons"),
        ("nJet and isMC", 0, "'and' takes conditions, and 'nJet' is int64: compare it first, as in 'nJet > 0'"),
        ("not MET", 4, "'not' takes conditions"),
        ("any(Jet_pt)", 4, "'any' takes conditions, and 'Jet_pt' is float32[]"),
        ("count(Jet_pt > 30)", 6, "sum(Jet_pt > 30) counts the true ones"),
    ],
)
def test_an_expression_that_does_not_fit_its_columns_is_refused(text: str, column: int, message: str) -> None:
    expression = Expression.parse(text)
    with pytest.raises(ExpressionError) as caught:
        expression.result_type(TYPES)
    assert message in caught.value.reason
    assert caught.value.column == column


def test_lists_of_different_lengths_are_refused_naming_both() -> None:
    for text in ("Jet_pt + Muon_pt", "0 < Jet_pt < Muon_pt"):
        with pytest.raises(
            DataError, match=r"'Jet_pt' and 'Muon_pt' have different lengths \(3 and 1 in event 0 of 3\)"
        ):
            Expression.parse(text).evaluate(COLUMNS, 3)


def test_columns_of_another_kind_than_checked_are_refused() -> None:
    for text, columns, message in [
        ("sum(x)", {"x": np.zeros(2)}, "one value an event where a list is needed"),
        ("x + 1", {"x": np.zeros(3)}, "holds 3 events of 2"),
        ("x + 1", {"x": np.array(["a", "b"])}, "neither number nor condition"),
    ]:
        with pytest.raises(DataError, match=message):
            Expression.parse(text, where="new_variables.ht").evaluate(columns, 2)
    with pytest.raises(ExpressionError, match="there is no column 'x'"):
        Expression.parse("x").evaluate({}, 2)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("  Jet_pt>30  and\n abs( Jet_eta )<2.40", "(Jet_pt > 30) and (abs(Jet_eta) < 2.4)"),
        ("(a)+((b*c))", "a + (b * c)"),
        ("a & b | ~c", "(a and b) or (not c)"),
        ("a and b and (c and d)", "a and b and (c and d)"),
        ("1e2*x[ -1 ]**-2", "100.0 * (x[-1] ** (-2))"),
        ("0<x<=5", "0 < x <= 5"),
        ("min(a , b)[0]", "min(a, b)[0]"),
    ],
)
def test_the_canonical_text_does_not_depend_on_spelling(text: str, canonical: str) -> None:
    assert Expression.parse(text).canonical == canonical
    assert Expression.parse(canonical).canonical == canonical


def test_names_are_the_columns_alone() -> None:
    assert Expression.parse("sum(Jet_pt[0] + abs(a)) < b < max(c, 1)").names == {"Jet_pt", "a", "b", "c"}


def test_an_expression_survives_pickling_for_worker_processes() -> None:
    expression = Expression.parse("log(sum(Jet_pt))", where="new_variables.ht")
    again = pickle.loads(pickle.dumps(expression))
    assert (again.text, again.where, again.canonical) == (expression.text, expression.where, expression.canonical)


def test_huge_numbers_cost_nothing() -> None:
    start = time.perf_counter()
    result = Expression.parse("9 ** 9 ** 9 + 10 ** 1000").evaluate({}, 1)
    assert np.isinf(result)
    assert time.perf_counter() - start < 1
