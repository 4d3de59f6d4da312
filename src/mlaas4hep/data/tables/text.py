"""The text of a place, plain or compressed, by ranges of its own bytes.

A compressed text is inflated in small steps and never held whole. So that a range in its middle does not cost all that
is before it, states of the decompressor are kept at some points of a gzip file; those of bzip2 cannot be kept, and its
text goes, quickly packed, into a temporary file. Invariant: memory does not hang on what the compressed bytes hold.
"""

from __future__ import annotations

import bisect
import bz2
import os
import tempfile
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.places import Buffer, Place
from mlaas4hep.errors import DataError

GZIP, BZIP2 = b"\x1f\x8b", b"BZh"
_STEP_BYTES = 1 << 20
_READ_BYTES = 1 << 18
# A state takes about 45 kB.
_POINTS_PER_FILE, _KEPT_FILES = 24, 24
_MAX_SPOOL_BYTES = 4 << 30


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


class GzipText:
    """A place that holds the text compressed by gzip. Not to be shared by threads."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._points = _POINTS.of(place)
        self._stream = _GzipStream(place)

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
            self._stream = _GzipStream(self._place) if point is None else point.copy()
        while self._stream.out < start and self._step(start - self._stream.out):
            pass

    def _step(self, limit: int) -> bytes:
        piece = self._stream.more(min(limit, _STEP_BYTES))
        self._points.pass_by(self._stream)
        return piece


class Bzip2Text:
    """A place that holds the text compressed by bzip2. Not to be shared by threads."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._spool = _SPOOLS.of(place)
        self._stream = _Bzip2Stream(place)

    def read(self, start: int, stop: int) -> Buffer:
        """See `Text.read`."""
        parts, at = [], start
        while at < stop:
            piece = self._spool.get(at, stop - at) or self._pass(at, stop - at)
            if not piece:
                break
            parts.append(piece)
            at += len(piece)
        return b"".join(parts)

    def _pass(self, at: int, limit: int) -> bytes:
        """From the decompressor, which is brought there; what it gives on the way is kept."""
        if self._stream.out > at:
            self._stream = _Bzip2Stream(self._place)
        while True:
            before = self._stream.out
            piece = self._stream.more(min(_STEP_BYTES, limit if before >= at else at - before))
            self._spool.add(before, piece)
            if not piece or before >= at:
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

    def copy(self) -> _GzipStream:
        """The same state once more; not at the end of a member."""
        other = _GzipStream(self._place)
        other._decoder = self._decoder.copy()
        other._pending, other._at, other.out = b"", self._at - len(self._pending), self.out
        return other

    @property
    def can_be_kept(self) -> bool:
        """Whether `copy` works here."""
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
        self._kept: list[_GzipStream] = []
        self._spacing = _STEP_BYTES

    def before(self, start: int) -> _GzipStream | None:
        """The last state at or before a byte of the text."""
        with self._lock:
            return next((one for one in reversed(self._kept) if one.out <= start), None)

    def pass_by(self, stream: _GzipStream) -> None:
        """Keep the state of a stream, if it is far enough from those that are kept."""
        with self._lock:
            last = self._kept[-1].out if self._kept else 0
            if stream.out < last + self._spacing or not stream.can_be_kept:
                return
            self._kept.append(stream.copy())
            if len(self._kept) > _POINTS_PER_FILE:
                self._kept = self._kept[1::2]
                self._spacing *= 2


class _Spool:
    """The text of one file, packed in pieces, as far as it was read; unnamed, and gone with the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._starts: list[int] = []
        self._places: list[tuple[int, int]] = []
        self._end, self._packed, self._full = 0, 0, False

    def add(self, start: int, piece: bytes) -> None:
        """Keep a piece, if it goes on where the last one ended and there is room."""
        with self._lock:
            if start != self._end or not piece or self._full:
                return
            packed = zlib.compress(piece, 1)
            try:
                self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115 - it stays open
                written = os.pwrite(self._file.fileno(), packed, self._packed)
            except OSError:  # no room: what is kept is a convenience, and the text is read anew instead
                written = 0
            if written < len(packed):
                self._full = True
                return
            self._starts.append(start)
            self._places.append((self._packed, len(packed)))
            self._end += len(piece)
            self._packed += len(packed)
            self._full = self._packed > _MAX_SPOOL_BYTES

    def get(self, start: int, limit: int) -> bytes:
        """Up to ``limit`` bytes of the text from ``start`` on; none where they were not kept."""
        with self._lock:
            if self._file is None or start >= self._end:
                return b""
            number = bisect.bisect_right(self._starts, start) - 1
            place, size = self._places[number]
            packed = os.pread(self._file.fileno(), size, place)
        skip = start - self._starts[number]
        return zlib.decompress(packed)[skip : skip + limit]

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()


T = TypeVar("T")


class _PerFile(Generic[T]):
    """What is kept for the files that were used last, from one opening to the next."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], T] = OrderedDict()

    def of(self, place: Place) -> T:
        """That of one file."""
        key = (place.url, place.identity)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._make()
            self._kept.move_to_end(key)
            if len(self._kept) > _KEPT_FILES:
                self._kept.popitem(last=False)
            return self._kept[key]


_POINTS, _SPOOLS = _PerFile(_Points), _PerFile(_Spool)


def open_text(place: Place, head: bytes) -> Text:
    """The text of a place, by its first bytes."""
    if head.startswith(GZIP):
        return GzipText(place)
    return Bzip2Text(place) if head.startswith(BZIP2) else PlainText(place)


def view_of(data: Buffer) -> NDArray[np.uint8]:
    """Bytes as an array that may not be written to, whoever gave them: compiled code is made for one kind of array."""
    view = np.frombuffer(data, np.uint8)
    view.flags.writeable = False
    return view


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
