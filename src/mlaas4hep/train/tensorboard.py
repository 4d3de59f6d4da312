"""Event files of TensorBoard, written without TensorFlow: records of protocol buffers with masked CRC-32C sums.

Figures come as scalars by epoch, the config as text. Invariant: each record is whole on disk before the next begins, so
that TensorBoard can watch a training that goes on and read one that was killed.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

ENDING = ".mlaas4hep"
_STRING = 7  # DT_STRING of TensorFlow's types
_BYTES, _DOUBLE, _FLOAT, _WHOLE = 2, 1, 5, 0  # kinds on the wire of a protocol buffer


class EventFile:
    """One event file, for one process.

    Parameters
    ----------
    folder
        Made where it is not there; TensorBoard joins the files in it to one run.

    Raises
    ------
    OSError
        It cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        self.path = folder / f"events.out.tfevents.{int(now)}.{os.getpid()}.{time.monotonic_ns()}{ENDING}"
        self._file: BinaryIO = self.path.open("wb")
        self._write(_real(1, now) + _field(3, b"brain.Event:2"))

    def scalars(self, values: Mapping[str, float], *, step: int, at: float | None = None) -> None:
        """Figures by name at a step; ``at`` seconds since 1970, by default now."""
        summary = b"".join(
            _field(1, _field(1, name.encode()) + _tag(2, _FLOAT) + struct.pack("<f", value))
            for name, value in values.items()
        )
        self._event(summary, step, at)

    def text(self, name: str, words: str) -> None:
        """A text, shown as Markdown."""
        shape = _field(2, _field(2, _tag(1, _WHOLE) + _varint(1)))
        tensor = _tag(1, _WHOLE) + _varint(_STRING) + shape + _field(8, words.encode())
        metadata = _field(1, _field(1, b"text"))
        self._event(_field(1, _field(1, name.encode()) + _field(8, tensor) + _field(9, metadata)), 0, None)

    def close(self) -> None:
        """No more records."""
        self._file.close()

    def _event(self, summary: bytes, step: int, at: float | None) -> None:
        self._write(_real(1, time.time() if at is None else at) + _tag(2, _WHOLE) + _varint(step) + _field(5, summary))

    def _write(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked(length) + event + _masked(event))
        self._file.flush()


def _tag(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _field(number: int, content: bytes) -> bytes:
    return _tag(number, _BYTES) + _varint(len(content)) + content


def _real(number: int, value: float) -> bytes:
    return _tag(number, _DOUBLE) + struct.pack("<d", value)


def _varint(value: int) -> bytes:
    return bytes(_groups_of_seven(value))


def _groups_of_seven(value: int) -> Iterator[int]:
    while value > 0x7F:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value


def _masked(data: bytes) -> bytes:
    """As TensorFlow's records have it: a sum over data that holds sums would be weak."""
    found = crc32c(data)
    return struct.pack("<I", ((found >> 15 | found << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@lru_cache(maxsize=1)
def _table() -> tuple[int, ...]:
    table = []
    for one in range(256):
        for _ in range(8):
            one = one >> 1 ^ 0x82F63B78 * (one & 1)
        table.append(one)
    return tuple(table)


def crc32c(data: bytes) -> int:
    """Castagnoli's cyclic redundancy check.

    Examples
    --------
    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    table, found = _table(), 0xFFFFFFFF
    for byte in data:
        found = table[(found ^ byte) & 0xFF] ^ found >> 8
    return found ^ 0xFFFFFFFF
