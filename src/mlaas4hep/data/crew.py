"""Threads that work for one iterator and never outlive it.

Invariant: when the owner is closed, fails or is forgotten, its threads end, none is left behind and none is waited for
in vain: one that waits for a far server ends when that answers or is given up, and holds up nobody until then.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from mlaas4hep.errors import DataError

PATIENCE_S = 1.0
"""Threads that read from a disk or compute end sooner; longer, only a far server keeps one waiting."""


class Stoppable(Protocol):
    """What threads share: they leave `run` soon after `stop`."""

    def run(self) -> None:
        """Body of a thread."""

    def stop(self) -> None:
        """Let no thread begin anything more, and wake all that wait."""


class Crew:
    """Threads over shared work.

    Parameters
    ----------
    owner
        When it is forgotten, the threads are stopped; the shared work must not refer to it.
    shared
        What they run.
    threads
        How many.
    """

    def __init__(self, owner: object, shared: Stoppable, *, threads: int) -> None:
        if threads < 0:
            raise DataError(f"threads must be 0 or more, got {threads}")
        self._threads = [
            threading.Thread(target=shared.run, name=f"mlaas4hep-read-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()
        self.close: Callable[[], object] = weakref.finalize(owner, _stop, shared, self._threads, os.getpid())

    def __bool__(self) -> bool:
        return bool(self._threads)


def _stop(shared: Stoppable, threads: list[threading.Thread], process: int) -> None:
    if os.getpid() != process:  # a forked process has no such threads, and perhaps a lock that nobody will open
        return
    shared.stop()
    end = time.monotonic() + PATIENCE_S
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(max(end - time.monotonic(), 0.0))
