"""Scores as Parquet, written by pyarrow: one row group an append, and what the file says of itself in its metadata.

Invariant: columns have the types that they have in memory and no missing values; NaN stays NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

from numpy.typing import NDArray

from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.places import open_place
from mlaas4hep.data.places.file import PlaceFile
from mlaas4hep.errors import DataError, MissingExtraError
from mlaas4hep.score.stamp import KEY
from mlaas4hep.score.writers import Layout


class Parquet:
    """One table a file."""

    suffix = ".parquet"
    whole = False

    def table(self, asked: str, original: FileEntry) -> str:
        """See `mlaas4hep.score.writers.Format.table`."""
        return ""

    def begin(self, file: IO[bytes], layout: Layout) -> ParquetWriter:
        """See `mlaas4hep.score.writers.Format.begin`."""
        return ParquetWriter(file, layout)

    def stamp(self, path: str) -> bytes | None:
        """See `mlaas4hep.score.writers.Format.stamp`."""
        arrow = arrow_of()
        place = open_place(path)
        try:
            found = arrow.parquet.read_metadata(PlaceFile(place)).metadata or {}
        except arrow.ArrowException as error:
            raise DataError(f"{place.url}: is no Parquet file, or damaged: {error}") from error
        finally:
            place.close()
        told: bytes | None = found.get(KEY.encode())
        return told


class ParquetWriter:
    """Appends row groups."""

    def __init__(self, file: IO[bytes], layout: Layout) -> None:
        self._arrow = arrow = arrow_of()
        fields = [arrow.field(name, arrow.from_numpy_dtype(one), nullable=False) for name, one in layout.types.items()]
        self._schema = arrow.schema(fields)
        self._writer = writer_of(file, self._schema)

    def append(self, values: Mapping[str, NDArray[Any]]) -> None:
        """See `mlaas4hep.score.writers.Writer.append`."""
        columns = [self._arrow.array(values[name]) for name in self._schema.names]
        table = self._arrow.Table.from_arrays(columns, schema=self._schema)
        self._writer.write_table(table, row_group_size=max(table.num_rows, 1))

    def finish(self, stamp: bytes) -> None:
        """See `mlaas4hep.score.writers.Writer.finish`."""
        self._writer.add_key_value_metadata({KEY: stamp.decode()})
        self._writer.close()

    def close(self) -> None:
        """See `mlaas4hep.score.writers.Writer.close`."""
        self._writer.is_open = False  # or it would still write when it is forgotten


def writer_of(file: IO[bytes], schema: Any) -> Any:
    """pyarrow's writer over a file that stays open behind it."""
    arrow = arrow_of()
    target = arrow.PythonFile(file, mode="w")
    return arrow.parquet.ParquetWriter(target, schema, compression="zstd", compression_level=1)


def arrow_of() -> Any:
    """pyarrow with its Parquet; `MissingExtraError` where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", "writing Parquet") from error
    return pyarrow
