"""Reading tables of files that were opened before, kept for the whole process.

A reading table says where the bytes of a tree lie; building one parses metadata, which can take longer than reading
the events. Invariant: a table is a function of its key alone (the identity of a file and the name of a tree), so who
built it does not matter, and a file that changed has another key.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Protocol, TypeVar

MAX_BYTES = 64 * 2**20


class Table(Protocol):
    """What `Tables` must know of a table."""

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        ...


T = TypeVar("T", bound=Table)


class Tables:
    """Tables by key, those used last first; the others go when there are too many bytes of them.

    Parameters
    ----------
    max_bytes
        Bound of what is kept; a larger table is used and not kept.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self.renew()

    def renew(self) -> None:
        """Forget all, and who is busy: threads of before a fork are not there after it."""
        self._lock = Lock()
        self._kept: OrderedDict[Hashable, Table] = OrderedDict()
        self._nbytes = 0

    def get(self, key: Hashable, build: Callable[[], T]) -> T:
        """The table of a key, built where it is not there.

        Two threads that ask for the same new one may both build it; both then get the one that is kept. What
        ``build`` raises is raised, and nothing is kept. The caller sees to it that a key has tables of one type.
        """
        found = self._find(key)
        if found is None:
            found = self._keep(key, build())
        return found  # type: ignore[return-value]  # one type a key, as said above

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._kept.clear()
            self._nbytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Memory of all that is kept."""
        return self._nbytes

    def _find(self, key: Hashable) -> Table | None:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def _keep(self, key: Hashable, built: Table) -> Table:
        with self._lock:
            other = self._kept.get(key)
            if other is not None:
                return other
            if built.nbytes <= self._max_bytes:
                self._kept[key] = built
                self._nbytes += built.nbytes
                while self._nbytes > self._max_bytes:
                    _, oldest = self._kept.popitem(last=False)
                    self._nbytes -= oldest.nbytes
            return built


TABLES = Tables()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=TABLES.renew)
