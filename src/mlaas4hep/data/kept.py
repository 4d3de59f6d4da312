"""What is kept of one source file on a local disk: rows, what belongs beside them, and a journal.

A block of rows is appended for each chunk that is read; its line in the journal is written after its rows. Any number
of processes append, one at a time, and read. Files are opened when they are needed and closed again, so that there may
be any number of them. A block is compared with its checksum before any of it is used. Invariant: rows of one name
(`Block.made`) never change, so what the journal said once is right or gone.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sys
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.checksum import Checksum
from mlaas4hep.data.fates import Fates, parts_of_rows
from mlaas4hep.data.journal import LINE_BYTES, Block, Journal, boot_id, line_of, read_all
from mlaas4hep.data.mapped import map_file
from mlaas4hep.data.rows import Rows
from mlaas4hep.data.split import PARTS
from mlaas4hep.errors import DataError

# What grants bytes while they are written.
Grant = Callable[[int], AbstractContextManager[None]]

SIDES = 3
"""Numbers of 64 bits beside each row: entry, weight, label."""
_BESIDE = ("table", "sides", "fates")
"""Endings of the files beside the journal, in the order in which a block's checksum takes them."""

Segment = tuple[int, int, Block | None]


class LostError(DataError):
    """Rows that the journal tells of are not there any more, cannot be read, or are damaged."""


def kept_bytes(rows: int, width: int, entries: int) -> int:
    """Bytes on disk of so many rows, out of so many entries, without the journal."""
    return rows * (4 * width + 8 * SIDES) + entries


