"""A copy of the input with the new columns beside the old ones, written by uproot.

What uproot can write as it was is copied: numbers, arrays and lists of numbers of TTrees, and texts beside them. What
it cannot is refused by name, since a copy that lacks something would be taken for the whole; names that are dropped on
purpose need not come. A friend tree loses nothing and costs a hundredth: it is what to take unless a program insists on
one file. Invariant: values that are copied keep their bits and types; counters of lists become int32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.places import open_place
from mlaas4hep.data.root.blame import blamed
from mlaas4hep.data.root.bytes import open_root
from mlaas4hep.errors import DataError
from mlaas4hep.score.root_files import read_stamp, recreate
from mlaas4hep.score.stamp import KEY
from mlaas4hep.score.writers import Layout

_AT_ONCE = 65_536
_SHOWN = 6
EVERYTHING = "*"


class Copy:
    """The tree of the input with new branches, in a file of its own."""

    suffix = ".root"
    whole = True

    def table(self, asked: str, original: FileEntry) -> str:
        """See `mlaas4hep.score.writers.Format.table`: that of the input."""
        return original.tree

    def begin(self, file: IO[bytes], layout: Layout) -> CopyWriter:
        """See `mlaas4hep.score.writers.Format.begin`."""
        return CopyWriter(file, layout)

    def stamp(self, path: str) -> bytes | None:
        """See `mlaas4hep.score.writers.Format.stamp`."""
        return read_stamp(path)


class CopyWriter:
    """Reads the input's branches again, entry range by entry range, and writes them with the new ones.

    Raises
    ------
    DataError
        The input holds what cannot be copied, has a branch of the name of a new one, or is no TTree.
    """

    def __init__(self, file: IO[bytes], layout: Layout) -> None:
        original = layout.original
        self._place = open_place(original.path, replicas=original.replicas)
        self._where = f"{self._place.url}, tree '{original.tree}'"
        self._at = 0
        try:
            self._begin(file, layout)
        except BaseException:
            self._place.close()
            raise

    def _begin(self, file: IO[bytes], layout: Layout) -> None:
        original = layout.original
        with blamed(self._place.url):
            self._input = open_root(self._place)
            self._check_kind(original.tree)
            self._others = list(self._beside(layout))
            self._branches = _Branches(self._input[original.tree], self._where, layout.drop)
            taken = sorted(set(layout.types) & set(self._branches.types))
        if taken:
            raise DataError(
                f"{self._where}: has a branch '{taken[0]}' already, so that a copy cannot have a new one of that name; "
                "give --column another template, or take a friend tree"
            )
        self._root = recreate(file, layout.work)
        types = {**self._branches.types, **layout.types}
        self._tree = self._branches.begin(self._root, original.tree, types, parts=layout.parts)

    def append(self, values: Mapping[str, NDArray[Any]]) -> None:
        """See `mlaas4hep.score.writers.Writer.append`."""
        count = len(next(iter(values.values())))
        with blamed(self._where):
            old = self._branches.read(self._at, self._at + count)
        self._tree.extend({**old, **{name: np.ascontiguousarray(one) for name, one in values.items()}})
        self._at += count

    def finish(self, stamp: bytes) -> None:
        """See `mlaas4hep.score.writers.Writer.finish`: further trees and texts of the file come last."""
        for name, kind in self._others:
            if kind == "TObjString":
                self._root[name] = str(self._input[name])
            else:
                self._copy_tree(name)
        self._root[KEY] = stamp.decode()

    def close(self) -> None:
        """See `mlaas4hep.score.writers.Writer.close`."""
        self._place.close()

    def _copy_tree(self, name: str) -> None:
        where = f"{self._place.url}, tree '{name}'"
        branches = _Branches(self._input[name], where, ())
        entries = int(self._input[name].num_entries)
        tree = branches.begin(self._root, name, branches.types, parts=-(-entries // _AT_ONCE) + 1)
        for start in range(0, entries, _AT_ONCE):
            with blamed(where):
                part = branches.read(start, min(start + _AT_ONCE, entries))
            tree.extend(part)

    def _check_kind(self, tree: str) -> None:
        kind = self._kinds().get(tree)
        if kind != "TTree":
            raise DataError(
                f"{self._where}: is {kind or 'nothing'} in a ROOT file, and TTrees alone are copied; take a "
                "friend: --format ttree or rntuple"
            )

    def _kinds(self) -> dict[str, str]:
        return {name.partition(";")[0]: kind for name, kind in self._input.classnames(recursive=True).items()}

    def _beside(self, layout: Layout) -> Iterator[tuple[str, str]]:
        """What else the file holds: trees and texts, which are copied; anything else is refused."""
        problems = []
        for name, kind in self._kinds().items():
            if name in (layout.original.tree, KEY) or EVERYTHING in layout.drop or name in layout.drop:
                continue
            reason = self._why_not(name, kind)
            if reason is None:
                yield name, kind
            else:
                problems.append(f"'{name}' ({kind}{reason})")
        if problems:
            raise DataError(f"{self._place.url}: cannot be copied whole: {_listed(problems)}; {_WAY_OUT}")

    def _why_not(self, name: str, kind: str) -> str | None:
        if kind == "TObjString":
            return None
        if kind != "TTree":
            return ""
        try:
            _Branches(self._input[name], name, ())
        except DataError as error:
            return f": {error}"
        return None


_WAY_OUT = "--drop NAME leaves a thing out, --drop '*' all such things; a friend tree (--format ttree) needs no copy"


class _Branches:
    """Branches of a tree that can be copied, with the types that uproot is told.

    Raises
    ------
    DataError
        With those that cannot, where they are not dropped.
    """

    def __init__(self, tree: Any, where: str, drop: Collection[str]) -> None:
        self._tree = tree
        self._counters: dict[str, str] = {}
        self.types: dict[str, Any] = {}
        problems = []
        for branch in tree.branches:
            type_ = _written_type(branch)
            if type_ is not None:
                self.types[branch.name] = type_
                counter = branch.count_branch
                if counter is not None:
                    self._counters[branch.name] = counter.name
            elif EVERYTHING not in drop and branch.name not in drop:
                problems.append(f"'{branch.name}' ({branch.typename})")
        if problems:
            raise DataError(f"{where}: branches that uproot cannot write: {_listed(problems)}; {_WAY_OUT}")
        self._names = list(self.types)

    def begin(self, root: Any, name: str, types: Mapping[str, Any], *, parts: int) -> Any:
        """The tree to write to."""
        counters = set(self._counters.values())
        # uproot makes the counters itself, as int32.
        given = {name: one for name, one in types.items() if name not in counters}
        return root.mktree(
            name,
            given,
            title=str(self._tree.title),
            counter_name=lambda counted: self._counters.get(counted, f"n{counted}"),
            initial_basket_capacity=parts + 1,
        )

    def read(self, start: int, stop: int) -> dict[str, Any]:
        """Some entries, as uproot writes them."""
        settings: dict[str, Any] = {"entry_start": start, "entry_stop": stop, "library": "ak"}
        found = self._tree.arrays(self._names, **settings) if self._names else None
        columns = {}
        for name in self._names:
            column = found[name]  # type: ignore[index]
            columns[name] = column if isinstance(self.types[name], str) else np.asarray(column)
        return columns


def _written_type(branch: Any) -> Any:
    """What uproot writes a branch as; None where it cannot write it as it was."""
    if branch.branches:
        return None
    interpretation = branch.interpretation
    content = getattr(interpretation, "content", None)
    if content is not None:
        listed = _dtype(content)
        return None if branch.count_branch is None or listed is None or listed.shape else f"var * {listed.name}"
    return _dtype(interpretation)


def _dtype(interpretation: Any) -> np.dtype[Any] | None:
    """A plain number, or a fixed array of them."""
    if type(interpretation).__name__ != "AsDtype":
        return None
    dtype = np.dtype(interpretation.to_dtype)
    base, shape = dtype.subdtype or (dtype, ())
    if base.names is not None or base.kind not in "biuf":
        return None
    return np.dtype((base.newbyteorder("="), shape)) if shape else base.newbyteorder("=")


def _listed(problems: list[str]) -> str:
    more = len(problems) - _SHOWN
    return ", ".join(problems[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
