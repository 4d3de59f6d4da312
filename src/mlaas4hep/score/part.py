"""A file that gets its name when it is whole.

It is written as a hidden part beside where it will lie, brought to the disk, and renamed. Invariant: under the final
name there is nothing, or what was there before, or the whole file; whoever is killed leaves at most a hidden part,
which the next one who writes that file begins anew.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from mlaas4hep.errors import DataError

_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Left as they are: whoever runs the command tells of disks that are full."""


class PartFile:
    """To be written between ``with`` and `publish`; without that nothing of it stays.

    Parameters
    ----------
    path
        Its final name.

    Raises
    ------
    DataError
        Another process writes the same file, or the folder cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(f".{path.name}.part")
        self._published = False

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self._open()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written: {error.strerror}") from error
        return self

    def publish(self) -> None:
        """Give it its name; it survives the machine from then on."""
        self.file.flush()
        os.fsync(self.file.fileno())
        os.replace(self.part, self.path)
        self._published = True
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(self.path)  # a full disk does not say which file it was
        if not self._published:
            self.part.unlink(missing_ok=True)
        # What could not be written was told by whoever wrote; what is left of a file that is gone need not be.
        with contextlib.suppress(OSError):
            self.file.close()
        if isinstance(error, OSError) and error.filename == str(self.path) and error.errno not in _FULL:
            raise DataError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def _open(self) -> IO[bytes]:
        """The part, empty and of this process alone."""
        while True:
            number = os.open(self.part, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(number)
                raise DataError(f"{self.path}: is being written by another process") from error
            except OSError:
                pass  # a file system without locks
            # Whoever held it may have renamed or removed it between the two calls.
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self.part).st_ino == os.fstat(number).st_ino:
                    os.ftruncate(number, 0)
                    return os.fdopen(number, "w+b")
            os.close(number)
