"""Columns of Parquet files: what they are, and from Arrow's arrays to ours.

Invariant: the type of a column hangs on the schema and the statistics of all row groups; lists that are null are empty,
and a null is NaN, or an error where a whole number was promised.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.source import ColumnInfo
from mlaas4hep.data.tables.source import assemble, readable
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Column, declared_dtype


@dataclass(frozen=True)
class Leaf:
    """One column of numbers as Parquet stores it.

    Parameters
    ----------
    index
        Its place among all columns of the file.
    path
        By which pyarrow reads it.
    top, steps
        The field of the table that it is part of, and the members of structs from there to it.
    lists
        Lists around it.
    type
        Arrow's type of a value.
    """

    index: int
    path: str
    top: str
    steps: tuple[str, ...]
    lists: int
    type: Any

    def fits(self, values: int, rows: int) -> bool:
        """Whether so many values may be those of so many rows."""
        return values >= rows if self.lists else values == rows


def find_leaves(file: Any) -> tuple[dict[str, ColumnInfo], dict[str, Leaf]]:
    """All columns of a file by dotted names, and where those lie that can be read."""
    columns: dict[str, ColumnInfo] = {}
    leaves: dict[str, Leaf] = {}
    index = 0
    for field in file.schema_arrow:
        for name, leaf in _walk(field.type, field.name, field.name, (), 0, index):
            if name in columns:
                columns[name] = ColumnInfo(name, None, str(leaf.type), "several columns have this name")
                leaves.pop(name, None)
                continue
            columns[name] = _describe(name, leaf, file.metadata)
            if columns[name].type is not None:
                path = file.metadata.schema.column(leaf.index).path
                leaves[name] = Leaf(leaf.index, path, leaf.top, leaf.steps, leaf.lists, leaf.type)
        index += _count(field.type)
    return columns, leaves


def _walk(kind: Any, name: str, top: str, steps: tuple[str, ...], lists: int, index: int) -> Iterator[tuple[str, Leaf]]:
    """Columns below a type; their indices count all leaves in the order of the schema."""
    types = _types()
    kind = _plain(kind)
    if types.is_struct(kind):
        for field in kind:
            yield from _walk(field.type, f"{name}.{field.name}", top, (*steps, field.name), lists, index)
            index += _count(field.type)
    elif _is_list(kind):
        yield from _walk(kind.value_type, name, top, steps, lists + 1, index)
    else:
        yield name, Leaf(index, "", top, steps, lists, kind)


def _count(kind: Any) -> int:
    """Columns that Parquet makes of a type."""
    types = _types()
    kind = _plain(kind)
    if types.is_struct(kind):
        return sum(_count(field.type) for field in kind)
    if types.is_map(kind):
        return _count(kind.key_type) + _count(kind.item_type)
    return _count(kind.value_type) if _is_list(kind) else 1


def _plain(kind: Any) -> Any:
    """Without the cloaks of dictionaries and extensions."""
    types = _types()
    if types.is_dictionary(kind):
        return kind.value_type
    return kind.storage_type if hasattr(kind, "storage_type") else kind


def _is_list(kind: Any) -> bool:
    types = _types()
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _types() -> Any:
    import pyarrow.types

    return pyarrow.types


def _describe(name: str, leaf: Leaf, metadata: Any) -> ColumnInfo:
    dtype = _number_type(leaf.type)
    brackets = "[]" * leaf.lists
    if dtype is None:
        return ColumnInfo(name, None, f"{leaf.type}{brackets}", _why_not(leaf.type))
    declared = declared_dtype(dtype)
    if declared is None:
        return ColumnInfo(name, None, f"{leaf.type}{brackets}", "a number type that has no counterpart here")
    if dtype.kind in "biu" and not leaf.lists and _has_nulls(metadata, leaf.index):
        declared = "float64"
    return readable(name, leaf.lists, declared, dtype.name)


def _number_type(kind: Any) -> np.dtype[Any] | None:
    types = _types()
    if types.is_boolean(kind):
        return np.dtype(np.bool_)
    if types.is_null(kind):
        return np.dtype(np.float64)
    if types.is_integer(kind) or types.is_floating(kind):
        number: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
        return number
    return None


def _has_nulls(metadata: Any, index: int) -> bool:
    """Whether the statistics of any row group tell of a null."""
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(index).statistics
        if statistics is not None and statistics.has_null_count and statistics.null_count:
            return True
    return False


def _why_not(kind: Any) -> str:
    types = _types()
    if types.is_string(kind) or types.is_large_string(kind):
        return "text, not numbers"
    if types.is_map(kind):
        return "a map, not numbers"
    return f"values of the type {kind}, not numbers"


def take(table: Any, leaf: Leaf, info: ColumnInfo) -> Column:
    """A column out of what pyarrow read.

    Raises
    ------
    DataError
        A null among whole numbers whose statistics told of none, or inside of a list of them.
    """
    array = table.column(leaf.top).combine_chunks()
    if hasattr(array, "chunks"):
        array = _joined(array)
    counts: list[NDArray[np.int64]] = []
    steps = iter(leaf.steps)
    while True:
        kind = array.type
        if hasattr(kind, "storage_type"):
            array = array.storage
        elif _types().is_struct(kind):
            array = array.flatten()[kind.get_field_index(next(steps))]
        elif _is_list(kind):
            counts.append(_lengths(array))
            array = array.flatten()
        else:
            assert info.type is not None
            return assemble(counts, _values(array, info.type.dtype == "float64", info.name))


def _joined(chunks: Any) -> Any:
    import pyarrow

    return pyarrow.concat_arrays(chunks.chunks)


def _lengths(array: Any) -> NDArray[np.int64]:
    import pyarrow.compute

    lengths = pyarrow.compute.list_value_length(array).fill_null(0)
    return np.asarray(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)


def _values(array: Any, as_float: bool, name: str) -> NDArray[Any]:
    import pyarrow

    types = _types()
    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if types.is_null(array.type):
        return np.full(len(array), np.nan)
    if types.is_floating(array.type):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    if as_float:
        whole = array.cast(pyarrow.uint8()) if types.is_boolean(array.type) else array
        return np.asarray(whole.cast(pyarrow.float64(), safe=False).to_numpy(zero_copy_only=False))
    if array.null_count:
        raise DataError(
            f"column '{name}' ({array.type}) has a null, which no {array.type} can stand for, and the statistics of "
            "the file do not tell of it; write the column as float64, or the file with statistics"
        )
    return np.asarray(array.to_numpy(zero_copy_only=False))
