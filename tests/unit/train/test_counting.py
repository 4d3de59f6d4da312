"""Significances have the limits of the papers; yields are those that one computes by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.spec.statistics import SampleCounts, WeightSums
from mlaas4hep.train.counting import (
    MIN_BACKGROUND_EVENTS,
    Weighed,
    asimov_significance,
    scale_factors,
    scan_cuts,
    total_yield,
    yields_after,
    yields_before,
)
from mlaas4hep.train.loop import Judged

EVENTS = st.floats(1e-3, 1e6)


@given(EVENTS, st.floats(1e-9, 1e-3), st.floats(0, 1))
def test_of_a_small_signal_it_is_s_over_the_uncertainty_of_b(b: float, part: float, relative: float) -> None:
    s = part * b
    assert asimov_significance(s, b, relative * b) == pytest.approx(s / np.sqrt(b + (relative * b) ** 2), rel=1e-3)


@given(EVENTS, EVENTS)
def test_a_vanishing_uncertainty_is_a_known_background(s: float, b: float) -> None:
    assert asimov_significance(s, b, 1e-3 * b / np.sqrt(s + b)) == pytest.approx(asimov_significance(s, b), rel=1e-4)


@given(EVENTS, EVENTS, st.floats(0, 1), st.floats(0, 1))
def test_more_uncertainty_never_gives_more_significance(s: float, b: float, one: float, more: float) -> None:
    assert asimov_significance(s, b, (one + more) * b) <= asimov_significance(s, b, one * b) * (1 + 1e-6)


def test_figures_of_the_papers() -> None:
    # By hand: sqrt(2 * (15 ln 1.5 - 5)) and, with sigma = 3, equation 20.
    assert asimov_significance(5.0, 10.0) == pytest.approx(1.47104, abs=1e-5)
    by_hand = np.sqrt(2 * (15 * np.log(15 * 19 / (100 + 15 * 9)) - 100 / 9 * np.log(1 + 45 / 190)))
    assert asimov_significance(5.0, 10.0, 3.0) == pytest.approx(by_hand, rel=1e-12)
    assert np.isnan(asimov_significance([0.0, 1.0, 1.0], [1.0, 0.0, -1.0])).all()


def samples() -> dict[str, SampleCounts]:
    """Two samples; of each a part of the weight is in the test part."""
    return {
        "signal": SampleCounts(read=50, selected=WeightSums.of(np.full(40, 0.5)), train=30, validation=2, test=8),
        "background": SampleCounts(read=90, selected=WeightSums.of(np.full(80, 10.0)), train=60, validation=4, test=16),
        "rare": SampleCounts(read=2, selected=WeightSums.of(np.full(2, 3.0)), train=2),
    }


def test_a_yields_table_by_hand() -> None:
    places = np.array([0] * 8 + [1] * 16)
    scores = np.array([0.2, 0.4, 0.6, 0.6, 0.8, 0.8, 0.9, 0.9] + [0.1] * 12 + [0.7] * 4)
    judged = Judged(scores[:, None].astype(np.float32), 1 - places, np.where(places == 0, 0.5, 10.0))
    scales = scale_factors(samples(), judged, places)
    assert scales == {"signal": pytest.approx(5.0), "background": pytest.approx(5.0), "rare": None}

    before = yields_before(samples())
    assert (before["signal"].expected, before["signal"].expected_err) == pytest.approx((20.0, 10**0.5))
    assert (before["background"].expected, before["background"].expected_err) == pytest.approx((800.0, 8000**0.5))

    weights = judged.weights * 5.0
    events = Weighed(scores, places == 0, weights, places)
    after = yields_after(events, scales, 0.6)
    # Signal: 6 of 8 test events, each stands for 5 x 0.5; background: 4 of 16, each for 5 x 10.
    assert (after["signal"].events, after["signal"].expected) == (6, pytest.approx(15.0))
    assert after["signal"].expected_err == pytest.approx(2.5 * 6**0.5)
    assert (after["background"].events, after["background"].expected) == (4, pytest.approx(200.0))
    assert after["background"].expected_err == pytest.approx(50 * 4**0.5)
    assert after["rare"].expected is None
    total = total_yield([after["background"], after["rare"]])
    assert (total.expected, total.events) == (pytest.approx(200.0), 4)

    uncut = yields_after(events, scales, 0.0)
    assert {name: one.expected for name, one in uncut.items() if one.expected is not None} == pytest.approx(
        {name: one.expected for name, one in before.items() if scales[name] is not None}
    )


def test_a_scan_counts_what_passes_and_offers_no_cut_without_background() -> None:
    random = np.random.default_rng(1)
    is_signal = np.arange(600) < 200
    scores = np.clip(random.normal(np.where(is_signal, 0.7, 0.3), 0.1), 0, 1)
    events = Weighed(scores, is_signal, np.where(is_signal, 0.1, 2.0), (~is_signal).astype(int))
    scan = scan_cuts(events, uncertainty=0.1)
    assert scan.best is not None
    cut = scan.cuts[scan.best]
    passed = scores >= cut
    assert scan.signal[scan.best] == pytest.approx(0.1 * (passed & is_signal).sum())
    assert scan.background[scan.best] == pytest.approx(2.0 * (passed & ~is_signal).sum())
    assert (passed & ~is_signal).sum() >= MIN_BACKGROUND_EVENTS
    known = [one for one in scan.uncertain if one is not None]
    assert scan.uncertain[scan.best] == max(known)
    assert len(known) < len(scan.cuts)


def test_a_class_without_events_has_no_best_cut() -> None:
    nothing = Weighed(np.linspace(0, 1, 30), np.zeros(30, bool), np.ones(30), np.zeros(30, int))
    assert scan_cuts(nothing, uncertainty=0.1).best is None


def test_half_the_events_choose_the_cut_of_the_others_and_luck_is_not_quoted() -> None:
    """Scores of noise: a cut can only lose, and the best of many seems to gain."""
    best, crossed, plain = [], [], []
    for seed in range(40):
        random = np.random.default_rng(seed)
        is_signal = random.random(2000) < 0.5
        events = Weighed(random.random(2000), is_signal, np.where(is_signal, 0.02, 0.2), (~is_signal).astype(int))
        scan = scan_cuts(events, uncertainty=0.5)
        assert scan.best is not None
        assert scan.crossed is not None
        best.append(scan.uncertain[scan.best])
        crossed.append(scan.crossed)
        plain.append(scan.uncertain[0])
    assert np.mean(best) > 1.05 * np.mean(plain)
    assert np.mean(crossed) < np.mean(plain)


def test_a_sample_of_which_no_event_is_left_is_not_taken_for_gone() -> None:
    """Few events of a large weight, cut away by luck, hid behind many of a small one and made any cut look good."""
    random = np.random.default_rng(3)
    signal, light, heavy = 4000, 4000, 100
    samples = np.repeat([0, 1, 2], [signal, light, heavy])
    scores = np.concatenate([random.random(signal), random.random(light), 0.97 * random.random(heavy)])
    weights = np.array([0.001, 0.01, 100.0])[samples]
    scan = scan_cuts(Weighed(scores, samples == 0, weights, samples), uncertainty=0.1)
    assert scan.best_cut is not None
    gone = scan.cuts.index(next(one for one in scan.cuts if one >= scores[samples == 2].max()))
    assert scan.background[gone] < 5.0
    assert scan.background_err[gone] == pytest.approx((0.01**2 + 100.0**2) ** 0.5, rel=1e-3)
    significance = scan.uncertain[gone]
    assert significance is not None
    # What is known of the heavy sample is that it is about one event of 100, or none.
    assert significance < scan.signal[gone] / 90.0
