"""Models that learn in memory: refused with the number before anything is read, else their part is collected.

Invariant: a table is allocated once, in the type that the model computes with; nothing is held twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from mlaas4hep.backends.protocol import InMemoryLearner, Table
from mlaas4hep.backends.spool import EventBatch
from mlaas4hep.errors import DataError, ModelError


def require_memory(learner: InMemoryLearner, *, rows: int, validation_rows: int, max_memory: int, title: str) -> int:
    """Bytes that the learner will take.

    Raises
    ------
    ModelError
        They are more than ``max_memory``.
    """
    needed = learner.memory_estimate(rows, validation_rows)
    if needed > max_memory:
        fits = int((rows + validation_rows) * max_memory / needed)
        raise ModelError(
            f"model {title} holds all events in memory: {rows + validation_rows:,} need about {size_text(needed)}, and "
            f"training.max_memory allows {size_text(max_memory)}. Raise it, take --max-events (about {fits:,} in the "
            "training and validation parts fit), or a model that streams, such as mlp"
        )
    return needed


def size_text(size: float) -> str:
    """Bytes for people: ``1.5 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def collect(
    learner: InMemoryLearner,
    batches: Iterable[EventBatch],
    *,
    rows: int,
    update: Callable[[int], None] = lambda _: None,
) -> Table:
    """A part of the events as the learner's table.

    Parameters
    ----------
    learner
        Says what a row is.
    batches
        The part, once.
    rows
        Its number of events, known from the scan.
    update
        Told the number of events of each batch.

    Raises
    ------
    DataError
        There are more or fewer events than the scan found: the files have changed since.
    """
    weights = np.empty(rows, np.float64)
    x = truth = None
    done = 0
    for batch in batches:
        view = learner.view(batch.inputs)
        stop = done + len(batch.truth)
        if stop > rows:
            raise DataError(f"more than the {rows:,} events that the scan found; have the files changed?")
        if x is None or truth is None:
            x = np.empty((rows, view.shape[1]), learner.dtype)
            truth = np.empty((rows, *batch.truth.shape[1:]), batch.truth.dtype)
        x[done:stop], truth[done:stop], weights[done:stop] = view, batch.truth, batch.weights
        done = stop
        update(len(batch.truth))
    if done != rows:
        raise DataError(f"{done:,} events instead of the {rows:,} that the scan found; have the files changed?")
    if x is None or truth is None:
        return Table(np.empty((0, 0), learner.dtype), np.empty(0, np.int64), weights)
    return Table(x, truth, weights)
