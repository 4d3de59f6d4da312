"""Friend trees, as TTree and as RNTuple, written by uproot.

RNTuples are those of the first final format (1.0), which ROOT reads since 6.34. Baskets and pages are compressed by
zstd, level 1: scores are nearly noise, and slower codecs gain little on it. Invariant: a file holds one table and what
it says of itself, and its UUID is that of the work, so that equal work gives files that differ in their dates alone.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
import uproot
from numpy.typing import NDArray

from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.places import open_place
from mlaas4hep.data.root.blame import blamed
from mlaas4hep.data.root.bytes import open_root
from mlaas4hep.errors import DataError
from mlaas4hep.score.stamp import KEY
from mlaas4hep.score.writers import Layout

_LEVEL = 1


class FriendTree:
    """A TTree of its own file."""

    suffix = ".root"
    whole = False

    def table(self, asked: str, original: FileEntry) -> str:
        """See `mlaas4hep.score.writers.Format.table`."""
        return asked

    def begin(self, file: IO[bytes], layout: Layout) -> RootWriter:
        """See `mlaas4hep.score.writers.Format.begin`."""
        root = recreate(file, layout.work)
        tree = root.mktree(layout.table, dict(layout.types), initial_basket_capacity=layout.parts + 1)
        return RootWriter(root, tree)

    def stamp(self, path: str) -> bytes | None:
        """See `mlaas4hep.score.writers.Format.stamp`."""
        return read_stamp(path)


class FriendNTuple:
    """An RNTuple of its own file."""

    suffix = ".root"
    whole = False

    def table(self, asked: str, original: FileEntry) -> str:
        """See `mlaas4hep.score.writers.Format.table`."""
        return asked

    def begin(self, file: IO[bytes], layout: Layout) -> RootWriter:
        """See `mlaas4hep.score.writers.Format.begin`."""
        root = recreate(file, layout.work)
        return RootWriter(root, root.mkrntuple(layout.table, dict(layout.types)))

    def stamp(self, path: str) -> bytes | None:
        """See `mlaas4hep.score.writers.Format.stamp`."""
        return read_stamp(path)


class RootWriter:
    """Appends to one table of a ROOT file.

    Parameters
    ----------
    root
        uproot's file.
    table
        uproot's tree or RNTuple in it.
    """

    def __init__(self, root: Any, table: Any) -> None:
        self._root, self._table = root, table

    def append(self, values: Mapping[str, NDArray[Any]]) -> None:
        """See `mlaas4hep.score.writers.Writer.append`."""
        self._table.extend({name: np.ascontiguousarray(one) for name, one in values.items()})

    def finish(self, stamp: bytes) -> None:
        """See `mlaas4hep.score.writers.Writer.finish`."""
        self._root[KEY] = stamp.decode()

    def close(self) -> None:
        """See `mlaas4hep.score.writers.Writer.close`."""


def recreate(file: IO[bytes], work: str) -> Any:
    """uproot's file over one that is open already; nothing in it tells the host or the time of its making."""
    return uproot.recreate(file, compression=uproot.ZSTD(_LEVEL), uuid_function=lambda: uuid.UUID(work[:32], version=4))


def read_stamp(path: str) -> bytes | None:
    """What a ROOT file says of itself."""
    place = open_place(path)
    try:
        with blamed(place.url):
            if bytes(place.read([(0, min(4, place.size))])[0]) != b"root":
                raise DataError(f"{place.url}: is no ROOT file")
            with open_root(place) as root:
                found = {name.partition(";")[0]: kind for name, kind in root.classnames(recursive=False).items()}
                return str(root[KEY]).encode() if found.get(KEY) == "TObjString" else None
    finally:
        place.close()
