"""What a far place must be able to do for `mlaas4hep.data.places.steady`, which does the rest.

A `Remote` is one connection to one replica and tries once. Invariant: an attempt fills all its pieces with the bytes
that the replica holds there, or raises: `Failed` where it may be tried again or elsewhere, `DataError` where nothing
helps, as when the file was changed meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mlaas4hep.data.places import Place
from mlaas4hep.data.places.ranges import PIECE_BYTES, Piece
from mlaas4hep.errors import DataError


class Failed(Exception):
    """One attempt that failed.

    Parameters
    ----------
    reason
        In words, without credentials.
    again
        Whether the same replica may answer next time.
    filled
        How many bytes of the first piece are there and good.
    wait_s
        How long the server asks to wait.
    slow
        Whether it failed for want of patience.
    """

    def __init__(
        self, reason: str, *, again: bool = True, filled: int = 0, wait_s: float = 0.0, slow: bool = False
    ) -> None:
        super().__init__(reason)
        self.slow = slow
        self.reason = reason
        self.again = again
        self.filled = filled
        self.wait_s = wait_s

    def again_for_another(self) -> Failed:
        """The same failure, for another thread that ran into it."""
        return Failed(self.reason, again=self.again, wait_s=self.wait_s, slow=self.slow)


class Remote(Protocol):
    """A connection to one replica. May be shared by threads."""

    url: str
    """As it is named in messages."""
    size: int
    identity: str
    head: bytes
    """First bytes of the file, where opening brought them anyway; all of them where it cannot give ranges."""
    most_pieces: int
    """One request answers so many pieces."""
    piece_bytes: int
    """And no piece is longer."""

    def fetch(self, pieces: Sequence[Piece], patience_s: float) -> None:
        """Fill pieces, once; give up after ``patience_s`` seconds without progress.

        Raises
        ------
        Failed
            With a reason.
        DataError
            The file was changed since it was opened.
        """
        ...

    def close(self) -> None:
        """Give the connection back."""
        ...


@dataclass(frozen=True)
class Replica:
    """One address of a file, and how it is opened: with patience in seconds, once."""

    url: str
    open: Callable[[float], Remote]


@runtime_checkable
class RemoteKind(Protocol):
    """A kind of places whose addresses are replicas."""

    def replica(self, url: str) -> Replica:
        """The replica behind an address; nothing is asked yet."""
        ...


class PlaceRemote:
    """Any place as a replica: a local copy, or a kind of another package that does its own retries."""

    head = b""
    most_pieces = 1 << 20
    piece_bytes = PIECE_BYTES

    def __init__(self, place: Place) -> None:
        self._place = place
        self.url, self.size, self.identity = place.url, place.size, place.identity

    def fetch(self, pieces: Sequence[Piece], patience_s: float) -> None:
        """See `Remote.fetch`."""
        try:
            found = self._place.read([(one.start, one.stop) for one in pieces])
        except DataError as error:
            raise Failed(str(error).removeprefix(f"{self.url}: "), again=False) from error
        for piece, data in zip(pieces, found, strict=True):
            piece.view[:] = data

    def close(self) -> None:
        """See `Remote.close`."""
        self._place.close()


def replica_of(url: str, open_place: Callable[[str], Place]) -> Replica:
    """A replica for an address of a kind that has none of its own."""

    def open_once(_: float) -> Remote:
        try:
            return PlaceRemote(open_place(url))
        except DataError as error:
            raise Failed(str(error).removeprefix(f"{url}: "), again=False) from error

    return Replica(url, open_once)


def system_reason(error: BaseException) -> str | None:
    """What the operating system said below an exception of a library, without the library's addresses."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno:
            return (os.strerror(error.errno) if error.errno > 0 else error.strerror or "no such host").lower()
        nested = error.__cause__ or error.__context__ or next(
            (one for one in error.args if isinstance(one, BaseException)), None
        )  # fmt: skip
        if nested is None:
            return None
        error = nested
    return None
