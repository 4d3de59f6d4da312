"""Rows kept on a local disk, so that later epochs and other runs do not touch the source.

The name of what is kept is a hash of the content of the source, of what is read of it and of what is made of it: it is
never stale, and runs share it. Invariant: the folder stays within its limit; what was not used for longest goes first,
and nothing that a living process uses. Who can do without a cache goes on without one that is full or broken.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.fates import Fates
from mlaas4hep.data.journal import Block
from mlaas4hep.data.kept import CachedFile, LostError, kept_bytes
from mlaas4hep.data.room import NoRoomError, Room, free_on_disk, in_words
from mlaas4hep.data.rows import ENTRY, Rows
from mlaas4hep.data.split import PARTS
from mlaas4hep.errors import DataError

FORMAT = 3
_FULL = (errno.ENOSPC, errno.EDQUOT)


class CacheWarning(RuntimeWarning):
    """A cache that cannot be used as asked; the stream goes on without it."""


class RowCache:
    """Kept rows of all files of a stream. May be shared by threads.

    Parameters
    ----------
    folder
        Made where it is not there.
    limit_bytes
        Of all that lies in the folder; what was not used for longest goes first.
    width
        Numbers a row.
    declaration
        Names everything that decides what a row holds, but for the source itself.
    required
        Whether rows that cannot be kept are an error; else the stream goes on without keeping them.
    checked
        See `CachedFile`; what another cache knew may be handed on.

    Raises
    ------
    DataError
        The folder cannot be made or written.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        limit_bytes: int,
        width: int,
        declaration: str,
        required: bool = False,
        checked: set[Block] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._limit = limit_bytes
        self._width = width
        self._declaration = declaration
        self._required = required
        self._checked = set[Block]() if checked is None else checked
        self._lock = threading.RLock()
        self._files: dict[str, CachedFile] = {}
        self._left_out: dict[str, None] = {}
        self._keeps = True
        self._warned = False
        self._room: Room | None = None
        try:
            self._open_room()
        except OSError as error:
            if error.errno not in _FULL:
                raise DataError(self._reason(error, 0)) from error
            self._stop("", self._reason(error, 0), warn=True)

    @property
    def not_kept(self) -> tuple[str, ...]:
        """Names of sources of which some rows were not kept, for want of room or since they could not be written."""
        return tuple(self._left_out)

    def file(self, source: str) -> CachedFile:
        """What is kept of a source, given the identity of its content, its tree, and the sample's selection."""
        key = key_of(self._declaration, source)
        with self._lock:
            if key not in self._files:
                self._use(key)
                self._files[key] = CachedFile(self.folder / key, self._width, checked=self._checked)
                self.renew(self._files[key])  # before any of it is used: else that would not be kept again
            return self._files[key]

    def keep(self, kept: CachedFile, start: int, rows: Rows, fates: Fates, *, name: str) -> None:
        """Keep what was made of the entries from ``start`` on, as far as it is not kept yet.

        After a first time without room nothing more is kept: what does not fit would be tried again each epoch.

        Raises
        ------
        DataError
            It cannot be kept, and is required.
        """
        if not self._keeps:
            self._left_out[name] = None
            return
        try:
            kept.append(start, rows, fates, grant=self._granted)
        except NoRoomError as error:
            self._stop(name, str(error))
        except OSError as error:
            self._stop(name, self._reason(error, kept_bytes(len(rows), self._width, len(fates))), warn=True)

    def renew(self, kept: CachedFile) -> None:
        """Begin anew what is damaged as a whole: all of it comes from the source again; see `lose`."""
        if damage := kept.damage:
            self._lose(kept.renew, f"{kept.path}: {damage}")

    def lose(self, kept: CachedFile, block: Block, error: LostError) -> None:
        """Drop a block that is gone or damaged: its entries come from the source again, and are kept again.

        Raises
        ------
        DataError
            That cannot be written down, and the rows are required.
        """
        self._lose(lambda: kept.drop(block), str(error))

    def settle(self, kept: CachedFile) -> None:
        """Make what is kept of a source survive the machine, where that can be written."""
        try:
            kept.settle()
        except OSError as error:
            self._warn(f"{self._reason(error, 0)}; rows that were kept may be lost when the machine stops")

    def require(self, files: Sequence[CachedFile], *, rows: int, entries: int) -> None:
        """Refuse before the first row what cannot end well.

        Parameters
        ----------
        files
            All that will be kept whole.
        rows, entries
            That they will hold.

        Raises
        ------
        DataError
            They do not fit below the limit, or on the disk.
        """
        needed = bytes_of_all(rows, self._width, entries, files=len(files))
        found = self._open_room().account([one.path.name for one in files])
        what = f"cache {self.folder}: shuffle: exact keeps all {rows} rows on disk, which needs {in_words(needed)}"
        if needed > self._limit - found.others:
            others = f", of which other runs use {in_words(found.others)} now" if found.others else ""
            raise DataError(f"{what}; cache.limit is {in_words(self._limit)}{others}; raise it, or shuffle by windows")
        if needed - found.own > found.free + found.idle:
            raise DataError(
                f"{what}, {in_words(needed - found.own)} of it still to be written; the disk has "
                f"{in_words(found.free + found.idle)} left for it; choose another cache.path, or shuffle by windows"
            )

    def close(self) -> None:
        """Use nothing any more; what is asked for again is opened again."""
        with self._lock:
            self._files.clear()
            room, self._room = self._room, None
        if room is not None:
            room.close()

    def _open_room(self) -> Room:
        if self._room is None:
            self._room = Room(self.folder, self._limit)
        return self._room

    def _use(self, key: str) -> None:
        """Say that an entry is in use; what cannot be said may be removed by others, and then comes from its source."""
        try:
            self._open_room().use(key)
        except OSError as error:
            self._stop("", self._reason(error, 0), warn=True)

    def _lose(self, forget: Callable[[], None], reason: str) -> None:
        self._warn(f"{reason}; it is read from its source again")
        try:
            forget()
        except OSError as error:
            self._stop("", self._reason(error, 0), warn=True)

    def _granted(self, size: int) -> AbstractContextManager[None]:
        return self._open_room().granted(size)

    def _stop(self, name: str, reason: str, *, warn: bool = False) -> None:
        if self._required:
            raise DataError(f"{reason}; shuffle: exact needs all rows there: make room, or shuffle by windows")
        self._keeps = False
        self._left_out |= {name: None} if name else {}
        if warn:
            self._warn(f"{reason}; the stream goes on and keeps no more rows there")

    def _reason(self, error: OSError, needed: int) -> str:
        if error.errno not in _FULL:
            return _unwritable(self.folder, error.errno)
        free = in_words(free_on_disk(self.folder))
        wanted = f"{in_words(needed)} more were to be kept, " if needed else ""
        return f"cache {self.folder}: the disk is full: {wanted}{free} are free"

    def _warn(self, text: str) -> None:
        with self._lock:
            told, self._warned = self._warned, True
        if not told:
            warnings.warn(text, CacheWarning, stacklevel=2)


