"""Checksums of what lies on a local disk, read back a piece at a time.

By ordinary reads, not through a map: where a disk fails or another process cuts a file off, that raises here, and a map
would end the process. Invariant: bytes that come one after the other have the checksum of their whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

# Still in the processor's own memory when it is counted.
_PIECE_BYTES = 2**18


class Checksum:
    """XXH3 (64 bits) of bytes that come one after the other; as text, 16 digits."""

    def __init__(self) -> None:
        self._state = xxhash.xxh3_64()

    def __str__(self) -> str:
        return self._state.hexdigest()

    def add(self, array: NDArray[Any]) -> None:
        """The bytes of an array."""
        self._state.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)

    def add_read(self, read: Callable[[int, int], bytes], offset: int, size: int) -> None:
        """So many bytes from an offset on, given what reads them."""
        for at in range(offset, offset + size, _PIECE_BYTES):
            self._state.update(read(at, min(_PIECE_BYTES, offset + size - at)))
