"""Expressions: what they give, what they refuse, and where their messages point."""

from __future__ import annotations

import pickle
import time

import numpy as np
import pytest

from mlaas4hep.errors import DataError, ExpressionError
from mlaas4hep.spec.columns import Column, ColumnType, Jagged, Nested, kind_of
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
    "Jet.PT": Jagged.from_lists([[50.0, 30.0, 20.5], [], [40.0]]),
    "Part/Part.Eta": np.array([1.0, 2.0, 3.0]),
    "lambda": np.array([1, 2, 3]),
    "Jet_idx": Jagged.from_lists([[1, -1], [0], [0, 0, 5]], "int64"),
    "Jet_hits": Nested.from_lists([[[1.0, 2.0], [], [4.0]], [], [[8.0]]]),
}
TYPES = {
    name: ColumnType(kind_of(column), column.dtype.name)  # type: ignore[arg-type]
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
        ("isMC and nJet > 0 and nJet > 2", "bool", [True, False, False]),
        ("nJet > 5 or nJet > 6 or nJet == 1 or MET == 20", "bool", [False, True, True]),
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
        ("Jet_eta[Jet_pt > 25][1]", "float64", [-2.0, nan, nan]),
        ("Jet_tight[Jet_pt < 45][0]", "bool", [False, False, False]),
        ("Jet_eta[argmax(Jet_pt)]", "float64", [0.5, nan, -1.5]),
        ("Jet_id[argmin(Jet_eta)]", "float64", [2.0, nan, -3.0]),
        ("argmax(Jet_pt)", "float64", [0.0, nan, 0.0]),
        ("Jet_pt[nJet - 1]", "float64", [20.5, nan, 40.0]),
        ("Jet_pt[-nJet]", "float64", [nan, nan, nan]),
        ("Jet_pt[MET / 20]", "float64", [nan, nan, nan]),
        ("mean(Jet_pt)", "float64", [33.5, nan, 40.0]),
        ("len(Jet_pt)", "int64", [3, 0, 1]),
        ("where(nJet > 0, nJet, -1)", "int64", [3, -1, 1]),
        ("where(isMC, MET, nJet)", "float64", [10.0, 0.0, nan]),
        ("where(isMC, event, event)", "uint64", [2**64 - 1, 2**53 + 1, 0]),
        ("where(isMC, isMC, nJet > 5)", "bool", [True, False, True]),
        ("isnan(MET)", "bool", [False, False, True]),
        ("isfinite(nJet / 0)", "bool", [False, False, False]),
        ("floor(-MET / 4)", "float64", [-3.0, -5.0, nan]),
        ("ceil(MET / 4)", "float64", [3.0, 5.0, nan]),
        ("round(MET / 4)", "float64", [2.0, 5.0, nan]),
        ("floor(charge)", "int64", [-7, 2**62, 0]),
        ("sign(charge)", "int64", [-1, 1, 0]),
        ("sign(event)", "uint64", [1, 1, 0]),
        ("pow(MET, 2)", "float64", [100.0, 400.0, nan]),
        ("hypot(nJet * 4, 5)", "float64", [13.0, 5.0, np.hypot(4, 5)]),
        ("deltaphi(3, -3 * nJet)", "float64", [12 - 4 * np.pi, 3.0, 6 - 2 * np.pi]),
        ("deltaR(MET, 1, MET, 1)", "float64", [0.0, 0.0, nan]),
        ("get(Jet_pt, 1, -1)", "float64", [30.0, -1.0, -1.0]),
        ("get(Jet_tight, -1, isMC)", "bool", [True, False, False]),
        ("get(Jet_id, 0, 9)", "float64", [6.0, 9.0, -3.0]),
        ("Jet.PT[0]", "float64", [50.0, nan, 40.0]),
        ("`Jet.PT`[0] + `Jet_pt`[0]", "float64", [100.0, nan, 80.0]),
        ("`v[3]` * 2", "float64", [2.0, 4.0, 6.0]),
        ("`Part/Part.Eta` / 2", "float64", [0.5, 1.0, 1.5]),
        ("`lambda` + 1", "int64", [2, 3, 4]),
        ("!isMC", "bool", [False, True, False]),
        ("!isMC == isMC", "bool", [False, False, False]),
        ("nJet>2&&!isMC||nJet==1", "bool", [False, False, True]),
        ("Sum$(Jet_pt) / Length$(Jet_pt)", "float64", [33.5, nan, 40.0]),
        ("Max$(Jet_eta) - Min$(Jet_eta)", "float64", [3.0, nan, 0.0]),
        ("Alt$(Jet_pt[1], -1)", "float64", [30.0, -1.0, -1.0]),
        ("TMath::Abs(charge) + std::abs(charge) - fabs(charge)", "int64", [7, 2**62, 0]),
        ("cos(TMath::Pi() * nJet)", "float64", [-1.0, 1.0, -1.0]),
        ("Jet_hits[0][1]", "float64", [2.0, nan, nan]),
        ("sum(sum(Jet_hits))", "float64", [7.0, 0.0, 8.0]),
        ("max(flatten(Jet_hits))", "float64", [4.0, nan, 8.0]),
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
        ("Jet_pt > 9 and Jet_pt > 8 and isMC and Jet_tight", "bool", [[True, False, True], [], [False]]),
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


@pytest.mark.parametrize(
    ("text", "dtype", "expected"),
    [
        ("Jet_pt[Jet_pt > 25]", "float32", [[50.0, 30.0], [], [40.0]]),
        ("Jet_pt[Jet_pt > 25][:1]", "float32", [[50.0], [], [40.0]]),
        ("Jet_id[1:]", "int64", [[2, 0], [], []]),
        ("Jet_id[::-1]", "int64", [[0, 2, 6], [], [-3]]),
        ("Jet_id[-2:]", "int64", [[2, 0], [], [-3]]),
        ("Jet_tight[!Jet_tight]", "bool", [[False], [], [False]]),
        ("Jet_pt[Jet_idx]", "float64", [[30.0, nan], [nan], [40.0, 40.0, nan]]),
        ("Jet_tight[Jet_idx]", "bool", [[False, False], [False], [False, False, False]]),
        ("sort(Jet_eta)", "float32", [[-2.0, 0.5, 1.0], [], [-1.5]]),
        ("sort(Jet_id, -Jet_eta)", "int64", [[0, 6, 2], [], [-3]]),
        ("where(Jet_pt > 25, Jet_pt, MET)", "float64", [[50.0, 30.0, 10.0], [], [40.0]]),
        ("sum(Jet_hits)", "float64", [[3.0, 0.0, 4.0], [], [8.0]]),
        ("count(Jet_hits)", "int64", [[2, 0, 1], [], [1]]),
        ("max(Jet_hits)", "float64", [[2.0, nan, 4.0], [], [8.0]]),
        ("any(Jet_hits > 3)", "bool", [[False, False, True], [], [True]]),
        ("Jet_hits[0]", "float32", [[1.0, 2.0], [], [8.0]]),
        ("Jet_hits[-1]", "float32", [[4.0], [], [8.0]]),
        ("flatten(Jet_hits)", "float32", [[1.0, 2.0, 4.0], [], [8.0]]),
        ("sum(Jet_hits * Jet_pt + MET)", "float64", [[170.0, 0.0, 92.0], [], [nan]]),
        ("sum(Jet_hits[Jet_pt < 45])", "float64", [[0.0, 4.0], [], [8.0]]),
        ("count(Jet_hits[1:])", "int64", [[0, 1], [], []]),
    ],
)
def test_an_expression_may_give_lists_of_other_lengths(text: str, dtype: str, expected: list[list[float]]) -> None:
    expression = Expression.parse(text)
    result = expression.evaluate(COLUMNS, 3)
    assert expression.result_type(TYPES) == ColumnType("jagged", dtype)  # type: ignore[arg-type]
    assert isinstance(result, Jagged)
    assert result.dtype == dtype
    assert result.counts.tolist() == [len(one) for one in expected]
    np.testing.assert_array_equal(result.values, np.concatenate([np.array(one, dtype) for one in expected]))


def test_lists_of_lists_stay_so_until_they_are_reduced() -> None:
    expression = Expression.parse("Jet_hits * 2 > MET")
    assert expression.result_type(TYPES) == ColumnType("nested", "bool")
    result = expression.evaluate(COLUMNS, 3)
    assert isinstance(result, Nested)
    assert result.tolist() == [[[False, False], [], [False]], [], [[False]]]


def test_sorting_puts_missing_values_last_and_keeps_ties_in_order() -> None:
    columns = {"x": Jagged.from_lists([[nan, 2.0, 1.0, nan, 2.0]]), "i": Jagged.from_lists([[0, 1, 2, 3, 4]], "int64")}
    for text, expected in [
        ("sort(i, x)", [2, 1, 4, 0, 3]),
        ("sort(i, -x)", [1, 4, 2, 0, 3]),
        ("sort(i)", [0, 1, 2, 3, 4]),
    ]:
        result = Expression.parse(text).evaluate(columns, 1)
        assert isinstance(result, Jagged)
        assert result.tolist() == [expected]


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
        ("nJet > 2 && * 3", 12, "this cannot be read"),
        ("nJet +  ", 6, "this cannot be read: it ends where a value is expected"),
        ("nJet > 2 &&", 11, "this cannot be read: it ends where a value is expected"),
        ("`a name` == 2 and", 17, "this cannot be read: it ends where a value is expected"),
        ("!(nJet > 2", 1, "'(' was never closed"),
        ("nJet > 2 || isMC ? 1 : 0", 17, "where(a, b, c)"),
        ("MET^2", 3, "a power is written '**'"),
        ("nJet = 3", 5, "equality is written '=='"),
        ("nJet > 3 ? 1 : 0", 9, "a choice"),
        ("nJet + 2x", 7, "a number runs into a name"),
        ("0x10", 0, "a number runs into a name"),
        ("nJet + 'a'", 7, "text in quotes"),
        ("1 + TMath::Gaus(MET)", 4, "there is no function 'TMath::Gaus'"),
        ("TMath::Pi(MET)", 0, "'TMath::Pi' takes no arguments"),
        ("ROOT::Math::Pi()", 4, "functions are written plainly"),
        ("1 + MaxIf$(Jet_pt, Jet_pt < 9)", 4, "'MaxIf$' is not known here; of ROOT's words there are Sum$"),
        ("Alt$(MET, 0)", 0, "'Alt$' takes an element"),
        ("nJet > $x", 7, "put in back-ticks"),
        ("MET + `v[3] > 1", 6, "a back-tick opens a name here that none closes"),
        ("MET + ``", 6, "no name between"),
        ("`v[3]` + 'a'", 9, "text in quotes"),
        ("2`v`", 0, "a number runs into a name"),
        ("(MET + 1).pt", 1, "a dot stands only inside a name"),
        ("np.abs(MET)", 0, "functions are written plainly"),
        ("1 + (MET", 4, "'(' was never closed"),
        ("sum(Jet_pt", 3, "'(' was never closed"),
        ("", 0, "the expression is empty"),
        (" \n", 0, "the expression is empty"),
        ("sumpt(Jet_pt)", 0, "there is no function 'sumpt'; did you mean 'sum'?"),
        ("abs(MET, 1)", 0, "'abs' takes one argument, and 2 are given"),
        ("max(1, 2, 3)", 0, "'max' takes one list, or two values, and 3 are given"),
        ("Jet_pt[nJet:]", 7, "the ends of a slice are whole numbers"),
        ("Jet_pt[:2.5]", 8, "the ends of a slice are whole numbers"),
        ("Jet_pt[1:2, 3]", 7, "a comma stands only between"),
        ("Jet_pt[True]", 7, "taken by a whole number"),
        ("mass(Jet_pt * 2)", 5, "this is no four-vector"),
        ("mass(max(Jet))", 5, "this is no four-vector"),
        ("mass(Jet[0], Jet[1])", 0, "'mass' takes one four-vector, and 2 are given"),
        ("deltaR(Jet[0])", 0, "'deltaR' takes two four-vectors or 4 numbers, and 1 are given"),
        ("1 + massless(Jet)", 4, "'massless' gives a four-vector: take a number of it"),
        ("where(isMC, 1)", 0, "'where' takes 3 arguments, and 2 are given"),
        ("sort(Jet_pt, MET, 1)", 0, "'sort' takes a list, or a list and a key"),
        ("get(Jet_pt, nJet, 0)", 12, "'get' takes a whole number second"),
        ("pow(MET, 100000)", 9, "the power 100000 is too large"),
        ("Jet_pt[1.0]", 7, "taken by a whole number"),
        ("Jet_pt[99999999999]", 7, "no list is as long"),
        ("nJet in 3", 0, "write '=='"),
        ("[1, 2]", 0, "a list written out"),
        ("(lambda: 1)()", 0, "functions are written plainly"),
        ("sum(x for x in Jet_pt)", 3, "loops are not part"),
        ("1 if isMC else 2", 0, "a choice"),
        ("nJet << 2", 0, "the operator LShift is not part"),
        ("foo(MET)", 0, "there is no function 'foo'; did you mean 'floor'?"),
        ("`foo`(MET)", 0, "there is no function 'foo'"),
        ("None", 0, "None is neither"),
        ("2 ** 100000", 5, "the power 100000 is too large"),
        ("1 + 99999999999999999999", 4, "too large for 64 bits"),
        ("1e400", 0, "too large for 64 bits"),
        ("π * ñ - 'a'", 8, "text in quotes"),
        ("π && (ñ - 2x)", 10, "a number runs into a name"),
        ("π && (`ñ x` - (1).pt)", 15, "a dot stands only inside a name"),
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
        ("v[3] > 1", 0, "the column 'v[3]' has brackets in its name: write it as `v[3]`"),
        ("1 + Part/Part.Eta", 4, "there is no column 'Part'; did you mean `Part/Part.Eta`?"),
        ("MET[0]", 0, "'MET' is flat (one value an event), so it has no element [0]"),
        ("MET[1:]", 0, "'MET' is flat (one value an event), so it has no element [1:]"),
        ("Jet_pt[0][1]", 0, "'Jet_pt[0]' is flat (one value an event), so it has no element [1]"),
        ("Jet_pt[isMC]", 7, "'isMC' is one condition an event, and a mask is a list of them"),
        ("Jet_pt[Jet_hits > 1]", 7, "is bool[][]: a list is picked from by a list or a number"),
        ("sort(Jet_pt, MET)", 13, "'sort' takes a key for every element of a list, and 'MET' is float32"),
        ("sort(MET)", 5, "'MET' is flat"),
        ("1 + flatten(Jet_pt)", 12, "'flatten' takes a list of lists an event, and 'Jet_pt' is jagged (float32[])"),
        ("where(nJet, 1, 2)", 6, "'where' takes a condition first, and 'nJet' is int64"),
        ("get(MET, 0, 1)", 4, "'get' takes a list an event"),
        ("get(Jet_pt, 0, Jet_pt)", 15, "'get' takes one value an event where there is no element"),
        ("1 + Length$(Jet_tight)", 12, "sum(Jet_tight) counts the true ones"),
        ("nJet && isMC", 0, "'and' takes conditions, and 'nJet' is int64"),
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
    for text in (
        *("Jet_pt + Muon_pt", "0 < Jet_pt < Muon_pt", "Jet_pt[Muon_pt > 3]", "sort(Jet_pt, Muon_pt)"),
        *("where(Jet_pt > 3, Muon_pt, 0)", "mass(p4(Jet_pt, Muon_pt, 0, 0))"),
    ):
        with pytest.raises(
            DataError, match=r"'Jet_pt.*' and 'Muon_pt.*' have different lengths \(3 and 1 in event 0 of 3\)"
        ) as caught:
            Expression.parse(text).evaluate(COLUMNS, 3)
        _, shown, caret = str(caught.value).splitlines()
        assert shown == f"  {text}"
        assert caret.index("^") == shown.index("Muon_pt"), "it points at the list that does not fit"


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
        ("a&&b||!c", "(a and b) or (not c)"),
        ("Sum$( x )>Alt$(y[ 1 ],-1)", "sum(x) > get(y, 1, -1)"),
        ("TMath::Power(fabs(x),2)", "abs(x) ** 2"),
        ("len(x) + arctan2(y,x)", "count(x) + atan2(y, x)"),
        ("`Jet_pt` [ 1 : ] [ : : -1 ]", "Jet_pt[1:][::-1]"),
        ("`Jet.PT`+`Jet/Jet.PT`+`in`", "(Jet.PT + `Jet/Jet.PT`) + `in`"),
        ("sort(x,-y)[x [ 0 ]>1]", "sort(x, -y)[x[0] > 1]"),
        ("DeltaR(Jet[0]+Jet[1] , MET)", "deltaR(Jet[0] + Jet[1], MET)"),
        ("mass((Jet[0]-Jet[1])+sum( Jet[2:] ))", "mass((Jet[0] - Jet[1]) + sum(Jet[2:]))"),
    ],
)
def test_the_canonical_text_does_not_depend_on_spelling(text: str, canonical: str) -> None:
    assert Expression.parse(text).canonical == canonical
    assert Expression.parse(canonical).canonical == canonical


