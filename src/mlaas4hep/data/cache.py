"""Rows kept on a local disk, so that later epochs and other runs do not touch the source.

The name of what is kept is a hash of the content of the source, of what is read of it and of what is made of it: it is
never stale, and runs share it. Invariant: the folder stays within its limit; what was not used for longest goes first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.kept import SIDES, CachedFile
from mlaas4hep.data.rows import ENTRY, Rows
from mlaas4hep.data.split import PARTS
from mlaas4hep.errors import DataError

FORMAT = 1


class RowCache:
    """Kept rows of all files of a stream.

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
    """

    def __init__(self, folder: str | Path, *, limit_bytes: int, width: int, declaration: str) -> None:
        self.folder = Path(folder)
        self._limit = limit_bytes
        self._width = width
        self._declaration = declaration
        self._lock = threading.Lock()
        self._files: dict[str, CachedFile | None] = {}
        self.too_large: list[str] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cache {folder}: cannot be made: {error.strerror}") from error

    def file(self, source: str, *, entries: int, name: str) -> CachedFile | None:
        """What is kept of a source; None where it does not fit.

        Parameters
        ----------
        source
            Identity of its content, tree, and sample's selection.
        entries
            That it may hold.
        name
            For messages.
        """
        key = hashlib.sha256(f"{FORMAT}\n{self._declaration}\n{source}".encode()).hexdigest()[:40]
        with self._lock:
            if key not in self._files:
                self._files[key] = self._open(key, entries, name)
            return self._files[key]

    def close(self) -> None:
        """Give all files back."""
        with self._lock:
            for one in self._files.values():
                if one is not None:
                    one.close()

    def _open(self, key: str, entries: int, name: str) -> CachedFile | None:
        path = self.folder / key
        journal = path.with_suffix(".journal")
        if not journal.exists() and not self._make_room(entries * (4 * self._width + 8 * SIDES)):
            self.too_large.append(name)
            return None
        file = CachedFile(path, self._width)
        if journal.exists():
            os.utime(journal)
        return file

    def _make_room(self, size: int) -> bool:
        """Remove what was not used for longest, until there is room for so many bytes."""
        if size > self._limit:
            return False
        held = sorted(self.folder.glob("*.journal"), key=lambda one: one.stat().st_mtime)
        sizes = {one: _size(one) for one in held}
        free = self._limit - sum(sizes.values())
        own = {f"{one}.journal" for one in map(self.folder.joinpath, self._files)}
        for journal in held:
            if free >= size:
                break
            if str(journal) not in own and _remove(journal):
                free += sizes[journal]
        return free >= size


def rows_of(file: int, table: NDArray[np.float32], sides: NDArray[np.int64]) -> Rows:
    """Kept rows as they are handed on; weights are those of the generator."""
    entries = np.empty(len(sides), dtype=ENTRY)
    entries["file"], entries["entry"] = file, sides[:, 0]
    return Rows(table, sides[:, 2].copy(), sides[:, 1].copy().view(np.float64), entries)


def part_number(part: str | None) -> int | None:
    """Place of a part among `PARTS`."""
    return None if part is None else [str(one) for one in PARTS].index(part)


def _size(journal: Path) -> int:
    total = 0
    for ending in ("journal", "table", "sides"):
        try:
            total += journal.with_suffix(f".{ending}").stat().st_blocks * 512
        except FileNotFoundError:
            continue  # removed by another process meanwhile
    return total


def _remove(journal: Path) -> bool:
    """Remove a kept file unless somebody writes it; one that is read goes when its readers let go."""
    try:
        file = os.open(journal, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        # The journal first: without it nothing of the rest counts.
        for ending in ("journal", "table", "sides"):
            journal.with_suffix(f".{ending}").unlink(missing_ok=True)
        return True
    finally:
        os.close(file)
