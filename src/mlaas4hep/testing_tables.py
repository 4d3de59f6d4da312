"""Small files of the table formats, for `mlaas4hep.testing.write_events`.

Invariant: the values written are those given, to the last bit: floats are written as the float64 that they are.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep.spec.columns import Column, Jagged, Nested, values_of, with_values

_AVRO = {"b": "boolean", "i": "long", "u": "long"}


def write_table(path: Path, columns: Mapping[str, Column], format: str, cluster: int) -> None:
    """Write columns in a table format; see `mlaas4hep.testing.write_events`."""
    _WRITERS[format](path, columns, cluster)


@contextmanager
def text_clusters(rows: int) -> Iterator[None]:
    """While this lasts, files without clusters of their own (CSV, JSON, Avro's small blocks) are opened with so many.

    Avro's blocks stay whole; `mlaas4hep.testing.write_events` gives each the entries of a cluster.
    """
    from mlaas4hep.data.tables import rows as module

    before = module.CLUSTER_ROWS
    module.CLUSTER_ROWS = rows
    try:
        yield
    finally:
        module.CLUSTER_ROWS = before


def as_stored(columns: Mapping[str, Column], format: str) -> dict[str, Column]:
    """The same values in the types that a file of a format gives back.

    Text has int64 and float64 alone, Avro no narrow whole numbers; ROOT and Parquet keep what they are given.
    """
    return {name: with_values(one, _stored(values_of(one), format)) for name, one in columns.items()}


def _stored(values: np.ndarray[Any, Any], format: str) -> np.ndarray[Any, Any]:
    if values.dtype.kind in "iu" and format in ("csv", "json", "avro"):
        return values.astype(np.int64)
    if values.dtype.kind == "f" and format in ("csv", "json"):
        return values.astype(np.float64)
    return values


def _write_parquet(path: Path, columns: Mapping[str, Column], cluster: int) -> None:
    import pyarrow
    import pyarrow.parquet

    def array(column: Column) -> Any:
        if isinstance(column, Nested):
            return pyarrow.ListArray.from_arrays(column.offsets.astype(np.int32), array(column.inner))
        if isinstance(column, Jagged):
            return pyarrow.ListArray.from_arrays(column.offsets.astype(np.int32), pyarrow.array(column.values))
        return pyarrow.array(column)

    table = pyarrow.table({name: array(column) for name, column in columns.items()})
    pyarrow.parquet.write_table(table, path, row_group_size=cluster)


def _write_csv(path: Path, columns: Mapping[str, Column], cluster: int) -> None:
    lists = [name for name, column in columns.items() if not isinstance(column, np.ndarray)]
    if lists:
        raise ValueError(f"CSV has no lists: {', '.join(lists)}")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(one.tolist() for one in columns.values()), strict=True))


def _write_json(path: Path, columns: Mapping[str, Column], cluster: int) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in _rows(columns)))


def _write_avro(path: Path, columns: Mapping[str, Column], cluster: int) -> None:
    import fastavro
    from fastavro.write import Writer

    fields = [{"name": name, "type": _avro_type(column)} for name, column in columns.items()]
    schema = fastavro.parse_schema({"type": "record", "name": "Event", "fields": fields})
    with path.open("wb") as file:
        writer = Writer(file, schema, codec="deflate", sync_interval=1 << 30)
        for number, row in enumerate(_rows(columns), start=1):
            writer.write(row)
            if number % cluster == 0:
                writer.flush()
        writer.flush()


def _avro_type(column: Column) -> Any:
    dtype = column.dtype
    one: Any = _AVRO.get(dtype.kind, "double" if dtype.itemsize == 8 else "float")
    for _ in range({Jagged: 1, Nested: 2}.get(type(column), 0)):
        one = {"type": "array", "items": one}
    return one


def _rows(columns: Mapping[str, Column]) -> Iterator[dict[str, Any]]:
    """Events as plain values; a float32 as the float64 that it is."""
    for row in zip(*(one.tolist() for one in columns.values()), strict=True):
        yield dict(zip(columns, row, strict=True))


_WRITERS: dict[str, Callable[[Path, Mapping[str, Column], int], None]] = {
    "parquet": _write_parquet,
    "csv": _write_csv,
    "json": _write_json,
    "avro": _write_avro,
}
