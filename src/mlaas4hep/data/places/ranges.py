"""Which requests answer the ranges that were asked for.

A far place charges each request a round trip, so that ranges with small gaps are fetched as one; a long one is fetched
in pieces side by side. Invariant: every byte asked for is in exactly one piece, and lands where it belongs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Range = tuple[int, int]

# A gap costs its bytes, another request up to a round trip: at 40 MB/s and 50 ms that is 2 MB for one request after the
# other. Several requests are under way at a time, and links are slower too, so far less pays.
GAP_BYTES = 64 * 1024
# Long enough that a round trip of 50 ms is small beside it at 40 MB/s (0.1 s), short enough that a cluster of 10 MB is
# fetched by several connections; 1 MiB took a fifth longer there, 8 MiB as long.
PIECE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Piece:
    """Bytes that are fetched in one go: from ``start`` on, into ``view``."""

    start: int
    view: memoryview

    @property
    def stop(self) -> int:
        """Behind the last byte."""
        return self.start + len(self.view)

    def rest(self, filled: int) -> Piece:
        """What is left of it when its first bytes are there."""
        return Piece(self.start + filled, self.view[filled:])


class Fetch:
    """Memory for some ranges, the pieces that fill it, and the ranges again when it is filled.

    Parameters
    ----------
    ranges
        Start and stop of each, in any order; they may overlap.
    gap_bytes
        Ranges with gaps up to that are joined.
    piece_bytes
        No piece is longer.
    """

    def __init__(self, ranges: Sequence[Range], *, gap_bytes: int = GAP_BYTES, piece_bytes: int = PIECE_BYTES) -> None:
        self._ranges = ranges
        self._joined = join(ranges, gap_bytes)
        self._memory = [memoryview(bytearray(stop - start)) for start, stop in self._joined]
        self.pieces = [
            Piece(start + at, memory[at : at + piece_bytes])
            for (start, _), memory in zip(self._joined, self._memory, strict=True)
            for at in range(0, len(memory), piece_bytes)
        ]

    def results(self) -> list[memoryview]:
        """The ranges in the order asked for; parts of the memory that the pieces have filled."""
        order = sorted(range(len(self._ranges)), key=lambda number: self._ranges[number])
        found: dict[int, memoryview] = {}
        at = 0
        for number in order:
            start, stop = self._ranges[number]
            if start == stop:
                found[number] = memoryview(b"")
                continue
            while self._joined[at][1] < stop:
                at += 1
            base = self._joined[at][0]
            found[number] = self._memory[at][start - base : stop - base].toreadonly()
        return [found[number] for number in range(len(self._ranges))]


def join(ranges: Sequence[Range], gap_bytes: int = GAP_BYTES) -> list[Range]:
    """Sorted ranges without overlap that cover those asked for; empty ones are left out.

    Examples
    --------
    >>> join([(50, 60), (0, 10), (12, 20), (5, 8)], 2)
    [(0, 20), (50, 60)]
    """
    joined: list[Range] = []
    for start, stop in sorted(one for one in ranges if one[1] > one[0]):
        if joined and start - joined[-1][1] <= gap_bytes:
            joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
        else:
            joined.append((start, stop))
    return joined


def bundles(pieces: Sequence[Piece], *, most: int, most_bytes: int) -> list[list[Piece]]:
    """Pieces that go into one request, where a place answers several at once; in order.

    Parameters
    ----------
    most
        Pieces a request.
    most_bytes
        Bytes a request, more where one piece has more.
    """
    found: list[list[Piece]] = []
    held = 0
    for piece in pieces:
        if not found or len(found[-1]) >= most or held + len(piece.view) > most_bytes:
            found.append([])
            held = 0
        found[-1].append(piece)
        held += len(piece.view)
    return found
