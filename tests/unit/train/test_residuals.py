"""Figures of a regression: known values, uncertainties that are those of toys, signed weights, bins."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mlaas4hep.errors import DataError
from mlaas4hep.train.residuals import figure_pulls, mean_explained, target_bins, target_figures

NAMES = ("bias", "resolution", "rmse", "mae", "r2")


def toy(random: np.random.Generator, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Predictions that are 0.3 too high with a width of 2, of a target around 100 with a width of 5; weighted."""
    true = random.normal(100, 5, size).astype(np.float32)
    predicted = (true + 0.3 + 2 * random.normal(size=size)).astype(np.float32)
    return predicted, true, random.exponential(1.0, size) + 0.1


def test_figures_are_those_of_a_gaussian() -> None:
    found = target_figures(*toy(np.random.default_rng(1), 200_000))
    assert found.bias == pytest.approx(0.3, abs=0.02)
    # Half the central 68 % of a Gaussian is 0.9945 of its width.
    assert found.resolution == pytest.approx(2 * 0.9945, rel=0.01)
    assert found.rmse == pytest.approx(np.hypot(2, 0.3), rel=0.01)
    assert found.mae == pytest.approx(2 * np.sqrt(2 / np.pi), rel=0.02)
    assert found.r2 == pytest.approx(1 - (4 + 0.09) / 25, abs=0.005)
    assert found.spread == pytest.approx(5, rel=0.01)


def test_uncertainties_are_the_spread_of_toys() -> None:
    random = np.random.default_rng(2)
    toys = [target_figures(*toy(random, 2000)) for _ in range(300)]
    for name in NAMES:
        spread = np.std([getattr(one, name) for one in toys], ddof=1)
        told = np.mean([getattr(one, f"{name}_err") for one in toys])
        # The spread of 300 toys is known to 4 %.
        assert told == pytest.approx(spread, rel=0.15), name


def test_an_event_of_weight_two_counts_like_two_and_units_do_not_matter() -> None:
    predicted, true, _ = toy(np.random.default_rng(3), 500)
    weights = np.where(np.arange(500) % 3 == 0, 2.0, 1.0)
    twice = np.repeat(np.arange(500), weights.astype(int))
    heavy = target_figures(predicted, true, weights)
    doubled = target_figures(predicted[twice], true[twice], np.ones(len(twice)))
    scaled = target_figures(predicted * 1000, true * 1000, weights * 1e-6)
    for name in NAMES:
        assert getattr(heavy, name) == pytest.approx(getattr(doubled, name), rel=1e-9)
        factor = 1 if name == "r2" else 1000
        assert getattr(scaled, name) == pytest.approx(factor * getattr(heavy, name), rel=1e-5)
        assert getattr(scaled, f"{name}_err") == pytest.approx(factor * getattr(heavy, f"{name}_err"), rel=1e-4)


def test_events_of_negative_weight_take_away_what_they_are() -> None:
    predicted, true, _ = toy(np.random.default_rng(4), 2000)
    wrong = predicted[:300] + 50
    both = np.concatenate([predicted, wrong, wrong]), np.concatenate([true, true[:300], true[:300]])
    cancelled = target_figures(*both, np.concatenate([np.ones(2000), np.ones(300), -np.ones(300)]))
    plain = target_figures(predicted, true, np.ones(2000))
    for name in NAMES:
        assert getattr(cancelled, name) == pytest.approx(getattr(plain, name), rel=1e-6)
    assert cancelled.rmse_err > plain.rmse_err


def test_two_models_on_the_same_events_differ_by_less_than_their_uncertainties_say() -> None:
    predicted, true, weights = toy(np.random.default_rng(5), 2000)
    one, other = (
        figure_pulls(values, true, weights)["rmse"][1] for values in (predicted, predicted + np.float32(0.01))
    )
    assert np.sqrt(np.sum((one - other) ** 2)) < 0.05 * np.sqrt(np.sum(one**2))
    value, pull = mean_explained(np.stack([predicted, true], 1), np.stack([true, true], 1), weights)
    r2 = target_figures(predicted, true, weights).r2
    assert value == pytest.approx((r2 + 1) / 2)
    assert pull.shape == (2000,)


def test_bins_hold_all_events_and_show_a_bias_that_depends_on_the_target() -> None:
    random = np.random.default_rng(6)
    true = random.normal(0, 1, 3000)
    predicted = 0.5 * true + random.normal(0, 0.1, 3000)
    bins = target_bins(predicted, true, np.ones(3000))
    assert sum(one.events for one in bins) == 3000
    assert len(bins) == 12
    assert all(one.low < one.mean < one.high for one in bins)
    for one in bins:
        assert one.bias == pytest.approx(-0.5 * one.mean, abs=5 * one.bias_err)
    assert target_bins(predicted[:30], true[:30], np.ones(30)) == ()
    assert len(target_bins(predicted, np.round(true), np.ones(3000))) <= 8


def test_what_has_no_figures_is_refused_with_the_reason() -> None:
    nothing = np.zeros(0)
    with pytest.raises(DataError, match="the weights of 0 events sum to 0"):
        target_figures(nothing, nothing, nothing)
    with pytest.raises(DataError, match="sum to -2"):
        target_figures(np.ones(2), np.ones(2), -np.ones(2))
    with pytest.raises(DataError, match="1 of 2 residuals are not finite"):
        target_figures(np.array([1.0, np.nan]), np.ones(2), np.ones(2))
    same = target_figures(np.array([1.0, 2.0]), np.ones(2), np.ones(2))
    assert (same.r2, same.r2_err) == (0.0, 0.0)
