"""Weights of events as learners see them: refused where a model cannot take them, otherwise ratios only.

Invariant: multiplying all weights of a batch or a table by one positive number changes nothing that is learned, so that
cross-sections of 1e-6 pb and of 800 pb train alike.
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.backends.protocol import EventWeights
from mlaas4hep.errors import DataError, ModelError


def require_finite(weights: EventWeights) -> None:
    """`DataError` where a weight is NaN or infinite."""
    bad = ~np.isfinite(weights)
    if bad.any():
        raise DataError(f"{int(bad.sum())} of {len(weights)} event weights are NaN or infinite; see weights.event")


def require_positive(weights: EventWeights, *, model: str) -> None:
    """`ModelError` where a weight is negative."""
    require_finite(weights)
    negative = int((weights < 0).sum())
    if negative:
        refuse_negative(model, negative=negative, events=len(weights))


def refuse_negative(model: str, *, negative: int, events: int) -> NoReturn:
    """The `ModelError` of a model that cannot take negative weights, with what to do instead."""
    raise ModelError(
        f"model {model} cannot learn from negative event weights, and {negative} of {events} events have one. Instead: "
        "a network that takes them (model: {name: mlp, backend: torch}); equal weights for learning (weights: "
        "{training: none}), while evaluation keeps the signed ones; or absolute weights (weights: {event: abs(...)}), "
        "which evaluation then uses too"
    )


def relative(weights: EventWeights) -> NDArray[np.float64]:
    """Weights over their mean; zeros where all are zero."""
    mean = float(weights.mean()) if len(weights) else 0.0
    return weights / mean if mean > 0 else np.zeros_like(weights)
