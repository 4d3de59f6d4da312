"""Processor time and memory of a server with all its processes, read from ``/proc``: Linux only.

Invariant: who was started by the server counts, also where it left the server's tree but not its session.
"""

from __future__ import annotations

import os
from pathlib import Path


def tree(root: int) -> list[int]:
    """A process, all below it, and all of its session, which it must lead."""
    parents: dict[int, tuple[int, int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = (int(fields[1]), int(fields[3]))
    found = {root} & parents.keys()
    while more := {pid for pid, (above, session) in parents.items() if above in found or session == root} - found:
        found |= more
    return sorted(found)


def cpu_s(root: int) -> float:
    """Seconds of processor time so far, of the user and of the system, with those of children that have ended."""
    every = [fields for pid in tree(root) if (fields := _stat(pid))]
    return sum(int(one) for fields in every for one in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def pss_mb(root: int) -> float:
    """Memory in MB (10^6 bytes), pages that several share counted in part."""
    return sum(_pss_kb(pid) for pid in tree(root)) * 1024 / 1e6


def _stat(pid: int) -> list[str]:
    """Fields from the third on; none where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _pss_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
