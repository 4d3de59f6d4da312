"""Nodes that pick from lists: ``x[0]``, ``x[1:]``, ``x[x > 30]``, ``y[argmax(x)]``, ``sort(x, key)``.

A selector says what is picked, of columns and of four-vectors alike; `Pick` applies it to a column. Invariant: an
element that is not there is NaN (of conditions: False; of lists of lists: an empty list), never one of its neighbours.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal as OneOf
from typing import Protocol

import numpy as np

from mlaas4hep.spec.columns import Column, ColumnType, DType, Jagged, Nested
from mlaas4hep.spec.nodes import Events, Literal, Node, lists_of, type_of
from mlaas4hep.spec.picking import Offsets, Selection, element, element_by, elements_by, masked, ordered, sliced
from mlaas4hep.spec.shapes import MisfitError, Part, check_same
from mlaas4hep.spec.spelling import PlaceError

Picks = OneOf["one", "some", "places"]
"""One element of each list; some of the list; or an element for each place of another list."""


class Selector(Protocol):
    """What is picked of each list.

    Attributes
    ----------
    text
        Its canonical spelling, such as ``[0]``.
    """

    @property
    def text(self) -> str: ...

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        """Columns that it takes."""

    def infer(self, types: Mapping[str, ColumnType]) -> Picks:
        """What it picks, or `PlaceError`."""

    def select(self, events: Events, offsets: Offsets, of: Part) -> Selection:
        """Places in lists with these offsets, which are the value of ``of``."""


@dataclass(frozen=True)
class At:
    """An element by a number that is written out."""

    index: int

    @property
    def text(self) -> str:
        return f"[{self.index}]"

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        yield from ()

    def infer(self, types: Mapping[str, ColumnType]) -> Picks:
        return "one"

    def select(self, events: Events, offsets: Offsets, of: Part) -> Selection:
        return element(offsets, self.index)


@dataclass(frozen=True)
class Span:
    """A slice."""

    start: int | None
    stop: int | None
    step: int | None

    @property
    def text(self) -> str:
        ends = ":".join("" if one is None else str(one) for one in (self.start, self.stop))
        return f"[{ends}]" if self.step is None else f"[{ends}:{self.step}]"

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        yield from ()

    def infer(self, types: Mapping[str, ColumnType]) -> Picks:
        return "some"

    def select(self, events: Events, offsets: Offsets, of: Part) -> Selection:
        return sliced(offsets, slice(self.start, self.stop, self.step))


@dataclass(frozen=True)
class By:
    """What an expression says: a mask, a place an event, or a list of places."""

    node: Node

    @property
    def text(self) -> str:
        return f"[{self.node.text}]"

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        return self.node.needs(known)

    def infer(self, types: Mapping[str, ColumnType]) -> Picks:
        found = self.node.infer(types)
        if found.kind == "nested":
            raise PlaceError(
                f"'{self.node.text}' is {found}: a list is picked from by a list or a number", self.node.at
            )
        if found.kind == "jagged":
            return "some" if found.dtype == "bool" else "places"
        if found.dtype == "bool":
            raise PlaceError(
                f"'{self.node.text}' is one condition an event, and a mask is a list of them: write "
                f"where({self.node.text}, a, b) to choose between two values",
                self.node.at,
            )
        return "one"

    def select(self, events: Events, offsets: Offsets, of: Part) -> Selection:
        index = self.node.value(events)
        if isinstance(index, Nested):
            raise MisfitError(_too_deep(self.node), self.node.at)
        if not isinstance(index, Jagged):
            return element_by(offsets, np.broadcast_to(index, len(offsets) - 1))
        if index.dtype != np.bool_:
            return elements_by(offsets, index)
        check_same(of, offsets, self.node, index.offsets)
        return masked(offsets, index.values)


@dataclass(frozen=True)
class Ordered:
    """All elements, in rising order of a key."""

    key: Node

    @property
    def text(self) -> str:
        return self.key.text

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        return self.key.needs(known)

    def infer(self, types: Mapping[str, ColumnType]) -> Picks:
        found = self.key.infer(types)
        if found.kind != "jagged":
            raise PlaceError(
                f"'sort' takes a key for every element of a list, and '{self.key.text}' is {found}", self.key.at
            )
        return "some"

    def select(self, events: Events, offsets: Offsets, of: Part) -> Selection:
        key = lists_of(self.key, events)
        if isinstance(key, Nested):
            raise MisfitError(_too_deep(self.key), self.key.at)
        check_same(of, offsets, self.key, key.offsets)
        return ordered(key)


def _too_deep(node: Node) -> str:
    return f"'{node.text}' holds a list of lists an event where a list is needed"


@dataclass(frozen=True)
class Pick:
    """What a selector picks of a column."""

    at: int
    text: str
    operand: Node
    selector: Selector

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        yield from self.operand.needs(known)
        yield from self.selector.needs(known)

    def infer(self, types: Mapping[str, ColumnType]) -> ColumnType:
        if self.operand.text not in types and self.text in types:
            raise PlaceError(f"the column '{self.text}' has brackets in its name: write it as `{self.text}`", self.at)
        found = self.operand.infer(types)
        if found.kind == "flat":
            raise PlaceError(
                f"'{self.operand.text}' is flat (one value an event), so it has no element {self.selector.text}",
                self.operand.at,
            )
        picks = self.selector.infer(types)
        if found.kind == "nested":
            return ColumnType("jagged" if picks == "one" else "nested", found.dtype)
        dtype = found.dtype if picks == "some" else element_type(found.dtype)
        return ColumnType("flat" if picks == "one" else "jagged", dtype)

    def value(self, events: Events) -> Column:
        lists = lists_of(self.operand, events)
        selection = self.selector.select(events, lists.offsets, self.operand)
        if isinstance(lists, Nested):
            inner = _lists_at(lists.inner, selection)
            return inner if selection.offsets is None else Nested(selection.offsets, inner)
        values = selection.of(lists.values)
        return values if selection.offsets is None else Jagged(selection.offsets, values)


def element_type(dtype: DType) -> DType:
    """Type of an element that may not be there: float64, for that is NaN; of conditions bool."""
    return "bool" if dtype == "bool" else "float64"


def _lists_at(inner: Jagged, selection: Selection) -> Jagged:
    """Inner lists that are picked; empty where there is none."""
    if selection.there is None:
        return inner.take(selection.places)
    picked = inner.take(selection.places[selection.there])
    counts = np.zeros(len(selection.places), dtype=np.int64)
    counts[selection.there] = picked.counts
    return Jagged.from_counts(counts, picked.values)


@dataclass(frozen=True)
class Alternative:
    """An element, or another value where the list is too short: ``get(Jet_pt, 1, -1)``."""

    at: int
    text: str
    operand: Node
    index: int
    otherwise: Node

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        yield from self.operand.needs(known)
        yield from self.otherwise.needs(known)

    def infer(self, types: Mapping[str, ColumnType]) -> ColumnType:
        found, other = self.operand.infer(types), self.otherwise.infer(types)
        if found.kind != "jagged":
            raise PlaceError(f"'get' takes a list an event, and '{self.operand.text}' is {found}", self.operand.at)
        if other.kind != "flat":
            raise PlaceError(
                f"'get' takes one value an event where there is no element, and '{self.otherwise.text}' is {other}",
                self.otherwise.at,
            )
        return ColumnType("flat", _either_type(found.dtype, other.dtype))

    def value(self, events: Events) -> Column:
        lists, other = lists_of(self.operand, events), self.otherwise.value(events)
        if isinstance(lists, Nested) or isinstance(other, Jagged | Nested):
            raise MisfitError(f"'{self.text}' takes a list an event, and one value an event in its place", self.at)
        selection = element(lists.offsets, self.index)
        dtype = _either_type(type_of(lists).dtype, type_of(other).dtype)
        return np.where(np.asarray(selection.there), selection.of(lists.values), other).astype(dtype, copy=False)


def _either_type(first: DType, second: DType) -> DType:
    return "bool" if first == second == "bool" else "float64"


def whole_number(node: Node) -> int | None:
    """A whole number that is written out; None for anything else."""
    return node.constant if isinstance(node, Literal) and type(node.constant) is int else None
