"""Compressed frames: every codec gives back what was compressed; damage and lies end in one error."""

from __future__ import annotations

import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st
from uproot.compression import compress

from mlaas4hep.data.root import codecs
from mlaas4hep.data.root.codecs import FrameError, inflate

CODECS: dict[str, Any] = {
    "zlib": uproot.ZLIB(1),
    "lz4": uproot.LZ4(4),
    "zstd": uproot.ZSTD(5),
    "lzma": uproot.LZMA(1),
}
CHECKED = ("zlib", "lz4", "lzma")


def values(length: int, seed: int = 0) -> bytes:
    """Twice the same rounded floats, which get smaller in every codec."""
    numbers = np.random.default_rng(seed).normal(50, 20, length // 8).astype(">f4").view(np.uint32)
    return (numbers & np.uint32(0x00F8FFFF)).tobytes() * 2


def frame(magic: bytes, packed: bytes, size: int) -> bytes:
    return magic + b"\x08" + len(packed).to_bytes(3, "little") + size.to_bytes(3, "little") + packed


@pytest.mark.parametrize("codec", CODECS)
@given(data=st.binary(min_size=1, max_size=50).map(lambda part: part * 20))
@settings(max_examples=20)
def test_every_codec_gives_back_what_was_compressed(codec: str, data: bytes) -> None:
    assert bytes(inflate(compress(data, CODECS[codec]), len(data))) == data


def test_the_deflate_of_old_files_is_read() -> None:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(values(1000)) + packer.flush()
    assert bytes(inflate(frame(b"CS", packed, 1000), 1000)) == values(1000)


@pytest.mark.parametrize("codec", ["zlib", "lz4", "zstd"])
def test_an_object_of_several_frames_is_joined(codec: str) -> None:
    data = values(1000) * 34_000  # two whole frames of 16 MiB and a part
    packed = compress(data, CODECS[codec])
    assert inflate(packed, len(data)) == data
    with pytest.raises(FrameError, match="announced, but the compressed frames come to"):
        inflate(packed, len(data) + 1)


def test_what_is_not_compressed_is_given_back_without_a_copy() -> None:
    data = memoryview(b"plain bytes")
    assert inflate(data, len(data)) is data


def test_without_isal_the_standard_library_inflates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "_decompressor", zlib.decompressobj)
    packed = compress(values(1000), CODECS["zlib"])
    assert bytes(inflate(packed, 1000)) == values(1000)
    with pytest.raises(FrameError, match="zlib frame is damaged"):
        inflate(packed[:-1] + bytes([packed[-1] ^ 1]), 1000)


@pytest.mark.parametrize("codec", CHECKED)
def test_any_flipped_bit_of_a_checked_codec_is_seen_or_harmless(codec: str) -> None:
    data = values(400)
    packed = bytearray(compress(data, CODECS[codec]))
    seen = 0
    for place in range(len(packed)):
        packed[place] ^= 4
        try:
            assert bytes(inflate(bytes(packed), len(data))) == data
        except FrameError:
            seen += 1
        packed[place] ^= 4
    assert seen > 0.9 * len(packed)


def test_a_damaged_frame_without_checksum_never_has_another_length() -> None:
    data = values(400)
    packed = bytearray(compress(data, CODECS["zstd"]))
    refused: list[str] = []
    for place in range(9, len(packed)):
        packed[place] ^= 4
        try:
            assert len(inflate(bytes(packed), len(data))) == len(data)
        except FrameError as error:
            refused.append(str(error))
        packed[place] ^= 4
    assert refused
    assert all("Zstandard" in reason for reason in refused)


@pytest.mark.parametrize("codec", CODECS)
def test_a_frame_that_is_cut_anywhere_is_refused(codec: str) -> None:
    packed = compress(values(400), CODECS[codec])
    for stop in range(len(packed)):
        with pytest.raises(FrameError):
            inflate(packed[:stop], 400)


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(FrameError, match="nothing is known of the compression b'QQ'; known: ZL, L4, ZS, XZ, CS"):
        inflate(frame(b"QQ", b"abc", 10), 10)


@pytest.mark.parametrize("size", [-1, codecs.MAX_BYTES + 1])
def test_a_length_that_no_object_has_is_refused(size: int) -> None:
    with pytest.raises(FrameError, match="an object has at most"):
        inflate(compress(values(400), CODECS["zlib"]), size)


@pytest.mark.parametrize("magic", [b"ZL", b"L4", b"CS"])
def test_a_ratio_that_no_codec_reaches_is_refused_before_anything_is_inflated(magic: bytes) -> None:
    with pytest.raises(FrameError, match="cannot become 16000000: damaged, or made to harm"):
        inflate(frame(magic, values(40), 16_000_000), 16_000_000)


@pytest.mark.parametrize("magic", [b"ZL", b"CS", b"XZ", b"ZS"])
def test_a_bomb_that_announces_little_takes_little(magic: bytes) -> None:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = {
        b"ZL": zlib.compress(bytes(50_000_000)),
        b"CS": packer.compress(bytes(50_000_000)) + packer.flush(),
        b"XZ": compress(bytes(16_000_000), CODECS["lzma"])[9:],
        b"ZS": compress(bytes(16_000_000), CODECS["zstd"])[9:],
    }[magic]
    tracemalloc.start()
    with pytest.raises(FrameError):
        inflate(frame(magic, packed, 1000), 1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000
