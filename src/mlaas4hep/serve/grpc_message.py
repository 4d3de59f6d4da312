"""The frame of a message of gRPC: one byte that says whether it is compressed, four of its length.

Invariant: a message never unpacks to more than its limit.
"""

from __future__ import annotations

import zlib

from mlaas4hep.errors import RequestError
from mlaas4hep.serve.asking import Refusal

# Bits of zlib's window for what is read.
_WINDOW_BITS = {b"gzip": 31, b"deflate": 15}
ENCODINGS = (b"identity", *_WINDOW_BITS)
_HEAD = 5
# How much of a message is unpacked to find its first field.
_START = 4096

Body = bytes | bytearray


def framed(data: bytes) -> bytes:
    """A message as it is sent."""
    return b"\x00" + len(data).to_bytes(4, "big") + data


def is_compressed(body: Body) -> bool:
    """By its first byte."""
    return body[:1] == b"\x01"


def unframed(body: Body, encoding: bytes | None, limit: int) -> bytes:
    """The one message of a request.

    Raises
    ------
    RequestError
        The body is no message, or not one.
    Refusal
        It is larger than ``limit``.
    """
    packed = _content(body)
    if not is_compressed(body):
        if len(packed) > limit:
            raise _too_large(limit)
        return bytes(packed)
    data, is_whole = _unpacked(packed, encoding, limit + 1)
    if len(data) > limit:
        raise _too_large(limit)
    if not is_whole:
        raise RequestError("the compressed message is not whole")
    return data


def first_text(body: Body, encoding: bytes | None) -> str:
    """The text in field 1 of a message, if that comes first, as it does where fields are written in order; else empty.

    So that it is known whom a long message asks before it is read. Whoever reads it then has to compare.

    Raises
    ------
    RequestError
        It is no message, or the text is very long.
    """
    content = _content(body)
    data = _unpacked(content, encoding, _START)[0] if is_compressed(body) else bytes(content[:_START])
    if data[:1] != b"\x0a":
        return ""
    size, at = 0, 1
    for at in range(1, 4):
        size |= (data[at] & 0x7F if at < len(data) else 0) << 7 * (at - 1)
        if at >= len(data) or not data[at] & 0x80:
            break
    if at + 1 + size > len(data):
        raise RequestError("the first field of the message is not whole, or longer than a name may be")
    try:
        return data[at + 1 : at + 1 + size].decode()
    except UnicodeDecodeError as error:
        raise RequestError("the name in the message is not UTF-8") from error


def _content(body: Body) -> memoryview:
    if len(body) < _HEAD or body[0] > 1 or int.from_bytes(body[1:_HEAD], "big") != len(body) - _HEAD:
        raise RequestError(f"the body of {len(body)} bytes is not one message of gRPC")
    return memoryview(body)[_HEAD:]


def _unpacked(packed: memoryview, encoding: bytes | None, most: int) -> tuple[bytes, bool]:
    """So much of a compressed message, and whether that is all of it."""
    if encoding not in _WINDOW_BITS:
        raise RequestError("the message is compressed, but grpc-encoding does not say how")
    reader = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        data = reader.decompress(packed, most)
    except zlib.error as error:
        raise RequestError(f"the message is not what grpc-encoding says: {error}") from error
    return data, reader.eof


def _too_large(limit: int) -> Refusal:
    return Refusal(413, f"the message is larger than the {limit} bytes that are taken here")
