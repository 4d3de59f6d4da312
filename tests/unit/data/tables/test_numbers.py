"""Numbers in text have the bits of Python's float and int."""

from __future__ import annotations

import math
import struct
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlaas4hep.data.tables import numbers


def read(text: str) -> tuple[int, int]:
    data = np.frombuffer(text.encode(), np.uint8)
    return numbers.read_number(data, 0, len(data), True)


def float_bits(text: str) -> int:
    return int(struct.unpack("<q", struct.pack("<d", float(text)))[0])


def check(text: str) -> int:
    """The kind of a number, its bits compared with Python's."""
    kind, bits = read(text)
    if kind == numbers.HARD:
        return kind
    assert numbers.as_float(kind, bits) == float_bits(text), text
    if kind in (numbers.WHOLE, numbers.NEGATIVE):
        assert bits == int(text)
    if kind == numbers.LARGE:
        assert int(np.int64(bits).view(np.uint64)) == int(text)
    return kind


@given(st.floats(allow_nan=False), st.integers(0, 30))
def test_floats_in_any_spelling_have_pythons_bits(value: float, digits: int) -> None:
    for text in (repr(value), f"{value:.{digits}e}", f"{value:.{digits}f}", f"{value:+.{digits}g}"):
        check(text)


@given(st.integers(0, 10**25), st.integers(-400, 400))
@example(9007199254740993, 0)
@example(2**64 - 1, 0)
@example(1, 10_000)
def test_digits_and_powers_have_pythons_bits(digits: int, power: int) -> None:
    for text in (f"{digits}e{power}", f"{digits}.E+{abs(power)}", f".{digits}", f"-{digits}", f"000{digits}"):
        check(text)


@given(st.integers(2**52, 2**53 - 1), st.integers(-80, 80))
def test_halves_between_two_floats_go_where_python_goes(mantissa: int, power: int) -> None:
    """The hardest cases: exactly in the middle, and one digit off it."""
    middle = (Decimal(2 * mantissa + 1) * Decimal(2) ** power).normalize()
    for text in (f"{middle:f}", f"{middle:e}", f"{middle:f}1" if "." in f"{middle:f}" else f"{middle:f}.0001"):
        check(text)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_most_numbers_need_no_help_of_python(value: float) -> None:
    assert check(repr(value)) != numbers.HARD
    assert check(f"{value:.17g}") != numbers.HARD


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("0", numbers.WHOLE),
        ("+7", numbers.WHOLE),
        ("-0", numbers.NEGATIVE),
        ("9223372036854775807", numbers.WHOLE),
        ("9223372036854775808", numbers.LARGE),
        ("18446744073709551615", numbers.LARGE),
        ("18446744073709551616", numbers.REAL),
        ("-9223372036854775808", numbers.NEGATIVE),
        ("-9223372036854775809", numbers.REAL),
        ("1.", numbers.REAL),
        ("-.5E-3", numbers.REAL),
        ("1e400", numbers.REAL),
        ("5e-324", numbers.REAL),
        ("-Infinity", numbers.REAL),
        ("+inf", numbers.REAL),
    ],
)
def test_kinds_of_numbers(text: str, kind: int) -> None:
    assert check(text) == kind


@pytest.mark.parametrize("text", ["", "nan", "NaN", "-nan", "NA", "n/a", "null", "None"])
def test_words_and_nothing_stand_for_a_missing_value(text: str) -> None:
    kind, bits = read(text)
    assert kind == numbers.MISSING
    assert math.isnan(np.int64(numbers.as_float(kind, bits)).view(np.float64))


@pytest.mark.parametrize(("text", "value"), [("true", 1), ("FALSE", 0), ("True", 1)])
def test_truths(text: str, value: int) -> None:
    assert read(text) == (numbers.TRUTH, value)


@pytest.mark.parametrize(
    "text",
    ["abc", ".", "-", "+", "e5", "1e", "1e+", "1_000", "0x10", "1,5", "1.2.3", "--1", "1e5.5", "infinit", "nana"],
)
def test_what_is_no_number_is_text(text: str) -> None:
    assert read(text)[0] == numbers.TEXT


@given(st.binary(max_size=40))
def test_any_bytes_are_of_some_kind(data: bytes) -> None:
    view = np.frombuffer(data, np.uint8)
    assert numbers.read_number(view, 0, len(view), True)[0] in {1 << place for place in range(8)}
