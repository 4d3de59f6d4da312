"""TTrees as sources: the bytes of most columns by our own code, of the others by uproot.

Invariant: both ways give the same bits, so that which one reads a column is a matter of speed alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from mlaas4hep.data.places import Place
from mlaas4hep.data.root.baskets import Basket, BasketReader, Cuts, Wanted
from mlaas4hep.data.root.blame import DamageError, blamed
from mlaas4hep.data.root.bytes import open_root
from mlaas4hep.data.root.codecs import MAX_BYTES
from mlaas4hep.data.root.decode import Counts, Part, list_part, single_part, to_column
from mlaas4hep.data.root.layout import Branch, Layout, TTreeTable
from mlaas4hep.data.root.source import from_layout
from mlaas4hep.data.root.words import Words
from mlaas4hep.data.source import Weight, check_asked
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Column

# Shorter reads of a TTree inflate the same baskets over and over.
_LEAST_ENTRIES = 64


class TTreeSource(Words):
    """A TTree. Clusters are the entries at which the baskets of all readable branches end together.

    Parameters
    ----------
    place
        Closed with the source.
    table
        Where everything is.
    """

    def __init__(self, place: Place, table: TTreeTable) -> None:
        self.table = table
        self.path = place.url
        self.identity = place.identity
        self.tree = table.name
        self.num_entries = table.num_entries
        self.columns = table.columns
        self.clusters = table.clusters
        self._place = place
        self._baskets = BasketReader(place, table.name, branches=table.branches)
        self._uproot: Any = None

    def read(self, names: Sequence[str], entry_start: int, entry_stop: int) -> dict[str, Column]:
        """See `mlaas4hep.data.source.Source.read`. Columns of one counter share their offsets."""
        return self.read_stored(names, entry_start, entry_stop, stored=())

    def read_stored(
        self, names: Sequence[str], entry_start: int, entry_stop: int, *, stored: Collection[str]
    ) -> dict[str, Column]:
        """See `mlaas4hep.data.source.AsStored.read_stored`: columns that lie in one basket are not copied."""
        check_asked(self, names, entry_start, entry_stop)
        with blamed(self.path, f", tree '{self.tree}', entries {entry_start} to {entry_stop}"):
            return self._read(names, entry_start, entry_stop, stored)

    def cut(self, names: Sequence[str], entry_start: int, entry_stop: int, max_bytes: int) -> list[int]:
        """See `mlaas4hep.data.source.Divisible.cut`; by the average size of an entry in the tree."""
        known = [name for name in names if name in self.table.plans]
        total = sum(self.table.branches[path].inflated_bytes for path in self.table.paths(known))
        size = entry_stop - entry_start
        wanted = math.ceil(total / max(self.num_entries, 1) * size / max(max_bytes, 1))
        parts = max(min(wanted, size // _LEAST_ENTRIES), 1)
        return [entry_start + part * size // parts for part in range(parts + 1)]

    def _uproot_branch(self, name: str) -> Any:
        return self._uproot_tree()[name]

    def _uproot_tree(self) -> Any:
        if self._uproot is None:
            self._uproot = open_root(self._place)[self.tree]
        return self._uproot

    def weigh(self, names: Sequence[str], entry_start: int, entry_stop: int) -> Weight:
        """See `mlaas4hep.data.source.Weighed.weigh`; what is inflated by the average size of an entry in the tree."""
        known = [name for name in names if name in self.table.plans]
        branches = [self.table.branches[path] for path in self.table.paths(known)]
        stored = sum(stop - start for start, stop in self.table.ranges(known, entry_start, entry_stop))
        # Baskets that were never flushed come with the record of the tree, compressed as that is.
        unflushed = sum(branch.embedded_bytes(entry_start, entry_stop) for branch in branches)
        stored += round(unflushed * self.table.packing)
        total = sum(branch.inflated_bytes for branch in branches)
        return Weight(stored, round(total * (entry_stop - entry_start) / max(self.num_entries, 1)))

    def close(self) -> None:
        """See `mlaas4hep.data.source.Source.close`."""
        self._baskets.forget()
        self._uproot = None
        self._place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, names: Sequence[str], start: int, stop: int, stored: Collection[str]) -> dict[str, Column]:
        own = [name for name in names if self._layout(name) is not None]
        found = self._read_own(own, start, stop, stored)
        others = [name for name in names if name not in found]
        found.update(self._read_by_uproot(others, start, stop))
        return {name: found[name] for name in names}

    def _layout(self, name: str) -> Layout | None:
        return self.table.branches[self.table.plans[name].branch].layout

    def _read_own(self, names: Sequence[str], start: int, stop: int, stored: Collection[str] = ()) -> dict[str, Column]:
        """Columns whose layout is known, branch by branch."""
        reading = _Reading(self.table, self._baskets, start, stop, stored)
        columns: dict[str, list[str]] = {}
        for name in names:
            columns.setdefault(self.table.plans[name].branch, []).append(name)
        branches = [self.table.branches[path] for path in self.table.paths(names)]
        found: dict[str, Column] = {}
        opened = self._baskets.read(reading.wanted(branches), stop, value_bytes=reading.value_bytes)
        for branch, baskets in zip(branches, opened, strict=True):
            found.update(reading.columns(branch, baskets, columns.get(branch.path, ())))
        return found

    def _read_by_uproot(self, names: Sequence[str], start: int, stop: int) -> dict[str, Column]:
        """Columns by the library's own code, which knows more kinds and is slower."""
        if not names:
            return {}
        paths = {name: self.table.plans[name].branch for name in names}
        arrays = self._uproot_tree().arrays(
            list(dict.fromkeys(paths.values())),
            entry_start=start,
            entry_stop=stop,
            library="ak",
            array_cache=None,
            how=dict,
        )
        return {name: self._from_uproot(name, arrays[path].layout, stop - start) for name, path in paths.items()}

    def _from_uproot(self, name: str, layout: Any, entries: int) -> Column:
        column = from_layout(_member(layout, self.table.plans[name].member))
        if len(column) != entries:
            raise DataError(f"{self.path}, tree '{self.tree}': column '{name}' gave {len(column)} of {entries} entries")
        return column


