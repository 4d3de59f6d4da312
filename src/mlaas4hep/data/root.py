"""ROOT files: TTree and RNTuple, read by uproot. The only module that knows uproot.

Jagged columns come out of awkward's layout as offsets and values, without copies and without Python objects.
Invariant: whatever is wrong with a file, `DataError` says so with its path; no other exception leaves this module.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import uproot
from numpy.typing import NDArray
from uproot.interpretation.identify import UnknownInterpretation
from uproot.interpretation.jagged import AsJagged
from uproot.interpretation.numerical import Numerical
from uproot.interpretation.objects import AsStridedObjects

from mlaas4hep.data.source import ColumnInfo, Source, TreeInfo, check_asked
from mlaas4hep.errors import DataError, MLaaSError, nearest
from mlaas4hep.spec.columns import Column, ColumnType, Jagged, declared_dtype

# Shorter reads of a TTree inflate the same baskets over and over.
_LEAST_ENTRIES = 64
_TREES = {"TTree": "TTree", "TNtuple": "TTree", "TNtupleD": "TTree", "ROOT::RNTuple": "RNTuple"}
_UNREADABLE = {"ROOT::Experimental::RNTuple": "an RNTuple of a pre-release format; write it with ROOT 6.34 or later"}


class RootFormat:
    """ROOT files, known by their first four bytes."""

    def matches(self, path: str, head: bytes) -> bool:
        """True for what begins with ``root``."""
        return head.startswith(b"root")

    def trees(self, path: str) -> tuple[TreeInfo, ...]:
        """TTrees and RNTuples, newest cycle of each, those in folders with their path."""
        with _blamed(path), _open(path) as file:
            return _trees(file)

    def open(self, path: str, tree: str | None) -> Source:
        """Open a TTree or RNTuple; None takes the only one that has entries."""
        with _blamed(path):
            file = _open(path)
            try:
                return _open_tree(file, path, tree)
            except BaseException:
                file.close()
                raise


def _open(path: str) -> Any:
    _check_complete(path)
    # Plain reads in the calling thread: uproot's default keeps threads of its own, a memory map dies on a lost file.
    handler = uproot.source.file.MultithreadedFileSource
    return uproot.open({path: None}, handler=handler, use_threads=False, object_cache=None, array_cache=None)


def _check_complete(path: str) -> None:
    """Compare the size in the header with that of the file: uproot would fail much later, or not at all."""
    with Path(path).open("rb") as file:
        head = file.read(32)
    size = Path(path).stat().st_size
    if len(head) < 32:
        raise DataError(f"{path}: is truncated: {size} bytes are less than the header of a ROOT file")
    version, _, small_end = struct.unpack(">iii", head[4:16])
    announced = struct.unpack(">q", head[12:20])[0] if version >= 1_000_000 else small_end
    if announced > size:
        raise DataError(f"{path}: is truncated: its header announces {announced} bytes, {size} are there")


@contextmanager
def _blamed(path: str, what: str = "") -> Iterator[None]:
    """Turn whatever a damaged file provokes below into one `DataError` that names the file.

    The list of what uproot, awkward and the decompressors raise on damaged bytes has no end, so all of it is caught,
    but not what says nothing of the file: no memory, or a mistake in this project's own lines.
    """
    try:
        yield
    except (MLaaSError, MemoryError):
        raise
    except Exception as error:  # damaged bytes make uproot fail in ways that share no base class
        if isinstance(error, _OWN_MISTAKES) and _is_raised_here(error):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise DataError(f"{path}{what}: cannot be read: {reason} ({type(error).__name__})") from error


_OWN_MISTAKES = (AssertionError, NameError, AttributeError, NotImplementedError)


def _is_raised_here(error: BaseException) -> bool:
    """Whether the line that raised is one of this package, not of a library below."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("mlaas4hep.")


def _trees(file: Any) -> tuple[TreeInfo, ...]:
    found: dict[str, TreeInfo] = {}
    cycles: dict[str, int] = {}
    for key, kind in file.classnames(recursive=True, cycle=True).items():
        name, _, cycle = key.rpartition(";")
        if (kind in _TREES or kind in _UNREADABLE) and int(cycle) > cycles.get(name, -1):
            cycles[name] = int(cycle)
            found[name] = TreeInfo(name, _TREES.get(kind, kind), _UNREADABLE.get(kind))
    return tuple(found.values())


def _open_tree(file: Any, path: str, tree: str | None) -> Source:
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
    with _blamed(path, f", tree '{name}'"):
        return (TTreeSource if info.kind == "TTree" else RNTupleSource)(file, path, name)


