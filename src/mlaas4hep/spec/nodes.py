"""The tree that an expression is compiled to: frozen nodes that know their type and compute whole columns.

`syntax` builds the tree from text and `expressions` hands it columns. Every node answers two questions,
`infer` (which type comes out, given the types of the columns) and `value` (the column itself), by the same
rules of `operations`. Invariant: no node loops over events in Python.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import nearest
from mlaas4hep.spec.columns import Column, Columns, ColumnType, DType, Jagged, Kind, declared_dtype
from mlaas4hep.spec.operations import (
    AND,
    Elementwise,
    Operand,
    Reduction,
    Signature,
    TypeMismatch,
    element,
    element_type,
)


class PlaceError(Exception):
    """Something is wrong at a character of the text; `Expression` adds the text and where it stands."""

    def __init__(self, message: str, at: int) -> None:
        self.message = message
        self.at = at
        super().__init__(message)


class MisfitError(Exception):
    """The columns of these events do not fit together or are not as declared: the text is not at fault."""


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

    def infer(self, types: Mapping[str, ColumnType]) -> ColumnType:
        """Type of the result, or `PlaceError`."""

    def value(self, events: Events) -> Column:
        """The result: an array [] (the same for all events) or [N], or jagged."""


@dataclass(frozen=True)
class Name:
    """A column."""

    at: int
    text: str

    def infer(self, types: Mapping[str, ColumnType]) -> ColumnType:
        if self.text not in types:
            raise PlaceError(_unknown(self.text, types), self.at)
        return types[self.text]

    def value(self, events: Events) -> Column:
        if self.text not in events.columns:
            raise PlaceError(_unknown(self.text, events.columns), self.at)
        column = events.columns[self.text]
        if len(column) != events.num_entries:
            raise MisfitError(f"column '{self.text}' holds {len(column)} events of {events.num_entries}")
        dtype = declared_dtype(column.dtype)
        if dtype is None:
            raise MisfitError(f"column '{self.text}' holds {column.dtype}, which is neither number nor condition")
        return column if column.dtype.name == dtype else _cast(column, dtype)


@dataclass(frozen=True)
class Literal:
    """A number or a truth value; whole numbers are int64, or uint64 where too large for it."""

    at: int
    text: str
    constant: int | float | bool

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

    def infer(self, types: Mapping[str, ColumnType]) -> ColumnType:
        inferred = [node.infer(types) for node in self.operands]
        return ColumnType(_joint_kind(inferred), _signature(self.operation, self.operands, inferred).result)

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

    def infer(self, types: Mapping[str, ColumnType]) -> ColumnType:
        inferred = [node.infer(types) for node in self.operands]
        for index, operation in enumerate(self.operations):
            pair = slice(index, index + 2)
            _signature(operation, self.operands[pair], inferred[pair])
        return ColumnType(_joint_kind(inferred), "bool")

    def value(self, events: Events) -> Column:
        values = [node.value(events) for node in self.operands]
        _common_offsets(self.operands, values)
        pairs = [slice(index, index + 2) for index in range(len(self.operations))]
        held = [
            _apply(operation, self.operands[pair], values[pair])
            for operation, pair in zip(self.operations, pairs, strict=True)
        ]
        return held[0] if len(held) == 1 else _apply(AND, self.operands[1:], held)


@dataclass(frozen=True)
class Reduce:
    """One value an event out of a list."""

    at: int
    text: str
    reduction: Reduction
    operand: Node

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
            return ColumnType("flat", self.reduction.rule(Operand(inferred, self.operand.text)))
        except TypeMismatch as problem:
            raise PlaceError(problem.message, self.operand.at) from None

    def value(self, events: Events) -> Column:
        return self.reduction.compute(_lists(self.operand, events))


@dataclass(frozen=True)
class Element:
    """One element of every list, ``Jet_pt[0]``."""

    at: int
    text: str
    operand: Node
    index: int

    def infer(self, types: Mapping[str, ColumnType]) -> ColumnType:
        bracketed = f"{self.operand.text}[{self.index}]"
        if self.operand.text not in types and bracketed in types:
            raise PlaceError(
                f"the column '{bracketed}' has brackets in its name, which expressions cannot read yet",
                self.at,
            )
        inferred = self.operand.infer(types)
        if inferred.kind == "flat":
            raise PlaceError(
                f"'{self.operand.text}' is flat (one value an event), so it has no element [{self.index}]",
                self.operand.at,
            )
        return ColumnType("flat", element_type(Operand(inferred, self.operand.text)))

    def value(self, events: Events) -> Column:
        return element(_lists(self.operand, events), self.index)


def _lists(node: Node, events: Events) -> Jagged:
    value = node.value(events)
    if not isinstance(value, Jagged):
        raise MisfitError(f"'{node.text}' holds one value an event where a list is needed")
    return value


def _joint_kind(types: Sequence[ColumnType]) -> Kind:
    return "jagged" if any(one.kind == "jagged" for one in types) else "flat"


def _unknown(name: str, known: Mapping[str, Any]) -> str:
    return f"there is no column '{name}'{nearest(name, known)}"


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
    signature = _signature(operation, nodes, [_type_of(value) for value in values])
    offsets = _common_offsets(nodes, values)
    if signature.operands is not None:
        values = [_cast(value, signature.operands) for value in values]
    if offsets is None:
        return np.asarray(operation.compute(*values))
    counts = np.diff(offsets)
    arrays = [_per_value(value, counts) for value in values]
    return Jagged(offsets, np.asarray(operation.compute(*arrays)))


def _type_of(value: Column) -> ColumnType:
    dtype = declared_dtype(value.dtype)
    if dtype is None:  # names are checked and operations give declared types only
        raise MisfitError(f"values of type {value.dtype}")
    return ColumnType("jagged" if isinstance(value, Jagged) else "flat", dtype)


def _cast(value: Column, dtype: DType) -> Column:
    return value.astype(dtype) if isinstance(value, Jagged) else value.astype(dtype, copy=False)


def _per_value(value: Column, counts: NDArray[np.int64]) -> NDArray[Any]:
    if isinstance(value, Jagged):
        return value.values
    return value if value.ndim == 0 else np.repeat(value, counts)


def _common_offsets(nodes: Sequence[Node], values: Sequence[Column]) -> NDArray[np.int64] | None:
    lists = [(node, value) for node, value in zip(nodes, values, strict=True) if isinstance(value, Jagged)]
    if not lists:
        return None
    first, lead = lists[0]
    for node, other in lists[1:]:
        if other.offsets is not lead.offsets and not np.array_equal(other.offsets, lead.offsets):
            raise MisfitError(_length_message(first.text, lead, node.text, other))
    return lead.offsets


def _length_message(first: str, lead: Jagged, second: str, other: Jagged) -> str:
    event = int(np.flatnonzero(lead.counts != other.counts)[0])
    return (
        f"the lists '{first}' and '{second}' have different lengths ({lead.counts[event]} "
        f"and {other.counts[event]} in event {event} of {len(lead)}): they cannot be joined value by value"
    )
