"""Law 9: statistics do not depend on how events were grouped, and quantiles are within 0.1 % in rank."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlaas4hep.spec.accumulate import FeatureAccumulator
from mlaas4hep.spec.sketch import BLOCK
from mlaas4hep.spec.statistics import RANKS, FeatureStatistics

Values = NDArray[np.float32]


def accumulated(values: Values) -> FeatureAccumulator:
    accumulator = FeatureAccumulator()
    accumulator.add(values)
    return accumulator


def folded(parts: list[Values]) -> FeatureStatistics:
    """Parts of parts, as chunks, workers and machines make them: pairs are joined, then all pairs."""
    pairs = []
    for index in range(0, len(parts), 2):
        pairs.append(accumulated(parts[index]))
        for part in parts[index + 1 : index + 2]:
            pairs[-1].merge(accumulated(part))
    total = FeatureAccumulator()
    for pair in pairs:
        total.merge(pair)
    return total.seal()


def grouped(values: Values, rng: np.random.Generator) -> FeatureStatistics:
    cuts = np.sort(rng.integers(0, len(values) + 1, rng.integers(0, 30)))
    return folded(np.split(values, cuts))


def without_quantiles(one: FeatureStatistics) -> list[Any]:
    return [one.count, one.missing, one.infinite, one.minimum, one.maximum, one.mean, one.std]


@given(st.lists(st.floats(width=32), max_size=60), st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_mean_and_deviation_are_those_of_exact_fractions(values: list[float], seed: int) -> None:
    result = grouped(np.array(values, np.float32), np.random.default_rng(seed))
    finite = [Fraction(value) for value in values if math.isfinite(value)]
    assert result.count == len(finite)
    assert result.missing + result.infinite == len(values) - len(finite)
    if finite:
        mean = sum(finite) / len(finite)
        variance = sum((value - mean) ** 2 for value in finite) / len(finite)
        assert result.mean == float(mean)
        assert result.std == math.sqrt(float(variance))
        assert (result.minimum, result.maximum) == (min(finite), max(finite))


def sample(kind: str, size: int, rng: np.random.Generator) -> Values:
    with np.errstate(over="ignore"):
        return {
            "gauss": lambda: rng.normal(size=size),
            "offset": lambda: 1e7 + rng.normal(size=size),
            "cancel": lambda: np.repeat(rng.normal(size=size // 2) * 1e30, 2) * np.tile([1, -1], size // 2),
            "scales": lambda: rng.normal(size=size) * 10.0 ** rng.integers(-44, 38, size),
            "ties": lambda: rng.integers(0, 4, size),
            "signs": lambda: rng.choice([0.0, -0.0, 1e-45, -1e-45], size),
            "sorted": lambda: np.sort(rng.exponential(size=size)),
            "falling": lambda: -np.sort(rng.exponential(size=size)),
            "holes": lambda: np.where(rng.random(size) < 0.2, rng.choice([np.nan, np.inf, -np.inf], size), 3.25),
        }[kind]().astype(np.float32)


KINDS = ["gauss", "offset", "cancel", "scales", "ties", "signs", "sorted", "falling", "holes"]


@pytest.mark.parametrize("kind", KINDS)
def test_figures_have_the_same_bits_in_any_grouping_and_order(kind: str) -> None:
    rng = np.random.default_rng(3)
    values = sample(kind, 6 * BLOCK + 1234, rng)
    expected = accumulated(values).seal()
    finite = values[np.isfinite(values)]
    units = [int(value) for value in np.ldexp(finite.astype(np.float64), 149).tolist()]
    mean = Fraction(sum(units), len(units))
    assert expected.mean == float(mean / 2**149)
    variance = Fraction(sum(unit * unit for unit in units), len(units)) - mean * mean
    assert expected.std == math.sqrt(float(variance / 2**298))
    for order in (values, values[::-1], rng.permutation(values)):
        assert without_quantiles(grouped(order, rng)) == without_quantiles(expected)


def rank_error(result: FeatureStatistics, finite: Values) -> float:
    """Largest distance of an asked rank to the ranks that the answer has, as a share of all values."""
    ordered = np.sort(finite)
    worst = 0.0
    for rank in RANKS:
        value = np.float32(result.quantile(rank))
        below, upto = np.searchsorted(ordered, [value], "left")[0], np.searchsorted(ordered, [value], "right")[0]
        assert upto > below, "an answer is one of the values"
        worst = max(worst, below / len(ordered) - rank, rank - upto / len(ordered))
    return worst


@pytest.mark.parametrize("kind", KINDS)
def test_quantiles_are_within_a_thousandth_in_rank_for_any_grouping(kind: str) -> None:
    rng = np.random.default_rng(4)
    values = sample(kind, 1_000_000, rng)
    finite = values[np.isfinite(values)]
    groupings = [[values], np.array_split(values, 100), np.split(values, np.sort(rng.integers(0, len(values), 40)))]
    groupings.append([values[start : start + 2 * BLOCK] for start in range(0, len(values), 2 * BLOCK)])
    for parts in groupings:
        # Far inside the law, so that thinning on one side only would be seen.
        assert rank_error(folded(list(parts)), finite) < 0.0002


def test_the_same_fold_gives_the_same_bits_again() -> None:
    values = sample("gauss", 300_000, np.random.default_rng(5))
    first, second = (folded(np.array_split(values, 7)) for _ in range(2))
    assert first == second
