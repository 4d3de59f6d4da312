"""ROOT files as a format: which trees they hold, and opening one."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from mlaas4hep.data.places import Place
from mlaas4hep.data.root.blame import blamed
from mlaas4hep.data.root.bytes import open_root
from mlaas4hep.data.root.rntuple import RNTupleSource
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
        with blamed(place.url), _open(place) as file:
            return _trees(file)

    def open(self, place: Place, tree: str | None) -> Source:
        """Open a TTree or RNTuple; None takes the only one that has entries."""
        with blamed(place.url):
            file = _open(place)
            try:
                return _open_tree(file, place, tree)
            except BaseException:
                file.close()
                raise


def _open(place: Place) -> Any:
    _check_complete(place)
    return open_root(place)


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


def _trees(file: Any) -> tuple[TreeInfo, ...]:
    found: dict[str, TreeInfo] = {}
    cycles: dict[str, int] = {}
    for key, kind in file.classnames(recursive=True, cycle=True).items():
        name, _, cycle = key.rpartition(";")
        if (kind in _TREES or kind in _UNREADABLE) and int(cycle) > cycles.get(name, -1):
            cycles[name] = int(cycle)
            found[name] = TreeInfo(name, _TREES.get(kind, kind), _UNREADABLE.get(kind))
    return tuple(found.values())


def _open_tree(file: Any, place: Place, tree: str | None) -> Source:
    path = place.url
    trees = {info.name: info for info in _trees(file)}
    if not trees:
        kinds = sorted(set(file.classnames(recursive=True).values()))
        raise DataError(f"{path}: holds no TTree or RNTuple; it holds {', '.join(kinds) or 'nothing'}")
    name = _only_tree(file, path, trees) if tree is None else tree.partition(";")[0]
    info = trees.get(name)
    if info is None:
        raise DataError(f"{path}: has no tree '{tree}'{nearest(name, trees)}")
    if info.reason is not None:
        raise DataError(f"{path}: tree '{name}' cannot be read: it is {info.reason}")
    with blamed(path, f", tree '{name}'"):
        return (TTreeSource if info.kind == "TTree" else RNTupleSource)(file, place, name)


def _only_tree(file: Any, path: str, trees: Mapping[str, TreeInfo]) -> str:
    if len(trees) == 1:
        return next(iter(trees))
    filled = [name for name, info in trees.items() if info.reason is None and int(file[name].num_entries)]
    if len(filled) == 1:
        return filled[0]
    raise DataError(f"{path}: holds {len(trees)} trees: {', '.join(trees)}; say which with tree")
