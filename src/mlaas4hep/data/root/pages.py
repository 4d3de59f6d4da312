"""Pages of an RNTuple: from stored bytes to numbers, after its binary format specification 1.0.

A page holds consecutive elements of one column, compressed, each column in one of some thirty encodings. Invariant: a
page that leaves this module has the bytes that its number of elements needs, and the checksum that stands behind it,
if one does.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from mlaas4hep.data.places import Buffer
from mlaas4hep.data.root.blame import DamageError
from mlaas4hep.data.root.codecs import inflate

CHECKSUM_BYTES = 8


class ColumnKind(NamedTuple):
    """One of the format's column types.

    Parameters
    ----------
    name
        As the specification spells it.
    dtype
        Type of a number in memory.
    bits
        Fewest and most bits of an element as stored.
    split, zigzag, delta
        How elements were rearranged before they were compressed.
    """

    name: str
    dtype: str
    bits: tuple[int, int]
    split: bool = False
    zigzag: bool = False
    delta: bool = False


def _plain(name: str, dtype: str) -> ColumnKind:
    bits = np.dtype(dtype).itemsize * 8
    return ColumnKind(name, dtype, (bits, bits))


def _split(name: str, dtype: str, *, zigzag: bool = False, delta: bool = False) -> ColumnKind:
    return _plain(f"Split{name}", dtype)._replace(split=True, zigzag=zigzag, delta=delta)


KINDS: dict[int, ColumnKind] = {
    0x00: ColumnKind("Bit", "bool", (1, 1)),
    0x01: _plain("Byte", "uint8"),
    0x02: _plain("Char", "uint8"),
    0x03: _plain("Int8", "int8"),
    0x04: _plain("UInt8", "uint8"),
    0x05: _plain("Int16", "int16"),
    0x06: _plain("UInt16", "uint16"),
    0x07: _plain("Int32", "int32"),
    0x08: _plain("UInt32", "uint32"),
    0x09: _plain("Int64", "int64"),
    0x0A: _plain("UInt64", "uint64"),
    0x0B: _plain("Real16", "float16"),
    0x0C: _plain("Real32", "float32"),
    0x0D: _plain("Real64", "float64"),
    0x0E: _plain("Index32", "uint32"),
    0x0F: _plain("Index64", "int64"),
    0x11: _split("Int16", "int16", zigzag=True),
    0x12: _split("UInt16", "uint16"),
    0x13: _split("Int32", "int32", zigzag=True),
    0x14: _split("UInt32", "uint32"),
    0x15: _split("Int64", "int64", zigzag=True),
    0x16: _split("UInt64", "uint64"),
    0x17: _split("Real16", "float16"),
    0x18: _split("Real32", "float32"),
    0x19: _split("Real64", "float64"),
    0x1A: _split("Index32", "uint32", delta=True),
    0x1B: _split("Index64", "int64", delta=True),
    0x1C: ColumnKind("Real32Trunc", "float32", (10, 31)),
    0x1D: ColumnKind("Real32Quant", "float32", (1, 32)),
}
"""By number. Not among them: Switch (0x10), which belongs to variants."""
INDEX = frozenset((0x0E, 0x0F, 0x1A, 0x1B))
"""Columns of list ends, counted from the beginning of the cluster."""
TEXT = 0x02
_TRUNCATED, _QUANTIZED = 0x1C, 0x1D


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the elements of a column are stored.

    Parameters
    ----------
    number
        Column type.
    bits
        Of one element as stored.
    low, high
        Range of the values of a Real32Quant; 0 for all others.
    """

    number: int
    bits: int
    low: float = 0.0
    high: float = 0.0

    @property
    def kind(self) -> ColumnKind:
        """What the format says of its column type."""
        return KINDS[self.number]

    def nbytes(self, elements: int) -> int:
        """Bytes of so many elements before compression."""
        return (elements * self.bits + 7) // 8

    def problem(self) -> str | None:
        """Why elements cannot be so stored; None where they can."""
        kind = KINDS.get(self.number)
        if kind is None:
            return f"its values are stored as the column type {self.number:#x}, which is not known here"
        if not kind.bits[0] <= self.bits <= kind.bits[1]:
            return f"damaged: {self.bits} bits are announced for a {kind.name}"
        if self.number == _QUANTIZED and not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            return f"damaged: a {kind.name} from {self.low} to {self.high}"
        return None


def open_page(stored: memoryview, encoding: Encoding, elements: int, *, checksum: bool) -> NDArray[Any]:
    """Verify and inflate a page.

    Parameters
    ----------
    stored
        Its bytes as they are in the file, followed by their checksum, if there is one.
    encoding, elements
        As the metadata announces them.
    checksum
        Whether there is one.

    Returns
    -------
    What `copy_elements` takes: int64 [elements] for delta encoding, whose elements can only be had together; the
    inflated bytes, uint8, for all others.

    Raises
    ------
    DamageError
        The checksum does not match, or the bytes are not those of so many elements.
    """
    if checksum:
        stored, announced = stored[:-CHECKSUM_BYTES], bytes(stored[-CHECKSUM_BYTES:])
        if xxhash.xxh3_64_intdigest(stored) != int.from_bytes(announced, "little"):
            raise DamageError("its checksum does not match")
    whole = _bytes(inflate(stored, encoding.nbytes(elements)))
    return _sums(whole, elements) if encoding.kind.delta else whole


