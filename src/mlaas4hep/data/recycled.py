"""Memory for bytes on their way from a file into rows, and for the rows of windows, used again and again.

Fresh memory costs as much as what is put there: the system clears each page before it gives it out, and takes it back
when it is freed. Invariant: memory is given out again only after everything that was made of it is gone.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

_SLAB_BYTES = 8 * 2**20
_LARGEST = _SLAB_BYTES // 2
_LINE = 64
_MOST_KEPT = 128 * 2**20
"""Bytes kept for later; what is needed beyond that goes back to the system."""


def recycled(size: int) -> memoryview:
    """Bytes to be written to: of some memory used before, or new where none is free.

    What is made of them (slices, arrays that share them) keeps them. To be held for long is what `numpy.empty` is for:
    a small piece keeps 8 MB.
    """
    if size > _LARGEST:
        return _store.piece(size)
    taker = _thread.taker
    if not taker.current.has_room(size):
        _store.give_slab(taker)
    return taker.current.take(size)


def forget() -> None:
    """Give memory that nobody uses back to the system."""
    _store.forget()


class _Block:
    """A block of memory that is given out piece by piece."""

    def __init__(self, size: int) -> None:
        self.memory = _from_system(size)
        self.owner: weakref.ref[_Taker] | None = None
        """Who takes pieces of it: one thread, until that ends or turns to another block."""
        self._taken = 0
        self._used: list[weakref.ref[NDArray[np.uint8]]] = []

    def is_free(self) -> bool:
        """Whether no thread takes pieces of it and nothing that was given out is left."""
        owner = None if self.owner is None else self.owner()
        return (owner is None or owner.current is not self) and all(one() is None for one in self._used)

    def clear(self) -> None:
        """Begin again."""
        self._taken = 0
        self._used.clear()

    def has_room(self, size: int) -> bool:
        """Whether a piece of that size is left."""
        return self._taken + size <= len(self.memory)

    def take(self, size: int) -> memoryview:
        """A piece that begins on a cache line of its own."""
        piece = self.memory[self._taken : self._taken + size]
        self._taken += -(-size // _LINE) * _LINE
        # Slices of a memoryview and arrays made of it hold the array it was made of: this one.
        self._used.append(weakref.ref(piece))
        return piece.data


def _from_system(size: int) -> NDArray[np.uint8]:
    """Memory that goes back to the system as soon as it is free.

    The C library's goes back only in part: what was once freed in one piece of so many MB it keeps for later, and much
    more than is used then belongs to nobody.
    """
    if not size:
        return np.empty(0, np.uint8)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages has small ones
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)


class _Taker:
    """A thread, and the block that it takes small pieces of."""

    def __init__(self) -> None:
        self.current = _Block(0)


class _Store:
    """Blocks of all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: list[_Block] = []

    def piece(self, size: int) -> memoryview:
        """A block as a whole."""
        rounded = -(-size // _LARGEST) * _LARGEST  # pieces of nearly one size are to find each other's blocks
        with self._lock:
            return self._free(rounded, rounded + _LARGEST).take(size)

    def give_slab(self, taker: _Taker) -> None:
        """A block for the small pieces of a thread."""
        with self._lock:
            taker.current = self._free(_SLAB_BYTES, _SLAB_BYTES)
            taker.current.owner = weakref.ref(taker)

    def forget(self) -> None:
        with self._lock:
            self._drop_free()

    def _free(self, least: int, most: int) -> _Block:
        for one in self._blocks:
            if least <= len(one.memory) <= most and one.is_free():
                one.clear()
                return one
        found = _Block(least)
        if self._held() + least > _MOST_KEPT:
            self._drop_free()
        if self._held() + least <= _MOST_KEPT:
            self._blocks.append(found)
        return found

    def _drop_free(self) -> None:
        self._blocks = [one for one in self._blocks if not one.is_free()]

    def _held(self) -> int:
        return sum(len(one.memory) for one in self._blocks)


class _Thread(threading.local):
    """What each thread has of its own."""

    def __init__(self) -> None:
        self.taker = _Taker()


_store = _Store()
_thread = _Thread()


def _begin_again() -> None:
    """In a forked process: the lock may have been held, and nobody is left to open it."""
    global _store, _thread
    _store, _thread = _Store(), _Thread()


os.register_at_fork(after_in_child=_begin_again)
