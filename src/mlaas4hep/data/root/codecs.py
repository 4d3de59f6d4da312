"""ROOT's compressed frames to bytes: zlib, LZ4, Zstandard, LZMA, and the deflate of before 2003.

An object in a file is one frame or several (16 MB at most each), and says how long it is inflated. Invariant: nothing
is allocated before the lengths of all frames fit what is there and what was announced; what comes back has exactly the
length announced, and the checksum of its codec was verified (Zstandard and what is stored as it is carry none).
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import cramjam
import numpy as np
import xxhash

from mlaas4hep.data.places import Buffer
from mlaas4hep.data.root.blame import DamageError

_ERRORS: tuple[type[Exception], ...] = (zlib.error, lzma.LZMAError, cramjam.DecompressionError)
_decompressor: Callable[[], Any]
try:
    from isal import isal_zlib  # inflates twice as fast
except ImportError:
    _decompressor = zlib.decompressobj
else:
    _decompressor = isal_zlib.decompressobj
    _ERRORS = (*_ERRORS, isal_zlib.error)  # type: ignore[arg-type]  # typed as an instance

MAX_BYTES = 1 << 30
"""No object that ROOT writes is larger."""
_HEADER = 9
_MOST_IN_FRAME = 0xFFFFFF
_LZ4_CHECKSUM = 8
_LZMA_MEMORY = 256 << 20


class FrameError(DamageError):
    """Compressed bytes that are damaged, lie about their length, or are of a codec that is not known."""


Room = Callable[[int], memoryview]
"""Gives memory to be written to, by its bytes."""


def fresh(size: int) -> memoryview:
    """New memory."""
    return np.empty(size, np.uint8).data


def inflate(frame: Buffer, size: int, *, room: Room = fresh) -> Buffer:
    """Bytes of an object as they were before compression.

    Parameters
    ----------
    frame
        As stored, with all frame headers. What has ``size`` bytes is not compressed (so says the format) and is given
        back as it is.
    size
        Bytes that the object announces.
    room
        Where the bytes may go; not every codec can be told.

    Returns
    -------
    ``size`` bytes; shares memory with ``frame`` where that is not compressed.

    Raises
    ------
    FrameError
        A frame is damaged, does not fit, is of an unknown codec, or the lengths do not add up to ``size``.
    """
    stored = memoryview(frame)
    if len(stored) == size:
        return frame
    if not 0 <= size <= MAX_BYTES:
        raise FrameError(f"{size} bytes are announced; an object has at most {MAX_BYTES}")
    if size <= _MOST_IN_FRAME:
        one, _ = _frame(stored, 0)
        if one.size == size:
            return _inflated(one, room)
    frames = _frames(stored, size)
    whole = bytearray(size)
    ends = accumulate((one.size for one in frames), initial=0)
    for one, (start, stop) in zip(frames, pairwise(ends), strict=True):
        whole[start:stop] = _inflated(one, room)
    return whole


class _Frame(NamedTuple):
    codec: _Codec
    data: memoryview
    size: int


class _Codec(NamedTuple):
    name: str
    inflate: Callable[[memoryview, int, Room], Buffer]
    most: int
    """Bytes that one compressed byte can become at most; 0 where there is no such limit."""


def _frames(stored: memoryview, size: int) -> list[_Frame]:
    """Frames of an object, with all that their headers say checked against each other."""
    frames, at, total = [], 0, 0
    while at < len(stored) and total < size:
        one, at = _frame(stored, at)
        total += one.size
        frames.append(one)
    if total != size:
        raise FrameError(f"{size} bytes are announced, but the compressed frames come to {total}")
    return frames


def _frame(stored: memoryview, at: int) -> tuple[_Frame, int]:
    head = bytes(stored[at : at + _HEADER])
    if len(head) < _HEADER:
        raise FrameError(f"the header of a compressed frame is cut off after {len(head)} bytes")
    codec = _CODECS.get(head[:2])
    if codec is None:
        raise FrameError(f"nothing is known of the compression {head[:2]!r}; known: ZL, L4, ZS, XZ, CS")
    length, size = int.from_bytes(head[3:6], "little"), int.from_bytes(head[6:9], "little")
    begin, end = at + _HEADER, at + _HEADER + length
    if end > len(stored):
        raise FrameError(f"a {codec.name} frame has {length} bytes, but {len(stored) - begin} are there")
    if codec.most and size > codec.most * length:
        raise FrameError(f"a {codec.name} frame of {length} bytes cannot become {size}: damaged, or made to harm")
    return _Frame(codec, stored[begin:end], size), end


def _inflated(frame: _Frame, room: Room) -> Buffer:
    """One frame, with whatever its library raises on damaged bytes as one error."""
    codec, data, size = frame
    try:
        found = codec.inflate(data, size, room)
    except _ERRORS as error:
        raise FrameError(f"a {codec.name} frame is damaged: {error}") from error
    if len(found) != size:
        raise FrameError(f"a {codec.name} frame announces {size} bytes, but has {len(found)}")
    return found


def _inflate_zlib(data: memoryview, size: int, _: Room) -> Buffer:
    """Never allocates more than one byte above ``size``, and reads on to the checksum behind the last byte."""
    return _finished(_decompressor(), data, size)


def _inflate_deflate(data: memoryview, size: int, _: Room) -> Buffer:
    return _finished(zlib.decompressobj(-zlib.MAX_WBITS), data, size)


def _inflate_lzma(data: memoryview, size: int, _: Room) -> Buffer:
    return _finished(lzma.LZMADecompressor(memlimit=_LZMA_MEMORY), data, size)


def _finished(decoder: Any, data: memoryview, size: int) -> bytes:
    found: bytes = decoder.decompress(data, size + 1)
    if not decoder.eof:
        raise FrameError(f"a compressed frame does not end where it should: {len(found)} bytes read, {size} announced")
    return found


def _inflate_lz4(data: memoryview, size: int, room: Room) -> Buffer:
    announced, block = bytes(data[:_LZ4_CHECKSUM]), data[_LZ4_CHECKSUM:]
    if xxhash.xxh64_digest(block) != announced:
        raise FrameError("an LZ4 frame is damaged: its checksum does not match")
    whole = room(size)
    return whole[: cramjam.lz4.decompress_block_into(block, whole, output_len=size)]


def _inflate_zstd(data: memoryview, size: int, room: Room) -> Buffer:
    whole = room(size)
    return whole[: cramjam.zstd.decompress_into(data, whole)]


_CODECS = {
    b"ZL": _Codec("zlib", _inflate_zlib, 1100),
    b"L4": _Codec("LZ4", _inflate_lz4, 255),
    b"ZS": _Codec("Zstandard", _inflate_zstd, 0),
    b"XZ": _Codec("LZMA", _inflate_lzma, 0),
    b"CS": _Codec("deflate", _inflate_deflate, 1100),
}
