"""Reading table of an RNTuple: its columns, and where each page of them is.

Invariant: an `RNTupleTable` is a value. It holds no file, may be shared by threads and sent to other processes, and all
numbers in it were checked against each other and against the size of the file: what is read by it has the length that
is announced, whatever the file says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.places import Place
from mlaas4hep.data.root.blame import DamageError
from mlaas4hep.data.root.bytes import give_envelopes
from mlaas4hep.data.root.codecs import MAX_BYTES, inflate
from mlaas4hep.data.root.fields import Schema, Shape, Stored
from mlaas4hep.data.root.pagelists import PAGE, PageList, read_page_list
from mlaas4hep.data.root.pages import CHECKSUM_BYTES, INDEX, Encoding
from mlaas4hep.data.source import ColumnInfo
from mlaas4hep.errors import DataError


@dataclass(frozen=True)
class Pages:
    """All pages of the stored columns, column by column, cluster by cluster.

    Parameters
    ----------
    bounds
        int64 [columns, clusters + 1]: the pages of a column in a cluster are those from one to the next.
    seek, stored
        int64 [P]: place in the file and bytes there, without the checksum.
    first, count
        int64 [P]: number of the first element within the cluster, and how many there are.
    checked
        bool [P]: whether a checksum stands behind the page.
    elements, missing
        int64 [columns, clusters]: elements in all, and how many at the beginning are zero and not in the file.
    representation
        int16 [columns, clusters]: which of the column's representations is in use.
    same
        int64 [P]: the first page with the same bytes and encoding; writers store what is equal once.
    twin
        int64 [columns, clusters]: the first column of list ends with the same pages.
    """

    bounds: NDArray[np.int64]
    seek: NDArray[np.int64]
    stored: NDArray[np.int64]
    first: NDArray[np.int64]
    count: NDArray[np.int64]
    checked: NDArray[np.bool_]
    elements: NDArray[np.int64]
    missing: NDArray[np.int64]
    representation: NDArray[np.int16]
    same: NDArray[np.int64]
    twin: NDArray[np.int64]

    def overlapping(self, column: int, cluster: int, start: int, stop: int) -> range:
        """Numbers of the pages that hold some of the elements from ``start`` to ``stop`` (excluded) of a cluster."""
        low, high = self.bounds[column, cluster : cluster + 2].tolist()
        if stop <= start or low == high:
            return range(0)
        starts = self.first[low:high]
        begin = max(int(starts.searchsorted(start, side="right")) - 1, 0)
        return range(low + begin, low + int(starts.searchsorted(stop, side="left")))

    def whose(self, page: int) -> tuple[int, int]:
        """Column and cluster of a page."""
        column = int(self.bounds[:, 0].searchsorted(page, side="right")) - 1
        return column, int(self.bounds[column].searchsorted(page, side="right")) - 1

    def range_of(self, page: int) -> tuple[int, int]:
        """Bytes of a page in the file, with its checksum."""
        seek = int(self.seek[page])
        return seek, seek + int(self.stored[page]) + CHECKSUM_BYTES * bool(self.checked[page])


@dataclass(frozen=True)
class RNTupleTable:
    """Reading table of an RNTuple.

    Parameters
    ----------
    name
        Of the ntuple, with its folders.
    num_entries
        Events.
    columns
        What can be asked for, and what cannot and why.
    shapes
        By name of a column that can be read: how its numbers are found.
    stored
        The columns that the shapes name by number.
    clusters
        int64 [C + 1]: entries at which the clusters begin that have any, and the end.
    pages
        Where their elements are.
    """

    name: str
    num_entries: int
    columns: Mapping[str, ColumnInfo]
    shapes: Mapping[str, Shape]
    stored: Sequence[Stored]
    clusters: NDArray[np.int64]
    pages: Pages
    nbytes: int = field(init=False)

    def __post_init__(self) -> None:
        arrays = [value for value in vars(self.pages).values() if isinstance(value, np.ndarray)]
        for one in (*arrays, self.clusters):
            one.setflags(write=False)
        small = 800 * len(self.columns) + 600 * len(self.stored)
        object.__setattr__(self, "nbytes", sum(one.nbytes for one in arrays) + small)

    def behind(self, names: Iterable[str]) -> list[int]:
        """Numbers of the stored columns that hold the values and list ends of some columns, each once."""
        shapes = [self.shapes[name] for name in names]
        found = [step.stored for shape in shapes for step in shape.steps if step.stored >= 0]
        return list(dict.fromkeys([*found, *(shape.stored for shape in shapes)]))

    def ranges(self, names: Sequence[str], start: int, stop: int) -> list[tuple[int, int]]:
        """Byte ranges of the pages that a read needs, in the order of the file: for plans and reading ahead.

        Which pages of lists a part of a cluster needs is not known before their ends are read: about the same share.
        """
        found = set()
        for number in self.behind(names):
            for cluster, low, high in self.parts(start, stop):
                entries = int(self.clusters[cluster + 1] - self.clusters[cluster])
                elements = int(self.pages.elements[number, cluster])
                first, last = low * elements // entries, -(-high * elements // entries)
                found |= {self.pages.range_of(page) for page in self.pages.overlapping(number, cluster, first, last)}
        return sorted(found)

    def parts(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Clusters that overlap an entry range, and which of their entries do."""
        if stop <= start:
            return []
        first = int(self.clusters.searchsorted(start, side="right")) - 1
        last = int(self.clusters.searchsorted(stop, side="left"))
        bounds = self.clusters[first : last + 1].tolist()
        return [
            (first + number, max(start - low, 0), min(stop, high) - low)
            for number, (low, high) in enumerate(pairwise(bounds))
        ]


