"""Figures of raw columns: exact where they can be, the same in any grouping."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlaas4hep.data.tally import BINS, ColumnFigures, ColumnTally
from mlaas4hep.spec.columns import Column, Jagged


def figures(*parts: Column) -> ColumnFigures:
    total = ColumnTally()
    for part in parts:
        one = ColumnTally()
        one.add(part)
        total.merge(one)
    return total.seal()


def test_wide_whole_numbers_keep_their_extremes_and_spread() -> None:
    events = np.array([2**60 + 1, 2**60 + 3, 2**60 + 8], dtype=np.uint64)
    found = figures(events[:1], events[1:])
    assert (found.minimum, found.maximum, found.count) == (2**60 + 1, 2**60 + 8, 3)
    small = figures(np.array([10**9 + 1, 10**9 + 2, 10**9 + 3]))
    assert small.std == pytest.approx(math.sqrt(2 / 3))
    assert small.mean == 10**9 + 2


def test_what_is_not_finite_is_counted_apart() -> None:
    found = figures(np.array([1.0, np.nan, np.inf]), np.array([-np.inf, 3.0]), np.zeros(0))
    assert (found.count, found.missing, found.infinite) == (2, 1, 2)
    assert (found.minimum, found.maximum, found.mean, found.std) == (1.0, 3.0, 2.0, 1.0)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
def test_figures_are_those_of_all_values_however_they_were_cut(dtype: str) -> None:
    values = (np.random.default_rng(1).exponential(3, 90_000) // 0.25).astype(dtype)
    whole, cut = figures(values), figures(*np.array_split(values, 7))
    for name in ("count", "minimum", "maximum"):
        assert getattr(whole, name) == getattr(cut, name)
    for found in (whole, cut):
        assert found.mean == pytest.approx(values.mean(dtype=np.float64), rel=1e-12)
        assert found.std == pytest.approx(values.std(dtype=np.float64), rel=1e-12)
        ordered = np.sort(values)
        for rank, value in found.quantiles.items():
            low, high = np.searchsorted(ordered, [value, value], "left")[0], np.searchsorted(ordered, value, "right")
            assert low / len(values) - 0.001 <= float(rank) <= high / len(values) + 0.001


def test_histograms_hold_every_value_once() -> None:
    values = np.random.default_rng(2).normal(size=200_000).astype(np.float32)
    found = figures(*np.array_split(values, 5)).histogram
    assert found is not None
    assert len(found.counts) == BINS
    assert sum(found.counts) == len(values)
    inner = np.histogram(values, bins=np.array(found.edges))[0][1:-1]
    assert np.abs(inner - np.array(found.counts[1:-1])).max() < 0.002 * len(values)


def test_bins_of_whole_numbers_are_of_whole_numbers() -> None:
    found = figures(np.repeat(np.arange(4), [5, 1, 0, 2])).histogram
    assert found is not None
    assert found.edges == (-0.5, 0.5, 1.5, 2.5, 3.5)
    assert found.counts == (5, 1, 0, 2)
    wide = figures(np.arange(1000)).histogram
    assert wide is not None
    assert set(np.diff(wide.edges).tolist()) == {20.0}
    assert set(wide.counts[1:-1]) == {20}


def test_one_value_alone_can_be_drawn() -> None:
    found = figures(np.full(10, 2.5, np.float32)).histogram
    assert found is not None
    assert sum(found.counts) == 10
    assert found.edges[0] < 2.5 < found.edges[-1]


def test_lengths_of_lists_are_counted() -> None:
    lists = [Jagged.from_lists([[1, 2], [], [3]]), Jagged.from_lists([[4.0] * 2000])]
    found = figures(*lists).lengths
    assert found is not None
    assert (found.minimum, found.mean, found.maximum) == (0, 2003 / 4, 2000)
    assert figures(np.zeros(3)).lengths is None


def test_a_column_without_any_value_has_no_figures() -> None:
    found = figures(np.full(4, np.nan, np.float32), Jagged.from_lists([]))
    assert (found.count, found.missing, found.mean, found.histogram, found.quantiles) == (0, 4, None, None, {})
