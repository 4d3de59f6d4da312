"""CSV, TSV and other delimited text.

The delimiter and the names are found in the first lines; a pass over the file finds the rows and the type of each
column over all of them, so that a type never hangs on what was read. Invariant: numbers have the bits of Python's
``float`` and ``int``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.places import Place
from mlaas4hep.data.source import ColumnInfo, check_asked
from mlaas4hep.data.tables import cells, numbers
from mlaas4hep.data.tables.dialect import Dialect, sniff
from mlaas4hep.data.tables.rows import Rows, find_rows, kept
from mlaas4hep.data.tables.source import TableSource, readable
from mlaas4hep.data.tables.text import Text, open_text, view_of
from mlaas4hep.errors import DataError, nearest
from mlaas4hep.spec.columns import Column, DType

_HARD_CELLS = 4096
_TEXT_REASON = "text, not numbers"
_ANY_NUMBER = 255 & ~numbers.TEXT
_KINDS: dict[DType, int] = {
    "float64": _ANY_NUMBER,
    "int64": numbers.WHOLE | numbers.NEGATIVE,
    "uint64": numbers.WHOLE | numbers.LARGE,
    "bool": numbers.TRUTH,
}


@dataclass(frozen=True)
class _Table:
    """What a pass over a file found out."""

    dialect: Dialect
    rows: Rows
    columns: dict[str, ColumnInfo]
    places: dict[str, int]


class DelimitedSource(TableSource):
    """A table of delimited text."""

    def __init__(self, place: Place, head: bytes) -> None:
        super().__init__(place)
        self._text = open_text(place, head)
        self._table: _Table = kept(place, "delimited", lambda: _survey(self._text, place.url))
        self._describe(self._table.columns, self._table.rows.entries)

    def _read(self, names: list[str], start: int, stop: int) -> dict[str, Column]:
        """Straight into the arrays of the whole range."""
        dtypes = [info.type.dtype for name in names if (info := self.columns[name]).type is not None]
        out = np.empty((len(names), stop - start), dtype=np.int64)
        wanted = np.array([_KINDS[dtype] for dtype in dtypes], dtype=np.uint8)
        targets = np.full(len(self._table.dialect.names), -1, dtype=np.int64)
        targets[[self._table.places[name] for name in names]] = np.arange(len(names))
        bounds = self.clusters
        for cluster in range(*self._touched(start, stop)):
            low, high = max(start, int(bounds[cluster])), min(stop, int(bounds[cluster + 1]))
            self._fill(out, targets, wanted, cluster, low, high, low - start)
        return {
            name: row.astype(np.bool_) if dtype == "bool" else row.view(dtype)
            for name, row, dtype in zip(names, out, dtypes, strict=True)
        }

    @cached_property
    def texts(self) -> frozenset[str]:
        """See `mlaas4hep.data.source.Texts.texts`."""
        return frozenset(one.name for one in self.columns.values() if one.reason == _TEXT_REASON)

    def read_text(self, name: str, entry_start: int, entry_stop: int) -> NDArray[Any]:
        """See `mlaas4hep.data.source.Texts.read_text`."""
        if name not in self.texts:
            raise DataError(f"{self.path}: has no column of text '{name}'{nearest(name, self.texts)}")
        check_asked(self, (), entry_start, entry_stop)
        words = np.empty(entry_stop - entry_start, dtype=object)
        bounds = self.clusters
        for cluster in range(*self._touched(entry_start, entry_stop)):
            low, high = max(entry_start, int(bounds[cluster])), min(entry_stop, int(bounds[cluster + 1]))
            words[low - entry_start : high - entry_start] = self._words(name, cluster, low, high)
        return words

    def _words(self, name: str, cluster: int, low: int, high: int) -> list[str]:
        rows, delimiter = self._table.rows, self._table.dialect.delimiter
        data = bytes(self._text.read(int(rows.offsets[cluster]), int(rows.offsets[cluster + 1])))
        text, spans = np.frombuffer(data, np.uint8), np.full((high - low, 2), -1, dtype=np.int64)
        skip = low - int(self.clusters[cluster])
        done = cells.spans_of(text, delimiter, skip, high - low, self._table.places[name], spans)
        if done != high - low or (spans < 0).any():
            raise DataError(f"{self.path}: is not what it was when the file was opened")
        return [data[first:last].decode("utf-8", "replace") for first, last in spans.tolist()]

    def _fill(
        self,
        out: NDArray[np.int64],
        targets: NDArray[np.int64],
        wanted: NDArray[np.uint8],
        cluster: int,
        low: int,
        high: int,
        at_row: int,
    ) -> None:
        rows = self._table.rows
        first, last = int(rows.offsets[cluster]), int(rows.offsets[cluster + 1])
        text = view_of(self._text.read(first, last))
        skip = low - int(self.clusters[cluster])
        size = _HARD_CELLS
        while True:
            hard = np.empty((size, 4), dtype=np.int64)
            delimiter = self._table.dialect.delimiter
            done, met, status, at = cells.convert(text, delimiter, skip, high - low, targets, wanted, out, at_row, hard)
            if status != cells.DONE or done != high - low:
                line = int(rows.lines[cluster]) + int(np.count_nonzero(text[:at] == 10)) + 1
                raise DataError(f"{self.path}, line {line}: is not what it was when the file was opened")
            if met <= size:
                break
            size = met
        for target, row, begin, end in hard[:met].tolist():
            out[target, row] = np.float64(float(text[begin:end].tobytes())).view(np.int64)

    def _cluster_bytes(self, names: Sequence[str], cluster: int) -> int:
        rows = self._table.rows
        size = int(rows.offsets[cluster + 1] - rows.offsets[cluster])
        return size + 8 * len(names) * int(rows.entries[cluster + 1] - rows.entries[cluster])


def _survey(text: Text, where: str) -> _Table:
    dialect = sniff(text, where)
    looker = _Looker(dialect, where)
    rows = find_rows(text, where, looker, start=dialect.start, line=dialect.line)
    columns: dict[str, ColumnInfo] = {}
    for name, kinds in zip(dialect.names, looker.kinds.tolist(), strict=True):
        twice = ColumnInfo(name, None, "text or numbers", "several columns have this name")
        columns[name] = twice if name in columns else describe(name, kinds)
    return _Table(dialect, rows, columns, {name: place for place, name in enumerate(dialect.names)})


class _Looker:
    """See `mlaas4hep.data.tables.rows.Looker`."""

    def __init__(self, dialect: Dialect, where: str) -> None:
        self._dialect = dialect
        self._where = where
        self.kinds: NDArray[np.uint8] = np.zeros(len(dialect.names), dtype=np.uint8)

    def look(
        self, text: NDArray[np.uint8], at: int, *, final: bool, max_rows: int, max_bytes: int, line: int
    ) -> tuple[int, int, bool]:
        """Look at rows, and add the kinds of their cells."""
        after, rows, status, found = cells.survey(
            text, at, len(text), final, self._dialect.delimiter, max_rows, max_bytes, self.kinds
        )
        if status in (cells.RAGGED, cells.OPEN_QUOTE):
            number = line + int(np.count_nonzero(text[at:after] == 10)) + 1
            raise DataError(f"{self._where}, line {number}: {self._problem(status, found)}")
        return after, rows, status == cells.UNFINISHED

    def _problem(self, status: int, found: int) -> str:
        if status == cells.OPEN_QUOTE:
            return "a quoted cell begins there that never ends; the file is truncated or damaged"
        expected = len(self._dialect.names)
        return (
            f"has {found} cells, but there are {expected} columns "
            f"(separated by {self._dialect.spoken}); the file is damaged, or has a line that is no row"
        )


def describe(name: str, kinds: int) -> ColumnInfo:
    """A column by the kinds of all of its cells."""
    if kinds & numbers.TEXT:
        return ColumnInfo(name, None, "text", _TEXT_REASON)
    if kinds & numbers.TRUTH and kinds & ~(numbers.TRUTH | numbers.MISSING):
        return ColumnInfo(name, None, "bool or number", "true or false in some rows, numbers in others")
    return readable(name, 0, _dtype(kinds))


def _dtype(kinds: int) -> DType:
    if kinds == numbers.TRUTH:
        return "bool"
    if not kinds or kinds & (numbers.MISSING | numbers.REAL):
        return "float64"
    if not kinds & numbers.LARGE:
        return "int64"
    return "float64" if kinds & numbers.NEGATIVE else "uint64"
