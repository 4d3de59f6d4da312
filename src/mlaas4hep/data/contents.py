"""A file known by its bytes, wherever it lies and whatever it is called.

SHA-256 of all of a small one, of its two ends and pieces between of a large one. A ROOT file has its UUID and the
places of everything in it at its ends, so one that was written anew shows; a bit that fell in the middle need not.
Invariant: equal bytes, equal identity, on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from mlaas4hep.data.places import open_place

WHOLE_BYTES = 4 << 20
_END_BYTES, _PIECE_BYTES, _PIECES = 64 << 10, 16 << 10, 14


def identity_of(path: str, replicas: Sequence[str] = ()) -> tuple[int, str]:
    """Size and identity of a file, by its bytes.

    Raises
    ------
    DataError
        It cannot be read.
    """
    place = open_place(path, replicas=replicas)
    try:
        size = place.size
        whole = size <= WHOLE_BYTES
        digest = hashlib.sha256(b"" if whole else str(size).encode())
        for piece in place.read([(0, size)] if whole else _pieces(size)):
            digest.update(piece)
        return size, f"{'sha256' if whole else 'sampled-sha256'}:{digest.hexdigest()}"
    finally:
        place.close()


def _pieces(size: int) -> list[tuple[int, int]]:
    """Both ends, and short pieces evenly between."""
    step = (size - 2 * _END_BYTES) // (_PIECES + 1)
    starts = [_END_BYTES + step * number for number in range(1, _PIECES + 1)]
    return [(0, _END_BYTES), *((one, one + _PIECE_BYTES) for one in starts), (size - _END_BYTES, size)]