def describe_ntuple(ntuple: Any, place: Place, name: str) -> RNTupleTable:
    """Build the reading table of an RNTuple.

    Parameters
    ----------
    ntuple
        As uproot opened it.
    place
        The file; page lists are read from it.
    name
        With its folders.

    Raises
    ------
    DataError
        Metadata is damaged, or uses a feature of the format that is not known here.
    """
    try:
        give_envelopes(ntuple, place)
        flags = int(ntuple.header.feature_flag) | int(ntuple.footer.feature_flag)
        if flags:
            raise DamageError(f"it uses features of the format that are not known here (flags {flags:#x})")
        schema = Schema(ntuple)
        lists = _page_lists(ntuple.footer.cluster_group_records, place)
        bounds, kept = _clusters([one for each in lists for one in each.clusters])
        pages = _Placed(schema.stored, lists, bounds, kept, place.size).pages()
    except DamageError as error:
        raise DataError(f"{place.url}, tree '{name}': is damaged: {error}") from error
    return RNTupleTable(name, int(bounds[-1]), schema.columns, schema.shapes, tuple(schema.stored), bounds, pages)


def _page_lists(groups: Sequence[Any], place: Place) -> list[PageList]:
    links = [one.page_list_link for one in groups]
    ranges = [(int(link.locator.offset), int(link.locator.offset) + int(link.locator.num_bytes)) for link in links]
    for link, (start, stop) in zip(links, ranges, strict=True):
        if not 0 < start < stop <= place.size or int(link.env_uncomp_size) > MAX_BYTES:
            raise DamageError(
                f"a page list of {link.env_uncomp_size} bytes is announced at the bytes {start} to {stop}, but the "
                f"file has {place.size}"
            )
    stored = zip(links, place.read(ranges), strict=True)
    lists = [read_page_list(inflate(data, int(link.env_uncomp_size))) for link, data in stored]
    for group, found in zip(groups, lists, strict=True):
        if len(found.clusters) != int(group.num_clusters):
            raise DamageError(f"a page list has {len(found.clusters)} clusters, {group.num_clusters} are announced")
    return lists


