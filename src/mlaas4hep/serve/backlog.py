"""Questions that wait for a thread to read them: no more than can be read in the time that may be waited.

What is long to read (a large body, a picture) comes before the queue of its model, which knows nothing of it.
Invariant: who finds nobody waiting is taken, so that a pace that one question spoilt is mended by the next.
"""

from __future__ import annotations

import threading

from mlaas4hep.errors import BusyError

# How much the newest counts in the pace, and how much of the time that may be waited is given away.
_NEWEST, _GIVEN = 0.1, 0.75


class Backlog:
    """Counts from several threads.

    Parameters
    ----------
    threads
        That read.
    wait_s
        The longest that may be waited.
    """

    __slots__ = ("_lock", "_pace_s", "_threads", "count", "wait_s")

    def __init__(self, threads: int, wait_s: float) -> None:
        self.wait_s = wait_s
        self.count = 0
        self._threads, self._pace_s = threads, 0.0
        self._lock = threading.Lock()

    def enter(self) -> None:
        """One more waits; `BusyError` where it would be too long."""
        expected_s = self.count * self._pace_s / self._threads
        if expected_s > self.wait_s * _GIVEN:
            found = f"{self.count} questions wait to be read, which takes about {expected_s:.2g} s"
            raise BusyError(f"{found}, and {self.wait_s:g} s may be waited; ask again later", retry_after_s=expected_s)
        with self._lock:
            self.count += 1

    def leave(self, took_s: float) -> None:
        """One was read, in so many seconds."""
        with self._lock:
            self.count -= 1
            self._pace_s += (took_s - self._pace_s) * (_NEWEST if self._pace_s else 1.0)
