"""A true global permutation of all rows of a stream, once they are kept on disk.

Every event of an epoch is as likely to stand anywhere as anywhere else. The order is a keyed permutation of the numbers
of the rows, computed where it is needed: nothing is sorted, nothing of it is stored. Rows are numbered by file, part
and entry, not by how they came into the cache. Invariant: the order is a function of (rows, seed, epoch, rank) alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.account import Counts
from mlaas4hep.data.batches import Place
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.delivery import Delivery
from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.hashing import fold, permuted
from mlaas4hep.data.journal import Block
from mlaas4hep.data.kept import CachedFile
from mlaas4hep.data.prefetch import Prefetch
from mlaas4hep.data.rows import ENTRY, Rows
from mlaas4hep.data.split import PARTS, Part
from mlaas4hep.errors import DataError

_TAG = 0x65786163
# Rows gathered at once by a thread: enough that Python's part does not show.
GATHERED = 16_384
# A row while it is gathered, beside its values, which may be there twice: its number, place, file, sides and weight.
_BESIDE_BYTES = 128

N = TypeVar("N", np.uint32, np.int64)
Gather = Callable[[int, int, int, int], Rows]


@dataclass(frozen=True)
class Stretch:
    """Rows ``start`` to ``start + num_entries`` of the order, gathered at once."""

    start: int
    num_entries: int


class KeptRows:
    """All kept rows of one part of a catalogue, numbered by file and entry.

    Parameters
    ----------
    catalogue
        Files.
    delivery
        Knows what is kept of them.
    part
        Of the split; None takes all.

    Raises
    ------
    DataError
        Not all of them are kept.
    """

    def __init__(self, catalogue: Catalogue, delivery: Delivery, part: Part | None) -> None:
        self._counts: dict[int, Counts] = {}
        self._ranges = {file.number: delivery.readable(file) for file in catalogue.files}
        parts = range(len(PARTS)) if part is None else [PARTS.index(part)]
        counts, firsts, files = [], [], []
        self._tables: list[NDArray[np.uint32]] = []
        self._sides: list[NDArray[np.int64]] = []
        for file in catalogue.files:
            kept = delivery.kept_of(file)
            if kept is None:
                raise DataError(f"{file.path}: is not kept")
            segments = _segments(delivery, file, kept)
            for _, _, block in segments:
                kept.check(block)
            table, sides = kept.map([block for _, _, block in segments])
            self._tables.append(table)
            self._sides.append(sides)
            for number in parts:
                for first, count in _runs(segments, number, sides):
                    firsts.append(first)
                    counts.append(count)
                    files.append(file.number)
            self._counts[file.number] = _counts(file, kept, segments, None if part is None else parts[0])
        sizes = np.array(counts, dtype=np.int64)
        self._ends = np.cumsum(sizes)
        self._firsts = np.array(firsts, dtype=np.int64) - (self._ends - sizes)
        self._files = np.array(files, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def width(self) -> int:
        """Numbers a row."""
        return int(self._tables[0].shape[1])

    def require(self, place: Place) -> Place:
        """A place in an order of these rows.

        Raises
        ------
        DataError
            It is one in an order of others.
        """
        name = self._name()
        if place.gone and place.rows != name:
            raise DataError(
                "this state was saved from an exact order of other rows: of some file more or fewer entries could be "
                "read then, and that makes another permutation; begin the epoch anew"
            )
        return place._replace(rows=name)

    def _name(self) -> int:
        """Of which rows of which files there are; not of where they stand in the cache."""
        return zlib.crc32(
            repr([(self._ranges[number], one.delivered) for number, one in self._counts.items()]).encode()
        )

    def rest(self, rank: int, ranks: int) -> Iterator[tuple[int, Counts]]:
        """By file, what became of the entries that are no rows of this part: what one of several processes tells."""
        for file, one in self._counts.items():
            yield file, replace(one, read=one.read - one.delivered, delivered=0).share(rank, ranks)

    def gatherer(self, *, compiled: bool) -> Gather:
        """What gathers them; both kinds give the same bits."""
        parts = (self._ends, self._firsts, self._files, self._tables, self._sides)
        if not compiled:
            return Gatherer(*parts).gather
        from mlaas4hep.data import kernel

        return kernel.Gatherer(*parts).gather


class Gatherer:
    """Rows from several tables by the numbers of a permuted order: see `mlaas4hep.data.kernel.Gatherer`."""

    def __init__(
        self,
        ends: NDArray[np.int64],
        firsts: NDArray[np.int64],
        files: NDArray[np.int64],
        tables: list[NDArray[np.uint32]],
        sides: list[NDArray[np.int64]],
    ) -> None:
        self._ends, self._firsts, self._files = ends, firsts, files
        self._tables, self._sides = tables, sides

    def gather(self, start: int, count: int, stride: int, key: int) -> Rows:
        """The rows of some numbers after the permutation of a key."""
        size = int(self._ends[-1]) if len(self._ends) else 0
        numbers = permuted(start + stride * np.arange(count), size, key)
        block = np.searchsorted(self._ends, numbers, side="right")
        rows, files = self._firsts[block] + numbers, self._files[block]
        table, sides = _gather(self._tables, files, rows), _gather(self._sides, files, rows)
        entries = np.empty(count, dtype=ENTRY)
        entries["file"], entries["entry"] = files, sides[:, 0]
        return Rows(table.view(np.float32), sides[:, 2].copy(), sides[:, 1].copy().view(np.float64), entries)


Segment = tuple[int, int, Block]


def _segments(delivery: Delivery, file: FileEntry, kept: CachedFile) -> list[Segment]:
    found = []
    for low, high in delivery.readable(file):
        for start, stop, block in kept.segments(low, high):
            if block is None:
                raise DataError(f"{file.path}: entries {start} to {stop} are not kept")
            found.append((start, stop, block))
    return found


def _runs(segments: Sequence[Segment], part: int, sides: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """First row and number of rows of a part, by entries: of what this catalogue reads, not of all that is kept."""
    for start, stop, block in segments:
        first, count = block.rows_of(part)
        low, high = np.searchsorted(sides[first : first + count, 0], (start, stop)).tolist()
        yield first + low, high - low


def _counts(file: FileEntry, kept: CachedFile, segments: Sequence[Segment], part: int | None) -> Counts:
    found = sum((Counts.of(kept.fates(block, start, stop), part) for start, stop, block in segments), Counts())
    missing = file.num_entries - found.read
    return found + Counts(missing, quarantined=missing)


def _gather(tables: Sequence[NDArray[N]], files: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[N]:
    found = np.empty((len(rows), tables[0].shape[1]), dtype=tables[0].dtype)
    order = np.argsort(files, kind="stable")
    bounds = np.searchsorted(files[order], np.arange(len(tables) + 1))
    for number, table in enumerate(tables):
        mine = order[bounds[number] : bounds[number + 1]]
        if len(mine):
            found[mine] = table.take(rows[mine], axis=0)
    return found


class ExactOrder:
    """One epoch of kept rows in a global permutation.

    Parameters
    ----------
    rows
        All of them.
    seed, epoch
        Key of the order.
    rank, ranks
        The share of one of several processes: disjoint, together complete, equal to one row.
    compiled
        Whether compiling pays.
    """

    def __init__(
        self, rows: KeptRows, *, seed: int, epoch: int, rank: int = 0, ranks: int = 1, compiled: bool = False
    ) -> None:
        self._gather = rows.gatherer(compiled=compiled)
        self._row_bytes = 8 * rows.width + _BESIDE_BYTES
        self._key = fold(_TAG, seed, epoch)
        self._rank, self._ranks = rank, ranks
        self.num_rows = len(range(rank, len(rows), ranks))

    def stretches(self, first: int, batch_size: int, most: int | None = None) -> tuple[Stretch, ...]:
        """The order from a row on, in stretches of whole batches, or of ``most`` rows where those are longer."""
        size = max(GATHERED // batch_size, 1) * batch_size
        if most is not None and size > most:
            size = max(most // batch_size * batch_size, min(most, batch_size))
        return tuple(Stretch(at, min(size, self.num_rows - at)) for at in range(first, self.num_rows, size))

    def gather(self, stretch: Stretch) -> Rows:
        """Rows of a stretch, with the weights as they were kept."""
        start = stretch.start * self._ranks + self._rank
        return self._gather(start, stretch.num_entries, self._ranks, self._key)

    def read(
        self,
        first: int,
        batch_size: int,
        *,
        weigh: Callable[[Rows], Rows],
        threads: int,
        max_memory: int | None = None,
    ) -> Prefetch[Stretch, Rows]:
        """Stretches from a row on, gathered ahead and weighed.

        Parameters
        ----------
        max_memory
            Bytes that all stretches together may take: one that is handed out, one a thread, one that waits.
        """
        most = None if max_memory is None else max(max_memory // ((threads + 2) * self._row_bytes), 1)
        stretches = self.stretches(first, batch_size, most)
        ahead = (threads + 1) * (stretches[0].num_entries if stretches else 1)
        return Prefetch(lambda one: weigh(self.gather(one)), stretches, threads=threads, ahead=ahead)
