"""One HTTP connection that is kept, with retries: `http.client`, nothing else.

A question is asked again only where that cannot harm: the connection failed, or the server said 503. Questions to a
model have no effect, so all of them may be repeated. Invariant: whoever calls `Connection.ask` gets an answer of the
server, or one `ServerError` that says where the trouble is.
"""

from __future__ import annotations

import http.client
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from mlaas4hep.arguments import as_found, require, whole
from mlaas4hep.errors import ServerError, UserError

FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 2.0
# What the operating system takes for a wait, in ms, is an int of 32 bits.
LONGEST_TIMEOUT_S = 2e6
BUSY = 503

_FAILURES = (OSError, http.client.HTTPException)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered: status, body, and its headers by name in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Connection:
    """A connection to one server, opened when first needed and again when it was closed.

    Parameters
    ----------
    url
        Such as ``http://localhost:8000``; a path is put in front of every route.
    timeout_s
        Longest wait for the connection, and for each part of an answer.
    retries
        How often a question is asked again after the first time.

    Notes
    -----
    Not to be shared between threads.
    """

    def __init__(self, url: str, *, timeout_s: float, retries: int) -> None:
        require(url, str, "url", hint="such as 'http://localhost:8000'")
        retries = whole(retries, "retries", least=-(2**63))
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float):
            raise UserError(f"timeout_s must be a number of seconds, got {as_found(timeout_s)}")
        if not 0 < timeout_s <= LONGEST_TIMEOUT_S or retries < 0:
            asked = f"timeout_s must be above 0 and at most {LONGEST_TIMEOUT_S:.0f}, retries at least 0"
            raise UserError(f"{asked}, found {timeout_s} and {retries}")
        self.url = url.rstrip("/")
        self._prefix = urlsplit(self.url).path
        self._retries = retries
        self._http = _open(self.url, timeout_s)
        self._used = False

    def ask(self, method: str, path: str, body: bytes | None = None, *, headers: Mapping[str, str]) -> Reply:
        """Send one question and read the whole answer.

        Raises
        ------
        ServerError
            No answer after all retries, or none in time (which is not tried again: the server has the question).
        """
        attempt = 0
        while True:
            last = attempt == self._retries
            try:
                reply = self._ask_once(method, path, body, headers)
            except _FAILURES as error:
                self.close()
                if last or isinstance(error, TimeoutError):
                    raise ServerError(self._no_answer(error, attempt + 1)) from error
                wait_s = _wait_s(attempt)
            else:
                if last or reply.status != BUSY:
                    return reply
                wait_s = _wait_s(attempt, reply.headers.get("retry-after", ""))
            time.sleep(wait_s)
            attempt += 1

    def close(self) -> None:
        """Give the connection back; the next question opens another."""
        self._http.close()
        self._used = False

    def _ask_once(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        if not self._used:
            return self._exchange(method, path, body, headers)
        try:
            return self._exchange(method, path, body, headers)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            # A server may close a connection that was idle for a while: that is no failure, and no reason to wait.
            self.close()
            return self._exchange(method, path, body, headers)

    def _exchange(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Reply:
        self._http.request(method, self._prefix + path, body=body, headers=headers)
        response = self._http.getresponse()
        content = response.read()
        self._used = True
        return Reply(response.status, content, {name.lower(): value for name, value in response.getheaders()})

    def _no_answer(self, error: Exception, attempts: int) -> str:
        times = "" if attempts == 1 else f" after {attempts} attempts"
        return f"no answer from {self.url}{times}: {error or type(error).__name__}; is 'mlaas4hep serve' running there?"


def _open(url: str, timeout_s: float) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    kinds: dict[str, type[http.client.HTTPConnection]] = {
        "http": http.client.HTTPConnection,
        "https": http.client.HTTPSConnection,
    }
    try:
        port = parts.port
    except ValueError as error:
        raise UserError(f"'{url}' has no valid port: {error}") from error
    if parts.scheme not in kinds or not parts.hostname:
        raise UserError(f"'{url}' is not the URL of a server; asked for one such as http://localhost:8000")
    return kinds[parts.scheme](parts.hostname, port, timeout=timeout_s)


def _wait_s(attempt: int, retry_after: str = "") -> float:
    """Doubling, and anywhere below that: clients that failed together do not come back together."""
    longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0**attempt)
    asked = float(retry_after) if retry_after.isdecimal() else 0.0
    return min(asked, LONGEST_WAIT_S) + random.uniform(0, longest)
