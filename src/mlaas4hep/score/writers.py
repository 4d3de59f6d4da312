"""How outputs are written: a protocol, and the formats by name.

A new format is a module and a line here. Invariant: what was appended is in the file, in order, once `finish` is done;
a format neither opens nor names files, so that how a file gets its name is decided in one place (`part`).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.arguments import word
from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.places import open_place
from mlaas4hep.data.source import format_of as input_format_of
from mlaas4hep.data.source import formats as input_formats
from mlaas4hep.errors import DataError

TABLE = "scores"
"""Name of a friend tree: another than that of the input, which ROOT asks for where RNTuples are joined."""
_FORMATS = {
    "ttree": "mlaas4hep.score.root_files:FriendTree",
    "rntuple": "mlaas4hep.score.root_files:FriendNTuple",
    "copy": "mlaas4hep.score.copies:Copy",
    "parquet": "mlaas4hep.score.parquet_files:Parquet",
}
FORMATS = tuple(_FORMATS)
COPY = "copy"
_COPIES = {"root": _FORMATS[COPY], "parquet": "mlaas4hep.score.parquet_copies:ParquetCopy"}
"""By format of the input."""
_BY_ENDING = {".root": "ttree", ".parquet": "parquet"}


@dataclass(frozen=True, eq=False)
class Layout:
    """What a file is to hold.

    Parameters
    ----------
    table
        Name of the table, where the format has one.
    types
        By column, in order.
    entries
        So many will come.
    parts
        In at most so many calls.
    original
        The input.
    drop
        Names in the input that a copy need not have; ``*`` stands for all that it cannot.
    work
        Hash of all that the output depends on; 64 hexadecimal digits.
    """

    table: str
    types: Mapping[str, np.dtype[Any]]
    entries: int
    parts: int
    original: FileEntry
    work: str
    drop: tuple[str, ...] = ()


class Writer(Protocol):
    """Writes one file."""

    def append(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Further entries: all columns, [N] each."""
        ...

    def finish(self, stamp: bytes) -> None:
        """The last ones came; ``stamp`` is what the file says of itself."""
        ...

    def close(self) -> None:
        """Let go of everything, finished or not; the file is left to who opened it."""


class Format(Protocol):
    """One format of outputs."""

    suffix: str
    """How the names of its files end."""
    whole: bool
    """Whether its files hold the columns of the input, too."""

    def table(self, asked: str, original: FileEntry) -> str:
        """Name of the table that holds the scores; empty where the format names none."""
        ...

    def begin(self, file: IO[bytes], layout: Layout) -> Writer:
        """Write into an empty file that can be read, too.

        Raises
        ------
        DataError
            The format cannot hold what it is to hold.
        """
        ...

    def stamp(self, path: str) -> bytes | None:
        """What a file says of itself; None where it says nothing.

        Raises
        ------
        DataError
            It is not there, is no such file, or is damaged.
        """
        ...


def format_of(name: str) -> Format:
    """By name.

    Raises
    ------
    UserError
        It is none.
    """
    word(name, "format", FORMATS)
    return _made(_FORMATS[name])


def format_for(name: str, input: FileEntry) -> Format:
    """By name, of the output of an input: a copy is of the format of what is copied.

    Raises
    ------
    UserError
        It is none.
    DataError
        Nothing makes copies of such an input.
    """
    if name != COPY:
        return format_of(name)
    found = _input_format(input)
    if found not in _COPIES:
        raise DataError(
            f"{input.path}: is {found.upper()}, and copies are made of ROOT and Parquet files alone; take a file "
            "beside it: --format parquet or ttree"
        )
    return _made(_COPIES[found])


def _input_format(input: FileEntry) -> str:
    place = open_place(input.path, replicas=input.replicas)
    try:
        found = input_format_of(place)
        return next(name for name, one in input_formats().items() if one is found)
    finally:
        place.close()


def _made(where: str) -> Format:
    module, _, attribute = where.partition(":")
    found: Format = getattr(importlib.import_module(module), attribute)()
    return found


def format_by_ending(path: str) -> Format | None:
    """What can tell what a file says of itself; None where its name ends in another way."""
    name = next((name for ending, name in _BY_ENDING.items() if path.endswith(ending)), None)
    return None if name is None else format_of(name)
