"""From a chunk of the plan to labelled and weighted rows: what the threads of a stream do.

Where a cache is given, what it keeps is taken from there; what it lacks is read from the source and kept. Invariant:
rows are the same bits with and without a cache, in the first epoch and in later ones.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.config import Cache
from mlaas4hep.data.cache import RowCache, part_number, rows_of
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.kept import Block, CachedFile
from mlaas4hep.data.own_code import own_code
from mlaas4hep.data.plan import Chunk
from mlaas4hep.data.quarantine import outside
from mlaas4hep.data.reader import Counts, EventReader
from mlaas4hep.data.reads import ReadColumns, ReadOfRows, ReadRows
from mlaas4hep.data.rows import Rows, Writer
from mlaas4hep.data.split import PARTS, Part
from mlaas4hep.errors import DataError
from mlaas4hep.spec.preprocess import Preprocessor


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
        self._lock = threading.Lock()

    def read(self, chunk: Chunk, counts: dict[int, Counts]) -> Iterator[ReadOfRows]:
        """Events of one chunk; what became of its entries is added to ``counts``."""
        file = self._catalogue.files[chunk.file]
        kept = self.kept_of(file)
        if kept is None:
            yield from self.columns(chunk, counts, as_stored=True)
            return
        # Entries in quarantine are not looked for in what is kept.
        for low, high in outside(chunk.start, chunk.stop, self._catalogue.quarantine.ranges(file.number)):
            for start, stop, block in kept.segments(low, high):
                if block is None:
                    yield from self._keep(kept, file, start, stop, counts)
                else:
                    yield self._from_cache(kept, file, block, start, stop, counts)
        missing = sum(
            min(high, chunk.stop) - max(low, chunk.start)
            for low, high in self._catalogue.quarantine.ranges(file.number)
            if low < chunk.stop and high > chunk.start
        )
        if missing:
            self._count(file, Counts(missing, quarantined=missing), counts)

    def kept_of(self, file: FileEntry) -> CachedFile | None:
        """What is kept of a file; None where there is no cache or no room in it."""
        if self._cache is None or self._catalogue.hook is not None:  # a function may depend on anything
            return None
        sample = self._catalogue.samples[file.sample]
        source = f"{file.identity}\n{file.tree}\n{sample.selection}\n{sample.label}"
        if sample.rule is not None:
            source += f"\n{sample.rule}\n{self._catalogue.classes}"
        return self._cache.file(source, entries=file.num_entries, name=file.path)

    def weigh(self, rows: Rows) -> Rows:
        """Turn the weights of kept rows, those of the generator, into those of the stream, in place."""
        scales = self._scales[rows.entries["file"]] if len(self._scales) > 1 else self._scales
        rows.weights[:] = self._weights(scales, rows.weights, rows.labels)
        return rows

    def lacking(self) -> tuple[FileEntry, ...]:
        """Files that the cache does not keep as a whole.

        Raises
        ------
        DataError
            There is no room for one of them.
        """
        found = []
        for file in self._catalogue.files:
            kept = self.kept_of(file)
            if kept is None:
                raise DataError(f"{file.path}: has no room in the cache; raise cache.limit, or shuffle by windows")
            if not kept.is_whole(self.readable(file)):
                found.append(file)
        return tuple(found)

    def settle(self) -> None:
        """Make what is kept as a whole survive the machine, and let other processes write."""
        for file in self._catalogue.files:
            kept = self.kept_of(file)
            if kept is not None and kept.is_whole(self.readable(file)):
                kept.settle()

    def readable(self, file: FileEntry) -> tuple[tuple[int, int], ...]:
        """Entry ranges of a file that are not in quarantine."""
        return tuple(outside(0, file.num_entries, self._catalogue.quarantine.ranges(file.number)))

    def keep(self, chunk: Chunk) -> None:
        """Read what the cache lacks of a chunk, and deliver nothing."""
        for _ in self.read(chunk, {}):
            pass

    def columns(self, chunk: Chunk, counts: dict[int, Counts], *, as_stored: bool = False) -> Iterator[ReadColumns]:
        """The same out of the files, whatever is kept: events that are not rows yet.

        With ``as_stored`` their numbers may be in the byte order of the file, good for nothing but to be put into rows.
        """
        file = self._catalogue.files[chunk.file]
        for events in self._reader.read(file, chunk.start, chunk.stop, part=self._part, as_stored=as_stored):
            weights = self._weights(self._scales[file.number], events.weights, events.labels)
            yield ReadColumns(file.number, events.entries, events.rows, events.labels, weights, self._write)
            self._count(file, events.counts, counts)

    def _keep(
        self, kept: CachedFile, file: FileEntry, start: int, stop: int, counts: dict[int, Counts]
    ) -> Iterator[ReadOfRows]:
        """Read all parts, keep them, deliver one."""
        for events in self._reader.read(file, start, stop, as_stored=True):
            columns = ReadColumns(file.number, events.entries, events.rows, events.labels, events.weights, self._write)
            rows, parts = columns.packed(), events.parts[events.rows.kept]
            if not events.counts.quarantined:
                order = np.argsort(parts, kind="stable")
                by_part = np.bincount(parts, minlength=len(PARTS)).tolist()
                stop_here = events.start + events.counts.read
                kept.append(events.start, stop_here, rows.take(order), by_part, events.by_part, events.unlabelled)
            number = part_number(self._part)
            found = rows if number is None else rows.take(np.flatnonzero(parts == number))
            yield ReadRows(self.weigh(found))
            read = sum(events.by_part)
            other = 0 if number is None else read - events.by_part[number]
            lost = sum(events.unlabelled) if number is None else events.unlabelled[number]
            cut, bad = read - len(found) - other - lost, events.counts.quarantined
            self._count(file, Counts(events.counts.read, len(found), cut, other, bad, lost), counts)

    def _from_cache(
        self, kept: CachedFile, file: FileEntry, block: Block, start: int, stop: int, counts: dict[int, Counts]
    ) -> ReadRows:
        number = part_number(self._part)
        table, sides = kept.read(block, start, stop, number)
        read = stop - start
        other = 0 if number is None else read - block.entries_of(number, start, stop)
        lost = block.unlabelled_of(number, start, stop)
        self._count(file, Counts(read, len(sides), read - len(sides) - other - lost, other, unlabelled=lost), counts)
        return ReadRows(self.weigh(rows_of(file.number, table, sides)))

    def _weights(
        self, scales: NDArray[np.float64], generated: NDArray[np.float64], labels: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        if self._factors is None:
            return np.ones(len(labels))
        # Without classes there is one factor; events without a label are not kept, theirs means nothing.
        return generated * scales * self._factors.take(labels, mode="clip")

    def _count(self, file: FileEntry, found: Counts, counts: dict[int, Counts]) -> None:
        with self._lock:
            counts[file.number] = counts.get(file.number, Counts()) + found


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


def open_cache(cache: Cache, catalogue: Catalogue, preprocessor: Preprocessor, width: int) -> RowCache:
    """Where the rows of a declaration are kept."""
    return RowCache(
        cache.path,
        limit_bytes=cache.limit_bytes,
        width=width,
        declaration=declaration(catalogue, preprocessor),
    )
