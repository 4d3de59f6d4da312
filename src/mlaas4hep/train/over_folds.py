"""Figures of several folds side by side: their mean, how far they lie apart, and the areas of out-of-fold scores.

Invariant: a figure that a fold lacks makes the mean null; it is never one of fewer folds.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

from mlaas4hep.errors import DataError
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.train.figures import positives_of
from mlaas4hep.train.kept import ScoredPart
from mlaas4hep.train.metrics import Auc, mean_auc, weighted_auc


class OverFolds(msgspec.Struct, frozen=True):
    """A figure of each fold.

    Parameters
    ----------
    values
        Null where a fold gives none.
    mean
        Of those that there are; null where a fold lacks it.
    spread
        Their standard deviation: how much a model depends on the events that it is given.
    error
        Of the mean, ``spread / sqrt(k)``. Two folds share most of their training events, so it is a guide.
    """

    values: tuple[float | None, ...]
    mean: float | None
    spread: float | None
    error: float | None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> OverFolds:
        """Of the folds in order.

        Examples
        --------
        >>> OverFolds.of([0.9, 0.8]).mean, OverFolds.of([0.9, None]).mean
        (0.8500000000000001, None)
        """
        listed = tuple(values)
        known = [one for one in listed if one is not None]
        if len(known) < len(listed) or len(known) < 2:
            return cls(listed, None, None, None)
        spread = float(np.std(known, ddof=1))
        return cls(listed, float(np.mean(known)), spread, spread / len(known) ** 0.5)


class FoldAreas(msgspec.Struct, frozen=True):
    """Areas of the held-out events fold by fold.

    Parameters
    ----------
    events
        Of each fold.
    errors
        Statistical uncertainty of each area, by the influence of single events.
    areas
        By fold, with their mean. Scores of two models need not mean the same, so the mean of the areas may lie above
        the area of all out-of-fold scores together; both are given.
    """

    events: tuple[int, ...]
    errors: tuple[float | None, ...]
    areas: OverFolds


def fold_areas(part: ScoredPart, spec: ModelSpec) -> FoldAreas | None:
    """Of out-of-fold scores; None of those that are not in folds, and of a regression."""
    if part.folds is None or spec.task == "regression":
        return None
    sizes = np.bincount(part.folds, minlength=spec.features.split.num_folds).tolist()
    found = [_area(part, spec, fold) for fold in range(len(sizes))]
    areas = OverFolds.of(None if one is None else one.value for one in found)
    return FoldAreas(tuple(sizes), tuple(None if one is None else one.error for one in found), areas)


def _area(part: ScoredPart, spec: ModelSpec, fold: int) -> Auc | None:
    own = part.folds == fold
    scores, labels, weights = part.judged.scores[own], part.judged.labels[own], part.judged.weights[own]
    try:
        if scores.shape[1] == 1:
            return weighted_auc(scores[:, 0], labels == positives_of(spec)[0], weights)
        return mean_auc(scores, labels, weights)
    except DataError:
        return None  # a class without events or weight in this fold
