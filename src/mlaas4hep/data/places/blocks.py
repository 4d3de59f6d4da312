"""Blocks of a far file that are kept, for the small reads with which a file is opened.

A format reads a header, a footer, a directory, one after the other: each would cost a round trip. Invariant: blocks
change the number of requests, never the bytes; no more than `KEPT` of them are held.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from mlaas4hep.data.places import Buffer
from mlaas4hep.data.places.ranges import Range

BLOCK_BYTES = 256 * 1024
KEPT = 8
# Reads of up to so many bytes go by blocks; longer ones know what they want.
SMALL_BYTES = 128 * 1024
# But not where they are all over the file: most of each block would be in vain.
_MOST_AT_ONCE = 4
# Directories, footers and lists of baskets stand at the end: the first read there brings so much of it.
TAIL_BYTES = 1024 * 1024


class Blocks:
    """May be shared by threads.

    Parameters
    ----------
    size
        Of the file.
    head
        First bytes of it that are there already.
    fetch
        Brings ranges.
    """

    def __init__(self, size: int, head: bytes, fetch: Callable[[Sequence[Range]], list[memoryview]]) -> None:
        self._size = size
        self._head = head
        self._fetch = fetch
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, memoryview] = OrderedDict()

    def read(self, ranges: Sequence[Range]) -> list[Buffer]:
        """Bytes of ranges inside the file."""
        if all(stop <= len(self._head) for _, stop in ranges):
            return [self._head[start:stop] for start, stop in ranges]
        numbers = {number for one in ranges for number in _numbers(one)}
        if sum(stop - start for start, stop in ranges) > SMALL_BYTES or len(numbers) > _MOST_AT_ONCE:
            return list(self._fetch(ranges))
        found = self._blocks(numbers)
        return [self._cut(found, start, stop) for start, stop in ranges]

    def _blocks(self, wanted: set[int]) -> dict[int, memoryview]:
        with self._lock:
            found = {number: self._kept[number] for number in wanted if number in self._kept}
            missing = wanted - found.keys()
            for number in found:
                self._kept.move_to_end(number)
        if missing:
            brought = self._bring(missing)
            found |= brought
        return found

    def _bring(self, missing: set[int]) -> dict[int, memoryview]:
        tail = set(_numbers((max(self._size - TAIL_BYTES, 0), self._size)))
        if missing & tail:
            missing = missing | tail
        numbers = sorted(missing)
        ranges = [(one * BLOCK_BYTES, min((one + 1) * BLOCK_BYTES, self._size)) for one in numbers]
        brought = dict(zip(numbers, self._fetch(ranges), strict=True))
        with self._lock:
            # Copies, since a part of a longer answer would keep all of it in memory.
            self._kept.update((number, memoryview(bytes(one))) for number, one in brought.items())
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return brought

    def _cut(self, found: dict[int, memoryview], start: int, stop: int) -> bytes:
        parts = []
        for number in _numbers((start, stop)):
            base = number * BLOCK_BYTES
            parts.append(found[number][max(start - base, 0) : stop - base])
        return b"".join(parts)


def _numbers(one: Range) -> range:
    """Blocks that hold bytes of a range."""
    start, stop = one
    return range(start // BLOCK_BYTES, -(-stop // BLOCK_BYTES)) if stop > start else range(0)
