"""Trying again: how often, after which pause, and when another replica is asked.

Invariant: the effort for one piece is bounded (attempts times patience), its outcome is a result or one error that
tells what was tried, how often, and the last reason of each replica. Chance decides pauses, never results.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mlaas4hep.data.places.effort import PROCESS, Ledger
from mlaas4hep.data.places.ranges import Piece
from mlaas4hep.data.places.remote import Failed, Remote, Replica
from mlaas4hep.errors import DataError

T = TypeVar("T")

# An answer that was cut off after so much was worth its attempt: what is cut off each time is no dead end.
_WORTH_BYTES = 256 * 1024
# Servers that are always slow are given more time from the start, up to so many doublings.
_MOST_LEVEL = 3
# So many attempts at a line that has answered are short: one may be lost by chance, and so may the one that repeats it.
_QUICK = 2


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for, and how often asked.

    Parameters
    ----------
    stall_s
        An attempt without progress for so long is given up; twice as long at each further attempt.
    most_stall_s
        But no longer than that.
    quick_s
        A line that has answered is given no more at the first two attempts; then as much as any other.
    attempts
        At each replica, for one piece.
    in_a_row
        After so many failures the next replica is asked, if there is one.
    pause_s
        Before the second attempt, on average; twice as long before each further one, up to ``most_pause_s``.
    """

    stall_s: float = 3.0
    most_stall_s: float = 60.0
    quick_s: float = 2.0
    attempts: int = 5
    in_a_row: int = 2
    pause_s: float = 0.2
    most_pause_s: float = 10.0

    def stall(self, attempt: int, *, answered: bool = False) -> float:
        """Seconds without progress that attempt 0, 1, ... is given, at a line that has answered before or has not."""
        seconds = min(self.stall_s * 2.0**attempt, self.most_stall_s)
        return min(seconds, self.quick_s) if answered and attempt < _QUICK else seconds

    def pause(self, attempt: int, asked_s: float = 0.0) -> float:
        """Seconds before attempt 1, 2, ...: by chance, so that many readers do not come back at once."""
        mean = min(self.pause_s * 2.0 ** (attempt - 1), self.most_pause_s)
        return max(mean * random.SystemRandom().uniform(0.5, 1.5), min(asked_s, self.most_pause_s))


PATIENCE = Patience()


class Line:
    """One replica, and the connection to it while there is one. May be shared by threads."""

    def __init__(self, replica: Replica) -> None:
        self.url = replica.url
        self.remote: Remote | None = None
        self.answered = False
        self._replica = replica
        self._identity: str | None = None
        self._lock = threading.Lock()
        self._opened = 0
        self._failed: Failed | None = None

    def connect(self, stall_s: float, size: int | None) -> Remote:
        """The connection; made where there is none, and then held against what is known of the file."""
        before = self._opened
        with self._lock:
            if self.remote is None and self._opened != before and self._failed is not None:
                raise self._failed.again_for_another()  # nobody waits in turn for a server that does not answer
            if self.remote is None:
                self.remote = self._open(stall_s, size)
                self._identity = self.remote.identity
            return self.remote

    def _open(self, stall_s: float, size: int | None) -> Remote:
        try:
            remote = self._replica.open(stall_s)
        except Failed as failed:
            self._failed = failed
            raise
        finally:
            self._opened += 1
        try:
            self._check(remote, size)
        except BaseException:
            remote.close()
            raise
        return remote

    def drop(self, remote: Remote | None = None) -> None:
        """Close the connection (that one, if it is still in use), so that the next attempt makes a new one."""
        with self._lock:
            if self.remote is None or (remote is not None and remote is not self.remote):
                return
            closing, self.remote, self.answered = self.remote, None, False
        closing.close()

    def _check(self, remote: Remote, size: int | None) -> None:
        if self._identity is not None and remote.identity != self._identity:
            raise DataError(f"{self.url}: was changed while it was read")
        if size is not None and remote.size != size:
            raise Failed(f"is no replica: it has {remote.size} bytes, not {size}", again=False)


class Persistence:
    """Carries things out at the replicas of one file. May be shared by threads.

    Parameters
    ----------
    replicas
        In the order of preference.
    patience
        See there.
    ledger
        Counts what it takes.
    """

    def __init__(self, replicas: Sequence[Replica], patience: Patience, ledger: Ledger) -> None:
        self.lines = [Line(replica) for replica in replicas]
        self.size: int | None = None
        self._patience = patience
        self._ledger = ledger
        self._preferred = 0
        self._level = 0

    def carry_out(self, what: str, act: Callable[[Remote, float], T]) -> T:
        """Do something with a connection, until it is done at one replica.

        Parameters
        ----------
        what
            Words for the message: ``bytes 0 to 10 cannot be read``.
        act
            Given a connection and the seconds without progress that it may take; `Failed` tries again.

        Raises
        ------
        DataError
            Every replica failed as often as it may.
        """
        tries = _Tries(self.lines, self._patience, self._preferred)
        while (place := tries.place) is not None:
            line = self.lines[place]
            stall_s = self._stall(line, tries.failed(place))
            self._ledger.note(requests=1)
            remote, began = None, time.monotonic()
            try:
                remote = line.connect(stall_s, self.size)
                done = act(remote, stall_s)
            except Failed as failed:
                self._go_on(tries, place, failed, remote)
            else:
                self._learn(tries, place, time.monotonic() - began)
                line.answered = True
                return done
        raise DataError(f"{self.lines[0].url}: {what}: {tries.story()}")

    def close(self) -> None:
        """Close all connections."""
        for line in self.lines:
            line.drop()

    def _stall(self, line: Line, failed: int) -> float:
        """A server that is known to be slow is given its time, whether it has answered or not."""
        return self._patience.stall(self._level + failed, answered=line.answered and not self._level)

    def _go_on(self, tries: _Tries, place: int, failed: Failed, remote: Remote | None) -> None:
        tries.note(place, failed, left=self._preferred != place)
        if tries.row != 1 or not failed.again:
            self.lines[place].drop(remote)
        self._ledger.note(reason=failed.reason)
        if tries.place is None:
            return
        moved = tries.place != place
        if moved and self._preferred == place:
            self._preferred = tries.place  # for those who come after, and those who fail here too
        self._ledger.note(retries=1, failovers=int(moved))
        if failed.again:
            time.sleep(self._patience.pause(max(tries.failed(place), 1), failed.wait_s))

    def _learn(self, tries: _Tries, place: int, took_s: float) -> None:
        """Whoever answers is asked first from now on, with the patience that it took."""
        self._preferred = place
        if tries.slow and took_s > self._stall(self.lines[place], 0):
            self._level = min(max(self._level, tries.failed(place)), _MOST_LEVEL)


