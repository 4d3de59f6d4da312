"""Machine Learning as a Service for High Energy Physics: from ROOT files to a served model.

What analysis code needs is here; everything else is imported from its own module. Invariant: importing the package
imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlaas4hep.score.scorer import Scorer

__all__ = ["Scorer"]


def __getattr__(name: str) -> Any:
    if name == "Scorer":
        from mlaas4hep.score.scorer import Scorer

        return Scorer
    raise AttributeError(f"module 'mlaas4hep' has no attribute '{name}'")
