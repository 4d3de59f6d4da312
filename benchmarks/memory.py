"""Anonymous and shared memory of a process tree, sampled while something runs.

Pages of mapped files are left out: the kernel takes them back whenever it needs them, so they are not our memory.
Linux only: read from ``/proc``.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self


def tree_memory_kb(root: int) -> int:
    """RssAnon + RssShmem of a process and all below it, in kB."""
    total, pending = 0, [root]
    while pending:
        pid = pending.pop()
        try:
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
            tasks = list(Path(f"/proc/{pid}/task").iterdir())
            pending.extend(int(child) for task in tasks for child in (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended between two looks
        total += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith(("RssAnon:", "RssShmem:")))
    return total


class PeakMemory:
    """Samples `tree_memory_kb` of this process every 20 ms; ``peak_mb`` afterwards."""

    def __init__(self, *, interval_s: float = 0.02) -> None:
        self._interval_s = interval_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._peak_kb = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    @property
    def peak_mb(self) -> float:
        """Highest value seen, in MB (10^6 bytes)."""
        return self._peak_kb * 1024 / 1e6

    def _sample(self) -> None:
        while not self._done.wait(self._interval_s):
            self._peak_kb = max(self._peak_kb, tree_memory_kb(os.getpid()))


class PeakSince:
    """The kernel's own peak of this process while something runs, less the mapped files: no short peak is missed.

    What was there before counts; processes below do not.
    """

    def __enter__(self) -> Self:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak so far is forgotten
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        found = {
            name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if "kB" in rest
        }
        self.peak_mb = (found["VmHWM"] - found["RssFile"]) * 1024 / 1e6
