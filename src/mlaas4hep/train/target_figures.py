"""Figures of the parts of a regression, target by target, in the targets' own units and with physics weights.

Used by `mlaas4hep.train.figures` where a contract has targets. Invariant: a figure that cannot be given is null, with
the reason beside it.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import DataError
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.targets import TargetScaler
from mlaas4hep.train.loop import Judged
from mlaas4hep.train.residuals import TargetFigures, target_figures


class TargetPartFigures(msgspec.Struct, frozen=True):
    """Figures of one part.

    Parameters
    ----------
    events, negative
        Events judged, and those of negative weight.
    sum_weights
        Of their physics weights.
    loss
        Mean squared error in standard units, weighted as in training, whatever loss was learned.
    targets
        By target.
    reason
        Why there are none.
    """

    events: int
    negative: int
    sum_weights: float
    loss: float | None
    targets: dict[str, TargetFigures]
    reason: str | None = None


def target_part(judged: Judged, spec: ModelSpec) -> TargetPartFigures:
    """Figures of a part whose predictions are known."""
    events, negative, total = len(judged.weights), int((judged.weights < 0).sum()), float(judged.weights.sum())
    try:
        targets = {
            name: target_figures(judged.scores[:, column], wanted_of(judged)[:, column], judged.weights)
            for column, name in enumerate(spec.score_names)
        }
        loss = _standard(judged, spec).loss()
    except DataError as error:
        return TargetPartFigures(events, negative, total, None, {}, str(error))
    return TargetPartFigures(events, negative, total, loss, targets)


def wanted_of(judged: Judged) -> NDArray[np.float32]:
    """The true values [N, T] of a regression.

    Raises
    ------
    DataError
        There are none.
    """
    if judged.targets is None:
        raise DataError("the events were kept without targets")
    return judged.targets


def _standard(judged: Judged, spec: ModelSpec) -> Judged:
    """The same in standard units, with the weights of the training: one factor for all changes no mean."""
    scaler = TargetScaler(spec.targets)
    equal = spec.features.weights.training == "none"
    weights = np.ones(len(judged.weights)) if equal else judged.weights
    return Judged(scaler.standard(judged.scores), judged.labels, weights, scaler.standard(wanted_of(judged)))
