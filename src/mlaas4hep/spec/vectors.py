"""Four-vectors in expressions: ``mass(Jet[0] + Jet[1])``, ``deltaR(Jet[0], Lepton[0])``, ``pt(sum(Jet[:4]))``.

Inside a function of four-vectors, a name is a collection and stands for its columns (`members`). A vector node knows
its kind and gives `Momenta`; `Measure` makes a column of one or two. Invariant: a vector never gets out of such a
function, so types and files know columns alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mlaas4hep.spec import momenta as four
from mlaas4hep.spec.columns import Column, ColumnType, Jagged, Kind, values_of
from mlaas4hep.spec.functions import delta_phi
from mlaas4hep.spec.members import Members, Need, members, why_not
from mlaas4hep.spec.momenta import Array, Momenta
from mlaas4hep.spec.nodes import Events, Name, Node
from mlaas4hep.spec.picking import Offsets, Selection
from mlaas4hep.spec.picks import Selector
from mlaas4hep.spec.shapes import MisfitError, check_same, common_lists
from mlaas4hep.spec.spelling import PlaceError


class VectorNode(Protocol):
    """One construct that gives four-vectors; `at`, `text` and `needs` as of a `Node`."""

    @property
    def at(self) -> int: ...

    @property
    def text(self) -> str: ...

    def needs(self, known: Collection[str] | None) -> Iterator[str]: ...

    def infer(self, types: Mapping[str, ColumnType]) -> Kind:
        """One an event (flat) or a list (jagged); or `PlaceError`."""

    def momenta(self, events: Events) -> Momenta:
        """The vectors."""


@dataclass(frozen=True)
class Coordinates:
    """Coordinates of four-vectors as they stand in columns: one an event, or lists with these offsets."""

    values: Mapping[str, Array]
    offsets: Offsets | None

    def pick(self, selection: Selection) -> Coordinates:
        """Those of picked elements or lists."""
        return Coordinates({name: selection.of(one) for name, one in self.values.items()}, selection.offsets)

    def momenta(self) -> Momenta:
        """The four-vectors; coordinates that are not there are 0."""
        given = {name: one.astype(np.float64, copy=False) for name, one in self.values.items()}
        zero = four.nothing(next(iter(given.values())))
        if "pt" in given:
            px, py, pz = four.from_polar(given["pt"], given.get("eta", zero), given["phi"])
        else:
            px, py, pz = given["px"], given["py"], given.get("pz", zero)
        made = (
            four.with_energy(px, py, pz, given["energy"])
            if "energy" in given
            else four.with_mass(px, py, pz, given.get("mass", zero))
        )
        return Momenta(*made.parts, self.offsets)


@dataclass(frozen=True)
class FromColumns:
    """Four-vectors of a collection, or of one object an event.

    Parameters
    ----------
    need
        How much of them is asked for: only such columns are read.
    """

    at: int
    text: str
    name: str
    need: Need

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        if known is None:
            yield self.name
        else:
            yield from self._members(known).columns

    def infer(self, types: Mapping[str, ColumnType]) -> Kind:
        return _joint([Name(self.at, one, one) for one in self._members(types).columns], types)

    def momenta(self, events: Events) -> Momenta:
        return self.coordinates(events).momenta()

    def coordinates(self, events: Events) -> Coordinates:
        """Its columns, not yet computed with."""
        found = self._members(events.columns)
        nodes = [Name(self.at, one, one) for one in found.columns]
        return _coordinates(dict(zip(found.coordinates, nodes, strict=True)), events)

    def _members(self, known: Collection[str]) -> Members:
        found = members(self.name, self.need, known)
        if found is None:
            raise PlaceError(why_not(self.name, self.need, known), self.at)
        return found


@dataclass(frozen=True)
class FromValues:
    """Four-vectors of four expressions: ``p4(pt, eta, phi, mass)``."""

    at: int
    text: str
    operands: tuple[Node, Node, Node, Node]

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        for node in self.operands:
            yield from node.needs(known)

    def infer(self, types: Mapping[str, ColumnType]) -> Kind:
        return _joint(self.operands, types)

    def momenta(self, events: Events) -> Momenta:
        return self.coordinates(events).momenta()

    def coordinates(self, events: Events) -> Coordinates:
        """Its values, not yet computed with."""
        return _coordinates(dict(zip(("pt", "eta", "phi", "mass"), self.operands, strict=True)), events)


@dataclass(frozen=True)
class Added:
    """Sum or difference (``sign`` -1) of two; one an event counts for every element of a list."""

    at: int
    text: str
    left: VectorNode
    right: VectorNode
    sign: float

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        yield from self.left.needs(known)
        yield from self.right.needs(known)

    def infer(self, types: Mapping[str, ColumnType]) -> Kind:
        kinds = {self.left.infer(types), self.right.infer(types)}
        return "jagged" if "jagged" in kinds else "flat"

    def momenta(self, events: Events) -> Momenta:
        left, right = _aligned((self.left, self.right), events)
        return four.add(left, right, self.sign)


@dataclass(frozen=True)
class Total:
    """Sum over each list."""

    at: int
    text: str
    operand: VectorNode

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        return self.operand.needs(known)

    def infer(self, types: Mapping[str, ColumnType]) -> Kind:
        _must_be_list(self.operand, types, "'sum' takes a list an event")
        return "flat"

    def momenta(self, events: Events) -> Momenta:
        return four.total(_listed(self.operand, events))


@dataclass(frozen=True)
class Picked:
    """Elements, slices, masks and sorted lists."""

    at: int
    text: str
    operand: VectorNode
    selector: Selector

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        yield from self.operand.needs(known)
        yield from self.selector.needs(known)

    def infer(self, types: Mapping[str, ColumnType]) -> Kind:
        _must_be_list(self.operand, types, f"'{self.selector.text}' picks from a list an event")
        return "flat" if self.selector.infer(types) == "one" else "jagged"

    def momenta(self, events: Events) -> Momenta:
        found = self.coordinates(events)
        return found if isinstance(found, Momenta) else found.momenta()

    def coordinates(self, events: Events) -> Coordinates | Momenta:
        """What is picked of columns before anything is computed, which costs the least; else of four-vectors."""
        node = self.operand
        lists: Coordinates | Momenta
        if isinstance(node, FromColumns | FromValues | Picked):
            lists = node.coordinates(events)
        else:
            lists = node.momenta(events)
        if lists.offsets is None:
            raise _no_list(node)
        return lists.pick(self.selector.select(events, lists.offsets, self.operand))


@dataclass(frozen=True)
class Viewed:
    """Without mass, or without what is along the beam."""

    at: int
    text: str
    operand: VectorNode
    view: Callable[[Momenta], Momenta]

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        return self.operand.needs(known)

    def infer(self, types: Mapping[str, ColumnType]) -> Kind:
        return self.operand.infer(types)

    def momenta(self, events: Events) -> Momenta:
        return self.view(self.operand.momenta(events))


@dataclass(frozen=True)
class Measurement:
    """A number of one or two four-vectors, and how much of them it takes."""

    arity: int
    need: Need
    compute: Callable[..., Array]


MEASUREMENTS: dict[str, Measurement] = {
    "pt": Measurement(1, "transverse", lambda one: one.pt),
    "phi": Measurement(1, "transverse", lambda one: one.phi),
    "px": Measurement(1, "transverse", lambda one: one.px),
    "py": Measurement(1, "transverse", lambda one: one.py),
    "pz": Measurement(1, "momentum", lambda one: one.pz),
    "p": Measurement(1, "momentum", lambda one: one.p),
    "eta": Measurement(1, "momentum", lambda one: one.eta),
    "mass": Measurement(1, "all", lambda one: one.mass),
    "energy": Measurement(1, "all", lambda one: one.energy),
    "rapidity": Measurement(1, "all", lambda one: one.rapidity),
    "deltaphi": Measurement(2, "transverse", lambda one, other: delta_phi(one.phi, other.phi)),
    "deltaeta": Measurement(2, "momentum", lambda one, other: one.eta - other.eta),
    "deltaR": Measurement(2, "momentum", four.delta_r),
}
VIEWS: dict[str, tuple[Need, Callable[[Momenta], Momenta]]] = {
    "massless": ("momentum", Momenta.massless),
    "transverse": ("transverse", Momenta.transverse),
}
"""By name, how much they need of what they look at, and what they leave of it."""


@dataclass(frozen=True)
class Measure:
    """A column out of four-vectors."""

    at: int
    text: str
    measurement: Measurement
    operands: tuple[VectorNode, ...]

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        for node in self.operands:
            yield from node.needs(known)

    def infer(self, types: Mapping[str, ColumnType]) -> ColumnType:
        kinds = {node.infer(types) for node in self.operands}
        return ColumnType("jagged" if "jagged" in kinds else "flat", "float64")

    def value(self, events: Events) -> Column:
        found = _aligned(self.operands, events)
        values = np.asarray(self.measurement.compute(*found))
        offsets = found[0].offsets
        return values if offsets is None else Jagged(offsets, values)


@dataclass(frozen=True)
class Either:
    """``deltaphi(a, b)``: of four-vectors where one of the names is a collection, else of two angles."""

    at: int
    text: str
    vectors: Measure
    numbers: Node

    def needs(self, known: Collection[str] | None) -> Iterator[str]:
        return self._chosen(known or ()).needs(known)

    def infer(self, types: Mapping[str, ColumnType]) -> ColumnType:
        return self._chosen(types).infer(types)

    def value(self, events: Events) -> Column:
        return self._chosen(events.columns).value(events)

    def _chosen(self, known: Collection[str]) -> Node:
        return self.vectors if any(_is_known(one, known) for one in self.vectors.operands) else self.numbers


def _is_known(node: VectorNode, known: Collection[str]) -> bool:
    try:
        list(node.needs(known))
    except PlaceError:
        return False
    return True


def _joint(nodes: Collection[Node], types: Mapping[str, ColumnType]) -> Kind:
    """Kind of the coordinates together."""
    kinds = set()
    for node in nodes:
        found = node.infer(types)
        if found.kind == "nested" or found.dtype == "bool":
            raise PlaceError(f"'{node.text}' is {found}, which is no coordinate of a four-vector", node.at)
        kinds.add(found.kind)
    return "jagged" if "jagged" in kinds else "flat"


def _coordinates(nodes: Mapping[str, Node], events: Events) -> Coordinates:
    """Values of the coordinates, side by side."""
    columns = [node.value(events) for node in nodes.values()]
    lists = common_lists(list(nodes.values()), columns)
    if lists is not None and lists.inner is not None:
        raise MisfitError("a list of lists an event is no coordinate of a four-vector")
    size = events.num_entries if lists is None else int(lists.outer[-1])
    values = {
        name: np.broadcast_to(values_of(column) if lists is None else lists.spread(column), size)
        for name, column in zip(nodes, columns, strict=True)
    }
    return Coordinates(values, None if lists is None else lists.outer)


def _aligned(nodes: Collection[VectorNode], events: Events) -> list[Momenta]:
    """Vectors side by side: one an event is repeated for the elements of the lists of the others."""
    found = [node.momenta(events) for node in nodes]
    lists = [(node, one.offsets) for node, one in zip(nodes, found, strict=True) if one.offsets is not None]
    if not lists:
        return found
    lead, offsets = lists[0]
    for node, other in lists[1:]:
        check_same(lead, offsets, node, other)
    return [one if one.offsets is not None else one.repeated(offsets) for one in found]


def _must_be_list(node: VectorNode, types: Mapping[str, ColumnType], asked: str) -> None:
    if node.infer(types) == "flat":
        raise PlaceError(f"{asked}, and '{node.text}' is one four-vector an event", node.at)


def _listed(node: VectorNode, events: Events) -> Momenta:
    found = node.momenta(events)
    if found.offsets is None:
        raise _no_list(node)
    return found


def _no_list(node: VectorNode) -> MisfitError:
    return MisfitError(f"'{node.text}' holds one four-vector an event where a list is needed", node.at)
