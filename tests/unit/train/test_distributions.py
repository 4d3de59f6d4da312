"""Weighted distributions give the textbook's figures where weights are one, and count weights where they are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from mlaas4hep.errors import DataError
from mlaas4hep.train.distributions import effective_events, shares, weighted_ks


@given(st.integers(0, 2**32), st.integers(30, 400), st.integers(30, 400), st.floats(0, 0.3))
@settings(max_examples=40)
def test_weights_of_one_give_the_test_of_scipy(seed: int, size: int, other_size: int, shift: float) -> None:
    random = np.random.default_rng(seed)
    one, other = np.round(random.random(size), 2), np.round(random.random(other_size) + shift, 2)
    found = weighted_ks(one, other, np.ones(size), np.ones(other_size))
    wanted = ks_2samp(one, other, method="asymp")
    assert found.distance == pytest.approx(wanted.statistic, abs=1e-12)
    assert found.p_value == pytest.approx(wanted.pvalue, abs=1e-9)


def test_a_whole_weight_moves_the_distribution_like_as_many_events() -> None:
    random = np.random.default_rng(3)
    one, other, times = random.random(200), random.random(150), random.integers(1, 4, 200)
    heavy = weighted_ks(one, other, times.astype(float), np.ones(150))
    assert heavy.distance == pytest.approx(ks_2samp(np.repeat(one, times), other).statistic, abs=1e-12)


def test_the_p_value_of_weighted_samples_is_about_flat() -> None:
    """Two weighted samples of one distribution: a p-value below 0.1 comes up about one time in ten."""
    random = np.random.default_rng(4)
    values = [
        weighted_ks(*(random.random(300) for _ in range(2)), *(random.uniform(0, 2, 300) for _ in range(2))).p_value
        for _ in range(400)
    ]
    assert 0.05 < np.mean(np.array(values) < 0.1) < 0.15


def test_effective_events() -> None:
    assert effective_events(np.full(7, 3.0)) == pytest.approx(7)
    assert effective_events(np.array([1.0, 1.0, -1.0])) == pytest.approx(1 / 3)
    with pytest.raises(DataError, match="2 events add up to 0"):
        effective_events(np.array([1.0, -1.0]))


def test_shares_add_up_to_one_with_the_uncertainty_of_the_weights() -> None:
    found = shares(np.array([0.1, 0.1, 0.9]), np.array([1.0, 2.0, 1.0]), np.array([0.0, 0.5, 1.0]), label="x")
    assert found.values == pytest.approx([0.75, 0.25])
    assert found.errors == pytest.approx([5**0.5 / 4, 0.25])
    assert shares(np.zeros(0), np.zeros(0), np.array([0.0, 1.0]), label="x").is_empty