def _only_tree(file: Any, path: str, trees: Mapping[str, TreeInfo]) -> str:
    if len(trees) == 1:
        return next(iter(trees))
    filled = [name for name, info in trees.items() if info.reason is None and int(file[name].num_entries)]
    if len(filled) == 1:
        return filled[0]
    raise DataError(f"{path}: holds {len(trees)} trees: {', '.join(trees)}; say which with tree")


class _RootSource:
    """What TTree and RNTuple have in common."""

    columns: Mapping[str, ColumnInfo]
    clusters: NDArray[np.int64]

    def __init__(self, file: Any, path: str, tree: str) -> None:
        self._file = file
        self._tree = file[tree]
        self.path = path
        self.tree = tree
        self.num_entries = int(self._tree.num_entries)

    def read(self, names: Sequence[str], entry_start: int, entry_stop: int) -> dict[str, Column]:
        """See `mlaas4hep.data.source.Source.read`."""
        check_asked(self, names, entry_start, entry_stop)
        if not names:
            return {}
        with _blamed(self.path, f", tree '{self.tree}', entries {entry_start} to {entry_stop}"):
            columns = self._read(names, entry_start, entry_stop)
            for name, column in columns.items():
                if len(column) != entry_stop - entry_start:
                    raise DataError(
                        f"{self.path}, tree '{self.tree}': column '{name}' gave {len(column)} of the entries "
                        f"{entry_start} to {entry_stop}"
                    )
            return columns

    def _read(self, names: Sequence[str], entry_start: int, entry_stop: int) -> dict[str, Column]:
        raise NotImplementedError

    def _check_clusters(self, clusters: Sequence[int]) -> NDArray[np.int64]:
        found = np.asarray(clusters, dtype=np.int64)
        if found[0] != 0 or found[-1] != self.num_entries or np.any(np.diff(found) <= 0):
            raise DataError(
                f"{self.path}: tree '{self.tree}' is damaged: it announces {self.num_entries} entries, but its "
                f"columns are stored for {found[0]} to {found[-1]}"
            )
        return found

    def close(self) -> None:
        """See `mlaas4hep.data.source.Source.close`."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TTreeSource(_RootSource):
    """A TTree. Clusters are the entries at which the baskets of all readable branches end together."""

    def __init__(self, file: Any, path: str, tree: str) -> None:
        super().__init__(file, path, tree)
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
        return {name: _from_layout(arrays[key].layout) for name, key in keys.items()}


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
    return _typed(name, dtype, kind, "a number type that has no counterpart here")


def _typed(name: str, dtype: np.dtype[Any], kind: Any, reason: str) -> ColumnInfo:
    declared = declared_dtype(dtype)
    text = f"{dtype.name}[]" if kind == "jagged" else dtype.name
    if declared is None:
        return ColumnInfo(name, None, text, reason)
    return ColumnInfo(name, ColumnType(kind, declared), text)


def _why_not(typename: str, interpretation: Any) -> str:
    plain = typename.replace("std::", "")
    if "string" in plain or "char*" in plain or type(interpretation).__name__ == "AsStrings":
        return "text, not numbers"
    if plain.count("vector<") > 1 or plain.endswith("[][]") or ("vector<" in plain and plain.endswith("[]")):
        return "lists inside lists; not read by this version yet"
    return f"objects of the class {typename}, not numbers"


class RNTupleSource(_RootSource):
    """An RNTuple. Fields inside records are named with dots; clusters are those of the file."""

    def __init__(self, file: Any, path: str, tree: str) -> None:
        super().__init__(file, path, tree)
        self.columns = _describe_fields(self._tree)
        sizes = [int(cluster.num_entries) for cluster in self._tree.cluster_summaries]
        self.clusters = self._check_clusters([0, *np.cumsum([size for size in sizes if size]).tolist()])
        self._sizes: dict[tuple[str, ...], NDArray[np.int64]] = {}

    def cut(self, names: Sequence[str], entry_start: int, entry_stop: int, max_bytes: int) -> list[int]:
        """See `mlaas4hep.data.source.Divisible.cut`; whole clusters, since one is read as a whole."""
        first = int(np.searchsorted(self.clusters, entry_start, side="right")) - 1
        last = int(np.searchsorted(self.clusters, entry_stop, side="left"))
        with _blamed(self.path, f", tree '{self.tree}'"):
            sizes = self._cluster_bytes(names)[first:last]
        bounds, held = [entry_start], 0
        for boundary, size in zip(self.clusters[first:last].tolist(), sizes.tolist(), strict=True):
            if held and held + size > max_bytes:
                bounds.append(int(boundary))
                held = 0
            held += size
        return [*bounds, entry_stop]

    def _cluster_bytes(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Bytes of some columns in each cluster that has entries, from the list of its pages."""
        key = tuple(names)
        if key not in self._sizes:
            fields = _fields_behind(self._tree, names)
            records = [one for one in self._tree.column_records if one.field_id in fields]
            sizes = [
                sum(_page_bytes(pages, record) for record in records)
                for pages, cluster in zip(self._tree.page_link_list, self._tree.cluster_summaries, strict=True)
                if int(cluster.num_entries)
            ]
            self._sizes[key] = np.array(sizes, dtype=np.int64)
        return self._sizes[key]

    def _read(self, names: Sequence[str], entry_start: int, entry_stop: int) -> dict[str, Column]:
        arrays = self._tree.arrays(
            filter_name=list(dict.fromkeys(names)),
            entry_start=entry_start,
            entry_stop=entry_stop,
            array_cache=None,
        )
        return {name: _from_layout(arrays[tuple(name.split("."))].layout) for name in names}


