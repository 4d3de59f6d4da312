"""From an entry range of a file to events: read, split, select, weigh, compute the variables.

`EventReader` is what the threads of `mlaas4hep.data.prefetch` run. Invariant: rows depend on the entry range alone, not
on the thread, the ranges before, or what the range was cut from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.duplicates import EventHasher
from mlaas4hep.data.entries import FileEntry, SampleEntry
from mlaas4hep.data.fates import Fates, fates_of, unreadable
from mlaas4hep.data.hashing import UInt64
from mlaas4hep.data.hooked import KEPT
from mlaas4hep.data.pool import SourcePool
from mlaas4hep.data.quarantine import Skipped, outside, reason_of, units
from mlaas4hep.data.source import cut_reads, read_stored, text_of
from mlaas4hep.data.split import PARTS, Part, Splitter
from mlaas4hep.data.truth import Truth
from mlaas4hep.errors import ConfigError, DataError, DeclarationError
from mlaas4hep.spec.columns import Column, Columns, Jagged, Nested, compress_columns
from mlaas4hep.spec.expressions import Expression
from mlaas4hep.spec.padding import Assembled
from mlaas4hep.spec.preprocess import Preprocessor

MAX_READ_BYTES = 96_000_000
# A column in memory while it is read: bytes as they are inflated, values, values of all baskets, values as declared.
_COPIES = 4


@dataclass(frozen=True)
class Events:
    """Events of one entry range, M of them; some may have been cut away.

    Parameters
    ----------
    start
        First entry of the range.
    entries
        int64 [M]: entry numbers in the file, rising.
    rows
        Their variables, and which of them are kept. Targets stand behind the flat variables.
    parts
        int8 [M]: position in `PARTS`; 0 of kind ``data``, which is not split.
    labels
        int64 [M]: position of the class, -1 where there is none.
    weights
        float64 [M]: the generator's weight; times the sample's ``scale`` it is the physics weight.
    fates
        uint8: what became of each entry of the range, those that are not here included (`mlaas4hep.data.fates`); where
        a part was asked for, who of another part would have been delivered is not known.
    hashes
        uint64 [M]: of each event's identity, or what the hasher made of it; None of kind ``data``.
    """

    start: int
    entries: NDArray[np.int64]
    rows: Assembled
    parts: NDArray[np.int8]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]
    fates: Fates
    hashes: UInt64 | None = None


class _Wish(NamedTuple):
    """The part of the split that is asked for, and the columns that may stay as they are stored."""

    part: Part | None
    stored: frozenset[str]


class EventReader:
    """Reads entry ranges of a catalogue's files as rows. May be shared by threads.

    Parameters
    ----------
    catalogue
        Files, types, identity.
    preprocessor
        Columns to tensors.
    max_read_bytes
        About so many bytes of columns are read at once; longer ranges are read in parts, which changes nothing else.
    hasher
        Makes of the hash of each event's identity what tells whether two events are the same.

    Raises
    ------
    ConfigError
        A selection that is not true or false, a weight that is not one number an event.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        preprocessor: Preprocessor,
        *,
        max_read_bytes: int = MAX_READ_BYTES,
        hasher: EventHasher | None = None,
    ) -> None:
        self._hasher = hasher
        self._catalogue = catalogue
        self._max_read_bytes = max_read_bytes
        self._preprocessor = preprocessor
        simulated = catalogue.kind == "mc"
        self._identity = catalogue.identity.columns if simulated else ()
        self._splitter = (
            Splitter(preprocessor.features.split, catalogue.identity, catalogue.types) if simulated else None
        )
        self._event_weight = preprocessor.features.weights.event if simulated else None
        self._truths = [Truth(sample, catalogue, preprocessor) for sample in catalogue.samples]
        self._pool = SourcePool()
        self._names = [self._columns_for(sample) for sample in catalogue.samples]
        self._plain = [preprocessor.plain - self._looked_at(sample) for sample in catalogue.samples]
        problems = list(self._check())
        if problems:
            raise ConfigError(problems, where="expressions do not fit their place")

    @property
    def columns(self) -> frozenset[str]:
        """Raw columns that are read, of any sample."""
        return frozenset().union(*self._names)

    def read(
        self, file: FileEntry, start: int, stop: int, *, part: Part | None = None, as_stored: bool = False
    ) -> Iterator[Events]:
        """Entries from ``start`` to ``stop`` (excluded), in parts as large as may be read at once.

        Those of another part of the split than the one asked for are not kept; None asks for all. With ``as_stored``,
        values that only have to be put into rows may come in the numbers of the file, whatever their byte order.

        Raises
        ------
        DataError
            Damaged bytes, lists of a collection that differ in length.
        DeclarationError
            The user's own expressions or function fail on what was read, or give a weight or a target that is not
            finite: that is not left out, whatever ``on_error`` says.
        """
        quarantine = self._catalogue.quarantine
        wish = _Wish(part, self._plain[file.sample] if as_stored else frozenset())
        at = start
        for low, high in outside(start, stop, quarantine.ranges(file.number)):
            if at < low:
                yield self._nothing(file, at, low)
            yield from self._range(file, low, high, wish)
            at = high
        if at < stop:
            yield self._nothing(file, at, stop)

    def _range(self, file: FileEntry, start: int, stop: int, wish: _Wish) -> Iterator[Events]:
        names = self._names[file.sample]
        try:
            with self._pool.source(file) as source:
                bounds = cut_reads(source, names, start, stop, max_bytes=self._max_read_bytes)
        except DeclarationError:
            raise
        except DataError as error:
            yield from self._what_is_left(file, start, stop, wish, error)
            return
        for low, high in pairwise(bounds):
            try:
                events = self._read_at_once(file, names, low, high, wish)
            except DeclarationError:
                raise
            except DataError as error:
                yield from self._what_is_left(file, low, high, wish, error)
            else:
                yield events

    def _read_at_once(self, file: FileEntry, names: list[str], start: int, stop: int, wish: _Wish) -> Events:
        with self._pool.source(file) as source:
            text = self._truths[file.sample].text
            words = None if text is None else text_of(source).read_text(text, start, stop)
            columns = read_stored(source, names, start, stop, stored=wish.stored)
            return self._events(file, columns, words, start, stop, wish)

    def _what_is_left(self, file: FileEntry, start: int, stop: int, wish: _Wish, error: DataError) -> Iterator[Events]:
        """Of a range that failed, the units that can be read; the others go to quarantine."""
        quarantine = self._catalogue.quarantine
        if not quarantine.policy.skips:
            raise error
        names = self._names[file.sample]
        for low, high in units(file.clusters, start, stop):
            begin, end = max(low, start), min(high, stop)
            try:
                events = self._read_at_once(file, names, begin, end, wish)
            except DeclarationError:
                raise
            except DataError as reason:
                sample = self._catalogue.samples[file.sample].name
                why = reason_of(reason, file.path, file.tree)
                quarantine.add_range(file.number, Skipped(sample, file.path, why, file.tree, low, high, file.index))
                events = self._nothing(file, begin, end)
            yield events

    def _nothing(self, file: FileEntry, start: int, stop: int) -> Events:
        """Entries that are not there."""
        nothing = _no_events({name: self._catalogue.types[name].kind for name in self._names[file.sample]})
        words = None if self._truths[file.sample].text is None else np.zeros(0, dtype=object)
        events = self._events(file, nothing, words, start, start, _Wish(None, frozenset()))
        return replace(events, fates=unreadable(stop - start))

    def _events(
        self, file: FileEntry, columns: Columns, words: NDArray[Any] | None, start: int, stop: int, wish: _Wish
    ) -> Events:
        part = wish.part
        sample = self._catalogue.samples[file.sample]
        num_entries = stop - start
        parts = np.zeros(num_entries, dtype=np.int8)
        hashes = None
        if self._splitter is not None:
            hashes = self._splitter.hashes(columns, num_entries)
            parts = self._splitter.parts_of(hashes)
        number = None if part is None else PARTS.index(part)
        in_part = np.ones(num_entries, dtype=np.bool_) if number is None else parts == number
        wanted = in_part
        if self._catalogue.hook is not None:
            wanted = in_part & np.asarray(columns[KEPT])
        if sample.selection:
            wanted = wanted & self._selected(sample, columns, num_entries)
        try:
            rows = self._preprocessor.assemble(columns, num_entries, wanted=wanted, as_stored=wish.stored)
        except DataError as error:
            # The same kind of error, told with its place.
            raise type(error)(f"{file.path}, tree '{file.tree}', entries {start} to {stop}: {error}") from error
        entries, all_parts = np.arange(start, stop), parts
        if rows.index is not None:
            columns = compress_columns(columns, _mask(rows.index, num_entries))
            entries, parts = entries[rows.index], parts[rows.index]
            hashes = None if hashes is None else hashes[rows.index]
            words = None if words is None else words[rows.index]
        selected = rows.kept
        rows, labels = self._truths[sample.number].add_to(rows, columns, words, partial(_place, file, entries))
        fates = fates_of(all_parts, entries[selected & ~rows.kept] - start, entries[rows.kept] - start)
        weights = self._weights(sample, columns, len(entries))
        _check_finite(weights, rows.kept, entries, file)
        if self._hasher is not None and hashes is not None:
            hashes = self._hasher.told_apart(hashes, columns)
        return Events(start, entries, rows, parts, labels, weights, fates, hashes)

    def close(self) -> None:
        """Close the files."""
        self._pool.close()

    def _columns_for(self, sample: SampleEntry) -> list[str]:
        return sorted(self._preprocessor.columns | self._looked_at(sample))

    def _looked_at(self, sample: SampleEntry) -> frozenset[str]:
        """Columns that anything is computed from, beside the inputs."""
        names = frozenset(self._identity) | self._truths[sample.number].columns
        if self._catalogue.hook is not None:
            names |= {KEPT}
        for text in (sample.selection, self._event_weight):
            if text is not None:
                names |= self._preprocessor.needs_of(Expression.parse(text))
        return names

    def _selected(self, sample: SampleEntry, columns: Columns, num_entries: int) -> NDArray[np.bool_]:
        where = f"samples.{sample.name}.selection"
        return np.asarray(self._preprocessor.evaluate(sample.selection or "", columns, num_entries, where=where))

    def _weights(self, sample: SampleEntry, columns: Columns, num_entries: int) -> NDArray[np.float64]:
        if self._event_weight is None:
            return np.ones(num_entries)
        generated = self._preprocessor.evaluate(self._event_weight, columns, num_entries, where="weights.event")
        return np.array(generated, dtype=np.float64)

    def _check(self) -> Iterator[str]:
        """Evaluate every expression on no events at all: its kind shows."""
        for sample, names in zip(self._catalogue.samples, self._names, strict=True):
            nothing = _no_events({name: self._catalogue.types[name].kind for name in names})
            if sample.selection is not None:
                where = f"samples.{sample.name}.selection"
                found = self._preprocessor.evaluate(sample.selection, nothing, 0, where=where)
                if not isinstance(found, np.ndarray) or found.dtype != np.bool_:
                    yield f"{where}: must be true or false for each event: {sample.selection}"
            yield from self._truths[sample.number].check(nothing)
            if self._event_weight is not None and sample.number == 0:
                found = self._preprocessor.evaluate(self._event_weight, nothing, 0, where="weights.event")
                if not isinstance(found, np.ndarray):
                    yield f"weights.event: gives a list an event; pick one, as in {self._event_weight}[0]"


