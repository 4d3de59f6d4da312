"""Columns of events in memory: flat arrays, jagged lists and lists of lists, with the types that the contract declares.

Every source (ROOT, Parquet, JSON, Arrow) hands its events over in this form, and `cast` brings them to the declared
types before anything is computed. Invariant: after `cast`, an event has the same bits wherever it came from (law 6).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlaas4hep.errors import DataError

DType = Literal["bool", "int64", "uint64", "float32", "float64"]
Kind = Literal["flat", "jagged", "nested"]
_BRACKETS: dict[Kind, str] = {"flat": "", "jagged": "[]", "nested": "[][]"}
_WORDS: dict[Kind, str] = {
    "flat": "flat (one value an event)",
    "jagged": "jagged (a list an event)",
    "nested": "nested (a list of lists an event)",
}


class ColumnType(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Declared type of one column.

    Parameters
    ----------
    kind
        ``"flat"``: one value an event; ``"jagged"``: a list of values an event; ``"nested"``: a list of lists of
        values, which an expression reduces before a model sees it.
    dtype
        Type of a value in memory. Integers of any width are kept in 64 bits, so that nothing is lost.
    """

    kind: Kind
    dtype: DType

    def __str__(self) -> str:
        return f"{self.dtype}{_BRACKETS[self.kind]}"


class Jagged:
    """A list of values for each of N events, as two arrays.

    Parameters
    ----------
    offsets
        int64 [N + 1], from 0 up to ``len(values)``, never falling: event i holds
        ``values[offsets[i]:offsets[i + 1]]``.
    values
        [M], the values of all events one after the other.
    """

    __slots__ = ("offsets", "values")

    def __init__(self, offsets: NDArray[np.int64], values: NDArray[Any]) -> None:
        self.offsets = offsets
        self.values = values

    @classmethod
    def from_counts(cls, counts: ArrayLike, values: NDArray[Any]) -> Jagged:
        """Build from the number of values of each event."""
        lengths = np.asarray(counts, dtype=np.int64)
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        if offsets[-1] != len(values):
            raise DataError(f"list lengths add up to {offsets[-1]}, but there are {len(values)} values")
        return cls(offsets, values)

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[Any]], dtype: str = "float32") -> Jagged:
        """Build from one Python sequence an event; ``None`` becomes NaN in a floating type."""
        flat = [value for one in lists for value in one]
        return cls.from_counts([len(one) for one in lists], np.array(flat, dtype=dtype))

    @classmethod
    def concat(cls, parts: Sequence[Jagged]) -> Jagged:
        """Join the events of several columns, in order."""
        counts = np.concatenate([part.counts for part in parts])
        return cls.from_counts(counts, np.concatenate([part.values for part in parts]))

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of values of each event, int64 [N]."""
        return np.diff(self.offsets)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one value."""
        return self.values.dtype

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, entries: slice) -> Jagged:
        start, stop, step = entries.indices(len(self))
        if step != 1:
            return self.take(np.arange(start, stop, step))
        stop = max(start, stop)
        first, last = self.offsets[start], self.offsets[stop]
        return Jagged(self.offsets[start : stop + 1] - first, self.values[first:last])

    def take(self, index: NDArray[np.integer[Any]]) -> Jagged:
        """Events picked by number, in the order given."""
        counts = self.counts[index]
        offsets = np.zeros(len(counts) + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        source = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][index] - offsets[:-1], counts)
        return Jagged(offsets, self.values[source])

    def compress(self, mask: NDArray[np.bool_]) -> Jagged:
        """Events for which ``mask`` [N] is true."""
        counts = self.counts
        return Jagged.from_counts(counts[mask], self.values[np.repeat(mask, counts)])

    def astype(self, dtype: str) -> Jagged:
        """The same lists with values of another type; shares memory where nothing changes."""
        return Jagged(self.offsets, _astype(self.values, dtype))

    def tolist(self) -> list[list[Any]]:
        """One Python list an event."""
        values, ends = self.values.tolist(), self.offsets.tolist()
        return [values[start:stop] for start, stop in pairwise(ends)]

    def __repr__(self) -> str:
        return f"Jagged({len(self)} events, {len(self.values)} values, {self.dtype})"


