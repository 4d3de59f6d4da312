"""Inflated pages that the next read begins with, shared by all who read a file in this process.

Threads that take turns in a cluster need the same pages: they share the work, and nothing is read or inflated twice.
Invariant: a page is a function of its key (the identity of a file, a tree, a number), so that what is kept changes no
value; and no more than a bound is kept.
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from threading import Event, Lock
from typing import Any

from numpy.typing import NDArray

MEMO_BYTES = 96 * 2**20
_STALE_READS = 64

Key = tuple[Hashable, int]
"""Whose page, and its number."""


class Pending:
    """A page that is about to come: whoever asked first reads its bytes, and who comes first then inflates them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._there, self._done = Event(), Event()
        self._begun = False
        self._stored: memoryview | None = None
        self._page: NDArray[Any] | None = None

    def offer(self, stored: memoryview) -> None:
        """The bytes are there."""
        self._stored = stored
        self._there.set()

    def begin(self) -> memoryview | None:
        """Bytes for the one who is to inflate them, when they are there; None for all others."""
        self._there.wait()
        with self._lock:
            stored, self._begun = None if self._begun else self._stored, True
            return stored

    def abandon(self) -> bool:
        """Who promised it cannot keep it: whether nobody else has begun, or will."""
        with self._lock:
            free, self._begun = not self._begun, True
            return free

    def wait(self) -> NDArray[Any] | None:
        """The page; None where who wanted to deliver it failed."""
        self._done.wait()
        return self._page

    def settle(self, page: NDArray[Any] | None) -> None:
        """Wake all who wait."""
        self._begun, self._page, self._stored = True, page, None
        self._there.set()
        self._done.set()


class PageMemo:
    """Pages by key. What was not used for a while makes room; else a new page is not kept.

    It drops neither what was used first nor last: reads that go around more pages than fit would find none of them.

    Parameters
    ----------
    max_bytes
        Bound of what is kept.
    """

    def __init__(self, max_bytes: int = MEMO_BYTES) -> None:
        self._max_bytes = max_bytes
        self.renew()

    def renew(self) -> None:
        """Forget all, and who waits for whom: threads of before a fork are not there after it."""
        self._lock = Lock()
        self._kept: dict[Key, NDArray[Any]] = {}
        self._used: dict[Key, int] = {}
        self._pending: dict[Key, Pending] = {}
        self._nbytes = 0
        self._reads = 0

    def claim(self, key: Key) -> tuple[NDArray[Any] | Pending, bool]:
        """A page, or the promise of it; and whether it is the caller's promise, who then reads its bytes."""
        with self._lock:
            if key in self._kept:
                self._used[key] = self._reads
                return self._kept[key], False
            mine = key not in self._pending
            if mine:
                self._pending[key] = Pending()
            return self._pending[key], mine

    def deliver(self, key: Key, page: NDArray[Any] | None) -> None:
        """Keep a page that was promised, if there is room, and give it to all who wait; None where it cannot be had."""
        with self._lock:
            pending = self._pending.pop(key)
            if page is not None and self._has_room(page.nbytes):
                self._kept[key] = page
                self._used[key] = self._reads
                self._nbytes += page.nbytes
        pending.settle(page)

    def drop(self, key: Key) -> None:
        """Nobody will go on from this page."""
        with self._lock:
            self._drop(key)

    def tick(self) -> None:
        """Another read is over."""
        self._reads += 1

    def forget(self, owner: Hashable) -> None:
        """Give back all pages of one file."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == owner]:
                self._drop(key)

    @property
    def nbytes(self) -> int:
        """Memory of all that is kept."""
        return self._nbytes

    def _has_room(self, nbytes: int) -> bool:
        if self._nbytes + nbytes > self._max_bytes:
            for key in [key for key, read in self._used.items() if read + _STALE_READS < self._reads]:
                self._drop(key)
        return self._nbytes + nbytes <= self._max_bytes

    def _drop(self, key: Key) -> None:
        page = self._kept.pop(key, None)
        if page is not None:
            del self._used[key]
            self._nbytes -= page.nbytes


MEMO = PageMemo()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=MEMO.renew)
