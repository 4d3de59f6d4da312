"""Which entries are read when: a pure function of the files' clusters, seed, epoch and window.

The sequence of all entries is cut into windows of exactly W entries; shuffled, the clusters of all files stand in the
order of their keys, and inside a window each entry stands by its own key. `Chunk` is what is read at once: it follows
the clusters, joins small neighbours and cuts large ones. Invariant: chunks say how bytes are fetched, never which event
comes next; positions in the sequence do not depend on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.hashing import fold, fold_array
from mlaas4hep.errors import DataError

# Tags keep the keys of different purposes apart.
_CLUSTER_TAG = 0x636C7573
_ENTRY_TAG = 0x656E7472

MAX_CHUNK_ENTRIES = 262_144
CHUNK_BYTES = 96_000_000


class PlannedFile(Protocol):
    """What a plan must know of a file."""

    @property
    def sample(self) -> int:
        """Index of its sample."""

    @property
    def index(self) -> int:
        """Index inside its sample."""

    @property
    def clusters(self) -> NDArray[np.int64]:
        """Entry boundaries, int64 [C + 1]."""


@dataclass(frozen=True)
class Chunk:
    """A contiguous entry range of one file that is read at once.

    Parameters
    ----------
    number
        Running number in reading order.
    file
        Position of the file in the plan.
    start, stop
        Entry range.
    pieces
        ``(start, stop, position)`` of each stretch that is contiguous in the sequence: entry ``start`` stands at
        ``position``.
    complete
        So many windows are complete once this chunk and all before it have been read.
    """

    number: int
    file: int
    start: int
    stop: int
    pieces: tuple[tuple[int, int, int], ...]
    complete: int

    @property
    def num_entries(self) -> int:
        """Entries in the range."""
        return self.stop - self.start

    def positions(self) -> NDArray[np.int64]:
        """Place of each entry in the sequence, int64 [num_entries]."""
        return np.concatenate([np.arange(place, place + stop - start) for start, stop, place in self.pieces])


@dataclass(frozen=True)
class _Units:
    """Entry ranges in sequence order: file, first entry, number of entries, position of the first entry."""

    file: NDArray[np.int64]
    start: NDArray[np.int64]
    size: NDArray[np.int64]
    position: NDArray[np.int64]


class Plan:
    """Order and reading units of one epoch.

    Parameters
    ----------
    files
        In catalogue order.
    window
        W, entries shuffled together, counted before any selection.
    shuffle
        False keeps the catalogue's order; windows then only bound what is held at a time.
    seed, epoch
        Key of the order.
    chunk_entries
        At most so many entries are read at once; changes nothing but speed and memory.
    """

    def __init__(
        self,
        files: Sequence[PlannedFile],
        window: int,
        *,
        shuffle: bool,
        seed: int = 0,
        epoch: int = 0,
        chunk_entries: int = MAX_CHUNK_ENTRIES,
    ) -> None:
        for name, value in (("window", window), ("chunk_entries", chunk_entries)):
            if value < 1:
                raise DataError(f"{name} must be at least 1, got {value}")
        self.files = tuple(files)
        self.window = window
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = epoch
        self.chunk_entries = chunk_entries
        self._units = self._sequence()
        self.num_entries = int(self._units.size.sum())
        self.num_windows = -(-self.num_entries // window)

    def __str__(self) -> str:
        order = f"shuffled in windows of {self.window} by seed {self.seed}" if self.shuffle else "in file order"
        return f"{self.num_entries} entries of {len(self.files)} files, epoch {self.epoch}, {order}"

    def keys(self, file: int, entries: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.uint64]:
        """By what rows are sorted inside their window: a hash of the entry, or its position where unshuffled."""
        if not self.shuffle:
            return positions.astype(np.uint64)
        one = self.files[file]
        return fold_array(fold(_ENTRY_TAG, self.seed, self.epoch, one.sample, one.index), entries)

    def chunks(self, first_window: int = 0) -> Iterator[Chunk]:
        """Chunks in reading order, from those that hold the first entry of a window on."""
        units = self._cut(self._units)
        ends = units.position + units.size
        begin = int(np.searchsorted(ends, first_window * self.window, side="right"))
        groups = np.maximum(units.position[begin:] // self.window, first_window)
        cuts = np.flatnonzero(np.diff(groups)) + 1
        bounds = [0, *cuts.tolist(), len(groups)]
        number = 0
        for low, high in pairwise(bounds):
            if low == high:
                continue
            following = int(groups[high]) if high < len(groups) else self.num_windows
            runs = list(self._join(units, begin + low, begin + high))
            for place, run in enumerate(runs):
                complete = following if place == len(runs) - 1 else int(groups[low])
                yield self._chunk(units, run, number, complete)
                number += 1

    def _sequence(self) -> _Units:
        empty = np.zeros(0, dtype=np.int64)
        starts = [one.clusters[:-1] for one in self.files]
        file = np.repeat(np.arange(len(starts)), [len(one) for one in starts]).astype(np.int64)
        start = np.concatenate([empty, *starts])
        size = np.concatenate([empty, *(np.diff(one.clusters) for one in self.files)])
        if self.shuffle:
            keys = [self._cluster_keys(one) for one in self.files]
            order = np.argsort(np.concatenate([empty.astype(np.uint64), *keys]), kind="stable")
            file, start, size = file[order], start[order], size[order]
        return _Units(file, start, size, np.cumsum(size) - size)

    def _cluster_keys(self, one: PlannedFile) -> NDArray[np.uint64]:
        key = fold(_CLUSTER_TAG, self.seed, self.epoch, one.sample, one.index)
        return fold_array(key, one.clusters[:-1])

    def _cut(self, units: _Units) -> _Units:
        """Clusters longer than a chunk in equal parts, so that one of them never has to be held whole."""
        parts = -(-units.size // self.chunk_entries)
        index = np.repeat(np.arange(len(parts)), parts)
        part = np.arange(len(index)) - np.repeat(np.cumsum(parts) - parts, parts)
        size, count = units.size[index], parts[index]
        low, high = part * size // count, (part + 1) * size // count
        return _Units(units.file[index], units.start[index] + low, high - low, units.position[index] + low)

    def _join(self, units: _Units, low: int, high: int) -> Iterator[list[int]]:
        """Neighbours in a file that the window holds anyway are read together: inside it the key orders rows."""
        run: list[int] = []
        size = 0
        for one in (np.lexsort((units.start[low:high], units.file[low:high])) + low).tolist():
            length = int(units.size[one])
            follows = bool(run) and self._follows(units, run[-1], one)
            if run and not (follows and size + length <= self.chunk_entries):
                yield run
                run, size = [], 0
            run.append(one)
            size += length
        if run:
            yield run

    @staticmethod
    def _follows(units: _Units, one: int, other: int) -> bool:
        same_file = units.file[one] == units.file[other]
        return bool(same_file and units.start[one] + units.size[one] == units.start[other])

    @staticmethod
    def _chunk(units: _Units, run: list[int], number: int, complete: int) -> Chunk:
        pieces = tuple(
            (int(units.start[one]), int(units.start[one] + units.size[one]), int(units.position[one])) for one in run
        )
        return Chunk(number, int(units.file[run[0]]), pieces[0][0], pieces[-1][1], pieces, complete)


def chunk_entries_for(bytes_per_entry: int) -> int:
    """How many entries are read at once: as many as `CHUNK_BYTES` hold, a function of the declaration alone."""
    return int(min(max(CHUNK_BYTES // max(bytes_per_entry, 1), 1_024), MAX_CHUNK_ENTRIES))