def reading_bytes(memory: int, *, threads: int) -> int:
    """``max_read_bytes`` with which so many threads at once stay below a bound on memory."""
    return max(memory // (max(threads, 1) * _COPIES), 1)


def _no_events(kinds: dict[str, str]) -> Columns:
    values = np.zeros(0, dtype=np.float32)
    offsets = np.zeros(1, dtype=np.int64)
    empty: dict[str, Column] = {
        "flat": values,
        "jagged": Jagged(offsets, values),
        "nested": Nested(offsets, Jagged(offsets, values)),
    }
    return {name: empty[kind] for name, kind in kinds.items()}


def _mask(index: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    mask = np.zeros(size, dtype=np.bool_)
    mask[index] = True
    return mask


def _place(file: FileEntry, entries: NDArray[np.int64], event: int) -> str:
    return f"{file.path}, tree '{file.tree}', entry {entries[event]}"


def _check_finite(
    weights: NDArray[np.float64], kept: NDArray[np.bool_], entries: NDArray[np.int64], file: FileEntry
) -> None:
    bad = np.flatnonzero(~np.isfinite(weights) & kept)
    if len(bad):
        raise DeclarationError(
            f"{_place(file, entries, bad[0])}: the event weight is {weights[bad[0]]}; weights "
            "must be finite numbers (cut such events away with preselection, or mend weights.event)"
        )