class Nested:
    """A list of lists of values for each of N events, such as the hits of each track.

    Parameters
    ----------
    offsets
        int64 [N + 1], from 0 up to ``len(inner)``, never falling: event i holds the lists
        ``inner[offsets[i]:offsets[i + 1]]``.
    inner
        The lists of all events one after the other.
    """

    __slots__ = ("inner", "offsets")

    def __init__(self, offsets: NDArray[np.int64], inner: Jagged) -> None:
        self.offsets = offsets
        self.inner = inner

    @classmethod
    def from_counts(cls, counts: ArrayLike, inner: Jagged) -> Nested:
        """Build from the number of lists of each event."""
        lengths = np.asarray(counts, dtype=np.int64)
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        if offsets[-1] != len(inner):
            raise DataError(f"numbers of lists add up to {offsets[-1]}, but there are {len(inner)} lists")
        return cls(offsets, inner)

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[Sequence[Any]]], dtype: str = "float32") -> Nested:
        """Build from one Python list of lists an event; ``None`` becomes NaN in a floating type."""
        return cls.from_counts(
            [len(one) for one in lists], Jagged.from_lists([li for one in lists for li in one], dtype)
        )

    @classmethod
    def concat(cls, parts: Sequence[Nested]) -> Nested:
        """Join the events of several columns, in order."""
        counts = np.concatenate([part.counts for part in parts])
        return cls.from_counts(counts, Jagged.concat([part.inner for part in parts]))

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of lists of each event, int64 [N]."""
        return np.diff(self.offsets)

    @property
    def values(self) -> NDArray[Any]:
        """All values one after the other."""
        return self.inner.values

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one value."""
        return self.inner.dtype

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, entries: slice) -> Nested:
        start, stop, step = entries.indices(len(self))
        if step != 1:
            return self.take(np.arange(start, stop, step))
        stop = max(start, stop)
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        return Nested(self.offsets[start : stop + 1] - first, self.inner[first:last])

    def take(self, index: NDArray[np.integer[Any]]) -> Nested:
        """Events picked by number, in the order given."""
        places = Jagged(self.offsets, np.arange(len(self.inner))).take(index)
        return Nested(places.offsets, self.inner.take(places.values))

    def compress(self, mask: NDArray[np.bool_]) -> Nested:
        """Events for which ``mask`` [N] is true."""
        counts = self.counts
        return Nested.from_counts(counts[mask], self.inner.compress(np.repeat(mask, counts)))

    def astype(self, dtype: str) -> Nested:
        """The same lists with values of another type; shares memory where nothing changes."""
        return Nested(self.offsets, self.inner.astype(dtype))

    def flatten(self) -> Jagged:
        """The lists of each event joined to one; shares memory of the values."""
        return Jagged(self.inner.offsets[self.offsets], self.inner.values)

    def tolist(self) -> list[list[list[Any]]]:
        """One Python list of lists an event."""
        lists, ends = self.inner.tolist(), self.offsets.tolist()
        return [lists[start:stop] for start, stop in pairwise(ends)]

    def __repr__(self) -> str:
        return f"Nested({len(self)} events, {len(self.inner)} lists, {len(self.values)} values, {self.dtype})"


Column = NDArray[Any] | Jagged | Nested
Columns = Mapping[str, Column]


def kind_of(column: Column) -> Kind:
    """Whether a column holds a value, a list or a list of lists an event."""
    if isinstance(column, Nested):
        return "nested"
    return "jagged" if isinstance(column, Jagged) else "flat"


def declared_dtype(dtype: np.dtype[Any]) -> DType | None:
    """The contract's type for values of a numpy type; None where there is none (strings, objects).

    Half floats become float32, which holds each of them exactly.
    """
    if dtype.kind == "b":
        return "bool"
    if dtype.kind == "i":
        return "int64"
    if dtype.kind == "u":
        return "uint64" if dtype.itemsize == 8 else "int64"
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return "float64" if dtype.itemsize == 8 else "float32"
    return None


def promote(first: DType, second: DType) -> DType:
    """The narrowest declared type that holds the values of both.

    Mixed signs go to int64: event numbers above 2^63 exist in neither field nor detector.
    """
    if first == second:
        return first
    pair = {first, second}
    if "float64" in pair or ("float32" in pair and pair & {"int64", "uint64"}):
        return "float64"
    if "float32" in pair:
        return "float32"
    return "int64"


_HALF = 2  # bytes of a half float
_DTYPES = {name: np.dtype(name) for name in ("bool", "int64", "uint64", "float32", "float64")}