def copy_elements(
    page: NDArray[Any], encoding: Encoding, elements: int, start: int, stop: int, out: NDArray[Any]
) -> None:
    """Put the elements from ``start`` to ``stop`` (excluded) of a page into ``out`` [stop - start].

    ``out`` may have a wider type than the column, where other clusters store it otherwise.
    """
    kind = encoding.kind
    if kind.delta:
        out[...] = page[start:stop]
    elif encoding.number in (_TRUNCATED, _QUANTIZED):
        out[...] = _packed_floats(page, encoding, start, stop)
    elif encoding.number == 0:
        out[...] = _unpacked_bits(page, start, stop)
    elif not kind.split:
        out[...] = page.view(kind.dtype)[start:stop]
    elif out.dtype == kind.dtype:
        _merge_planes(page, elements, start, stop, out)
        if kind.zigzag:
            _undo_zigzag(out)
    else:
        narrow = np.empty(stop - start, kind.dtype)
        copy_elements(page, encoding, elements, start, stop, narrow)
        out[...] = narrow


def _bytes(buffer: Buffer) -> NDArray[np.uint8]:
    return np.frombuffer(buffer, dtype=np.uint8)


def _merge_planes(page: NDArray[np.uint8], elements: int, start: int, stop: int, out: NDArray[Any]) -> None:
    """Undo the split encoding: all first bytes, then all second bytes, and so on."""
    rows = out.view(np.uint8).reshape(stop - start, out.itemsize)
    for plane in range(out.itemsize):
        rows[:, plane] = page[plane * elements + start : plane * elements + stop]


def _undo_zigzag(out: NDArray[Any]) -> None:
    """Even numbers are the positive ones, odd numbers the negative ones."""
    folded = out.view(f"u{out.itemsize}")
    sign = (folded & 1).view(out.dtype)
    np.negative(sign, out=sign)
    np.right_shift(folded, 1, out=folded)
    np.bitwise_xor(out, sign, out=out)


def _sums(page: NDArray[np.uint8], elements: int) -> NDArray[np.int64]:
    """Undo split and delta encoding together: sums modulo 2^64 byte plane by byte plane.

    Lists are short: of all planes but the first, mostly only the first element, which is no difference, is not zero.
    """
    width = len(page) // max(elements, 1)
    found = np.cumsum(page[:elements], dtype=np.uint64)
    for plane in range(1, width):
        part = page[plane * elements : (plane + 1) * elements]
        shift = np.uint64(8 * plane)
        if part[1:].view(np.bool_).any():
            found += np.cumsum(part, dtype=np.uint64) << shift
        elif part[0]:
            found += np.uint64(part[0]) << shift
    if width == 4:
        found &= np.uint64(0xFFFFFFFF)
    return found.view(np.int64)


def _unpacked_bits(page: NDArray[np.uint8], start: int, stop: int) -> NDArray[np.bool_]:
    first = start // 8
    bits = np.unpackbits(page[first : (stop + 7) // 8], bitorder="little")
    return bits[start - 8 * first : stop - 8 * first].view(np.bool_)


def _packed_floats(page: NDArray[np.uint8], encoding: Encoding, start: int, stop: int) -> NDArray[np.float32]:
    whole = _packed_words(page, encoding.bits, start, stop)
    if encoding.number == _TRUNCATED:
        return (whole << np.uint32(32 - encoding.bits)).view(np.float32)
    steps = whole * (encoding.high - encoding.low) / ((1 << encoding.bits) - 1)
    return (encoding.low + steps).astype(np.float32)


def _packed_words(page: NDArray[np.uint8], bits: int, start: int, stop: int) -> NDArray[np.uint32]:
    """Words of ``bits`` bits that follow each other without gaps, lowest bits first."""
    at = np.arange(start, stop, dtype=np.int64) * bits
    byte, shift = at >> 3, (at & 7).astype(np.uint64)
    padded = np.concatenate([page, np.zeros(5, dtype=np.uint8)])
    words = np.zeros(stop - start, dtype=np.uint64)
    for number in range(5):  # 32 bits that begin within a byte reach over five
        words |= padded[byte + number].astype(np.uint64) << np.uint64(8 * number)
    return ((words >> shift) & np.uint64((1 << bits) - 1)).astype(np.uint32)


if sys.byteorder != "little":  # pragma: no cover  # numbers are viewed as they are stored
    raise ImportError("RNTuples can be read on little-endian machines only")
