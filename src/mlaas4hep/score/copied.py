"""What uproot copies of one table as it was: branches of a TTree, fields of an RNTuple.

Numbers, arrays and lists of numbers; in RNTuples also texts, lists of lists and values that may be missing. Whether a
thing can be written as it was is told by its type in the file. Invariant: what is copied keeps its bits, and its type
but for counters, which uproot writes as int32 in TTrees and as plain numbers in RNTuples.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import numpy as np

from mlaas4hep.errors import DataError

TTREE, RNTUPLE = "TTree", "ROOT::RNTuple"
KINDS = (TTREE, "TNtuple", "TNtupleD", RNTUPLE)
"""Classes of tables; TNtuples are TTrees of numbers, and come as such."""
EVERYTHING = "*"
WAY_OUT = "--drop NAME leaves a thing out, --drop '*' all such things; a friend tree (--format ttree) needs no copy"
AT_ONCE = 65_536
# Of the branches of a TTree that are read at once: NanoAOD has 10 kB an entry.
_READ_BYTES = 100_000_000
_SHOWN = 6
_NUMBERS = {
    "bool": "bool",
    "float": "float32",
    "double": "float64",
    **{f"std::{one}_t": one for one in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
}
_LIST = re.compile(r"(?:std::vector|ROOT::(?:VecOps::)?RVec)<(.*)>\Z")
_ARRAY = re.compile(r"std::array<(.*),\s*(\d+)>\Z")
_OPTION = re.compile(r"std::optional<(.*)>\Z")
_COUNTER = re.compile(r"ROOT::RNTupleCardinality<std::uint(32|64)_t>\Z")


class Copied(Protocol):
    """Columns of a table that are copied."""

    names: tuple[str, ...]
    """Theirs."""
    at_once: int
    """Entries to read at once."""

    def begin(self, root: Any, name: str, more: Mapping[str, np.dtype[Any]], *, parts: int) -> Any:
        """A new table of them and of some new columns, in a file that uproot writes."""
        ...

    def read(self, start: int, stop: int) -> dict[str, Any]:
        """Some entries, as uproot writes them."""
        ...


def copied(table: Any, kind: str, where: str, drop: Collection[str]) -> Copied:
    """What of a table is copied.

    Parameters
    ----------
    table, kind
        uproot's, and the name of its class.
    where
        For messages.
    drop
        Names that need not be copied; ``*`` stands for all that cannot be.

    Raises
    ------
    DataError
        With what cannot be copied.
    """
    return CopiedFields(table, where, drop) if kind == RNTUPLE else CopiedBranches(table, where, drop)


class CopiedBranches:
    """Of a TTree."""

    def __init__(self, tree: Any, where: str, drop: Collection[str]) -> None:
        self._tree = tree
        self._counters: dict[str, str] = {}
        self._types: dict[str, Any] = {}
        problems = []
        for branch in tree.branches:
            if branch.name in drop:
                continue
            type_ = _written_type(branch)
            if type_ is not None:
                self._types[branch.name] = type_
                counter = branch.count_branch
                if counter is not None:
                    self._counters[branch.name] = counter.name
            elif EVERYTHING not in drop:
                problems.append(f"'{branch.name}' ({branch.typename})")
        refuse(problems, where, "branches")
        self.names = tuple(self._types)
        size = sum(int(one.uncompressed_bytes) for one in tree.branches if one.name in self._types)
        each = size / max(int(tree.num_entries), 1)
        self.at_once = max(1, min(AT_ONCE, int(_READ_BYTES / max(each, 1.0))))

    def begin(self, root: Any, name: str, more: Mapping[str, np.dtype[Any]], *, parts: int) -> Any:
        """See `Copied.begin`."""
        counters = set(self._counters.values())
        # uproot makes the counters itself, as int32.
        given = {name: one for name, one in self._types.items() if name not in counters}
        return root.mktree(
            name,
            {**given, **more},
            title=str(self._tree.title),
            counter_name=lambda counted: self._counters.get(counted, f"n{counted}"),
            initial_basket_capacity=parts + int(self._tree.num_entries) // self.at_once + 2,
        )

    def read(self, start: int, stop: int) -> dict[str, Any]:
        """See `Copied.read`."""
        settings: dict[str, Any] = {"entry_start": start, "entry_stop": stop, "library": "ak"}
        found = self._tree.arrays(list(self.names), **settings) if self.names else None
        columns = {}
        for name in self.names:
            column = found[name]  # type: ignore[index]
            columns[name] = column if isinstance(self._types[name], str) else np.asarray(column)
        return columns


class CopiedFields:
    """Of an RNTuple; uproot writes lists as ``std::vector``."""

    at_once = AT_ONCE

    def __init__(self, ntuple: Any, where: str, drop: Collection[str]) -> None:
        self._ntuple = ntuple
        self._forms: dict[str, Any] = {}
        problems = []
        for field in ntuple.fields:
            if field.name in drop:
                continue
            wanted = datashape(field.typename)
            form = None if wanted is None else self._form(field.name)
            if form is not None and _is(form, wanted):
                self._forms[field.name] = form
            elif EVERYTHING not in drop:
                problems.append(f"'{field.name}' ({field.typename or 'a record of its own'})")
        refuse(problems, where, "fields")
        self.names = tuple(self._forms)

    def begin(self, root: Any, name: str, more: Mapping[str, np.dtype[Any]], *, parts: int) -> Any:
        """See `Copied.begin`."""
        import awkward as ak

        forms = {**self._forms, **{name: ak.forms.NumpyForm(one.name) for name, one in more.items()}}
        return root.mkrntuple(name, ak.forms.RecordForm(list(forms.values()), list(forms)), self._ntuple.description)

    def read(self, start: int, stop: int) -> dict[str, Any]:
        """See `Copied.read`."""
        if not self.names:
            return {}
        found = self._arrays(frozenset(self.names), start, stop)
        return {name: found[name] for name in self.names}

    def _form(self, name: str) -> Any:
        """As uproot reads it, and so will be given it to write."""
        return self._arrays(frozenset([name]), 0, 0)[name].layout.form

    def _arrays(self, names: frozenset[str], start: int, stop: int) -> Any:
        settings: dict[str, Any] = {"entry_start": start, "entry_stop": stop, "library": "ak"}
        return self._ntuple.arrays(filter_field=lambda field: field.top_level and field.name in names, **settings)


def datashape(typename: str) -> str | None:
    """A type of C++ as awkward's, where uproot writes one that reads back as it; None where not.

    Examples
    --------
    >>> datashape("std::vector<std::vector<float>>"), datashape("std::array<double,3>"), datashape("TLorentzVector")
    ('var * var * float32', '3 * float64', None)
    """
    if typename in _NUMBERS or typename == "std::string":
        return _NUMBERS.get(typename, "string")
    if found := _COUNTER.match(typename):
        return f"uint{found[1]}"
    for pattern, begins in ((_LIST, "var * "), (_OPTION, "?")):
        if found := pattern.match(typename):
            inside = datashape(found[1].strip())
            return None if inside is None else begins + inside
    if found := _ARRAY.match(typename):
        inside = datashape(found[1].strip())
        return None if inside is None else f"{found[2]} * {inside}"
    return None


def refuse(problems: list[str], where: str, what: str) -> None:
    """Raise `DataError` with what cannot be copied, if there is anything."""
    if problems:
        raise DataError(f"{where}: {what} that uproot cannot write: {listed(problems)}; {WAY_OUT}")


def listed(problems: list[str]) -> str:
    """The first ones, and how many more."""
    more = len(problems) - _SHOWN
    return ", ".join(problems[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _is(form: Any, wanted: str | None) -> bool:
    """Whether values are read as their type in the file says: some are kept in fewer bits than that has."""
    found = str(form.type)
    if found == wanted:
        return True
    return wanted in ("uint32", "uint64") and found in ("uint32", "uint64", "int64")


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