class CachedFile:
    """What is kept of one source file. May be shared by threads; `append` may be called by any of them.

    Parameters
    ----------
    path
        Without ending.
    width
        Numbers a row.
    checked
        Blocks that were found to be what was written, of any file; those of this one are added.

    Raises
    ------
    DataError
        The journal is there, but cannot be read.
    """

    def __init__(self, path: Path, width: int, *, checked: set[Block] | None = None) -> None:
        self.path, self.width = path, width
        self._lock = threading.Lock()
        self._notes = Journal()
        self._checked = set[Block]() if checked is None else checked
        self._refresh()

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Whole blocks by entries; they do not overlap."""
        with self._lock:
            return tuple(self._notes.blocks)

    @property
    def damage(self) -> str:
        """What is wrong with it as a whole, in words: whoever writes next begins anew. Empty where nothing is."""
        with self._lock:
            return self._notes.damage

    def segments(self, start: int, stop: int) -> tuple[Segment, ...]:
        """An entry range as pieces that lie in one block each, and pieces (None) that are not kept."""
        with self._lock:
            found = tuple(self._notes.segments(start, stop))
            if any(block is None for _, _, block in found):
                self._refresh()
                found = tuple(self._notes.segments(start, stop))
            return found

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
        LostError
            They are not there any more.
        """
        found = [self._rows(block, *one) for one in self._ranges(block, start, stop, part)]
        if len(found) == 1 and (part is not None or max(block.parts) == len(found[0][1])):
            return found[0]
        tables, sides = (np.concatenate(one) for one in zip(*found, strict=True))
        order = np.argsort(sides[:, 0], kind="stable")
        return tables[order], sides[order]

    def fates(self, block: Block, start: int, stop: int) -> Fates:
        """What became of each of these entries of a block; raises `LostError` as `read` does."""
        return np.frombuffer(self._bytes(block, "fates", start, stop - start), dtype=np.uint8)

    def check(self, block: Block) -> None:
        """Compare a block with its checksum, once.

        Raises
        ------
        LostError
            The disk says something else than was written, or it is not there any more.
        """
        if block in self._checked:
            return
        found, rows = Checksum(), (block.row, block.last_row)
        for ending, unit, (low, high) in zip(
            _BESIDE, (4 * self.width, 8 * SIDES, 1), (rows, rows, (block.start, block.stop)), strict=True
        ):
            with self._reading(block, ending) as read:
                found.add_read(read, low * unit, (high - low) * unit)
        if str(found) != block.checksum:
            name = self._name(block.made, "*")
            raise LostError(f"{name}: what is kept of the entries {block.start} to {block.stop} is damaged")
        self._checked.add(block)

    def unchecked(self, start: int, stop: int) -> list[Block]:
        """Blocks with some of these entries that `check` did not find whole yet."""
        return [one for _, _, one in self.segments(start, stop) if one is not None and one not in self._checked]

    def drop(self, block: Block) -> None:
        """Forget a block, so that its entries can be kept again; `OSError` where that cannot be written.

        Its rows stay where they are: others may have found them whole before.
        """
        with self._lock, self._writing() as journal:
            if block in self._notes.blocks:
                self._note(journal, ["lost", block.start, block.row])

    def renew(self) -> None:
        """Begin anew where it is damaged as a whole; `OSError` where that cannot be written."""
        with self._lock, self._writing():
            pass

    def append(self, start: int, rows: Rows, fates: Fates, *, grant: Grant | None = None) -> None:
        """Keep what was made of the entries from ``start`` on; only what is not kept yet.

        Parameters
        ----------
        rows
            In the order of their entries.
        fates
            Of all entries, those without a row included.
        grant
            Asked for the bytes that are about to be written; what it raises comes out, and nothing was written.

        Raises
        ------
        OSError
            It cannot be written; what was kept before is still there.
        """
        entries = rows.entries["entry"]
        with self._lock, self._writing() as journal:
            for low, high, block in tuple(self._notes.segments(start, start + len(fates))):
                if block is None:
                    first, last = np.searchsorted(entries, (low, high)).tolist()
                    self._put(journal, low, rows.view(first, last), fates[low - start : high - start], grant)

    def map(self, blocks: Sequence[Block]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Table (as bits) and sides with the rows of some blocks, mapped: uint32 [rows, width] and int64 [rows, 3].

        Raises
        ------
        DataError
            They are not there any more.
        """
        names, rows = {one.made for one in blocks}, max((one.last_row for one in blocks), default=0)
        if len(names) > 1:
            raise DataError(f"{self.path}: was removed and made anew while it was looked at; start again")
        if not rows:
            return np.zeros((0, self.width), np.uint32), np.zeros((0, SIDES), np.int64)
        table = map_file(self._name(blocks[0].made, "table"), rows * 4 * self.width)
        sides = map_file(self._name(blocks[0].made, "sides"), rows * 8 * SIDES)
        return table.view(np.uint32).reshape(rows, self.width), sides.view(np.int64).reshape(rows, SIDES)

    def settle(self) -> None:
        """Make what is there survive the machine; `OSError` where it cannot be written."""
        with self._lock:
            if self._notes.settled or not self._notes.blocks:
                return
            with self._writing() as journal:
                if not self._notes.blocks:
                    return  # it was removed meanwhile
                for ending in _BESIDE:
                    with _opened(self._name(self._notes.made, ending), os.O_RDWR) as file:
                        os.fsync(file)
                self._note(journal, ["settled"])
                os.fsync(journal)

    @contextmanager
    def _writing(self) -> Iterator[int]:
        """The journal for the one who writes, for a moment: among processes by a lock on it."""
        journal = _open_locked(f"{self.path}.journal")
        try:
            self._catch_up(journal)
            os.ftruncate(journal, self._notes.offset)  # half a line of one that was killed
            if not self._notes.made or self._notes.damage:
                self._begin_anew(journal)
            if self._notes.boot != boot_id():
                self._note(journal, ["boot", boot_id()])
            yield journal
        finally:
            fcntl.flock(journal, fcntl.LOCK_UN)  # a process forked meanwhile holds the file open, and must not the lock
            os.close(journal)

    def _begin_anew(self, journal: int) -> None:
        """Under another name: whoever knows the old one finds nothing, rather than other rows."""
        if self._notes.damage:  # which may be that it is not known any more what the old name was
            for one in self.path.parent.glob(f"{self.path.name}.*.*"):
                one.unlink(missing_ok=True)
        os.ftruncate(journal, 0)
        self._notes = Journal()
        self._note(journal, ["made", secrets.token_hex(8)])

    def _put(self, journal: int, start: int, rows: Rows, fates: Fates, grant: Grant | None) -> None:
        """Write one block, where there is room for it."""
        lines = 1 if self._notes.next_row else 2  # a journal begins with a line of its own
        size = kept_bytes(len(rows), self.width, len(fates)) + lines * LINE_BYTES
        with grant(size) if grant is not None else nullcontext():
            self._put_granted(journal, start, rows, fates)

    def _put_granted(self, journal: int, start: int, rows: Rows, fates: Fates) -> None:
        """Write one block, by part."""
        parts = parts_of_rows(fates)
        ordered = rows.take(np.argsort(parts, kind="stable"))
        sides = np.empty((len(rows), SIDES), dtype=np.int64)
        sides[:, 0], sides[:, 2] = ordered.entries["entry"], ordered.labels
        sides[:, 1] = ordered.weights.view(np.int64)
        row = self._notes.next_row
        try:
            self._write("fates", fates, start)
            self._write("sides", sides, row * 8 * SIDES)
            self._write("table", ordered.table, row * 4 * self.width)
        except OSError:
            self._cut_off(row)
            raise
        checksum = Checksum()
        for one in (ordered.table, sides, fates):
            checksum.add(one)
        by_part = np.bincount(parts, minlength=len(PARTS)).tolist()
        self._note(journal, [start, start + len(fates), row, str(checksum), *by_part])

    def _write(self, ending: str, array: NDArray[Any], offset: int) -> None:
        with _opened(self._name(self._notes.made, ending), os.O_RDWR | os.O_CREAT) as file:
            write_at(file, array, offset)

    def _cut_off(self, row: int) -> None:
        """Give back the room of rows that did not fit entirely."""
        for ending, size in (("table", 4 * self.width), ("sides", 8 * SIDES)):
            name = self._name(self._notes.made, ending)
            if _size(name) > row * size:
                os.truncate(name, row * size)

    def _note(self, journal: int, words: list[Any]) -> None:
        line = line_of(words)
        write_at(journal, np.frombuffer(line, np.uint8), self._notes.offset)
        self._notes.take(words, line)

    def _refresh(self) -> None:
        """Read what another process has added to the journal."""
        name = f"{self.path}.journal"
        try:
            with _opened(name, os.O_RDONLY) as journal:
                self._catch_up(journal)
        except FileNotFoundError:
            self._notes = Journal()
        except OSError as error:
            raise DataError(f"cache {name}: cannot be read: {error.strerror}") from error

    def _catch_up(self, journal: int) -> None:
        self._notes = self._notes.catch_up(journal)
        table, sides, fates = (_size(self._name(self._notes.made, one)) for one in _BESIDE)
        self._notes.leave_out(min(table // (4 * self.width), sides // (8 * SIDES)), fates)

    def _name(self, made: str, ending: str) -> str:
        return f"{self.path}.{made}.{ending}"

    def _ranges(self, block: Block, start: int, stop: int, part: int | None) -> list[tuple[int, int]]:
        """First row and number of rows of each part of the entries from ``start`` to ``stop``; of all in one if so."""
        if start <= block.start and block.stop <= stop:
            return [block.rows_of(part)]
        parts = range(len(block.parts)) if part is None else [part]
        with self._reading(block, "sides") as read:

            def entry(row: int) -> int:
                return int.from_bytes(read(row * 8 * SIDES, 8), sys.byteorder)

            found = []
            for first, count in map(block.rows_of, parts):
                rows = range(first, first + count)
                low, high = bisect_left(rows, start, key=entry), bisect_left(rows, stop, key=entry)
                found.append((first + low, high - low))
        return found

    def _rows(self, block: Block, first: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        table = np.frombuffer(self._bytes(block, "table", first * 4 * self.width, count * 4 * self.width), np.float32)
        sides = np.frombuffer(self._bytes(block, "sides", first * 8 * SIDES, count * 8 * SIDES), np.int64)
        return table.reshape(count, self.width), sides.reshape(count, SIDES)

    def _bytes(self, block: Block, ending: str, offset: int, size: int) -> bytes:
        with self._reading(block, ending) as read:
            return read(offset, size)

    @contextmanager
    def _reading(self, block: Block, ending: str) -> Iterator[Callable[[int, int], bytes]]:
        """What reads so many bytes from an offset on."""
        name = self._name(block.made, ending)

        def read(offset: int, size: int) -> bytes:
            data = read_all(file, offset, size)
            if len(data) != size:
                raise LostError(f"{name}: is shorter than its journal says")
            return data

        try:
            with _opened(name, os.O_RDONLY) as file:
                yield read
        except LostError:
            self._look_again()
            raise
        except OSError as error:
            self._look_again()
            raise LostError(f"{name}: cannot be read: {error.strerror}") from error

    def _look_again(self) -> None:
        with self._lock:
            self._refresh()


@contextmanager
def _opened(name: str, flags: int) -> Iterator[int]:
    file = os.open(name, flags | os.O_CLOEXEC, 0o644)
    try:
        yield file
    finally:
        os.close(file)


def _open_locked(name: str) -> int:
    """A file, made where it is not there, and locked: the one of this name, not one that was removed meanwhile."""
    while True:
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_named(file, name):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _is_named(file: int, name: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(name))
    except FileNotFoundError:
        return False


def _size(name: str) -> int:
    try:
        return os.stat(name).st_size
    except FileNotFoundError:
        return 0


def write_at(file: int, array: NDArray[Any], offset: int) -> None:
    """All bytes of an array at an offset; `OSError` where they cannot be written, such as on a full disk."""
    view = np.ascontiguousarray(array).view(np.uint8).reshape(-1).data
    at = offset
    while len(view):
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written
