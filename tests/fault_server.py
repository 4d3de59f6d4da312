"""An HTTP server that serves ranges and goes wrong on purpose, by a seed; and one that is far away.

For tests and benchmarks of reading from far places. Which request fails, and how, hangs on the seed, the file, the
range, and how often that was asked for: on no clock and no order of threads. Invariant: a request that is not made to
fail is answered as RFC 9110 says.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from urllib.parse import unquote, urlsplit

KINDS = ("stall", "reset", "short", "drip", "error", "wrong_range", "wrong_length", "wrong_bytes", "no_http")
"""Faults: silence in the midst; a connection reset; fewer bytes than promised; some bytes a second; HTTP 503; another
range than asked for; another length than asked for; one wrong byte among right many; an answer that is no HTTP."""

_RANGE = re.compile(r"bytes=(\d+)-(\d+)\Z")
_CHUNK = 64 * 1024


@dataclass(frozen=True)
class Faults:
    """What goes wrong.

    Parameters
    ----------
    rates
        By kind, the share of requests.
    seed
        Decides which.
    at_most
        A range fails no more often than that, then it is answered.
    in_all
        No more requests fail than that; which of those at the same time do hangs on the order of threads.
    changes_after
        After so many requests the file is another one of the same length.
    dead
        Takes connections and never answers.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    at_most: int = 1_000_000
    in_all: int | None = None
    changes_after: int | None = None
    dead: bool = False

    def choose(self, path: str, start: int, stop: int, time_asked: int) -> tuple[str | None, Random]:
        """Which fault a request meets, and chance for its details."""
        chance = Random(f"{self.seed}:{path}:{start}:{stop}:{time_asked}")
        draw = chance.random()
        for kind, rate in self.rates.items():
            draw -= rate
            if draw < 0 and time_asked < self.at_most:
                return kind, chance
        return None, chance


