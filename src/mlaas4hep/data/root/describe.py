"""uproot's view of a TTree to a reading table.

uproot parses the metadata and knows what each class looks like; from here on it is not needed for what has a
`Layout`. Invariant: a branch that cannot be read has a reason, and takes no other branch with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from uproot.containers import AsVector
from uproot.interpretation.identify import UnknownInterpretation
from uproot.interpretation.jagged import AsJagged
from uproot.interpretation.numerical import AsDtype, Numerical
from uproot.interpretation.objects import AsObjects, AsStridedObjects

from mlaas4hep.data.root.layout import HEAD_BYTES, MEMBERWISE, Branch, ColumnPlan, Embedded, Layout, TTreeTable
from mlaas4hep.data.root.source import check_clusters, typed
from mlaas4hep.data.source import ColumnInfo
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Kind

_HEADERS = (0, HEAD_BYTES)
_KINDS: tuple[Kind, ...] = ("flat", "jagged", "nested")
_DIMENSIONS = re.compile(r"(\[\d+\])+$")  # split members carry their array lengths in their names
_BITS = 15  # ROOT's TVirtualStreamerInfo::kBits


def describe_tree(tree: Any, path: str, name: str) -> TTreeTable:
    """Build the reading table of a tree.

    Parameters
    ----------
    tree
        As uproot opened it.
    path, name
        File and tree, for messages.

    Raises
    ------
    DataError
        The tree announces other entries than its branches have.
    """
    entries = int(tree.num_entries)
    found = _Description(tree, entries)
    if found.damaged and not found.plans:
        branch, reason = next(iter(found.damaged.items()))
        raise DataError(f"{path}: tree '{name}' is damaged: none of its branches can be read; '{branch}': {reason}")
    clusters = check_clusters(_common_ends(found.branches, found.readable(), entries), entries, path, name)
    key = tree.parent
    packing = int(key.fNbytes) / max(int(key.fObjlen), 1)
    return TTreeTable(name, entries, found.columns, found.plans, found.branches, clusters, packing)


class _Description:
    """What is found branch by branch."""

    def __init__(self, tree: Any, entries: int) -> None:
        self.columns: dict[str, ColumnInfo] = {}
        self.plans: dict[str, ColumnPlan] = {}
        self.branches: dict[str, Branch] = {}
        self.damaged: dict[str, str] = {}
        self._entries = entries
        self._alike: dict[bytes, NDArray[np.int64]] = {}
        all_branches = dict(tree.iteritems(recursive=True, full_paths=True))
        self._counters = {id(leaf): path for path, one in all_branches.items() for leaf in one.member("fLeaves")}
        for path, branch in all_branches.items():
            if not len(branch.branches) or _is_number(branch.interpretation):
                self._add(path, branch)
        self._settle_counters()

    def readable(self) -> set[str]:
        """Paths of the branches that are behind some column."""
        return {plan.branch for plan in self.plans.values()}

    def _add(self, path: str, branch: Any) -> None:
        name = _name(path, branch, self.columns)
        kinds = list(_kinds(branch, str(branch.typename)))
        try:
            self.branches[path] = placed = _place(path, branch, self._alike)
            reason = _why_not_placed(branch, placed, self._entries)
        except MemoryError:
            raise
        except Exception as error:  # a branch that uproot cannot place is unreadable; the others are not
            reason = f"where its baskets are is not known: {_first_line(error)}"
        if reason is not None:
            self.damaged[path] = reason
        else:
            layout = _layout(branch.interpretation)
            if layout is not None and layout.jagged:
                layout = replace(layout, counter=self._counter(branch))
            self.branches[path] = replace(placed, layout=layout)
        for kind in kinds:
            self._add_column(_with_member(name, kind.member, self.columns), kind, path, reason)

    def _add_column(self, name: str, kind: _Kind, path: str, reason: str | None) -> None:
        refused = kind.reason or reason
        if refused is not None or kind.dtype is None:
            self.columns[name] = ColumnInfo(name, None, kind.text, refused)
            return
        info = typed(name, kind.dtype, kind.kind, "a number type that has no counterpart here")
        self.columns[name] = replace(info, description=kind.text)
        if info.type is not None:
            self.plans[name] = ColumnPlan(path, kind.member, kind.shape, kind.dtype)

    def _counter(self, branch: Any) -> str | None:
        """Path of the branch that owns the leaf with the list lengths; uproot says which branch named it first."""
        leaf = branch.count_leaf
        return None if leaf is None else self._counters.get(id(leaf))

    def _settle_counters(self) -> None:
        """Drop counters that are no plain whole numbers an entry: the baskets' own offsets must do."""
        for path, branch in self.branches.items():
            layout = branch.layout
            if layout is not None and layout.counter is not None and not self._counts(layout.counter):
                self.branches[path] = replace(branch, layout=replace(layout, counter=None))

    def _counts(self, path: str) -> bool:
        one = self.branches.get(path)
        return one is not None and one.layout is not None and not one.layout.jagged and one.layout.element.kind in "iu"


