"""Where the rows of a text lie: clusters for formats that have none of their own.

One pass over the text finds the rows and what their cells can be; the result is kept for the process by the identity of
the file. Invariant: clusters are a function of the text alone, and hold at most `CLUSTER_ROWS` rows and about
`CLUSTER_BYTES` bytes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.places import Place
from mlaas4hep.data.tables.text import Text, view_of
from mlaas4hep.errors import DataError

CLUSTER_ROWS = 50_000
CLUSTER_BYTES = 2 << 20
MAX_ROW_BYTES = 32 << 20
_BLOCK_BYTES = 4 << 20
_KEPT_FILES = 1024


@dataclass(frozen=True, eq=False)
class Rows:
    """Clusters of rows.

    Parameters
    ----------
    entries
        int64 [C + 1]: rows before each cluster.
    offsets
        int64 [C + 1]: bytes of the text before it.
    lines
        int64 [C + 1]: lines of the text before it.
    """

    entries: NDArray[np.int64]
    offsets: NDArray[np.int64]
    lines: NDArray[np.int64]


class Looker(Protocol):
    """Looks at the rows of a piece of text, and remembers what it needs of their cells."""

    def look(
        self, text: NDArray[np.uint8], at: int, *, final: bool, max_rows: int, max_bytes: int, line: int
    ) -> tuple[int, int, bool]:
        """Where the next row begins, rows seen, and whether it stopped since the text ends.

        ``line`` is the number of lines before ``at``, for messages; ``final`` says that the file ends with the text.
        """
        ...


def find_rows(text: Text, where: str, looker: Looker, *, start: int = 0, line: int = 0) -> Rows:
    """One pass over a text from byte ``start``, which begins line ``line`` (counted from 0).

    Raises
    ------
    DataError
        What the looker finds wrong, or a row that never ends.
    """
    found = _Clusters(start, line)
    base, at, held, final = start, 0, b"", False
    while not final:
        block = bytes(text.read(base + len(held), base + len(held) + _BLOCK_BYTES))
        final = len(block) < _BLOCK_BYTES
        held = held + block if held else block
        view, at, cut_off = view_of(held), 0, False
        while not cut_off:
            max_rows, max_bytes = found.room(base + at)
            after, rows, cut_off = looker.look(
                view, at, final=final, max_rows=max_rows, max_bytes=max_bytes, line=found.line
            )
            found.add(rows, base + after, int(np.count_nonzero(view[at:after] == 10)), full=not cut_off)
            at = after
        held, base = held[at:], base + at
        if len(held) > MAX_ROW_BYTES:
            raise DataError(
                f"{where}, line {found.line + 1}: no row ends within {MAX_ROW_BYTES >> 20} MiB; is it this format?"
            )
    return found.finish()


class _Clusters:
    """Clusters in the making."""

    def __init__(self, start: int, line: int) -> None:
        self.line = line
        self._rows = 0
        self._entries, self._offsets, self._lines = [0], [start], [line]
        self._stop = start

    def room(self, at: int) -> tuple[int, int]:
        """Rows and bytes that the present cluster may still take."""
        return CLUSTER_ROWS - self._rows, CLUSTER_BYTES - (at - self._offsets[-1])

    def add(self, rows: int, stop: int, lines: int, *, full: bool) -> None:
        """Count what was looked at; a full cluster ends there."""
        self._rows += rows
        self.line += lines
        self._stop = stop
        if full:
            self._close()

    def _close(self) -> None:
        if not self._rows:  # comments and blank lines alone
            self._offsets[-1], self._lines[-1] = self._stop, self.line
            return
        self._entries.append(self._entries[-1] + self._rows)
        self._offsets.append(self._stop)
        self._lines.append(self.line)
        self._rows = 0

    def finish(self) -> Rows:
        if self._rows:
            self._close()
        return Rows(*(np.array(one, dtype=np.int64) for one in (self._entries, self._offsets, self._lines)))


_LOCK = threading.Lock()
_KEPT: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
T = TypeVar("T")


def kept(place: Place, kind: str, make: Callable[[], T]) -> T:
    """What ``make`` found out of a file, found out once for the process."""
    key = (kind, place.url, place.identity, CLUSTER_ROWS, CLUSTER_BYTES)
    with _LOCK:
        if key in _KEPT:
            _KEPT.move_to_end(key)
            known: T = _KEPT[key]
            return known
    made = make()
    with _LOCK:
        _KEPT[key] = made
        if len(_KEPT) > _KEPT_FILES:
            _KEPT.popitem(last=False)
    return made
