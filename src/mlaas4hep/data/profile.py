"""Figures of every column over all events of files, in one parallel pass: ``mlaas4hep inspect --stats``.

Invariant: the figures say of which events they are; they are the same bits for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from mlaas4hep.data.comparing import SharedColumns
from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.hooked import KEPT
from mlaas4hep.data.measuring import loops
from mlaas4hep.data.plan import Chunk, Plan, chunk_entries_for
from mlaas4hep.data.pool import SourcePool
from mlaas4hep.data.prefetch import Prefetch
from mlaas4hep.data.quarantine import Quarantine, Skipped, reason_of, units
from mlaas4hep.data.source import Source
from mlaas4hep.data.tally import ColumnFigures, ColumnTally
from mlaas4hep.errors import DataError, nearest
from mlaas4hep.spec.columns import Column, compress_columns

_LIST_BYTES = 40


def files_of(paths: Sequence[str], tree: str) -> list[FileEntry]:
    """Files that are in no catalogue, for a `Pass`; what is in them shows when they are opened."""
    nothing = np.zeros(1, dtype=np.int64)
    return [FileEntry(number, 0, number, path, tree, nothing) for number, path in enumerate(paths)]


class ColumnProfile(msgspec.Struct, frozen=True):
    """One column: its type in the file, and its figures, or the reason why there are none."""

    name: str
    type: str
    kind: str | None
    reason: str | None = None
    figures: ColumnFigures | None = None


class Profile(msgspec.Struct, frozen=True):
    """What `profile` found.

    Parameters
    ----------
    tree
        Whose columns follow.
    paths
        Files that were read.
    entries
        In all of them.
    looked_at
        Events that the figures are of: all, or the first ones of each file.
    columns
        In the order of the first file.
    unreadable
        Events that would have been looked at, but cannot be read.
    skipped
        Files and places in files that were left out, why.
    """

    tree: str
    paths: tuple[str, ...]
    entries: int
    looked_at: int
    columns: tuple[ColumnProfile, ...]
    unreadable: int = 0
    skipped: tuple[Skipped, ...] = ()


class Pass:
    """One reading of all columns of some files; made first, so that its length is known before it is run.

    Parameters
    ----------
    files
        Of a catalogue, or of `files_of`; a tree that is named twice is read once.
    columns
        Names of those looked at; None looks at all that can be read.
    max_events
        At most so many, the first ones of each file; None looks at all.
    quarantine
        What was left out so far, and how much more may be: clusters that cannot be read are left out of every column.
        None leaves out nothing.

    Raises
    ------
    DataError
        A file that cannot be opened, a column that is not there, or no events at all.
    """

    def __init__(
        self,
        files: Sequence[FileEntry],
        *,
        columns: Collection[str] | None = None,
        max_events: int | None = None,
        quarantine: Quarantine | None = None,
    ) -> None:
        if max_events is not None and max_events < 1:
            raise DataError(f"max_events must be at least 1, got {max_events}")
        self.quarantine = Quarantine() if quarantine is None else quarantine
        self._shared = SharedColumns()
        self._kept: set[int] = set()
        self._files: list[FileEntry] = []
        self._pool = SourcePool()
        self.entries = 0
        named = list({(one.path, one.tree): one for one in files}.values())
        self._share = None if max_events is None else max(max_events // max(len(named), 1), 1)
        for file in named:
            with self._pool.source(file) as source:
                self._add(file, source, columns)
        if not self._files:
            raise DataError(f"{files[0].path}: has no entries" if files else "no files were given")
        self.events = sum(one.num_entries for one in self._files)
        self.quarantine.total = self.entries + self.quarantine.unopened
        self._names = list(self._shared.readable())

    def run(self, *, threads: int = 2, progress: Callable[[int], None] | None = None) -> Profile:
        """Read everything once.

        Parameters
        ----------
        threads
            That read; they change speed only.
        progress
            Called with a number of further events done.

        Raises
        ------
        DataError
            Damaged bytes that may not be left out.
        """
        unit = chunk_entries_for(sum(map(self._bytes_of, self._names)))
        chunks = tuple(Plan(self._files, self.events, shuffle=False, chunk_entries=unit).chunks())
        chosen = loops(self.events * max(len(self._names), 1))

        def tally(chunk: Chunk) -> tuple[int, dict[str, ColumnTally]]:
            found, lost = {name: ColumnTally(chosen) for name in self._names}, chunk.num_entries
            for columns, entries in self._read(self._files[chunk.file], chunk.start, chunk.stop):
                lost -= entries
                for name, one in found.items():
                    one.add(columns.pop(name))
            return lost, found

        unreadable = 0
        total = {name: ColumnTally(chosen) for name in self._names}
        with Prefetch(tally, chunks, threads=threads, ahead=(threads + 1) * unit) as results:
            for chunk, (lost, found) in results:
                unreadable += lost
                for name, one in found.items():
                    total[name].merge(one)
                if progress is not None:
                    progress(chunk.num_entries)
        self._pool.close()
        return self._profile(total, unreadable)

    def _read(self, file: FileEntry, start: int, stop: int) -> Iterator[tuple[dict[str, Column], int]]:
        """Columns of an entry range, and how many entries they are of; of a damaged one, those that can be read."""
        try:
            columns = self._read_at_once(file, start, stop)
        except DataError:
            if not self.quarantine.policy.skips:
                raise
        else:
            yield columns, stop - start
            return
        for low, high in units(file.clusters, start, stop):
            begin, end = max(low, start), min(high, stop)
            try:
                columns = self._read_at_once(file, begin, end)
            except DataError as error:
                why = reason_of(error, file.path, file.tree)
                self.quarantine.add_range(file.number, Skipped("", file.path, why, file.tree, low, high, file.index))
            else:
                yield columns, end - begin

    def _read_at_once(self, file: FileEntry, start: int, stop: int) -> dict[str, Column]:
        names = self._names if file.number not in self._kept else [*self._names, KEPT]
        with self._pool.source(file) as source:
            columns = source.read(names, start, stop)
        # Those that the user's function drops are no events any more: what stands in their place has no meaning.
        return columns if KEPT not in columns else dict(compress_columns(columns, np.asarray(columns[KEPT])))

    def _add(self, file: FileEntry, source: Source, columns: Collection[str] | None) -> None:
        there = {name: one for name, one in source.columns.items() if name != KEPT}
        for name in columns or ():
            if name not in there:
                where = f"{source.path}, tree '{source.tree}'"
                raise DataError(f"{where}: has no column '{name}'{nearest(name, there)}")
        if not source.num_entries:
            return
        wanted = there if columns is None else {name: there[name] for name in sorted(columns)}
        self._shared.add(source.path, wanted)
        used = source.num_entries if self._share is None else min(self._share, source.num_entries)
        clusters = np.append(source.clusters[source.clusters < used], used)
        number = len(self._files)
        if KEPT in source.columns:
            self._kept.add(number)
        self.entries += source.num_entries
        entries = source.num_entries
        self._files.append(
            replace(file, number=number, sample=0, index=number, clusters=clusters, tree_entries=entries)
        )

    def _bytes_of(self, name: str) -> int:
        found = self._shared.infos[name].type
        return _LIST_BYTES if found is not None and found.kind == "jagged" else 8

    def _profile(self, total: Mapping[str, ColumnTally], unreadable: int) -> Profile:
        return Profile(
            tree=self._files[0].tree,
            paths=tuple(one.path for one in self._files),
            entries=self.entries,
            looked_at=self.events - unreadable,
            columns=tuple(self._columns(total)),
            unreadable=unreadable,
            skipped=self.quarantine.records,
        )

    def _columns(self, total: Mapping[str, ColumnTally]) -> Iterator[ColumnProfile]:
        for name, one in self._shared.infos.items():
            if name in total and one.type is not None:
                yield ColumnProfile(name, one.description, one.type.kind, figures=total[name].seal())
            else:
                yield ColumnProfile(name, one.description, None, self._shared.reason(name))
