"""What the objects of a JSON file are made of, over all of its rows: keys, lists, kinds of values.

A `Shape` grows with each object that does not fit it yet, and gives typed decoders: a strict one that tells whether
more objects fit, and one that decodes nothing but asked columns. Invariant: a shape never forgets; the type of a column
hangs on all rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.source import ColumnInfo
from mlaas4hep.data.tables.source import assemble, readable
from mlaas4hep.spec.columns import Column, DType

NULL, ABSENT, TRUTH, WHOLE, NEGATIVE, LARGE, REAL, TEXT, OBJECT, LIST = (1 << place for place in range(10))
_NUMBER = WHOLE | NEGATIVE | LARGE | REAL
_MISSING = NULL | ABSENT
_FAMILIES = (TRUTH, _NUMBER, TEXT, OBJECT, LIST)
_SPOKEN = ("true or false", "a number", "text", "an object", "a list")
_WIDEST = 2**63 - 1
_NAMES = itertools.count()
_Counts = tuple[NDArray[np.int64], ...]


class Shape:
    """Kinds of values met at one place of the objects, and what is inside of them."""

    __slots__ = ("fields", "items", "kinds", "objects")

    def __init__(self) -> None:
        self.kinds = 0
        self.objects = 0
        self.fields: dict[str, Shape] = {}
        self.items: Shape | None = None

    def merge(self, value: Any) -> bool:
        """Take one more value in; True where the shape grew."""
        kind = _kind(value)
        grown = kind | self.kinds != self.kinds
        self.kinds |= kind
        if kind == OBJECT:
            return self._merge_object(value) or grown
        if kind == LIST:
            self.items = self.items or Shape()
            for one in value:
                grown = self.items.merge(one) or grown
        return grown

    def _merge_object(self, value: dict[str, Any]) -> bool:
        grown = False
        for name, one in value.items():
            if name not in self.fields:
                self.fields[name] = Shape()
                self.fields[name].kinds = ABSENT if self.objects else 0
                grown = True
            grown = self.fields[name].merge(one) or grown
        for name in self.fields.keys() - value.keys():
            grown = grown or not self.fields[name].kinds & ABSENT
            self.fields[name].kinds |= ABSENT
        self.objects += 1
        return grown

    @property
    def mixed(self) -> str | None:
        """Why values of this place do not go into one column; None where they do."""
        met = [spoken for family, spoken in zip(_FAMILIES, _SPOKEN, strict=True) if self.kinds & family]
        return f"{met[0]} in some events, {met[1]} in others" if len(met) > 1 else None

    @property
    def dtype(self) -> DType:
        """Type in memory of numbers, truths, or nothing at all."""
        if self.kinds & (_MISSING | REAL) or not self.kinds:
            return "float64"
        if self.kinds & TRUTH:
            return "bool"
        if not self.kinds & LARGE:
            return "int64"
        return "float64" if self.kinds & NEGATIVE else "uint64"


def _kind(value: Any) -> int:
    if value is None:
        return NULL
    if value is True or value is False:
        return TRUTH
    if isinstance(value, int):
        if value < 0:
            return NEGATIVE if value >= -_WIDEST - 1 else REAL
        return WHOLE if value <= _WIDEST else LARGE if value < 2**64 else REAL
    if isinstance(value, float):
        return REAL
    if isinstance(value, dict):
        return OBJECT
    return LIST if isinstance(value, list) else TEXT


def strict_type(shape: Shape) -> Any:
    """A type that takes exactly the values that would not let the shape grow, or almost none beyond."""
    if shape.mixed is not None:
        return Any
    taken = _strict_value(shape)
    return taken | None if shape.kinds & NULL and taken is not None else taken


def _strict_value(shape: Shape) -> Any:
    if shape.kinds & OBJECT:
        fields = [
            (f"f{place}", strict_type(one), *([None] if one.kinds & ABSENT else []))
            for place, one in enumerate(shape.fields.values())
        ]
        fields.sort(key=len)  # those that have a default come last
        rename = {f"f{place}": name for place, name in enumerate(shape.fields)}
        return msgspec.defstruct(f"S{next(_NAMES)}", fields, rename=rename, forbid_unknown_fields=True, gc=False)
    if shape.kinds & LIST:
        return list[strict_type(shape.items)] if shape.items else list[None]  # type: ignore[misc]
    if shape.kinds & TEXT:
        return str
    if shape.kinds & TRUTH:
        return bool
    if shape.kinds & REAL or (shape.kinds & LARGE and shape.kinds & NEGATIVE):
        return float
    if shape.kinds & LARGE:
        return Annotated[int, msgspec.Meta(ge=0)]
    if shape.kinds & (WHOLE | NEGATIVE):
        return Annotated[int, msgspec.Meta(ge=-_WIDEST - 1 if shape.kinds & NEGATIVE else 0, le=_WIDEST)]
    return None


def describe(shape: Shape) -> dict[str, ColumnInfo]:
    """All columns of the objects, by dotted names."""
    found: dict[str, ColumnInfo] = {}
    for name, path in _leaves(shape, ()):
        info = _column(name, path)
        twice = ColumnInfo(name, None, info.description, "several columns have this name")
        found[name] = twice if name in found else info
    return found


def _leaves(shape: Shape, path: tuple[Shape, ...]) -> Iterator[tuple[str, tuple[Shape, ...]]]:
    """Name below this place, and shapes from here to each value that is no object."""
    inner = shape
    passed = (*path, shape)
    while inner.kinds & LIST and inner.items is not None and inner.mixed is None:
        inner = inner.items
        passed = (*passed, inner)
    if not inner.kinds & OBJECT or inner.mixed is not None:
        yield "", passed
        return
    for name, one in inner.fields.items():
        for rest, found in _leaves(one, passed):
            yield (f"{name}.{rest}" if rest else name), found


def _column(name: str, path: tuple[Shape, ...]) -> ColumnInfo:
    leaf = path[-1]
    lists = sum(1 for one in path if one.kinds & LIST)
    if leaf.mixed is not None:
        return ColumnInfo(name, None, "of several kinds", leaf.mixed)
    if leaf.kinds & TEXT:
        return ColumnInfo(name, None, "text", "text, not numbers")
    return readable(name, lists, "float64" if leaf.kinds & LIST else _dtype(path))  # of a list that is always empty


def _dtype(path: tuple[Shape, ...]) -> DType:
    """Missing objects on the way to a value leave it missing, unless a list stands between: it is empty then."""
    for one in reversed(path[:-1]):
        if one.kinds & LIST:
            break
        if one.kinds & _MISSING:
            return "float64"
    return path[-1].dtype


class Wanted:
    """Asked columns as a type for msgspec, and how their values are taken out of what was decoded."""

    def __init__(self, shape: Shape, names: Mapping[str, DType]) -> None:
        self._dtypes = names
        self.type = self._object(shape, "")

    def _object(self, shape: Shape, prefix: str) -> Any:
        fields: list[tuple[str, Any, None]] = []
        rename: dict[str, str] = {}
        for name, one in shape.fields.items():
            path = f"{prefix}{name}"
            if any(asked == path or asked.startswith(f"{path}.") for asked in self._dtypes) and one.mixed is None:
                fields.append((f"f{len(fields)}", self._value(one, path) | None, None))
                rename[fields[-1][0]] = name
        return msgspec.defstruct(f"W{next(_NAMES)}", fields, rename=rename, gc=False)

    def _value(self, shape: Shape, path: str) -> Any:
        if shape.kinds & OBJECT:
            return self._object(shape, f"{path}.")
        if shape.kinds & LIST:
            inner = self._value(shape.items, path) | None if shape.items is not None else float | None
            return list[inner]  # type: ignore[valid-type]
        if self._dtypes.get(path) in ("int64", "uint64"):
            return int
        return bool if shape.kinds & TRUTH else float

    def columns(self, rows: list[Any]) -> dict[str, Column]:
        """Columns of decoded rows, by name."""
        found: dict[str, Column] = {}
        self._gather(self.type, "", rows, (), found)
        return found

    def _gather(self, kind: Any, prefix: str, rows: list[Any], counts: _Counts, found: dict[str, Column]) -> None:
        for field in msgspec.structs.fields(kind):
            inner = next(one for one in _options(field.type) if one is not type(None))
            values = [None if row is None else getattr(row, field.name) for row in rows]
            self._take(inner, f"{prefix}{field.encode_name}", values, counts, found)

    def _take(self, kind: Any, path: str, values: list[Any], counts: _Counts, found: dict[str, Column]) -> None:
        if getattr(kind, "__origin__", None) is list:
            inner = next(one for one in _options(kind.__args__[0]) if one is not type(None))
            lengths = np.fromiter((len(one) if one else 0 for one in values), np.int64, len(values))
            flat = list(itertools.chain.from_iterable(one for one in values if one))
            self._take(inner, path, flat, (*counts, lengths), found)
        elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            self._gather(kind, f"{path}.", values, counts, found)
        elif path in self._dtypes:
            found[path] = assemble(counts, np.array(values, dtype=self._dtypes[path]))


def _options(kind: Any) -> tuple[Any, ...]:
    """Members of a union."""
    return getattr(kind, "__args__", (kind,)) if not hasattr(kind, "__origin__") else (kind,)
