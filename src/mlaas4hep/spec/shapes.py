"""How columns of different depth are joined value by value: one value, a list, or a list of lists an event.

Invariant: lists that are joined have equal lengths, or it is refused with the first event where they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.spec.columns import Column, ColumnType, Jagged, Kind, Nested

Offsets = NDArray[np.int64]
_DEPTH: dict[Kind, int] = {"flat": 0, "jagged": 1, "nested": 2}


class MisfitError(Exception):
    """The columns of these events do not fit together or are not as declared: the text is not at fault.

    Parameters
    ----------
    message
        What does not fit what.
    at
        Character of the text at which the part begins that does not fit; None where no single one does.
    """

    def __init__(self, message: str, at: int | None = None) -> None:
        self.at = at
        super().__init__(message)


class Part(Protocol):
    """A part of an expression, for messages."""

    @property
    def at(self) -> int:
        """Character at which it starts."""

    @property
    def text(self) -> str:
        """How it is spelled."""


@dataclass(frozen=True)
class Lists:
    """Lists of N events; with ``inner``, lists of lists."""

    outer: Offsets
    inner: Offsets | None

    def spread(self, value: Column) -> NDArray[Any]:
        """One value for each of the lists, where less deep columns count for all below them."""
        if isinstance(value, Nested):
            return value.values
        if isinstance(value, Jagged):
            return value.values if self.inner is None else np.repeat(value.values, np.diff(self.inner))
        if value.ndim == 0:
            return value
        ends = self.outer if self.inner is None else self.inner[self.outer]
        return np.repeat(value, np.diff(ends))

    def wrap(self, values: NDArray[Any]) -> Column:
        """The lists with these values."""
        if self.inner is None:
            return Jagged(self.outer, values)
        return Nested(self.outer, Jagged(self.inner, values))


def joint_kind(types: Sequence[ColumnType]) -> Kind:
    """The deepest of some kinds."""
    return max((one.kind for one in types), key=_DEPTH.__getitem__)


def common_lists(parts: Sequence[Part], values: Sequence[Column]) -> Lists | None:
    """The lists that all columns fit; None where none has lists.

    Parameters
    ----------
    parts
        What each column is the value of, for messages.

    Raises
    ------
    MisfitError
        Two have lists of different lengths.
    """
    found = [(part, one) for part, one in zip(parts, values, strict=True) if isinstance(one, Jagged | Nested)]
    if not found:
        return None
    lead, first = found[0]
    deep: tuple[Part, Nested] | None = None
    for part, other in found:
        check_same(lead, first.offsets, part, other.offsets)
        if isinstance(other, Nested):
            deep = deep or (part, other)
            check_same(deep[0], deep[1].inner.offsets, part, other.inner.offsets, unit="list")
    return Lists(first.offsets, None if deep is None else deep[1].inner.offsets)


def check_same(first: Part, lead: Offsets, second: Part, other: Offsets, *, unit: str = "event") -> None:
    """Refuse lists of different lengths, by name and at the second of them; `MisfitError`."""
    if other is lead or np.array_equal(other, lead):
        return
    counts, others = np.diff(lead), np.diff(other)
    event = int(np.flatnonzero(counts != others)[0])
    raise MisfitError(
        f"the lists '{first.text}' and '{second.text}' have different lengths ({counts[event]} "
        f"and {others[event]} in {unit} {event} of {len(counts)}): they cannot be joined value by value",
        second.at,
    )
