"""What all tables have in common: one table a file, clusters, and reads of any range.

Invariant: a read gives each asked column with exactly the asked number of entries, or a `DataError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.places import Place
from mlaas4hep.data.source import ONLY_TABLE, ColumnInfo, check_asked
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Column, ColumnType, DType, Jagged, Kind, Nested, concat_columns

_KINDS: tuple[Kind, ...] = ("flat", "jagged", "nested")


class TableSource:
    """A file that is one table of events. Whatever name is asked for, it is that table."""

    tree = ONLY_TABLE
    columns: Mapping[str, ColumnInfo]
    clusters: NDArray[np.int64]
    num_entries: int

    def __init__(self, place: Place) -> None:
        self._place = place
        self.path = place.url
        self.identity = place.identity

    def _describe(self, columns: Mapping[str, ColumnInfo], clusters: NDArray[np.int64]) -> None:
        """Set what a `Source` tells of itself."""
        self.columns, self.clusters, self.num_entries = columns, clusters, int(clusters[-1])

    def read(self, names: Sequence[str], entry_start: int, entry_stop: int) -> dict[str, Column]:
        """See `mlaas4hep.data.source.Source.read`."""
        check_asked(self, names, entry_start, entry_stop)
        if not names:
            return {}
        columns = self._read(list(dict.fromkeys(names)), entry_start, entry_stop)
        for name, column in columns.items():
            if len(column) != entry_stop - entry_start:
                raise DataError(
                    f"{self.path}: column '{name}' gave {len(column)} of the entries {entry_start} to {entry_stop}; "
                    "the file is damaged, or was changed meanwhile"
                )
        return {name: columns[name] for name in names}

    def _read(self, names: list[str], start: int, stop: int) -> dict[str, Column]:
        """All clusters that the range touches, each by `_read_cluster`."""
        first, last = self._touched(start, stop)
        bounds = self.clusters
        parts = [
            self._read_cluster(names, cluster, max(start, int(bounds[cluster])), min(stop, int(bounds[cluster + 1])))
            for cluster in range(first, last)
        ]
        return concat_columns(parts) if parts else self._nothing(names)

    def _read_cluster(self, names: list[str], cluster: int, start: int, stop: int) -> dict[str, Column]:
        raise NotImplementedError

    def _nothing(self, names: list[str]) -> dict[str, Column]:
        raise NotImplementedError

    def _touched(self, start: int, stop: int) -> tuple[int, int]:
        """First cluster of a range, and the one after its last; none where the range is empty."""
        if start == stop:
            return 0, 0
        first = int(np.searchsorted(self.clusters, start, side="right")) - 1
        return first, int(np.searchsorted(self.clusters, stop, side="left"))

    def cut(self, names: Sequence[str], entry_start: int, entry_stop: int, max_bytes: int) -> list[int]:
        """See `mlaas4hep.data.source.Divisible.cut`; clusters are joined, and cut evenly where one is too large."""
        bounds, held = [entry_start], 0
        for cluster in range(*self._touched(entry_start, entry_stop)):
            start = max(entry_start, int(self.clusters[cluster]))
            stop = min(entry_stop, int(self.clusters[cluster + 1]))
            size = self._cluster_bytes(names, cluster)
            if held and held + size > max_bytes:
                bounds.append(start)
                held = 0
            parts = min(-(-size // max(max_bytes, 1)), stop - start) if self.divides_clusters else 1
            bounds.extend(start + part * (stop - start) // parts for part in range(1, parts))
            held += size // max(parts, 1)
        return [*bounds, entry_stop]

    divides_clusters = False
    """Whether a part of a cluster costs less memory than the whole."""

    def _cluster_bytes(self, names: Sequence[str], cluster: int) -> int:
        """About what reading some columns of a cluster takes."""
        raise NotImplementedError

    def close(self) -> None:
        """See `mlaas4hep.data.source.Source.close`."""
        self._place.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def readable(name: str, lists: int, dtype: DType, stored: str | None = None) -> ColumnInfo:
    """A column of numbers inside of so many lists; refused where there are more than two."""
    words = f"{stored or dtype}{'[]' * lists}"
    if lists >= len(_KINDS):
        return ColumnInfo(name, None, words, "lists more than two deep")
    return ColumnInfo(name, ColumnType(_KINDS[lists], dtype), words)


def assemble(counts: Sequence[NDArray[np.int64]], values: NDArray[Any]) -> Column:
    """A column from the lengths of its lists, outermost first, and its values.

    Raises
    ------
    DataError
        The lengths do not add up.
    """
    if not counts:
        return values
    inner = Jagged.from_counts(counts[-1], values)
    return inner if len(counts) == 1 else Nested.from_counts(counts[0], inner)
