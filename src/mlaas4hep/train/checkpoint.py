"""A training that is under way, on disk, so that it can go on where it was interrupted.

::

    runs/.NAME.checkpoint/latest.npz      beside the run directory, which appears only when the run is complete
    runs/.NAME.checkpoint/previous.npz    the one before, should the disk have lost the latest
    runs/.NAME.checkpoint/lock            held by the process that trains

A file holds arrays and one JSON document; nothing in it is ever executed. Invariant: killed at any moment, a process
leaves the last checkpoint that it completed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.backends.protocol import Arrays
from mlaas4hep.errors import ModelError, UserError

LATEST, PREVIOUS = "latest.npz", "previous.npz"
UNFINISHED, _LOCK = "unfinished.npz", "lock"
_DOCUMENT = "document"


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """What one file holds.

    Parameters
    ----------
    file
        Which.
    document, arrays
        As they were written.
    damage
        Why it is not the latest that was taken; None where it is.
    """

    file: Path
    document: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    damage: str | None = None


class CheckpointFolder:
    """The folder beside one run directory.

    Parameters
    ----------
    target
        The run directory.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.parent / f".{target.name}.checkpoint"
        self._lock: int | None = None

    @property
    def found(self) -> bool:
        """Whether there is something to go on from."""
        return any((self.path / name).is_file() for name in (LATEST, PREVIOUS))

    @property
    def claimed(self) -> bool:
        """Whether this process holds it."""
        return self._lock is not None

    def require_free(self) -> None:
        """`UserError` where another process trains this run now."""
        if self.path.is_dir() and not self.claimed:
            os.close(self._locked())

    def claim(self) -> None:
        """Make the folder and keep others out until `release` or the end of the process.

        Raises
        ------
        UserError
            Another process trains this run, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be made: {error.strerror}") from error
        self._lock = self._locked()

    def _locked(self) -> int:
        try:
            handle = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise UserError(f"{self.target}: another process trains this run now; give another -o") from error
        except OSError:
            return handle  # a file system without locks: nothing is lost but this check
        return handle

    def write(self, document: Mapping[str, Any], arrays: Arrays) -> None:
        """Replace the latest checkpoint, which becomes the previous one.

        Raises
        ------
        OSError
            The disk is full or gone; what was there stays.
        """
        for name, values in arrays.items():
            if values.dtype.hasobject:
                raise ModelError(f"checkpoint: '{name}' holds objects of Python; only numbers are kept")
        text = np.frombuffer(json.dumps(document, sort_keys=True).encode(), np.uint8)
        with open(self.path / UNFINISHED, "wb") as file:
            np.savez(file, **{_DOCUMENT: text}, **dict(arrays))  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.path / LATEST, self.path / PREVIOUS)
        os.replace(self.path / UNFINISHED, self.path / LATEST)

    def read(self) -> Saved:
        """The latest checkpoint that is whole.

        Raises
        ------
        UserError
            None is.
        """
        damage = None
        for name in (LATEST, PREVIOUS):
            file = self.path / name
            try:
                # Opened here: numpy leaves a file open that turns out not to be a whole archive.
                with file.open("rb") as raw, np.load(raw, allow_pickle=False) as store:
                    arrays = {key: store[key] for key in store.files}
                document = json.loads(arrays.pop(_DOCUMENT).tobytes())
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                damage = damage or f"{file}: {error}"
                continue
            return Saved(file, document, arrays, damage)
        raise UserError(f"{self.path}: no checkpoint in it can be read ({damage}); begin anew with --restart")

    def discard(self) -> None:
        """Forget what was kept, and stay."""
        for name in (LATEST, PREVIOUS, UNFINISHED):
            (self.path / name).unlink(missing_ok=True)

    def release(self) -> None:
        """Let others in; a folder with nothing to go on from is removed."""
        if self._lock is None:
            return
        if not self.found:
            self.remove()
        os.close(self._lock)
        self._lock = None

    def remove(self) -> None:
        """The run is complete: nothing is left to go on from."""
        shutil.rmtree(self.path, ignore_errors=True)
