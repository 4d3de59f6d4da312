"""What ties an output to the events of its input: how many they are, which is first and last, and a hash of all.

Events are told apart by run, luminosityBlock and event where the input has them, else by the columns that a model was
split by, else by a hash of the declared inputs. Invariant: the hash is of the events in their order, whatever the
chunks in which they are read, and the same from every file format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.bundle import Bundle
from mlaas4hep.data.hashing import UInt64, fold, hash_columns
from mlaas4hep.data.source import ColumnInfo
from mlaas4hep.data.split import STANDARD, Identity
from mlaas4hep.spec.columns import Columns, ColumnType, cast

Origin = Literal["split.by", "files", "inputs"]
_KEY = fold(0x616C69676E)
UNREADABLE = np.uint64(0)
"""Stands for an entry that cannot be read."""


class Alignment(msgspec.Struct, frozen=True):
    """Of one input, as it was read.

    Parameters
    ----------
    entries
        How many.
    columns, origin
        What tells events apart, and why: ``files`` (run, luminosityBlock, event), ``split.by``, or ``inputs``.
    first, last
        Values of those columns that are one number an event, of the first and of the last entry; null is none, or none
        that JSON has.
    sha256
        Of all events in order.
    """

    entries: int
    columns: tuple[str, ...]
    origin: Origin
    first: dict[str, int | float | bool | None]
    last: dict[str, int | float | bool | None]
    sha256: str


class Teller:
    """Tells one event of a file from another.

    Parameters
    ----------
    identity
        The columns, and why they are taken.
    types
        Their types in the file.
    """

    def __init__(self, identity: Identity, types: Mapping[str, ColumnType]) -> None:
        self.identity = identity
        self._types = {name: types[name] for name in identity.columns}

    @property
    def columns(self) -> tuple[str, ...]:
        """Raw columns that it needs."""
        return self.identity.columns

    @property
    def shown(self) -> dict[str, np.dtype[Any]]:
        """Columns that are written beside the scores, with their types: none of a hash of the inputs."""
        if self.identity.origin == "inputs":
            return {}
        return {name: np.dtype(one.dtype) for name, one in self._types.items() if one.kind == "flat"}

    def hashes(self, columns: Columns, num_entries: int) -> UInt64:
        """Of each event, uint64 [N]; never `UNREADABLE`."""
        typed = cast(columns, self._types)
        found = hash_columns(_KEY, [typed[name] for name in self._types], num_entries)
        return np.where(found == UNREADABLE, np.uint64(1), found)

    def nothing(self, num_entries: int) -> UInt64:
        """In place of hashes, of entries that cannot be read."""
        return np.full(num_entries, UNREADABLE)

    def values(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """The columns that are shown, in their types."""
        shown = self.shown
        typed = cast({name: columns[name] for name in shown}, {name: self._types[name] for name in shown})
        return {name: np.asarray(column) for name, column in typed.items()}


def teller_of(infos: Mapping[str, ColumnInfo], bundles: Iterable[Bundle]) -> Teller:
    """What tells events of a file apart where these models score it."""
    types = {name: info.type for name, info in infos.items() if info.type is not None}
    bundles = tuple(bundles)
    if all(name in types and types[name].kind == "flat" for name in STANDARD):
        return Teller(Identity(STANDARD, "files"), types)
    for one in bundles:
        asked = one.spec.features.split.by
        if asked and all(name in types for name in asked):
            return Teller(Identity(asked, "split.by"), types)
    inputs = sorted({name for one in bundles for name in one.spec.columns})
    return Teller(Identity(tuple(inputs), "inputs"), types)


class Digest:
    """Gathers the alignment of one input while its events come in order.

    Parameters
    ----------
    identity
        What tells events apart.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._hash = hashlib.sha256()
        self._entries = 0
        self._first: dict[str, Any] = {}
        self._last: dict[str, Any] = {}

    def add(self, hashes: UInt64, values: Mapping[str, NDArray[Any]]) -> None:
        """Further events, with those of their columns that are shown."""
        if not len(hashes):
            return
        self._hash.update(hashes.astype("<u8", copy=False).tobytes())
        if not self._entries:
            self._first = {name: _number(column[0]) for name, column in values.items()}
        self._last = {name: _number(column[-1]) for name, column in values.items()}
        self._entries += len(hashes)

    def alignment(self) -> Alignment:
        """Of all that came."""
        identity = self._identity
        return Alignment(
            self._entries, identity.columns, identity.origin, self._first, self._last, self._hash.hexdigest()
        )


def _number(value: Any) -> Any:
    """As JSON has it: a value that is missing or infinite is null there, and would equal nothing if it were NaN."""
    return value.item() if value.dtype.kind != "f" or np.isfinite(value) else None


def differences(found: Alignment, told: Alignment) -> list[str]:
    """In which an input is not the one that an output was made of, in words; empty where it is."""
    if found.entries != told.entries:
        return [f"the input has {found.entries} entries, the output was made of {told.entries}"]
    lines = [
        f"the {word} event is {_event(ours, found.columns)}, the output was made of {_event(theirs, found.columns)}"
        for word, ours, theirs in (("first", found.first, told.first), ("last", found.last, told.last))
        if ours != theirs
    ]
    if found.sha256 != told.sha256:
        by = ", ".join(found.columns[:4]) + (", ..." if len(found.columns) > 4 else "")
        lines.append(f"its events, told apart by {by}, are others, or in another order")
    return lines


def _event(values: Mapping[str, Any], columns: Sequence[str]) -> str:
    return ", ".join(f"{name} {values[name]}" for name in columns if name in values) or "another"


def fills(shown: Sequence[str], types: Mapping[str, np.dtype[Any]], num_entries: int) -> dict[str, NDArray[Any]]:
    """What stands in columns for entries that cannot be read: NaN, 0 or false."""
    return {name: np.full(num_entries, np.nan if types[name].kind == "f" else 0, types[name]) for name in shown}