def test_names_are_the_columns_alone() -> None:
    assert Expression.parse("sum(Jet_pt[0] + abs(a)) < b < max(c, 1)").names == {"Jet_pt", "a", "b", "c"}
    assert Expression.parse("`a b`[`c/d` > 0] + Jet.PT").names == {"a b", "c/d", "Jet.PT"}


def test_an_expression_survives_pickling_for_worker_processes() -> None:
    expression = Expression.parse("log(sum(Jet_pt))", where="new_variables.ht")
    again = pickle.loads(pickle.dumps(expression))
    assert (again.text, again.where, again.canonical) == (expression.text, expression.where, expression.canonical)


def test_huge_numbers_cost_nothing() -> None:
    start = time.thread_time()
    result = Expression.parse("9 ** 9 ** 9 + 10 ** 1000").evaluate({}, 1)
    assert np.isinf(result)
    assert time.thread_time() - start < 1


def test_three_conditions_count_all_and_leave_their_columns_as_they_are() -> None:
    columns: dict[str, Column] = {name: np.array([True, True]) for name in "ab"} | {"c": np.array([True, False])}
    for text, expected in [
        ("a and b and c", [True, False]),
        ("not a or not b or c", [True, False]),
        ("a & b & c", [True, False]),
    ]:
        assert Expression.parse(text).evaluate(columns, 2).tolist() == expected
        assert [column.tolist() for column in columns.values()] == [[True, True], [True, True], [True, False]]
