"""Columns of a contract out of whatever table analysis code holds.

A mapping of arrays or lists, a structured array of numpy, an awkward array of records (NanoEvents of coffea, too, where
``Jet_pt`` is ``events.Jet.pt``), a data frame, a table of Arrow, or what ``AsNumpy`` of RDataFrame gives. Of libraries
only awkward is imported, where an array of it is given. Invariant: values keep their bits until they are cast to the
declared types, as those of files are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.client.events import columns_of
from mlaas4hep.errors import DataError, RequestError, nearest
from mlaas4hep.spec.columns import Column, ColumnType, Jagged, Nested


def columns_from(table: Any, types: Mapping[str, ColumnType]) -> tuple[dict[str, Column], int]:
    """Columns by name, and the number of events.

    Parameters
    ----------
    table
        Events; columns that are not asked for are not looked at.
    types
        Those that are, with their declared types.

    Raises
    ------
    DataError
        A column is missing, or is no list where one is declared, or the reverse.
    """
    found = _from_awkward(table) if _is_awkward(table) else _from_columns(table)
    columns: dict[str, Column] = {}
    problems = []
    for name, declared in types.items():
        value = found.get(name)
        if value is None:
            problems.append(f"'{name}' ({declared}){nearest(name, found.names)}")
            continue
        columns[name] = _column(name, declared, value)
    if problems:
        raise DataError(f"the events lack {', '.join(problems[:8])}")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"the columns of a table are equally long; found {lengths}")
    return columns, next(iter(lengths.values()), 0)


class _Found:
    """Columns of a table, looked up when asked for."""

    def __init__(self, names: Iterable[str], get: Callable[[str], Any]) -> None:
        self.names = tuple(names)
        self.get = get


def _from_columns(table: Any) -> _Found:
    try:
        columns = columns_of(table)
    except RequestError as error:
        raise DataError(str(error)) from error
    return _Found(columns, columns.get)


def _is_awkward(value: Any) -> bool:
    return any(one.__module__.partition(".")[0] == "awkward" for one in type(value).__mro__)


def _from_awkward(table: Any) -> _Found:
    """Fields of records; of nested ones ``A_b`` is field ``b`` of ``A``, and ``nA`` the number of its objects."""
    import awkward as ak

    fields = list(table.fields)

    def get(name: str) -> Any:
        if name in fields:
            return table[name]
        group, _, field = name.partition("_")
        if field and group in fields and field in table[group].fields:
            return table[group][field]
        if name.startswith("n") and name[1:] in fields:
            return ak.num(table[name[1:]], axis=1)
        return None

    nested = [f"{one}_{field}" for one in fields for field in table[one].fields]
    return _Found([*fields, *nested], get)


def _column(name: str, declared: ColumnType, value: Any) -> Column:
    if isinstance(value, Jagged | Nested):
        found: Column = value
    elif _is_awkward(value):
        found = _from_layout(name, value)
    elif declared.kind == "flat":
        found = _flat(name, declared, value)
    else:
        found = _lists(name, declared, value)
    kind = {Jagged: "jagged", Nested: "nested"}.get(type(found), "flat")
    if kind != declared.kind:
        raise DataError(f"column '{name}' is {kind}, where the model takes {declared}")
    return found


def _from_layout(name: str, array: Any) -> Column:
    import awkward as ak

    from mlaas4hep.data.root.source import from_layout

    try:
        return from_layout(ak.to_layout(_without_none(array)))
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"column '{name}' holds no numbers or lists of numbers: {array.type}") from error


def _without_none(array: Any) -> Any:
    """NaN in the place of None, in the type that the numbers have."""
    import awkward as ak

    if not any(word in str(array.type) for word in ("?", "option")):
        return array
    flat = ak.to_numpy(ak.ravel(array))
    if flat.dtype.kind != "f" and np.ma.getmaskarray(flat).any():
        raise TypeError("whole numbers cannot be missing")
    filling = np.nan if flat.dtype.kind == "f" else 0
    return ak.values_astype(ak.fill_none(array, filling, axis=-1), flat.dtype)


def _flat(name: str, declared: ColumnType, value: Any) -> NDArray[Any]:
    if hasattr(value, "to_numpy") and not isinstance(value, np.ndarray):
        missing = {"na_value": np.nan} if hasattr(value, "isna") and declared.dtype.startswith("float") else {}
        value = value.to_numpy(**missing)
    array = np.asarray(value)
    if array.dtype == object:
        array = _numbers(name, array.tolist(), declared)
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        raise DataError(
            f"column '{name}': asked for one number an event ({declared}), found {array.dtype} {array.shape}"
        )
    return array


def _lists(name: str, declared: ColumnType, value: Any) -> Column:
    for method in ("to_pylist", "to_list", "tolist"):
        if not isinstance(value, np.ndarray) and hasattr(value, method):
            value = getattr(value, method)()
            break
    if isinstance(value, np.ndarray) and value.dtype != object:
        if value.ndim != 2 or declared.kind != "jagged":
            raise DataError(f"column '{name}': asked for lists ({declared}), found {value.dtype} {value.shape}")
        return Jagged.from_counts(np.full(len(value), value.shape[1]), value.reshape(-1))
    if declared.kind == "nested":
        outer = [list(one) for one in value]
        inside = _jagged(name, declared, [inner for one in outer for inner in one])
        return Nested.from_counts([len(one) for one in outer], inside)
    return _jagged(name, declared, value)


def _jagged(name: str, declared: ColumnType, lists: Iterable[Sequence[Any]]) -> Jagged:
    """Lists of any kind: of Python, arrays, RVecs of ROOT."""
    try:
        arrays = [np.asarray(one) for one in lists]
        counts = [len(one) for one in arrays]
    except TypeError as error:
        raise DataError(f"column '{name}': asked for a list an event ({declared}): {error}") from error
    filled = [one for one in arrays if len(one)]
    if not filled:
        return Jagged.from_counts(counts, np.zeros(0, declared.dtype))
    values = np.concatenate(filled)
    return Jagged.from_counts(counts, _numbers(name, values.tolist(), declared) if values.dtype == object else values)


def _numbers(name: str, values: Sequence[Any], declared: ColumnType) -> NDArray[Any]:
    """Python values as numbers; None is a missing one of a floating type."""
    floating = declared.dtype.startswith("float")
    try:
        return np.array([np.nan if floating and one is None else one for one in values], declared.dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"column '{name}' ({declared}) holds what is no such number: {error}") from error
