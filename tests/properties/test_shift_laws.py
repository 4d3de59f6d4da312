"""What a systematic variation promises: nothing changed is exactly nothing, and a change has an honest uncertainty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.data.rows import ENTRY
from mlaas4hep.train.loop import Judged
from mlaas4hep.train.shifts import Placed, Shift, shift_of

CUTS = (np.array([0.0, 0.25, 0.5, 0.75]),)


def placed(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, numbers: np.ndarray) -> Placed:
    entries = np.zeros(len(scores), dtype=ENTRY)
    entries["entry"] = numbers
    return Placed(Judged(scores[:, None].astype(np.float32), labels, weights), entries, labels)


def events(random: np.random.Generator, size: int) -> tuple[np.ndarray, ...]:
    labels = np.concatenate([[0, 1], random.integers(0, 2, size - 2)])
    scores = 1 / (1 + np.exp(-random.normal(labels * 1.5, 1.0)))
    return scores, labels, random.normal(1.0, 0.5, size), np.arange(size)


def between(nominal: Placed, varied: Placed) -> Shift:
    return shift_of("up", nominal, varied, cuts=CUTS, processes=2, positives=[1])


@given(st.integers(0, 2**32 - 1), st.integers(4, 60))
def test_a_variation_that_changes_nothing_gives_exactly_zero(seed: int, size: int) -> None:
    own = placed(*events(np.random.default_rng(seed), size))
    found = between(own, own)
    assert (found.gained, found.lost) == (0, 0)
    assert np.all(found.areas[:, 1:] == 0.0)
    assert np.allclose(found.changes[0], 0.0, atol=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(4, 60))
def test_sums_and_variances_are_those_of_a_loop_over_events(seed: int, size: int) -> None:
    random = np.random.default_rng(seed)
    scores, labels, weights, numbers = events(random, size)
    nominal = placed(scores, labels, weights, numbers)
    chosen = np.union1d(random.choice(size, size // 2, replace=False), [0, 1])
    moved = np.clip(scores + random.normal(0, 0.2, size), 0, 1)[chosen]
    varied = placed(moved, labels[chosen], 1.1 * weights[chosen], numbers[chosen])
    found = between(nominal, varied)
    assert (found.events, found.gained, found.lost) == (len(chosen), 0, size - len(chosen))
    for row, cut in enumerate(CUTS[0]):
        for process in (0, 1):
            change = np.zeros(size)
            change[chosen] = np.where(varied.judged.scores[:, 0] >= cut, varied.judged.weights, 0.0)
            own = change[(labels == process)].sum()
            change -= np.where(nominal.judged.scores[:, 0] >= cut, weights, 0.0)
            assert found.sums[0][row, process] == pytest.approx(own, abs=1e-9)
            variance = np.sum(change[labels == process] ** 2)
            assert found.changes[0][row, process] == pytest.approx(variance, abs=1e-9)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10))
def test_one_factor_for_all_weights_moves_yields_and_no_area(seed: int, factor: float) -> None:
    scores, labels, weights, numbers = events(np.random.default_rng(seed), 50)
    weights = np.abs(weights) + 0.01
    found = between(placed(scores, labels, weights, numbers), placed(scores, labels, factor * weights, numbers))
    assert found.areas[:, 1] == pytest.approx(0.0, abs=1e-12)
    assert found.areas[:, 2] == pytest.approx(0.0, abs=1e-12)
    assert found.sums[0][0].sum() == pytest.approx(factor * weights.sum())


def test_the_uncertainty_of_a_change_is_its_spread_and_far_below_that_of_the_area() -> None:
    random = np.random.default_rng(4)
    found, areas = [], []
    for _ in range(150):
        scores, labels, weights, numbers = events(random, 1000)
        moved = np.clip(scores + random.normal(-0.02 * labels, 0.05), 0, 1)
        passed = random.random(1000) < 0.97
        varied = placed(moved[passed], labels[passed], weights[passed], numbers[passed])
        one = between(placed(scores, labels, weights, numbers), varied)
        found.append(one)
        areas.append(one.areas[0, 0])
    changes = [one.areas[0, 1] for one in found]
    assert np.mean([one.areas[0, 2] for one in found]) == pytest.approx(np.std(changes), rel=0.2)
    assert np.std(changes) < 0.5 * np.std(areas)


def test_a_class_without_weight_has_no_area() -> None:
    scores, labels, weights, numbers = events(np.random.default_rng(0), 20)
    found = between(placed(scores, labels, weights, numbers), placed(scores, 0 * labels, weights, numbers))
    assert np.isnan(found.areas).all()
