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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from mlaas4hep.errors import UserError
from mlaas4hep.serve.hooks import Seen

# Lines that may wait, how long one waits at most when all goes well, and characters of a path or an id that are kept.
MAX_WAITING, WRITE_S, MAX_TEXT = 65_536, 0.2, 512
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
                lines.append(_encode({"time": _time(time.time()), "dropped": self.dropped - self._told}))
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

    def _line(self, at_s: float, seen: Seen) -> bytes:
        model = seen.model
        authorization = seen.headers.get(b"authorization")
        known = {
            "time": _time(at_s),
            "client": seen.client,
            "method": seen.method,
            "path": seen.path.partition("?")[0][:MAX_TEXT],
            "status": seen.status,
            "model": model.name if model else None,
            "version": model.version if model else None,
            "rows": seen.rows if model else None,
            "bytes_in": seen.bytes_in,
            "bytes_out": seen.bytes_out,
            "ms": round(seen.seconds * 1e3, 3),
            "queue_ms": round(seen.queue_s * 1e3, 3) if model else None,
            "run_ms": round(seen.run_s * 1e3, 3) if model else None,
            "id": _text(seen.headers.get(b"x-request-id")),
            "subject": self._subject(authorization) if self._subject and authorization else None,
        }
        return _encode({name: value for name, value in known.items() if value is not None})


def _encode(fields: dict[str, Any]) -> bytes:
    return msgspec.json.encode(fields) + b"\n"


def _text(value: bytes | None) -> str | None:
    return None if value is None else value[:MAX_TEXT].decode("latin-1")


def _time(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
