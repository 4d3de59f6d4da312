"""Files mapped into memory without holding them open.

Python's own maps keep a handle each, and a thousand of them is more than many systems allow. Invariant: a map stands as
long as an array of it is there.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import DataError

_FAILED = ctypes.c_void_p(-1).value


def map_file(path: str, size: int) -> NDArray[np.uint8]:
    """The first bytes of a file, read-only: uint8 [size].

    Raises
    ------
    DataError
        It is not there, is shorter, or cannot be mapped.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(f"{path}: cannot be opened: {error.strerror}") from error
    try:
        held = os.fstat(file).st_size
        if held < size:
            raise DataError(f"{path}: holds {held} bytes, {size} are needed")
        return np.asarray(_Map(path, file, size))
    finally:
        os.close(file)


class _Map:
    """What numpy takes for the owner of the memory."""

    def __init__(self, path: str, file: int, size: int) -> None:
        self._size = size
        self._address = _libc().mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
        if self._address == _FAILED:
            self._address = None
            raise DataError(f"{path}: cannot be mapped: {os.strerror(ctypes.get_errno())}")
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (size,), "data": (self._address, True)}

    def __del__(self) -> None:
        if self._address is not None:
            _libc().munmap(self._address, self._size)


@lru_cache(maxsize=1)
def _libc() -> Any:
    found = ctypes.CDLL(None, use_errno=True)
    found.mmap.restype = ctypes.c_void_p
    found.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    found.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return found
