"""Which entries are read when, and where each stands: a pure function of the files' clusters, seed, epoch and window.

Shuffled, the clusters of each sample, and of each stratum of one that holds its classes apart, are permuted and dealt
to strands; every window of W entries takes its share of every strand, so every sample and class is in every window in
its proportion. Inside a window a keyed permutation gives each entry its slot. Unshuffled there is one strand, in file
order. `Chunk` is what is read at once: it follows the clusters, joins small neighbours and cuts large ones. Invariant:
chunks say how bytes are fetched, never which event comes next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.dealing import Units, share_of_rank, sizes_of_strata, strata_at, window_bounds
from mlaas4hep.data.hashing import fold, fold_array
from mlaas4hep.errors import DataError

# Tags keep the keys of different purposes apart.
_CLUSTER_TAG = 0x636C7573
_WINDOW_TAG = 0x77696E64

MAX_CHUNK_ENTRIES = 262_144
CHUNK_BYTES = 96_000_000
# Parts of how many clusters a window holds at least, where there are so many: see docs/decisions.md.
STRANDS = 4
# Windows by which parts of a cluster that was cut may be read early, rather than the cluster twice.
EARLY = 2
# Clusters shorter than this share of a window are permuted together with their neighbours.
_SMALLEST_SHARE = 32


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

    @property
    def strata(self) -> tuple[tuple[int, int], ...]:
        """First entry and number of each stretch that is dealt apart from others; empty where all is one."""


@dataclass(frozen=True)
class Piece:
    """Entries of a chunk that belong to one window.

    Parameters
    ----------
    start, stop
        Entry range.
    window
        Number of the window.
    offset
        Place of the first of them in the window, before it is permuted.
    """

    start: int
    stop: int
    window: int
    offset: int

    @property
    def num_entries(self) -> int:
        """Entries in the range."""
        return self.stop - self.start


@dataclass(frozen=True)
class Chunk:
    """A contiguous entry range of one file that is read at once.

    Parameters
    ----------
    number
        Running number in reading order.
    file
        Position of the file in the plan.
    pieces
        In the order of entries; together they are the range, without gaps.
    """

    number: int
    file: int
    pieces: tuple[Piece, ...]

    @property
    def start(self) -> int:
        """First entry."""
        return self.pieces[0].start

    @property
    def stop(self) -> int:
        """The entry after the last."""
        return self.pieces[-1].stop

    @property
    def num_entries(self) -> int:
        """Entries in the range."""
        return self.stop - self.start

    @property
    def first_window(self) -> int:
        """The earliest window that needs it."""
        return min(one.window for one in self.pieces)


_Run = tuple[int, list[Piece]]
"""Place of a file in the plan, and neighbouring pieces of it."""


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
    rank, ranks
        The share of one of several processes that read the same files: disjoint, together complete, and equal to one
        entry a strand.
    chunk_entries
        At most so many entries are read at once; changes nothing but speed and memory.
    strands
        How many clusters a window holds parts of, at least, where shuffled. Part of the order.
    early
        Parts of a cluster in several strata are read at once if they begin at most so many windows apart: less is
        read twice, and about so many windows more wait. Changes nothing but speed and memory.
    start
        Entries of the share that are left out at its beginning: windows are counted from there. Not where shuffled.
    """

    def __init__(
        self,
        files: Sequence[PlannedFile],
        window: int,
        *,
        shuffle: bool,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        ranks: int = 1,
        chunk_entries: int = MAX_CHUNK_ENTRIES,
        strands: int = STRANDS,
        early: int = EARLY,
        start: int = 0,
    ) -> None:
        for name, value in (
            ("window", window),
            ("chunk_entries", chunk_entries),
            ("ranks", ranks),
            ("strands", strands),
        ):
            if value < 1:
                raise DataError(f"{name} must be at least 1, got {value}")
        if not 0 <= rank < ranks:
            raise DataError(f"rank must be from 0 to {ranks - 1}, got {rank}")
        self.files = tuple(files)
        self.window = window
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = epoch
        self.rank, self.ranks = rank, ranks
        self.chunk_entries = chunk_entries
        self._wanted_strands = strands
        self._early = early
        if start and shuffle:
            raise DataError(f"a shuffled order begins with its first window, not with entry {start}")
        self._total = sum(int(one.clusters[-1]) for one in self.files)
        self._strands = [share_of_rank(one, rank, ranks, start) for one in self._deal()]
        sizes = np.array([int(one.size.sum()) for one in self._strands], dtype=np.int64)
        self.num_entries = int(sizes.sum())
        self.num_windows = -(-self.num_entries // window)
        self._bounds = window_bounds(sizes, window)

    def __str__(self) -> str:
        order = f"shuffled in windows of {self.window} by seed {self.seed}" if self.shuffle else "in file order"
        share = f", share {self.rank + 1} of {self.ranks}" if self.ranks > 1 else ""
        return f"{self.num_entries} entries of {len(self.files)} files, epoch {self.epoch}, {order}{share}"

    @property
    def most_strands(self) -> int:
        """Strands at most, whatever the window is and however small clusters are joined: one a stratum and more."""
        if not self.shuffle:
            return 1
        entries: Counter[tuple[int, int]] = Counter()
        for one in self.files:
            for stratum, size in sizes_of_strata(one.strata, int(one.clusters[0]), int(one.clusters[-1])):
                entries[one.sample, stratum] += size
        return sum(map(self._strands_of, entries.values()))

    @property
    def largest_cluster(self) -> int:
        """Entries of the largest cluster."""
        return max((int(np.diff(one.clusters).max(initial=0)) for one in self.files), default=0)

    def window_size(self, window: int) -> int:
        """Entries of a window: W, but for the last."""
        return min(self.window, self.num_entries - window * self.window)

    def window_key(self, window: int) -> int:
        """Key of the permutation inside a window."""
        return fold(_WINDOW_TAG, self.seed, self.epoch, window, self.rank, self.ranks)

    def chunks(self, first_window: int = 0) -> Iterator[Chunk]:
        """Chunks in reading order, those without entries of a window from ``first_window`` on left out."""
        found = [piece for number in range(len(self._strands)) for piece in self._cut(number, first_window)]
        groups: dict[int, list[_Run]] = {}
        for file, pieces in self._reunited(found):
            groups.setdefault(min(one.window for one in pieces), []).append((file, pieces))
        number = 0
        for window in sorted(groups):
            for file, pieces in self._join(groups[window]):
                yield Chunk(number, file, tuple(pieces))
                number += 1

    @property
    def num_strands(self) -> int:
        """What a window takes its share of, each: so many chunks are begun at a time."""
        return len(self._strands)

    @cached_property
    def most_held(self) -> int:
        """Entries read before their window is the next one to be filled: the most at any time."""
        change = np.zeros(self.num_windows + 1, dtype=np.int64)
        for chunk in self.chunks():
            for piece in chunk.pieces:
                change[chunk.first_window] += piece.num_entries
                change[piece.window] -= piece.num_entries
        return int(np.cumsum(change).max(initial=0))

    def _deal(self) -> list[Units]:
        """Clusters of all files as strands, each in its order."""
        if not self.shuffle:
            return [self._units(range(len(self.files)))]
        samples: dict[int, list[int]] = {}
        for number, file in enumerate(self.files):
            samples.setdefault(file.sample, []).append(number)
        strata = [stratum for numbers in samples.values() for stratum in self._strata(numbers)]
        return [strand for stratum in strata for strand in self._deal_stratum(stratum)]

    def _strata(self, numbers: list[int]) -> Iterator[Units]:
        """Permuted clusters of a sample, apart by what they hold."""
        units = self._units(numbers)
        starts = np.split(units.start, np.searchsorted(units.file, numbers[1:]))
        keys = [self._cluster_keys(number, own) for number, own in zip(numbers, starts, strict=True)]
        strata = [strata_at(self.files[number].strata, own) for number, own in zip(numbers, starts, strict=True)]
        order = np.argsort(np.concatenate(keys), kind="stable")
        of = np.concatenate(strata)[order]
        for stratum in np.unique(of):
            yield units.take(order[of == stratum])

    def _strands_of(self, entries: int) -> int:
        """Strands of a stratum, where it has so many clusters."""
        return max(1, -(-self._wanted_strands * entries // max(self._total, 1)))

    def _deal_stratum(self, units: Units) -> Iterator[Units]:
        count = max(1, min(self._strands_of(int(units.size.sum())), len(units.size)))
        for strand in range(count):
            yield units.take(slice(strand, None, count))

    def _units(self, numbers: Sequence[int]) -> Units:
        empty = np.zeros(0, dtype=np.int64)
        bounds = [self._cut_apart(self.files[number]) for number in numbers]
        return Units(
            np.repeat(np.array(numbers, dtype=np.int64), [len(one) - 1 for one in bounds]),
            np.concatenate([empty, *(one[:-1] for one in bounds)]),
            np.concatenate([empty, *(np.diff(one) for one in bounds)]),
        )

    def _permuted_together(self, clusters: NDArray[np.int64]) -> NDArray[np.int64]:
        """Boundaries of what keeps together: clusters, small ones joined with those after them."""
        least = max(self.window // _SMALLEST_SHARE, 1)
        if not self.shuffle or len(clusters) < 3 or int(np.diff(clusters).min()) >= least:
            return clusters
        groups = (clusters[:-1] + np.diff(clusters) - 1) // least
        last = np.flatnonzero(np.diff(groups, append=-1))
        return np.concatenate([clusters[:1], clusters[1:][last]])

    def _cut_apart(self, file: PlannedFile) -> NDArray[np.int64]:
        """The same, cut where another stratum begins."""
        bounds = self._permuted_together(file.clusters)
        if not self.shuffle or not file.strata:
            return bounds
        begins = np.array(file.strata, dtype=np.int64)[:, 0]
        return np.union1d(bounds, begins[(begins > bounds[0]) & (begins < bounds[-1])])

    def _cluster_keys(self, number: int, starts: NDArray[np.int64]) -> NDArray[np.uint64]:
        file = self.files[number]
        if file.strata:  # parts of a cluster come at about the same time, so that they may be read together
            whole = self._permuted_together(file.clusters)
            starts = whole[np.searchsorted(whole, starts, side="right") - 1]
        return fold_array(fold(_CLUSTER_TAG, self.seed, self.epoch, file.sample, file.index), starts)

    def _cut(self, strand: int, first_window: int) -> Iterator[_Run]:
        """A strand as ranges of at most ``chunk_entries``, each with its windows."""
        units, bounds = self._strands[strand], self._bounds[:, strand]
        offsets = np.sum(np.diff(self._bounds[:, :strand], axis=0), axis=1)
        position = 0
        for file, start, size in zip(units.file.tolist(), units.start.tolist(), units.size.tolist(), strict=True):
            parts = -(-size // self.chunk_entries)
            for part in range(parts):
                low, high = part * size // parts, (part + 1) * size // parts
                pieces = _pieces(start + low, position + low, position + high, bounds, offsets, first_window)
                if pieces:
                    yield file, pieces
            position += size

    def _reunited(self, found: list[_Run]) -> Iterator[_Run]:
        """Parts of a cluster that were cut apart because they hold unlike classes, together again where they fit."""
        if not self.shuffle or not self._early or not any(file.strata for file in self.files):
            yield from found
            return
        file, run, firsts = -1, list[Piece](), list[int]()
        for number, pieces in sorted(found, key=lambda one: (one[0], one[1][0].start)):
            start, begin = pieces[0].start, [*firsts, pieces[0].window]
            follows = number == file and run[-1].stop == start and self._was_cut(number, start)
            fits = follows and pieces[-1].stop - run[0].start <= self.chunk_entries
            if run and not (fits and max(begin) - min(begin) <= self._early):
                yield file, run
                run, firsts = [], []
            file, run, firsts = number, [*run, *pieces], [*firsts, pieces[0].window]
        if run:
            yield file, run

    def _was_cut(self, number: int, start: int) -> bool:
        """Whether a cluster goes through an entry."""
        clusters = self.files[number].clusters
        return int(clusters[np.searchsorted(clusters, start)]) != start

    def _join(self, group: list[_Run]) -> Iterator[_Run]:
        """Neighbours in a file that one window begins with are read together."""
        file, run = -1, list[Piece]()
        for number, pieces in sorted(group, key=lambda one: (one[0], one[1][0].start)):
            size = pieces[-1].stop - pieces[0].start
            follows = number == file and bool(run) and run[-1].stop == pieces[0].start
            if run and not (follows and run[-1].stop - run[0].start + size <= self.chunk_entries):
                yield file, run
                run = []
            file, run = number, [*run, *pieces]
        if run:
            yield file, run


def _pieces(
    entry: int, low: int, high: int, bounds: NDArray[np.int64], offsets: NDArray[np.int64], first_window: int
) -> list[Piece]:
    """Places ``low`` to ``high`` of a strand by windows, from a window on; ``entry`` stands at ``low``."""
    window = max(int(np.searchsorted(bounds, low, side="right")) - 1, first_window)
    found = []
    while window < len(bounds) - 1 and bounds[window] < high:
        begin, end = max(low, int(bounds[window])), min(high, int(bounds[window + 1]))
        if begin < end:
            offset = int(offsets[window]) + begin - int(bounds[window])
            found.append(Piece(entry + begin - low, entry + end - low, window, offset))
        window += 1
    return found


def chunk_entries_for(bytes_per_entry: int) -> int:
    """How many entries are read at once: as many as `CHUNK_BYTES` hold, a function of the declaration alone."""
    return int(min(max(CHUNK_BYTES // max(bytes_per_entry, 1), 1_024), MAX_CHUNK_ENTRIES))
