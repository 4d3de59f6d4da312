"""JSON: an object a line, or one array of objects; an object is an event.

Objects inside objects are named with dots, lists are jagged columns. Most rows are decoded by a strict type; those
that hold what JSON has no word for, ``NaN`` and ``Infinity``, by Python's own reader. Invariant: the type of a column
hangs on all rows of the file, and whole numbers stay whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.places import Place
from mlaas4hep.data.source import ColumnInfo
from mlaas4hep.data.tables import object_rows
from mlaas4hep.data.tables.rows import Rows, find_rows, kept
from mlaas4hep.data.tables.shapes import Shape, Wanted, describe, strict_type
from mlaas4hep.data.tables.source import TableSource
from mlaas4hep.data.tables.text import Text, open_text
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Column

_BOM = b"\xef\xbb\xbf"
_HEAD_BYTES = 1 << 16
# What decoded objects take, in bytes a byte of text.
_OBJECT_BYTES = 6


@dataclass(frozen=True)
class _Table:
    """What a pass over a file found out."""

    is_array: bool
    rows: Rows
    shape: Shape
    columns: dict[str, ColumnInfo]


class JsonSource(TableSource):
    """A table of JSON objects."""

    def __init__(self, place: Place, head: bytes) -> None:
        super().__init__(place)
        self._text = open_text(place, head)
        self._table: _Table = kept(place, "json", lambda: _survey(self._text, place.url))
        self._describe(self._table.columns, self._table.rows.entries)
        self._wanted: dict[tuple[str, ...], Wanted] = {}

    def _read_cluster(self, names: list[str], cluster: int, start: int, stop: int) -> dict[str, Column]:
        rows = self._table.rows
        wanted = self._decoder(names)
        data = bytes(self._text.read(int(rows.offsets[cluster]), int(rows.offsets[cluster + 1])))
        where = f"{self.path}, from line {int(rows.lines[cluster]) + 1} on"
        first = int(self.clusters[cluster])
        decoded = _decode(data, wanted.type, is_array=self._table.is_array, where=where)
        try:
            return wanted.columns(decoded[start - first : stop - first])
        except (TypeError, OverflowError, ValueError) as error:
            raise DataError(f"{where}: is not what it was when the file was opened: {error}") from error

    def _decoder(self, names: list[str]) -> Wanted:
        key = tuple(names)
        if key not in self._wanted:
            dtypes = {name: info.type.dtype for name in names if (info := self.columns[name]).type is not None}
            self._wanted = {key: Wanted(self._table.shape, dtypes)}
        return self._wanted[key]

    def _nothing(self, names: list[str]) -> dict[str, Column]:
        return self._decoder(names).columns([])

    def _cluster_bytes(self, names: Sequence[str], cluster: int) -> int:
        offsets = self._table.rows.offsets
        return _OBJECT_BYTES * int(offsets[cluster + 1] - offsets[cluster])


def _decode(data: bytes, kind: Any, *, is_array: bool, where: str) -> list[Any]:
    """Rows of a text, typed."""
    try:
        if is_array:
            return list(msgspec.json.decode(b"[" + data.rstrip(b", \t\r\n") + b"]", type=list[kind]))
        return list(msgspec.json.Decoder(kind).decode_lines(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # one row at a time tells which
    return [_decode_row(row, kind, where) for row in _rows(data, is_array=is_array)]


def _decode_row(row: bytes, kind: Any, where: str) -> Any:
    try:
        return msgspec.json.decode(row, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = _plain(row, where)
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise DataError(f"{where}: is not what it was when the file was opened: {error}") from error


def _plain(row: bytes, where: str) -> Any:
    """By Python's own reader, which takes NaN and Infinity."""
    try:
        return json.loads(row)
    except (ValueError, RecursionError) as error:
        reason = f"{error}" if not isinstance(error, RecursionError) else "brackets inside brackets without end"
        raise DataError(f"{where}: is no JSON object: {reason}; it begins with {row.strip()[:40]!r}") from error


def _rows(data: bytes, *, is_array: bool) -> Iterator[bytes]:
    """Texts of the single rows."""
    if not is_array:
        yield from (line for line in data.split(b"\n") if line.strip())
        return
    view, at = np.frombuffer(data + b"]", np.uint8), 0
    while at < len(data):
        after, rows, _ = object_rows.elements(view, at, True, 1, len(data) + 1)
        if not rows:
            return
        yield data[at:after].strip(b", \t\r\n")
        at = after


def _survey(text: Text, where: str) -> _Table:
    head = bytes(text.read(0, _HEAD_BYTES))
    begin = len(_BOM) if head.startswith(_BOM) else 0
    while head[begin : begin + 1].isspace():
        begin += 1
    is_array = head[begin : begin + 1] == b"["
    looker = _Looker(where, is_array=is_array)
    start = begin + is_array
    rows = find_rows(text, where, looker, start=start, line=head[:start].count(b"\n"))
    if is_array:
        _check_end(text, where, int(rows.offsets[-1]))
    return _Table(is_array, rows, looker.shape, describe(looker.shape))


def _check_end(text: Text, where: str, at: int) -> None:
    """An array that does not end with its bracket was cut off."""
    rest = bytes(text.read(at, at + _HEAD_BYTES))
    if not rest.lstrip().startswith(b"]"):
        raise DataError(f"{where}: is truncated: its array of objects has no closing bracket; cut at {rest[:40]!r}")
    if rest.lstrip()[1:].strip():
        raise DataError(f"{where}: there is more behind the closing bracket of its array: {rest.lstrip()[1:41]!r}")


class _Looker:
    """See `mlaas4hep.data.tables.rows.Looker`."""

    def __init__(self, where: str, *, is_array: bool) -> None:
        self._where = where
        self._is_array = is_array
        self._find = object_rows.elements if is_array else object_rows.lines
        self.shape = Shape()
        self._type: Any = strict_type(self.shape)

    def look(
        self, text: NDArray[np.uint8], at: int, *, final: bool, max_rows: int, max_bytes: int, line: int
    ) -> tuple[int, int, bool]:
        """Look at rows; those that do not fit the shape make it grow."""
        after, rows, ended = self._find(text, at, final, max_rows, max_bytes)
        if rows:
            self._fit(text[at:after].tobytes(), line)
        return int(after), int(rows), bool(ended)

    def _fit(self, data: bytes, line: int) -> None:
        kind = self._type
        try:
            if self._is_array:
                msgspec.json.decode(b"[" + data.rstrip(b", \t\r\n") + b"]", type=list[kind])  # type: ignore[valid-type]
            else:
                msgspec.json.Decoder(kind).decode_lines(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._fit_rows(data, line)

    def _fit_rows(self, data: bytes, line: int) -> None:
        decoder, at = msgspec.json.Decoder(self._type), 0
        for row in _rows(data, is_array=self._is_array):
            try:
                decoder.decode(row)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                at = data.index(row, at)
                number = line + data[:at].count(b"\n") + 1
                if self._grow(row, f"{self._where}, line {number}"):
                    decoder = msgspec.json.Decoder(self._type)
            at += 1

    def _grow(self, row: bytes, where: str) -> bool:
        value = _plain(row, where)
        if not isinstance(value, dict):
            raise DataError(f"{where}: an event is an object ({{...}}), this is {row.strip()[:40]!r}")
        try:
            grown = self.shape.merge(value)
        except RecursionError as error:
            raise DataError(f"{where}: brackets inside brackets without end") from error
        if grown:
            self._type = strict_type(self.shape)
        return grown
