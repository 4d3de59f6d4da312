"""Avro object container files: blocks as clusters.

A block is inflated by itself and taken apart by a compiled program for the asked columns; what is not asked for is
stepped over. Invariant: the marker behind every block that is read stands where it should.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.places import Place
from mlaas4hep.data.places.file import buffered
from mlaas4hep.data.source import ColumnInfo
from mlaas4hep.data.tables import rows
from mlaas4hep.data.tables.avro_codecs import CODECS, MAX_BLOCK_BYTES, inflate
from mlaas4hep.data.tables.avro_records import run
from mlaas4hep.data.tables.avro_schema import Node, Program, compile_program, describe, parse_schema
from mlaas4hep.data.tables.source import TableSource, assemble
from mlaas4hep.data.tables.text import view_of
from mlaas4hep.errors import DataError, nearest
from mlaas4hep.spec.columns import Column, DType, concat_columns

_MARKER = 16
_MAX_HEADER = 64 << 20
# A record of a sane file takes some bytes; one that announces more records than this a byte is damaged.
_MOST_RECORDS_A_BYTE = 100_000


@dataclass(frozen=True, eq=False)
class _Table:
    """What stands in the header, and where the blocks are: bytes [B + 1] and records before each [B + 1]."""

    schema: Node
    codec: str
    marker: bytes
    columns: dict[str, ColumnInfo]
    offsets: NDArray[np.int64]
    records: NDArray[np.int64]
    clusters: NDArray[np.int64]


class AvroSource(TableSource):
    """A table of Avro records."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._table: _Table = rows.kept(place, "avro", lambda: _survey(place))
        self._describe(self._table.columns, self._table.clusters)
        self._programs: dict[tuple[str, ...], tuple[Program, list[DType]]] = {}

    def _read(self, names: list[str], start: int, stop: int) -> dict[str, Column]:
        """Only the blocks that the range touches, even where a cluster is many."""
        if start == stop:
            return self._columns(names, b"", 0, "")
        records = self._table.records
        first = int(np.searchsorted(records, start, side="right")) - 1
        last = int(np.searchsorted(records, stop, side="left"))
        offsets = self._table.offsets
        begin = int(offsets[first])
        [data] = self._place.read([(begin, int(offsets[last]))])
        view = memoryview(data)
        parts = []
        for block in range(first, last):
            part = self._block(names, block, view[int(offsets[block]) - begin : int(offsets[block + 1]) - begin])
            low, high = max(start - int(records[block]), 0), min(stop, int(records[block + 1])) - int(records[block])
            parts.append({name: column[low:high] for name, column in part.items()})
        return concat_columns(parts)

    def _block(self, names: list[str], block: int, data: memoryview) -> dict[str, Column]:
        where = f"{self.path}, block {block}"
        count, size, at = _block_head(data, where)
        if data[at + size :] != self._table.marker or count != int(np.diff(self._table.records[block : block + 2])[0]):
            raise DataError(f"{where}: is not what it was when the file was opened")
        return self._columns(names, inflate(data[at : at + size], self._table.codec, where), count, where)

    def _columns(self, names: list[str], data: bytes | memoryview, count: int, where: str) -> dict[str, Column]:
        program, dtypes = self._program(names)
        view = view_of(data)
        arguments = (view, count, program.code, program.targets)
        nowhere = np.zeros(program.num_streams, np.int64)
        found, end = run(*arguments, nowhere, nowhere, False)
        if end != len(view):
            raise DataError(f"{where}: is damaged: its {count} records do not fill its {len(view)} bytes")
        ends = np.cumsum(found)
        values = np.empty(int(ends[-1]), np.int64)
        run(*arguments, ends - found, values, True)
        streams = np.split(values, ends[:-1])
        return {
            name: assemble([streams[one] for one in program.lists[place]], _typed(streams[place], dtype))
            for place, (name, dtype) in enumerate(zip(names, dtypes, strict=True))
        }

    def _program(self, names: list[str]) -> tuple[Program, list[DType]]:
        key = tuple(names)
        if key not in self._programs:
            dtypes = {name: info.type.dtype for name in names if (info := self.columns[name]).type is not None}
            self._programs = {key: (compile_program(self._table.schema, dtypes), list(dtypes.values()))}
        return self._programs[key]

    def _cluster_bytes(self, names: Sequence[str], cluster: int) -> int:
        """Values are eight bytes while they are taken out; packed blocks are assumed to shrink to a quarter."""
        bounds = np.searchsorted(self._table.records, self.clusters[cluster : cluster + 2])
        packed = int(np.diff(self._table.offsets[bounds])[0])
        return packed * (2 if self._table.codec == "null" else 8)


