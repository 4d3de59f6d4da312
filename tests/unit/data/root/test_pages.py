"""Pages of an RNTuple: every encoding of the specification, written here in plain Python, read by `pages`."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.data.root.blame import DamageError
from mlaas4hep.data.root.pages import INDEX, KINDS, Encoding, copy_elements, open_page

WHOLE = [number for number, kind in KINDS.items() if kind.bits[0] == kind.bits[1] and number != 0]


def encode(values: np.ndarray[Any, Any], encoding: Encoding) -> bytes:
    """Elements as the specification stores them, element by element."""
    kind, width = encoding.kind, encoding.bits // 8
    words = [int.from_bytes(one.tobytes(), "little") for one in values]
    if kind.delta:
        words = [(one - before) % (1 << encoding.bits) for before, one in zip([0, *words], words, strict=False)]
    if kind.zigzag:
        words = [
            (one << 1) if one < 1 << (encoding.bits - 1) else 2 * ((1 << encoding.bits) - one) - 1 for one in words
        ]
    rows = [one.to_bytes(width, "little") for one in words]
    return bytes(row[k] for k in range(width) for row in rows) if kind.split else b"".join(rows)


def pack(words: list[int], bits: int) -> bytes:
    """Words without gaps, lowest bits first."""
    whole = sum(word << (place * bits) for place, word in enumerate(words))
    return whole.to_bytes((len(words) * bits + 7) // 8, "little")


def decode(stored: bytes, encoding: Encoding, count: int, start: int, stop: int, dtype: str | None = None) -> Any:
    page = open_page(memoryview(stored), encoding, count, checksum=False)
    out = np.full(stop - start, 99).astype(dtype or (np.int64 if encoding.number in INDEX else encoding.kind.dtype))
    copy_elements(page, encoding, count, start, stop, out)
    return out


@st.composite
def slices(draw: st.DrawFn, count: int) -> tuple[int, int]:
    start = draw(st.integers(0, count))
    return start, draw(st.integers(start, count))


@pytest.mark.parametrize("number", WHOLE, ids=lambda number: KINDS[number].name)
@given(data=st.data())
def test_any_part_of_a_page_has_the_numbers_that_were_written(number: int, data: st.DataObject) -> None:
    encoding = Encoding(number, KINDS[number].bits[0])
    count = data.draw(st.integers(1, 40))
    raw = data.draw(st.binary(min_size=count * encoding.bits // 8, max_size=count * encoding.bits // 8))
    values = np.frombuffer(raw, KINDS[number].dtype)
    start, stop = data.draw(slices(count))
    found = decode(encode(values, encoding), encoding, count, start, stop)
    assert found.astype(values.dtype).tobytes() == values[start:stop].tobytes()


@given(st.lists(st.booleans(), min_size=1, max_size=70), st.data())
def test_bits_are_read_lowest_first(flags: list[bool], data: st.DataObject) -> None:
    start, stop = data.draw(slices(len(flags)))
    stored = pack([int(flag) for flag in flags], 1)
    assert decode(stored, Encoding(0, 1), len(flags), start, stop).tolist() == flags[start:stop]


@given(st.integers(10, 31), st.data())
def test_truncated_floats_get_zeros_for_what_was_cut(bits: int, data: st.DataObject) -> None:
    words = data.draw(st.lists(st.integers(0, (1 << bits) - 1), min_size=1, max_size=30))
    start, stop = data.draw(slices(len(words)))
    found = decode(pack(words, bits), Encoding(0x1C, bits), len(words), start, stop)
    assert found.view(np.uint32).tolist() == [word << (32 - bits) for word in words[start:stop]]


@given(st.integers(1, 32), st.data())
def test_quantized_floats_lie_in_their_range(bits: int, data: st.DataObject) -> None:
    words = data.draw(st.lists(st.integers(0, (1 << bits) - 1), min_size=1, max_size=30))
    encoding = Encoding(0x1D, bits, -2.0, 6.0)
    found = decode(pack(words, bits), encoding, len(words), 0, len(words))
    expected = [np.float32(-2.0 + word * 8.0 / ((1 << bits) - 1)) for word in words]
    assert found.tolist() == expected
    assert found.min() >= -2.0
    assert found.max() <= 6.0


def test_a_column_that_is_stored_wider_elsewhere_is_widened() -> None:
    values = np.array([1.5, -2.0, 3.25], np.float16)
    encoding = Encoding(0x17, 16)
    assert decode(encode(values, encoding), encoding, 3, 1, 3, "float32").tolist() == [-2.0, 3.25]


def with_checksum(stored: bytes) -> bytearray:
    return bytearray(stored + xxhash.xxh3_64_intdigest(stored).to_bytes(8, "little"))


def test_one_wrong_bit_breaks_the_checksum() -> None:
    stored = with_checksum(np.arange(10, dtype=np.int32).tobytes())
    assert len(open_page(memoryview(stored), Encoding(0x07, 32), 10, checksum=True)) == 40
    for place in range(len(stored)):
        bad = stored.copy()
        bad[place] ^= 4
        with pytest.raises(DamageError, match="checksum does not match"):
            open_page(memoryview(bad), Encoding(0x07, 32), 10, checksum=True)


def test_bytes_of_another_length_than_announced_are_refused() -> None:
    packed = zlib.compress(bytes(400))
    head = b"ZL\x08" + len(packed).to_bytes(3, "little") + (400).to_bytes(3, "little")
    stored = memoryview(head + packed)
    assert len(open_page(stored, Encoding(0x07, 32), 100, checksum=False)) == 400
    for count in (99, 101, 1 << 29):
        with pytest.raises(ValueError, match=r"400|announced"):
            open_page(stored, Encoding(0x07, 32), count, checksum=False)


@pytest.mark.parametrize(
    ("encoding", "says"),
    [
        (Encoding(0x10, 96), "0x10"),
        (Encoding(0x55, 8), "not known"),
        (Encoding(0x07, 31), "31 bits are announced for a Int32"),
        (Encoding(0x1C, 9), "9 bits"),
        (Encoding(0x1D, 8, 1.0, 1.0), "from 1.0 to 1.0"),
        (Encoding(0x1D, 8, 0.0, float("inf")), "to inf"),
    ],
)
def test_encodings_that_cannot_be_are_named(encoding: Encoding, says: str) -> None:
    assert says in (encoding.problem() or "")


def test_what_the_specification_lists_is_known() -> None:
    assert len(KINDS) == 29
    assert all(Encoding(number, kind.bits[0], 0.0, 1.0).problem() is None for number, kind in KINDS.items())
