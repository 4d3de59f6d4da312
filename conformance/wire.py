"""HTTP/1.1 on a plain socket: requests as bytes, answers as they came.

Client libraries mend what they send and forgive what they get, so that nothing broken could be sent through them.
Invariant: reading an answer takes no byte of the next one, so that several may stand in one connection.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

JSON = "application/json"
BINARY = "application/octet-stream"
HEADER_LENGTH = "Inference-Header-Content-Length"
_MAX_HEAD = 1 << 20


class BrokenWireError(Exception):
    """No whole answer came: the connection ended, time ran out, or it was not HTTP."""


class LateAnswerError(BrokenWireError):
    """Time ran out."""


@dataclass(frozen=True)
class Answer:
    """One answer; names of headers in lower case. ``interim`` holds the statuses of 1xx answers before it."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    version: str = "HTTP/1.1"
    interim: tuple[int, ...] = ()

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def json(self) -> Any:
        """The body as JSON proper: NaN and Infinity outside of quotes are none. Raises ValueError."""
        return json.loads(self.body, parse_constant=_refuse_constant)


@dataclass(frozen=True)
class Place:
    """Where a server listens; ``prefix`` stands before all paths, ``headers`` in all requests (tokens, for example)."""

    host: str
    port: int
    tls: bool = False
    prefix: str = ""
    timeout_s: float = 10.0
    headers: tuple[tuple[str, str], ...] = ()
    trusted: ssl.SSLContext | None = field(default=None, compare=False)

    @classmethod
    def parse(cls, url: str, *, timeout_s: float = 10.0, headers: Sequence[tuple[str, str]] = ()) -> Place:
        """Read ``http://host:port/prefix``; a bare ``host:port`` is HTTP. Raises ValueError."""
        parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"asked for http://host:port, found '{url}'")
        tls = parts.scheme == "https"
        return cls(
            parts.hostname, parts.port or (443 if tls else 80), tls, parts.path.rstrip("/"), timeout_s, tuple(headers)
        )

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """The bytes of a request; a header given as empty text is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        fields = {"Host": f"{host}:{self.port}", **dict(self.headers)}
        if body is not None:
            fields |= {"Content-Type": JSON, "Content-Length": str(len(body))}
        fields |= dict(headers or {})
        lines = [f"{method} {self.prefix}{path} HTTP/1.1", *(f"{name}: {one}" for name, one in fields.items() if one)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")

    def open(self) -> Connection:
        return Connection(self)


class Connection:
    """One connection; a context that closes it. Raises `BrokenWireError` from every method."""

    def __init__(self, place: Place) -> None:
        try:
            self._socket = socket.create_connection((place.host, place.port), timeout=place.timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if place.tls:
                context = place.trusted or ssl.create_default_context()
                self._socket = context.wrap_socket(self._socket, server_hostname=place.host)
        except OSError as error:
            raise BrokenWireError(f"no connection to {place.host}:{place.port}: {error}") from error
        self._timeout_s = place.timeout_s
        self._buffer = bytearray()
        self.received = 0
        self._status = 0

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise BrokenWireError(f"the server did not take all of the request: {error}") from error

    def stop_sending(self) -> None:
        """Close our direction, as a client that ends in the middle."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise BrokenWireError(f"the connection was gone: {error}") from error

    def exchange(self, data: bytes, *, method: str = "POST") -> Answer:
        """Send and read; a server may answer, and hang up, before it has read all."""
        try:
            self.send(data)
        except BrokenWireError:
            if not self.received:
                return self.receive(method=method)
            raise
        return self.receive(method=method)

    def receive(self, *, method: str = "POST") -> Answer:
        """The next answer; 1xx before it are only noted."""
        interim = []
        while True:
            version, status, headers = self._head()
            if status >= 200 or status == 101:
                break
            interim.append(status)
        body = b"" if method == "HEAD" or status in (101, 204, 304) else self._body(headers)
        return Answer(status, headers, body, version, tuple(interim))

    @property
    def refusing(self) -> bool:
        """Whether a 4xx had begun to come when the connection broke."""
        return 400 <= self._status < 500 or bytes(self._buffer[:10]) in (b"HTTP/1.1 4", b"HTTP/1.0 4")

    def interim(self) -> int:
        """Status of the next head alone, which a 100 is; what follows is left to `receive`."""
        return self._head()[1]

    def at_end(self, within_s: float | None = None) -> bool:
        """Whether the server closes, with nothing more to say, within that time."""
        self._socket.settimeout(within_s or self._timeout_s)
        try:
            return not self._buffer and not self._socket.recv(1)
        except TimeoutError:
            return False
        except OSError:
            return True
        finally:
            self._socket.settimeout(self._timeout_s)

    def _head(self) -> tuple[str, int, dict[str, str]]:
        text = self._until(b"\r\n\r\n").decode("latin-1")
        first, *lines = text.split("\r\n")
        words = first.split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
            raise BrokenWireError(f"not an answer of HTTP/1.1: {first[:80]!r}")
        self._status = int(words[1])
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            before = headers.get(name.lower())
            headers[name.lower()] = value.strip() if before is None else f"{before}, {value.strip()}"
        return words[0], self._status, headers

    def _body(self, headers: Mapping[str, str]) -> bytes:
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return self._chunks()
        length = headers.get("content-length")
        if length is None:
            return self._rest()
        if not length.isdecimal():
            raise BrokenWireError(f"Content-Length of the answer is {length!r}")
        return self._exactly(int(length))

    def _chunks(self) -> bytes:
        parts: list[bytes] = []
        while True:
            line = self._until(b"\r\n").partition(b";")[0].strip()
            try:
                size = int(line, 16)
            except ValueError as error:
                raise BrokenWireError(f"size of a chunk is {line[:40]!r}") from error
            if not size:
                while self._until(b"\r\n"):
                    pass
                return b"".join(parts)
            parts.append(self._exactly(size))
            self._until(b"\r\n")

    def _until(self, mark: bytes) -> bytes:
        while (place := self._buffer.find(mark)) < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise BrokenWireError("the head of the answer has no end")
            self._more()
        found = bytes(self._buffer[:place])
        del self._buffer[: place + len(mark)]
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        found = bytes(self._buffer[:size])
        del self._buffer[:size]
        return found

    def _rest(self) -> bytes:
        while self._fill():
            pass
        found = bytes(self._buffer)
        self._buffer.clear()
        return found

    def _more(self) -> None:
        if not self._fill():
            state = "in the middle of an answer" if self._buffer else "without an answer"
            raise BrokenWireError(f"the server closed the connection {state}")

    def _fill(self) -> bool:
        try:
            data = self._socket.recv(1 << 18)
        except TimeoutError as error:
            raise LateAnswerError(f"no whole answer within {self._timeout_s:g} s") from error
        except OSError as error:
            raise BrokenWireError(f"the server broke the connection off: {error}") from error
        self._buffer += data
        self.received += len(data)
        return bool(data)


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"JSON has no bare {word}")
