"""From what uproot and awkward say and give to columns.

Invariant: values keep their bits; only byte order and the way lists are held change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.root.blame import DamageError
from mlaas4hep.data.source import ColumnInfo
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Column, ColumnType, Jagged, Kind, Nested, declared_dtype


def check_clusters(
    clusters: Sequence[int] | NDArray[np.int64], num_entries: int, path: str, tree: str
) -> NDArray[np.int64]:
    """Cluster boundaries, if they cover all entries of a tree.

    Raises
    ------
    DataError
        They do not begin at 0, rise, and end where the tree does.
    """
    found = np.asarray(clusters, dtype=np.int64)
    if found[0] != 0 or found[-1] != num_entries or np.any(np.diff(found) <= 0):
        raise DataError(
            f"{path}: tree '{tree}' is damaged: it announces {num_entries} entries, but its "
            f"columns are stored for {found[0]} to {found[-1]}"
        )
    return found


def typed(name: str, dtype: np.dtype[Any], kind: Kind, reason: str) -> ColumnInfo:
    """A column of numbers; without a type, and with ``reason``, where they have no counterpart."""
    declared = declared_dtype(dtype)
    text = dtype.name + {"flat": "", "jagged": "[]", "nested": "[][]"}[kind]
    if declared is None:
        return ColumnInfo(name, None, text, reason)
    return ColumnInfo(name, ColumnType(kind, declared), text)


def from_layout(layout: Any) -> Column:
    """awkward's layout to numpy arrays, sharing memory; fixed arrays become lists of equal lengths."""
    layout = _plain(layout)
    if layout.is_numpy:
        return _native(np.asarray(layout.data))
    compact = layout.to_ListOffsetArray64(True)
    offsets = np.asarray(compact.offsets.data, dtype=np.int64)
    content = from_layout(compact.content[: int(offsets[-1])])
    if isinstance(content, Nested):
        raise DamageError("it holds lists inside lists inside lists")
    return Nested(offsets, content) if isinstance(content, Jagged) else Jagged(offsets, content)


def _plain(layout: Any) -> Any:
    """Without an index, and with fixed arrays as a type of their own."""
    while layout.is_indexed:
        layout = layout.project()
    return layout.to_RegularArray() if layout.is_numpy else layout


def _native(values: NDArray[Any]) -> NDArray[Any]:
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))
