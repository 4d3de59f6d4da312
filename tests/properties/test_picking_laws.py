"""Each value of an expression is what plain Python gives for that event: picks, sorting, reductions, functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep.spec.columns import Column, Jagged, Nested, kind_of
from mlaas4hep.spec.expressions import Expression

nan = math.nan
VALUES = st.floats(-1e6, 1e6, width=32) | st.sampled_from([nan, math.inf, -math.inf, 0.0, -0.0, 1.0, 1.0])
PLACES = st.integers(-3, 9)
OBJECTS = st.lists(st.tuples(VALUES, VALUES, st.booleans(), PLACES, st.lists(VALUES, max_size=3)), max_size=7)
EVENTS = st.lists(st.tuples(OBJECTS, PLACES, VALUES), min_size=1, max_size=8)
END = st.none() | st.integers(-9, 9)


def columns_of(events: list[Any]) -> dict[str, Column]:
    def column(place: int) -> list[list[Any]]:
        return [[one[place] for one in objects] for objects, *_ in events]

    return {
        "x": Jagged.from_lists(column(0), "float32"),
        "y": Jagged.from_lists(column(1), "float64"),
        "b": Jagged.from_lists(column(2), "bool"),
        "i": Jagged.from_lists(column(3), "int64"),
        "n": Nested.from_lists(column(4), "float64"),
        "k": np.array([place for _, place, _ in events], np.int64),
        "f": np.array([value for *_, value in events], np.float32),
    }


def agree(text: str, events: list[Any], expected: Callable[..., Any]) -> None:
    """The expression over all events, and Python over one event after the other: x, y, b, i, n, k, f."""
    columns = columns_of(events)
    found = Expression.parse(text).evaluate(columns, len(events))
    lists = [columns[name].tolist() for name in "xybinkf"]
    wanted = [expected(*values) for values in zip(*lists, strict=True)]
    assert same(found.tolist(), wanted), f"{text}: {found.tolist()} is not {wanted}"


def same(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other or (one != one and other != other))


def at(values: list[Any], place: float, missing: Any = nan) -> Any:
    """An element by a computed place: only whole numbers from 0 are places."""
    return values[int(place)] if 0 <= place < len(values) and place == int(place) else missing


def key_of(value: float) -> tuple[bool, float]:
    return (True, 0.0) if math.isnan(value) else (False, value)


def extreme(values: list[float], best: Callable[[list[float]], float]) -> float:
    there = [value for value in values if not math.isnan(value)]
    return best(there) if there else nan


def place_of(values: list[float], best: Callable[[list[float]], float]) -> float:
    wanted = extreme(values, best)
    return nan if math.isnan(wanted) else float(values.index(wanted))


@given(EVENTS, END, END, st.sampled_from([None, 1, 2, 3, -1, -2, 10]))
@settings(max_examples=80, deadline=None)
def test_a_slice_is_that_of_a_python_list(
    events: list[Any], start: int | None, stop: int | None, step: int | None
) -> None:
    span = slice(start, stop, step)
    text = ":".join("" if one is None else str(one) for one in (start, stop, step))
    agree(f"x[{text}]", events, lambda x, *_: x[span])
    agree(f"b[{text}]", events, lambda x, y, b, *_: b[span])
    agree(f"n[{text}]", events, lambda x, y, b, i, n, *_: n[span])


@given(EVENTS, st.integers(-8, 8))
@settings(max_examples=80, deadline=None)
def test_what_is_picked_is_what_python_picks(events: list[Any], index: int) -> None:
    def literal(values: list[Any], missing: Any = nan) -> Any:
        return values[index] if -len(values) <= index < len(values) else missing

    agree(f"x[{index}]", events, lambda x, *_: literal(x))
    agree(f"b[{index}]", events, lambda x, y, b, *_: literal(b, missing=False))
    agree(f"n[{index}]", events, lambda x, y, b, i, n, *_: literal(n, missing=[]))
    agree(f"get(x, {index}, f)", events, lambda x, y, b, i, n, k, f: literal(x, missing=f))
    agree("y[b]", events, lambda x, y, b, *_: [one for one, keep in zip(y, b, strict=True) if keep])
    agree("x[x > f][:2]", events, lambda x, y, b, i, n, k, f: [one for one in x if one > f][:2])
    agree("n[b]", events, lambda x, y, b, i, n, *_: [one for one, keep in zip(n, b, strict=True) if keep])
    agree("x[k]", events, lambda x, y, b, i, n, k, f: at(x, k))
    agree("x[f]", events, lambda x, y, b, i, n, k, f: at(x, f))
    agree("x[i]", events, lambda x, y, b, i, *_: [at(x, one) for one in i])
    agree("b[i]", events, lambda x, y, b, i, *_: [at(b, one, missing=False) for one in i])
    agree("x[argmax(y)]", events, lambda x, y, *_: at(x, place_of(y, max)))


@given(EVENTS)
@settings(max_examples=80, deadline=None)
def test_sorting_is_that_of_python_with_missing_values_last(events: list[Any]) -> None:
    def by(values: list[Any], keys: list[float]) -> list[Any]:
        order = sorted(range(len(keys)), key=lambda place: key_of(keys[place]))
        return [values[place] for place in order]

    agree("sort(y)", events, lambda x, y, *_: by(y, y))
    agree("sort(x, y)", events, lambda x, y, *_: by(x, y))
    agree("sort(i, -x)", events, lambda x, y, b, i, *_: by(i, [-one for one in x]))
    agree("sort(n, i)", events, lambda x, y, b, i, n, *_: by(n, i))


@given(EVENTS)
@settings(max_examples=80, deadline=None)
def test_reductions_are_those_of_python_of_lists_and_of_lists_of_lists(events: list[Any]) -> None:
    def total(values: list[float]) -> float:
        found = 0.0
        for value in values:
            found += value
        return found

    reductions: dict[str, Callable[[list[float]], float]] = {
        "sum": total,
        "count": len,
        "mean": lambda values: total(values) / len(values) if values else nan,
        "min": lambda values: extreme(values, min),
        "max": lambda values: extreme(values, max),
        "argmin": lambda values: place_of(values, min),
        "argmax": lambda values: place_of(values, max),
    }
    for name, reduction in reductions.items():
        agree(f"{name}(y)", events, lambda x, y, *_, of=reduction: of(y))
        agree(f"{name}(n)", events, lambda x, y, b, i, n, *_, of=reduction: [of(one) for one in n])
    agree("any(n > f)", events, lambda x, y, b, i, n, k, f: [any(value > f for value in one) for one in n])
    agree(
        "all(n > x)", events, lambda x, y, b, i, n, *_: [all(v > o for v in one) for one, o in zip(n, x, strict=True)]
    )
    agree("flatten(n)", events, lambda x, y, b, i, n, *_: [value for one in n for value in one])


@given(EVENTS)
@settings(max_examples=60, deadline=None)
def test_choices_and_tests_are_those_of_python(events: list[Any]) -> None:
    agree("where(b, x, f)", events, lambda x, y, b, i, n, k, f: [o if c else f for c, o in zip(b, x, strict=True)])
    agree("where(k > 2, i, -k)", events, lambda x, y, b, i, n, k, f: [one if k > 2 else -k for one in i])
    agree("f > 0 and k > 0 and f > k", events, lambda x, y, b, i, n, k, f: f > 0 and k > 0 and f > k)
    agree("f > 0 || k > 3 || f < k", events, lambda x, y, b, i, n, k, f: f > 0 or k > 3 or f < k)
    agree("b && f > 0 && k > 0", events, lambda x, y, b, i, n, k, f: [one and f > 0 and k > 0 for one in b])
    agree("isnan(x)", events, lambda x, *_: list(map(math.isnan, x)))
    agree("isfinite(f)", events, lambda x, y, b, i, n, k, f: math.isfinite(f))
    agree("isinf(n)", events, lambda x, y, b, i, n, *_: [list(map(math.isinf, one)) for one in n])
    agree("floor(y)", events, lambda x, y, *_: [math.floor(one) if math.isfinite(one) else one for one in y])
    agree("ceil(y)", events, lambda x, y, *_: [math.ceil(one) if math.isfinite(one) else one for one in y])
    agree("round(y / 2)", events, lambda x, y, *_: [round(one / 2) if math.isfinite(one) else one for one in y])


@pytest.mark.parametrize(
    "name",
    [
        *["sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh"],
        *["exp", "expm1", "log", "log10", "log2", "log1p", "sqrt"],
    ],
)
def test_functions_have_the_values_of_the_standard_library(name: str) -> None:
    x = np.random.default_rng(1).normal(size=2000) * 3
    found = Expression.parse(f"{name}(x)").evaluate({"x": x}, len(x))

    def known(value: float) -> float:
        try:
            return float(getattr(math, name)(value))
        except ValueError:
            return nan

    np.testing.assert_allclose(found, [known(value) for value in x.tolist()], rtol=4e-16 * 4, atol=1e-300)


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_a_difference_of_angles_lies_within_half_a_turn(angles: list[tuple[float, float]]) -> None:
    columns: dict[str, Column] = {"a": np.array([a for a, _ in angles]), "b": np.array([b for _, b in angles])}
    found = Expression.parse("deltaphi(a, b)").evaluate(columns, len(angles))
    assert kind_of(found) == "flat"
    for value, (a, b) in zip(found.tolist(), angles, strict=True):
        assert abs(value) <= math.pi + 1e-12
        assert abs(math.remainder(value - (a - b), 2 * math.pi)) < 1e-12
        if abs(a - b) <= 3:
            assert value == a - b
