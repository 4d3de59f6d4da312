"""A source as the user's own ``preprocessing(rec)`` leaves it.

Invariant: entries keep their numbers; those that the function drops are still read, and `KEPT` says which they are, so
that they are counted as cut away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.hook import RecordHook
from mlaas4hep.data.source import ColumnInfo, Source, check_asked, cut_reads
from mlaas4hep.errors import DeclarationError
from mlaas4hep.spec.columns import Column, ColumnType, Jagged, Nested

KEPT = "preprocessing.kept"
"""Name of the column that says which events the function kept."""
# Enough events to see a type, few enough not to be noticed.
_FIRST = 200
# A number in a list of Python's takes 32 bytes, where a column has 4 or 8.
_OBJECT = 6


class HookedSource:
    """A table of events after a function has seen each of them. Owns the source behind it.

    Parameters
    ----------
    source
        What the function sees: all columns that can be read.
    hook
        The function.

    Raises
    ------
    DeclarationError
        The function fails, or keeps none of the first events, so that nothing is known of what it returns.
    """

    def __init__(self, source: Source, hook: RecordHook) -> None:
        self._source = source
        self._hook = hook
        self._names = [name for name, one in source.columns.items() if one.type is not None]
        self.path, self.tree = source.path, source.tree
        self.identity = f"{source.identity} {hook.sha256}"
        self.num_entries = source.num_entries
        self.clusters = source.clusters
        stop = min(_FIRST, source.num_entries)
        if hook.types is None and stop:
            self._apply(0, stop)
        if hook.types is None:
            raise DeclarationError(
                f"{source.path}, tree '{source.tree}': preprocessing of {hook.path} keeps none of its first {stop} "
                "events, so that the columns it returns are not known; put a file first of which it keeps some"
            )
        self.columns: Mapping[str, ColumnInfo] = {
            **{name: ColumnInfo(name, one, str(one)) for name, one in hook.types.items()},
            KEPT: ColumnInfo(KEPT, ColumnType("flat", "bool"), "bool"),
        }

    def read(self, names: Sequence[str], entry_start: int, entry_stop: int) -> dict[str, Column]:
        """See `mlaas4hep.data.source.Source.read`; values of events that were dropped are zeros and empty lists."""
        check_asked(self, names, entry_start, entry_stop)
        found, kept = self._apply(entry_start, entry_stop)
        columns = {name: _filled_up(found[name], kept) for name in names if name != KEPT and name in found}
        for name in names:
            if name != KEPT and name not in columns:  # none of these events is kept
                info = self.columns[name].type
                assert info is not None
                columns[name] = _filled_up(_nothing(info), kept)
        return {name: kept if name == KEPT else columns[name] for name in names}

    def _apply(self, start: int, stop: int) -> tuple[dict[str, Column], NDArray[np.bool_]]:
        columns = self._source.read(self._names, start, stop)
        try:
            return self._hook.apply(columns, stop - start)
        except DeclarationError as error:
            raise DeclarationError(f"{self.path}, tree '{self.tree}', from entry {start} on: {error}") from error

    def cut(self, names: Sequence[str], entry_start: int, entry_stop: int, max_bytes: int) -> list[int]:
        """See `mlaas4hep.data.source.Divisible.cut`: the function sees all columns, as objects of Python."""
        return cut_reads(self._source, self._names, entry_start, entry_stop, max_bytes=max(max_bytes // _OBJECT, 1))

    def close(self) -> None:
        """See `mlaas4hep.data.source.Source.close`."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _filled_up(column: Column, kept: np.ndarray) -> Column:
    """Values of the kept events at their places among all."""
    if isinstance(column, np.ndarray):
        values = np.zeros(len(kept), dtype=column.dtype)
        values[kept] = column
        return values
    counts = np.zeros(len(kept), dtype=np.int64)
    counts[kept] = np.diff(column.offsets)
    if isinstance(column, Jagged):
        return Jagged.from_counts(counts, column.values)
    return Nested.from_counts(counts, column.inner)


def _nothing(type: ColumnType) -> Column:
    values, offsets = np.zeros(0, dtype=type.dtype), np.zeros(1, dtype=np.int64)
    if type.kind == "flat":
        return values
    return Jagged(offsets, values) if type.kind == "jagged" else Nested(offsets, Jagged(offsets, values))