def ask(url: str, what: str, act: Callable[[float], T]) -> T:
    """Carry out something that needs no open file, such as listing a folder; see `Persistence.carry_out`."""
    replica = Replica(url, lambda stall_s: _NOTHING)
    return Persistence([replica], PATIENCE, PROCESS).carry_out(what, lambda _, stall_s: act(stall_s))


class _Nothing:
    """Stands for the connection where none is kept."""

    url, size, identity, head, most_pieces, piece_bytes = "", 0, "", b"", 1, 1

    def fetch(self, pieces: Sequence[Piece], patience_s: float) -> None:
        raise Failed("there is no file", again=False)

    def close(self) -> None:
        return None


_NOTHING = _Nothing()


class _Tries:
    """Attempts for one piece: how often each replica failed, why, and which is next."""

    def __init__(self, lines: Sequence[Line], patience: Patience, first: int) -> None:
        self.place: int | None = first
        self.row = 0
        self.slow = False
        self._lines = lines
        self._patience = patience
        self._counted = [0] * len(lines)
        self._asked = [0] * len(lines)
        self._over = [False] * len(lines)
        self._reasons = [""] * len(lines)

    def failed(self, place: int) -> int:
        """Attempts at a replica that brought nothing."""
        return self._counted[place]

    def note(self, place: int, failed: Failed, *, left: bool) -> None:
        """One more failure; decides which replica is next. ``left``: others have left this one already."""
        worth = failed.filled >= _WORTH_BYTES
        self._asked[place] += 1
        self._counted[place] += not worth
        self._reasons[place] = failed.reason
        self._over[place] = not failed.again or self._counted[place] >= self._patience.attempts
        self.slow = self.slow or failed.slow
        self.row = 0 if worth else self.row + 1
        if self._over[place] or left or self.row >= self._patience.in_a_row:
            self.row = 0
            self.place = self._after(place)

    def story(self) -> str:
        """What was tried, and the last reason of each replica."""
        if len(self._lines) == 1:
            return f"{self._reasons[0]}{_times(self._asked[0])}"
        told = zip(self._lines, self._reasons, self._asked, strict=True)
        return "; ".join(f"{line.url}: {reason}{_times(asked)}" for line, reason, asked in told)

    def _after(self, place: int) -> int | None:
        order = [(place + step) % len(self._lines) for step in range(1, len(self._lines) + 1)]
        return next((one for one in order if not self._over[one]), None)


def _times(asked: int) -> str:
    return f" (asked {asked} times)" if asked > 1 else ""


def in_parallel(tasks: Sequence[Callable[[], None]], most: int) -> None:
    """Carry out tasks, so many at a time; the first error ends it.

    Threads of their own, since one that waits for a dead server must hold up neither an error nor the end of the
    program: they are daemons, and take no further task once one has failed.
    """
    if len(tasks) <= 1:
        for task in tasks:
            task()
        return
    work = _Work(tasks)
    helpers = [threading.Thread(target=work.help, daemon=True) for _ in range(min(most, len(tasks)) - 1)]
    for helper in helpers:
        helper.start()
    try:
        work.help()
        work.wait()
    finally:
        work.stop()


class _Work:
    """Tasks that several threads share."""

    def __init__(self, tasks: Sequence[Callable[[], None]]) -> None:
        self._left = list(reversed(tasks))
        self._undone = len(tasks)
        self._errors: list[BaseException] = []
        self._changed = threading.Condition()

    def help(self) -> None:
        """Do tasks until there is none left."""
        while (task := self._take()) is not None:
            error: BaseException | None = None
            try:
                task()
            except BaseException as caught:  # handed to the thread that waits, which raises it
                error = caught
            with self._changed:
                self._undone -= 1
                if error is not None:
                    self._errors.append(error)
                self._changed.notify_all()

    def wait(self) -> None:
        """Until all are done, or one has failed: then raise its error."""
        with self._changed:
            self._changed.wait_for(lambda: self._errors or not self._undone)
            if self._errors:
                raise self._errors[0]

    def stop(self) -> None:
        """Hand out no more."""
        with self._changed:
            self._left.clear()

    def _take(self) -> Callable[[], None] | None:
        with self._changed:
            return self._left.pop() if self._left and not self._errors else None
