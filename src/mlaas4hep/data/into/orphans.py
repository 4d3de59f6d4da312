"""Workers of a loader whose training has ended without a word, as by SIGTERM.

PyTorch's own watch looks only between two batches, and a batch that a silent server owes may be long in coming.
Invariant: a worker outlives the process that started it by a second or so, and ends without touching anything.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from functools import cache

_EVERY_S = 0.5
_EXIT_STATUS = 1


def end_with_parent() -> None:
    """Have this process, a worker, end soon after the one that started it; once is enough."""
    # It may have ended before this one comes to ask who it was.
    parent = multiprocessing.parent_process()
    _watch(os.getpid(), os.getppid() if parent is None or parent.pid is None else parent.pid)


@cache  # by the process: a worker that is forked from a worker has a watch of its own
def _watch(process: int, parent: int) -> None:
    threading.Thread(target=_end_after, args=(parent,), name=f"watch-{process}", daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_EVERY_S)
    os._exit(_EXIT_STATUS)  # threads of the stream wait for servers that nobody needs any more
