"""``GET /status`` of TFaaS: how the machine and this process are doing, in the words of its Go server.

Invariant: what the system does not tell is null, and asking costs no waiting: loads of processors are those since the
question before.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from mlaas4hep.serve.hooks import Seen


class Status:
    """Counts requests, and remembers what the processors had done when it was asked last."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._gets = self.posts = 0
        self._before = _processors()

    def seen(self, seen: Seen) -> None:
        """Count a request that was answered."""
        if seen.method == "POST":
            self.posts += 1
        elif seen.method == "GET":
            self._gets += 1

    def told(self) -> dict[str, Any]:
        """The answer; ``NGo``, which counts goroutines there, counts threads."""
        memory = _memory()
        return {
            "NGo": threading.active_count(),
            "Memory": {
                "Virtual": _part(memory, "MemTotal", "MemAvailable"),
                "Swap": _part(memory, "SwapTotal", "SwapFree"),
            },
            "Load": dict(zip(("load1", "load5", "load15"), os.getloadavg(), strict=True)),
            "CPU": self._busy(),
            "Uptime": time.monotonic() - self._began_s,
            "getRequests": self._gets,
            "postRequests": self.posts,
        }

    def _busy(self) -> list[float] | None:
        """Percent of each processor since the last question."""
        now, before = _processors(), self._before
        self._before = now
        if not now or len(now) != len(before):
            return None
        spans = [(total - before[at][0], idle - before[at][1]) for at, (total, idle) in enumerate(now)]
        return [100.0 * max(total - idle, 0) / total if total > 0 else 0.0 for total, idle in spans]


def _processors() -> list[tuple[int, int]]:
    """Ticks of each processor, all and idle ones."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            lines = [line.split() for line in file if line.startswith("cpu") and line[3:4].isdigit()]
    except OSError:
        return []
    return [(sum(map(int, words[1:9])), int(words[4]) + int(words[5])) for words in lines]


def _memory() -> dict[str, int]:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in file}
    except OSError:
        return {}


def _part(memory: dict[str, int], all_of_it: str, free: str) -> dict[str, float] | None:
    if all_of_it not in memory or free not in memory:
        return None
    total, left = memory[all_of_it], memory[free]
    used = total - left
    return {"total": total, "free": left, "used": used, "usedPercent": 100.0 * used / total if total else 0.0}
