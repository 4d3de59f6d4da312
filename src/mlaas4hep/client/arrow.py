"""Tables of events as Arrow's IPC stream, and scores back: about ten times quicker than JSON, where pyarrow is.

pyarrow is imported here alone, and only when a table is asked for. Invariant: what Arrow cannot say as JSON does, such
as a column of nothing but empty lists, is left to JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from mlaas4hep.client.asking import Scores
from mlaas4hep.client.questions import Question, check, predict_path
from mlaas4hep.client.splitting import Cut, Limits, Pin, even_spans
from mlaas4hep.client.wire import Reply
from mlaas4hep.errors import ServerError

MEDIA_TYPE = "application/vnd.apache.arrow.stream"
_HEADERS = f"Content-Type: {MEDIA_TYPE}\r\n"


def table_cut(model: str, columns: Mapping[str, Any], limits: Limits, pin: Pin) -> Cut[Scores] | None:
    """A question about a table, in parts; None where it is to be asked as JSON."""
    table = _table_of(columns)
    if table is None or not table.num_rows:
        return None

    def ask(start: int, stop: int) -> Question[Scores]:
        path = predict_path(model, pin.version)

        def read(reply: Reply) -> Scores:
            check(reply, path)
            return _scores(reply, path, stop - start, pin)

        return Question("POST", path, read, (_encoded(table.slice(start, stop - start)),), _HEADERS)

    return Cut(even_spans(table.num_rows, table.nbytes / table.num_rows, limits), ask, joined_scores)


def joined_scores(parts: Sequence[Scores]) -> Scores:
    """Scores of parts, behind each other."""
    if len(parts) == 1:
        return parts[0]
    names = list(parts[0].scores)
    selected = np.concatenate([one.selected for one in parts])
    return Scores(selected, {name: np.concatenate([one.scores[name] for one in parts]) for name in names})


def _table_of(columns: Mapping[str, Any]) -> Any:
    """All columns; None where pyarrow is not there, or one of them is not what JSON would make of it."""
    if find_spec("pyarrow") is None:
        return None
    import pyarrow

    arrays = []
    for column in columns.values():
        try:
            array = _array(column)
        except (pyarrow.ArrowException, TypeError, ValueError, OverflowError):
            return None
        if not _is_plain(array.type):
            return None
        arrays.append(array)
    return pyarrow.table(arrays, names=list(columns))


def _array(column: Any) -> Any:
    import pyarrow

    if isinstance(column, pyarrow.Array | pyarrow.ChunkedArray):
        return column
    if hasattr(column, "to_arrow"):  # Polars
        return column.to_arrow()
    if isinstance(column, np.ndarray) and column.ndim == 1 and column.dtype.kind in "fiub":
        return pyarrow.array(np.ascontiguousarray(column, column.dtype.newbyteorder("=")))
    if isinstance(getattr(column, "dtype", None), np.dtype) and hasattr(
        column, "to_numpy"
    ):  # pandas, but its own types
        values = column.to_numpy()
        return _array(values) if values.dtype.kind in "fiub" else pyarrow.array(values)
    for method in ("to_list", "tolist"):
        if (listed := getattr(column, method, None)) is not None:
            return pyarrow.array(listed())
    return pyarrow.array(column)


def _is_plain(found: Any) -> bool:
    """Numbers and truth values, in lists of at most two levels."""
    from pyarrow import types

    for _ in range(2):
        if types.is_list(found) or types.is_large_list(found):
            found = found.value_type
    return bool(types.is_boolean(found) or types.is_integer(found) or types.is_floating(found))


def _encoded(table: Any) -> bytes:
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _scores(reply: Reply, path: str, rows: int, pin: Pin) -> Scores:
    import pyarrow

    try:
        table = pyarrow.ipc.open_stream(pyarrow.py_buffer(reply.body)).read_all()
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        scores = {name: one.to_numpy(zero_copy_only=False).astype(np.float32) for name, one in columns.items()}
        selected = [np.asarray(one.is_valid()) for one in columns.values()]
    except (pyarrow.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ServerError(f"{reply.url}{path} answered in another form; is that 'mlaas4hep serve'?") from error
    if table.num_rows != rows or not scores:
        raise ServerError(f"{reply.url}{path} answered {table.num_rows} of {rows} events")
    pin.note((table.schema.metadata or {}).get(b"model_version", b"").decode("utf-8", "replace"))
    return Scores(selected[0], scores)
