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

from mlaas4hep.backends.protocol import EventWeights, Labels, Table
from mlaas4hep.spec.scaling import Tensors

PAGE_BYTES = 16 * 2**20


class EventBatch(Protocol):
    """Events side by side: raw input groups, labels [n], weights [n]."""

    @property
    def inputs(self) -> Tensors:
        """By group, NaN where nothing is."""

    @property
    def labels(self) -> Labels:
        """Positions of the classes."""

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
    """

    path: Path
    width: int
    events: int
    page_bytes: int = PAGE_BYTES

    def __len__(self) -> int:
        return self.events

    def __iter__(self) -> Iterator[Table]:
        record = record_type(self.width)
        size = max(1, self.page_bytes // record.itemsize)
        for start in range(0, self.events, size):
            rows = np.fromfile(self.path, record, min(size, self.events - start), offset=start * record.itemsize)
            # A new array each time: xgboost tells pages apart by the object.
            yield Table(np.ascontiguousarray(rows["x"]), rows["label"].astype(np.int64), rows["weight"].copy())


def record_type(width: int) -> np.dtype[Any]:
    """One event as it lies in the file."""
    return np.dtype([("x", np.float32, (width,)), ("label", np.int32), ("weight", np.float64)])


def write_spool(
    path: Path,
    batches: Iterable[EventBatch],
    *,
    view: Callable[[Tensors], NDArray[np.float32]],
    width: int,
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
    page_bytes
        Of the rows that are later read at once.
    update
        Told the number of events of each batch.

    Raises
    ------
    OSError
        The disk is full.
    """
    record, events = record_type(width), 0
    with path.open("wb") as file:
        for batch in batches:
            rows = np.empty(len(batch.labels), record)
            rows["x"], rows["label"], rows["weight"] = view(batch.inputs), batch.labels, batch.weights
            rows.tofile(file)
            events += len(rows)
            update(len(rows))
    return Spool(path, width, events, page_bytes)
