"""A copy of the input with the new columns beside the old ones, written by uproot.

What uproot can write as it was is copied (see `copied`), the other tables and the texts of the file, too. What it
cannot is refused by name, since a copy that lacks something would be taken for the whole; names that are dropped on
purpose need not come. A friend tree loses nothing and costs a hundredth: it is what to take unless a program insists on
one file. Invariant: values that are copied keep their bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.places import open_place
from mlaas4hep.data.root.blame import blamed
from mlaas4hep.data.root.bytes import open_root
from mlaas4hep.errors import DataError
from mlaas4hep.score.copied import AT_ONCE, EVERYTHING, KINDS, RNTUPLE, TTREE, WAY_OUT, Copied, copied, listed
from mlaas4hep.score.root_files import read_stamp, recreate
from mlaas4hep.score.stamp import KEY
from mlaas4hep.score.writers import Layout

_TEXT = "TObjString"
_FOLDERS = ("TDirectory", "TDirectoryFile")


class Copy:
    """The table of the input with new columns, in a file of its own: a TTree of a TTree, an RNTuple of an RNTuple."""

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
    """Reads the input's columns again, entry range by entry range, and writes them with the new ones.

    Raises
    ------
    DataError
        The input holds what cannot be copied, or has a column of the name of a new one.
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
        name = layout.original.tree
        with blamed(self._place.url):
            self._input = open_root(self._place)
            self._kinds = {path.partition(";")[0]: kind for path, kind in self._input.classnames().items()}
            self._others = list(self._beside(layout))
            self._columns = copied(self._input[name], self._kind(name), self._where, layout.drop)
        taken = sorted(set(layout.types) & set(self._columns.names))
        if taken:
            raise DataError(
                f"{self._where}: has a column '{taken[0]}' already, so that a copy cannot have a new one of that name; "
                "give --column another template, or take a friend tree"
            )
        self._root = recreate(file, layout.work)
        self._table = self._columns.begin(self._root, name, layout.types, parts=layout.parts)

    def append(self, values: Mapping[str, NDArray[Any]]) -> None:
        """See `mlaas4hep.score.writers.Writer.append`."""
        count, step = len(next(iter(values.values()))), self._columns.at_once
        for low in range(0, count, step):
            high = min(low + step, count)
            with blamed(self._where):
                old = self._columns.read(self._at + low, self._at + high)
            self._table.extend({**old, **{name: np.ascontiguousarray(one[low:high]) for name, one in values.items()}})
        self._at += count

    def finish(self, stamp: bytes) -> None:
        """See `mlaas4hep.score.writers.Writer.finish`: further tables and texts of the file come last."""
        for name, columns in self._others:
            if columns is None:
                self._root[name] = str(self._input[name])
            else:
                self._copy(name, columns)
        self._root[KEY] = stamp.decode()

    def close(self) -> None:
        """See `mlaas4hep.score.writers.Writer.close`."""
        self._place.close()

    def _copy(self, name: str, columns: Copied) -> None:
        entries, step = int(self._input[name].num_entries), columns.at_once
        table = columns.begin(self._root, name, {}, parts=-(-entries // AT_ONCE) + 1)
        for start in range(0, entries, step):
            with blamed(f"{self._place.url}, tree '{name}'"):
                part = columns.read(start, min(start + step, entries))
            table.extend(part)

    def _kind(self, name: str) -> str:
        kind: str = self._kinds.get(name, "nothing")
        if kind not in KINDS:
            raise DataError(
                f"{self._where}: is {kind} in a ROOT file, and of {TTREE} and {RNTUPLE} alone copies are made; take a "
                "friend: --format ttree or rntuple"
            )
        return kind

    def _beside(self, layout: Layout) -> Iterator[tuple[str, Copied | None]]:
        """What else the file holds: tables and texts (None), which are copied; anything else is refused."""
        problems = []
        for name, kind in self._kinds.items():
            if name in (layout.original.tree, KEY) or name in layout.drop or kind in _FOLDERS:
                continue
            columns, reason = self._looked_at(name, kind, layout)
            if columns is not None or kind == _TEXT:
                yield name, columns
            elif EVERYTHING not in layout.drop:
                problems.append(f"'{name}' ({kind}{reason})")
        if problems:
            raise DataError(f"{self._place.url}: cannot be copied whole: {listed(problems)}; {WAY_OUT}")

    def _looked_at(self, name: str, kind: str, layout: Layout) -> tuple[Copied | None, str]:
        """Columns of a table; and why there are none, where it is no table or not all of it can be copied."""
        if kind not in KINDS:
            return None, ""
        try:
            columns = copied(self._input[name], kind, name, layout.drop)
        except DataError as error:
            return None, f": {error}"
        return (columns, "") if columns.names else (None, ": has no columns")