def cast(columns: Columns, types: Mapping[str, ColumnType], *, as_stored: Collection[str] = ()) -> dict[str, Column]:
    """Bring columns to their declared types; the first thing that happens to an event (law 6).

    Columns without a declared type are left out. Arrays that have their type already are shared, not copied; so are
    those ``as_stored`` whose values only lie in fewer bytes or in another order of bytes than the declared type.

    Raises
    ------
    DataError
        A declared column is missing, or is flat where a list is declared or the reverse.
    """
    done: dict[str, Column] = {}
    for name, declared in types.items():
        if name not in columns:
            raise DataError(f"column '{name}' ({declared}) is missing; given: {', '.join(sorted(columns))}")
        column = columns[name]
        if name in as_stored and kind_of(column) == declared.kind and _stands_for(values_of(column), declared.dtype):
            done[name] = column
            continue
        if isinstance(column, np.ndarray) and declared.kind == "flat":
            done[name] = _astype(column, declared.dtype)
            continue
        if kind_of(column) != declared.kind:
            raise DataError(f"column '{name}' is declared {declared.kind}, but is {_WORDS[kind_of(column)]}")
        done[name] = with_values(column, _astype(values_of(column), declared.dtype))
    return done


def _stands_for(values: NDArray[Any], dtype: DType) -> bool:
    """Whether the numbers become the same float32 as after the cast."""
    return values.dtype.itemsize * (values.dtype.kind == "f") != _HALF and declared_dtype(values.dtype) == dtype


def _astype(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    if values.dtype == _DTYPES.get(dtype):
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(dtype, copy=False)


def can_be_missing(types: Mapping[str, ColumnType]) -> dict[str, ColumnType]:
    """The same types with whole numbers as float64: no whole number says that there is none."""
    return {
        name: ColumnType(one.kind, "float64") if one.dtype in ("int64", "uint64") else one
        for name, one in types.items()
    }


def hide_missing(columns: Columns, codes: Sequence[float]) -> dict[str, Column]:
    """Columns in which values that stand for a missing one, such as -999, are NaN.

    Parameters
    ----------
    columns
        In their declared types; columns that hold no code are shared, not copied.
    codes
        Compared in the type of the column, so that -99.9 is found in float32 too.
    """
    return {name: with_values(one, _hidden(values_of(one), codes)) for name, one in columns.items()}


def values_of(column: Column) -> NDArray[Any]:
    """All values of a column one after the other, without its lists."""
    return column.values if isinstance(column, Jagged | Nested) else column


def with_values(column: Column, values: NDArray[Any]) -> Column:
    """The same lists with other values."""
    if isinstance(column, Nested):
        return Nested(column.offsets, Jagged(column.inner.offsets, values))
    return Jagged(column.offsets, values) if isinstance(column, Jagged) else values


def _hidden(values: NDArray[Any], codes: Sequence[float]) -> NDArray[Any]:
    if values.dtype.kind != "f":
        return values
    found = np.isin(values, np.array(codes, values.dtype))
    return np.where(found, values.dtype.type(np.nan), values) if found.any() else values


def slice_columns(columns: Columns, start: int, stop: int) -> dict[str, Column]:
    """Events ``start`` to ``stop`` (excluded) of every column."""
    return {name: column[start:stop] for name, column in columns.items()}


def compress_columns(columns: Columns, mask: NDArray[np.bool_]) -> dict[str, Column]:
    """Events for which ``mask`` is true, of every column."""
    return {
        name: column.compress(mask) if isinstance(column, Jagged | Nested) else column[mask]
        for name, column in columns.items()
    }


def concat_columns(parts: Iterable[Columns]) -> dict[str, Column]:
    """Join the events of several sets of columns, in order; all must hold the names of the first."""
    sets = list(parts)
    if not sets:
        return {}
    return {name: _concat([one[name] for one in sets]) for name in sets[0]}


def _concat(parts: list[Column]) -> Column:
    if len(parts) == 1:
        return parts[0]
    nested = [part for part in parts if isinstance(part, Nested)]
    if nested:
        return Nested.concat(nested)
    jagged = [part for part in parts if isinstance(part, Jagged)]
    if jagged:
        return Jagged.concat(jagged)
    return np.concatenate([part for part in parts if isinstance(part, np.ndarray)])
