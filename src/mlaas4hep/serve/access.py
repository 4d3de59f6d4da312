"""One JSON line for each request that was answered, written by a thread of its own.

Who answers appends to a queue that is bounded, and nothing more. Invariant: neither bodies nor headers nor what stands
behind ``?`` in an address are ever written, so no token is; and a line that finds no room is counted, not waited for.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from mlaas4hep.errors import UserError
from mlaas4hep.serve.hooks import Seen

# Lines that may wait, how long one waits at most when all goes well, and characters of a path or an id that are kept.
MAX_WAITING, WRITE_S, MAX_TEXT = 65_536, 0.2, 512
# Where more wait, the writer is behind: then only what is written is kept of each, since heads may be large.
_WHOLE_WAITING = 1024
STANDARD_OUTPUT = "-"


class AccessLog:
    """Writes lines to a file, or to standard output.

    Parameters
    ----------
    path
        The file, which is appended to, or ``-``.
    subject
        The header ``Authorization`` to whom it is the token of; None where that is not known.

    Raises
    ------
    UserError
        The file cannot be written.
    """

    def __init__(self, path: str, *, subject: Callable[[bytes], str | None] | None = None) -> None:
        self.dropped = 0
        self._path = path
        self._subject = subject
        self._waiting: deque[tuple[float, Seen]] = deque()
        self._told = 0
        self._clock = _Clock()
        self._wake = threading.Event()
        self._ended = self._reopens = False
        self._file = self._open()
        self._thread = threading.Thread(target=self._write_often, name="mlaas4hep-access-log", daemon=True)
        self._thread.start()

    def seen(self, seen: Seen) -> None:
        """Take a line; costs less than a microsecond, and never waits."""
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        if len(self._waiting) >= _WHOLE_WAITING:
            seen = self._trimmed(seen)
        self._waiting.append((time.time(), seen))

    def reopen(self) -> None:
        """Go on in a new file, where the old one was moved away."""
        self._reopens = True
        self._wake.set()

    def close(self) -> None:
        """Write what waits, and end."""
        self._ended = True
        self._wake.set()
        self._thread.join()
        if self._path != STANDARD_OUTPUT:
            os.close(self._file)

    def _open(self) -> int:
        if self._path == STANDARD_OUTPUT:
            return sys.stdout.fileno()
        try:
            return os.open(Path(self._path), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise UserError(f"--access-log {self._path}: cannot be written: {error.strerror}") from error

    def _write_often(self) -> None:
        while not self._ended:
            self._wake.wait(WRITE_S)
            self._wake.clear()
            self._write()
            if self._reopens:
                self._move()
        self._write()

    def _move(self) -> None:
        self._reopens = False
        if self._path == STANDARD_OUTPUT:
            return
        try:
            fresh = self._open()
        except UserError as error:  # the old file is still there to be written to
            self._report(str(error))
            return
        os.close(self._file)
        self._file = fresh

    def _write(self) -> None:
        """All that waits, a few hundred lines at a time: whole lines, so that several workers may share a file."""
        while self._waiting:
            lines = [self._line(*self._waiting.popleft()) for _ in range(min(len(self._waiting), 256))]
            if self.dropped > self._told:
                lost = _Dropped(self._clock.text(time.time()), self.dropped - self._told)
                lines.append(_encode(lost) + b"\n")
                self._told = self.dropped
            self._write_bytes(b"".join(lines))

    def _write_bytes(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:  # a full disk stops no answer; the lines count as dropped
            self.dropped += data.count(b"\n")
            self._report(f"the access log cannot be written: {error.strerror}")

    def _report(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")

    def _trimmed(self, seen: Seen) -> Seen:
        """What is written of it: of tokens only those that were found good, since others may have any length."""
        name, authorization = seen.headers.get(b"x-request-id"), seen.headers.get(b"authorization")
        headers = {} if name is None else {b"x-request-id": name[:MAX_TEXT]}
        if self._subject is not None and authorization is not None and self._subject(authorization) is not None:
            headers[b"authorization"] = authorization
        return seen._replace(path=seen.path.partition("?")[0][:MAX_TEXT], headers=headers)

    def _line(self, at_s: float, seen: Seen) -> bytes:
        model, headers = seen.model, seen.headers
        authorization = headers.get(b"authorization")
        line = _Line(
            time=self._clock.text(at_s),
            client=seen.client,
            method=seen.method,
            path=_shown(seen.path.partition("?")[0][:MAX_TEXT]),
            status=seen.status,
            bytes_in=seen.bytes_in,
            bytes_out=seen.bytes_out,
            ms=round(seen.seconds * 1e3, 3),
        )
        if model is not None:
            line.model, line.version, line.rows = model.name, model.version, seen.rows
            line.queue_ms, line.run_ms = round(seen.queue_s * 1e3, 3), round(seen.run_s * 1e3, 3)
        if (name := headers.get(b"x-request-id")) is not None:
            line.id = _shown(name[:MAX_TEXT].decode("latin-1"))
        if self._subject is not None and authorization is not None:
            line.subject = self._subject(authorization)
        return _encode(line) + b"\n"


def _shown(text: str) -> str:
    """Text that does nothing to a terminal or to who searches lines: JSON escapes not all that does."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in text)


class _Line(msgspec.Struct, omit_defaults=True):
    """In the order of the keys; None is left out."""

    time: str
    client: str
    method: str
    path: str
    status: int
    bytes_in: int
    bytes_out: int
    ms: float
    model: str | None = None
    version: str | None = None
    rows: int | None = None
    queue_ms: float | None = None
    run_ms: float | None = None
    id: str | None = None
    subject: str | None = None


class _Dropped(msgspec.Struct):
    time: str
    dropped: int


class _Clock:
    """Times as text; the part down to the second is made once a second."""

    def __init__(self) -> None:
        self._second, self._words = -1, ""

    def text(self, at_s: float) -> str:
        second = int(at_s)
        if second != self._second:
            self._second, self._words = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._words}.{int((at_s - second) * 1e6):06d}Z"


_encode = msgspec.json.Encoder().encode
