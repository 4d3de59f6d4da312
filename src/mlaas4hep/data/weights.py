"""Weights of events: physics weights for every figure that is reported, training weights for what learns.

The physics weight is the generator's weight times xsec x luminosity / sum of weights; the training weight scales it
class by class. Invariant: evaluation never sees a training weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.config import Sample
from mlaas4hep.data.locate import Located
from mlaas4hep.data.source import open_source
from mlaas4hep.errors import DataError
from mlaas4hep.spec.features import FeatureSpec
from mlaas4hep.spec.statistics import Statistics, WeightSums

_PB_PER_FB = 1000.0
Kind = Literal["training", "physics"]


class ClassSums(Protocol):
    """What the scan knows of a class's training part."""

    @property
    def events(self) -> int:
        """Number of events."""

    @property
    def sum_weights(self) -> float:
        """Sum of their physics weights."""


def normalisation(sample: Sample, files: Sequence[Located], *, lumi_fb: float) -> float:
    """Factor from generator weights to expected events: cross-section x luminosity / sum of weights; 1 without one.

    Parameters
    ----------
    sample
        With ``xsec_pb`` and ``sum_of_weights``; the latter is read from all files where it names a branch.
    files
        Of the sample.
    lumi_fb
        Integrated luminosity in fb^-1.

    Raises
    ------
    DataError
        The branch is not there, or the sum is not a positive number.
    """
    if sample.xsec_pb is None or sample.sum_of_weights is None:
        return 1.0
    asked = sample.sum_of_weights
    total = sum(_sum_branch(file, asked) for file in files) if isinstance(asked, str) else asked
    if not (np.isfinite(total) and total > 0):
        raise DataError(f"sum_of_weights '{asked}' gives {total}; a positive number is needed to normalise")
    return sample.xsec_pb * lumi_fb * _PB_PER_FB / total


def _sum_branch(file: Located, asked: str) -> float:
    tree, _, branch = asked.rpartition("/")
    with open_source(file.path, tree, replicas=file.replicas) as source:
        column = source.read([branch], 0, source.num_entries)[branch]
    if not isinstance(column, np.ndarray):
        raise DataError(f"{file.path}: sum_of_weights '{asked}' is jagged; it must hold one number an entry")
    return float(np.sum(column, dtype=np.float64))


def class_factors(
    classes: Sequence[str], features: FeatureSpec, kind: Kind, statistics: Statistics | None
) -> NDArray[np.float64] | None:
    """By what the physics weight of an event is multiplied, by label, float64 [C]; None where all events weigh 1.

    Parameters
    ----------
    classes
        In label order; without them, as of a regression, there is one factor for all events.
    features
        Say what training weights are.
    kind
        Which weights are asked for.
    statistics
        Of the scan.

    Raises
    ------
    DataError
        Balanced training weights without statistics, or what `require_classes` and `training_factors` refuse.
    """
    ones = np.ones(max(len(classes), 1))
    training = features.weights.training
    if kind == "physics":
        return ones
    if training == "balanced" and statistics is None:
        raise DataError("balanced training weights need the statistics of a scan")
    sums = {} if statistics is None else training_sums(statistics, classes)
    require_classes(sums)
    return ones if training == "physics" else training_factors(training, sums)


def training_sums(statistics: Statistics, classes: Sequence[str]) -> dict[str, WeightSums]:
    """Events and weights of the training part, in label order; of a regression all together."""
    if statistics.targets:
        return {"all": statistics.targets.weights}
    return {name: statistics.classes[name] for name in classes}


def training_factors(
    training: Literal["balanced", "physics", "none"], classes: Mapping[str, ClassSums]
) -> NDArray[np.float64] | None:
    """By what the physics weight of each class is multiplied for training, float64 [C]; None where all weigh 1.

    Parameters
    ----------
    training
        ``balanced``: every class has the same sum of weights over the training part, and the mean weight is 1.
    classes
        Sums over the training part, in label order.

    Raises
    ------
    DataError
        A class has no training events, or weights that do not add up to a positive number.
    """
    if training == "none":
        return None
    if training == "physics":
        return np.ones(len(classes))
    events = sum(one.events for one in classes.values())
    for name, one in classes.items():
        if not one.sum_weights > 0:
            raise DataError(
                f"class '{name}': the weights of its {one.events} training events add up to {one.sum_weights:g}; "
                "balanced training weights need a positive sum (training: physics or none do not)"
            )
    return np.array([events / (len(classes) * one.sum_weights) for one in classes.values()])


def require_classes(classes: Mapping[str, ClassSums]) -> None:
    """Refuse to go on where a class has no event in the training part: one class alone teaches nothing.

    Raises
    ------
    DataError
        Names the classes that are empty and those that are not.
    """
    empty = [name for name, one in classes.items() if one.events == 0]
    if empty:
        held = ", ".join(f"'{name}' {one.events}" for name, one in classes.items())
        raise DataError(
            f"no training events of {', '.join(repr(name) for name in empty)} are left after selection and split "
            f"(training events: {held}); check preselection, labels and the selections of its samples"
        )
