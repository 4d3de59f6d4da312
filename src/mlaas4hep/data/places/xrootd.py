"""Files behind ``root://``, ``roots://``, ``xroot://`` and ``xroots://``, by the XRootD client.

The only module that knows it. The client does its own redirection and login (tokens and proxies by the WLCG's rules);
what it is asked for has a time-out each. Invariant: no file of the client outlives the interpreter's end, and none is
used in a forked process, where the client's threads are missing: both would wait for ever.
"""

from __future__ import annotations

import atexit
import importlib
import os
import re
import threading
import weakref
from collections.abc import Sequence
from functools import cache
from typing import Any

from mlaas4hep.config.addresses import secrets_in, shown, split_address
from mlaas4hep.data.places import Place
from mlaas4hep.data.places.credentials import credentials_told
from mlaas4hep.data.places.listing import Entry, expand_address
from mlaas4hep.data.places.persist import ask
from mlaas4hep.data.places.ranges import Piece
from mlaas4hep.data.places.remote import Failed, Replica
from mlaas4hep.data.places.steady import SteadyPlace
from mlaas4hep.errors import DataError, MissingExtraError

# A redirector may say "wait five seconds" before it knows where a file lies; the client obeys inside one call.
_OPEN_S = 20.0
# Beyond the patience for silence, what a slow line needs for the bytes themselves.
_LEAST_BYTES_A_S = 256 * 1024
# Limits of the protocol for vector reads: 1,024 chunks, and 2 MiB less its header each.
_VECTOR, _CHUNK_BYTES = 1024, 2 * 1024 * 1024 - 16
_CLOSE_S = 5
# Time-outs and retries are ours; what the user sets by XRD_... in the environment goes before these.
_SETTINGS = {
    "ConnectionWindow": 10,
    "ConnectionRetry": 1,
    "StreamErrorWindow": 10,
    "StreamTimeout": 8,  # a line with open requests and no byte for so long is dead: the one time-out by progress
    "TimeoutResolution": 1,  # by default the client looks at the clock every 15 seconds
    "RequestTimeout": 120,
}
_NOT_FOUND, _NOT_AUTHORIZED, _IS_FOLDER = 3011, 3010, 3016
_FATAL = frozenset({_NOT_FOUND, _NOT_AUTHORIZED, _IS_FOLDER, 3000, 3030})


class XRootDFiles:
    """Files of XRootD and dCache doors and redirectors."""

    def open(self, url: str) -> Place:
        """See `mlaas4hep.data.places.PlaceKind.open`."""
        return SteadyPlace([self.replica(url)])

    def replica(self, url: str) -> Replica:
        """See `mlaas4hep.data.places.remote.RemoteKind.replica`."""
        split_address(url)
        _client()
        return Replica(shown(url), lambda stall_s: XRootDRemote(url, stall_s))

    def expand(self, pattern: str) -> tuple[str, ...]:
        """See `mlaas4hep.data.places.PlaceKind.expand`."""
        return expand_address(pattern, _list_folder, is_folder=_is_folder)

    def key(self, url: str) -> object:
        """Host, port and path, with one slash."""
        parts, named = split_address(url), split_address(shown(url))
        return "root", parts.hostname, parts.port or 1094, re.sub(r"^/+", "/", parts.path), named.query


