"""Events with lists in their true lengths: neither cut nor padded, for models that want them so.

They go through the same windows as rows do: a thread packs what it read (lists sorted as declared), notes where each
event lies, and a window is gathered batch by batch. Invariant: the same events in the same order as the padded stream,
and padding a list gives the bits of the padded one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.reads import ReadColumns
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.spec.features import FeatureSpec
from mlaas4hep.spec.padding import Collection, pad


@dataclass(frozen=True)
class Lists:
    """One collection of n events: a list of objects an event.

    Parameters
    ----------
    offsets
        int64 [n + 1], from 0: event i holds the objects ``offsets[i]`` to ``offsets[i + 1]`` (excluded).
    values
        float32 [M, F]: the variables of each object, NaN where one is missing.
    """

    offsets: NDArray[np.int64]
    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> NDArray[np.int64]:
        """Objects of each event, int64 [n]."""
        return np.diff(self.offsets)

    def take(self, index: NDArray[np.int64]) -> Lists:
        """Some events, copied, in the order given."""
        counts = self.counts.take(index)
        offsets = _offsets(counts)
        source = np.arange(offsets[-1]) + np.repeat(self.offsets.take(index) - offsets[:-1], counts)
        return Lists(offsets, self.values.take(source, axis=0))

    def padded(self, length: int) -> NDArray[np.float32]:
        """Cut and filled up with NaN to a fixed length: float32 [n, length, F]."""
        return pad([Jagged(self.offsets, one) for one in self.values.T], length=length)

    @classmethod
    def concat(cls, parts: Sequence[Lists]) -> Lists:
        """Join events."""
        if len(parts) == 1:
            return parts[0]
        counts = np.concatenate([one.counts for one in parts])
        return cls(_offsets(counts), np.concatenate([one.values for one in parts]))


@dataclass
class RaggedEvents:
    """Events side by side, n of them.

    Parameters
    ----------
    event
        float32 [n, F], targets of a regression behind the variables.
    lists
        By collection, in the order of the contract.
    labels
        int64 [n].
    weights
        float64 [n].
    entries
        Structured [n], as of `mlaas4hep.data.rows.Rows`.
    """

    event: NDArray[np.float32]
    lists: list[Lists]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    entries: NDArray[Any]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> RaggedEvents:
        """Some events, copied, in the order given."""
        lists = [one.take(index) for one in self.lists]
        sides = self.labels.take(index), self.weights.take(index), self.entries.take(index)
        return RaggedEvents(self.event.take(index, axis=0), lists, *sides)

    @classmethod
    def concat(cls, parts: Sequence[RaggedEvents]) -> RaggedEvents:
        """Join events; the lists of the parts are given up one collection after the other, to save memory."""
        if len(parts) == 1:
            return parts[0]
        lists = [Lists.concat([one.lists.pop(0) for one in parts]) for _ in tuple(parts[0].lists)]
        return cls(
            np.concatenate([one.event for one in parts]),
            lists,
            np.concatenate([one.labels for one in parts]),
            np.concatenate([one.weights for one in parts]),
            np.concatenate([one.entries for one in parts]),
        )


@dataclass(frozen=True)
class RaggedBatch:
    """A batch of n events; the arrays are the consumer's own.

    Parameters
    ----------
    event
        float32 [n, F]: the group ``event``; F is 0 where there is none.
    collections
        By group, lists in their true lengths, sorted as declared.
    labels, weights, entries, targets
        As of `mlaas4hep.data.batches.Batch`.
    """

    event: NDArray[np.float32]
    collections: dict[str, Lists]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    entries: NDArray[Any]
    targets: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.labels)


def to_ragged_batch(features: FeatureSpec, targets: int) -> Callable[[list[RaggedEvents]], RaggedBatch]:
    """What joins events, with so many targets of a regression behind their flat variables, to a batch."""
    names = [group.name for group in features.inputs if group.length is not None]
    flat = sum(group.width for group in features.inputs if group.length is None)

    def join(parts: list[RaggedEvents]) -> RaggedBatch:
        events = RaggedEvents.concat(parts)
        collections = dict(zip(names, events.lists, strict=True))
        event, learned = events.event[:, :flat], events.event[:, flat:] if targets else None
        return RaggedBatch(event, collections, events.labels, events.weights, events.entries, learned)

    return join


class RaggedSlots:
    """Slots of a window whose events lie in the blocks they came in, until the window is first taken from.

    Parameters
    ----------
    capacity
        How many.
    """

    def __init__(self, capacity: int) -> None:
        self._block = np.zeros(capacity, dtype=np.int32)
        self._place = np.zeros(capacity, dtype=np.int32)
        self.begin()

    def begin(self) -> None:
        """See `mlaas4hep.data.rows.Slots.begin`; gives the memory of the events back."""
        self._blocks: dict[int, RaggedEvents] = {}
        self._numbers = count()  # what `next` gives is given once, to whatever thread
        self._joined: RaggedEvents | None = None
        self._first = np.zeros(0, dtype=np.int64)

    def put(self, slots: NDArray[np.int64], events: RaggedEvents) -> None:
        """See `mlaas4hep.data.rows.Slots.put`."""
        number = next(self._numbers)
        self._blocks[number] = events
        self._block[slots] = number
        self._place[slots] = np.arange(len(events))

    def take(self, index: slice | NDArray[np.int64]) -> RaggedEvents:
        """See `mlaas4hep.data.rows.Slots.take`."""
        if self._joined is None:
            blocks = [self._blocks.pop(number) for number in sorted(self._blocks)]
            self._first = _offsets([len(one) for one in blocks])
            self._joined = RaggedEvents.concat(blocks)
        return self._joined.take(self._first[self._block[index]] + self._place[index])


@dataclass(frozen=True)
class ReadRagged:
    """Events as they were read, on their way into a window of lists: see `mlaas4hep.data.reads.Read`."""

    columns: ReadColumns

    @property
    def entries(self) -> NDArray[np.int64]:
        """See `mlaas4hep.data.reads.Read.entries`."""
        return self.columns.entries

    @property
    def kept(self) -> NDArray[np.bool_]:
        """See `mlaas4hep.data.reads.Read.kept`."""
        return self.columns.kept

    def part(self, low: int, high: int) -> ReadRagged:
        """See `mlaas4hep.data.reads.Read.part`."""
        return ReadRagged(self.columns.part(low, high))

    def put(self, target: RaggedSlots, slots: NDArray[np.int64]) -> None:
        """See `mlaas4hep.data.reads.Read.put`."""
        target.put(slots[self.kept], self.packed())

    def packed(self) -> RaggedEvents:
        """See `mlaas4hep.data.reads.Read.packed`."""
        columns, kept = self.columns, self.kept
        event = np.empty((int(np.count_nonzero(kept)), len(columns.rows.flats)), dtype=np.float32)
        with np.errstate(over="ignore"):
            for channel, values in enumerate(columns.rows.flats):
                event[:, channel] = values[kept]
            lists = [_packed(one, kept) for one in columns.rows.collections]
        entries = columns.entry_names()
        return RaggedEvents(event, lists, columns.labels[kept], columns.weights[kept], entries)


def _packed(collection: Collection, kept: NDArray[np.bool_]) -> Lists:
    """The lists of the events that are kept, in their order, as one table of objects."""
    counts = collection.lists[0].counts
    objects = np.repeat(kept, counts)
    source = np.flatnonzero(objects) if collection.order is None else collection.order[objects]
    values = np.empty((len(source), len(collection.lists)), dtype=np.float32)
    for channel, column in enumerate(collection.lists):
        values[:, channel] = column.values[source]
    return Lists(_offsets(counts[kept]), values)


def _offsets(counts: NDArray[np.int64] | Sequence[int]) -> NDArray[np.int64]:
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets
