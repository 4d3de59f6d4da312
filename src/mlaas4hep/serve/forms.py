"""Bodies of requests that are taken piece by piece: whole ones up to a limit, and forms whose files go to the disk.

Invariant: no more is held in memory than the limits say, whatever a request announces, and a form gives the same fields
however its bytes are cut into pieces.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from email.parser import BytesHeaderParser
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qsl

from starlette.requests import Request

from mlaas4hep.errors import RequestError
from mlaas4hep.serve.asking import too_large

FORM, FIELDS = "multipart/form-data", "application/x-www-form-urlencoded"
MAX_PARTS, MAX_PART_HEAD = 16, 16 << 10
# Pieces of this size go to the disk at once, from a thread.
_PIECE = 1 << 20
# Told of bytes that are kept in memory; raises where there is no room (`mlaas4hep.serve.intake`).
Hold = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Form:
    """What a form holds.

    Parameters
    ----------
    fields
        By name: bytes, or the path of a file that went to the disk.
    filenames
        Of the fields that were sent as files.
    """

    fields: Mapping[str, bytes | Path]
    filenames: Mapping[str, str] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """A field as text; empty where it is not there."""
        found = self.fields.get(name, b"")
        return found.decode(errors="replace").strip() if isinstance(found, bytes) else ""


async def whole_body(request: Request, limit: int, hold: Hold | None) -> bytes:
    """The whole body, of which ``hold`` is told; `Refusal` with 413 where it is larger than the limit."""
    body = bytearray()  # of pieces as small as anyone likes
    async for part in bounded(request, limit, hold):
        body += part
    return bytes(body)


async def bounded(request: Request, limit: int, hold: Hold | None = None) -> AsyncIterator[bytes]:
    """The body in pieces as they come; `Refusal` with 413 as soon as it is known to be larger than the limit.

    ``hold`` is told of the bytes of each piece before it is kept; None where they go to the disk.
    """
    announced = request.headers.get("content-length") or "0"
    if int(announced) > limit:
        raise too_large(limit)
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_large(limit)
        if part:
            if hold is not None:
                hold(len(part))
            yield part


async def save_body(request: Request, limit: int, path: Path) -> None:
    """The body in a file."""
    with path.open("xb") as file:
        async for piece in _gathered(bounded(request, limit)):
            await asyncio.to_thread(file.write, piece)


async def read_form(
    request: Request,
    limit: int,
    *,
    on_disk: Mapping[str, Path],
    field_bytes: int = 1 << 20,
    hold: Hold | None = None,
) -> Form:
    """A form, as curl -F sends it, or -d.

    Parameters
    ----------
    limit
        Bytes of the body.
    on_disk
        Where the files of some fields go; these are paths in the answer, all others are bytes.
    field_bytes
        The most bytes of each other field.
    hold
        Told of the bytes as they come; needed where they stay in memory.

    Raises
    ------
    RequestError
        The body is no form, or one that is cut off, or names a field twice.
    Refusal
        413: the body, or a field, is too large.
    """
    kind, _, _ = request.headers.get("content-type", "").partition(";")
    kind = kind.strip().lower()
    if kind == FIELDS:
        return _pairs(await whole_body(request, min(limit, field_bytes), hold))
    if kind != FORM:
        raise RequestError(f"asked for a form ({FORM}, curl -F), found content type '{kind[:80]}'")
    sink = _Fields(on_disk, field_bytes)
    try:
        parser = FormParser(_boundary(request.headers["content-type"]), sink)
        async for piece in _gathered(bounded(request, limit, hold)):
            if on_disk:
                await asyncio.to_thread(parser.feed, piece)
            else:
                parser.feed(piece)
        parser.close()
    finally:
        sink.close()
    return Form(sink.found, sink.filenames)


async def _gathered(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in larger pieces."""
    held = bytearray()
    async for part in parts:
        held += part
        if len(held) >= _PIECE:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


def _pairs(body: bytes) -> Form:
    try:
        found = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_PARTS, strict_parsing=True)
    except ValueError as error:
        raise RequestError(f"the body is no form: {error}") from error
    return Form({name: value.encode() for name, value in found})


def _boundary(content_type: str) -> bytes:
    head = BytesHeaderParser().parsebytes(b"Content-Type: " + content_type.encode("latin-1") + b"\r\n\r\n")
    found = head.get_boundary("")
    if not 0 < len(found) <= 200 or not found.isascii():
        raise RequestError("the form has no boundary, which its Content-Type has to name; curl -F does so by itself")
    return found.encode()