class XRootDRemote:
    """One open file.

    Parameters
    ----------
    url
        Its address.
    stall_s
        Patience for opening it.

    Raises
    ------
    Failed
        It is not there, may not be read, or nobody answers.
    """

    head = b""
    most_pieces = _VECTOR
    # There is no word of progress within a request: short ones tell a dead line sooner, and one connection carries
    # several at a time without waiting for round trips.
    piece_bytes = 2 * 1024 * 1024

    def __init__(self, url: str, stall_s: float) -> None:
        self.url = shown(url)
        self._secrets = [value for _, value in secrets_in(url)]
        self._process = os.getpid()
        self._reads, self._closing, self._lock = 0, False, threading.Lock()
        self._file = _client().File()
        timeout = int(max(stall_s, _OPEN_S))
        self._ask(self._file.open(url, timeout=timeout))
        _open_files.add(self)
        try:
            found = self._ask(self._file.stat(timeout=timeout))
        except BaseException:
            self.close()
            raise
        self.size = int(found.size)
        self.identity = f"{found.size}-{found.modtime}"

    def fetch(self, pieces: Sequence[Piece], patience_s: float) -> None:
        """See `mlaas4hep.data.places.remote.Remote.fetch`."""
        self._begin()
        try:
            if len(pieces) == 1:
                self._read(pieces[0], patience_s)
            else:
                self._read_vector(pieces, patience_s)
        finally:
            self._end()

    def close(self) -> None:
        """Close the file, or have the last read do so that is still under way."""
        with self._lock:
            self._closing = True
            if self._reads:
                return
        self._close()

    def _read(self, piece: Piece, patience_s: float) -> None:
        size = len(piece.view)
        data = self._ask(self._file.read(piece.start, size, timeout=_timeout(patience_s, size)))
        self._take(piece, data)

    def _read_vector(self, pieces: Sequence[Piece], patience_s: float) -> None:
        parts = [
            Piece(piece.start + at, piece.view[at : at + _CHUNK_BYTES])
            for piece in pieces
            for at in range(0, len(piece.view), _CHUNK_BYTES)
        ]
        for first in range(0, len(parts), _VECTOR):
            some = parts[first : first + _VECTOR]
            size = sum(len(part.view) for part in some)
            asked = [(part.start, len(part.view)) for part in some]
            found = self._ask(self._file.vector_read(asked, timeout=_timeout(patience_s, size)))
            if len(found.chunks) != len(some):
                raise Failed(f"{len(some)} ranges were asked for, {len(found.chunks)} were sent")
            for part, chunk in zip(some, found.chunks, strict=True):
                if chunk.offset != part.start:
                    raise Failed(f"bytes from {part.start} on were asked for, those from {chunk.offset} were sent")
                self._take(part, chunk.buffer)

    def _take(self, piece: Piece, data: bytes) -> None:
        if len(data) > len(piece.view):
            raise Failed(f"{len(piece.view)} bytes were asked for, {len(data)} were sent")
        piece.view[: len(data)] = data
        if len(data) < len(piece.view):
            raise Failed(f"the answer ended after {len(data)} of {len(piece.view)} bytes")

    def _ask(self, answer: tuple[Any, Any]) -> Any:
        status, found = answer
        if not status.ok:
            raise _failed(status, self._secrets)
        return found

    def _begin(self) -> None:
        if os.getpid() != self._process:
            raise DataError(
                f"{self.url}: was opened before this process was forked, and the XRootD client does not work in a "
                "forked process; use the start method 'spawn' or 'forkserver'"
            )
        with self._lock:
            if self._closing:
                raise Failed("the connection was given up")
            self._reads += 1

    def _end(self) -> None:
        with self._lock:
            self._reads -= 1
            last = self._closing and not self._reads
        if last:
            self._close()

    def _close(self) -> None:
        _open_files.discard(self)
        if os.getpid() == self._process and self._file.is_open():
            # What a server says to the end of reading changes nothing; a dead one must not be waited for.
            self._file.close(timeout=_CLOSE_S)

    def __del__(self) -> None:
        if not self._closing:
            self.close()


_open_files: weakref.WeakSet[XRootDRemote] = weakref.WeakSet()


@cache
def _client() -> Any:
    try:
        client: Any = importlib.import_module("XRootD.client")
    except ImportError as error:
        raise MissingExtraError("XRootD", "xrootd", "reading root:// files") from error
    for name, value in _SETTINGS.items():
        client.EnvPutInt(name, value)  # leaves alone what the environment sets
    # The client stops its threads when the interpreter ends; files must be closed before (this runs first).
    atexit.register(_close_all)
    return client


def client_of() -> Any:
    """The client, for what else is asked of XRootD.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    return _client()


def failed_of(status: Any, secrets: Sequence[str]) -> Failed:
    """What its answer means."""
    return _failed(status, secrets)


def _close_all() -> None:
    for one in list(_open_files):
        one.close()


def _timeout(patience_s: float, size: int) -> int:
    """The client counts from the request, in whole seconds; there is no word from it between."""
    return max(int(patience_s + size / _LEAST_BYTES_A_S), 1)


def _failed(status: Any, secrets: Sequence[str]) -> Failed:
    words = re.sub(r"^\[\w+\]\s*", "", str(status.message).strip()) or "no reason was given"
    for secret in secrets:
        words = words.replace(secret, "...")
    words = re.sub(r"(authz=|Bearer(%20| ))[^&\s]+", r"\1...", words)
    fatal = int(status.errno) in _FATAL
    # A server that wants a proxy or a token tells the client which kinds it takes, and the client tells nobody.
    hint = f": {credentials_told()}" if "auth failed" in words.lower() else ""
    return Failed(_short(words) + hint, again=not fatal, slow="expired" in words.lower())


def _short(words: str) -> str:
    line = " ".join(words.split())
    return line if len(line) <= 200 else f"{line[:197]}..."


def _folder(url: str) -> tuple[Any, str]:
    parts = split_address(url)
    path = re.sub(r"^/*", "/", parts.path)
    return _client().FileSystem(f"{parts.scheme}://{parts.netloc}"), path + (f"?{parts.query}" if parts.query else "")


def _list_folder(url: str) -> list[Entry]:
    client = _client()
    system, path = _folder(url)
    flags = client.flags.DirListFlags.STAT

    def once(stall_s: float) -> list[Entry]:
        status, found = system.dirlist(path, flags, timeout=int(max(stall_s, _OPEN_S)))
        if not status.ok:
            raise _failed(status, [value for _, value in secrets_in(url)])
        return [Entry(one.name, _is_directory(one.statinfo)) for one in found]

    return ask(shown(url), "cannot be listed", once)


def _is_folder(url: str) -> bool:
    system, path = _folder(url)

    def once(stall_s: float) -> bool:
        status, found = system.stat(path, timeout=int(max(stall_s, _OPEN_S)))
        if not status.ok:
            raise _failed(status, [value for _, value in secrets_in(url)])
        return _is_directory(found)

    return ask(shown(url), "cannot be found", once)


def _is_directory(found: Any) -> bool:
    return found is not None and bool(int(found.flags) & _client().flags.StatInfoFlags.IS_DIR)
