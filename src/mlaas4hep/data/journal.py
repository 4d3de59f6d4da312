"""The journal of a kept file: which entries are kept, and where their rows stand.

A line a block, each with a checksum of its own and one of what it tells of, after a line that names what was made;
further lines tell of blocks that were found damaged, when the machine was started anew, and when what stood there by
then had reached the disk. Invariant: a block counts only if its line stands whole, if no later one says that it is
lost, and if the machine was not stopped between writing it and settling.
"""

from __future__ import annotations

import json
import os
import zlib
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

LINE_BYTES = 128
"""More than a line takes."""


@dataclass(frozen=True, order=True)
class Block:
    """Entries ``start`` to ``stop`` of the source: their rows by part, from ``row`` on.

    Parameters
    ----------
    start, stop
        Entry range.
    row
        First row in the table.
    parts
        Rows of each part of the split, one after the other, each in the order of entries.
    checksum
        Of all its bytes: see `mlaas4hep.data.checksum`.
    made
        Names the files that hold them.
    """

    start: int
    stop: int
    row: int
    parts: tuple[int, ...]
    checksum: str
    made: str

    @property
    def last_row(self) -> int:
        """The row behind its last one."""
        return self.row + sum(self.parts)

    def rows_of(self, part: int | None) -> tuple[int, int]:
        """First row and number of rows of a part; of all of them for None."""
        if part is None:
            return self.row, sum(self.parts)
        return self.row + sum(self.parts[:part]), self.parts[part]


class Journal:
    """What a journal says, as far as it was read.

    Attributes
    ----------
    made
        Names the files beside it: another name, and nothing of what was known before holds.
    blocks
        By entries; they do not overlap.
    next_row
        Where the next block goes.
    offset
        Bytes that were read.
    boot, settled
        When it was written last; whether all of it had reached the disk by then.
    damage
        What is wrong with it, or with the length of the files beside it, in words; empty where nothing is.
    """

    def __init__(self) -> None:
        self.made = ""
        self.blocks: list[Block] = []
        self.next_row = 0
        self.offset = 0
        self.boot = ""
        self.settled = False
        self._short = self._torn = False
        # Written before the machine was started anew, and not known to have reached the disk.
        self._doubtful: list[Block] = []
        self._head = b""
        self._last_row = self._last_entry = 0

    @property
    def damage(self) -> str:
        """See above."""
        if self._torn:
            return "its journal is damaged"
        return "is shorter than its journal says" if self._short else ""

    def catch_up(self, file: int) -> Journal:
        """What it says now: the same with what was added, or another where it was made anew."""
        now = self if read_all(file, 0, len(self._head)) == self._head else Journal()
        now._torn = False
        for line in read_all(file, now.offset).split(b"\n")[:-1]:
            words = _words(line)
            if words is None:
                now._torn = True  # whole and wrong: one that was killed leaves a line without an end
                break
            now.take(words, line + b"\n")
        return now

    def within(self, start: int, stop: int) -> list[Block]:
        """Blocks that hold some of the entries."""
        low = bisect_right(self.blocks, start, key=lambda one: one.stop)
        high = bisect_left(self.blocks, stop, key=lambda one: one.start)
        return self.blocks[low:high]

    def segments(self, start: int, stop: int) -> Iterator[tuple[int, int, Block | None]]:
        """An entry range as pieces that lie in one block each, and pieces (None) that are not kept."""
        at = start
        for block in self.within(start, stop):
            if at < block.start:
                yield at, block.start, None
            yield max(at, block.start), min(stop, block.stop), block
            at = block.stop
        if at < stop:
            yield at, stop, None

    def leave_out(self, rows: int, entries: int) -> None:
        """Forget blocks that reach beyond what the files beside it hold."""
        if self._last_row > rows or self._last_entry > entries:
            self._short = True
            self.blocks = [one for one in self.blocks if one.last_row <= rows and one.stop <= entries]

    def take(self, words: list[Any], line: bytes) -> None:
        """Add what a line says."""
        self.offset += len(line)
        self.settled = words == ["settled"]
        match words:
            case ["made", made]:
                self.made, self._head = made, line
            case ["boot", boot]:
                # Blocks that were not settled by then are nobody's: later settling does not speak for them.
                self.boot, self._doubtful = boot, []
            case ["settled"]:
                doubtful, self._doubtful = self._doubtful, []
                for block in doubtful:
                    self._count(block)
            case ["lost", start, row]:
                self.blocks = [one for one in self.blocks if (one.start, one.row) != (start, row)]
                self._doubtful = [one for one in self._doubtful if (one.start, one.row) != (start, row)]
            case [start, stop, row, str(checksum), *parts]:
                block = Block(start, stop, row, tuple(parts), checksum, self.made)
                self.next_row = max(self.next_row, block.last_row)
                if self.boot != boot_id():
                    self._doubtful.append(block)
                else:
                    self._count(block)

    def _count(self, block: Block) -> None:
        if not self.within(block.start, block.stop):
            insort(self.blocks, block)
            self._last_row = max(self._last_row, block.last_row)
            self._last_entry = max(self._last_entry, block.stop)


def line_of(words: list[Any]) -> bytes:
    """A line with its checksum."""
    text = json.dumps(words, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _words(line: bytes) -> list[Any] | None:
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    found: list[Any] = json.loads(text)
    return found


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Differs after the machine was started anew."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def read_all(file: int, offset: int, size: int | None = None) -> bytes:
    """Bytes from an offset on, up to the end of the file or so many."""
    wanted = os.fstat(file).st_size - offset if size is None else size
    parts = []
    while wanted > 0:
        part = os.pread(file, wanted, offset)
        if not part:
            break
        parts.append(part)
        wanted, offset = wanted - len(part), offset + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