@dataclass(frozen=True)
class _Kind:
    """A column to be: its description, kind, type, and the part of the branch it is."""

    text: str
    kind: Kind = "flat"
    dtype: np.dtype[Any] | None = None
    member: str | None = None
    shape: tuple[int, ...] = ()
    reason: str | None = None


def _is_number(interpretation: Any) -> bool:
    return isinstance(interpretation, Numerical) and not isinstance(interpretation, AsStridedObjects)


def _kinds(branch: Any, typename: str) -> Iterator[_Kind]:
    """Columns of a branch: one, or one for each member of its elements."""
    interpretation = branch.interpretation
    if _is_bits(branch):
        yield _Kind(typename, reason="bookkeeping of TObject: four bytes or six, and uproot takes it for four")
    elif _is_by_members(branch, interpretation):
        yield _Kind(typename, reason="objects stored member by member, which uproot does not know")
    elif isinstance(interpretation, UnknownInterpretation):
        yield _Kind(typename, reason="uproot does not know how it is stored")
    elif isinstance(interpretation, Numerical):
        yield from _numbers(interpretation, 0, typename)
    elif isinstance(interpretation, AsJagged) and isinstance(interpretation.content, Numerical):
        yield from _numbers(interpretation.content, 1, typename)
    elif (innermost := _vector_of_vectors(interpretation)) is not None:
        yield _number(innermost, (), None, 2)
    else:
        yield _Kind(typename, reason=_why_not(typename, interpretation))


def _vector_of_vectors(interpretation: Any) -> np.dtype[Any] | None:
    """Type of the numbers in vectors of vectors; None for everything else."""
    content: Any = getattr(interpretation, "model", None) if isinstance(interpretation, AsObjects) else None
    for _ in range(2):
        if not isinstance(content, AsVector):
            return None
        content = content.values
    return content.newbyteorder("=") if isinstance(content, np.dtype) and content.names is None else None


def _is_bits(branch: Any) -> bool:
    return getattr(branch.streamer, "has_member", lambda _: False)("fType") and branch.streamer.member("fType") == _BITS


def _is_by_members(branch: Any, interpretation: Any) -> bool:
    """Whether vectors of objects are stored first member first; only the vectors themselves say so."""
    if not isinstance(interpretation, AsJagged) or not isinstance(interpretation.content, AsStridedObjects):
        return False
    if not interpretation.header_bytes or not branch.num_baskets:
        return False
    try:
        head = branch.basket(0).data[:6].tobytes()
    except MemoryError:
        raise
    except Exception:  # a damaged basket is refused when it is read, with its number; other branches are not damaged
        return False
    return bool(int.from_bytes(head[4:], "big") & MEMBERWISE)


def _numbers(content: Any, lists: int, typename: str) -> Iterator[_Kind]:
    dtype = np.dtype(content.to_dtype)
    inner, shape = dtype.subdtype if dtype.subdtype is not None else (dtype, ())
    if inner.names is None:
        yield _number(inner, shape, _ARRAY if shape else None, lists)
    elif shape:
        yield _Kind(typename, reason="arrays of objects, not of numbers")
    else:
        for member in inner.names:
            if "@" not in member:
                yield _number(*_split(inner[member]), member, lists)


def _number(dtype: np.dtype[Any], shape: tuple[int, ...], member: str | None, lists: int) -> _Kind:
    depth = lists + len(shape)
    text = f"{dtype.name}{'[]' * lists}{''.join(f'[{length}]' for length in shape)}"
    if depth > 2:
        return _Kind(text, member=member, reason="lists inside lists inside lists")
    return _Kind(text, _KINDS[depth], dtype, member, shape)