class FaultServer:
    """The server while it runs.

    Attributes
    ----------
    url
        Address; names of files of the folder go behind it.
    met
        How often each fault was met.
    requests
        How many were made.
    """

    def __init__(self, folder: Path, faults: Faults, rtt_s: float, mb_per_s: float | None) -> None:
        self.met: Counter[str] = Counter()
        self.requests = 0
        self.faults = faults
        self._folder = folder
        self._rtt_s = rtt_s
        self._byte_s = 1 / (mb_per_s * 1e6) if mb_per_s else 0.0
        self._free_at = 0.0
        self._asked: Counter[tuple[str, int]] = Counter()
        self._contents: dict[tuple[Path, bool], tuple[bytes, str]] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._open: set[socket.socket] = set()
        self._door = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._door.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def forget(self) -> None:
        """Read the files anew."""
        with self._lock:
            self._contents.clear()

    def close(self) -> None:
        """End all connections."""
        self._over.set()
        with contextlib.suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        with self._lock:
            for line in self._open:
                with contextlib.suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                line, _ = self._door.accept()
            except OSError:
                return
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open.add(line)
            thread = threading.Thread(target=self._serve, args=(line,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, line: socket.socket) -> None:
        try:
            self._wait(self._rtt_s)  # the handshake of a new connection
            with line.makefile("rb") as lines:
                while not self._over.is_set() and (head := _head(lines)):
                    if self.faults.dead:
                        self._over.wait()
                    self._wait(self._rtt_s)
                    if not self._answer(line, *head):
                        return
        except OSError:
            return  # the client went away, or the server ends
        finally:
            with self._lock:
                self._open.discard(line)
            line.close()

    def _answer(self, line: socket.socket, method: str, target: str, headers: Mapping[str, str]) -> bool:
        """Answer one request; False where the connection ends with it."""
        name = unquote(urlsplit(target).path).lstrip("/")
        file = self._folder / name
        if method not in ("GET", "HEAD") or not file.is_file():
            line.sendall(_status(404 if method in ("GET", "HEAD") else 405, {"Content-Length": "0"}))
            return True
        data, tag = self._content(file)
        asked = _RANGE.match(headers.get("range", ""))
        start, stop = (int(asked[1]), min(int(asked[2]) + 1, len(data))) if asked else (0, len(data))
        if headers.get("if-match", tag) != tag:
            line.sendall(_status(412, {"Content-Length": "0"}))
            return True
        fault, chance = self._fault(name, start, stop)
        told = {"ETag": tag, "Accept-Ranges": "bytes", "Content-Length": str(stop - start)}
        if asked:
            told["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        body = memoryview(data)[start:stop] if method == "GET" else memoryview(b"")
        if fault is None:
            line.sendall(_status(206 if asked else 200, told))
            self._send(line, body)
            return True
        return self._go_wrong(fault, chance, line, told, body)

    def _content(self, file: Path) -> tuple[bytes, str]:
        after = self.faults.changes_after
        changed = after is not None and self.requests >= after
        with self._lock:
            if (file, changed) not in self._contents:
                data = file.read_bytes().translate(bytes(range(255, -1, -1)) if changed else None)
                self._contents[file, changed] = data, f'"{hashlib.sha256(data).hexdigest()[:16]}"'
            return self._contents[file, changed]

    def _fault(self, name: str, start: int, stop: int) -> tuple[str | None, Random]:
        with self._lock:
            before = self._asked[name, stop]  # what is asked for again may begin where the last answer broke off
            self._asked[name, stop] += 1
            self.requests += 1
            fault, chance = self.faults.choose(name, start, stop, before)
            if fault is not None and self.faults.in_all is not None and self.met.total() >= self.faults.in_all:
                fault = None
            if fault is not None:
                self.met[fault] += 1
        return fault, chance

    def _go_wrong(
        self, fault: str, chance: Random, line: socket.socket, told: dict[str, str], body: memoryview
    ) -> bool:
        cut = chance.randrange(len(body)) if len(body) else 0
        if fault == "error":
            line.sendall(_status(503, {"Content-Length": "0", "Retry-After": "0"}))
            return True
        if fault == "no_http":
            line.sendall(b"\0\1\2 this is no HTTP\r\n\r\n")
            return False
        if fault == "wrong_range" and "Content-Range" in told:
            told["Content-Range"] = re.sub(r"\d+", lambda one: str(int(one[0]) + 1), told["Content-Range"], count=2)
        if fault == "wrong_length":
            body = body[:cut]
            told["Content-Length"] = str(len(body))
        if fault == "wrong_bytes":
            changed = bytearray(body)
            changed[cut] ^= 1 << chance.randrange(8)
            body = memoryview(changed)
        line.sendall(_status(206 if "Content-Range" in told else 200, told))
        if fault in ("wrong_range", "wrong_length", "wrong_bytes"):
            self._send(line, body)
            return True
        self._send(line, body[:cut])
        if fault == "stall":
            self._over.wait()
        while fault == "drip" and cut < len(body) and not self._over.wait(0.05):
            line.sendall(body[cut : cut + 2])
            cut += 2
        if fault == "reset":
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    def _send(self, line: socket.socket, body: memoryview) -> None:
        """Bytes at the speed of one link that all connections share."""
        for at in range(0, len(body), _CHUNK):
            part = body[at : at + _CHUNK]
            if self._byte_s:
                with self._lock:
                    self._free_at = max(self._free_at, time.monotonic()) + len(part) * self._byte_s
                    free_at = self._free_at
                self._wait(free_at - time.monotonic())
            line.sendall(part)

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)


@contextlib.contextmanager
def fault_server(
    folder: Path, faults: Faults | None = None, *, rtt_s: float = 0.0, mb_per_s: float | None = None
) -> Iterator[FaultServer]:
    """Serve the files of a folder.

    Parameters
    ----------
    folder
        With the files.
    faults
        What goes wrong; nothing by default.
    rtt_s
        Each connection and each request takes so much longer.
    mb_per_s
        All connections together carry so many 10^6 bytes a second.
    """
    server = FaultServer(folder, faults or Faults(), rtt_s, mb_per_s)
    try:
        yield server
    finally:
        server.close()


def _head(lines: object) -> tuple[str, str, dict[str, str]] | None:
    """Method, target and headers of the next request; None where the client has ended."""
    first = lines.readline(65_536).decode("latin-1").split()  # type: ignore[attr-defined]
    if len(first) != 3:
        return None
    headers = {}
    while (line := lines.readline(65_536).decode("latin-1").strip()) != "":  # type: ignore[attr-defined]
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return first[0], first[1], headers


def _status(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} -", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")
