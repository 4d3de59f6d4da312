"""HTTP/1.1 as bytes: a question is written, an answer is read from whatever parts it comes in. No socket is known here.

The blocking and the asynchronous connection share it. Invariant: a `Reply` is whole, or there is none: what ends early
or does not add up is `Broken`, and its connection is not used again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

MAX_HEAD_BYTES = 64 << 10
# Up to here a body is sent in one piece with its head: one call, one packet for small ones.
JOINED_BYTES = 128 << 10
_STATUS = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: |\r|\Z)")
_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;.*)?\Z")


class Broken(Exception):
    """What came is no whole answer of HTTP/1.1."""


class Reply(msgspec.Struct, frozen=True):
    """What a server answered.

    Parameters
    ----------
    status, body
        As they came.
    headers
        By name in lower case; of several with one name the last.
    url
        Of the server, for messages.
    """

    status: int
    body: bytes
    headers: Mapping[str, str]
    url: str = ""


def head_of(method: str, path: str, host: str, headers: str, size: int | None) -> bytes:
    """Request line and headers; ``headers`` are whole lines, ``size`` is that of the body, None where there is none."""
    length = "" if size is None else f"Content-Length: {size}\r\n"
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}{length}\r\n".encode("latin-1")


class ReplyReader:
    """Puts one answer together.

    Attributes
    ----------
    began
        Whether anything came at all.
    keep
        Whether the connection may be used again; true at the earliest when the answer is whole.
    """

    __slots__ = ("_buffer", "_due", "_headers", "_left", "_mode", "_parts", "_persists", "_status", "began", "keep")

    def __init__(self) -> None:
        self.began = False
        self.keep = False
        self._buffer = b""
        self._mode = "head"
        self._status = 0
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._left = 0
        self._due = False  # the line break behind a chunk
        self._persists = True

    def feed(self, data: bytes) -> Reply | None:
        """Take what came; the answer once it is whole.

        Raises
        ------
        Broken
            Not HTTP/1.1, or more than was announced.
        """
        self.began = True
        if self._mode == "sized":  # most of a long body, which is not copied on its way
            return self._sized(data)
        self._buffer = self._buffer + data if self._buffer else data
        if self._mode == "head" and not self._read_head():
            return None
        if self._mode == "sized":
            rest, self._buffer = self._buffer, b""
            return self._sized(rest)
        if self._mode == "chunked":
            return self._chunked()
        self._parts.append(self._buffer)
        self._buffer = b""
        return None

    def end(self) -> Reply:
        """The server hung up: the answer, if that is how it ends.

        Raises
        ------
        Broken
            It is not whole.
        """
        if self._mode == "until-end":
            return self._done()
        if not self.began:
            raise Broken("the server hung up without an answer")
        raise Broken("the answer was cut off")

    def _read_head(self) -> bool:
        """Whether the head is whole; those of interim answers (1xx) are left out."""
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if max(end, 0) > MAX_HEAD_BYTES or (end < 0 and len(self._buffer) > MAX_HEAD_BYTES):
                raise Broken(f"the head of the answer is larger than {MAX_HEAD_BYTES} bytes")
            if end < 0:
                return False
            head, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
            self._read_lines(head)
            if self._status >= 200:
                self._choose()
                return True

    def _read_lines(self, head: bytes) -> None:
        found = _STATUS.match(head)
        if found is None:
            raise Broken("the answer is not HTTP/1.1")
        self._status, self._persists = int(found[2]), found[1] == b"1"
        self._headers = {}
        for line in head.decode("latin-1").split("\r\n")[1:]:
            name, colon, value = line.partition(":")
            if not colon:
                raise Broken("a header of the answer has no colon")
            self._headers[name.lower()] = value.strip(" \t")

    def _choose(self) -> None:
        """How the body ends (RFC 9112, 6.3)."""
        if self._headers.get("connection", "").lower() == "close":
            self._persists = False
        if self._status in (204, 304):
            self._mode, self._left = "sized", 0
        elif "transfer-encoding" in self._headers:
            if self._headers["transfer-encoding"].lower() != "chunked":
                raise Broken(f"the answer is sent as '{self._headers['transfer-encoding']}', which is not read here")
            self._mode = "chunked"
        elif (size := self._headers.get("content-length")) is not None:
            if not (size.isascii() and size.isdecimal() and len(size) < 16):
                raise Broken("the answer has no valid Content-Length")
            self._mode, self._left = "sized", int(size)
        else:
            self._mode, self._persists = "until-end", False

    def _sized(self, data: bytes) -> Reply | None:
        self._left -= len(data)
        if self._left < 0:
            raise Broken("more came than the answer announced")
        self._parts.append(data)
        return self._done() if not self._left else None

    def _chunked(self) -> Reply | None:
        """Chunks as far as they came; of one that is not whole nothing is kept in the buffer, however long it is."""
        at = 0
        while True:
            if self._left:
                part = self._buffer[at : at + self._left]
                self._parts.append(part)
                self._left -= len(part)
                at += len(part)
                self._due = True
            line = self._buffer.find(b"\r\n", at)
            if self._left or line < 0:
                break
            if self._due and line != at:
                raise Broken("a chunk of the answer is longer than announced")
            if self._due:
                self._due, at = False, line + 2
                continue
            found = _SIZE.match(self._buffer[at:line])
            if found is None:
                raise Broken("a chunk of the answer has no valid size")
            self._left = int(found[1], 16)
            if not self._left:
                return self._trailer(at, line + 2)
            at = line + 2
        self._buffer = self._buffer[at:]
        if len(self._buffer) > (1 if self._due else MAX_HEAD_BYTES):
            raise Broken("a chunk of the answer has no valid size")
        return None

    def _trailer(self, at: int, start: int) -> Reply | None:
        """The empty line behind the last chunk, and headers before it that nobody asked for."""
        rest = self._buffer[start:]
        end = 0 if rest.startswith(b"\r\n") else rest.find(b"\r\n\r\n") + 2
        if end == 1:
            if len(rest) > MAX_HEAD_BYTES:
                raise Broken("the trailer of the answer is too large")
            self._buffer = self._buffer[at:]
            return None
        if len(rest) != end + 2:
            raise Broken("more came than the answer announced")
        return self._done()

    def _done(self) -> Reply:
        self.keep = self._persists
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        return Reply(self._status, body, self._headers)
