"""Targets of a regression in standard units: minus a mean, over a width, both of the training part.

Models learn targets in standard units, whatever their own are; the served graph puts them back
(`mlaas4hep.graph.merge`). Invariant: `TargetScaler.restored` gives the bits that the graph gives for the same standard
values: float64 inside, rounded once to float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.spec.statistics import FeatureStatistics

Targets = NDArray[np.float32]
Floats = NDArray[np.float64]


class TargetScaling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Constants of one target: ``standard = (value - offset) / scale``.

    Parameters
    ----------
    name
        Of the target.
    offset, scale
        Mean and standard deviation over the training part, in the target's own units; ``scale`` is above 0.
    """

    name: str
    offset: float = 0.0
    scale: float = 1.0


def target_scaling(features: Mapping[str, FeatureStatistics]) -> tuple[TargetScaling, ...]:
    """The constants of targets, in order, from their figures; a target that never changes is only moved."""
    return tuple(TargetScaling(name, one.mean or 0.0, one.std or 1.0) for name, one in features.items())


class TargetScaler:
    """Targets to standard units and back.

    Parameters
    ----------
    targets
        Constants of T targets, in the order of the columns.

    Examples
    --------
    >>> scaler = TargetScaler([TargetScaling("mass", 100.0, 20.0)])
    >>> scaler.standard(np.array([[120.0], [90.0]], np.float32)).ravel().tolist()
    [1.0, -0.5]
    >>> scaler.restored(np.array([[1.0], [-0.5]], np.float32)).ravel().tolist()
    [120.0, 90.0]
    """

    def __init__(self, targets: Sequence[TargetScaling]) -> None:
        self.offset: Floats = np.array([one.offset for one in targets], np.float64)
        self.scale: Floats = np.array([one.scale for one in targets], np.float64)

    def standard(self, values: Targets) -> Targets:
        """Targets [N, T] in their own units to standard units."""
        return ((values.astype(np.float64) - self.offset) / self.scale).astype(np.float32)

    def restored(self, values: NDArray[np.floating]) -> Targets:
        """Predictions [N, T] in standard units to those of the targets."""
        return (values.astype(np.float64) * self.scale + self.offset).astype(np.float32)
