"""The schema of an RNTuple as columns of numbers.

Fields form a tree: records, collections and arrays hold fields, leaves hold numbers. A `Shape` is the way from an event
down to the numbers of one named field. Invariant: a field that cannot be read has a reason, and takes no other field
with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from mlaas4hep.data.root.pages import INDEX, TEXT, Encoding
from mlaas4hep.data.root.source import typed
from mlaas4hep.data.source import ColumnInfo
from mlaas4hep.spec.columns import Kind

_LEAF, _COLLECTION, _RECORD, _VARIANT, _STREAMER = range(5)
_REPETITIVE, _PROJECTED = 1, 2
_SWITCH = 0x10
_NULLABLE = ("std::optional<", "std::unique_ptr<")
_KINDS: tuple[Kind, ...] = ("flat", "jagged", "nested")


class Step(NamedTuple):
    """One way in which an element holds others.

    Parameters
    ----------
    kind
        ``list``: as many as a column of list ends says; ``option``: so too, none or one; ``array``: always ``length``.
    stored
        Number of the stored column of list ends; -1 for an array.
    length
        Of an array.
    """

    kind: Literal["list", "option", "array"]
    stored: int = -1
    length: int = 1


class Shape(NamedTuple):
    """From an event to the numbers of a field.

    Parameters
    ----------
    steps
        From outside to inside.
    stored
        Number of the stored column with the numbers; of list ends, where ``counts``.
    counts
        The numbers are the lengths of lists.
    """

    steps: tuple[Step, ...]
    stored: int
    counts: bool = False

    @property
    def lists(self) -> int:
        """How deep lists lie in lists."""
        return sum(step.kind != "option" for step in self.steps)

    @property
    def nullable(self) -> bool:
        """Whether a number may be missing where one is expected, not only a list empty."""
        return bool(self.steps) and self.steps[-1].kind == "option"


@dataclass(frozen=True)
class Stored:
    """A column as it is stored.

    Parameters
    ----------
    field
        Path of its field, for messages.
    physical
        Numbers of the physical columns of its representations, of which one is in use in each cluster.
    encodings
        Of each of them.
    first
        Number of the first element of each that is in the file; those before it are zero (the field was added late).
    fixed
        Elements an entry, where that is the same for all; 0 where lists decide it.
    dtype
        Type of its numbers in memory.
    """

    field: str
    physical: tuple[int, ...]
    encodings: tuple[Encoding, ...]
    first: tuple[int, ...]
    fixed: int
    dtype: np.dtype[Any]


class _RefusedError(ValueError):
    """Why a field cannot be read."""


class Schema:
    """What the header and footer of an RNTuple say about its columns.

    Parameters
    ----------
    ntuple
        As uproot opened it; only header and footer are asked for.
    """

    def __init__(self, ntuple: Any) -> None:
        self._fields = ntuple.all_fields
        self._records = ntuple.field_records
        self._children = ntuple._related_ids
        self._physical: Mapping[int, list[Any]] = ntuple._column_records_dict
        self._steps: dict[int, tuple[Step, ...]] = {}
        self._numbers: dict[int, int] = {}
        self.stored: list[Stored] = []
        self.columns: dict[str, ColumnInfo] = {}
        self.shapes: dict[str, Shape] = {}
        for number, field in enumerate(self._fields):
            if not (field.is_anonymous or field.in_variant) and self.columns.get(field.path) is None:
                self._describe(number, str(field.path))

    def _describe(self, number: int, name: str) -> None:
        text = str(self._records[number].type_name) or "untyped"
        try:
            shape = self._shape(number, self._outside(number))
        except _RefusedError as error:
            self.columns[name] = ColumnInfo(name, None, text, str(error))
            return
        if shape is None:
            return  # a record: its members are columns
        if shape.lists >= len(_KINDS):
            self.columns[name] = ColumnInfo(name, None, text, "lists inside lists inside lists")
            return
        self.columns[name] = info = typed(name, self._dtype(shape), _KINDS[shape.lists], f"values of the type {text}")
        if info.type is not None:
            self.shapes[name] = shape

    def _dtype(self, shape: Shape) -> np.dtype[Any]:
        return memory_type(shape, self.stored[shape.stored].dtype)

    def _outside(self, number: int) -> tuple[Step, ...]:
        """Steps from an event to the elements of a field."""
        if number not in self._steps:
            parent = int(self._records[number].parent_field_id)
            self._steps[number] = () if parent == number else (*self._outside(parent), *self._own(parent))
        return self._steps[number]

    def _own(self, number: int) -> Iterator[Step]:
        """How a field holds its children."""
        record = self._records[number]
        if record.struct_role == _COLLECTION:
            nullable = str(record.type_name).startswith(_NULLABLE)
            yield Step("option" if nullable else "list", self._column(number, ends=True))
        elif record.flags & _REPETITIVE:
            yield Step("array", length=int(record.repetition))

    def _shape(self, number: int, steps: tuple[Step, ...]) -> Shape | None:
        """From an event to the numbers of a field; None for a record of several."""
        record = self._records[number]
        if record.struct_role == _RECORD:
            return None
        if record.struct_role == _VARIANT:
            raise _RefusedError("values of several types")
        if record.struct_role == _STREAMER:
            raise _RefusedError(f"objects of the class {record.type_name}, not numbers")
        children = self._children.get(number, [])
        if record.struct_role == _COLLECTION or children:
            if len(children) != 1:
                raise _RefusedError(f"a collection of {len(children)} fields, not of one")
            return self._shape(children[0], (*steps, *self._own(number)))
        if "RNTupleCardinality" in record.type_name:
            return Shape(steps, self._column(number, ends=True), counts=True)
        return Shape((*steps, *self._own(number)), self._column(number, ends=False))

    def _column(self, number: int, *, ends: bool) -> int:
        """Number of the stored column of a field, described when it is asked for the first time."""
        record = self._records[number]
        source = int(record.source_field_id) if record.flags & _PROJECTED else number
        if source in self._numbers:
            known = self._numbers[source]
            if (self.stored[known].encodings[0].number in INDEX) != ends:
                raise _RefusedError("damaged: list ends where numbers are expected, or the reverse")
            return known
        found = self._stored(source, self._physical.get(source, []), ends=ends)
        self._numbers[source] = len(self.stored)
        self.stored.append(found)
        return self._numbers[source]

    def _stored(self, number: int, physical: Sequence[Any], *, ends: bool) -> Stored:
        if not physical:
            raise _RefusedError("damaged: no stored column is named for it")
        if any(one.type == TEXT for one in physical) and len(physical) > 1:
            raise _RefusedError("text, not numbers")
        if any(one.type == _SWITCH for one in physical):
            raise _RefusedError("values of several types")
        encodings = tuple(Encoding(int(one.type), int(one.nbits), *_range(one)) for one in physical)
        for one in encodings:
            problem = one.problem()
            if problem is not None:
                raise _RefusedError(problem)
            if (one.number in INDEX) != ends:
                raise _RefusedError("damaged: list ends where numbers are expected, or the reverse")
        if [int(one.repr_idx) for one in physical] != list(range(len(physical))):
            raise _RefusedError(f"damaged: {len(physical)} stored columns where one is expected")
        return Stored(
            field=self._named(number),
            physical=tuple(int(one.idx) for one in physical),
            encodings=encodings,
            first=tuple(_first(one) for one in physical),
            fixed=self._fixed(number),
            dtype=np.dtype(np.int64) if ends else np.result_type(*(one.kind.dtype for one in encodings)),
        )

    def _named(self, number: int) -> str:
        """Path of a field; of one without a name of its own, that of the field around it."""
        while self._fields[number].is_anonymous:
            number = int(self._records[number].parent_field_id)
        return str(self._fields[number].path)

    def _fixed(self, number: int) -> int:
        """Elements an entry in the stored column of a field; 0 where lists decide it."""
        record = self._records[number]
        steps = self._outside(number)
        if record.struct_role != _COLLECTION:
            steps = (*steps, *self._own(number))
        fixed = 1
        for step in steps:
            fixed *= step.length if step.kind == "array" else 0
        return fixed


def memory_type(shape: Shape, stored: np.dtype[Any]) -> np.dtype[Any]:
    """Type of the numbers of a column: where one may be missing, a type that has NaN."""
    return stored if not shape.nullable or stored.kind == "f" else np.dtype(np.float64)


def _range(record: Any) -> tuple[float, float]:
    return (0.0, 0.0) if record.min_value is None else (float(record.min_value), float(record.max_value))


def _first(record: Any) -> int:
    """First element in the file; a negative number says that other representations were in use before."""
    first = int(record.first_element_index)
    return -(first - (1 << 64)) if first >> 63 else first
