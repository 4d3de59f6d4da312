"""Figures of merit agree with scikit-learn's, and their uncertainty with a bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from mlaas4hep.errors import DataError
from mlaas4hep.train.metrics import area_influence, bootstrap_areas, log_loss, mean_auc, roc_curve, weighted_auc


@st.composite
def judged(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties, labels of both classes, positive weights."""
    number = draw(st.integers(2, 60))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = random.integers(0, draw(st.integers(1, 30)), number) / 7
    labels = random.permutation(np.arange(number) % 2)
    return scores, labels, random.uniform(0.1, 5.0, number)


@given(judged())
@settings(max_examples=80, deadline=None)
def test_the_weighted_area_is_that_of_scikit_learn(events: tuple[np.ndarray, ...]) -> None:
    scores, labels, weights = events
    wanted = reference.roc_auc_score(labels, scores, sample_weight=weights)
    assert weighted_auc(scores, labels == 1, weights).value == pytest.approx(wanted, abs=1e-12)


@given(judged())
@settings(max_examples=40, deadline=None)
def test_the_area_under_the_curve_is_the_area(events: tuple[np.ndarray, ...]) -> None:
    scores, labels, weights = events
    curve = roc_curve(scores, labels == 1, weights)
    assert np.trapezoid(curve.signal, curve.background) == pytest.approx(
        weighted_auc(scores, labels == 1, weights).value, abs=1e-12
    )
    assert (curve.signal[0], curve.background[0]) == (0.0, 0.0)
    assert (curve.signal[-1], curve.background[-1]) == pytest.approx((1.0, 1.0))


@given(judged(), st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_a_weight_counts_like_as_many_events(events: tuple[np.ndarray, ...], times: int) -> None:
    scores, labels, _ = events
    heavy = weighted_auc(scores, labels == 1, np.where(np.arange(len(scores)) % 3 == 0, times, 1.0))
    index = np.repeat(np.arange(len(scores)), np.where(np.arange(len(scores)) % 3 == 0, times, 1))
    assert weighted_auc(scores[index], labels[index] == 1).value == pytest.approx(heavy.value, abs=1e-12)


def test_the_uncertainty_is_that_of_a_bootstrap() -> None:
    random = np.random.default_rng(5)
    labels = (random.random(1500) < 0.3).astype(int)
    scores = random.normal(labels * 1.2)
    weights = random.exponential(1.0, 1500) * np.where(random.random(1500) < 0.1, -1, 1)
    areas = bootstrap_areas(scores[:, None], labels, [1], weights, replicas=400, seed=5)
    assert areas.shape == (400, 1)
    assert weighted_auc(scores, labels == 1, weights).error == pytest.approx(np.std(areas), rel=0.12)


def test_a_replica_of_the_bootstrap_is_the_area_of_reweighted_events() -> None:
    random = np.random.default_rng(11)
    labels = random.integers(0, 3, 300)
    scores, weights = np.round(random.dirichlet(np.ones(3), 300), 1), random.random(300)
    areas = bootstrap_areas(scores, labels, range(3), weights, replicas=3, seed=4)
    counts = np.random.default_rng(4).poisson(1.0, 300)
    wanted = [weighted_auc(scores[:, label], labels == label, weights * counts).value for label in range(3)]
    assert areas[0] == pytest.approx(wanted)


def test_equal_models_differ_by_nothing() -> None:
    random = np.random.default_rng(12)
    labels = random.integers(0, 2, 200)
    scores = random.normal(labels * 1.0)[:, None]
    (one, pull), (other, other_pull) = (area_influence(shown, labels, [1]) for shown in (scores, 3 * scores))
    assert one == other
    assert np.sum((pull - other_pull) ** 2) == 0


def test_the_uncertainty_of_equal_weights_is_delongs() -> None:
    random = np.random.default_rng(6)
    signal, background = random.normal(1, 1, 80), random.normal(0, 1, 50)
    wins = (signal[:, None] > background[None, :]).astype(float)
    delong = wins.mean(axis=1).var(ddof=1) / 80 + wins.mean(axis=0).var(ddof=1) / 50
    found = weighted_auc(np.concatenate([signal, background]), np.arange(130) < 80)
    assert found.error == pytest.approx(np.sqrt(delong), rel=0.02)


def test_neither_order_nor_unit_of_weights_nor_scale_of_scores_matters() -> None:
    random = np.random.default_rng(7)
    scores, labels, weights = random.random(500), random.random(500) < 0.4, random.random(500)
    first = weighted_auc(scores, labels, weights)
    order = random.permutation(500)
    second = weighted_auc(np.exp(9 * scores[order]), labels[order], 1e-9 * weights[order])
    assert (second.value, second.error) == pytest.approx((first.value, first.error), rel=1e-9)


def test_negative_weights_are_taken_with_their_sign() -> None:
    # The wrong background event at 0.9 is cancelled by its negative twin.
    auc = weighted_auc([0.1, 0.9, 0.9, 0.8], [False, False, False, True], [1.0, 1.0, -1.0, 1.0])
    assert auc.value == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("signal", "weights", "words"),
    [
        ([True, True], [1.0, 1.0], "0 background events"),
        ([False, True], [1.0, 0.0], "1 signal events with a sum of weights of 0"),
    ],
)
def test_one_class_alone_has_no_area(signal: list[bool], weights: list[float], words: str) -> None:
    with pytest.raises(DataError, match=words):
        weighted_auc([0.2, 0.8], signal, weights)


def test_a_score_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(DataError, match="1 of 2 scores are NaN"):
        weighted_auc([np.nan, 0.8], [False, True])


def test_a_long_curve_is_thinned_without_being_bent() -> None:
    random = np.random.default_rng(8)
    labels = random.random(50_000) < 0.5
    scores = random.normal(labels * 2.0)
    curve = roc_curve(scores, labels, points=500)
    assert len(curve.signal) <= 502
    area = np.trapezoid(curve.signal, curve.background)
    assert area == pytest.approx(weighted_auc(scores, labels).value, abs=1e-4)


def test_the_mean_area_of_two_classes_is_the_area_with_its_uncertainty() -> None:
    random = np.random.default_rng(9)
    labels = random.integers(0, 2, 300)
    signal = 1 / (1 + np.exp(-random.normal(labels * 1.0)))
    both = mean_auc(np.stack([1 - signal, signal], axis=1), labels)
    one = weighted_auc(signal, labels == 1)
    assert (both.value, both.error) == pytest.approx((one.value, one.error), rel=1e-9)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_loss_is_that_of_scikit_learn(num_classes: int) -> None:
    random = np.random.default_rng(10)
    labels = random.integers(0, num_classes, 200)
    scores = random.dirichlet(np.ones(num_classes), 200)
    weights = random.random(200)
    wanted = reference.log_loss(labels, scores, sample_weight=weights, labels=range(num_classes))
    shown = scores[:, 1:] if num_classes == 2 else scores
    assert log_loss(shown, labels, weights) == pytest.approx(wanted, rel=1e-6)
