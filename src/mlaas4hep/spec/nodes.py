"""The tree that an expression is compiled to: frozen nodes that know their type and compute whole columns.

`syntax` builds the tree from text and `expressions` hands it columns. Every node answers three questions: `needs`
(which columns), `infer` (which type comes out, given the types of the columns) and `value` (the column itself), by the
same rules of `operations`. Invariant: no node loops over events in Python.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from mlaas4hep.errors import nearest
from mlaas4hep.spec.columns import (
    Column,
    Columns,
    ColumnType,
    DType,
    Jagged,
    Nested,
    declared_dtype,
    kind_of,
    values_of,
    with_values,
)
from mlaas4hep.spec.members import members
from mlaas4hep.spec.operations import AND, Elementwise, Operand, Signature, TypeMismatch
from mlaas4hep.spec.reductions import Reduction
from mlaas4hep.spec.shapes import MisfitError, common_lists, joint_kind
from mlaas4hep.spec.spelling import PlaceError, spell_name


class Events(NamedTuple):
    """The events at hand."""

    columns: Columns
    num_entries: int


class Node(Protocol):
    """One construct of an expression.

    Attributes
    ----------
    at
        0-based character of the text at which it starts.
    text
        Its canonical spelling.
    """

    @property
    def at(self) -> int: ...

    @property
    def text(self) -> str: ...

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        """Columns that it takes, given the names of all; without those a collection stands for itself."""

    def infer(self, types: Mapping[str, ColumnType]) -> ColumnType:
        """Type of the result, or `PlaceError`."""

    def value(self, events: Events) -> Column:
        """The result: an array [] (the same for all events) or [N], or lists."""


@dataclass(frozen=True)
class Name:
    """A column."""

    at: int
    text: str
    column: str

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        yield self.column

    def infer(self, types: Mapping[str, ColumnType]) -> ColumnType:
        if self.column not in types:
            raise PlaceError(_unknown(self.column, types), self.at)
        return types[self.column]

    def value(self, events: Events) -> Column:
        if self.column not in events.columns:
            raise PlaceError(_unknown(self.column, events.columns), self.at)
        column = events.columns[self.column]
        if len(column) != events.num_entries:
            raise MisfitError(f"column '{self.column}' holds {len(column)} events of {events.num_entries}", self.at)
        dtype = declared_dtype(column.dtype)
        if dtype is None:
            message = f"column '{self.column}' holds {column.dtype}, which is neither number nor condition"
            raise MisfitError(message, self.at)
        return column if column.dtype.name == dtype else cast_values(column, dtype)


@dataclass(frozen=True)
class Literal:
    """A number or a truth value; whole numbers are int64, or uint64 where too large for it."""

    at: int
    text: str
    constant: int | float | bool

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        yield from ()

    def infer(self, types: Mapping[str, ColumnType]) -> ColumnType:
        return ColumnType("flat", self.dtype)

    def value(self, events: Events) -> Column:
        return np.array(self.constant, dtype=self.dtype)

    @property
    def dtype(self) -> DType:
        """Type of the value."""
        if isinstance(self.constant, bool):
            return "bool"
        if isinstance(self.constant, float):
            return "float64"
        return "int64" if self.constant < 2**63 else "uint64"


@dataclass(frozen=True)
class Apply:
    """An operation value by value."""

    at: int
    text: str
    operation: Elementwise
    operands: tuple[Node, ...]

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        for node in self.operands:
            yield from node.needs(known)

    def infer(self, types: Mapping[str, ColumnType]) -> ColumnType:
        inferred = [node.infer(types) for node in self.operands]
        return ColumnType(joint_kind(inferred), _signature(self.operation, self.operands, inferred).result)

    def value(self, events: Events) -> Column:
        values = [node.value(events) for node in self.operands]
        return _apply(self.operation, self.operands, values)


@dataclass(frozen=True)
class Chain:
    """Comparisons in a row, ``0 < x < 5``: each pair must hold; every operand is computed once."""

    at: int
    text: str
    operations: tuple[Elementwise, ...]
    operands: tuple[Node, ...]

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        for node in self.operands:
            yield from node.needs(known)

    def infer(self, types: Mapping[str, ColumnType]) -> ColumnType:
        inferred = [node.infer(types) for node in self.operands]
        for index, operation in enumerate(self.operations):
            pair = slice(index, index + 2)
            _signature(operation, self.operands[pair], inferred[pair])
        return ColumnType(joint_kind(inferred), "bool")

    def value(self, events: Events) -> Column:
        values = [node.value(events) for node in self.operands]
        common_lists(self.operands, values)
        pairs = [slice(index, index + 2) for index in range(len(self.operations))]
        held = [
            _apply(operation, self.operands[pair], values[pair])
            for operation, pair in zip(self.operations, pairs, strict=True)
        ]
        return held[0] if len(held) == 1 else _apply(AND, self.operands[1:], held)


@dataclass(frozen=True)
class Reduce:
    """One value out of a list; of lists of lists the inner ones are reduced, which leaves a list."""

    at: int
    text: str
    reduction: Reduction
    operand: Node

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        return self.operand.needs(known)

    def infer(self, types: Mapping[str, ColumnType]) -> ColumnType:
        inferred = self.operand.infer(types)
        name = self.reduction.name
        if inferred.kind == "flat":
            pairwise = f"; of two values write {name}(a, b)" if name in ("min", "max") else ""
            raise PlaceError(
                f"'{name}' takes a list an event, and '{self.operand.text}' is flat (one value an event){pairwise}",
                self.operand.at,
            )
        try:
            result = self.reduction.rule(Operand(inferred, self.operand.text))
        except TypeMismatch as problem:
            raise PlaceError(problem.message, self.operand.at) from None
        return ColumnType("jagged" if inferred.kind == "nested" else "flat", result)

    def value(self, events: Events) -> Column:
        lists = lists_of(self.operand, events)
        if isinstance(lists, Nested):
            return Jagged(lists.offsets, self.reduction.compute(lists.inner))
        return self.reduction.compute(lists)


@dataclass(frozen=True)
class Flatten:
    """The lists of each event joined to one."""

    at: int
    text: str
    operand: Node

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        return self.operand.needs(known)

    def infer(self, types: Mapping[str, ColumnType]) -> ColumnType:
        inferred = self.operand.infer(types)
        if inferred.kind != "nested":
            message = f"'flatten' takes a list of lists an event, and '{self.operand.text}' is {inferred.kind}"
            raise PlaceError(f"{message} ({inferred})", self.operand.at)
        return ColumnType("jagged", inferred.dtype)

    def value(self, events: Events) -> Column:
        lists = lists_of(self.operand, events)
        if not isinstance(lists, Nested):
            raise MisfitError(f"'{self.operand.text}' holds a list an event where a list of lists is needed", self.at)
        return lists.flatten()


def lists_of(node: Node, events: Events) -> Jagged | Nested:
    """Value of a node that must be lists; else `MisfitError`."""
    value = node.value(events)
    if not isinstance(value, Jagged | Nested):
        raise MisfitError(f"'{node.text}' holds one value an event where a list is needed", node.at)
    return value


def cast_values(value: Column, dtype: DType) -> Column:
    """The same column with values of another type; shared where nothing changes."""
    return with_values(value, values_of(value).astype(dtype, copy=False))


def _unknown(name: str, known: Collection[str]) -> str:
    message = f"there is no column '{name}'"
    below = next((one for one in known if one.startswith(f"{name}/")), None)
    if below is not None:
        return f"{message}; did you mean {spell_name(below)}?"
    if members(name, "transverse", known) is not None:
        plain = spell_name(name)
        return f"{message}; as a four-vector '{name}' goes into functions of one, as in pt({plain}) or mass({plain}[0])"
    return f"{message}{nearest(name, map(spell_name, known))}"


def _signature(operation: Elementwise, nodes: Sequence[Node], types: Sequence[ColumnType]) -> Signature:
    operands = [
        Operand(one, node.text, node.constant if isinstance(node, Literal) else None)
        for node, one in zip(nodes, types, strict=True)
    ]
    try:
        return operation.rule(operands)
    except TypeMismatch as problem:
        raise PlaceError(problem.message, nodes[problem.operand].at) from None


def _apply(operation: Elementwise, nodes: Sequence[Node], values: Sequence[Column]) -> Column:
    signature = _signature(operation, nodes, [type_of(value) for value in values])
    lists = common_lists(nodes, values)
    if signature.operands is not None:
        values = [cast_values(value, signature.operands) for value in values]
    if lists is None:
        return np.asarray(operation.compute(*values))
    arrays = [lists.spread(value) for value in values]
    return lists.wrap(np.asarray(operation.compute(*arrays)))


def type_of(value: Column) -> ColumnType:
    """Type of a computed column."""
    dtype = declared_dtype(value.dtype)
    if dtype is None:  # names are checked and operations give declared types only
        raise MisfitError(f"values of type {value.dtype}")
    return ColumnType(kind_of(value), dtype)
