"""Schemas of Avro: which columns they hold, and programs that take columns out of records.

A program is a list of plain instructions that `mlaas4hep.data.tables.avro_records` runs over the bytes of a block.
Invariant: the type of a column hangs on the schema alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.source import ColumnInfo
from mlaas4hep.data.tables.source import readable
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import DType

# Instructions: operation and two arguments.
SKIP_WHOLE, SKIP_BYTES, SKIP_TEXT, TAKE_WHOLE, TAKE_FLOAT, TAKE_DOUBLE, TAKE_TRUTH, TAKE_NOTHING = range(8)
CHOOSE, JUMP, EMPTY_LIST, BEGIN_LIST, END_LIST, COUNT_NOTHINGS = range(8, 14)

MAX_DEPTH = 60
_SIZES = {"null": 0, "boolean": 1, "float": 4, "double": 8}
_NUMBERS: dict[str, DType] = {
    "int": "int64",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "boolean": "bool",
}
_TAKE = {"int": TAKE_WHOLE, "long": TAKE_WHOLE, "float": TAKE_FLOAT, "double": TAKE_DOUBLE, "boolean": TAKE_TRUTH}
_TEXT = {"string": "text, not numbers", "bytes": "bytes, not numbers", "fixed": "bytes, not numbers"}


@dataclass
class Node:
    """One type of a schema: ``kind`` is Avro's word for it; ``parts`` are fields, branches, or what a list holds."""

    kind: str
    parts: list[Node] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    size: int = 0
    logical: str | None = None

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers."""
        return self.kind in _NUMBERS and self.logical is None

    @property
    def may_be_empty(self) -> bool:
        """Whether a value of it may take no byte at all."""
        if self.kind == "record":
            return all(one.may_be_empty for one in self.parts)
        return self.kind == "null" or (self.kind == "fixed" and self.size == 0)


def parse_schema(schema: Any) -> Node:
    """A schema, decoded from JSON, as a tree.

    Raises
    ------
    DataError
        It is no schema of a record, or holds itself.
    """
    root = _Parser().parse(schema, "", 0)
    if root.kind != "record":
        raise DataError(f"its schema is of the type {root.kind}; events are records")
    return root


class _Parser:
    """Named types may be used again further down."""

    def __init__(self) -> None:
        self._named: dict[str, Node] = {}
        self._open: set[str] = set()

    def parse(self, schema: Any, space: str, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise DataError(f"its schema is more than {MAX_DEPTH} levels deep")
        if isinstance(schema, list):
            return Node("union", [self.parse(one, space, depth + 1) for one in schema])
        if isinstance(schema, str):
            return self._by_name(schema, space)
        kind = schema.get("type") if isinstance(schema, dict) else None
        if not isinstance(kind, str):
            if kind is None:
                raise DataError(f"its schema has a type that is none: {str(schema)[:80]}")
            return self.parse(kind, space, depth + 1)
        return self._complex(kind, schema, space, depth)

    def _by_name(self, name: str, space: str) -> Node:
        if name in _SIZES or name in _NUMBERS or name in _TEXT:
            return Node(name)
        full = name if "." in name or not space else f"{space}.{name}"
        if full in self._open:
            raise DataError(f"its schema has a type that holds itself: {full}")
        if full not in self._named and name not in self._named:
            raise DataError(f"its schema uses a type that it does not define: {full}")
        return self._named.get(full) or self._named[name]

    def _complex(self, kind: str, schema: Mapping[str, Any], space: str, depth: int) -> Node:
        logical = schema.get("logicalType")
        if kind in ("array", "map"):
            return Node(kind, [self.parse(schema.get("items", schema.get("values")), space, depth + 1)])
        if kind not in ("record", "error", "enum", "fixed"):
            one = self._by_name(kind, space)
            return Node(one.kind, one.parts, one.names, one.size, logical if isinstance(logical, str) else None)
        name = str(schema.get("name", ""))
        space = name.rpartition(".")[0] if "." in name else str(schema.get("namespace", space))
        full = name if "." in name or not space else f"{space}.{name}"
        node = Node("record" if kind == "error" else kind, logical=logical if isinstance(logical, str) else None)
        self._open.add(full)
        if node.kind == "record":
            for one in schema.get("fields", ()):
                node.names.append(str(one["name"]))
                node.parts.append(self.parse(one["type"], space, depth + 1))
        node.size = int(schema.get("size", 0)) if kind == "fixed" else 0
        self._open.discard(full)
        self._named[full] = node
        return node


def describe(root: Node) -> dict[str, ColumnInfo]:
    """All columns of the records, by dotted names."""
    found: dict[str, ColumnInfo] = {}
    for info in _columns(root, "", lists=0, nullable=False):
        twice = ColumnInfo(info.name, None, info.description, "several columns have this name")
        found[info.name] = twice if info.name in found else info
    return found


def _columns(node: Node, name: str, *, lists: int, nullable: bool) -> Iterator[ColumnInfo]:
    branches = [one for one in node.parts if one.kind != "null"] if node.kind == "union" else [node]
    nullable = nullable or (node.kind == "union" and len(branches) < len(node.parts))
    if len(branches) == 1 and branches[0].kind == "record":
        for inner, one in zip(branches[0].names, branches[0].parts, strict=True):
            yield from _columns(one, f"{name}.{inner}" if name else inner, lists=lists, nullable=nullable)
    elif len(branches) == 1 and branches[0].kind == "array":
        yield from _columns(branches[0].parts[0], name, lists=lists + 1, nullable=False)
    elif len(branches) == 1 and branches[0].kind == "union":
        yield from _columns(branches[0], name, lists=lists, nullable=nullable)
    else:
        yield _leaf(name, branches, lists, nullable)


def _leaf(name: str, branches: list[Node], lists: int, nullable: bool) -> ColumnInfo:
    if not all(one.is_number for one in branches):
        words = " or ".join(one.logical or one.kind for one in branches) or "null"
        return ColumnInfo(name, None, words + "[]" * lists, _why_not(branches))
    return readable(name, lists, _number_type(branches, nullable))


def _number_type(branches: list[Node], nullable: bool) -> DType:
    """Type of a number; whole numbers and truths that may be null are float64, since none of them says so."""
    dtypes = {_NUMBERS[one.kind] for one in branches}
    if len(dtypes) == 1 and not (nullable and dtypes & {"int64", "bool"}):
        return dtypes.pop()
    return "float64"


def _why_not(branches: list[Node]) -> str:
    if len(branches) != 1:
        return "values of several types, not all of them numbers"
    one = branches[0]
    if one.logical is not None:
        return f"values of the type {one.logical}, not numbers"
    return _TEXT.get(one.kind, {"enum": "text, not numbers", "map": "a map, not numbers"}.get(one.kind, "not numbers"))


@dataclass(frozen=True)
class Program:
    """Instructions that take some columns out of records.

    Parameters
    ----------
    code
        int64 [n, 3].
    targets
        int64 [m]: where the branches of unions go on.
    lists
        By column, the numbers of the lists that it stands in, outermost first. Lengths of list ``i`` come out like the
        values of one more column, number ``len(lists) + i``.
    num_streams
        Columns and lists.
    """

    code: NDArray[np.int64]
    targets: NDArray[np.int64]
    lists: tuple[tuple[int, ...], ...]
    num_streams: int


def compile_program(root: Node, dtypes: Mapping[str, DType]) -> Program:
    """A program for some columns, numbered as they are given."""
    writer = _Writer(dtypes)
    writer.write(root, "", ())
    code, targets = np.array(writer.code, dtype=np.int64).reshape(-1, 3), np.array(writer.targets, dtype=np.int64)
    return Program(code, targets, tuple(writer.lists.get(name, ()) for name in dtypes), writer.num_streams)


class _Writer:
    def __init__(self, dtypes: Mapping[str, DType]) -> None:
        self._columns = {name: place for place, name in enumerate(dtypes)}
        self._dtypes = dtypes
        self.code: list[tuple[int, int, int]] = []
        self.targets: list[int] = []
        self.lists: dict[str, tuple[int, ...]] = {}
        self.num_streams = len(dtypes)
        self._streams: dict[tuple[int, str], int] = {}

    def write(self, node: Node, name: str, inside: tuple[int, ...]) -> None:
        if node.kind == "union":
            self._write_union(node, name, inside)
        elif node.kind == "record":
            for inner, one in zip(node.names, node.parts, strict=True):
                self.write(one, f"{name}.{inner}" if name else inner, inside)
        elif node.kind in ("array", "map"):
            self._write_list(node, name, inside)
        elif name in self._columns and node.is_number:
            as_float = self._dtypes[name] in ("float32", "float64")
            self.lists[name] = inside
            self.code.append((_TAKE[node.kind], self._columns[name], int(as_float)))
        elif node.kind in ("int", "long", "enum"):
            self.code.append((SKIP_WHOLE, 0, 0))
        elif node.kind in ("string", "bytes"):
            self.code.append((SKIP_TEXT, 0, 0))
        else:
            self.code.append((SKIP_BYTES, _SIZES.get(node.kind, node.size), 0))

    def _write_union(self, node: Node, name: str, inside: tuple[int, ...]) -> None:
        first = len(self.targets)
        self.code.append((CHOOSE, first, len(node.parts)))
        self.targets.extend([0] * len(node.parts))
        jumps = []
        for place, one in enumerate(node.parts):
            self.targets[first + place] = len(self.code)
            if one.kind == "null":
                self._write_missing(node, name, inside)
            else:
                self.write(one, name, inside)
            jumps.append(len(self.code))
            self.code.append((JUMP, 0, 0))
        for place in jumps:
            self.code[place] = (JUMP, len(self.code), 0)

    def _write_missing(self, node: Node, name: str, inside: tuple[int, ...]) -> None:
        """What takes the place of values that are null; lists are empty then."""
        if node.kind == "union":
            for one in node.parts:
                self._write_missing(one, name, inside)
        elif node.kind == "record":
            for inner, one in zip(node.names, node.parts, strict=True):
                self._write_missing(one, f"{name}.{inner}" if name else inner, inside)
        elif node.kind == "array" and self._stream(node, name) >= 0:
            self.code.append((EMPTY_LIST, self._stream(node, name), 0))
        elif name in self._columns and node.is_number and self.code[-1][:2] != (TAKE_NOTHING, self._columns[name]):
            self.lists[name] = inside
            self.code.append((TAKE_NOTHING, self._columns[name], 0))

    def _stream(self, node: Node, name: str) -> int:
        """Number of the stream of lengths of a list that has asked columns in it; -1 for others."""
        if node.kind != "array" or not any(one == name or one.startswith(f"{name}.") for one in self._columns):
            return -1
        key = (id(node), name)  # a named type may stand in several places
        if key not in self._streams:
            self._streams[key] = self.num_streams
            self.num_streams += 1
        return self._streams[key]

    def _write_list(self, node: Node, name: str, inside: tuple[int, ...]) -> None:
        [item] = node.parts
        stream = self._stream(node, name)
        if item.may_be_empty and node.kind == "array":
            self.code.append((COUNT_NOTHINGS, 0, 0))
            return
        begin = len(self.code)
        self.code.append((BEGIN_LIST, 0, stream))
        if node.kind == "map":
            self.code.append((SKIP_TEXT, 0, 0))
        self.write(item, name if node.kind == "array" else f"{name}\0", (*inside, stream))
        self.code.append((END_LIST, begin + 1, 0))
        self.code[begin] = (BEGIN_LIST, len(self.code), stream)
