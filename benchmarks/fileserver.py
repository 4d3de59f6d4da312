"""Files over HTTP with byte ranges, of which a share of requests fails in one of three ways.

``python -m benchmarks.fileserver --folder DIR [--fail 0.01]`` prints ``{"port": ...}`` and serves loopback until its
standard input is closed, then prints what happened. A failing request is answered by 503, or by half of its bytes and a
reset, or by half of its bytes and an orderly end. Invariant: every byte that is sent is the right one.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import click

FAULTS = ("503", "reset", "short")
_BOUNDARY = "next-range"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Piece:
    """Bytes [start, stop) of a file, after a text of their own."""

    head: bytes
    start: int
    stop: int

    def __len__(self) -> int:
        return len(self.head) + self.stop - self.start


class Faults:
    """Which requests fail, by a seeded chance; counts what happened."""

    def __init__(self, chance: float, *, seed: int = 0) -> None:
        self._chance = chance
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter(dict.fromkeys(("requests", *FAULTS), 0))

    def draw(self) -> str | None:
        """One of `FAULTS`, or None for a request that is served."""
        with self._lock:
            self.counts["requests"] += 1
            if self._random.random() >= self._chance:
                return None
            fault = self._random.choice(FAULTS)
            self.counts[fault] += 1
            return fault


class RangeHandler(BaseHTTPRequestHandler):
    """GET and HEAD of the files of one folder."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, *args: object, folder: Path, faults: Faults) -> None:
        self._folder = folder.resolve()
        self._faults = faults
        super().__init__(*args)  # type: ignore[arg-type]  # what http.server passes; it handles the request in here

    def do_HEAD(self) -> None:
        """Size and identity of a file."""
        with self._opened() as file:
            self._head(HTTPStatus.OK, os.fstat(file.fileno()).st_size)

    def do_GET(self) -> None:
        """A file, or the ranges of it that are asked for."""
        fault = self._faults.draw()
        if fault == "503":
            self.close_connection = True
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        with self._opened() as file:
            size = os.fstat(file.fileno()).st_size
            asked = self.headers.get("Range")
            ranges = None if asked is None else parse_ranges(asked, size)
            if ranges is not None and not ranges:
                self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                return
            pieces = self._announce(ranges, size)
            self._send(file, pieces, fault)

    def log_message(self, *_: object) -> None:
        """Nothing: the counts say enough."""

    def _opened(self) -> BinaryIO:
        path = (self._folder / unquote(urlsplit(self.path).path).lstrip("/")).resolve()
        if not path.is_relative_to(self._folder) or not path.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            raise ConnectionAbortedError(f"no file {path}")
        return path.open("rb")

    def _announce(self, ranges: Sequence[tuple[int, int]] | None, size: int) -> list[Piece]:
        """Send the head of the answer; gives the body."""
        if ranges is None:
            self._head(HTTPStatus.OK, size)
            return [Piece(b"", 0, size)]
        if len(ranges) == 1:
            start, stop = ranges[0]
            self._head(HTTPStatus.PARTIAL_CONTENT, stop - start, range=f"bytes {start}-{stop - 1}/{size}")
            return [Piece(b"", start, stop)]
        pieces = [Piece(_part(start, stop, size), start, stop) for start, stop in ranges]
        pieces.append(Piece(f"\r\n--{_BOUNDARY}--\r\n".encode(), 0, 0))
        kind = f"multipart/byteranges; boundary={_BOUNDARY}"
        self._head(HTTPStatus.PARTIAL_CONTENT, sum(map(len, pieces)), kind=kind)
        return pieces

    def _head(
        self, status: HTTPStatus, length: int, *, range: str | None = None, kind: str = "application/octet-stream"
    ) -> None:
        self.send_response(status)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", self._etag())
        if range is not None:
            self.send_header("Content-Range", range)
        self.end_headers()

    def _etag(self) -> str:
        found = (self._folder / unquote(urlsplit(self.path).path).lstrip("/")).stat()
        return f'"{found.st_size:x}-{found.st_mtime_ns:x}"'

    def _send(self, file: BinaryIO, pieces: Sequence[Piece], fault: str | None) -> None:
        left = sum(map(len, pieces))
        if fault is not None:
            left //= 2
        for piece in pieces:
            head = piece.head[:left]
            self.wfile.write(head)
            left -= len(head)
            count = min(left, piece.stop - piece.start)
            if count:
                self.connection.sendfile(file, piece.start, count)
            left -= count
        if fault is not None:
            self.close_connection = True
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that leave are no news; everything else is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        """Close at once where a reset is wanted: the ordinary way would end the stream in order first."""
        assert isinstance(request, socket.socket)
        if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_RESET_ON_CLOSE)) == _RESET_ON_CLOSE:
            self.close_request(request)
        else:
            super().shutdown_request(request)


def file_server(folder: Path, faults: Faults) -> ThreadingHTTPServer:
    """A server on a free port of loopback; ``serve_forever`` runs it."""
    return _Server(("127.0.0.1", 0), partial(RangeHandler, folder=folder, faults=faults))


def parse_ranges(text: str, size: int) -> list[tuple[int, int]] | None:
    """Ranges [start, stop) of a Range header that lie in the file; None where it is to be ignored.

    >>> parse_ranges("bytes=0-9,20-", 30)
    [(0, 10), (20, 30)]
    >>> parse_ranges("bytes=-5", 30)
    [(25, 30)]
    """
    unit, _, several = text.partition("=")
    found = [re.fullmatch(r"\s*(\d*)-(\d*)\s*", one) for one in several.split(",")]
    ranges = []
    for one in found:
        if unit != "bytes" or one is None or one.group(1, 2) == ("", ""):
            return None
        first, last = one.group(1, 2)
        start = int(first) if first else max(size - int(last), 0)
        stop = min(int(last) + 1, size) if first and last else size
        if start < stop:
            ranges.append((start, stop))
    return ranges


def _part(start: int, stop: int, size: int) -> bytes:
    return f"\r\n--{_BOUNDARY}\r\nContent-Range: bytes {start}-{stop - 1}/{size}\r\n\r\n".encode()


@click.command()
@click.option("--folder", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--fail", type=float, default=0.0, show_default=True, help="Share of requests that fail.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice.")
def main(*, folder: Path, fail: float, seed: int) -> None:
    """Serve a folder."""
    faults = Faults(fail, seed=seed)
    with file_server(folder, faults) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(json.dumps({"port": server.server_address[1]}), flush=True)
        sys.stdin.read()
        server.shutdown()
    print(json.dumps(faults.counts), flush=True)


if __name__ == "__main__":
    main()
