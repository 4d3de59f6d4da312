"""What calibration promises: right scores look right, weights count as events do, and order means nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlaas4hep.errors import DataError
from mlaas4hep.train.calibration import calibration_of

SCORES = arrays.arrays(np.float64, st.integers(2, 40), elements=st.floats(0, 1, width=16))


@given(SCORES, st.integers(0, 2**32 - 1))
def test_a_doubled_weight_is_a_doubled_event(scores: np.ndarray, seed: int) -> None:
    random = np.random.default_rng(seed)
    truth, twice = random.random(len(scores)) < scores, random.random(len(scores)) < 0.5
    weighted = calibration_of(scores, truth, 1.0 + twice)
    repeated = calibration_of(np.concatenate([scores, scores[twice]]), np.concatenate([truth, truth[twice]]))
    assert weighted.ece == pytest.approx(repeated.ece, abs=1e-12)
    assert weighted.brier == pytest.approx(repeated.brier, abs=1e-12)
    for one, other in zip(weighted.bins, repeated.bins, strict=True):
        assert one.observed == pytest.approx(other.observed, abs=1e-12)
        assert one.score == pytest.approx(other.score, abs=1e-12)


@given(SCORES, st.integers(0, 2**32 - 1), st.floats(0.001, 1000))
def test_neither_the_order_nor_the_unit_of_the_weights_matters(scores: np.ndarray, seed: int, unit: float) -> None:
    random = np.random.default_rng(seed)
    truth, weights = random.random(len(scores)) < 0.5, random.random(len(scores)) + 0.1
    order = random.permutation(len(scores))
    one = calibration_of(scores, truth, weights)
    other = calibration_of(scores[order], truth[order], unit * weights[order])
    for name in ("ece", "ece_err", "ece_expected", "brier", "brier_err", "brier_expected"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-9), name


def test_scores_that_are_right_are_calibrated_within_the_uncertainty_and_wrong_ones_are_not() -> None:
    random = np.random.default_rng(3)
    found, wrong = [], []
    for _ in range(60):
        p, weights = random.random(2000), random.exponential(size=2000)
        truth = random.random(2000) < p
        found.append(calibration_of(p, truth, weights))
        wrong.append(calibration_of(p**2, truth, weights))
    pulls = [(one.observed - one.score) / one.observed_err for each in found for one in each.bins if one.events > 50]
    assert np.std(pulls) == pytest.approx(1.0, abs=0.12)
    assert np.mean([one.ece for one in found]) == pytest.approx(np.mean([one.ece_expected for one in found]), rel=0.1)
    brier = [(one.brier - one.brier_expected) / one.brier_err for one in found]
    assert abs(np.mean(brier)) < 0.5
    assert all(one.ece > 3 * one.ece_expected for one in wrong)


def test_the_uncertainties_are_the_spread_of_repetitions() -> None:
    random = np.random.default_rng(7)
    found = []
    for _ in range(200):
        p, weights = random.random(1500), random.exponential(size=1500)
        found.append(calibration_of(np.clip(p**2, 0, 1), random.random(1500) < p, weights))
    for name in ("ece", "brier"):
        spread = np.std([getattr(one, name) for one in found])
        assert np.mean([getattr(one, f"{name}_err") for one in found]) == pytest.approx(spread, rel=0.2), name


@pytest.mark.parametrize(
    ("scores", "weights", "words"),
    [([0.5, 0.5], [1.0, -1.0], "add up to 0"), ([], [], "0 events"), ([0.5, 1.5], [1.0, 1.0], "outside 0 to 1")],
)
def test_what_has_no_calibration_says_why(scores: list[float], weights: list[float], words: str) -> None:
    with pytest.raises(DataError, match=words):
        calibration_of(scores, [True] * len(scores), weights)


def test_bins_of_negative_weight_are_left_out() -> None:
    found = calibration_of([0.05, 0.95, 0.95], [False, True, True], [-1.0, 2.0, 2.0])
    assert [one.low for one in found.bins] == pytest.approx([14 / 15])
    assert found.bins[0].observed == 1.0
