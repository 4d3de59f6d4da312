"""Events on disk, in pages that fit memory one by one: for learners that read their training part many times over.

Files of an experiment are slow to read (decompression, selection, derived variables), so they are read once; the flat
rows lie in one plain file until the learner is done. Invariant: order is that in which the events came, and where a
page begins is a function of the width alone, so that what is learned does not depend on the batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.backends.protocol import EventWeights, Table, Truth
from mlaas4hep.spec.scaling import Tensors

PAGE_BYTES = 16 * 2**20


class EventBatch(Protocol):
    """Events side by side: raw input groups, truth [n] or [n, T], weights [n]."""

    @property
    def inputs(self) -> Tensors:
        """By group, NaN where nothing is."""

    @property
    def truth(self) -> Truth:
        """Positions of the classes, int64 [n]; of a regression targets in standard units, float32 [n, T]."""

    @property
    def weights(self) -> EventWeights:
        """Signed."""


@dataclass(frozen=True, slots=True)
class Spool:
    """A file of rows that `write_spool` wrote; iterating reads it page by page, as often as one likes.

    Parameters
    ----------
    path
        The file.
    width
        W, length of a row.
    events
        Rows.
    page_bytes
        Of the rows of a page.
    targets
        T of a regression; 0 where there are labels.
    """

    path: Path
    width: int
    events: int
    page_bytes: int = PAGE_BYTES
    targets: int = 0

    def __len__(self) -> int:
        return self.events

    def __iter__(self) -> Iterator[Table]:
        record = record_type(self.width, self.targets)
        size = max(1, self.page_bytes // record.itemsize)
        for start in range(0, self.events, size):
            rows = np.fromfile(self.path, record, min(size, self.events - start), offset=start * record.itemsize)
            # A new array each time: xgboost tells pages apart by the object.
            truth = rows["truth"].copy() if self.targets else rows["truth"].astype(np.int64)
            yield Table(np.ascontiguousarray(rows["x"]), truth, rows["weight"].copy())


def record_type(width: int, targets: int = 0) -> np.dtype[Any]:
    """One event as it lies in the file; with so many ``targets`` where it is one of a regression."""
    truth = ("truth", np.float32, (targets,)) if targets else ("truth", np.int32)
    return np.dtype([("x", np.float32, (width,)), truth, ("weight", np.float64)])


def write_spool(
    path: Path,
    batches: Iterable[EventBatch],
    *,
    view: Callable[[Tensors], NDArray[np.float32]],
    width: int,
    targets: int = 0,
    page_bytes: int = PAGE_BYTES,
    update: Callable[[int], None] = lambda _: None,
) -> Spool:
    """Write a part of the events to a file.

    Parameters
    ----------
    path
        Is overwritten.
    batches
        The part, once.
    view
        From input groups to rows [n, W].
    width
        W.
    targets
        T of a regression.
    page_bytes
        Of the rows that are later read at once.
    update
        Told the number of events of each batch.

    Raises
    ------
    OSError
        The disk is full.
    """
    record, events = record_type(width, targets), 0
    with path.open("wb") as file:
        for batch in batches:
            rows = np.empty(len(batch.truth), record)
            rows["x"], rows["truth"], rows["weight"] = view(batch.inputs), batch.truth, batch.weights
            rows.tofile(file)
            events += len(rows)
            update(len(rows))
    return Spool(path, width, events, page_bytes, targets)
