"""The study on disk: one file of JSON lines that processes append to, as Optuna's journal wants it.

The kernel gives a lock back when its holder dies, however it dies, and whoever writes next cuts away the half line that
was left. Invariant: what was appended whole is read by everyone, in one order, also after a kill at any moment.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold a file for this process alone, made where it is not there yet; gives its handle."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


class JournalFile(BaseJournalBackend):
    """Lines of a file.

    Parameters
    ----------
    path
        The file; made when something is appended.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offsets = [0]  # of line n, as far as they are known

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Whole lines from a number on; half a line at the end is not there."""
        known = min(log_number_from, len(self._offsets) - 1)
        try:
            with self.path.open("rb") as file:
                file.seek(self._offsets[known])
                text = file.read()
        except FileNotFoundError:
            return
        lines = text.splitlines(keepends=True)
        for number, line in enumerate(lines, start=known):
            if not line.endswith(b"\n"):
                return
            if number + 1 == len(self._offsets):
                self._offsets.append(self._offsets[number] + len(line))
            if number >= log_number_from:
                yield json.loads(line)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Lines at the end, on the disk when this returns."""
        text = b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)
        with locked(self.path) as handle:
            end = _whole(handle)
            os.ftruncate(handle, end)
            os.lseek(handle, end, os.SEEK_SET)
            written = 0
            while written < len(text):
                written += os.write(handle, text[written:])
            os.fsync(handle)


def _whole(handle: int) -> int:
    """Where the last whole line ends."""
    end = os.fstat(handle).st_size
    while end:
        start = max(0, end - 4096)
        block = os.pread(handle, end - start, start)
        if (place := block.rfind(b"\n")) >= 0:
            return start + place + 1
        end = start
    return 0
