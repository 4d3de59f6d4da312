"""The dial `device` in the words of all backends, and whether the machine has what they ask for.

Invariant: a device that is asked for by name is used, or refused with what to do instead; only `auto` chooses, and only
among what is there.
"""

from __future__ import annotations

import ctypes
import re
import sys
from typing import NamedTuple

from mlaas4hep.errors import nearest

WORDS = ("auto", "cpu", "gpu", "cuda", "mps")
_NUMBERED = re.compile(r"cuda:(\d{1,3})")


class Asked(NamedTuple):
    """A device in words: its kind, one of `WORDS`, and a number where one was given."""

    kind: str
    number: int | None = None


def asked(device: str) -> Asked:
    """The parts of a word without `device_problems`.

    Examples
    --------
    >>> asked("cuda:1")
    Asked(kind='cuda', number=1)
    >>> asked("auto")
    Asked(kind='auto', number=None)
    """
    found = _NUMBERED.fullmatch(device)
    return Asked("cuda", int(found[1])) if found else Asked(device)


def device_problems(device: str, *, only_cpu: str | None = None) -> list[str]:
    """A line where a word names no device, or one that a model can never use.

    Parameters
    ----------
    device
        As the dial has it.
    only_cpu
        Of a model that learns on the CPU alone: what to take instead, in words.
    """
    kind = asked(device).kind
    if kind not in WORDS:
        return [f"device: {device!r} is no device{nearest(device, (*WORDS, 'cuda:0'))}; for one of several, cuda:1"]
    if only_cpu is not None and kind not in ("auto", "cpu"):
        return [f"device: {device!r} cannot be used: this model learns on the CPU; {only_cpu}, or leave it"]
    return []


def cuda_devices() -> int:
    """How many of NVIDIA's GPUs this process may use, by the driver; 0 without a driver."""
    if sys.platform == "darwin":
        return 0
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    started = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if started else 0


def cuda_or_cpu(device: str, *, built: bool, install: str) -> tuple[str, str | None]:
    """Where a library that knows CPU and CUDA learns: ``cpu``, ``cuda`` or ``cuda:1``; or why it cannot.

    Parameters
    ----------
    device
        As the dial has it.
    built
        Whether the library was built with CUDA.
    install
        What to install where it was not.
    """
    kind, number = asked(device)
    if kind == "cpu":
        return "cpu", None
    count = cuda_devices()
    if kind == "auto":
        return ("cuda" if built and count else "cpu"), None
    if kind == "mps":
        return "cpu", "it knows no GPU of Apple's; give cpu or cuda"
    if not built:
        return "cpu", f"this build has no CUDA; {install}, or give device: cpu"
    if number is not None and number >= count > 0:
        return "cpu", f"there are {count} CUDA GPUs, from cuda:0 to cuda:{count - 1}"
    if not count:
        return "cpu", "no CUDA GPU is there; give device: cpu, or auto to take what there is"
    return "cuda" if number is None else f"cuda:{number}", None
