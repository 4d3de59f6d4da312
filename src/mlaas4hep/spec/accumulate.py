"""Gathering `Statistics` over a stream: mergeable accumulators of features, groups and everything together.

One accumulator a chunk (or a worker), merged in plan order, never in order of arrival; `seal` gives the frozen
`Statistics` of the contract. Invariant: merging gives what one accumulator would have seen; run to run, the same
additions and merges in the same order give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.spec.measuring import NUMPY, Loops, Measured
from mlaas4hep.spec.moments import ExactMoments
from mlaas4hep.spec.sketch import BLOCK, QuantileSketch
from mlaas4hep.spec.statistics import (
    MAX_LENGTH,
    RANKS,
    FeatureStatistics,
    SampleCounts,
    Statistics,
    TargetStatistics,
    WeightSums,
)

_SLAB = 2**16
"""Rows of a group's tensor that are looked at together, so that they stay in the processor's cache."""


class FeatureAccumulator:
    """Figures of one feature.

    Values wait until `BLOCK` of them are there; sorting a block serves extremes, moments and sketch at once. In memory:
    at most 128 kB of waiting values, 16 kB of sums, and 32 kB for each doubling of the number of values past `BLOCK`.

    Parameters
    ----------
    loops
        To count with.
    """

    __slots__ = ("_extremes", "_infinite", "_missing", "_moments", "_sketch", "_waiting", "_waiting_size")

    def __init__(self, loops: Loops = NUMPY) -> None:
        self._missing = 0
        self._infinite = 0
        self._extremes = (np.inf, -np.inf)
        self._moments = ExactMoments(loops)
        self._sketch = QuantileSketch(loops)
        self._waiting: list[NDArray[np.float32]] = []
        self._waiting_size = 0

    def add(self, values: NDArray[np.float32]) -> None:
        """Add values [n] of slots that exist, NaN where missing; a copy is kept."""
        finite = np.isfinite(values)
        kept = values[finite]
        missing = int(np.count_nonzero(np.isnan(values))) if len(kept) < len(values) else 0
        self.add_measured(Measured(kept, missing, len(values) - len(kept) - missing))

    def add_measured(self, found: Measured) -> None:
        """Add what was found of it in some events; its finite values are kept until there are enough of them."""
        self._missing += found.missing
        self._infinite += found.infinite
        self._wait(found.finite)

    def merge(self, other: FeatureAccumulator) -> None:
        """Add what another one has seen; the other stays as it is."""
        self._missing += other._missing
        self._infinite += other._infinite
        low, high = other._extremes
        self._widen(low, high)
        self._moments.merge(other._moments)
        self._sketch.merge(other._sketch)
        for values in other._waiting:
            self._wait(values)

    def seal(self) -> FeatureStatistics:
        """The figures so far; more may be added afterwards."""
        rest = self._sorted_rest()
        moments = ExactMoments()
        moments.merge(self._moments)
        moments.add_sorted(rest)
        figures = moments.mean_and_variance()
        if figures is None:
            return FeatureStatistics(missing=self._missing, infinite=self._infinite)
        low, high = self._extremes
        mean, variance = figures
        return FeatureStatistics(
            count=moments.count,
            missing=self._missing,
            infinite=self._infinite,
            minimum=min([low, *rest[:1].tolist()]),
            maximum=max([high, *rest[-1:].tolist()]),
            mean=mean,
            std=float(np.sqrt(variance)),
            quantiles=dict(zip(map(str, RANKS), self._sketch.quantiles(RANKS, rest), strict=True)),
        )

    def cumulative(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Some of the finite values in rising order, and about how many of all are at or below each: for histograms."""
        return self._sketch.cumulative(self._sorted_rest())

    def _wait(self, values: NDArray[np.float32]) -> None:
        self._waiting.append(values)
        self._waiting_size += len(values)
        if self._waiting_size >= BLOCK:
            self._absorb()

    def _absorb(self) -> None:
        """Take all full blocks; the copy of the rest lets the memory of the blocks go."""
        values = np.concatenate(self._waiting)
        values += np.float32(0)  # one sign for all zeros
        whole = len(values) // BLOCK * BLOCK
        for block in values[:whole].reshape(-1, BLOCK):
            block.sort()
            self._widen(float(block[0]), float(block[-1]))
            self._moments.add_sorted(block)
            self._sketch.add_sorted(block)
        self._waiting = [values[whole:].copy()]
        self._waiting_size = len(values) - whole

    def _sorted_rest(self) -> NDArray[np.float32]:
        rest = np.concatenate([np.empty(0, dtype=np.float32), *self._waiting])
        rest += np.float32(0)
        rest.sort()
        return rest

    def _widen(self, low: float, high: float) -> None:
        self._extremes = (min(self._extremes[0], low), max(self._extremes[1], high))


class GroupAccumulator:
    """Figures of all features of an input group.

    Parameters
    ----------
    num_features
        F.
    loops
        To count with.
    """

    def __init__(self, num_features: int, loops: Loops = NUMPY) -> None:
        self.features = tuple(FeatureAccumulator(loops) for _ in range(num_features))

    def add(self, tensor: NDArray[np.float32]) -> None:
        """Add events: [n, F], or [n, K, F] where a slot with all features missing does not exist."""
        padded = tensor.ndim == 3
        rows = tensor.reshape(-1, len(self.features))
        for start in range(0, len(rows), _SLAB):
            columns = np.ascontiguousarray(rows[start : start + _SLAB].T)
            there = ~np.isnan(columns).all(axis=0) if padded else None
            for feature, column in zip(self.features, columns, strict=True):
                feature.add(column if there is None else column[there])

    def add_measured(self, found: Sequence[Measured]) -> None:
        """Add what was found of each feature in some events: the same as adding their tensor."""
        for feature, one in zip(self.features, found, strict=True):
            feature.add_measured(one)

    def merge(self, other: GroupAccumulator) -> None:
        """Add what another one has seen."""
        for mine, others in zip(self.features, other.features, strict=True):
            mine.merge(others)

    def seal(self) -> tuple[FeatureStatistics, ...]:
        """The figures so far, in the order of the features."""
        return tuple(feature.seal() for feature in self.features)


