"""Files of this machine, by plain reads.

No memory map: it would count its page cache as resident memory and die when the file is cut while it is read.
Invariant: a read that the file cannot answer whole is an error, never shorter bytes.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlaas4hep.config.nearby import nearest_file
from mlaas4hep.data.places import Buffer
from mlaas4hep.data.places.endings import endings_told, has_known_ending
from mlaas4hep.errors import DataError


class LocalFiles:
    """Paths, globs (``*``, ``?``, ``[...]``, ``**``) and folders (all their files with the ending of a format)."""

    def open(self, url: str) -> LocalPlace:
        """See `mlaas4hep.data.places.PlaceKind.open`."""
        return LocalPlace(_path(url))

    def expand(self, pattern: str) -> tuple[str, ...]:
        """See `mlaas4hep.data.places.PlaceKind.expand`; what exists is taken as it stands, wild cards or not."""
        path = os.path.expanduser(_path(pattern))
        if Path(path).is_dir():
            files = sorted(str(one) for one in Path(path).iterdir() if has_known_ending(one.name) and one.is_file())
            if not files:
                raise DataError(f"{pattern}: is a folder without files that end in {endings_told()}")
            return tuple(files)
        if Path(path).exists():
            return (path,)
        if not glob.has_magic(path):
            raise DataError(f"{pattern}: no such file{nearest_file(Path(path), any_ending=True)}")
        files = sorted(one for one in glob.glob(path, recursive=True) if Path(one).is_file())
        if not files:
            raise DataError(f"{pattern}: matches no file{nearest_file(_fixed_part(path), any_ending=True)}")
        return tuple(files)

    def key(self, url: str) -> object:
        """Device and inode: the same for every spelling of, and every link to, one file."""
        try:
            status = Path(_path(url)).stat()
        except OSError as error:
            raise DataError(f"{url}: cannot be opened: {error.strerror}") from error
        return status.st_dev, status.st_ino


class LocalPlace:
    """A file on a disk of this machine."""

    def __init__(self, path: str) -> None:
        self.url = path
        self._file = -1
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"{path}: cannot be opened: {error.strerror}") from error
        status = os.fstat(self._file)
        self.size = status.st_size
        self.identity = f"{status.st_dev:x}-{status.st_ino:x}-{status.st_size}-{status.st_mtime_ns}"
        if Path(path).is_dir():
            self.close()
            raise DataError(f"{path}: is a folder, not a file")

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
        """See `mlaas4hep.data.places.Place.read`."""
        return [self._read(start, stop) for start, stop in ranges]

    def expect(self, ranges: Sequence[tuple[int, int]]) -> None:
        """See `mlaas4hep.data.places.ReadsInto`."""
        if self._file >= 0 and hasattr(os, "posix_fadvise"):
            for start, stop in ranges:
                os.posix_fadvise(self._file, start, stop - start, os.POSIX_FADV_WILLNEED)

    def read_into(self, start: int, target: memoryview) -> None:
        """See `mlaas4hep.data.places.ReadsInto`."""
        if self._file < 0:
            raise DataError(f"{self.url}: is closed")
        done = 0
        try:
            while done < len(target):
                got = os.preadv(self._file, [target[done:]], start + done)
                if not got:
                    raise DataError(
                        f"{self.url}: ends at byte {start + done}, but {start} to {start + len(target)} were asked for"
                    )
                done += got
        except OSError as error:
            raise DataError(f"{self.url}: cannot be read: {error.strerror}") from error

    def close(self) -> None:
        """See `mlaas4hep.data.places.Place.close`."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        self.close()

    def _read(self, start: int, stop: int) -> Buffer:
        target = np.empty(stop - start, np.uint8).data
        self.read_into(start, target)
        return target


def _path(url: str) -> str:
    return url.removeprefix("file://")


def _fixed_part(pattern: str) -> Path:
    """The part of a glob before its first wild card, with a name that cannot exist behind it."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[: fixed + 1])
