"""ROOT files as a format: which trees they hold, and opening one.

What was found in a file is kept for the process by the identity of its bytes: opening it again parses nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mlaas4hep.data.places import Place
from mlaas4hep.data.root.blame import blamed
from mlaas4hep.data.root.bytes import open_object, open_root
from mlaas4hep.data.root.describe import describe_tree
from mlaas4hep.data.root.layout import TTreeTable
from mlaas4hep.data.root.ntable import RNTupleTable, describe_ntuple
from mlaas4hep.data.root.rntuple import RNTupleSource
from mlaas4hep.data.root.tables import TABLES
from mlaas4hep.data.root.ttree import TTreeSource
from mlaas4hep.data.source import Source, TreeInfo
from mlaas4hep.errors import DataError, nearest

_TREES = {"TTree": "TTree", "TNtuple": "TTree", "TNtupleD": "TTree", "ROOT::RNTuple": "RNTuple"}
_UNREADABLE = {"ROOT::Experimental::RNTuple": "an RNTuple of a pre-release format; write it with ROOT 6.34 or later"}


class RootFormat:
    """ROOT files, known by their first four bytes."""

    def matches(self, url: str, head: bytes) -> bool:
        """True for what begins with ``root``."""
        return head.startswith(b"root")

    def trees(self, place: Place) -> tuple[TreeInfo, ...]:
        """TTrees and RNTuples, newest cycle of each, those in folders with their path."""
        with blamed(place.url), _Opening(place) as opening:
            return tuple(opening.contents.trees.values())

    def open(self, place: Place, tree: str | None) -> Source:
        """Open a TTree or RNTuple; None takes the only one that has entries."""
        with blamed(place.url), _Opening(place) as opening:
            info = opening.find(tree)
            with blamed(place.url, f", tree '{info.name}'"):
                if info.kind == "TTree":
                    return TTreeSource(place, opening.ttree(info.name))
                return RNTupleSource(place, opening.rntuple(info.name))


@dataclass(frozen=True)
class _Contents:
    """Trees of a file by name, and the classes of all that is in it."""

    trees: Mapping[str, TreeInfo]
    classes: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        return 300 * (len(self.trees) + 1)


class _Opening:
    """One file while a tree is found in it; uproot opens it when something must be parsed."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._key = (place.url, place.identity)

    @cached_property
    def file(self) -> Any:
        """uproot's file."""
        _check_complete(self._place)
        return open_root(self._place)

    @property
    def contents(self) -> _Contents:
        """What is in the file."""
        return TABLES.get((*self._key, "contents"), self._list)

    def ttree(self, name: str) -> TTreeTable:
        """Reading table of a TTree."""
        return TABLES.get((*self._key, "TTree", name), lambda: describe_tree(self._object(name), self._place.url, name))

    def rntuple(self, name: str) -> RNTupleTable:
        """Reading table of an RNTuple."""
        return TABLES.get((*self._key, "RNTuple", name), lambda: describe_ntuple(self._object(name), self._place, name))

    def _object(self, name: str) -> Any:
        return open_object(self.file, name, self._place)

    def find(self, tree: str | None) -> TreeInfo:
        """The tree asked for, or the only one.

        Raises
        ------
        DataError
            There is no such tree, none or several, or it cannot be read.
        """
        path, trees = self._place.url, self.contents.trees
        if not trees:
            raise DataError(
                f"{path}: holds no TTree or RNTuple; it holds {', '.join(self.contents.classes) or 'nothing'}"
            )
        name = self._only() if tree is None else tree.partition(";")[0]
        info = trees.get(name)
        if info is None:
            raise DataError(f"{path}: has no tree '{tree}'{nearest(name, trees)}")
        if info.reason is not None:
            raise DataError(f"{path}: tree '{name}' cannot be read: it is {info.reason}")
        return info

    def __enter__(self) -> _Opening:
        return self

    def __exit__(self, *_: object) -> None:
        if "file" in self.__dict__:
            self.file.close()

    def _list(self) -> _Contents:
        found: dict[str, TreeInfo] = {}
        cycles: dict[str, int] = {}
        classes: dict[str, str] = self.file.classnames(recursive=True, cycle=True)
        for key, kind in classes.items():
            name, _, cycle = key.rpartition(";")
            if (kind in _TREES or kind in _UNREADABLE) and int(cycle) > cycles.get(name, -1):
                cycles[name] = int(cycle)
                found[name] = TreeInfo(name, _TREES.get(kind, kind), _UNREADABLE.get(kind))
        return _Contents(found, tuple(sorted(set(classes.values()))))

    def _only(self) -> str:
        trees = self.contents.trees
        if len(trees) == 1:
            return next(iter(trees))
        filled = [name for name, info in trees.items() if info.reason is None and self._entries(info)]
        if len(filled) == 1:
            return filled[0]
        raise DataError(f"{self._place.url}: holds {len(trees)} trees: {', '.join(trees)}; say which with tree")

    def _entries(self, info: TreeInfo) -> int:
        return (self.ttree if info.kind == "TTree" else self.rntuple)(info.name).num_entries


def _check_complete(place: Place) -> None:
    """Compare the size in the header with that of the file: uproot would fail much later, or not at all."""
    url, size = place.url, place.size
    if size < 32:
        raise DataError(f"{url}: is truncated: {size} bytes are less than the header of a ROOT file")
    [head] = place.read([(0, 32)])
    version, _, small_end = struct.unpack(">iii", head[4:16])
    announced = struct.unpack(">q", head[12:20])[0] if version >= 1_000_000 else small_end
    if announced > size:
        raise DataError(f"{url}: is truncated: its header announces {announced} bytes, {size} are there")
