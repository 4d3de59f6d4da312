"""A copy of a Parquet file with the new columns behind the old ones, written by pyarrow.

Columns keep the types that pyarrow reads them with, missing values and nested ones, too. Invariant: rows are those of
the input, in their order; nothing but row groups and compression is another than it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

from numpy.typing import NDArray

from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.places import open_place
from mlaas4hep.data.places.file import PlaceFile
from mlaas4hep.errors import DataError
from mlaas4hep.score.parquet_files import Parquet, arrow_of, writer_of
from mlaas4hep.score.stamp import KEY
from mlaas4hep.score.writers import Layout

_AT_ONCE = 16_384


class ParquetCopy(Parquet):
    """The table of the input with new columns, in a file of its own."""

    whole = True

    def table(self, asked: str, original: FileEntry) -> str:
        """See `mlaas4hep.score.writers.Format.table`."""
        return ""

    def begin(self, file: IO[bytes], layout: Layout) -> ParquetCopyWriter:  # type: ignore[override]
        """See `mlaas4hep.score.writers.Format.begin`."""
        return ParquetCopyWriter(file, layout)


class ParquetCopyWriter:
    """Reads the input's rows again, batch by batch, and writes them with the new columns.

    Raises
    ------
    DataError
        The input cannot be read, or has a column of the name of a new one.
    """

    def __init__(self, file: IO[bytes], layout: Layout) -> None:
        self._arrow = arrow_of()
        original = layout.original
        self._place = open_place(original.path, replicas=original.replicas)
        try:
            self._begin(file, layout)
        except BaseException:
            self._place.close()
            raise

    def _begin(self, file: IO[bytes], layout: Layout) -> None:
        arrow = self._arrow
        try:
            whole = arrow.parquet.ParquetFile(PlaceFile(self._place))
        except arrow.ArrowException as error:
            raise DataError(f"{self._place.url}: is no Parquet file, or damaged: {error}") from error
        names = [name for name in whole.schema_arrow.names if name not in layout.drop]
        taken = sorted(set(layout.types) & set(names))
        if taken:
            raise DataError(
                f"{self._place.url}: has a column '{taken[0]}' already, so that a copy cannot have a new one of that "
                "name; give --column another template, or take a file beside it: --format parquet"
            )
        kept = [one for one in whole.schema_arrow if one.name in names]
        self._old = arrow.schema(kept, metadata=whole.schema_arrow.metadata)
        self._new = [
            arrow.field(name, arrow.from_numpy_dtype(one), nullable=False) for name, one in layout.types.items()
        ]
        self._writer = writer_of(file, arrow.schema([*kept, *self._new], metadata=self._old.metadata))
        self._batches = whole.iter_batches(batch_size=_AT_ONCE, columns=names)
        self._waiting = self._old.empty_table()

    def append(self, values: Mapping[str, NDArray[Any]]) -> None:
        """See `mlaas4hep.score.writers.Writer.append`."""
        table = self._rows(len(next(iter(values.values()))))
        for field in self._new:
            table = table.append_column(field, self._arrow.array(values[field.name], field.type))
        self._writer.write_table(table, row_group_size=max(table.num_rows, 1))

    def finish(self, stamp: bytes) -> None:
        """See `mlaas4hep.score.writers.Writer.finish`."""
        self._writer.add_key_value_metadata({KEY: stamp.decode()})
        self._writer.close()

    def close(self) -> None:
        """See `mlaas4hep.score.writers.Writer.close`."""
        self._writer.is_open = False  # or it would still write when it is forgotten
        self._place.close()

    def _rows(self, count: int) -> Any:
        """The next ones of the input."""
        arrow, held = self._arrow, [self._waiting]
        have = self._waiting.num_rows
        try:
            while have < count:
                batch = next(self._batches)
                held.append(arrow.Table.from_batches([batch]).replace_schema_metadata(self._old.metadata))
                have += batch.num_rows
        except StopIteration as error:
            raise DataError(f"{self._place.url}: ends after {have} of {count} further rows") from error
        except arrow.ArrowException as error:
            raise DataError(f"{self._place.url}: cannot be copied: {error}") from error
        table = arrow.concat_tables(held)
        self._waiting = table.slice(count)
        return table.slice(0, count)