def key_of(declaration: str, source: str) -> str:
    """Name of what is kept of a source."""
    return hashlib.sha256(f"{FORMAT}\n{declaration}\n{source}".encode()).hexdigest()[:40]


def bytes_of_all(rows: int, width: int, entries: int, *, files: int) -> int:
    """Bytes on disk of all rows: half a byte an entry and some a file are more than journals take."""
    return kept_bytes(rows, width, entries) + entries // 2 + 512 * files


def why_not_usable(folder: Path) -> str | None:
    """Why a folder for kept rows cannot be made or written; None where it can, as far as can be told without trying."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    code = errno.ENOTDIR if not there.is_dir() else errno.EACCES
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return None
    code = errno.EROFS if os.statvfs(there).f_flag & os.ST_RDONLY else code
    return _unwritable(folder, code)


def _unwritable(folder: str | Path, code: int | None) -> str:
    return f"cache {folder}: cannot be written: {os.strerror(code or 0)}; choose another folder, or leave cache out"


def require_folder(folder: str | Path) -> None:
    """Refuse a folder for kept rows that cannot be made or written.

    Raises
    ------
    DataError
        With the reason.
    """
    try:
        Room(folder, 0).close()
    except OSError as error:
        raise DataError(_unwritable(folder, error.errno)) from error


def rows_of(file: int, table: NDArray[np.float32], sides: NDArray[np.int64]) -> Rows:
    """Kept rows as they are handed on; weights are those of the generator."""
    entries = np.empty(len(sides), dtype=ENTRY)
    entries["file"], entries["entry"] = file, sides[:, 0]
    return Rows(table, sides[:, 2].copy(), sides[:, 1].copy().view(np.float64), entries)


def part_number(part: str | None) -> int | None:
    """Place of a part among `PARTS`."""
    return None if part is None else [str(one) for one in PARTS].index(part)
