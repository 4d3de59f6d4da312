"""The room of a folder that several processes keep rows in: its limit, and who uses what.

Bytes are granted one block at a time, before it is written, out of one account that all share. Whoever uses an entry
says so in a file of its own, which it holds locked while it lives. Invariant: what is granted stays within the limit,
to one block of each thread of other processes that writes; what a living process uses is not removed.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import secrets
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from mlaas4hep.errors import DataError

_KEY = re.compile(r"[0-9a-f]{40}\Z")
_ACCOUNT = "account"
_USERS = ".users"
_UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


class NoRoomError(DataError):
    """The limit is reached, and all that could go is gone."""


@dataclass
class _Entry:
    """What lies in the folder under one key."""

    size: int = 0
    used: float = 0.0


@dataclass(frozen=True)
class Account:
    """Bytes in the folder, by who has them.

    Parameters
    ----------
    own
        Those of some keys.
    others
        Of other keys, which a living process uses.
    idle
        Of other keys, used by nobody: they would go.
    free
        Of the disk.
    """

    own: int
    others: int
    idle: int
    free: int


class Room:
    """The room of one folder, for one user of it. May be shared by threads.

    Parameters
    ----------
    folder
        Made where it is not there.
    limit
        Bytes of all that lies in it.

    Raises
    ------
    OSError
        The folder cannot be made or written.
    """

    def __init__(self, folder: str | Path, limit: int) -> None:
        self.folder, self.limit = Path(folder), limit
        self._lock = threading.Lock()
        # Bytes that threads were granted here, and how many grants have ended.
        self._unwritten: dict[int, int] = {}
        self._written, self._ended = threading.Condition(self._lock), 0
        self._file = self._lease = -1
        self._name = self.folder / f"{os.getpid()}-{secrets.token_hex(4)}{_USERS}"
        self._process = os.getpid()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._alone():
                self._lease = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
                fcntl.flock(self._lease, fcntl.LOCK_EX)
                self._settle_account()
        except OSError:
            self.close()
            raise

    def use(self, key: str) -> None:
        """From now on an entry is not removed, until this is closed; it counts as used now.

        Raises
        ------
        OSError
            That cannot be written down.
        """
        with self._alone():
            os.write(self._lease, f"{key}\n".encode())
        try:
            os.utime(self.folder / f"{key}.journal")
        except FileNotFoundError:
            return  # nothing is kept yet

    @contextmanager
    def granted(self, size: int) -> Iterator[None]:
        """Bytes for what is written meanwhile; what was not used for longest goes for them.

        Near the limit this waits for other threads that write: how much of theirs lies there already is not known.

        Raises
        ------
        NoRoomError
            They do not fit beside what is in use.
        """
        me = threading.get_ident()
        while (ended := self._grant(me, size)) is not None:
            with self._written:
                while self._ended == ended:
                    self._written.wait()
        try:
            yield
        finally:
            with self._written:
                self._unwritten[me] = self._unwritten.get(me, 0) - size
                self._unwritten = {thread: left for thread, left in self._unwritten.items() if left}
                self._ended += 1
                self._written.notify_all()

    def _grant(self, me: int, size: int) -> int | None:
        """Take bytes; else how many grants have ended, where one more may leave room. As `granted` where none may."""
        with self._alone():
            used = self._account()
            if used + size > self.limit:
                used = self._make_room(size)
            if used + size <= self.limit:
                self._note_account(used + size)
                self._unwritten[me] = self._unwritten.get(me, 0) + size
                return None
            # Who was granted something does not wait, since others may wait for that; nor do threads survive a fork.
            if self._unwritten and me not in self._unwritten and os.getpid() == self._process:
                return self._ended
            raise NoRoomError(
                f"cache {self.folder}: {in_words(size)} more do not fit: {in_words(used)} are in use and "
                f"cache.limit is {in_words(self.limit)}"
            )

    def account(self, keys: Collection[str]) -> Account:
        """Who has what."""
        with self._alone():
            return _account_of(self.folder, keys, self._held(), self._busy())

    def close(self) -> None:
        """Use nothing any more; may be called twice."""
        mine = os.getpid() == self._process  # a forked process lets go, past a lock that nobody may ever open
        with self._lock if mine else nullcontext():
            if mine and self._lease >= 0:
                self._name.unlink(missing_ok=True)
            for file in (self._lease, self._file):
                if file >= 0:
                    os.close(file)
            self._file = self._lease = -1

    def __del__(self) -> None:
        """A room that is forgotten is not used any more."""
        if hasattr(self, "_lease"):
            self.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Among all threads and processes that use the folder."""
        with self._lock:
            if self._file < 0:
                self._file = os.open(self.folder / _ACCOUNT, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _account(self) -> int:
        return int.from_bytes(os.pread(self._file, 8, 0), "little")

    def _note_account(self, used: int) -> None:
        os.pwrite(self._file, used.to_bytes(8, "little"), 0)

    def _settle_account(self) -> None:
        """Count what lies there: nobody who was killed leaves the account, or a mark, for long."""
        self._busy()
        self._note_account(_sum(held := self._held(), set(held)))

    def _make_room(self, size: int) -> int:
        """Remove what was not used for longest, until so many bytes fit; bytes that are left."""
        held, busy = self._held(), self._busy()
        used = _sum(held, set(held)) + sum(self._unwritten.values())
        for key in sorted(held, key=lambda one: held[one].used):
            if used + size <= self.limit:
                break
            if key not in busy and self._remove(key):
                used -= held[key].size
        return used

    def _held(self) -> dict[str, _Entry]:
        return _held_in(self.folder)

    def _busy(self) -> set[str]:
        found, dead = _busy_in(self.folder)
        for lease in dead:
            lease.unlink(missing_ok=True)
        return found

    def _remove(self, key: str) -> bool:
        """Remove an entry, the journal last: without it nothing of the rest could be found again."""
        name = self.folder / f"{key}.journal"
        try:
            journal = os.open(name, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            journal = -1
        try:
            if journal >= 0 and not _lock_now(journal):
                return False  # somebody writes it without having said so
            for one in self.folder.glob(f"{key}.*"):
                if one != name:
                    one.unlink(missing_ok=True)
            name.unlink(missing_ok=True)
            return True
        finally:
            if journal >= 0:
                fcntl.flock(journal, fcntl.LOCK_UN)
                os.close(journal)


def account_of(folder: Path, keys: Collection[str]) -> Account:
    """Who has what in a folder, which nothing is made or changed in; at this moment, others may be at work there."""
    if not folder.exists():
        return Account(own=0, others=0, idle=0, free=free_on_disk(folder))
    return _account_of(folder, keys, _held_in(folder), _busy_in(folder)[0])


def _account_of(folder: Path, keys: Collection[str], held: Mapping[str, _Entry], busy: set[str]) -> Account:
    own = set(keys)
    return Account(
        own=_sum(held, own),
        others=_sum(held, busy - own),
        idle=_sum(held, set(held) - busy - own),
        free=free_on_disk(folder),
    )


def _held_in(folder: Path) -> dict[str, _Entry]:
    """Entries by key."""
    found: dict[str, _Entry] = {}
    for one in os.scandir(folder):
        key, _, ending = one.name.partition(".")
        if not _KEY.match(key):
            continue
        try:
            stat = one.stat()
        except FileNotFoundError:
            continue  # removed meanwhile
        entry = found.setdefault(key, _Entry())
        entry.size += stat.st_size
        if ending == "journal":
            entry.used = stat.st_mtime
    return found


def _busy_in(folder: Path) -> tuple[set[str], list[Path]]:
    """Keys that living processes use, and the marks of those that are gone."""
    found: set[str] = set()
    dead: list[Path] = []
    for lease in folder.glob(f"*{_USERS}"):
        try:
            file = os.open(lease, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        with os.fdopen(file, "r", encoding="ascii") as text:
            if _lock_now(file):
                dead.append(lease)
            else:
                found.update(text.read().split())
    return found, dead


def free_on_disk(folder: Path) -> int:
    """Bytes that are free where a folder is, or is to be."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    disk = os.statvfs(there)
    return disk.f_bavail * disk.f_frsize


def in_words(size: int) -> str:
    """Bytes in words, of three digits."""
    for unit, factor in _UNITS:
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} B"


def enough_in_words(size: int) -> str:
    """Bytes in words, of three digits, that mean no less: who writes them into a config has enough.

    Examples
    --------
    >>> in_words(1_234_567), enough_in_words(1_234_567)
    ('1.23 MB', '1.24 MB')
    """
    for unit, factor in _UNITS:
        if size >= factor:
            step = 10.0 ** (len(str(int(size // factor))) - 3)
            return f"{math.ceil((size + 1) / factor / step) * step:.4g} {unit}"
    return f"{size} B"


def _sum(held: Mapping[str, _Entry], keys: Collection[str]) -> int:
    return sum(held[key].size for key in keys if key in held)


def _lock_now(file: int) -> bool:
    """Lock a file unless somebody else has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