def _member(layout: Any, member: str | None) -> Any:
    """Field of records, which uproot nests in some trees and spells with slashes in others."""
    if member is None or member.startswith("@"):
        return layout
    if member in layout.fields:
        return layout[member]
    head, _, rest = member.partition("/")
    return _member(layout[head], rest or None)


class _Reading:
    """One call of `TTreeSource.read`: what columns of the same entries share."""

    def __init__(
        self, table: TTreeTable, baskets: BasketReader, start: int, stop: int, stored: Collection[str]
    ) -> None:
        self._table = table
        self._baskets = baskets
        self._start, self._stop = start, stop
        self._stored = stored
        self._counts: dict[str, Counts] = {}
        self._spans: dict[str, tuple[int, int]] = {}

    def wanted(self, branches: Sequence[Branch]) -> list[Wanted]:
        """Baskets to inflate of each branch: a counter serves whole baskets of its lists."""
        cuts, whole = Cuts(), (self._start, self._stop)
        for branch in branches:
            layout = branch.layout
            if layout is not None and layout.counter is not None:
                bounds = cuts.wanted(branch, *whole).bounds or whole
                known = self._spans.get(layout.counter, whole)
                self._spans[layout.counter] = min(bounds[0], known[0]), max(bounds[-1], known[1])
        return [cuts.wanted(branch, *self._spans.get(branch.path, whole)) for branch in branches]

    def value_bytes(self, branch: Branch, first: int, last: int) -> int | None:
        """Bytes of values of some entries, where the counter was read before."""
        layout = branch.layout
        counts = None if layout is None or layout.counter is None else self._counts.get(layout.counter)
        return None if layout is None or counts is None else counts.total(first, last) * layout.element.itemsize

    def columns(self, branch: Branch, baskets: Sequence[Basket], names: Sequence[str]) -> dict[str, Column]:
        """Columns of one branch; keeps its values where it is a counter."""
        if baskets and branch.path in self._spans:
            self._count(branch, baskets)
        layout = branch.layout
        if not names or layout is None:
            return {}
        start, stop = self._start, self._stop
        parts = [self._part(branch, one, start, stop) for one in baskets if one.first < stop and one.last > start]
        shared = self._counts[layout.counter].offsets(start, stop) if layout.counter in self._counts else None
        return {
            name: to_column(
                self._table.plans[name], layout, parts, stop - start, shared, as_stored=name in self._stored
            )
            for name in names
        }

    def _count(self, branch: Branch, baskets: Sequence[Basket]) -> None:
        start, stop = self._spans[branch.path]
        parts = [self._part(branch, one, start, stop).elements for one in baskets]
        counts = np.concatenate(parts).astype(np.int64)
        try:
            self._counts[branch.path] = Counts(start, counts, MAX_BYTES)
        except DamageError as error:
            raise DataError(f"{self._baskets.named(branch)}: {error}") from error

    def _part(self, branch: Branch, basket: Basket, start: int, stop: int) -> Part:
        layout = branch.layout
        try:
            if layout is None:
                raise DamageError("it cannot be read without uproot")
            if not layout.jagged:
                return single_part(layout, basket, start, stop)
            counts = None if layout.counter is None else self._counts[layout.counter]
            return list_part(layout, basket, start, stop, counts)
        except DamageError as error:
            raise DataError(f"{self._baskets.where(branch, basket.number)}: {error}") from error
