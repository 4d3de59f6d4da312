"""A place as a Python file object, for libraries that want one.

Invariant: reads give the same bytes as the place; errors of the place pass through unchanged.
"""

from __future__ import annotations

import io
from typing import Any

from mlaas4hep.data.places import Place

BLOCK_BYTES = 128 * 1024


class PlaceFile(io.RawIOBase):
    """Read-only and seekable; not to be shared by threads.

    Parameters
    ----------
    place
        Stays open when the file is closed.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place
        self._at = 0

    @property
    def name(self) -> str:
        """Address of the place, as libraries name it in their messages."""
        return self._place.url

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte, counted from the beginning, from here, or from the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._place.size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as the place goes."""
        view = memoryview(buffer).cast("B")
        stop = min(self._at + len(view), self._place.size)
        if stop <= self._at:
            return 0
        [data] = self._place.read([(self._at, stop)])
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def buffered(place: Place, *, block_bytes: int | None = None) -> io.BufferedReader:
    """A file object that reads whole blocks ahead: many small reads cost one request.

    Parameters
    ----------
    place
        Read from.
    block_bytes
        How much is read at a time. By default what the place names as its ``block_bytes`` (far places: more), or
        `BLOCK_BYTES`.
    """
    return io.BufferedReader(PlaceFile(place), block_bytes or int(getattr(place, "block_bytes", BLOCK_BYTES)))
