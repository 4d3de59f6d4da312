"""All figures of the evaluation of a regression, computed from the predictions that were kept.

Nothing here opens a file of events. Invariant: a figure that cannot be given is null; every figure on the page of a run
stands in this value.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mlaas4hep.errors import DataError
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.train.evaluation import Importances, importances
from mlaas4hep.train.kept import Kept
from mlaas4hep.train.loop import Judged
from mlaas4hep.train.residuals import TargetBin, TargetFigures, target_bins
from mlaas4hep.train.target_figures import TargetPartFigures, target_part, wanted_of


class TargetEvaluation(msgspec.Struct, frozen=True):
    """Figures of a run that learned targets.

    Parameters
    ----------
    parts
        By part, each with its figures by target.
    bins
        By target: bias and resolution in bins of the true value, test part.
    importance
        Falls of R2, the mean over the targets, by permuted input; null where the test part gives none.
    left_out
        Inputs that are not pictured.
    model_sha256
        Of the graph that gave the predictions.
    reason
        Why there are no figures of the test part.
    """

    parts: dict[str, TargetPartFigures]
    bins: dict[str, tuple[TargetBin, ...]]
    importance: Importances | None
    left_out: int
    model_sha256: str
    reason: str | None = None

    @property
    def test(self) -> dict[str, TargetFigures]:
        """Figures of the test part by target; empty where there are none."""
        part = self.parts.get("test")
        return part.targets if part else {}

    def plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        figures: dict[str, Any] = msgspec.to_builtins(self)
        return figures


def target_evaluation(kept: Kept, spec: ModelSpec, *, model_sha256: str) -> TargetEvaluation:
    """Compute it.

    Parameters
    ----------
    kept
        Predictions by part.
    spec
        The contract: names of the targets and the constants of their standard units.
    model_sha256
        Of the graph that gave the predictions.
    """
    parts = {part: target_part(one.judged, spec) for part, one in kept.parts.items()}
    test = kept.parts.get("test")
    return TargetEvaluation(
        parts=parts,
        bins=_bins(test.judged, spec) if test else {},
        importance=importances(kept.importance) if kept.importance else None,
        left_out=kept.inputs.left_out,
        model_sha256=model_sha256,
        reason=parts["test"].reason if "test" in parts else "the split keeps no test part",
    )


def _bins(test: Judged, spec: ModelSpec) -> dict[str, tuple[TargetBin, ...]]:
    true = wanted_of(test)
    found = {}
    for column, name in enumerate(spec.score_names):
        try:
            found[name] = target_bins(test.scores[:, column], true[:, column], test.weights)
        except DataError:
            found[name] = ()  # predictions that are not finite: the parts say so
    return found