@dataclass(frozen=True, slots=True)
class Part:
    """The head of a part of a form: the field it is, and the name of the file that was sent."""

    name: str
    filename: str | None


class _Fields:
    """Takes parts: files of some names to the disk, all else into memory."""

    def __init__(self, on_disk: Mapping[str, Path], field_bytes: int) -> None:
        self.found: dict[str, bytes | Path] = {}
        self.filenames: dict[str, str] = {}
        self._on_disk, self._most = on_disk, field_bytes
        self._name = ""
        self._held = bytearray()
        self._file: IO[bytes] | None = None

    def begin(self, part: Part) -> None:
        """A part begins."""
        if part.name in self.found:
            raise RequestError(f"the form has the field '{part.name[:80]}' twice")
        if len(self.found) >= MAX_PARTS:
            raise RequestError(f"the form has more than {MAX_PARTS} fields")
        self._name = part.name
        if part.filename is not None:
            self.filenames[part.name] = part.filename
        path = self._on_disk.get(part.name)
        if path is not None:
            self._file = path.open("xb")
            self.found[part.name] = path

    def data(self, piece: bytes) -> None:
        """More of it."""
        if self._file is not None:
            self._file.write(piece)
            return
        self._held += piece
        if len(self._held) > self._most:
            raise too_large(self._most)

    def end(self) -> None:
        """It is whole."""
        if self._file is None:
            self.found[self._name] = bytes(self._held)
            self._held.clear()
        self.close()

    def close(self) -> None:
        """Leave no file open."""
        if self._file is not None:
            self._file.close()
            self._file = None


class FormParser:
    """Reads ``multipart/form-data`` (RFC 7578) piece by piece.

    Parameters
    ----------
    boundary
        As the content type names it.
    sink
        Told of each part by ``begin(Part)``, ``data(bytes)`` and ``end()``.

    Raises
    ------
    RequestError
        From `feed` and `close`, of what is no form.
    """

    def __init__(self, boundary: bytes, sink: Any) -> None:
        self._mark = b"\r\n--" + boundary
        self._sink = sink
        # The first mark stands at the very beginning, without the end of a line before it.
        self._buffer = bytearray(b"\r\n")
        self._step: Callable[[], bool] = partial(self._read_until_mark, inside=False)
        self._ended = False

    def feed(self, piece: bytes) -> None:
        """Take more bytes."""
        self._buffer += piece
        while not self._ended and self._step():
            pass
        if self._ended:
            self._buffer.clear()  # what follows the last mark is nobody's

    def close(self) -> None:
        """No more bytes come."""
        if not self._ended:
            raise RequestError("the form ends before its last boundary; it was cut off")

    def _read_until_mark(self, *, inside: bool) -> bool:
        place = self._buffer.find(self._mark)
        stop = place if place >= 0 else len(self._buffer) - len(self._mark) + 1
        if stop > 0:
            if inside:
                self._sink.data(bytes(self._buffer[:stop]))
            del self._buffer[:stop]
        if place < 0:
            return False
        del self._buffer[: len(self._mark)]
        if inside:
            self._sink.end()
        self._step = self._read_mark_end
        return True

    def _read_mark_end(self) -> bool:
        """Two dashes end the form; else a line ends, perhaps after blanks, and its end stays in front of the head."""
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] == b"--":
            self._ended = True
            return False
        place = self._buffer.find(b"\r\n")
        blanks = self._buffer if place < 0 else self._buffer[:place]
        if len(blanks.strip(b" \t\r")) or len(blanks) > MAX_PART_HEAD:
            raise RequestError("a boundary of the form is followed by other than the end of its line")
        if place < 0:
            return False
        del self._buffer[:place]
        self._step = self._read_head
        return True

    def _read_head(self) -> bool:
        place = self._buffer.find(b"\r\n\r\n")
        if place > MAX_PART_HEAD or (place < 0 and len(self._buffer) > MAX_PART_HEAD):
            raise RequestError(f"a part of the form has a head of more than {MAX_PART_HEAD} bytes")
        if place < 0:
            return False
        self._sink.begin(_part(bytes(self._buffer[2 : place + 4])))
        del self._buffer[: place + 4]
        self._step = partial(self._read_until_mark, inside=True)
        return True


def _part(head: bytes) -> Part:
    found = BytesHeaderParser().parsebytes(head)
    if found.get_content_disposition() != "form-data":
        raise RequestError("a part of the form has no Content-Disposition: form-data")
    name = found.get_param("name", header="content-disposition")
    if not isinstance(name, str) or not name:
        raise RequestError("a part of the form has no name")
    return Part(name, found.get_filename())
