"""The text of a place, plain or compressed, by ranges of its own bytes.

A compressed text is inflated in small steps and never held whole. States of the decompressor are kept at some points of
a gzip file, so that a range in its middle does not cost everything before it. Invariant: memory does not hang on what
the compressed bytes pretend to hold.
"""

from __future__ import annotations

import bz2
import threading
import zlib
from collections import OrderedDict
from typing import Any, Protocol

from mlaas4hep.data.places import Buffer, Place
from mlaas4hep.errors import DataError

GZIP, BZIP2 = b"\x1f\x8b", b"BZh"
_STEP_BYTES = 1 << 20
_READ_BYTES = 1 << 18
# A state takes about 45 kB.
_POINTS_PER_FILE, _FILES_WITH_POINTS = 24, 24


class Text(Protocol):
    """Bytes of a text, by ranges."""

    def read(self, start: int, stop: int) -> Buffer:
        """Bytes from ``start`` to ``stop``; fewer where the text ends."""
        ...


class PlainText:
    """A place that holds the text as it stands."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def read(self, start: int, stop: int) -> Buffer:
        """See `Text.read`."""
        stop = min(stop, self._place.size)
        return self._place.read([(start, stop)])[0] if start < stop else b""


class Inflated:
    """A place that holds the text compressed by gzip or bzip2. Not to be shared by threads.

    Parameters
    ----------
    place
        What begins with `GZIP` or `BZIP2`.
    """

    def __init__(self, place: Place, head: bytes) -> None:
        self._place = place
        self._make: type[_Stream] = _GzipStream if head.startswith(GZIP) else _Bzip2Stream
        self._points = _points_of(place)
        self._stream: _Stream = self._make(place)

    def read(self, start: int, stop: int) -> Buffer:
        """See `Text.read`."""
        self._go_to(start)
        parts, held = [], 0
        while held < stop - start:
            piece = self._step(stop - start - held)
            if not piece:
                break
            parts.append(piece)
            held += len(piece)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _go_to(self, start: int) -> None:
        point = self._points.before(start)
        if self._stream.out > start or (point is not None and point.out > self._stream.out):
            self._stream = self._make(self._place) if point is None else point.copy()
        while self._stream.out < start and self._step(start - self._stream.out):
            pass

    def _step(self, limit: int) -> bytes:
        piece = self._stream.more(min(limit, _STEP_BYTES))
        self._points.pass_by(self._stream)
        return piece


class _Stream:
    """A decompressor on its way through a place: ``out`` bytes of text were given."""

    kind = ""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._decoder = self._new_decoder()
        self._pending: bytes = b""
        self._at = 0
        self.out = 0

    def more(self, limit: int) -> bytes:
        """Up to ``limit`` more bytes of the text; none at its end."""
        while True:
            if self._decoder.eof and not self._next_member():
                return b""
            if not self._pending and self._wants_more():
                self._pending = self._next_bytes()
            exhausted = not self._pending and self._at >= self._place.size
            piece = self._inflate(limit)
            if piece:
                self.out += len(piece)
                return piece
            if exhausted and not self._decoder.eof:
                raise DataError(f"{self._place.url}: is truncated: its {self.kind} stream ends before it is complete")

    def copy(self) -> _Stream:
        """The same state once more."""
        other = type(self)(self._place)
        other._decoder = self._decoder.copy()
        other._pending, other._at, other.out = b"", self._at - len(self._pending), self.out
        return other

    @property
    def can_be_kept(self) -> bool:
        """Whether `copy` works here."""
        return False

    def _new_decoder(self) -> Any:
        raise NotImplementedError

    def _inflate(self, limit: int) -> bytes:
        raise NotImplementedError

    def _wants_more(self) -> bool:
        return True

    def _next_bytes(self) -> bytes:
        stop = min(self._at + _READ_BYTES, self._place.size)
        if stop <= self._at:
            return b""
        data = bytes(self._place.read([(self._at, stop)])[0])
        self._at = stop
        return data

    def _next_member(self) -> bool:
        """Compressed files may be joined end to end; zeros may fill up the last block of a tape."""
        rest: bytes = self._decoder.unused_data
        while not rest.strip(b"\0"):
            rest = self._next_bytes()
            if not rest:
                return False
        self._decoder = self._new_decoder()
        self._pending = rest
        return True


class _GzipStream(_Stream):
    kind = "gzip"

    @property
    def can_be_kept(self) -> bool:
        """See `_Stream.can_be_kept`."""
        return not self._decoder.eof

    def _new_decoder(self) -> Any:
        return zlib.decompressobj(wbits=31)

    def _inflate(self, limit: int) -> bytes:
        try:
            piece: bytes = self._decoder.decompress(self._pending, limit)
        except zlib.error as error:
            raise _damaged(self._place, self.kind, self.out, error) from error
        self._pending = self._decoder.unconsumed_tail
        return piece


class _Bzip2Stream(_Stream):
    kind = "bzip2"

    def _new_decoder(self) -> Any:
        return bz2.BZ2Decompressor()

    def _wants_more(self) -> bool:
        return bool(self._decoder.needs_input)

    def _inflate(self, limit: int) -> bytes:
        try:
            piece: bytes = self._decoder.decompress(self._pending, limit)
        except (OSError, ValueError) as error:
            raise _damaged(self._place, self.kind, self.out, error) from error
        self._pending = b""
        return piece


def _damaged(place: Place, kind: str, out: int, error: Exception) -> DataError:
    return DataError(f"{place.url}: is damaged: its {kind} stream cannot be read after byte {out} of the text: {error}")


class _Points:
    """States of a decompressor along one file: at most so many, evenly spread over what was passed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[_Stream] = []
        self._spacing = _STEP_BYTES

    def before(self, start: int) -> _Stream | None:
        """The last state at or before a byte of the text."""
        with self._lock:
            return next((one for one in reversed(self._kept) if one.out <= start), None)

    def pass_by(self, stream: _Stream) -> None:
        """Keep the state of a stream, if it is far enough from those that are kept."""
        with self._lock:
            last = self._kept[-1].out if self._kept else 0
            if stream.out < last + self._spacing or not stream.can_be_kept:
                return
            self._kept.append(stream.copy())
            if len(self._kept) > _POINTS_PER_FILE:
                self._kept = self._kept[1::2]
                self._spacing *= 2


_LOCK = threading.Lock()
_KEPT: OrderedDict[tuple[str, str], _Points] = OrderedDict()


def _points_of(place: Place) -> _Points:
    """Those of a file, kept from one opening to the next."""
    key = (place.url, place.identity)
    with _LOCK:
        points = _KEPT.setdefault(key, _Points())
        _KEPT.move_to_end(key)
        if len(_KEPT) > _FILES_WITH_POINTS:
            _KEPT.popitem(last=False)
    return points


def open_text(place: Place, head: bytes) -> Text:
    """The text of a place, by its first bytes."""
    return Inflated(place, head) if head.startswith((GZIP, BZIP2)) else PlainText(place)


def text_head(head: bytes) -> bytes:
    """Beginning of the text behind the first bytes of a file, as far as they tell."""
    try:
        if head.startswith(GZIP):
            return zlib.decompressobj(wbits=31).decompress(head, _READ_BYTES)
        if head.startswith(BZIP2):
            return bz2.BZ2Decompressor().decompress(head, _READ_BYTES)
    except (zlib.error, OSError, ValueError):
        return b""  # damaged: whoever opens it says so
    return head
