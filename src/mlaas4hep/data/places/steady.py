"""A far file as a place: few requests, sent again when they fail, to whichever replica answers.

One wrapper for all far kinds: ranges are joined and cut (`ranges`), pieces fetched side by side and tried again
(`persist`), small reads answered from blocks (`blocks`). Invariant: what is read is what a replica of the announced
size holds, or a `DataError` says why not. Wrong bytes of the right length cannot be seen here: formats have checksums.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from mlaas4hep.data.places import Buffer, persist
from mlaas4hep.data.places.blocks import Blocks
from mlaas4hep.data.places.effort import PROCESS, Effort, Ledger
from mlaas4hep.data.places.persist import Patience, Persistence, in_parallel
from mlaas4hep.data.places.ranges import Fetch, Piece, Range, bundles
from mlaas4hep.data.places.remote import Failed, Remote, Replica
from mlaas4hep.errors import DataError

# Requests under way for one read. Two fill a link of 50 ms and 40 MB/s when each is a whole cluster; small pieces wait
# for their round trip, and eight at a time bring twice as much as four.
PARALLEL = 8


class SteadyPlace:
    """One file with one or more replicas. May be shared by threads.

    Parameters
    ----------
    replicas
        In the order of preference; the first is the file's name.
    patience
        By default `mlaas4hep.data.places.persist.PATIENCE`.

    Raises
    ------
    DataError
        No replica can be opened.
    """

    block_bytes = 4 * 1024 * 1024
    """What a reader that goes through the file in order does well to ask for at a time."""

    def __init__(self, replicas: Sequence[Replica], *, patience: Patience | None = None) -> None:
        self.url = replicas[0].url
        self._ledger = Ledger(PROCESS)
        self._persistence = Persistence(replicas, patience or persist.PATIENCE, self._ledger)
        self._closed = False
        first = self._persistence.carry_out("cannot be opened", lambda remote, stall_s: remote)
        self.size = self._persistence.size = first.size
        # Two files may be of one size and one time: servers' entity tags are often made of no more.
        path = self.url.partition("://")[2].partition("/")[2]
        self.identity = f"{first.identity}-{hashlib.sha256(path.encode()).hexdigest()[:12]}"
        self._most_pieces, self._piece_bytes = first.most_pieces, first.piece_bytes
        self._blocks = Blocks(first.size, first.head, self._fetch)

    @property
    def retries(self) -> int:
        """How often something had to be asked again."""
        return self.effort.retries

    @property
    def effort(self) -> Effort:
        """What reading from this place cost so far."""
        return self._ledger.so_far()

    def read(self, ranges: Sequence[Range]) -> list[Buffer]:
        """See `mlaas4hep.data.places.Place.read`."""
        if self._closed:
            raise DataError(f"{self.url}: is closed")
        for start, stop in ranges:
            if not 0 <= start <= stop <= self.size:
                raise DataError(f"{self.url}: ends at byte {self.size}, but {start} to {stop} were asked for")
        return self._blocks.read(ranges)

    def close(self) -> None:
        """See `mlaas4hep.data.places.Place.close`."""
        self._closed = True
        self._persistence.close()

    def _fetch(self, ranges: Sequence[Range]) -> list[memoryview]:
        fetch = Fetch(ranges, piece_bytes=self._piece_bytes)
        requests = bundles(fetch.pieces, most=self._most_pieces, most_bytes=self._piece_bytes)
        in_parallel([self._task(pieces) for pieces in requests], PARALLEL)
        return fetch.results()

    def _task(self, pieces: list[Piece]) -> Callable[[], None]:
        return lambda: self._fill(pieces)

    def _fill(self, pieces: list[Piece]) -> None:
        left = _Left(pieces)
        what = f"bytes {pieces[0].start} to {pieces[-1].stop} cannot be read"
        self._persistence.carry_out(what, left.fetch)
        self._ledger.note(bytes=sum(len(one.view) for one in pieces))


class _Left:
    """Pieces of one request, and what of them is still to come."""

    def __init__(self, pieces: list[Piece]) -> None:
        self._pieces = pieces

    def fetch(self, remote: Remote, stall_s: float) -> None:
        """One attempt; what it brought is not asked for again."""
        try:
            self._fetch(remote, stall_s)
        except Failed as failed:
            if failed.filled:
                self._pieces = [self._pieces[0].rest(failed.filled), *self._pieces[1:]]
            raise

    def _fetch(self, remote: Remote, stall_s: float) -> None:
        """Replicas may differ in how many pieces they take at once."""
        while self._pieces:
            taken = self._pieces[: remote.most_pieces]
            remote.fetch(taken, stall_s)
            self._pieces = self._pieces[len(taken) :]
