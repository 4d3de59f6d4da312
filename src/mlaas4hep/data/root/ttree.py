"""TTrees: branches as columns, baskets as clusters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from uproot.interpretation.identify import UnknownInterpretation
from uproot.interpretation.jagged import AsJagged
from uproot.interpretation.numerical import Numerical
from uproot.interpretation.objects import AsStridedObjects

from mlaas4hep.data.places import Place
from mlaas4hep.data.root.source import RootSource, from_layout, typed
from mlaas4hep.data.root.words import TEXT
from mlaas4hep.data.source import ColumnInfo
from mlaas4hep.spec.columns import Column

# Shorter reads of a TTree inflate the same baskets over and over.
_LEAST_ENTRIES = 64


class TTreeSource(RootSource):
    """A TTree. Clusters are the entries at which the baskets of all readable branches end together."""

    def __init__(self, file: Any, place: Place, tree: str) -> None:
        super().__init__(file, place, tree)
        self._branches = _leaf_branches(self._tree)
        self.columns = {name: _describe_branch(name, branch) for name, branch in self._branches.items()}
        self.clusters = self._check_clusters(self._common_offsets())

    def _common_offsets(self) -> list[int]:
        """A function of the file alone: asking for other columns must not change the order of events."""
        common: set[int] | None = None
        for name, branch in self._branches.items():
            if self.columns[name].type is not None and branch.num_baskets:
                ends = {int(end) for end in branch.entry_offsets}
                common = ends if common is None else common & ends
        if common is None:
            return [0, self.num_entries] if self.num_entries else [0]
        return sorted(common)

    def cut(self, names: Sequence[str], entry_start: int, entry_stop: int, max_bytes: int) -> list[int]:
        """See `mlaas4hep.data.source.Divisible.cut`; by the average size of an entry in the tree."""
        total = sum(int(self._branches[name].uncompressed_bytes) for name in names if name in self._branches)
        size = entry_stop - entry_start
        wanted = math.ceil(total / max(self.num_entries, 1) * size / max(max_bytes, 1))
        parts = max(min(wanted, size // _LEAST_ENTRIES), 1)
        return [entry_start + part * size // parts for part in range(parts + 1)]

    def _uproot_branch(self, name: str) -> Any:
        return self._branches[name]

    def _read(self, names: Sequence[str], entry_start: int, entry_stop: int) -> dict[str, Column]:
        keys = {name: _branch_key(self._branches[name], self._tree) for name in names}
        arrays = self._tree.arrays(
            list(dict.fromkeys(keys.values())),
            entry_start=entry_start,
            entry_stop=entry_stop,
            library="ak",
            array_cache=None,
            how=dict,
        )
        return {name: from_layout(arrays[key].layout) for name, key in keys.items()}


def _leaf_branches(tree: Any) -> dict[str, Any]:
    """Branches that hold values, by their own name where that is unique, else by their path."""
    found: dict[str, Any] = {}
    for path, branch in tree.iteritems(recursive=True, full_paths=True):
        if len(branch.branches) and not _is_number(branch.interpretation):
            continue
        found[path if branch.name in found else branch.name] = branch
    return found


def _branch_key(branch: Any, tree: Any) -> str:
    """The path of a branch below its tree: the one spelling that uproot never takes for an expression."""
    names = [branch.name]
    parent = branch.parent
    while parent is not tree and parent is not None:
        names.append(parent.name)
        parent = parent.parent
    return "/".join(reversed(names))


def _is_number(interpretation: Any) -> bool:
    return isinstance(interpretation, Numerical) and not isinstance(interpretation, AsStridedObjects)


def _describe_branch(name: str, branch: Any) -> ColumnInfo:
    interpretation = branch.interpretation
    if _is_number(interpretation):
        return _numeric(name, interpretation, "flat", branch.typename)
    if isinstance(interpretation, AsJagged) and _is_number(interpretation.content):
        return _numeric(name, interpretation.content, "jagged", branch.typename)
    if isinstance(interpretation, UnknownInterpretation):
        return ColumnInfo(name, None, str(branch.typename), "uproot does not know how it is stored")
    return ColumnInfo(name, None, str(branch.typename), _why_not(str(branch.typename), interpretation))


def _numeric(name: str, interpretation: Any, kind: Any, typename: str) -> ColumnInfo:
    dtype = np.dtype(interpretation.to_dtype)
    if dtype.fields is not None:
        return ColumnInfo(name, None, typename, "several leaves in one branch")
    if dtype.subdtype is not None:
        inner, shape = dtype.subdtype
        text = f"{inner.name}[{']['.join(str(length) for length in shape)}]"
        return ColumnInfo(name, None, text, "an array of fixed size an event; not read by this version yet")
    return typed(name, dtype, kind, "a number type that has no counterpart here")


def _why_not(typename: str, interpretation: Any) -> str:
    plain = typename.replace("std::", "")
    if "string" in plain or "char*" in plain or type(interpretation).__name__ == "AsStrings":
        return TEXT
    if plain.count("vector<") > 1 or plain.endswith("[][]") or ("vector<" in plain and plain.endswith("[]")):
        return "lists inside lists; not read by this version yet"
    return f"objects of the class {typename}, not numbers"
