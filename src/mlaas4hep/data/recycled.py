"""Memory for bytes on their way from a file into rows, used again by the thread that asked for it.

Fresh memory costs as much as what is put there: the system clears each page before it gives it out, and takes it back
when it is freed. Invariant: memory is given out again only after everything that was made of it is gone.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_SLAB_BYTES = 8 * 2**20
_LARGEST = _SLAB_BYTES // 2
_MOST_SLABS = 16
"""Kept by a thread; what it needs beyond that is given back to the system."""
_LINE = 64


def recycled(size: int) -> memoryview:
    """Bytes to be written to: of some memory used before, or new where none is free.

    What is made of them (slices, arrays that share them) keeps them. To be held for long is what `numpy.empty` is for:
    one small part keeps 8 MB.
    """
    if size > _LARGEST:
        return np.empty(size, np.uint8).data
    return _shelf.take(size)


class _Slab:
    """A block of memory that is given out piece by piece."""

    def __init__(self) -> None:
        self._memory = np.empty(_SLAB_BYTES, np.uint8)
        self._taken = 0
        self._used: list[weakref.ref[NDArray[np.uint8]]] = []

    def is_free(self) -> bool:
        """Whether nothing that was given out is left."""
        return all(one() is None for one in self._used)

    def clear(self) -> None:
        """Begin again."""
        self._taken = 0
        self._used.clear()

    def take(self, size: int) -> memoryview | None:
        """A piece, None where there is not enough left."""
        if self._taken + size > _SLAB_BYTES:
            return None
        piece = self._memory[self._taken : self._taken + size]
        self._taken += -(-size // _LINE) * _LINE
        # Slices of a memoryview and arrays made of it hold the array it was made of: this one.
        self._used.append(weakref.ref(piece))
        return piece.data


class _Shelf(threading.local):
    """Slabs of a thread."""

    def __init__(self) -> None:
        self._slabs: list[_Slab] = []
        self._current = _Slab()

    def take(self, size: int) -> memoryview:
        found = self._current.take(size)
        while found is None:
            self._current = next(self._free(), None) or _Slab()
            self._current.clear()
            if self._current not in self._slabs and len(self._slabs) < _MOST_SLABS:
                self._slabs.append(self._current)
            found = self._current.take(size)
        return found

    def _free(self) -> Iterator[_Slab]:
        return (one for one in self._slabs if one.is_free())


_shelf = _Shelf()
