"""RNTuples: fields as columns, records named with dots."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.places import Place
from mlaas4hep.data.root.blame import blamed
from mlaas4hep.data.root.source import RootSource, from_layout, typed
from mlaas4hep.data.root.words import TEXT
from mlaas4hep.data.source import ColumnInfo
from mlaas4hep.spec.columns import Column


class RNTupleSource(RootSource):
    """An RNTuple. Fields inside records are named with dots; clusters are those of the file."""

    def __init__(self, file: Any, place: Place, tree: str) -> None:
        super().__init__(file, place, tree)
        self.columns = _describe_fields(self._tree)
        sizes = [int(cluster.num_entries) for cluster in self._tree.cluster_summaries]
        self.clusters = self._check_clusters([0, *np.cumsum([size for size in sizes if size]).tolist()])
        self._sizes: dict[tuple[str, ...], NDArray[np.int64]] = {}

    def cut(self, names: Sequence[str], entry_start: int, entry_stop: int, max_bytes: int) -> list[int]:
        """See `mlaas4hep.data.source.Divisible.cut`; whole clusters, since one is read as a whole."""
        first = int(np.searchsorted(self.clusters, entry_start, side="right")) - 1
        last = int(np.searchsorted(self.clusters, entry_stop, side="left"))
        with blamed(self.path, f", tree '{self.tree}'"):
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
        return {name: from_layout(arrays[tuple(name.split("."))].layout) for name in names}


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
        return ColumnInfo(name, None, typename, TEXT)
    if not form.is_numpy or form.inner_shape:
        return ColumnInfo(name, None, typename, f"values of the type {form.type}, not numbers")
    if lists > 1:
        return ColumnInfo(name, None, typename, "lists inside lists; not read by this version yet")
    return typed(name, np.dtype(form.primitive), "jagged" if lists else "flat", f"values of the type {form.type}")
