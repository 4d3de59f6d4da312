"""Sorting and padding of collections, against plain Python."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.spec.columns import Jagged
from mlaas4hep.spec.padding import pad, sorted_order

VALUE = st.sampled_from([0.0, -0.0, 1.0, 2.5, -3.0, math.nan, math.inf, -math.inf])
LISTS = st.lists(st.lists(VALUE, max_size=6), min_size=1, max_size=12)


@given(LISTS, st.integers(1, 8), st.booleans())
def test_padding_sorted_or_not_agrees_with_python_lists(lists: list[list[float]], length: int, long: bool) -> None:
    if long:  # one list much longer than the others takes the other way of sorting
        lists = [*lists, [float(value % 7) for value in range(2000)], *([[]] * 3000)]
    key = Jagged.from_lists(lists, "float64")
    order = sorted_order(key, key)
    padded = pad([key], length=length, order=order)[:, :, 0]
    for row, one in zip(padded, lists, strict=True):
        expected = sorted(one, key=lambda value: (math.isnan(value), 0.0 if math.isnan(value) else value))[:length]
        filled = expected + [math.nan] * (length - len(expected))
        np.testing.assert_array_equal(row, np.float32(filled))
