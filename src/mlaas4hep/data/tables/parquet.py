"""Parquet files: row groups as clusters, by pyarrow.

Whole row groups are fetched from the place at once, asked columns only; parts of a row group are taken from a running
reader, page by page, so that a giant row group is never held whole. Invariant: whatever is wrong with a file,
`DataError` says so with its path and row group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlaas4hep.data.places import Place
from mlaas4hep.data.places.file import PlaceFile
from mlaas4hep.data.source import Weight
from mlaas4hep.data.tables.parquet_columns import Leaf, find_leaves, take
from mlaas4hep.data.tables.rows import kept
from mlaas4hep.data.tables.source import TableSource
from mlaas4hep.errors import DataError, MissingExtraError
from mlaas4hep.spec.columns import Column

_PAGE_BYTES = 1 << 20
_BATCH_ROWS = 16_384


@dataclass
class _Cursor:
    """A running reader inside a row group: ``at`` is the row that comes next."""

    group: int
    paths: tuple[str, ...]
    batches: Iterator[Any]
    at: int = 0
    held: Any = None


class ParquetSource(TableSource):
    """A Parquet table."""

    divides_clusters = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._pyarrow, parquet = _pyarrow(place.url)
        self._file = _Fetched(place)
        with self._blamed(""):
            metadata = kept(place, "parquet", lambda: parquet.read_metadata(self._file))
            self._parquet = parquet.ParquetFile(
                self._file,
                metadata=metadata,
                pre_buffer=False,
                buffer_size=_PAGE_BYTES,
                page_checksum_verification=True,
            )
            self._leaves: dict[str, Leaf]
            columns, self._leaves = kept(place, "parquet columns", lambda: find_leaves(self._parquet))
            self._groups, clusters = kept(place, "parquet groups", self._find_groups)
        self._describe(columns, clusters)
        self._cursor: _Cursor | None = None

    def _find_groups(self) -> tuple[list[int], np.ndarray[Any, np.dtype[np.int64]]]:
        """Row groups that have rows, and where these begin."""
        metadata = self._parquet.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        for group, size in enumerate(sizes):
            values = [metadata.row_group(group).column(leaf.index).num_values for leaf in self._leaves.values()]
            short = [
                found for found, leaf in zip(values, self._leaves.values(), strict=True) if not leaf.fits(found, size)
            ]
            if size < 0 or short:
                raise DataError(
                    f"{self.path}, row group {group}: is damaged: it announces {size} rows, but a column of it "
                    f"{short[0] if short else size} values"
                )
        groups = [group for group, size in enumerate(sizes) if size]
        clusters = np.cumsum([0, *(sizes[group] for group in groups)], dtype=np.int64)
        if clusters[-1] != metadata.num_rows:
            raise DataError(
                f"{self.path}: is damaged: it announces {metadata.num_rows} rows, its row groups hold {clusters[-1]}"
            )
        return groups, clusters

    def _read_cluster(self, names: list[str], cluster: int, start: int, stop: int) -> dict[str, Column]:
        group, first = self._groups[cluster], int(self.clusters[cluster])
        paths = tuple(self._leaves[name].path for name in names)
        with self._blamed(f", row group {group}"):
            if stop - start == self.clusters[cluster + 1] - first:
                table = self._whole(group, names, paths)
            else:
                table = self._part(group, paths, start - first, stop - first)
            return self._taken(table, names, f", row group {group}")

    def _taken(self, table: Any, names: list[str], what: str) -> dict[str, Column]:
        try:
            return {name: take(table, self._leaves[name], self.columns[name]) for name in names}
        except DataError as error:
            raise DataError(f"{self.path}{what}: {error}") from error

    def _whole(self, group: int, names: list[str], paths: tuple[str, ...]) -> Any:
        chunks = [self._parquet.metadata.row_group(group).column(self._leaves[name].index) for name in names]
        self._file.fetch([_byte_range(chunk) for chunk in chunks])
        try:
            return self._parquet.read_row_group(group, columns=list(paths), use_threads=False)
        finally:
            self._file.forget()

    def _part(self, group: int, paths: tuple[str, ...], start: int, stop: int) -> Any:
        """Rows of a row group, going on from where the last read ended, if that was before them."""
        cursor = self._cursor
        if cursor is None or (cursor.group, cursor.paths) != (group, paths) or cursor.at > start:
            batches = self._parquet.iter_batches(
                _BATCH_ROWS, row_groups=[group], columns=list(paths), use_threads=False
            )
            cursor = _Cursor(group, paths, iter(batches))
        self._cursor = None  # until all is read: a reader that failed is not used again
        parts = []
        while cursor.at < stop:
            if cursor.held is None or not cursor.held.num_rows:
                cursor.held = next(cursor.batches, None)
                if cursor.held is None:
                    raise DataError(f"{self.path}, row group {group}: ends at row {cursor.at}, before it is complete")
            passed = min((start if cursor.at < start else stop) - cursor.at, cursor.held.num_rows)
            if cursor.at >= start:
                parts.append(cursor.held.slice(0, passed))
            cursor.held, cursor.at = cursor.held.slice(passed), cursor.at + passed
        self._cursor = cursor
        return self._pyarrow.Table.from_batches(parts)

    def _nothing(self, names: list[str]) -> dict[str, Column]:
        return self._taken(self._parquet.schema_arrow.empty_table(), names, "")

    def _cluster_bytes(self, names: Sequence[str], cluster: int) -> int:
        """By the number of values: bytes in the file tell nothing of columns that are packed by a dictionary."""
        group = self._parquet.metadata.row_group(self._groups[cluster])
        leaves = [self._leaves[name] for name in names if name in self._leaves]
        return sum(group.column(leaf.index).num_values * 12 + group.num_rows * 8 * leaf.lists for leaf in leaves)

    def weigh(self, names: Sequence[str], entry_start: int, entry_stop: int) -> Weight:
        """See `mlaas4hep.data.source.Weighed.weigh`; row groups are fetched whole."""
        leaves = [self._leaves[name] for name in dict.fromkeys(names) if name in self._leaves]
        groups = [
            self._parquet.metadata.row_group(self._groups[cluster])
            for cluster in range(*self._touched(entry_start, entry_stop))
        ]
        chunks = [group.column(leaf.index) for group in groups for leaf in leaves]
        stored = sum(one.total_compressed_size for one in chunks)
        return Weight(stored, sum(one.total_uncompressed_size for one in chunks))

    def close(self) -> None:
        """See `mlaas4hep.data.source.Source.close`."""
        self._cursor = None
        self._parquet.close()
        super().close()

    @contextmanager
    def _blamed(self, what: str) -> Iterator[None]:
        """Turn what damaged bytes provoke in pyarrow into a `DataError`."""
        try:
            yield
        except (self._pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise DataError(
                f"{self.path}{what}: cannot be read: {lines[0] if lines else type(error).__name__}"
            ) from error


def _pyarrow(url: str) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError("pyarrow", "parquet", f"reading {url}, a Parquet file,") from error
    return pyarrow, pyarrow.parquet


def _byte_range(chunk: Any) -> tuple[int, int]:
    """Where the pages of a column chunk lie."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset and chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    return start, start + chunk.total_compressed_size