def _clusters(summaries: Sequence[tuple[int, int]]) -> tuple[NDArray[np.int64], list[int]]:
    """Boundaries of the clusters that have entries, and which these are."""
    bounds, kept = [0], []
    for number, (first, entries) in enumerate(summaries):
        if first != bounds[-1]:
            raise DamageError(f"cluster {number} begins with the entry {first}, {bounds[-1]} is expected")
        if entries:
            bounds.append(first + entries)
            kept.append(number)
    if bounds[-1] >= 1 << 48:
        raise DamageError(f"{bounds[-1]} entries are announced")
    return np.array(bounds, dtype=np.int64), kept


class _Placed:
    """Pages of the page lists, sorted by stored column and cluster, and checked."""

    def __init__(
        self,
        columns: Sequence[Stored],
        lists: Sequence[PageList],
        bounds: NDArray[np.int64],
        kept: Sequence[int],
        file_bytes: int,
    ) -> None:
        self._columns = columns
        self._bounds = bounds
        self._file_bytes = file_bytes
        every = [counts for one in lists for counts in one.counts]
        known = max(
            [len(counts) for counts in every] + [one + 1 for column in columns for one in column.physical], default=0
        )
        self._counts = np.full((len(kept), known), -1, dtype=np.int64)
        self._starts = np.zeros((len(kept), known), dtype=np.int64)
        self._all = np.concatenate([one.pages for one in lists]) if lists else np.empty(0, PAGE)
        totals = np.cumsum([0, *(int(counts.clip(0).sum()) for counts in every)])
        for row, number in enumerate(kept):
            counts = every[number]
            self._counts[row, : len(counts)] = counts
            self._starts[row, : len(counts)] = totals[number] + np.cumsum(counts.clip(0)) - counts.clip(0)

    def pages(self) -> Pages:
        used, starts, counts = self._in_use()
        ends = np.cumsum(counts.ravel())
        bounds = _from_to(ends, counts.shape)
        picked = self._all[np.repeat(starts.ravel() - ends + counts.ravel(), counts.ravel()) + np.arange(counts.sum())]
        held = np.abs(picked["elements"].astype(np.int64))
        total = np.concatenate([[0], np.cumsum(held)])
        stored = total[bounds[:, 1:]] - total[bounds[:, :-1]]
        missing = self._missing(used, stored)
        encodings, kinds = self._encodings(used)
        kind = np.repeat(kinds.ravel(), counts.ravel())
        self._check(picked, held, np.array([one.bits for one in encodings], dtype=np.int64)[kind], bounds)
        same = _same(picked, kind)
        return Pages(
            bounds=bounds,
            seek=picked["seek"].astype(np.int64),
            stored=picked["stored"].astype(np.int64),
            first=total[:-1] - np.repeat((total[bounds[:, :-1]] - missing).ravel(), counts.ravel()),
            count=held,
            checked=picked["elements"] < 0,
            elements=stored + missing,
            missing=missing,
            representation=used,
            same=same,
            twin=self._twins(same, bounds),
        )

    def _in_use(self) -> tuple[NDArray[np.int16], NDArray[np.int64], NDArray[np.int64]]:
        """The representation that each column uses in each cluster, where its pages begin, and how many there are."""
        shape = (len(self._columns), len(self._counts))
        used = np.zeros(shape, dtype=np.int16)
        starts, counts = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        rows = np.arange(shape[1])
        for number, column in enumerate(self._columns):
            physical = np.array(column.physical)
            there = self._counts[:, physical] >= 0
            if np.any(there.sum(axis=1) > 1):
                raise DamageError(f"field '{column.field}' has several representations in one cluster")
            used[number] = there.argmax(axis=1)
            chosen = physical[used[number]]
            starts[number], counts[number] = self._starts[rows, chosen], self._counts[rows, chosen].clip(0)
        return used, starts, counts

    def _missing(self, used: NDArray[np.int16], stored: NDArray[np.int64]) -> NDArray[np.int64]:
        """Elements before the first one in the file, column by column and cluster by cluster; they are zero."""
        found = np.zeros_like(stored)
        low, entries = self._bounds[:-1], np.diff(self._bounds)
        for number, column in enumerate(self._columns):
            if not column.fixed:
                continue
            if int(self._bounds[-1]) * column.fixed >= 1 << 62:
                raise DamageError(f"field '{column.field}' is announced with {column.fixed} elements an entry")
            first = np.array([min(one, 1 << 62) for one in column.first])[used[number]]
            expected = entries * column.fixed
            found[number] = np.clip(first - low * column.fixed, 0, expected)
            wrong = np.flatnonzero(stored[number] + found[number] != expected)
            if len(wrong):
                where = int(wrong[0])
                raise DamageError(
                    f"field '{column.field}' has {stored[number, where]} elements for the entries {low[where]} to "
                    f"{low[where] + entries[where]}, {expected[where] - found[number, where]} are expected"
                )
        return found

    def _encodings(self, used: NDArray[np.int16]) -> tuple[list[Encoding], NDArray[np.int64]]:
        """All encodings, and which of them each column has in each cluster."""
        numbers: dict[Encoding, int] = {}
        kinds = np.zeros(used.shape, dtype=np.int64)
        for number, column in enumerate(self._columns):
            kinds[number] = np.array([numbers.setdefault(one, len(numbers)) for one in column.encodings])[used[number]]
        return list(numbers), kinds

    def _check(
        self, pages: NDArray[np.void], counts: NDArray[np.int64], bits: NDArray[np.int64], bounds: NDArray[np.int64]
    ) -> None:
        whole = (counts * bits + 7) // 8
        seek, stored = pages["seek"], pages["stored"].astype(np.int64)
        limit = np.uint64(self._file_bytes)
        ends = seek.clip(0, limit).astype(np.int64) + stored + CHECKSUM_BYTES * (pages["elements"] < 0)
        wrong = (seek > limit) | (ends > self._file_bytes) | (stored > whole) | (whole > MAX_BYTES)
        wrong |= (stored == 0) != (counts == 0)
        if wrong.any():
            page = int(np.flatnonzero(wrong)[0])
            number = int(bounds[:, 0].searchsorted(page, side="right")) - 1
            raise DamageError(
                f"a page of field '{self._columns[number].field}' is announced with {counts[page]} elements in "
                f"{stored[page]} bytes from byte {seek[page]} on; that cannot be, in a file of {self._file_bytes} bytes"
            )

    def _twins(self, same: NDArray[np.int64], bounds: NDArray[np.int64]) -> NDArray[np.int64]:
        """For each column of list ends, cluster by cluster, the first with the same pages; itself for all others."""
        twins = np.repeat(np.arange(len(self._columns))[:, None], len(self._counts), axis=1)
        first: dict[tuple[int, bytes], int] = {}
        for number, column in enumerate(self._columns):
            if column.encodings[0].number in INDEX and column.first == (0,):
                for cluster in range(len(self._counts)):
                    low, high = bounds[number, cluster : cluster + 2].tolist()
                    twins[number, cluster] = first.setdefault((cluster, same[low:high].tobytes()), number)
        return twins


def _from_to(ends: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """For each row of a table of runs, where each run begins, and where the last one ends."""
    bounds = np.zeros((shape[0], shape[1] + 1), dtype=np.int64)
    if ends.size:
        bounds[:, 1:] = ends.reshape(shape)
        bounds[1:, 0] = bounds[:-1, -1]
    return bounds


def _same(pages: NDArray[np.void], kind: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each page the first with the same place, elements and encoding."""
    found = np.arange(len(pages))
    if not len(pages):
        return found
    order = np.lexsort((found, kind, pages["elements"], pages["stored"], pages["seek"]))
    ordered, kinds = pages[order], kind[order]
    begins = np.ones(len(pages), dtype=np.bool_)
    begins[1:] = (ordered[1:] != ordered[:-1]) | (kinds[1:] != kinds[:-1])
    found[order] = order[np.flatnonzero(begins)][np.cumsum(begins) - 1]
    return found
