"""Many events by name in one body: Arrow's IPC stream or Parquet to columns, and scores back in the same format.

Columns go the way of `mlaas4hep.serve.events` from here on. Invariant (law 6): an event in Arrow has the bits of the
same event in JSON or a file. A null is missing in a floating column; a null list is empty, as in a Parquet file.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import RequestError, nearest
from mlaas4hep.serve.events import MAX_NAME, MAX_PROBLEMS, Prediction
from mlaas4hep.spec.columns import Column, ColumnType, Jagged, Kind, Nested

ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"

# Of the columns of one body, as they are in memory; compressed ones may be far smaller on the wire.
MAX_EXPANDED_BYTES = 1 << 30

_KINDS: dict[int, Kind] = {0: "flat", 1: "jagged", 2: "nested"}


def read_bulk(
    body: bytes, media_type: str, types: Mapping[str, ColumnType], *, max_instances: int
) -> tuple[dict[str, Column], int]:
    """Columns as they are sent, and the number of events.

    Raises
    ------
    RequestError
        The body is not of the format, or a column is missing, unknown or of another type.
    """
    import pyarrow

    try:
        table = (_read_arrow if media_type == ARROW else _read_parquet)(body, max_instances)
        names = table.column_names
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, struct.error) as error:
        raise RequestError(f"the body is not {media_type}: {error}") from error
    unknown = (name for name in names if name not in types)
    problems = [_unknown(name, types) for name in islice(unknown, MAX_PROBLEMS)]
    problems += [
        f"column '{name}' ({one.kind}, {one.dtype}) is missing" for name, one in types.items() if name not in names
    ]
    problems += [f"column '{name}' is there {names.count(name)} times" for name in types if names.count(name) > 1]
    if problems:
        raise RequestError("\n".join(problems[:MAX_PROBLEMS]))
    return {name: _column(name, one, table.column(name)) for name, one in types.items()}, table.num_rows


def encode_bulk(prediction: Prediction, media_type: str) -> bytes:
    """One float32 column a score and one row an event, null where it is not selected; the schema names the model."""
    import pyarrow

    selected = prediction.selected
    arrays = []
    for scores in prediction.scores.T:
        values = np.zeros(len(selected), np.float32)
        values[selected] = scores
        arrays.append(pyarrow.array(values, mask=~selected))
    table = pyarrow.table(arrays, names=list(prediction.score_names)).replace_schema_metadata(
        {"model_name": prediction.model_name, "model_version": prediction.model_version}
    )
    sink = pyarrow.BufferOutputStream()
    if media_type == ARROW:
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        import pyarrow.parquet

        pyarrow.parquet.write_table(table, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _read_arrow(body: bytes, max_instances: int) -> Any:
    import pyarrow

    _check_size(0, _unpacked_bytes(body), max_instances)
    batches, rows, size = [], 0, 0
    with pyarrow.ipc.open_stream(pyarrow.py_buffer(body)) as reader:
        for batch in reader:
            batch.validate(full=True)
            rows, size = rows + batch.num_rows, size + batch.nbytes
            _check_size(rows, size, max_instances)
            batches.append(batch)
        return pyarrow.Table.from_batches(batches, schema=reader.schema)


def _unpacked_bytes(body: bytes) -> int:
    """Bytes that the compressed buffers of a stream announce, and Arrow makes room for before it unpacks them.

    Arrow's reader has no bound, so its messages are looked at first (Message.fbs, Schema.fbs of its format): a buffer
    of a compressed batch begins with its own length, -1 where it stayed as it is.
    """
    import pyarrow

    found = 0
    for message in pyarrow.ipc.MessageReader.open_stream(pyarrow.py_buffer(body)):
        head, data = memoryview(message.metadata), message.body
        batch = _field(head, _indirect(head, 0), 2)
        if message.type == "dictionary batch" and batch:
            batch = _field(head, _indirect(head, batch), 1)
        if message.type not in ("record batch", "dictionary batch") or not batch:
            continue
        table = _indirect(head, batch)
        buffers = _field(head, table, 2)
        if not _field(head, table, 3) or not buffers:
            continue
        start = _indirect(head, buffers)
        content = memoryview(data)
        for number in range(*struct.unpack_from("<I", head, start)):
            at, length = struct.unpack_from("<qq", head, start + 4 + 16 * number)
            if length >= 8:
                found += max(*struct.unpack_from("<q", content, at), 0)
    return found


def _indirect(head: memoryview, at: int) -> int:
    """Where an offset of a flatbuffer leads."""
    return at + int(struct.unpack_from("<I", head, at)[0])


def _field(head: memoryview, table: int, number: int) -> int:
    """Where a field of a table of a flatbuffer stands; 0 where it is left out."""
    shape = table - int(struct.unpack_from("<i", head, table)[0])
    (size,) = struct.unpack_from("<H", head, shape)
    slot = 4 + 2 * number
    (offset,) = struct.unpack_from("<H", head, shape + slot) if slot + 2 <= size else (0,)
    return table + int(offset) if offset else 0


def _read_parquet(body: bytes, max_instances: int) -> Any:
    import pyarrow
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(pyarrow.BufferReader(body)) as file:
        groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
        _check_size(file.metadata.num_rows, sum(one.total_byte_size for one in groups), max_instances)
        table = file.read(use_threads=False)
        table.validate(full=True)
        return table


def _check_size(rows: int, size: int, max_instances: int) -> None:
    if rows > max_instances:
        raise RequestError(f"{rows} events are asked; this server takes {max_instances} a request")
    if size > MAX_EXPANDED_BYTES:
        raise RequestError(f"the columns have {size} bytes in memory; this server takes {MAX_EXPANDED_BYTES} a request")


def _unknown(name: str, types: Mapping[str, ColumnType]) -> str:
    return f"column '{name[:MAX_NAME]}' is not one of the model's{nearest(name[:MAX_NAME], types)}"


def _column(name: str, declared: ColumnType, chunks: Any) -> Column:
    import pyarrow
    import pyarrow.compute

    array, counts = chunks.combine_chunks(), []
    while pyarrow.types.is_list(array.type) or pyarrow.types.is_large_list(array.type):
        lengths = pyarrow.compute.list_value_length(array).fill_null(0)
        counts.append(lengths.to_numpy(zero_copy_only=False).astype(np.int64))
        array = array.flatten()
    where = f"column '{name}' ({declared.kind}, {declared.dtype})"
    if _KINDS.get(len(counts)) != declared.kind or not _fits(array.type, declared.dtype):
        raise RequestError(f"{where}: asked for {declared}, found {chunks.type}")
    values = _values(array, declared, where)
    if declared.kind == "flat":
        return values
    if declared.kind == "jagged":
        return Jagged.from_counts(counts[0], values)
    return Nested.from_counts(counts[0], Jagged.from_counts(counts[1], values))


def _fits(found: Any, asked: str) -> bool:
    """As with JSON: integers are fine where floats are declared, and nothing else is converted."""
    import pyarrow

    if asked == "bool":
        return bool(pyarrow.types.is_boolean(found))
    floating = asked.startswith("float") and pyarrow.types.is_floating(found)
    return bool(pyarrow.types.is_integer(found) or floating)


def _values(array: Any, declared: ColumnType, where: str) -> NDArray[Any]:
    if array.null_count and not declared.dtype.startswith("float"):
        raise RequestError(f"{where}: {array.null_count} values are null, which only a number with a point may be")
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    if declared.dtype in ("int64", "uint64") and len(values):
        limits = np.iinfo(declared.dtype)
        if int(values.min()) < limits.min or int(values.max()) > limits.max:
            found = f"found {values.min()} to {values.max()}"
            raise RequestError(f"{where}: asked for {limits.min} to {limits.max}, {found}")
    return values