class _Fetched(PlaceFile):
    """A place as a file, with some ranges fetched beforehand, all at once."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._ranges: list[tuple[int, int, memoryview]] = []

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Get ranges; neighbours come as one."""
        joined: list[list[int]] = []
        for start, stop in sorted(set(ranges)):
            if not 0 <= start <= stop <= self._place.size:
                raise DataError(
                    f"{self._place.url}: is damaged: a column lies at bytes {start} to {stop}, the file has "
                    f"{self._place.size}"
                )
            if joined and start <= joined[-1][1]:
                joined[-1][1] = max(joined[-1][1], stop)
            else:
                joined.append([start, stop])
        data = self._place.read([(start, stop) for start, stop in joined])
        self._ranges = [(start, stop, memoryview(one)) for (start, stop), one in zip(joined, data, strict=True)]

    def forget(self) -> None:
        """Let the fetched bytes go."""
        self._ranges = []

    def read(self, size: int = -1) -> Any:
        """Bytes from here on, without a copy where they were fetched."""
        at = self._at
        stop = self._place.size if size < 0 else min(at + size, self._place.size)
        if stop <= at:
            return b""
        self._at = stop
        for first, last, data in self._ranges:
            if first <= at and stop <= last:
                return data[at - first : stop - first]
        return self._place.read([(at, stop)])[0]
