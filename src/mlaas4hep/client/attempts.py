"""How often a question is asked, where, and after which pause: decided here, waited for elsewhere.

Pauses are anywhere from nothing to a limit that doubles (full jitter), and no shorter than the server asked for with
``Retry-After``. Invariant: nothing is asked twice that may have been done and has an effect, and no attempt begins
after the deadline.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from mlaas4hep.arguments import as_found, whole
from mlaas4hep.client.servers import Address, Servers
from mlaas4hep.client.wire import Reply
from mlaas4hep.errors import ServerError, UserError

# What the operating system takes for a wait, in ms, is an int of 32 bits.
LONGEST_TIMEOUT_S = 2e6
# The server says itself that it has not done it.
_REFUSED = (429, 503)
# A proxy says that it got no answer: who stands behind it may have done it.
_BEHIND = (502, 504)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an answer is waited for, and how often asked.

    Parameters
    ----------
    timeout_s
        For one question, its repetitions included.
    retries
        How often it is asked again where the connection failed or the server was busy; with several servers so often
        in all.
    connect_s
        Longest wait for a connection.
    first_wait_s, longest_wait_s
        Limit of the pause before the second attempt, which doubles up to the longest.

    Raises
    ------
    UserError
        A time that nobody can wait, or fewer than no retries.
    """

    timeout_s: float = 30.0
    retries: int = 2
    connect_s: float = 5.0
    first_wait_s: float = 0.05
    longest_wait_s: float = 2.0

    def __post_init__(self) -> None:
        for name in ("timeout_s", "connect_s", "first_wait_s", "longest_wait_s"):
            check_seconds(getattr(self, name), name)
        object.__setattr__(self, "retries", whole(self.retries, "retries"))

    def pause_s(self, attempt: int) -> float:
        """Before attempt 1, 2, ...; by chance, so that clients which failed together do not come back together."""
        return random.uniform(0.0, min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(attempt - 1, 30)))


class Failed(Exception):
    """One attempt brought no answer.

    Parameters
    ----------
    reason
        In words.
    sent
        Whether the server may have the question.
    late
        Whether the time was over, rather than the connection broken.
    """

    def __init__(self, reason: str, *, sent: bool, late: bool = False) -> None:
        self.reason = reason
        self.sent = sent
        self.late = late
        super().__init__(reason)


def check_seconds(value: object, name: str) -> None:
    """Refuse what is no time that can be waited."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{name} must be a number of seconds, got {as_found(value)}")
    if not 0 < value <= LONGEST_TIMEOUT_S:
        raise UserError(f"{name} must be above 0 and at most {LONGEST_TIMEOUT_S:.0f}, found {value}")


class Attempts:
    """The attempts at one question.

    Parameters
    ----------
    servers
        Who may be asked.
    patience
        See there.
    deadline_s
        By `time.monotonic`.
    safe
        The question has no effect, so that it may be asked again though it was answered unheard.
    again
        A busy server is asked again; a question about its health is not.
    """

    __slots__ = ("_again", "_deadline_s", "_patience", "_safe", "_servers", "_tried", "count")

    def __init__(
        self, servers: Servers, patience: Patience, deadline_s: float, *, safe: bool = True, again: bool = True
    ) -> None:
        self.count = 0
        self._servers = servers
        self._patience = patience
        self._deadline_s = deadline_s
        self._safe = safe
        self._again = again
        self._tried: list[Address] = []

    def begin(self) -> tuple[Address, float]:
        """Whom to ask now, and how many seconds it has.

        Where there are others that were not asked yet, a silent server has only its share of the time that is left.
        """
        address = self._servers.current
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise ServerError(f"no answer from {address.url}: the time was over before it could be asked")
        self.count += 1
        if len(self._servers) > 1:
            if address not in self._tried:
                self._tried.append(address)
            if self._safe and self.count <= self._patience.retries:
                left_s /= len(self._servers) - len(self._tried) + 1
        return address, left_s

    def failed(self, address: Address, failure: Failed) -> float:
        """Seconds until the next attempt.

        Raises
        ------
        ServerError
            There is none.
        """
        self._servers.failed(address)
        if failure.sent and not self._safe:
            raise ServerError(f"{self._words(address, failure)}; it is not asked again, since it may have been done")
        if self._over() or (failure.late and len(self._servers) == 1):
            raise ServerError(self._words(address, failure)) from failure
        # Another server need not be waited for: it has done nothing wrong.
        pause_s = self._patience.pause_s(self.count) if self._servers.wait_s() or len(self._servers) == 1 else 0.0
        return self._in_time(pause_s, ServerError(self._words(address, failure)))

    def judged(self, address: Address, reply: Reply) -> float | None:
        """Seconds until the next attempt; None where this answer is the last."""
        refused = reply.status in _REFUSED
        if not refused and not (reply.status in _BEHIND and self._safe):
            self._servers.well(address)
            return None
        if not self._again or self._over():
            return None
        asked_s = retry_after_s(reply.headers.get("retry-after", ""))
        pause_s = self._patience.pause_s(self.count)
        if len(self._servers) > 1:
            self._servers.busy(address, max(asked_s, pause_s))
            wait_s = self._servers.wait_s()
            pause_s = wait_s + pause_s if wait_s else 0.0
        else:
            pause_s += asked_s
        # What cannot be waited for is told now, in the server's words.
        return pause_s if time.monotonic() + pause_s < self._deadline_s else None

    def _over(self) -> bool:
        return self.count > self._patience.retries

    def _in_time(self, pause_s: float, error: ServerError) -> float:
        if time.monotonic() + pause_s >= self._deadline_s:
            raise error
        return pause_s

    def _words(self, address: Address, failure: Failed) -> str:
        times = "" if self.count == 1 else f" after {self.count} attempts"
        return f"no answer from {address.url}{times}: {failure.reason}; is 'mlaas4hep serve' running there?"


def retry_after_s(told: str) -> float:
    """Seconds that ``Retry-After`` asks for, given as such or as a date; 0 where it says nothing.

    Examples
    --------
    >>> retry_after_s("3"), retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT"), retry_after_s("soon")
    (3.0, 0.0, 0.0)
    """
    if told.isascii() and told.isdecimal():
        return float(told)
    try:
        at = parsedate_to_datetime(told)
    except ValueError:
        return 0.0
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
