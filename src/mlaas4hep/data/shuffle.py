"""Rows, and windows of rows in their final order.

Chunks arrive in reading order; `windows` collects them until a window of the sequence is complete and sorts its rows
by their keys. Invariant: a window holds exactly the rows whose positions lie in it, in an order that does not depend
on how they were cut into chunks.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.plan import Chunk

ENTRY = np.dtype([("file", np.int32), ("entry", np.int64)])


@dataclass
class Rows:
    """Events side by side, n of them.

    Parameters
    ----------
    inputs
        float32 by group, [n, F] or [n, K, F].
    labels
        int64 [n].
    weights
        float64 [n].
    entries
        Structured [n]: number of the file in the catalogue, entry in it.
    positions
        int64 [n]: place in the sequence of all entries.
    keys
        uint64 [n]: by what rows are sorted inside a window.
    """

    inputs: dict[str, NDArray[np.float32]]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    entries: NDArray[Any]
    positions: NDArray[np.int64]
    keys: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> Rows:
        """Rows by number, copied; ``ndarray.take`` is three times faster than an index in brackets."""
        return Rows(
            {name: one.take(index, axis=0) for name, one in self.inputs.items()},
            self.labels.take(index),
            self.weights.take(index),
            self.entries.take(index),
            self.positions.take(index),
            self.keys.take(index),
        )

    @classmethod
    def concat(cls, parts: list[Rows]) -> Rows:
        """Join rows; takes the inputs out of ``parts`` one group at a time, so that they are not held twice."""
        if len(parts) == 1:
            return parts[0]
        names = list(parts[0].inputs)
        inputs = {name: np.concatenate([one.inputs.pop(name) for one in parts]) for name in names}
        return cls(
            inputs,
            np.concatenate([one.labels for one in parts]),
            np.concatenate([one.weights for one in parts]),
            np.concatenate([one.entries for one in parts]),
            np.concatenate([one.positions for one in parts]),
            np.concatenate([one.keys for one in parts]),
        )


@dataclass(frozen=True)
class Window:
    """One complete window: its number, its rows as they were read, and their order, int64 [n]."""

    number: int
    rows: Rows
    order: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.order)

    def pick(self, start: int, stop: int) -> Rows:
        """Rows ``start`` to ``stop`` of the order, copied out."""
        return self.rows.take(self.order[start:stop])


def windows(arrivals: Iterable[tuple[Chunk, Rows]], size: int, *, first: int = 0) -> Generator[Window, None, None]:
    """Windows in order, each as soon as it is complete.

    Parameters
    ----------
    arrivals
        Chunks in reading order with the rows that came out of them.
    size
        W, in entries before selection.
    first
        Number of the first window; rows that belong before it are dropped.
    """
    held: list[Rows] = []
    number = first
    for chunk, rows in arrivals:
        if len(rows):
            held.append(_from(rows, first * size))
        del rows
        while number < chunk.complete:
            window, held = _split(held, (number + 1) * size)
            if window:
                yield _in_order(number, window)
            del window
            number += 1


def _from(rows: Rows, position: int) -> Rows:
    if rows.positions.min() >= position:
        return rows
    return rows.take(np.flatnonzero(rows.positions >= position))


def _split(held: list[Rows], position: int) -> tuple[list[Rows], list[Rows]]:
    """Rows before a position, and those from it on."""
    before, after = [], []
    for rows in held:
        if not len(rows) or rows.positions.max() < position:
            before.append(rows)
        elif rows.positions.min() >= position:
            after.append(rows)
        else:
            inside = rows.positions < position
            before.append(rows.take(np.flatnonzero(inside)))
            after.append(rows.take(np.flatnonzero(~inside)))
    return [rows for rows in before if len(rows)], after


def _in_order(number: int, parts: list[Rows]) -> Window:
    rows = Rows.concat(parts)
    parts.clear()
    return Window(number, rows, np.argsort(rows.keys, kind="stable"))
