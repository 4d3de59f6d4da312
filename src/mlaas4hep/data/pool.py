"""Open sources for threads.

Opening a file with a thousand branches costs more than reading a cluster of it. Invariant: a source is used by one
thread at a time, and gives the events that it gave when its file was first opened.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.source import Source
from mlaas4hep.errors import DataError

_IDLE_SOURCES = 16


class SourcePool:
    """Sources of files: each is used by one thread at a time and kept open for a while after."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: OrderedDict[int, tuple[FileEntry, Source]] = OrderedDict()
        self._process = os.getpid()
        weakref.finalize(self, _close_all, self._idle, self._process)

    @contextmanager
    def source(self, file: FileEntry) -> Iterator[Source]:
        """An open source of a file, for this thread alone."""
        source = self._take(file) or _reopen(file)
        try:
            yield source
        except BaseException:
            source.close()
            raise
        self._give_back(file, source)

    def close(self) -> None:
        """Close what is idle."""
        if os.getpid() == self._process:
            with self._lock:
                _close_all(self._idle, self._process)

    def _take(self, file: FileEntry) -> Source | None:
        with self._lock:
            for key in reversed(self._idle):
                if self._idle[key][0] is file:
                    return self._idle.pop(key)[1]
        return None

    def _give_back(self, file: FileEntry, source: Source) -> None:
        oldest = None
        with self._lock:
            self._idle[id(source)] = (file, source)
            if len(self._idle) > _IDLE_SOURCES:
                _, (_, oldest) = self._idle.popitem(last=False)
        if oldest is not None:
            oldest.close()


def _close_all(idle: OrderedDict[int, tuple[FileEntry, Source]], process: int) -> None:
    while idle and os.getpid() == process:  # a forked process has them only lent
        _, (_, source) = idle.popitem()
        source.close()


def _reopen(file: FileEntry) -> Source:
    source = file.open()
    was = ""
    if file.tree_entries not in (None, source.num_entries):
        was = f": has {source.num_entries} entries now, had {file.tree_entries} when it was first opened"
    elif file.identity not in ("", source.identity) and len(file.replicas) < 2:
        # The same number of entries, yet others: they must not be mixed.
        was = ": is not the file any more that was first opened"
    if was:
        source.close()
        raise DataError(f"{file.path}, tree '{file.tree}'{was}; the file was changed meanwhile")
    return source
