"""What one pass over the training part found: the figures of every feature, of lists, samples and classes.

`accumulate` gathers them over the chunks of a plan; sealed, they are part of the contract and of its hash, so they
are plain frozen values with an exact round trip through JSON. Invariant: counts, extremes, mean and standard
deviation are the same bits for any grouping of the events; quantiles are within 0.1 % in rank (law 9).
"""

from __future__ import annotations

import math
from fractions import Fraction

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import DataError

RANKS = (0.001, 0.005, 0.01, 0.05, 0.16, 0.25, 0.5, 0.75, 0.84, 0.95, 0.99, 0.995, 0.999)
"""Ranks whose quantiles are kept."""

MAX_LENGTH = 1024
"""Longest list that is counted by itself; the last bin of a histogram of lengths holds all longer ones too."""


_MAX_WEIGHT = 1e100


class FeatureStatistics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Figures of one feature over all slots that exist; figures of no value at all are None.

    Parameters
    ----------
    count
        Finite values; all other figures but `missing` and `infinite` are of these.
    missing
        NaN in slots that exist.
    infinite
        Infinities of either sign.
    minimum, maximum
        Extremes.
    mean, std
        Mean, and square root of the variance (divided by the number of values).
    quantiles
        Value by rank of `RANKS`, written as in ``"0.5"``; each is one of the values.
    """

    count: int = 0
    missing: int = 0
    infinite: int = 0
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None
    quantiles: dict[str, float] = {}

    def quantile(self, rank: float) -> float | None:
        """Quantile at one of `RANKS`, or at 0 and 1 the extremes; None of no values.

        Raises
        ------
        ValueError
            Another rank: what is not kept cannot be told.
        """
        if rank in (0, 1):
            return self.maximum if rank else self.minimum
        if rank not in RANKS:
            raise ValueError(f"quantile {rank} is not kept; kept are {', '.join(map(str, RANKS))}")
        return self.quantiles.get(str(rank))


class WeightSums(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Events with the sums of their weights and of the squares, whose root is the statistical uncertainty.

    Parameters
    ----------
    events
        Number of events.
    negative
        Those of negative weight.
    sum_weights, sum_weights2
        Sums of weights and of squared weights.
    """

    events: int = 0
    negative: int = 0
    sum_weights: float = 0.0
    sum_weights2: float = 0.0

    @classmethod
    def of(cls, weights: NDArray[np.float64]) -> WeightSums:
        """Sums of weights [n], correctly rounded.

        Raises
        ------
        DataError
            A weight is NaN, infinite or so large that sums of squares overflow.
        """
        values = np.asarray(weights, dtype=np.float64)
        usable = np.abs(values) < _MAX_WEIGHT
        if not usable.all():
            bad = int(np.flatnonzero(~usable)[0])
            raise DataError(f"event weight {values[bad]} (event {bad} of {len(values)} given) cannot be summed")
        return cls(
            events=len(values),
            negative=int(np.count_nonzero(values < 0)),
            sum_weights=_exact_sum(values),
            sum_weights2=_exact_sum(values * values),
        )

    def merge(self, other: WeightSums) -> WeightSums:
        """Both together."""
        return WeightSums(
            self.events + other.events,
            self.negative + other.negative,
            self.sum_weights + other.sum_weights,
            self.sum_weights2 + other.sum_weights2,
        )


def _exact_sum(values: NDArray[np.float64]) -> float:
    """Rounded once; values that are all the same, as weights mostly are, need no adding up."""
    if len(values) and np.all(values == values[0]):
        return float(Fraction(float(values[0])) * len(values))
    return math.fsum(values.tolist())


class SampleCounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the events of one sample went.

    Parameters
    ----------
    read
        Entries read.
    selected
        Those that passed preselection and the sample's selection, with the sums of their physics weights.
    train, validation, test
        Selected events by part.
    classes
        Selected events by class, where events of a sample are told apart one by one; else absent.
    """

    read: int = 0
    selected: WeightSums = WeightSums()
    train: int = 0
    validation: int = 0
    test: int = 0
    # Left out of the JSON where there is nothing: contracts older than this field keep their hashes.
    classes: dict[str, WeightSums] | msgspec.UnsetType = msgspec.UNSET

    @property
    def by_class(self) -> dict[str, WeightSums]:
        """Selected events by class; empty where all have one class."""
        return self.classes or {}

    def merge(self, other: SampleCounts) -> SampleCounts:
        """Both together."""
        mine, others = self.by_class, other.by_class
        nothing = WeightSums()
        return SampleCounts(
            self.read + other.read,
            self.selected.merge(other.selected),
            self.train + other.train,
            self.validation + other.validation,
            self.test + other.test,
            {name: mine.get(name, nothing).merge(others.get(name, nothing)) for name in {**mine, **others}}
            or msgspec.UNSET,
        )


class TargetStatistics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the targets of a regression are like over the training part.

    Parameters
    ----------
    features
        Figures by target; mean and standard deviation are what a model scales it with.
    weights
        Events and sums of their physics weights.
    """

    features: dict[str, FeatureStatistics] = {}
    weights: WeightSums = WeightSums()


class Statistics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that one pass found; made by `StatisticsAccumulator.seal`.

    Parameters
    ----------
    groups
        By input group, one entry a feature, in the order of its variables.
    lengths
        By collection, number of events with 0, 1, 2, ... objects before truncation; the last bin, if it is number
        `MAX_LENGTH`, holds all longer lists too.
    truncated
        By collection, number of objects dropped because a list is longer than the model sees.
    samples
        By sample.
    classes
        By class: events of the training part and sums of their physics weights.
    targets
        Of a regression; else absent.
    """

    groups: dict[str, tuple[FeatureStatistics, ...]] = {}
    lengths: dict[str, tuple[int, ...]] = {}
    truncated: dict[str, int] = {}
    samples: dict[str, SampleCounts] = {}
    classes: dict[str, WeightSums] = {}
    # Left out of the JSON where there is nothing, as above.
    targets: TargetStatistics | msgspec.UnsetType = msgspec.UNSET
