"""Bins hold equal weight, and splitting bin numbers is splitting values."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep.backends.binning import bin_edges, split_value, to_bins

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=False)


@given(st.lists(FLOATS, min_size=1, max_size=60), st.integers(2, 20), st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_a_value_is_in_bin_k_or_below_exactly_if_it_is_at_most_edge_k(
    values: list[float], bins: int, seed: int
) -> None:
    column = np.array(values)
    edges = bin_edges(column, np.random.default_rng(seed).integers(0, 3, len(column)).astype(float), bins=bins)
    if edges is None:
        assert not to_bins(column, edges).any()
        return
    assert len(edges) < bins
    assert np.all(np.diff(edges) > 0)
    numbers = to_bins(column, edges)
    np.testing.assert_array_equal(np.isnan(numbers), np.isnan(column))
    for k, edge in enumerate(edges):
        np.testing.assert_array_equal(numbers <= k, column <= edge)


@given(st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_weights_and_repeated_events_give_the_same_bins(seed: int) -> None:
    random = np.random.default_rng(seed)
    values, times = random.normal(size=400), random.integers(0, 4, 400)
    repeated = np.repeat(values, times)
    np.testing.assert_array_equal(
        bin_edges(values, times.astype(float), bins=16), bin_edges(repeated, np.ones(len(repeated)), bins=16)
    )


def test_bins_hold_the_same_weight() -> None:
    random = np.random.default_rng(1)
    values, weights = random.normal(size=20_000), random.exponential(size=20_000)
    numbers = to_bins(values, bin_edges(values, weights, bins=50)).astype(int)
    np.testing.assert_allclose(np.bincount(numbers, weights) / weights.sum(), 1 / 50, rtol=0.02)


def test_a_split_between_two_bins_is_the_edge_under_the_higher() -> None:
    edges = np.array([1.5, 3.0, 7.0])
    # 0.5 lies between bins 0 and 1; 1.0 between bins 0 and 2 where bin 1 was not seen.
    np.testing.assert_array_equal(split_value(edges, np.array([0.5, 1.0, 2.5, np.inf])), [1.5, 3.0, 7.0, np.inf])
    np.testing.assert_array_equal(split_value(np.empty(0), np.array([np.inf])), [np.inf])


def test_a_column_without_values_has_no_edges_and_one_bin() -> None:
    assert bin_edges(np.full(5, np.nan), np.ones(5), bins=10) is None
    assert bin_edges(np.arange(5.0), np.zeros(5), bins=10) is None
    np.testing.assert_array_equal(to_bins(np.array([np.nan, 3.0]), None), [0.0, 0.0])


def test_a_column_of_one_value_keeps_what_is_missing() -> None:
    edges = bin_edges(np.array([2.0, np.nan, 2.0]), np.ones(3), bins=10)
    np.testing.assert_array_equal(to_bins(np.array([2.0, np.nan]), edges), [0.0, np.nan])
