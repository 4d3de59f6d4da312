"""One input from its first entry to its last: read, scored, and handed over in order.

Threads read and score stretches of clusters side by side; what cannot be read is left out as a unit, and stands in the
output as entries without a score. Invariant: blocks come in the order of entries and cover all of them, whatever the
number of threads.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.hashing import UInt64
from mlaas4hep.data.pool import SourcePool
from mlaas4hep.data.prefetch import Prefetch
from mlaas4hep.data.quarantine import Quarantine, Skipped, reason_of, units
from mlaas4hep.data.source import cut_reads, read_stored
from mlaas4hep.errors import DataError, DeclarationError
from mlaas4hep.score.program import Program

STRETCH_ENTRIES = 65_536
"""Clusters are joined up to so many entries; a larger one is a stretch of its own."""
READ_BYTES = 48_000_000
"""Of columns that are read at once, in each thread."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Entries ``start`` to ``stop`` of a file, whole clusters."""

    start: int
    stop: int

    @property
    def num_entries(self) -> int:
        """How many."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Some entries with all columns of the output.

    Parameters
    ----------
    entries
        How many.
    values
        [N] by column.
    hashes
        What each event is known by.
    """

    entries: int
    values: dict[str, NDArray[Any]]
    hashes: UInt64


def stretches(clusters: NDArray[np.int64], most: int = STRETCH_ENTRIES) -> tuple[Stretch, ...]:
    """Clusters, small ones joined.

    Examples
    --------
    >>> [(one.start, one.stop) for one in stretches(np.array([0, 2, 4, 9, 10]), 5)]
    [(0, 4), (4, 9), (9, 10)]
    """
    found: list[Stretch] = []
    for low, high in pairwise(clusters.tolist()):
        if found and high - found[-1].start <= most:
            found[-1] = Stretch(found[-1].start, high)
        else:
            found.append(Stretch(low, high))
    return tuple(found)


class Reader:
    """Reads and scores one file. May be shared by threads.

    Parameters
    ----------
    file
        The input.
    program
        What is computed of it.
    pool
        Of open sources.
    quarantine
        What may be left out, and what was.
    read_bytes
        Of columns at once.
    """

    def __init__(
        self,
        file: FileEntry,
        program: Program,
        pool: SourcePool,
        quarantine: Quarantine,
        *,
        read_bytes: int = READ_BYTES,
    ) -> None:
        self._file, self._program, self._pool = file, program, pool
        self._quarantine = quarantine
        self._read_bytes = read_bytes

    def blocks(self, *, threads: int, stretch: int = STRETCH_ENTRIES) -> Generator[Block]:
        """All entries, in order."""
        tasks = stretches(self._file.clusters, stretch)
        largest = max((one.num_entries for one in tasks), default=0)
        with Prefetch(self._read, tasks, threads=threads, ahead=(threads + 1) * largest) as work:
            for _, blocks in work:
                yield from blocks

    def _read(self, stretch: Stretch) -> list[Block]:
        return list(self._scored(stretch))

    def _scored(self, stretch: Stretch) -> Iterator[Block]:
        try:
            with self._pool.source(self._file) as source:
                names, start, stop = self._program.needs, stretch.start, stretch.stop
                bounds = cut_reads(source, names, start, stop, max_bytes=self._read_bytes)
        except DeclarationError:
            raise
        except DataError as error:
            yield from self._what_is_left(stretch.start, stretch.stop, error)
            return
        for low, high in pairwise(bounds):
            try:
                block = self._block(low, high)
            except DeclarationError:
                raise
            except DataError as error:
                yield from self._what_is_left(low, high, error)
            else:
                yield block

    def _block(self, start: int, stop: int) -> Block:
        names = self._program.needs
        with self._pool.source(self._file) as source:
            columns = read_stored(source, names, start, stop, stored=self._program.stored)
        try:
            values, hashes = self._program.run(columns, stop - start)
        except DataError as error:
            where = f"{self._file.path}, tree '{self._file.tree}', entries {start} to {stop}"
            raise type(error)(f"{where}: {error}") from error
        return Block(stop - start, values, hashes)

    def _what_is_left(self, start: int, stop: int, error: DataError) -> Iterator[Block]:
        """Of a range that failed, the units that can be read; the others are left out, where that is allowed."""
        if not self._quarantine.policy.skips:
            raise error
        for low, high in units(self._file.clusters, start, stop):
            begin, end = max(low, start), min(high, stop)
            try:
                block = self._block(begin, end)
            except DeclarationError:
                raise
            except DataError as reason:
                self._leave_out(begin, end, reason)
                block = Block(end - begin, *self._program.nothing(end - begin))
            yield block

    def _leave_out(self, start: int, stop: int, error: DataError) -> None:
        file = self._file
        why = reason_of(error, file.path, file.tree)
        self._quarantine.add_range(file.number, Skipped("", file.path, why, file.tree, start, stop, file.index))