def _fields_behind(ntuple: Any, names: Sequence[str]) -> set[int]:
    """Numbers of the fields that hold values or list lengths of some columns."""
    paths = {part for name in names for part in accumulate(name.split("."), "{}.{}".format)}
    found = set()
    for field in ntuple.all_fields:
        named = field.parent if field.is_anonymous else field
        if getattr(named, "path", None) in paths:
            found.add(int(field.field_id))
    return found


def _page_bytes(pages: Any, record: Any) -> int:
    if record.idx >= len(pages):
        return 0  # a column that was added after this cluster
    values = sum(int(page.num_elements) for page in pages[record.idx].pages)
    return values * max(int(record.nbits), 8) // 8


def _describe_fields(ntuple: Any) -> dict[str, ColumnInfo]:
    """Fields with their dotted paths; not by ``ntuple.keys()``, which takes time quadratic in their number."""
    families: dict[str, dict[str, Any]] = {}
    for field in ntuple.all_fields:
        if not (field.is_anonymous or field.in_variant):
            families.setdefault(field.path.partition(".")[0], {})[field.path] = field
    found = {}
    for top, members in families.items():
        form = _form(ntuple, members[top], list(members))
        for name, field in members.items():
            info = _describe_form(name, form, str(field.typename))
            if info is not None:
                found[name] = info
    return found


def _form(ntuple: Any, top: Any, names: list[str]) -> Any:
    try:
        return ntuple.field_form(top.field_id, names)
    except MemoryError:
        raise
    except Exception as error:  # a field that uproot cannot describe is unsupported; the others are not
        return f"uproot cannot describe it: {error}"


def _describe_form(name: str, form: Any, typename: str) -> ColumnInfo | None:
    """Type of a field from awkward's form of its top field; None for records, whose members are listed."""
    if isinstance(form, str):
        return ColumnInfo(name, None, typename, form)
    lists = 0
    for part in [*name.split(".")[1:], ""]:
        while form.is_list and form.parameter("__array__") not in ("string", "bytestring"):
            if form.is_regular:
                return ColumnInfo(name, None, typename, "an array of fixed size an event; not read by this version yet")
            lists, form = lists + 1, form.content
        if part:
            if not form.is_record:
                return ColumnInfo(name, None, typename, "a field inside something that is neither record nor list")
            form = form.content(part)
    if form.is_record:
        return None
    if form.is_list:
        return ColumnInfo(name, None, typename, "text, not numbers")
    if not form.is_numpy or form.inner_shape:
        return ColumnInfo(name, None, typename, f"values of the type {form.type}, not numbers")
    if lists > 1:
        return ColumnInfo(name, None, typename, "lists inside lists; not read by this version yet")
    return _typed(name, np.dtype(form.primitive), "jagged" if lists else "flat", f"values of the type {form.type}")


def _from_layout(layout: Any) -> Column:
    """awkward's layout to numpy arrays, sharing memory."""
    while layout.is_indexed:
        layout = layout.project()
    if layout.is_numpy:
        return _native(np.asarray(layout.data))
    compact = layout.to_ListOffsetArray64(True)
    offsets = np.asarray(compact.offsets.data, dtype=np.int64)
    content = compact.content
    while content.is_indexed:
        content = content.project()
    return Jagged(offsets, _native(np.asarray(content.data)[: offsets[-1]]))


def _native(values: NDArray[Any]) -> NDArray[Any]:
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))
