"""What a source of events is, and how one is found for a file.

A `Source` is one table of events in one file. The formats register under the entry-point group ``mlaas4hep.sources``;
a new one is a module and a line there. Invariant: `Source.read` gives the same events for the same entry range, in any
order of calls, whatever ranges were read before.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.arguments import names_of, require, whole
from mlaas4hep.data.places import Place, open_place
from mlaas4hep.errors import DataError, nearest
from mlaas4hep.spec.columns import Column, ColumnType

GROUP = "mlaas4hep.sources"
_HEAD_BYTES = 512
_BUILT_IN = {
    "root": "mlaas4hep.data.root:RootFormat",
    "parquet": "mlaas4hep.data.tables:ParquetFormat",
    "avro": "mlaas4hep.data.tables:AvroFormat",
    "json": "mlaas4hep.data.tables:JsonFormat",
    "csv": "mlaas4hep.data.tables:DelimitedFormat",
}
ONLY_TABLE = "table"
"""Name of the one table in a file whose format names none. It is opened by whatever name is asked for."""


@dataclass(frozen=True)
class ColumnInfo:
    """One column as it stands in a file.

    Parameters
    ----------
    name
        As it is asked for.
    type
        What it becomes in memory; None where it cannot be read as numbers or lists of numbers.
    description
        Its type in the file, such as ``float32[]``.
    reason
        Why it cannot be read; None where it can.
    """

    name: str
    type: ColumnType | None
    description: str
    reason: str | None = None


@dataclass(frozen=True)
class TreeInfo:
    """One table of events in a file: its name, its kind (``TTree``), and why it cannot be read, if so."""

    name: str
    kind: str
    reason: str | None = None


@runtime_checkable
class Source(Protocol):
    """A table of events in a file. Not to be shared by threads that read at the same time."""

    path: str
    tree: str
    num_entries: int
    identity: str
    """Of the content of its file: differs whenever that may differ."""
    columns: Mapping[str, ColumnInfo]
    clusters: NDArray[np.int64]
    """int64 [C + 1], rising from 0 to ``num_entries``: entry ranges that are stored together."""

    def read(self, names: Sequence[str], entry_start: int, entry_stop: int) -> dict[str, Column]:
        """Columns of the entries from ``entry_start`` to ``entry_stop`` (excluded).

        Raises
        ------
        DataError
            A column is not there or cannot be read, the range is outside the file, or the bytes are damaged.
        """
        ...

    def close(self) -> None:
        """Give the file back; reading after that is an error."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class Divisible(Protocol):
    """A source that knows what its reads take: optional, so that memory can be bounded by what is in the file."""

    def cut(self, names: Sequence[str], entry_start: int, entry_stop: int, max_bytes: int) -> list[int]:
        """Boundaries from ``entry_start`` to ``entry_stop`` of reads that give about ``max_bytes`` each at most.

        What the format reads as one (a cluster of an RNTuple) stays together. Opens nothing and reads no events.
        """
        ...


@runtime_checkable
class Texts(Protocol):
    """A source that can give columns of text too: optional, so that a label may be a word."""

    @property
    def texts(self) -> Collection[str]:
        """Names of the columns that are one text an event."""

    def read_text(self, name: str, entry_start: int, entry_stop: int) -> NDArray[Any]:
        """Text of the entries from ``entry_start`` to ``entry_stop`` (excluded), str or object [N].

        Raises
        ------
        DataError
            The column is not among ``texts``, the range is outside the file, or the bytes are damaged.
        """
        ...


@runtime_checkable
class AsStored(Protocol):
    """A source that can leave values as they lie in the file: optional, for who brings them into their place itself."""

    def read_stored(
        self, names: Sequence[str], entry_start: int, entry_stop: int, *, stored: Collection[str]
    ) -> dict[str, Column]:
        """The same columns as `Source.read`; values of those in ``stored`` may be in the byte order of the file."""
        ...


def read_stored(
    source: Source, names: Sequence[str], entry_start: int, entry_stop: int, *, stored: Collection[str]
) -> dict[str, Column]:
    """See `AsStored.read_stored`; like `Source.read` where the source does not know how."""
    if stored and isinstance(source, AsStored):
        return source.read_stored(names, entry_start, entry_stop, stored=stored)
    return source.read(names, entry_start, entry_stop)


def text_of(source: Source) -> Texts:
    """The same source, as one that gives text.

    Raises
    ------
    DataError
        Its format gives none.
    """
    if isinstance(source, Texts):
        return source
    raise DataError(f"{source.path}, tree '{source.tree}': columns of text cannot be read from this format")


@dataclass(frozen=True)
class Weight:
    """Bytes of columns: as they are stored in the file, and as they are when inflated."""

    stored: int
    inflated: int


