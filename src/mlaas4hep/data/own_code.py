"""What computes: part of the name of everything that is kept between runs.

Invariant: after any change of the modules that read, compute and count, or of numpy, the name is another one.
"""

from __future__ import annotations

import hashlib
import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

_PACKAGE = Path(__file__).parents[1]


@lru_cache(maxsize=1)
def own_code() -> str:
    """Version and text of the modules that read, compute and count: nobody has to remember to raise a number."""
    try:
        found = hashlib.sha256(version("mlaas4hep").encode())
    except PackageNotFoundError:
        found = hashlib.sha256()
    found.update(f"{np.__version__} {platform.machine()}".encode())
    for part in ("spec", "data"):
        for path in sorted((_PACKAGE / part).rglob("*.py")):
            found.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()
