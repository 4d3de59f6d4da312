"""Who is at work on a search: one file a process, held by a lock while it lives and touched every few seconds.

On the machine itself the lock tells at once that a process is gone, and a stopped one is not. From another machine only
the time of the last touch is known, by the clock of the disk. Invariant: a process that lives and can write its file is
never taken for dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TOUCH_S = 15.0
# Of another machine: so long without a touch and it is taken for dead.
GRACE_S = 180.0


def machine() -> str:
    """What two processes have in common where they see each other's locks: the kernel that runs, else the name."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return socket.gethostname()


@dataclass(frozen=True, slots=True)
class Workers:
    """The folder of their files."""

    folder: Path

    @contextmanager
    def at_work(self) -> Iterator[str]:
        """Be at work until the block ends; gives the name that trials are marked with."""
        name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        draft, path = self.folder / f".{name}", self._path(name)
        handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        stop = threading.Event()
        touching = threading.Thread(target=_touch, args=(path, stop), daemon=True)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            os.write(handle, json.dumps({"machine": machine()}).encode())
            draft.rename(path)  # nobody sees it before it is held
            touching.start()
            yield name
        finally:
            stop.set()
            path.unlink(missing_ok=True)
            os.close(handle)

    def alive(self, name: str) -> bool:
        """Whether a process may still be at work."""
        path = self._path(name)
        try:
            handle = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            told = json.loads(os.read(handle, 4096))
            if told["machine"] != machine():
                return self._now() - os.fstat(handle).st_mtime < GRACE_S
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def forget(self, name: str) -> None:
        """Remove what a dead process left."""
        self._path(name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        """All that left a file and may be at work."""
        return [path.stem for path in sorted(self.folder.glob("*.worker")) if self.alive(path.stem)]

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.worker"

    def _now(self) -> float:
        """The time of the disk, which need not be that of this machine."""
        clock = self.folder / f".clock-{os.getpid()}"
        clock.touch()
        now = clock.stat().st_mtime
        clock.unlink()
        return now


def _touch(path: Path, stop: threading.Event) -> None:
    while not stop.wait(TOUCH_S):
        with contextlib.suppress(OSError):
            os.utime(path)
