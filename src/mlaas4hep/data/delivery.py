"""From a chunk of the plan to labelled and weighted rows: what the threads of a stream do.

Where a cache is given, what it keeps is taken from there; what it lacks is read from the source and kept. Invariant:
rows are the same bits with and without a cache, in the first epoch and in later ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.config import Cache
from mlaas4hep.data.account import Account
from mlaas4hep.data.cache import RowCache, part_number, rows_of
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.fates import Fates, any_unreadable, unreadable
from mlaas4hep.data.journal import Block
from mlaas4hep.data.kept import CachedFile, LostError
from mlaas4hep.data.memory import Shares
from mlaas4hep.data.own_code import own_code
from mlaas4hep.data.plan import Chunk, Plan
from mlaas4hep.data.prefetch import Prefetch
from mlaas4hep.data.quarantine import outside
from mlaas4hep.data.reader import EventReader
from mlaas4hep.data.reads import ReadColumns, ReadOfRows, ReadRows
from mlaas4hep.data.rows import Rows, Writer
from mlaas4hep.data.split import PARTS, Part
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.statistics import Statistics

_Told = tuple[int, ReadRows, Fates]
"""First entry of a range, its rows, and what became of its entries."""


@dataclass(frozen=True)
class _Kept:
    """A block that is to be checked."""

    kept: CachedFile
    block: Block

    @property
    def num_entries(self) -> int:
        return self.block.stop - self.block.start


class Delivery:
    """Reads chunks for a stream. May be shared by threads.

    Parameters
    ----------
    catalogue
        Files, samples.
    reader
        Of the sources.
    part
        Of the split; None delivers all.
    factors
        float64 [C]: by what the physics weight of each class is multiplied, of one factor that of all events; None
        makes every weight 1.
    write
        Puts rows into a table.
    cache
        Where rows are kept; None keeps none.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        reader: EventReader,
        *,
        part: Part | None,
        factors: NDArray[np.float64] | None,
        write: Writer,
        cache: RowCache | None,
    ) -> None:
        self._catalogue = catalogue
        self._reader = reader
        self._part = part
        self._factors = factors
        self._write = write
        self._cache = cache
        self._scales = np.array([catalogue.samples[one.sample].scale for one in catalogue.files])

    def read(self, chunk: Chunk, account: Account) -> Iterator[ReadOfRows]:
        """Events of one chunk; what became of its entries is told to ``account``."""
        file = self._catalogue.files[chunk.file]
        kept = self.kept_of(file)
        if kept is None:
            yield from self.columns(chunk, account, as_stored=True)
            return
        # Entries in quarantine are not looked for in what is kept.
        bad = self._catalogue.quarantine.ranges(file.number)
        for low, high in outside(chunk.start, chunk.stop, bad):
            for start, stop, block in kept.segments(low, high):
                for begin, rows, fates in self._through_cache(kept, file, block, start, stop):
                    yield rows
                    account.note(chunk, begin, fates)
        for low, high in bad:
            start, stop = max(low, chunk.start), min(high, chunk.stop)
            account.note(chunk, start, unreadable(max(stop - start, 0)))

    def kept_of(self, file: FileEntry) -> CachedFile | None:
        """What is kept of a file; None where there is no cache."""
        if self._cache is None or self._catalogue.hook is not None:  # a function may depend on anything
            return None
        return self._cache.file(source_of(self._catalogue, file))

    def weigh(self, rows: Rows) -> Rows:
        """Turn the weights of kept rows, those of the generator, into those of the stream, in place."""
        scales = self._scales[rows.entries["file"]] if len(self._scales) > 1 else self._scales
        rows.weights[:] = self._weights(scales, rows.weights, rows.labels)
        return rows

    def lacking(self) -> tuple[FileEntry, ...]:
        """Files that the cache does not keep as a whole."""
        return tuple(file for file, kept in self._all_kept() if not kept.is_whole(self.readable(file)))

    def require_room(self, statistics: Statistics | None) -> None:
        """Refuse a cache that cannot hold all rows, where it is known how many there are.

        Parameters
        ----------
        statistics
            Of the scan, which counted them; None where there was none: then it is known where nothing selects.

        Raises
        ------
        DataError
            With what is needed and what there is.
        """
        rows = known_rows(self._catalogue, statistics)
        if self._cache is not None and rows is not None and self.lacking():
            files = [kept for _, kept in self._all_kept()]
            self._cache.require(files, rows=rows, entries=self._catalogue.num_entries)

    def settle(self) -> None:
        """Make what is kept as a whole survive the machine, and let other processes write."""
        for file, kept in self._all_kept():
            if self._cache is not None and kept.is_whole(self.readable(file)):
                self._cache.settle(kept)

    def readable(self, file: FileEntry) -> tuple[tuple[int, int], ...]:
        """Entry ranges of a file that are not in quarantine."""
        return readable_ranges(self._catalogue, file)

    def fill(self, shares: Shares, *, threads: int, progress: Callable[[int], None] | None = None) -> None:
        """Read what the cache lacks, what is damaged included, and deliver nothing; see `EventDataset.fill_cache`."""
        self._check(threads)
        lacking = self.lacking()
        plan = Plan(lacking, shares.window, shuffle=False, chunk_entries=shares.chunk)
        chunks = tuple(replace(one, file=lacking[one.file].number) for one in plan.chunks())
        with Prefetch(self._keep_chunk, chunks, threads=threads, ahead=(threads + 1) * shares.chunk) as done:
            for chunk, _ in done:
                if progress is not None:
                    progress(chunk.num_entries)

    def _keep_chunk(self, chunk: Chunk) -> None:
        for _ in self.read(chunk, Account()):
            pass

    def _check(self, threads: int) -> None:
        """Compare all that is kept with its checksums, and drop what is damaged."""
        blocks = tuple(_Kept(kept, block) for file, kept in self._all_kept() for block in self._unchecked(file, kept))
        # Nothing of a block stays when it was checked: any number may be under way.
        with Prefetch(self._check_block, blocks, threads=threads, ahead=self._catalogue.num_entries) as done:
            for _ in done:
                pass

    def _unchecked(self, file: FileEntry, kept: CachedFile) -> Iterator[Block]:
        assert self._cache is not None
        self._cache.renew(kept)
        for low, high in self.readable(file):
            yield from kept.unchecked(low, high)

    def _check_block(self, one: _Kept) -> None:
        assert self._cache is not None
        try:
            one.kept.check(one.block)
        except LostError as error:
            self._cache.lose(one.kept, one.block, error)

    def columns(self, chunk: Chunk, account: Account, *, as_stored: bool = False) -> Iterator[ReadColumns]:
        """The same out of the files, whatever is kept: events that are not rows yet.

        With ``as_stored`` their numbers may be in the byte order of the file, good for nothing but to be put into rows.
        """
        file = self._catalogue.files[chunk.file]
        for events in self._reader.read(file, chunk.start, chunk.stop, part=self._part, as_stored=as_stored):
            weights = self._weights(self._scales[file.number], events.weights, events.labels)
            yield ReadColumns(file.number, events.entries, events.rows, events.labels, weights, self._write)
            account.note(chunk, events.start, events.fates)

    def _all_kept(self) -> Iterator[tuple[FileEntry, CachedFile]]:
        for file in self._catalogue.files:
            kept = self.kept_of(file)
            if kept is not None:
                yield file, kept

    def _through_cache(
        self, kept: CachedFile, file: FileEntry, block: Block | None, start: int, stop: int
    ) -> Iterator[_Told]:
        """From what is kept, or from the source where that is not there, or not any more."""
        assert self._cache is not None
        if block is None:
            self._cache.renew(kept)
        else:
            try:
                found = self._from_cache(kept, file, block, start, stop)
            except LostError as error:
                self._cache.lose(kept, block, error)
            else:
                yield found
                return
        yield from self._keep(self._cache, kept, file, start, stop)

    def _keep(self, cache: RowCache, kept: CachedFile, file: FileEntry, start: int, stop: int) -> Iterator[_Told]:
        """Read all parts, keep them, deliver one."""
        number = part_number(self._part)
        for events in self._reader.read(file, start, stop, as_stored=True):
            columns = ReadColumns(file.number, events.entries, events.rows, events.labels, events.weights, self._write)
            rows, parts = columns.packed(), events.parts[events.rows.kept]
            if not any_unreadable(events.fates):
                cache.keep(kept, events.start, rows, events.fates, name=file.path)
            own = rows if number is None else rows.take(np.flatnonzero(parts == number))
            yield events.start, ReadRows(self.weigh(own)), events.fates

    def _from_cache(self, kept: CachedFile, file: FileEntry, block: Block, start: int, stop: int) -> _Told:
        kept.check(block)
        table, sides = kept.read(block, start, stop, part_number(self._part))
        return start, ReadRows(self.weigh(rows_of(file.number, table, sides))), kept.fates(block, start, stop)

    def _weights(
        self, scales: NDArray[np.float64], generated: NDArray[np.float64], labels: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        if self._factors is None:
            return np.ones(len(labels))
        # Without classes there is one factor; events without a label are not kept, theirs means nothing.
        return generated * scales * self._factors.take(labels, mode="clip")


def readable_ranges(catalogue: Catalogue, file: FileEntry) -> tuple[tuple[int, int], ...]:
    """Entry ranges of a file that are not in quarantine."""
    return tuple(outside(0, file.num_entries, catalogue.quarantine.ranges(file.number)))


def known_rows(catalogue: Catalogue, statistics: Statistics | None) -> int | None:
    """Rows of all files: those that a scan counted, or all where nothing selects; None where nobody knows yet."""
    if statistics is not None:
        return sum(int(getattr(one, part)) for one in statistics.samples.values() for part in PARTS)
    features, samples = catalogue.features, catalogue.samples
    if features.preselection or features.target_texts or any(one.selection or one.rule for one in samples):
        return None
    return sum(high - low for file in catalogue.files for low, high in readable_ranges(catalogue, file))


def source_of(catalogue: Catalogue, file: FileEntry) -> str:
    """What names the rows of a file besides the declaration: its content and its sample."""
    sample = catalogue.samples[file.sample]
    source = f"{file.identity}\n{file.tree}\n{sample.selection}\n{sample.label}"
    return source if sample.rule is None else f"{source}\n{sample.rule}\n{catalogue.classes}"


def declaration(catalogue: Catalogue, preprocessor: Preprocessor) -> str:
    """What decides which rows come out of a file, but for the file and its sample: the name of what is kept."""
    features = preprocessor.features
    parts = [
        own_code().encode(),
        msgspec.json.encode(msgspec.structs.replace(features, classes=(), observers=(), variations={})),
        msgspec.json.encode({name: str(one) for name, one in sorted(catalogue.types.items())}),
        msgspec.json.encode(list(catalogue.identity.columns) if catalogue.kind == "mc" else "not split"),
    ]
    return hashlib.sha256(b"\n".join(parts)).hexdigest()


def open_cache(
    cache: Cache | None,
    catalogue: Catalogue,
    preprocessor: Preprocessor,
    width: int,
    *,
    required: bool,
    checked: set[Block],
) -> RowCache | None:
    """Where the rows of a declaration are kept, if anywhere; see `RowCache`."""
    if cache is None:
        return None
    return RowCache(
        cache.path,
        limit_bytes=cache.limit_bytes,
        width=width,
        declaration=declaration(catalogue, preprocessor),
        required=required,
        checked=checked,
    )
