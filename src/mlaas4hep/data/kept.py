"""What is kept of one source file on a local disk: rows, what belongs beside them, and a journal.

A block of rows is appended for each chunk that is read; its line in the journal is written after its rows. Any number
of processes append, one at a time, and read. Invariant: a block counts only if its line stands whole in the journal,
and if the machine was not stopped between writing it and settling.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import threading
import zlib
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.rows import Rows
from mlaas4hep.data.split import PARTS
from mlaas4hep.errors import DataError

SIDES = 3
"""Numbers of 64 bits beside each row: entry, weight, label."""


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
    entries
        Entries of each part, those that a selection cut away included.
    unlabelled
        Entries of each part that are selected, but have no class, or no value of a target.
    """

    start: int
    stop: int
    row: int
    parts: tuple[int, ...]
    entries: tuple[int, ...]
    unlabelled: tuple[int, ...] = (0,) * len(PARTS)

    def entries_of(self, part: int, start: int, stop: int) -> int:
        """Entries of a part in a range of the block: in proportion, so that ranges add up to the whole."""
        return self._in_range(self.entries[part], start, stop)

    def unlabelled_of(self, part: int | None, start: int, stop: int) -> int:
        """Entries without a class, as `entries_of`; of all parts for None."""
        return self._in_range(sum(self.unlabelled) if part is None else self.unlabelled[part], start, stop)

    def _in_range(self, held: int, start: int, stop: int) -> int:
        size = self.stop - self.start
        return held * (stop - self.start) // size - held * (start - self.start) // size

    def rows_of(self, part: int | None) -> tuple[int, int]:
        """First row and number of rows of a part; of all of them for None."""
        if part is None:
            return self.row, sum(self.parts)
        return self.row + sum(self.parts[:part]), self.parts[part]