@runtime_checkable
class Weighed(Protocol):
    """A source that knows how many bytes a read takes: optional, so that a run can say what it will cost."""

    def weigh(self, names: Sequence[str], entry_start: int, entry_stop: int) -> Weight:
        """Bytes that a read of these columns and entries fetches and inflates. Opens nothing and reads no events."""
        ...


def cut_reads(source: Source, names: Sequence[str], entry_start: int, entry_stop: int, *, max_bytes: int) -> list[int]:
    """Boundaries of reads of about ``max_bytes`` each at most; one read where the source does not know its sizes."""
    if isinstance(source, Divisible) and entry_stop > entry_start:
        return source.cut(names, entry_start, entry_stop, max_bytes)
    return [entry_start, entry_stop]


class SourceFormat(Protocol):
    """A file format: knows its files by their first bytes, and opens them."""

    def matches(self, url: str, head: bytes) -> bool:
        """True where the file with these first bytes is of this format."""
        ...

    def trees(self, place: Place) -> tuple[TreeInfo, ...]:
        """Tables of events in a file, in the order in which they stand there."""
        ...

    def open(self, place: Place, tree: str | None) -> Source:
        """Open one table; None takes the only one. The source owns the place from then on."""
        ...


@cache  # asking what is installed takes as long as opening a file
def formats() -> Mapping[str, SourceFormat]:
    """All known formats by name: the built-in ones and those of installed packages."""
    found: dict[str, SourceFormat] = {}
    for name, place in _BUILT_IN.items():
        module, _, attribute = place.partition(":")
        found[name] = getattr(importlib.import_module(module), attribute)()
    for entry in entry_points(group=GROUP):
        if entry.name not in found:
            found[entry.name] = entry.load()()
    return found


def format_of(place: Place) -> SourceFormat:
    """The format of a file, by its first bytes.

    Raises
    ------
    DataError
        The file is empty, or no format knows it.
    """
    if not place.size:
        raise DataError(f"{place.url}: is an empty file (0 bytes)")
    head = bytes(place.read([(0, min(_HEAD_BYTES, place.size))])[0])
    known = formats()
    for one in known.values():
        if one.matches(place.url, head):
            return one
    named = ", ".join(name if name != "root" else "ROOT" for name in known)
    raise DataError(f"{place.url}: is not a file of a known format ({named}); {_looks_like(head)}")


def open_source(path: str, tree: str | None = None, *, replicas: Sequence[str] = ()) -> Source:
    """Open a table of events, wherever it lies; `None` takes the only one with entries.

    Parameters
    ----------
    path
        Its path or address.
    tree
        Name of the table.
    replicas
        Addresses of this file, in the order in which they are asked; by default ``path`` alone.

    Raises
    ------
    DataError
        No such file, not a known format, damaged, no such tree, or several trees and none named.
    """
    if tree is not None:
        require(tree, str, "tree", error=DataError)
    place = open_place(path, replicas=replicas)
    try:
        return format_of(place).open(place, tree)
    except BaseException:
        place.close()
        raise


def list_trees(path: str) -> tuple[TreeInfo, ...]:
    """Tables of events in a file, readable or not."""
    place = open_place(path)
    try:
        return format_of(place).trees(place)
    finally:
        place.close()


def check_asked(source: Source, names: Sequence[str], entry_start: int, entry_stop: int) -> None:
    """Refuse a read that a source cannot answer: each `Source.read` begins with it.

    Raises
    ------
    DataError
        Names the first column that is missing or unreadable, or the range that is outside the file.
    """
    where = f"{source.path}, tree '{source.tree}'"
    bounds = [whole(one, "an entry", least=-(2**63), error=DataError) for one in (entry_start, entry_stop)]
    for name in names_of(names, "columns", error=DataError):
        info = source.columns.get(name)
        if info is None:
            raise DataError(f"{where}: has no column '{name}'{nearest(name, source.columns)}")
        if info.type is None:
            raise DataError(f"{where}: column '{name}' ({info.description}) cannot be read: {info.reason}")
    if not 0 <= bounds[0] <= bounds[1] <= source.num_entries:
        raise DataError(
            f"{where}: entries {entry_start} to {entry_stop} asked for, but it has {source.num_entries} entries"
        )


_SIGNATURES = {
    b"\x89HDF": "it looks like HDF5",
    b"\x1f\x8b": "it looks like gzip; a compressed table of text has a name ending in .csv.gz, .tsv.gz or .json.gz",
    b"PK": "it looks like zip (numpy's .npz, perhaps)",
    b"<": "it looks like HTML or XML (an error page saved as a file?)",
    b"version https://git-lfs": "it is a Git LFS pointer: fetch the file itself",
}


def _looks_like(head: bytes) -> str:
    for signature, words in _SIGNATURES.items():
        if head.startswith(signature):
            return words
    shown = head[:12]
    return f"it begins with {shown!r}"
