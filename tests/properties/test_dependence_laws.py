"""What the dependence on an observer promises: a divergence that is one, and a chance level that is right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlaas4hep.train.dependence import WORKING_POINTS, dependence_of, jensen_shannon

SHAPES = arrays.arrays(np.float64, 6, elements=st.floats(0, 100, allow_subnormal=False).map(lambda x: round(x, 6)))


@given(SHAPES, SHAPES, st.floats(0.01, 100))
def test_the_divergence_is_symmetric_bounded_and_zero_for_equal_shapes(
    one: np.ndarray, other: np.ndarray, unit: float
) -> None:
    assume(one.sum() > 0 and other.sum() > 0)
    found = jensen_shannon(one, other)
    assert found == pytest.approx(jensen_shannon(other, one), abs=1e-12)
    assert 0.0 <= found <= 1.0
    assert jensen_shannon(one, unit * one) == pytest.approx(0.0, abs=1e-12)
    assert jensen_shannon(unit * one, other) == pytest.approx(found, abs=1e-9)


def test_the_divergence_is_that_of_scipy() -> None:
    from scipy.spatial.distance import jensenshannon

    random = np.random.default_rng(0)
    for _ in range(20):
        one, other = random.random((2, 8))
        assert jensen_shannon(one, other) == pytest.approx(jensenshannon(one, other, base=2) ** 2, abs=1e-12)


def test_an_empty_histogram_has_no_divergence() -> None:
    assert np.isnan(jensen_shannon([0, 0], [1, 1]))


def sample(random: np.random.Generator, events: int, *, slope: float) -> tuple[np.ndarray, ...]:
    """Half signal; the background's score rises with the observer, where there is a slope."""
    signal = random.random(events) < 0.5
    mass = np.where(signal, random.normal(125, 10, events), 60 + random.exponential(40, events))
    scores = 1 / (1 + np.exp(-(random.normal(signal * 2.0, 1.0) + slope * (mass - 100) / 40)))
    return scores, signal, random.exponential(size=events), mass


def test_an_independent_score_stays_at_the_level_of_chance() -> None:
    random = np.random.default_rng(1)
    found = [dependence_of(*sample(random, 6000, slope=0.0), seed=n) for n in range(40)]
    for place, _ in enumerate(WORKING_POINTS):
        own = [one.kept[place] for one in found if one.kept[place].js is not None]
        if len(own) < 30:
            continue
        assert np.mean([one.js for one in own]) == pytest.approx(np.mean([one.js_expected for one in own]), rel=0.2)
        assert np.mean([one.js > one.js_limit for one in own]) < 0.2


def test_a_score_that_knows_the_observer_is_far_above_chance_with_an_honest_uncertainty() -> None:
    random = np.random.default_rng(2)
    found = [dependence_of(*sample(random, 6000, slope=1.0), seed=n) for n in range(40)]
    kept = [one.kept[1] for one in found]
    assert all(one.js > 3 * one.js_limit for one in kept)
    assert np.mean([one.js_err for one in kept]) == pytest.approx(np.std([one.js for one in kept]), rel=0.35)
    efficiencies = np.mean([one.efficiency for one in kept], axis=0)
    assert efficiencies[-1] > 5 * efficiencies[0]


def test_cuts_leave_the_efficiency_that_was_asked_for() -> None:
    found = dependence_of(*sample(np.random.default_rng(3), 20000, slope=0.5))
    for (of, wanted), one in zip(WORKING_POINTS, found.kept, strict=True):
        assert getattr(one, of) == pytest.approx(wanted, abs=0.002)
        if one.js is not None:
            assert sum(one.shares) == pytest.approx(1.0)
            back = sum(share * eff for share, eff in zip(found.shares, one.efficiency, strict=True))
            assert back == pytest.approx(one.background)


@given(st.integers(0, 2**32 - 1))
def test_a_doubled_weight_is_a_doubled_event(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores, signal, _, mass = sample(random, 400, slope=1.0)
    twice = random.random(400) < 0.5
    weighted = dependence_of(scores, signal, 1.0 + twice, mass, points=[("background", 0.5)])
    again = [np.concatenate([one, one[twice]]) for one in (scores, signal, np.ones(400), mass)]
    repeated = dependence_of(*again, points=[("background", 0.5)])
    assert weighted.kept[0].cut == repeated.kept[0].cut
    assert weighted.kept[0].background == pytest.approx(repeated.kept[0].background)


def test_the_unit_of_the_observer_changes_nothing() -> None:
    scores, signal, weights, mass = sample(np.random.default_rng(5), 3000, slope=1.0)
    one, other = (dependence_of(scores, signal, weights, values) for values in (mass, np.log(1000 * mass)))
    assert [kept.js for kept in one.kept] == [kept.js for kept in other.kept]


def test_events_without_a_value_are_left_out_and_told() -> None:
    scores, signal, weights, mass = sample(np.random.default_rng(6), 3000, slope=0.0)
    mass[::10] = np.nan
    found = dependence_of(scores, signal, weights, mass)
    assert found.missing == np.count_nonzero(~signal[::10])
    assert found.events + found.missing == np.count_nonzero(~signal)


@pytest.mark.parametrize(
    ("scores", "signal", "observer", "words"),
    [
        ([0.1, 0.2, 0.3], [True, True, True], [1.0, 2.0, 3.0], "background"),
        ([0.1, 0.2, 0.3], [False, False, False], [1.0, 2.0, 3.0], "signal"),
        ([0.1, 0.2, 0.3], [True, False, False], [1.0, 1.0, 1.0], "one value"),
    ],
)
def test_where_there_is_no_dependence_the_reason_is_told(
    scores: list[float], signal: list[bool], observer: list[float], words: str
) -> None:
    found = dependence_of(scores, signal, [1.0] * 3, observer)
    assert found.kept == ()
    assert words in (found.reason or "")
