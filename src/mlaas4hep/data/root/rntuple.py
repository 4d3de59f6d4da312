"""RNTuples as sources: fields as columns, members of records named with dots, read page by page.

Only the pages that overlap an entry range are read, and what is left of the last one of each column is kept for the
next range, so that steps smaller than a page cost no factor. Invariant: list ends rise and fit the elements they count
before anything is read by them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.places import Place
from mlaas4hep.data.root.blame import DamageError, blamed
from mlaas4hep.data.root.bytes import open_root
from mlaas4hep.data.root.fields import Shape, Step, memory_type
from mlaas4hep.data.root.ntable import RNTupleTable
from mlaas4hep.data.root.pagememo import MEMO, PageMemo
from mlaas4hep.data.root.pagereader import PageReader, Span
from mlaas4hep.data.root.pages import INDEX
from mlaas4hep.data.root.words import Words
from mlaas4hep.data.source import Weight, check_asked
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Column, Jagged, Nested

# Shorter reads cost more in Python than in bytes.
_LEAST_ENTRIES = 64

Part = tuple[int, int, int]
"""A cluster, and which of its entries: from one to the other (excluded)."""


class RNTupleSource(Words):
    """An RNTuple. Clusters are those of the file that have entries.

    A value that may be missing (``std::optional``, ``std::unique_ptr``) is NaN where it is, whole numbers become
    float64 therefore; a list that may be missing is empty where it is. Arrays of fixed size are lists.

    Parameters
    ----------
    place
        The file; closed with the source.
    table
        Its reading table.
    memo
        Keeps inflated pages between reads.
    """

    def __init__(self, place: Place, table: RNTupleTable, *, memo: PageMemo = MEMO) -> None:
        self._place = place
        self._table = table
        self._reader = PageReader(place, table, memo=memo)
        self.path = place.url
        self.identity = place.identity
        self.tree = table.name
        self.num_entries = table.num_entries
        self.columns = table.columns
        self.clusters = table.clusters

    def read(self, names: Sequence[str], entry_start: int, entry_stop: int) -> dict[str, Column]:
        """See `mlaas4hep.data.source.Source.read`."""
        check_asked(self, names, entry_start, entry_stop)
        with blamed(self.path, f", tree '{self.tree}', entries {entry_start} to {entry_stop}"):
            try:
                return self._read(names, entry_start, entry_stop)
            finally:
                self._reader.settle()

    def cut(self, names: Sequence[str], entry_start: int, entry_stop: int, max_bytes: int) -> list[int]:
        """See `mlaas4hep.data.source.Divisible.cut`; small clusters are joined, large ones cut evenly."""
        bounds, held = [entry_start], 0.0
        for cluster, low, high in self._table.parts(entry_start, entry_stop):
            first, entries = int(self.clusters[cluster]), high - low
            size = self._bytes_an_entry(names, cluster) * entries
            if held and held + size > max_bytes:
                bounds.append(first + low)
                held = 0.0
            pieces = max(min(ceil(size / max(max_bytes, 1)), entries // _LEAST_ENTRIES), 1)
            bounds += [first + low + piece * entries // pieces for piece in range(1, pieces)]
            held = held + size if pieces == 1 else size / pieces
        return [*bounds, entry_stop]

    def _uproot_branch(self, name: str) -> Any:
        return open_root(self._place)[self.tree][name]

    def weigh(self, names: Sequence[str], entry_start: int, entry_stop: int) -> Weight:
        """See `mlaas4hep.data.source.Weighed.weigh`; what is inflated as it lies in memory."""
        known = [name for name in names if name in self._table.shapes]
        stored = sum(stop - start for start, stop in self._table.ranges(known, entry_start, entry_stop))
        parts = self._table.parts(entry_start, entry_stop)
        inflated = sum(self._bytes_an_entry(known, cluster) * (high - low) for cluster, low, high in parts)
        return Weight(stored, round(inflated))

    def close(self) -> None:
        """See `mlaas4hep.data.source.Source.close`."""
        self._reader.forget()
        self._place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _bytes_an_entry(self, names: Sequence[str], cluster: int) -> float:
        """Bytes of an entry of some columns in memory, the mean in a cluster."""
        table = self._table
        elements = table.pages.elements[:, cluster]
        total = sum(int(elements[number]) * table.stored[number].dtype.itemsize for number in table.behind(names))
        return total / int(self.clusters[cluster + 1] - self.clusters[cluster])

    def _read(self, names: Sequence[str], start: int, stop: int) -> dict[str, Column]:
        shapes = {name: self._table.shapes[name] for name in names}
        parts = self._table.parts(start, stop)
        self._reader.fetch(self._known(names, parts))
        ways = self._walk(set(shapes.values()), parts)
        self._reader.fetch(self._last_span(shape, way) for shape in shapes.values() for way in ways[shape.steps])
        return {name: self._column(shape, ways[shape.steps]) for name, shape in shapes.items()}

    def _known(self, names: Sequence[str], parts: Sequence[Part]) -> Iterator[Span]:
        """Spans that a read needs for certain: of fixed numbers an entry, and all of clusters that are read whole."""
        pages = self._table.pages
        for number in self._table.behind(names):
            stored = self._table.stored[number]
            for cluster, low, high in parts:
                elements = int(pages.elements[number, cluster])
                if low == 0 and high == self.clusters[cluster + 1] - self.clusters[cluster]:
                    yield Span(number, cluster, 0, elements)
                elif stored.fixed and stored.encodings[0].number in INDEX:
                    yield self._reader.ends_span(number, cluster, low * stored.fixed, high * stored.fixed)
                elif stored.fixed:
                    yield Span(number, cluster, low * stored.fixed, high * stored.fixed)

    def _walk(self, shapes: Iterable[Shape], parts: Sequence[Part]) -> dict[tuple[Step, ...], list[_Way]]:
        """Go down from entries to elements, all columns and clusters a level at a time."""
        leaves: dict[tuple[Step, ...], list[int]] = {}
        for shape in shapes:
            leaves.setdefault(shape.steps, []).append(shape.stored)
        ways = {steps: [_Way.into(self._table, part) for part in parts] for steps in leaves}
        walks = [_down(self._table, way, steps, leaves[steps]) for steps, one in ways.items() for way in one]
        asked = [(walk, next(walk, None)) for walk in walks]
        while open_ones := [(walk, lists) for walk, lists in asked if lists is not None]:
            self._reader.fetch(self._reader.ends_span(*lists) for _, lists in open_ones)
            asked = [(walk, _answered(walk, self._reader.ends(*lists))) for walk, lists in open_ones]
        return ways

    def _last_span(self, shape: Shape, way: _Way) -> Span:
        if shape.counts:
            return self._reader.ends_span(shape.stored, way.cluster, way.low, way.high)
        return Span(shape.stored, way.cluster, way.low, way.high)

    def _column(self, shape: Shape, ways: Sequence[_Way]) -> Column:
        values = self._values(shape, ways)
        offsets = [_joined([way.lists[depth] for way in ways]) for depth in range(shape.lists)]
        if not offsets:
            return values
        inner = Jagged(offsets[-1], values)
        return inner if len(offsets) == 1 else Nested(offsets[0], inner)

    def _values(self, shape: Shape, ways: Sequence[_Way]) -> NDArray[Any]:
        """Numbers of a column one after the other."""
        stored = self._table.stored[shape.stored].dtype
        total = sum(way.high - way.low if way.present is None else len(way.present) for way in ways)
        values = np.empty(total, memory_type(shape, stored))
        at = 0
        for way in ways:
            self._check_end(shape, way)
            if way.present is None:
                part = values[at : at + way.high - way.low]
                self._take(shape, way, part)
            else:
                part = values[at : at + len(way.present)]
                there = np.empty(way.high - way.low, stored)
                self._take(shape, way, there)
                part[:] = np.nan
                part[way.present] = there
            at += len(part)
        return values

    def _take(self, shape: Shape, way: _Way, out: NDArray[Any]) -> None:
        span = Span(shape.stored, way.cluster, way.low, way.high)
        if shape.counts:
            out[...] = np.diff(self._reader.ends(*span))
        else:
            self._reader.take(span, out)

    def _check_end(self, shape: Shape, way: _Way) -> None:
        """What the last list of a cluster ends with are all elements that are there."""
        elements = int(self._table.pages.elements[shape.stored, way.cluster])
        if way.whole and way.high != elements:
            raise DataError(
                f"{self.path}, tree '{self.tree}', field '{self._table.stored[shape.stored].field}': is damaged: its "
                f"lists end at {way.high}, but {elements} elements are there"
            )


@dataclass
class _Way:
    """How far one has come from some entries of a cluster to their numbers.

    Parameters
    ----------
    cluster
        Where.
    low, high
        Elements at this level.
    whole
        Whether these are the last ones of the cluster.
    lists
        Offsets of the lists that were passed, from outside to inside, each from 0.
    present
        bool: which of the places for an element hold one; None where all do.
    """

    cluster: int
    low: int
    high: int
    whole: bool
    lists: list[NDArray[np.int64]] = field(default_factory=list)
    present: NDArray[np.bool_] | None = None

    @classmethod
    def into(cls, table: RNTupleTable, part: Part) -> _Way:
        """At some entries of a cluster."""
        cluster, low, high = part
        return cls(cluster, low, high, high == int(table.clusters[cluster + 1] - table.clusters[cluster]))

    def pass_lists(self, offsets: NDArray[np.int64]) -> None:
        """Go into lists, one for each element that is present; those of absent elements are empty."""
        if self.present is not None:
            counts = np.zeros(len(self.present), dtype=np.int64)
            counts[self.present] = np.diff(offsets)
            offsets = np.zeros(len(counts) + 1, dtype=np.int64)
            np.cumsum(counts, out=offsets[1:])
            self.present = None
        self.lists.append(offsets)

    def pass_options(self, present: NDArray[np.bool_]) -> None:
        """Go into elements of which some are absent."""
        if self.present is None:
            self.present = present
        else:
            both = self.present.copy()
            both[self.present] = present
            self.present = both


_Down = Generator[Span, NDArray[np.int64], None]


def _down(table: RNTupleTable, way: _Way, steps: Sequence[Step], leaves: Sequence[int]) -> _Down:
    """Walk the steps; gives the lists whose ends it needs next, and takes their ends."""
    for depth, step in enumerate(steps):
        if step.kind == "array":
            way.pass_lists(np.arange(way.high - way.low + 1, dtype=np.int64) * step.length)
            way.low, way.high = way.low * step.length, way.high * step.length
            continue
        ends = yield Span(step.stored, way.cluster, way.low, way.high)
        _check_room(table, way.cluster, int(ends[-1]), step.stored, steps[depth + 1 :], leaves)
        way.low, way.high = int(ends[0]), int(ends[-1])
        offsets = ends - way.low
        if step.kind == "list":
            way.pass_lists(offsets)
        else:
            counts = np.diff(offsets)
            if np.any(counts > 1):
                raise DamageError(
                    f"field '{table.stored[step.stored].field}': one value that may be missing is several"
                )
            way.pass_options(counts.astype(np.bool_))


def _check_room(
    table: RNTupleTable, cluster: int, end: int, stored: int, below: Sequence[Step], leaves: Sequence[int]
) -> None:
    """Whether what lists hold is there, before memory is asked for it."""
    nearest, each = list(leaves), 1
    for step in below:
        if step.kind != "array":
            nearest = [step.stored]
            break
        each *= step.length
    there = min(int(table.pages.elements[number, cluster]) for number in nearest)
    if end * each > there:
        raise DamageError(
            f"field '{table.stored[stored].field}': its lists hold {end * each} elements, {there} are there"
        )


def _answered(walk: _Down, ends: NDArray[np.int64]) -> Span | None:
    """Send an answer; the next question, or None at the end."""
    try:
        return walk.send(ends)
    except StopIteration:
        return None


def _joined(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Offsets of lists one after the other, from 0."""
    if len(parts) == 1:
        return parts[0]
    joined = np.zeros(sum(len(part) - 1 for part in parts) + 1, dtype=np.int64)
    at = 0
    for part in parts:
        np.add(part[1:], joined[at], out=joined[at + 1 : at + len(part)])
        at += len(part) - 1
    return joined
