"""Pieces of HTTP/2: frames, header fields, and the state of one stream.

Invariant: nothing here refers to a field that the other side would have to remember, so that what is written may be
written in any order.
"""

from __future__ import annotations

import struct
from typing import Any

from hpack import Decoder
from hpack.exceptions import HPACKError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITISED = 0x1, 0x1, 0x4, 0x8, 0x20

# Error codes of RFC 9113, 7.
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED = 0, 1, 3, 5
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 6, 7, 8, 9, 11

frame_head = struct.Struct(">BHBBI")
uint32 = struct.Struct(">I")

# Of the heads of one connection: how many are kept, and how large, packed and unpacked.
_MAX_CACHED, _MAX_CACHED_BYTES, _MAX_CACHED_FIELDS = 64, 512, 32

Head = dict[bytes, bytes]


class BrokenError(Exception):
    """The other side breaks a rule; the connection ends with the code."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        super().__init__(text)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Bytes of a frame."""
    size = len(payload)
    return frame_head.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def field(name: bytes, value: bytes) -> bytes:
    """A header field that leaves the other side's table of header compression as it is."""
    return b"\x00" + _text(name) + _text(value)


def _text(text: bytes) -> bytes:
    size = len(text)
    if size < 0x7F:
        return bytes((size,)) + text
    size -= 0x7F
    head = bytearray((0x7F,))
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + text


class Stream:
    """One request and its answer.

    Parameters
    ----------
    number
        On the wire.
    head
        Header fields and pseudo fields by name; of several with one name the last.
    window
        Bytes that may be sent.
    body
        What came; a `bytearray` of several pieces, so that tiny ones take no more room than their bytes.
    """

    __slots__ = ("began_s", "body", "ended", "handle", "head", "number", "sent", "size", "taken", "waiting", "window")

    def __init__(self, number: int, head: Head, window: int, began_s: float) -> None:
        self.number = number
        self.head = head
        self.window = window
        self.began_s = began_s
        self.body: bytes | bytearray = b""
        self.size = self.taken = 0
        self.ended = False  # the request is whole
        self.sent = False  # all of the answer was handed over
        self.waiting: tuple[bytes, bytes] | None = None  # body and trailers that did not fit the window
        self.handle: Any = None


class Heads:
    """Reads the heads of one connection.

    Parameters
    ----------
    most
        Bytes of a head, unpacked.
    """

    def __init__(self, most: int) -> None:
        self._decoder = Decoder(max_header_list_size=most)
        self._found: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head:
        """Fields of a head; of each, in the order in which they came."""
        found = self._found.get(block)
        if found is not None:
            return found
        entries = self._decoder.header_table.dynamic_entries
        first, count = entries[0] if entries else None, len(entries)
        try:
            fields = self._decoder.decode(block, raw=True)
        except (HPACKError, IndexError, ValueError) as error:
            raise BrokenError(COMPRESSION_ERROR, f"a head cannot be read: {type(error).__name__}") from error
        found = {bytes(name): bytes(value) for name, value in fields}
        # A new entry of the table stands first in it, and one that is too large for it leaves it empty.
        if len(entries) != count or (entries[0] if entries else None) is not first or len(self._found) >= _MAX_CACHED:
            self._found.clear()
        elif len(block) <= _MAX_CACHED_BYTES and len(found) <= _MAX_CACHED_FIELDS:
            self._found[block] = found
        return found


def unpadded(payload: bytes) -> bytes:
    """The content of a padded frame."""
    if not payload or payload[0] >= len(payload):
        raise BrokenError(PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]
