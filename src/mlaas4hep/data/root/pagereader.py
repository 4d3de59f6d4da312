"""Reads pages of one RNTuple, many at once, each inflated once as long as reads follow each other.

Invariant: a page is asked of the place only if nobody in this process has it or is about to have it; what was claimed
is always delivered, whatever goes wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.places import Place
from mlaas4hep.data.root.ntable import RNTupleTable
from mlaas4hep.data.root.pagememo import MEMO, PageMemo, Pending
from mlaas4hep.data.root.pages import Encoding, copy_elements, open_page
from mlaas4hep.errors import DataError

_MEMO_ENDS = 4096


class Span(NamedTuple):
    """Elements from ``start`` to ``stop`` (excluded) of a stored column, counted within a cluster."""

    column: int
    cluster: int
    start: int
    stop: int


class PageReader:
    """Elements of stored columns, out of pages. Not to be shared by threads; its memo is.

    Parameters
    ----------
    place
        The file.
    table
        Where its pages are.
    memo
        Keeps the pages that a read needs in part.
    """

    def __init__(self, place: Place, table: RNTupleTable, *, memo: PageMemo = MEMO) -> None:
        self._place = place
        self._table = table
        self._pages = table.pages
        self._memo = memo
        self._owner = (place.identity, table.name)
        self._stored: dict[int, memoryview] = {}
        self._open: dict[int, NDArray[Any] | Pending] = {}
        self._promised: set[int] = set()
        self._asked: dict[int, int] = {}
        self._ends: dict[Span, NDArray[np.int64]] = {}
        self._last_ends: dict[tuple[int, int], tuple[int, int]] = {}

    def fetch(self, spans: Iterable[Span]) -> None:
        """Read the pages of some spans that are not there yet, all at once.

        Pages of which a part is left for the next read are inflated here, for all who wait for them; the others when
        they are taken, one after the other.
        """
        whole: set[int] = set()
        parts: dict[int, bool] = {}
        for span in spans:
            for number in self._pages.overlapping(*span):
                page = int(self._pages.same[number])
                if page not in self._stored and page not in self._open:
                    first, last = self._elements(number)
                    self._asked.setdefault(page, number)
                    if span.start <= first and last <= span.stop:
                        whole.add(page)
                    else:
                        parts[page] = last <= span.stop
        shared = {page: self._claim(page, drop=ends) for page, ends in parts.items() if page not in whole}
        self._read([*whole, *(page for page, mine in shared.items() if mine)])
        for page in reversed(shared):  # who promised them goes the other way
            self._deliver(page)

    def take(self, span: Span, out: NDArray[Any]) -> None:
        """Put the elements of a span, whose pages were fetched, into ``out`` [stop - start].

        Raises
        ------
        DataError
            A page is damaged, or has no such elements.
        """
        self.check(span)
        column, cluster, start, stop = span
        absent = min(max(int(self._pages.missing[column, cluster]) - start, 0), stop - start)
        out[:absent] = 0
        encoding = self._encoding(column, cluster)
        for page in self._pages.overlapping(*span):
            first, last = self._elements(page)
            low, high = max(start, first), min(stop, last)
            found = self._opened(int(self._pages.same[page]))
            copy_elements(found, encoding, last - first, low - first, high - first, out[low - start : high - start])

    def check(self, span: Span) -> None:
        """Refuse elements that are not there, before memory is asked for them.

        Raises
        ------
        DataError
            Names the field, what is asked for, and what is there.
        """
        there = int(self._pages.elements[span.column, span.cluster])
        if not 0 <= span.start <= span.stop <= there:
            raise DataError(
                f"{self._where(span.column, span.cluster)}: is damaged: the elements {span.start} to {span.stop} are "
                f"announced, {there} are there"
            )

    def ends_span(self, column: int, cluster: int, start: int, stop: int) -> Span:
        """What must be fetched for `ends`."""
        twin = int(self._pages.twin[column, cluster])
        known = start == 0 or self._last_ends.get((twin, cluster), (0, 0))[0] == start
        return Span(column, cluster, start if known else start - 1, stop)

    def ends(self, column: int, cluster: int, start: int, stop: int) -> NDArray[np.int64]:
        """Where lists end: int64 [stop - start + 1], beginning with the end of the list before ``start``.

        Raises
        ------
        DataError
            The ends fall, or a page is damaged.
        """
        twin = int(self._pages.twin[column, cluster])
        asked = Span(twin, cluster, start, stop)
        found = self._ends.get(asked)
        if found is None:
            span = self.ends_span(column, cluster, start, stop)
            self.check(span)
            found = np.empty(stop - start + 1, dtype=np.int64)
            if span.start == start:
                found[0] = self._last_ends[twin, cluster][1] if start else 0
            self.take(span, found[1:] if span.start == start else found)
            if found[0] < 0 or np.any(found[1:] < found[:-1]):
                raise DataError(f"{self._where(column, cluster)}: is damaged: list ends fall, or are negative")
            self._ends[asked] = found
        return found

    def settle(self) -> None:
        """End a read, well or not: break promises that were not kept, forget what the next read cannot begin with."""
        for page in self._promised:
            self._give_up(page)
        for span, found in self._ends.items():
            self._last_ends[span.column, span.cluster] = (span.stop, int(found[-1]))
        if len(self._last_ends) > _MEMO_ENDS:
            self._last_ends.clear()
        for kept in (self._promised, self._asked, self._stored, self._open, self._ends):
            kept.clear()
        self._memo.tick()

    def forget(self) -> None:
        """Give back all that is kept."""
        self._last_ends.clear()
        self._memo.forget(self._owner)

    def _elements(self, page: int) -> tuple[int, int]:
        """First element of a page and the one behind its last, counted within a cluster."""
        first = int(self._pages.first[page])
        return first, first + int(self._pages.count[page])

    def _claim(self, page: int, *, drop: bool) -> bool:
        """Take a page from the memo, or the promise of it; whether it is ours to read.

        What this read takes to its end is dropped at once, so that there is room for what it begins.
        """
        key = (self._owner, page)
        self._open[page], mine = self._memo.claim(key)
        if mine:
            self._promised.add(page)
        if drop:
            self._memo.drop(key)
        return mine

    def _read(self, pages: Iterable[int]) -> None:
        """Bytes of pages; those that were promised are offered to all and inflated."""
        order = sorted(pages, key=self._pages.seek.__getitem__)
        buffers = self._place.read([self._pages.range_of(page) for page in order]) if order else []
        self._stored.update({page: memoryview(data) for page, data in zip(order, buffers, strict=True)})
        promised = [page for page in order if page in self._promised]
        for page in promised:
            self._offer(page)
        for page in promised:
            self._deliver(page)

    def _offer(self, page: int) -> None:
        promised = self._open[page]
        if isinstance(promised, Pending):
            promised.offer(self._stored.pop(page))

    def _deliver(self, page: int) -> None:
        """Inflate a promised page for all, if nobody does it already."""
        promised = self._open[page]
        stored = promised.begin() if isinstance(promised, Pending) else None
        if stored is not None:
            found = None
            try:
                found = self._inflated(page, stored)
                if found.nbytes == self._pages.stored[page]:
                    found = found.copy()  # bytes of the file itself: they would keep all that was read with them
                self._open[page] = found
            finally:
                self._memo.deliver((self._owner, page), found)
                self._promised.discard(page)

    def _give_up(self, page: int) -> None:
        promised = self._open[page]
        if isinstance(promised, Pending) and promised.abandon():
            self._memo.deliver((self._owner, page), None)

    def _opened(self, page: int) -> NDArray[Any]:
        found = self._open.get(page)
        if isinstance(found, Pending):
            found = found.wait()
        if found is not None:
            return found
        if page not in self._stored:  # who promised it failed; so shall we, or not
            self._stored[page] = memoryview(self._place.read([self._pages.range_of(page)])[0])
        return self._inflated(page, self._stored[page])

    def _inflated(self, page: int, stored: memoryview) -> NDArray[Any]:
        number = self._asked[page]  # of those with the same bytes, the one that messages name
        column, cluster = self._pages.whose(number)
        count, checksum = int(self._pages.count[page]), bool(self._pages.checked[page])
        try:
            return open_page(stored, self._encoding(column, cluster), count, checksum=checksum)
        except ValueError as error:
            number -= int(self._pages.bounds[column, cluster])
            raise DataError(f"{self._where(column, cluster)}, page {number}: is damaged: {error}") from error

    def _encoding(self, column: int, cluster: int) -> Encoding:
        return self._table.stored[column].encodings[int(self._pages.representation[column, cluster])]

    def _where(self, column: int, cluster: int) -> str:
        low, high = self._table.clusters[cluster : cluster + 2].tolist()
        field = self._table.stored[column].field
        return f"{self._place.url}, tree '{self._table.name}', field '{field}', entries {low} to {high}"
