"""Files behind ``http://``, ``https://``, ``dav://`` and ``davs://``.

Ranges are asked for one by one, each with the condition that the file is still the one that was opened. A server that
gives no ranges serves small files only (they are then read whole). Invariant: an answer counts only if its range, its
length and its entity tag are those that were asked for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from urllib.parse import unquote

from mlaas4hep.config.addresses import shown, split_address
from mlaas4hep.data.places import Place
from mlaas4hep.data.places.blocks import BLOCK_BYTES
from mlaas4hep.data.places.listing import expand_address
from mlaas4hep.data.places.ranges import PIECE_BYTES, Piece
from mlaas4hep.data.places.remote import Failed, Replica
from mlaas4hep.data.places.steady import SteadyPlace
from mlaas4hep.data.places.webdav import change_of, folder_of
from mlaas4hep.data.places.wire import Access, Answer, Target, WebAccess, exchange
from mlaas4hep.errors import DataError

# Without ranges the whole file must be fetched and held: no more than that.
WHOLE_BYTES = 16 * 1024 * 1024
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)\Z")
_PORTS = {"http": 80, "https": 443, "dav": 80, "davs": 443}


class HttpFiles:
    """Files of web servers and WebDAV doors; folders and wild cards where the server speaks WebDAV."""

    def open(self, url: str) -> Place:
        """See `mlaas4hep.data.places.PlaceKind.open`."""
        return SteadyPlace([self.replica(url)])

    def replica(self, url: str) -> Replica:
        """See `mlaas4hep.data.places.remote.RemoteKind.replica`."""
        return Replica(shown(url), lambda stall_s: HttpRemote(WebAccess(url), stall_s))

    def expand(self, pattern: str) -> tuple[str, ...]:
        """See `mlaas4hep.data.places.PlaceKind.expand`; one file is not asked for before it is opened."""
        return expand_address(pattern, folder_of, is_folder=None, quoted=True)

    def key(self, url: str) -> object:
        """Host, port and path: scheme, spelling and credentials make no other file."""
        parts, named = split_address(url), split_address(shown(url))
        port = parts.port or _PORTS.get(parts.scheme.lower())
        return "http", parts.hostname, port, unquote(parts.path), named.query


class HttpRemote:
    """One file of one server.

    Parameters
    ----------
    access
        Its address, and who we are.
    stall_s
        Patience for opening it.

    Raises
    ------
    Failed
        It is not there, may not be read, nobody answers, or it gives no ranges and is large.
    """

    most_pieces = 1
    piece_bytes = PIECE_BYTES

    def __init__(self, access: Access, stall_s: float) -> None:
        self.url = access.url
        self._access = access
        self._target = Target()
        self._tag: str | None = None
        self._changed: str | None = None
        # In this spelling: XRootD's servers do not know it in another, whatever HTTP says.
        headers = {"Range": f"bytes=0-{BLOCK_BYTES - 1}"}
        with exchange(access, "GET", headers, stall_s, target=self._target) as answer:
            self.size, self.head = _begin(answer)
            self._tag, self._changed = answer.headers.get("etag"), answer.headers.get("last-modified")
        self.identity = f"{self.size}-{self._version(stall_s)}"

    def fetch(self, pieces: Sequence[Piece], patience_s: float) -> None:
        """See `mlaas4hep.data.places.remote.Remote.fetch`."""
        [piece] = pieces
        headers = {"Range": f"bytes={piece.start}-{piece.stop - 1}", **self._condition()}
        with exchange(self._access, "GET", headers, patience_s, target=self._target) as answer:
            self._check(answer, piece)
            filled = answer.read_into(piece.view)
        if filled < len(piece.view):
            raise Failed(f"the answer ended after {filled} of {len(piece.view)} bytes", filled=filled)

    def close(self) -> None:
        """Connections are shared by all files of a host; nothing is held here."""

    def _version(self, stall_s: float) -> str:
        """What changes with the content: the entity tag, the time of change, or else the first bytes."""
        told = self._tag or self._changed or change_of(self._access, stall_s)
        return told.strip('"') if told else hashlib.sha256(self.head).hexdigest()[:16]

    def _condition(self) -> Mapping[str, str]:
        if self._tag is not None and not self._tag.startswith("W/"):
            return {"If-Match": self._tag}
        return {"If-Unmodified-Since": self._changed} if self._changed is not None else {}

    def _check(self, answer: Answer, piece: Piece) -> None:
        """The file is the one that was opened, and the bytes are those asked for."""
        tag, changed = answer.headers.get("etag", self._tag), answer.headers.get("last-modified", self._changed)
        if answer.status == 412 or (answer.status in (200, 206) and (tag, changed) != (self._tag, self._changed)):
            raise DataError(f"{self.url}: was changed while it was read")
        if answer.status == 404:
            raise Failed("is not there any more (HTTP 404)", again=False)
        told = _RANGE.match(answer.headers.get("content-range", ""))
        if told is None:
            raise Failed(f"bytes {piece.start} to {piece.stop} were asked for, HTTP {answer.status} was answered")
        start, last, size = map(int, told.groups())
        if size != self.size:
            raise DataError(f"{self.url}: was changed while it was read: it had {self.size} bytes, now {size}")
        if (start, last + 1) != (piece.start, piece.stop):
            raise Failed(f"bytes {piece.start} to {piece.stop} were asked for, {start} to {last + 1} were sent")
        if answer.length is not None and answer.length != len(piece.view):
            raise Failed(f"{len(piece.view)} bytes were asked for, {answer.length} were announced")


def _begin(answer: Answer) -> tuple[int, bytes]:
    """Size and first bytes of a file, from the answer to the first request."""
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise Failed(f"the server packs what it sends ({answer.headers['content-encoding']})", again=False)
    if answer.status == 404:
        raise Failed("no such file (HTTP 404)", again=False)
    if answer.status == 416:
        return 0, b""
    if answer.status == 206 or "content-range" in answer.headers:  # some S3 servers send a part with 200
        return _first_part(answer)
    if answer.status != 200:
        raise Failed(f"the server answered HTTP {answer.status}", again=False)
    whole = answer.read_all(WHOLE_BYTES)
    if whole is None:
        size = f"{answer.length} bytes" if answer.length is not None else f"more than {WHOLE_BYTES} bytes"
        raise Failed(
            f"the server gives no ranges of bytes, and the file has {size}; up to {WHOLE_BYTES} would be read whole: "
            "copy it to this machine, or serve it by nginx, XRootD or S3",
            again=False,
        )
    return len(whole), whole


def _first_part(answer: Answer) -> tuple[int, bytes]:
    told = _RANGE.match(answer.headers.get("content-range", ""))
    if told is None or told[1] != "0" or int(told[2]) >= BLOCK_BYTES:
        raise Failed(f"the first bytes were asked for, '{answer.headers.get('content-range', '')}' were sent")
    if int(told[2]) >= int(told[3]):
        # XRootD's servers announce what was asked for where the file ends before, and then send nothing.
        return int(told[3]), b""
    held = memoryview(bytearray(int(told[2]) + 1))
    filled = answer.read_into(held)
    if filled < len(held):
        raise Failed(f"the answer ended after {filled} of {len(held)} bytes")
    return int(told[3]), bytes(held)
