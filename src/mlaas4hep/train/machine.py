"""The machine that a model was made on, as far as it can change bits or speed.

Invariant: no name of a host, a user or a folder is in it, so that it may stand in bundles and tables that travel.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

_GPUS = Path("/proc/driver/nvidia/gpus")
_ANSWER_S = 10.0


def machine() -> dict[str, Any]:
    """Processor, cores that may be used, memory in bytes, system and GPUs; what is not known is left out."""
    memory = _memory_bytes()
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": usable_cores(),
        **({} if memory is None else {"memory_bytes": memory}),
        "system": f"{platform.system()} {platform.release()}",
        "gpus": gpus(),
    }


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """NVIDIA's GPUs by model, as the driver tells them; empty where there is none."""
    told = [_model_of(one) for one in sorted(_GPUS.glob("*/information"))]
    return [one for one in told if one] or _gpus_asked()


def _model_of(information: Path) -> str:
    try:
        found = re.search(r"^Model:\s*(.+)$", information.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return ""  # a container may hide it; then the driver's own program is asked
    return found[1].strip() if found else ""


def _gpus_asked() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []  # a program that is there and cannot be run says nothing of a GPU
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or "unknown"
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or "unknown"


def _memory_bytes() -> int | None:
    names = os.sysconf_names if hasattr(os, "sysconf_names") else {}
    if not {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(names):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
