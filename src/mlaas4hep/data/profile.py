"""Figures of every column over all events of files, in one parallel pass: ``mlaas4hep inspect --stats``.

Invariant: the figures say of which events they are; they are the same bits for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.measuring import loops
from mlaas4hep.data.plan import Chunk, Plan, chunk_entries_for
from mlaas4hep.data.prefetch import Prefetch
from mlaas4hep.data.reader import SourcePool
from mlaas4hep.data.source import ColumnInfo, Source
from mlaas4hep.data.tally import ColumnFigures, ColumnTally
from mlaas4hep.errors import DataError, nearest

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
    """

    tree: str
    paths: tuple[str, ...]
    entries: int
    looked_at: int
    columns: tuple[ColumnProfile, ...]


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
    ) -> None:
        if max_events is not None and max_events < 1:
            raise DataError(f"max_events must be at least 1, got {max_events}")
        self._infos: dict[str, ColumnInfo] = {}
        self._odd: dict[str, str] = {}
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
        self._names = [name for name, one in self._infos.items() if one.type is not None and name not in self._odd]

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
            Damaged bytes.
        """
        unit = chunk_entries_for(sum(map(self._bytes_of, self._names)))
        chunks = tuple(Plan(self._files, self.events, shuffle=False, chunk_entries=unit).chunks())
        chosen = loops(self.events * max(len(self._names), 1))

        def tally(chunk: Chunk) -> dict[str, ColumnTally]:
            with self._pool.source(self._files[chunk.file]) as source:
                columns = source.read(self._names, chunk.start, chunk.stop)
            found = {name: ColumnTally(chosen) for name in self._names}
            for name, one in found.items():
                one.add(columns.pop(name))
            return found

        total = {name: ColumnTally(chosen) for name in self._names}
        with Prefetch(tally, chunks, threads=threads, ahead=(threads + 1) * unit) as results:
            for chunk, found in results:
                for name, one in found.items():
                    total[name].merge(one)
                if progress is not None:
                    progress(chunk.num_entries)
        self._pool.close()
        return self._profile(total)

    def _add(self, file: FileEntry, source: Source, columns: Collection[str] | None) -> None:
        for name in columns or ():
            if name not in source.columns:
                where = f"{source.path}, tree '{source.tree}'"
                raise DataError(f"{where}: has no column '{name}'{nearest(name, source.columns)}")
        if not source.num_entries:
            return
        wanted = source.columns if columns is None else {name: source.columns[name] for name in sorted(columns)}
        self._compare(source, wanted)
        used = source.num_entries if self._share is None else min(self._share, source.num_entries)
        clusters = np.append(source.clusters[source.clusters < used], used)
        number = len(self._files)
        self.entries += source.num_entries
        entries = source.num_entries
        self._files.append(
            replace(file, number=number, sample=0, index=number, clusters=clusters, tree_entries=entries)
        )

    def _compare(self, source: Source, wanted: Mapping[str, ColumnInfo]) -> None:
        """Only what all files have, of one kind, has figures."""
        if not self._files:
            self._infos = dict(wanted)
            return
        for name, one in self._infos.items():
            other = wanted.get(name)
            if other is None:
                self._odd.setdefault(name, f"not in {source.path}")
            elif one.type is not None and (other.type is None or other.type.kind != one.type.kind):
                self._odd.setdefault(name, f"is {other.description} in {source.path}")
        for name, one in wanted.items():
            if name not in self._infos:
                self._infos[name] = one
                self._odd.setdefault(name, f"not in {self._files[0].path}")

    def _bytes_of(self, name: str) -> int:
        found = self._infos[name].type
        return _LIST_BYTES if found is not None and found.kind == "jagged" else 8

    def _profile(self, total: Mapping[str, ColumnTally]) -> Profile:
        return Profile(
            tree=self._files[0].tree,
            paths=tuple(one.path for one in self._files),
            entries=self.entries,
            looked_at=self.events,
            columns=tuple(self._columns(total)),
        )

    def _columns(self, total: Mapping[str, ColumnTally]) -> Iterator[ColumnProfile]:
        for name, one in self._infos.items():
            if name in total and one.type is not None:
                yield ColumnProfile(name, one.description, one.type.kind, figures=total[name].seal())
            else:
                yield ColumnProfile(name, one.description, None, one.reason or self._odd[name])
