"""Where the pages of an RNTuple are: its page list envelopes, read at once.

uproot parses the schema; page lists are parsed here, because a large file has a hundred thousand pages, and because
what they say must be checked before a byte is read for it. Invariant: what comes back lies within the envelope, and the
envelope has its checksum.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import xxhash
from numpy.typing import NDArray

from mlaas4hep.data.places import Buffer
from mlaas4hep.data.root.blame import DamageError

PAGE = np.dtype([("elements", "<i4"), ("stored", "<i4"), ("seek", "<u8")])
"""A page in a page list: elements (negative where a checksum stands behind it), bytes, place in the file."""

_ENVELOPE = 3
_CHECKSUM = struct.Struct("<Q")
_SIZE, _ITEMS = struct.Struct("<q"), struct.Struct("<I")
_SUMMARY, _ELEMENT_OFFSET = struct.Struct("<QQ"), struct.Struct("<q")
_LIST_HEAD = _SIZE.size + _ITEMS.size
_SHARDED = 1


@dataclass(frozen=True)
class PageList:
    """What one page list envelope says.

    Parameters
    ----------
    clusters
        First entry and number of entries of each cluster.
    pages
        `PAGE` [P], cluster by cluster, column by column. Large locators (pages beyond 2 GB) are refused.
    counts
        For each cluster, the number of pages of each of the columns that it knows; -1 where the column is suppressed.
    """

    clusters: tuple[tuple[int, int], ...]
    pages: NDArray[np.void]
    counts: tuple[NDArray[np.int64], ...]


def read_page_list(envelope: Buffer) -> PageList:
    """Parse an inflated page list envelope.

    Raises
    ------
    DamageError
        Its checksum does not match, a frame reaches beyond the one around it, or clusters and page lists differ in
        number.
    """
    return _Reader(memoryview(envelope)).read()


class _Reader:
    def __init__(self, data: memoryview) -> None:
        if len(data) < 3 * _CHECKSUM.size:
            raise DamageError(f"a page list of {len(data)} bytes")
        body, announced = data[: -_CHECKSUM.size], _CHECKSUM.unpack(data[-_CHECKSUM.size :])[0]
        head = _CHECKSUM.unpack_from(data)[0]
        kind, length = head & 0xFFFF, head >> 16
        if kind != _ENVELOPE or length != len(data):
            raise DamageError(f"a page list of {length} bytes was expected where {len(data)} of kind {kind} are")
        if xxhash.xxh3_64_intdigest(body) != announced:
            raise DamageError("the checksum of a page list does not match")
        self._data = body

    def read(self) -> PageList:
        at = 2 * _CHECKSUM.size
        frame = self._frame(at, len(self._data), "the list of clusters")
        clusters = tuple(self._summaries(*frame))
        items, begin, end = self._frame(frame[2], len(self._data), "the list of page lists")
        if items != len(clusters):
            raise DamageError(f"{items} page lists are there for {len(clusters)} clusters")
        starts: list[int] = []
        counts: list[NDArray[np.int64]] = []
        for _ in range(items):
            columns, inner, begin = self._frame(begin, end, "the page list of a cluster")
            counts.append(self._columns(columns, inner, begin, starts))
        return PageList(clusters, self._pages(starts, list(chain.from_iterable(counts))), tuple(counts))

    def _frame(self, at: int, limit: int, what: str) -> tuple[int, int, int]:
        """Number of items of a list frame, where they begin, and where it ends."""
        if at + _LIST_HEAD > limit:
            raise DamageError(f"{what} begins at byte {at} of {limit}")
        size, items = -_SIZE.unpack_from(self._data, at)[0], _ITEMS.unpack_from(self._data, at + _SIZE.size)[0]
        if not _LIST_HEAD <= size <= limit - at or items > size:
            raise DamageError(f"{what} announces {items} items in {size} bytes, {limit - at} are there")
        return items, at + _LIST_HEAD, at + size

    def _summaries(self, items: int, at: int, end: int) -> list[tuple[int, int]]:
        found = []
        for _ in range(items):
            if at + _SIZE.size + _SUMMARY.size > end:
                raise DamageError("the list of clusters is cut off")
            size = _SIZE.unpack_from(self._data, at)[0]
            first, entries = _SUMMARY.unpack_from(self._data, at + _SIZE.size)
            if not _SIZE.size + _SUMMARY.size <= size <= end - at:
                raise DamageError(f"a cluster is described in {size} bytes")
            if entries >> 56 & _SHARDED:
                raise DamageError("its clusters are sharded, which is not known here")
            found.append((first, entries & ((1 << 56) - 1)))
            at += size
        return found

    def _columns(self, columns: int, at: int, end: int, starts: list[int]) -> NDArray[np.int64]:
        """Number of pages of each column; where they are described goes to ``starts``."""
        counts = np.empty(columns, dtype=np.int64)
        for column in range(columns):
            items, begin, after = self._frame(at, end, "the page list of a column")
            border = begin + items * PAGE.itemsize
            if border + _ELEMENT_OFFSET.size > after:
                raise DamageError(f"a page list announces {items} pages in {after - begin} bytes")
            suppressed = _ELEMENT_OFFSET.unpack_from(self._data, border)[0] < 0
            if suppressed and items:
                raise DamageError(f"a suppressed column has {items} pages")
            counts[column] = -1 if suppressed else items
            starts.append(begin)
            at = after
        return counts

    def _pages(self, starts: Sequence[int], counts: Sequence[int]) -> NDArray[np.void]:
        parts = [
            np.frombuffer(self._data, PAGE, count, start)
            for start, count in zip(starts, counts, strict=True)
            if count > 0
        ]
        pages = np.concatenate(parts) if parts else np.empty(0, PAGE)
        if np.any(pages["stored"] < 0):
            raise DamageError("it has pages beyond 2 GB, or of a kind of place that is not known here")
        return pages