class StatisticsAccumulator:
    """Everything that one pass gathers.

    Parameters
    ----------
    num_features
        F by input group.
    targets
        Names of the targets of a regression.
    loops
        To count with; they change speed only.

    Examples
    --------
    >>> accumulator = StatisticsAccumulator({"event": 1})
    >>> accumulator.add_inputs({"event": np.array([[1.0], [3.0]], np.float32)})
    >>> accumulator.seal().groups["event"][0].mean
    2.0
    """

    def __init__(self, num_features: Mapping[str, int], *, targets: Sequence[str] = (), loops: Loops = NUMPY) -> None:
        self._groups = {name: GroupAccumulator(number, loops) for name, number in num_features.items()}
        self._target_names = tuple(targets)
        self._targets = GroupAccumulator(len(self._target_names), loops)
        self._target_weights = WeightSums()
        self._lengths: dict[str, NDArray[np.int64]] = {}
        self._truncated: dict[str, int] = {}
        self._samples: dict[str, SampleCounts] = {}
        self._classes: dict[str, WeightSums] = {}

    def add_inputs(
        self,
        inputs: Mapping[str, NDArray[np.float32]],
        *,
        lengths: Mapping[str, NDArray[np.int64]] | None = None,
        truncated: Mapping[str, int] | None = None,
    ) -> None:
        """Add the tensors of some events, as the preprocessor gives them.

        Parameters
        ----------
        inputs
            By input group, [n, F] or [n, K, F]; every group of the accumulator.
        lengths
            By collection, [n]: number of objects before truncation.
        truncated
            By collection, number of objects dropped.
        """
        for name, group in self._groups.items():
            group.add(inputs[name])
        self.add_lengths(lengths or {}, truncated or {})

    def add_measured(self, found: Mapping[str, Sequence[Measured]]) -> None:
        """Add what was found of every feature by input group: the same as adding the tensors."""
        for name, group in self._groups.items():
            group.add_measured(found[name])

    def add_lengths(self, lengths: Mapping[str, NDArray[np.int64]], truncated: Mapping[str, int]) -> None:
        """Add list lengths before truncation by collection, [n], and objects dropped: see `add_inputs`."""
        for name, counts in lengths.items():
            self._add_lengths(name, np.bincount(np.minimum(counts, MAX_LENGTH)))
        for name, dropped in truncated.items():
            self._truncated[name] = self._truncated.get(name, 0) + dropped

    def add_sample(self, name: str, counts: SampleCounts) -> None:
        """Add to the counts of a sample."""
        self._samples[name] = self._samples.get(name, SampleCounts()).merge(counts)

    def add_class(self, name: str, sums: WeightSums) -> None:
        """Add to the training events of a class."""
        self._classes[name] = self._classes.get(name, WeightSums()).merge(sums)

    def add_targets(self, found: Sequence[Measured]) -> None:
        """Add what was found of every target in some events."""
        self._targets.add_measured(found)

    def add_target_weights(self, sums: WeightSums) -> None:
        """Add to the events of `add_targets` and their weights."""
        self._target_weights = self._target_weights.merge(sums)

    def merge(self, other: StatisticsAccumulator) -> None:
        """Add what another one has seen, as if it had come after what is here; the other stays as it is."""
        self._targets.merge(other._targets)
        self._target_weights = self._target_weights.merge(other._target_weights)
        for name, group in self._groups.items():
            group.merge(other._groups[name])
        for name, histogram in other._lengths.items():
            self._add_lengths(name, histogram)
        for name, dropped in other._truncated.items():
            self._truncated[name] = self._truncated.get(name, 0) + dropped
        for name, counts in other._samples.items():
            self.add_sample(name, counts)
        for name, sums in other._classes.items():
            self.add_class(name, sums)

    def seal(self) -> Statistics:
        """All figures so far, frozen; more may be added afterwards."""
        return Statistics(
            groups={name: group.seal() for name, group in self._groups.items()},
            lengths={name: tuple(histogram.tolist()) for name, histogram in self._lengths.items()},
            truncated=dict(self._truncated),
            samples=dict(self._samples),
            classes=dict(self._classes),
            targets=self._sealed_targets(),
        )

    def _sealed_targets(self) -> TargetStatistics | msgspec.UnsetType:
        if not self._target_names:
            return msgspec.UNSET
        features = dict(zip(self._target_names, self._targets.seal(), strict=True))
        return TargetStatistics(features, self._target_weights)

    def _add_lengths(self, name: str, histogram: Sequence[int] | NDArray[np.int64]) -> None:
        there = self._lengths.get(name, np.zeros(0, dtype=np.int64))
        total = np.zeros(max(len(there), len(histogram)), dtype=np.int64)
        total[: len(there)] += there
        total[: len(histogram)] += histogram
        self._lengths[name] = total
