"""The wire format of protocol buffers, read without a schema: fields of a message with their numbers.

Tells ONNX, SavedModel and frozen graphs apart and walks TensorFlow's graphs without TensorFlow. Invariant: reads only
inside the bytes it was given, copies nothing, and ends with `NotAMessage` on what is no message.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class NotAMessage(ValueError):
    """These bytes are no message."""


def fields(message: memoryview | bytes) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field; memory for what has a length, else the whole number."""
    view = memoryview(message)
    at, end = 0, len(view)
    while at < end:
        key, at = _varint(view, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise NotAMessage("field 0")
        if kind == VARINT:
            value, at = _varint(view, at)
            yield number, value
            continue
        if kind == BYTES:
            size, at = _varint(view, at)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise NotAMessage(f"wire type {kind}")
        if at + size > end:
            raise NotAMessage("a field is longer than its message")
        yield number, view[at : at + size]
        at += size


def all_of(message: memoryview | bytes, number: int) -> list[memoryview]:
    """Values with a length of one field, in order."""
    return [value for found, value in fields(message) if found == number and isinstance(value, memoryview)]


def text_of(message: memoryview | bytes, number: int) -> str:
    """A field that is text; empty where it is not there."""
    found = all_of(message, number)
    try:
        return bytes(found[-1]).decode() if found else ""
    except UnicodeDecodeError as error:
        raise NotAMessage("a name is no text") from error


def shape_of(message: memoryview | bytes, *, most: int = 4096) -> tuple[tuple[int, bool], ...] | None:
    """The first fields as (number, has a length); None for what is no message."""
    found = []
    try:
        for number, value in fields(message):
            found.append((number, isinstance(value, memoryview)))
            if len(found) == most:
                break
    except NotAMessage:
        return None
    return tuple(found)


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(view) or shift > 63:
            raise NotAMessage("a number without an end")
        byte = view[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
