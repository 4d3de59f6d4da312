"""What TTree and RNTuple have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.places import Place
from mlaas4hep.data.root.blame import blamed
from mlaas4hep.data.root.words import Words
from mlaas4hep.data.source import ColumnInfo, check_asked
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Column, ColumnType, Jagged, declared_dtype


class RootSource(Words):
    """What TTree and RNTuple have in common."""

    columns: Mapping[str, ColumnInfo]
    clusters: NDArray[np.int64]

    def __init__(self, file: Any, place: Place, tree: str) -> None:
        self._file = file
        self._tree = file[tree]
        self._place = place
        self.path = place.url
        self.tree = tree
        self.num_entries = int(self._tree.num_entries)

    def read(self, names: Sequence[str], entry_start: int, entry_stop: int) -> dict[str, Column]:
        """See `mlaas4hep.data.source.Source.read`."""
        check_asked(self, names, entry_start, entry_stop)
        if not names:
            return {}
        with blamed(self.path, f", tree '{self.tree}', entries {entry_start} to {entry_stop}"):
            columns = self._read(names, entry_start, entry_stop)
            for name, column in columns.items():
                if len(column) != entry_stop - entry_start:
                    raise DataError(
                        f"{self.path}, tree '{self.tree}': column '{name}' gave {len(column)} of the entries "
                        f"{entry_start} to {entry_stop}"
                    )
            return columns

    def _uproot_branch(self, name: str) -> Any:
        return self._tree[name]

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


def typed(name: str, dtype: np.dtype[Any], kind: Any, reason: str) -> ColumnInfo:
    declared = declared_dtype(dtype)
    text = f"{dtype.name}[]" if kind == "jagged" else dtype.name
    if declared is None:
        return ColumnInfo(name, None, text, reason)
    return ColumnInfo(name, ColumnType(kind, declared), text)


def from_layout(layout: Any) -> Column:
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