class CachedFile:
    """What is kept of one source file. May be shared by threads; `append` may be called by any of them.

    Parameters
    ----------
    path
        Without ending.
    width
        Numbers a row.
    """

    def __init__(self, path: Path, width: int) -> None:
        self.path, self.width = path, width
        self._lock = threading.Lock()
        self._blocks: list[Block] = []
        # Written before the machine was started anew, and not known to have reached the disk.
        self._doubtful: list[Block] = []
        self._boot = ""
        self._settled = False
        self._read_of_journal = 0
        self._next_row = 0
        # Held open, so that what another process removes stays there for this one.
        self._open: dict[str, int] = {}
        self._refresh()

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Whole blocks by entries; they do not overlap."""
        with self._lock:
            return tuple(self._blocks)

    def segments(self, start: int, stop: int) -> Iterator[tuple[int, int, Block | None]]:
        """An entry range as pieces that lie in one block each, and pieces (None) that are not kept."""
        with self._lock:
            found = self._within(start, stop)
            if not _covers(found, start, stop):
                self._refresh()
                found = self._within(start, stop)
        at = start
        for block in found:
            if block.stop <= at:
                continue
            if at < block.start:
                yield at, block.start, None
            yield max(at, block.start), min(stop, block.stop), block
            at = block.stop
        if at < stop:
            yield at, stop, None

    def is_whole(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether all entries of some ranges are kept."""
        return all(block is not None for low, high in ranges for _, _, block in self.segments(low, high))

    def read(
        self, block: Block, start: int, stop: int, part: int | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Rows of the entries from ``start`` to ``stop`` that belong to a part (all parts for None), in entry order.

        Returns
        -------
        The table, float32 [n, width], and the sides, int64 [n, 3].

        Raises
        ------
        DataError
            The files are shorter than the journal says.
        """
        first, count = block.rows_of(part)
        sides = np.frombuffer(self._bytes("sides", first, count, 8 * SIDES), dtype=np.int64).reshape(count, SIDES)
        if part is None:
            table = self._rows(first, count)
            order = np.argsort(sides[:, 0], kind="stable")
            kept = order[(sides[order, 0] >= start) & (sides[order, 0] < stop)]
            return table[kept], sides[kept]
        low, high = np.searchsorted(sides[:, 0], (start, stop)).tolist()
        return self._rows(first + low, high - low), sides[low:high]

    def append(
        self,
        start: int,
        stop: int,
        rows: Rows,
        parts: Sequence[int],
        entries: Sequence[int],
        unlabelled: Sequence[int] = (0,) * len(PARTS),
    ) -> None:
        """Keep what was made of an entry range; does nothing where some of it is kept already.

        Parameters
        ----------
        rows
            By part, then by entry.
        parts, entries, unlabelled
            Rows, entries before selection, and selected ones without a class, of each part.
        """
        sides = np.empty((len(rows), SIDES), dtype=np.int64)
        sides[:, 0], sides[:, 1], sides[:, 2] = rows.entries["entry"], rows.weights.view(np.int64), rows.labels
        counts = [tuple(map(int, one)) for one in (parts, entries, unlabelled)]
        with self._lock, self._writing():
            if self._within(start, stop):
                return
            block = Block(start, stop, self._next_row, *counts)
            _write_at(self._open["table"], rows.table, block.row * 4 * self.width)
            _write_at(self._open["sides"], sides, block.row * 8 * SIDES)
            self._note([start, stop, block.row, *block.parts, *block.entries, *block.unlabelled])

    def map(self) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Table (as bits) and sides, mapped: uint32 [rows, width] and int64 [rows, 3]."""
        with self._lock:
            rows = max((block.row + sum(block.parts) for block in self._blocks), default=0)
            if not rows:
                return np.zeros((0, self.width), np.uint32), np.zeros((0, SIDES), np.int64)
            table = mmap.mmap(self._open["table"], rows * 4 * self.width, prot=mmap.PROT_READ)
            sides = mmap.mmap(self._open["sides"], rows * 8 * SIDES, prot=mmap.PROT_READ)
        return (
            np.frombuffer(table, np.uint32).reshape(rows, self.width),
            np.frombuffer(sides, np.int64).reshape(rows, SIDES),
        )

    def settle(self) -> None:
        """Make what is there survive the machine."""
        with self._lock:
            if self._settled or not self._blocks:
                return
            with self._writing():
                for ending in ("table", "sides"):
                    os.fsync(self._open[ending])
                self._note(["settled"])
                os.fsync(self._open["journal"])

    def close(self) -> None:
        """Give the files back."""
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        """A stream that is forgotten gives its files back too."""
        while self._open:
            os.close(self._open.popitem()[1])

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The one who writes, for a moment: among processes by a lock on the journal."""
        if "journal" not in self._open:
            self._open_files(os.O_RDWR | os.O_CREAT)
        journal = self._open["journal"]
        fcntl.flock(journal, fcntl.LOCK_EX)
        try:
            self._refresh()
            os.ftruncate(journal, self._read_of_journal)  # half a line of one that was killed
            if self._boot != _boot():
                self._note(["boot", _boot()])
            yield
        finally:
            fcntl.flock(journal, fcntl.LOCK_UN)

    def _name(self, ending: str) -> str:
        return f"{self.path}.{ending}"

    def _note(self, words: list[Any]) -> None:
        line = _line(words)
        os.pwrite(self._open["journal"], line, self._read_of_journal)
        self._read_of_journal += len(line)
        self._take_note(words)

    def _within(self, start: int, stop: int) -> list[Block]:
        """Blocks that hold some of the entries."""
        low = bisect_right(self._blocks, start, key=lambda one: one.stop)
        high = bisect_left(self._blocks, stop, key=lambda one: one.start)
        return self._blocks[low:high]

    def _refresh(self) -> None:
        """Read what another process has added to the journal."""
        if "journal" not in self._open and not self._open_files(os.O_RDWR):
            return
        data = _read_all(self._open["journal"], self._read_of_journal)
        for line in data.split(b"\n")[:-1]:
            words = _words(line)
            if words is None:
                return
            self._read_of_journal += len(line) + 1
            self._take_note(words)

    def _open_files(self, flags: int) -> bool:
        try:
            for ending in ("table", "sides", "journal"):
                self._open[ending] = os.open(self._name(ending), flags | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            while self._open:
                os.close(self._open.popitem()[1])
            return False
        except OSError as error:
            raise DataError(f"cache {self._name(ending)}: cannot be opened: {error.strerror}") from error
        return True

    def _take_note(self, words: list[Any]) -> None:
        self._settled = words == ["settled"]
        match words:
            case ["boot", boot]:
                # Blocks that were not settled by then are nobody's: later settling does not speak for them.
                self._boot, self._doubtful = boot, []
            case ["settled"]:
                for block in self._doubtful:
                    if not self._within(block.start, block.stop):
                        insort(self._blocks, block)
                self._doubtful = []
            case [start, stop, row, *counts]:
                size = len(PARTS)
                by_part = (tuple(counts[at : at + size]) for at in range(0, len(counts), size))
                block = Block(start, stop, row, *by_part)
                if self._boot != _boot():
                    self._doubtful.append(block)
                elif not self._within(start, stop):
                    insort(self._blocks, block)
                self._next_row = max(self._next_row, row + sum(block.parts))

    def _rows(self, first: int, count: int) -> NDArray[np.float32]:
        data = self._bytes("table", first, count, 4 * self.width)
        return np.frombuffer(data, dtype=np.float32).reshape(count, self.width)

    def _bytes(self, ending: str, first: int, count: int, size: int) -> bytes:
        try:
            data = _read_all(self._open[ending], first * size, count * size)
        except OSError as error:
            raise DataError(f"{self._name(ending)}: cannot be read: {error.strerror}") from error
        if len(data) != count * size:
            raise DataError(
                f"{self._name(ending)}: is shorter than its journal says; remove {self.path}.* to start anew"
            )
        return data


def _covers(blocks: Sequence[Block], start: int, stop: int) -> bool:
    at = start
    for block in blocks:
        if block.start > at:
            return False
        at = block.stop
    return at >= stop


def _line(words: list[Any]) -> bytes:
    text = json.dumps(words, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _words(line: bytes) -> list[Any] | None:
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    found: list[Any] = json.loads(text)
    return found


@lru_cache(maxsize=1)
def _boot() -> str:
    """Differs after the machine was started anew."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _read_all(file: int, offset: int, size: int | None = None) -> bytes:
    wanted = os.fstat(file).st_size - offset if size is None else size
    parts = []
    while wanted > 0:
        part = os.pread(file, wanted, offset)
        if not part:
            break
        parts.append(part)
        wanted, offset = wanted - len(part), offset + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _write_at(file: int, array: NDArray[Any], offset: int) -> None:
    view = np.ascontiguousarray(array).view(np.uint8).reshape(-1).data
    while len(view):
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
