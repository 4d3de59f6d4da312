"""Statistics: which values count, how they are gathered, and what is written into the contract."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from mlaas4hep.errors import DataError
from mlaas4hep.spec.accumulate import FeatureAccumulator, GroupAccumulator, StatisticsAccumulator
from mlaas4hep.spec.statistics import (
    MAX_LENGTH,
    RANKS,
    FeatureStatistics,
    SampleCounts,
    Statistics,
    WeightSums,
)

nan, inf = np.nan, np.inf


def figures(values: list[float]) -> FeatureStatistics:
    accumulator = FeatureAccumulator()
    accumulator.add(np.array(values, np.float32))
    return accumulator.seal()


def test_missing_and_infinite_values_are_counted_and_left_out_of_all_other_figures() -> None:
    result = figures([1.0, nan, 2.0, inf, -inf, 6.0, nan])
    assert (result.count, result.missing, result.infinite) == (3, 2, 2)
    assert (result.minimum, result.maximum, result.mean) == (1.0, 6.0, 3.0)
    assert result.std == np.sqrt(14 / 3)
    assert result.quantile(0.5) == 2.0
    assert (result.quantile(0), result.quantile(1)) == (1.0, 6.0)


def test_a_feature_without_any_value_has_no_figures() -> None:
    for values in ([], [nan, inf]):
        result = figures(values)
        assert (result.count, result.minimum, result.mean, result.std, result.quantile(0.5)) == (0, *[None] * 4)


def test_a_small_sample_has_the_quantiles_of_its_sorted_values() -> None:
    values = np.random.default_rng(0).normal(size=999).astype(np.float32)
    result = figures(values.tolist())
    for rank in RANKS:
        assert result.quantile(rank) == np.quantile(values, rank, method="inverted_cdf")


def test_a_quantile_that_is_not_kept_is_refused_naming_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"quantile 0.3 is not kept; kept are 0.001, 0.005"):
        figures([1.0]).quantile(0.3)


def test_the_sign_of_zero_does_not_depend_on_the_order() -> None:
    for values in ([0.0, -0.0], [-0.0, 0.0], [-0.0]):
        result = figures(values)
        assert [str(result.minimum), str(result.maximum), str(result.mean)] == ["0.0"] * 3


def test_a_slot_of_a_collection_exists_unless_all_its_features_are_missing() -> None:
    tensor = np.array([[[1, 10], [2, nan], [nan, nan]], [[nan, 30], [nan, nan], [nan, nan]]], np.float32)
    group = GroupAccumulator(2)
    group.add(tensor)
    first, second = group.seal()
    assert (first.count, first.missing, first.mean) == (2, 1, 1.5)
    assert (second.count, second.missing, second.mean) == (2, 1, 20.0)


def test_an_event_exists_even_if_all_its_features_are_missing() -> None:
    group = GroupAccumulator(2)
    group.add(np.array([[nan, nan], [1, nan]], np.float32))
    assert [one.missing for one in group.seal()] == [1, 2]


def test_gathering_goes_on_after_sealing_and_leaves_the_other_part_as_it_is() -> None:
    first, second = FeatureAccumulator(), FeatureAccumulator()
    first.add(np.arange(40_000, dtype=np.float32))
    second.add(np.arange(40_000, 70_000, dtype=np.float32))
    before = second.seal()
    assert first.seal().count == 40_000
    first.merge(second)
    assert first.seal().count == 70_000
    assert first.seal().mean == 34999.5
    assert second.seal() == before


def test_what_is_added_may_be_overwritten_afterwards() -> None:
    accumulator = FeatureAccumulator()
    values = np.ones(10, np.float32)
    accumulator.add(values)
    values[:] = 5
    assert accumulator.seal().maximum == 1.0


def gathered() -> StatisticsAccumulator:
    accumulator = StatisticsAccumulator({"event": 1, "jets": 1})
    accumulator.add_inputs(
        {"event": np.array([[0.1], [nan]], np.float32), "jets": np.array([[[3], [nan]], [[nan], [nan]]], np.float32)},
        lengths={"jets": np.array([MAX_LENGTH + 5, 0])},
        truncated={"jets": 7},
    )
    weights = np.array([0.5, -0.25])
    accumulator.add_sample("ttH", SampleCounts(read=5, selected=WeightSums.of(weights), train=1, test=1))
    accumulator.add_class("signal", WeightSums.of(weights[:1]))
    return accumulator


def test_all_counts_add_up_over_merged_parts() -> None:
    total = StatisticsAccumulator({"event": 1, "jets": 1})
    for _ in range(3):
        total.merge(gathered())
    result = total.seal()
    assert result.groups["event"][0].count == 3
    assert result.lengths["jets"][0] == 3
    assert result.lengths["jets"][MAX_LENGTH] == 3
    assert len(result.lengths["jets"]) == MAX_LENGTH + 1
    assert result.truncated == {"jets": 21}
    assert result.samples["ttH"] == SampleCounts(15, WeightSums(6, 3, 0.75, 0.9375), 3, 0, 3)
    assert result.classes["signal"] == WeightSums(3, 0, 1.5, 0.75)


def test_the_round_trip_through_json_is_exact() -> None:
    sealed = gathered().seal()
    assert msgspec.json.decode(msgspec.json.encode(sealed), type=Statistics) == sealed
    assert sealed.groups["event"][0].mean == float(np.float32(0.1))
    assert msgspec.json.decode(msgspec.json.encode(Statistics()), type=Statistics) == Statistics()


@pytest.mark.parametrize("weight", [nan, inf, -1e200])
def test_weights_that_cannot_be_summed_are_refused(weight: float) -> None:
    with pytest.raises(DataError, match=r"event weight .* \(event 1 of 2 given\) cannot be summed"):
        WeightSums.of(np.array([1.0, weight]))