def _typed(bits: NDArray[np.int64], dtype: DType) -> NDArray[np.generic]:
    if dtype == "int64":
        return bits
    if dtype == "bool":
        return bits.astype(np.bool_)
    with np.errstate(over="ignore", invalid="ignore"):
        return bits.view(np.float64).astype(dtype, copy=False)


def _survey(place: Place) -> _Table:
    with buffered(place) as file:
        meta = _Header(file.read, place.url).read()
        start = file.tell()
        codec = meta.get("avro.codec", b"null").decode("latin-1")
        if codec not in CODECS:
            raise DataError(f"{place.url}: is packed by '{codec}', which is not read here{nearest(codec, CODECS)}")
        schema = _schema(meta.get("avro.schema", b""), place.url)
        marker = meta[""]
        offsets, records = [start], [0]
        while offsets[-1] < place.size:
            where = f"{place.url}, block {len(offsets) - 1}"
            head = file.read(20)
            count, size, at = _block_head(memoryview(head), where)
            stop = offsets[-1] + at + size + _MARKER
            if stop > place.size:
                raise DataError(f"{where}: is truncated: it ends at byte {stop}, the file at {place.size}")
            file.seek(stop - _MARKER)
            if file.read(_MARKER) != marker:
                raise DataError(f"{where}: is damaged: the marker behind it, at byte {stop - _MARKER}, is not there")
            if count:
                offsets.append(stop)
                records.append(records[-1] + count)
            else:
                offsets[-1] = stop
    found = (np.array(offsets, np.int64), np.array(records, np.int64))
    return _Table(schema, codec, marker, describe(schema), *found, _clusters(*found))


def _schema(text: bytes, where: str) -> Node:
    try:
        return parse_schema(msgspec.json.decode(text))
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{where}: is damaged: its schema cannot be read: {error}") from error


def _clusters(offsets: NDArray[np.int64], records: NDArray[np.int64]) -> NDArray[np.int64]:
    """Neighbouring blocks together, up to the bounds that rows of text have."""
    bounds, begin = [0], 0
    for block in range(1, len(records)):
        full = (
            records[block] - records[begin] >= rows.CLUSTER_ROWS
            or offsets[block] - offsets[begin] >= rows.CLUSTER_BYTES
        )
        if full or block == len(records) - 1:
            bounds.append(int(records[block]))
            begin = block
    return np.array(bounds, dtype=np.int64)


def _block_head(data: memoryview, where: str) -> tuple[int, int, int]:
    """Records, bytes, and where these begin."""
    count, at = _whole(data, 0)
    size, at = _whole(data, at)
    if at < 0 or count < 0 or not 0 <= size <= MAX_BLOCK_BYTES or count > _MOST_RECORDS_A_BYTE * max(size, 1):
        raise DataError(f"{where}: is damaged: it announces {count} records in {size} bytes")
    return count, size, at


def _whole(data: memoryview, at: int) -> tuple[int, int]:
    """A whole number in Avro's variable length, and the byte behind it; -1 where there is none."""
    value = shift = 0
    while 0 <= at < len(data) and shift < 70:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return (value >> 1) ^ -(value & 1), at
    return 0, -1


class _Header:
    """The map at the beginning of a file, and the marker behind it (under the empty name)."""

    def __init__(self, read: object, where: str) -> None:
        self._read_bytes = read
        self._where = where

    def read(self) -> dict[str, bytes]:
        """Names and values."""
        self._bytes(4)
        found: dict[str, bytes] = {}
        while count := self._number():
            if count < 0:
                self._number()
            for _ in range(abs(count)):
                name = self._bytes(self._number()).decode("utf-8", "replace")
                found[name] = self._bytes(self._number())
        found[""] = self._bytes(_MARKER)
        return found

    def _number(self) -> int:
        data = bytearray()
        while len(data) < 10:
            data += self._bytes(1)
            if data[-1] < 128:
                break
        value, at = _whole(memoryview(data), 0)
        if at < 0:
            raise DataError(f"{self._where}: is damaged: its header cannot be read")
        return value

    def _bytes(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise DataError(f"{self._where}: is damaged: its header announces {size} bytes")
        data: bytes = self._read_bytes(size)  # type: ignore[operator]
        if len(data) < size:
            raise DataError(f"{self._where}: is truncated: it ends within its header")
        return data
