"""What packs the blocks of Avro files, and unpacking within bounds.

Invariant: no block becomes larger than `MAX_BLOCK_BYTES`, whatever it announces.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable

import cramjam
import numpy as np

from mlaas4hep.errors import DataError

MAX_BLOCK_BYTES = 256 << 20


class _TooLarge(Exception):
    pass


def inflate(data: memoryview, codec: str, where: str) -> bytes | memoryview:
    """A block as it was before it was packed.

    Raises
    ------
    DataError
        Damaged, or larger than `MAX_BLOCK_BYTES`.
    """
    try:
        return CODECS[codec](data)
    except _TooLarge as error:
        raise DataError(f"{where}: would take more than {MAX_BLOCK_BYTES >> 20} MiB when unpacked") from error
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, cramjam.DecompressionError) as error:
        raise DataError(f"{where}: is damaged: {codec} says: {error}") from error


def _null(data: memoryview) -> memoryview:
    return data


def _deflate(data: memoryview) -> bytes:
    return _complete(zlib.decompressobj(wbits=-15), data)


def _bzip2(data: memoryview) -> bytes:
    return _complete(bz2.BZ2Decompressor(), data)


def _xz(data: memoryview) -> bytes:
    return _complete(lzma.LZMADecompressor(memlimit=MAX_BLOCK_BYTES), data)


def _complete(decoder: zlib._Decompress | bz2.BZ2Decompressor | lzma.LZMADecompressor, data: memoryview) -> bytes:
    found = decoder.decompress(bytes(data), MAX_BLOCK_BYTES + 1)
    if len(found) > MAX_BLOCK_BYTES:
        raise _TooLarge
    if not decoder.eof:
        raise ValueError("the stream ends before it is complete")
    return found


def _snappy(data: memoryview) -> bytes:
    packed = bytes(data[:-4])
    if len(data) < 5:
        raise ValueError("the stream ends before it is complete")
    if cramjam.snappy.decompress_raw_len(packed) > MAX_BLOCK_BYTES:
        raise _TooLarge
    found = bytes(cramjam.snappy.decompress_raw(packed))
    if zlib.crc32(found) != int.from_bytes(data[-4:], "big"):
        raise ValueError("the checksum differs")
    return found


def _zstandard(data: memoryview) -> bytes:
    room = np.empty(MAX_BLOCK_BYTES, dtype=np.uint8)  # pages that stay empty cost nothing
    return room[: cramjam.zstd.decompress_into(bytes(data), room.data)].tobytes()


CODECS: dict[str, Callable[[memoryview], bytes | memoryview]] = {
    "null": _null,
    "deflate": _deflate,
    "snappy": _snappy,
    "zstandard": _zstandard,
    "bzip2": _bzip2,
    "xz": _xz,
}