def _split(dtype: np.dtype[Any]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    return dtype.subdtype if dtype.subdtype is not None else (dtype, ())


def _layout(interpretation: Any) -> Layout | None:
    """How to read a branch without uproot; None where only uproot can."""
    if isinstance(interpretation, AsJagged):
        element = _element(interpretation.content)
        header = int(interpretation.header_bytes)
        return None if element is None or header not in _HEADERS else Layout(element, True, header)
    element = _element(interpretation)
    return None if element is None else Layout(element)


def _element(content: Any) -> np.dtype[Any] | None:
    if not isinstance(content, AsDtype):
        return None
    stored = np.dtype(content.from_dtype)
    return stored if stored.subdtype is None else np.dtype([(_ARRAY, *stored.subdtype)])


_ARRAY = "@values"  # what no branch can be called


def _place(path: str, branch: Any, alike: dict[bytes, NDArray[np.int64]]) -> Branch:
    """Where baskets are; ``alike`` has the ends of those before, to be shared."""
    entries = np.asarray(branch.entry_offsets, dtype=np.int64)
    entries = alike.setdefault(entries.tobytes(), entries)
    embedded = tuple(_embedded(one) for one in branch.embedded_baskets)
    free = len(entries) - 1 - len(embedded)
    seeks = np.asarray(branch.member("fBasketSeek")[:free], dtype=np.int64)
    stored = np.asarray(branch.member("fBasketBytes")[:free], dtype=np.int64)
    for one in (entries, seeks, stored):
        one.setflags(write=False)
    size = int(branch.uncompressed_bytes) + sum(len(one.data) for one in embedded)
    return Branch(path, entries, seeks, stored, embedded, None, size)


def _embedded(basket: Any) -> Embedded:
    """A basket within the tree, with its offsets behind its values as in all others."""
    values, offsets = basket.data.tobytes(), basket.byte_offsets
    if offsets is None:
        return Embedded(values, len(values))
    packed = np.concatenate([[len(offsets)], offsets]).astype(">i4").tobytes()
    return Embedded(values + packed, len(values))


def _why_not_placed(branch: Any, placed: Branch, entries: int) -> str | None:
    other = _other_file(branch)
    if other:
        return f"its baskets lie in another file, {other}"
    if np.any(np.diff(placed.entries) < 0) or placed.entries[0] != 0:
        return "damaged: its baskets are not in the order of their entries"
    if np.any(np.diff(placed.seeks) <= 0) and len(np.unique(placed.seeks)) < len(placed.seeks):
        return "damaged: two of its baskets are at the same place"
    if placed.entries[-1] != entries:
        return f"damaged: it has {placed.entries[-1]} entries, its tree {entries}"
    return None


def _other_file(branch: Any) -> str:
    """File in which the baskets are, where it is not this one.

    It is the last member of a ``TBranch``, which uproot passes over: a string with its length in front.
    """
    base = next((one for one in branch.bases if one.is_instance("TBranch")), branch)
    end = base.cursor.index + base.num_bytes
    tail = bytes(branch.tree.chunk.get(max(end - 255, 0), end, base.cursor, {}))
    if not tail or not tail[-1]:
        return ""
    lengths = [length for length in range(1, len(tail)) if tail[-1 - length] == length]
    return tail[-lengths[0] :].decode(errors="replace") if lengths else "one of a long name"


def _common_ends(branches: Mapping[str, Branch], readable: set[str], entries: int) -> list[int] | NDArray[np.int64]:
    """A function of the file alone: asking for other columns must not change the order of events."""
    ends = {one.entries.tobytes(): one.entries for path, one in branches.items() if path in readable}
    common: NDArray[np.int64] | None = None
    for one in ends.values():
        if len(one) > 1:
            common = np.unique(one) if common is None else np.intersect1d(common, one)
    if common is None:
        return [0, entries] if entries else [0]
    return common


def _name(path: str, branch: Any, taken: Mapping[str, Any]) -> str:
    """Dotted name of a branch: ``p4/fP/fP.fX`` is ``p4.fP.fX``; its path if that is taken."""
    name, last = "", ""
    for part in _parts(branch):
        if part == name or part.startswith(f"{name}."):
            name = part
        elif last and part.startswith(f"{last}."):
            name = name.removesuffix(last) + part
        else:
            name = f"{name}.{part}" if name else part
        last = part
    plain = _DIMENSIONS.sub("", name)
    return path if plain in taken else plain


def _parts(branch: Any) -> list[str]:
    names: list[str] = []
    one = branch
    while one is not None and hasattr(one, "branches") and one.is_instance("TBranch"):
        names.append(one.name.rstrip(".") or one.name)
        one = one.parent
    return names[::-1]


def _with_member(name: str, member: str | None, taken: Mapping[str, Any]) -> str:
    if member is None or member == _ARRAY:
        return name
    dotted = f"{name}.{member.replace('/', '.')}"
    return f"{name}/{member}" if dotted in taken else dotted


def _why_not(typename: str, interpretation: Any) -> str:
    plain = typename.replace("std::", "")
    if "string" in plain or "char*" in plain or type(interpretation).__name__ == "AsStrings":
        return "text, not numbers"
    return f"objects of the class {typename}, not numbers"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
