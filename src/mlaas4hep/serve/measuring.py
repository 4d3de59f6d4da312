"""How long a model takes, tried when it is loaded: what a queue expects before the first question came.

Invariant: measuring changes no answer, and a model that cannot be tried is served all the same.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas4hep.errors import RequestError

if TYPE_CHECKING:
    from mlaas4hep.serve.model import ServedModel

# How long measuring a model may take when it is loaded, and how many rows the larger batch has.
MEASURE_S, MEASURED_ROWS = 0.05, 64
# Of a model that cannot be measured: slow enough for a thread of its own.
UNKNOWN_S = 0.01


def measured(make: Callable[..., ServedModel], **fields: Any) -> ServedModel:
    """A model with the times of its runs: a few runs of one row, and of more where they are quick.

    The least of a few, since the first is never warm and any may be disturbed. Text and open sizes cannot be made up,
    and a graph may refuse zeros: such a model counts as slow until it was asked.
    """
    model = make(**fields, call_s=UNKNOWN_S, row_s=0.0)
    if any(one.datatype == "BYTES" or any(size < 0 for size in one.shape) for one in model.inputs):
        return model
    try:
        call_s = _seconds(model, 1)
    except RequestError:
        return model
    row_s = 0.0
    if model.batches:
        rows = min(MEASURED_ROWS, model.max_rows)
        quick = rows > 1 and rows * call_s < MEASURE_S
        row_s = max(_seconds(model, rows) - call_s, 0.0) / (rows - 1) if quick else call_s
    return make(**fields, call_s=call_s, row_s=row_s)


def _seconds(model: ServedModel, rows: int) -> float:
    heads = (rows,) if model.batches else ()
    zeros = {one.name: np.zeros((*heads, *one.shape), one.dtype) for one in model.inputs}
    first = timeit.timeit(partial(model.execute, zeros), number=1)
    if first > MEASURE_S:
        return first
    return min(first, *timeit.repeat(partial(model.execute, zeros), number=1, repeat=4))
