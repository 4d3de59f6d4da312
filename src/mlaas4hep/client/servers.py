"""Which of several servers is asked: the one that answered last, until it fails.

A server that fails is left out for a while that doubles with each failure in a row, and then is one of them again.
Invariant: there is always one to be asked; where all have failed, it is the one whose time is over first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from mlaas4hep.arguments import require
from mlaas4hep.errors import UserError

FIRST_OUT_S = 1.0
LONGEST_OUT_S = 30.0
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens.

    Parameters
    ----------
    url
        As it was given, without a slash at its end.
    scheme, host, port
        Of it.
    prefix
        Path in front of every route.
    authority
        Host and port as a request names them.
    """

    url: str
    scheme: str
    host: str
    port: int
    prefix: str
    authority: str


def address_of(url: str) -> Address:
    """Read a URL.

    Raises
    ------
    UserError
        It is none of a server.
    """
    require(url, str, "url", hint="such as 'http://localhost:8000'")
    plain = url.rstrip("/")
    try:
        parts = urlsplit(plain)
        port = parts.port
    except ValueError as error:
        raise UserError(f"'{url}' has no valid port or host: {error}") from error
    if parts.username is not None or parts.query or parts.fragment:
        raise UserError("the URL of a server has neither a user, nor a password, nor a query; tokens are given as such")
    whole = f"{parts.netloc}{parts.path}"
    if (
        parts.scheme not in _PORTS
        or not parts.hostname
        or not (whole.isascii() and whole.isprintable())
        or " " in whole
    ):
        raise UserError(f"'{url}' is not the URL of a server; asked for one such as http://localhost:8000")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    named = host if port is None else f"{host}:{port}"
    return Address(plain, parts.scheme, parts.hostname, port or _PORTS[parts.scheme], parts.path, named)


class Servers:
    """Addresses in the order of preference, and which of them are well.

    Parameters
    ----------
    urls
        One URL or several.
    clock
        Seconds, as `time.monotonic` counts them.

    Raises
    ------
    UserError
        None is given, or one is no URL of a server.
    """

    def __init__(self, urls: str | Sequence[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        listed = [urls] if isinstance(urls, str) or not isinstance(urls, Sequence) else list(urls)
        self.addresses = tuple(dict.fromkeys(address_of(url) for url in listed))
        if not self.addresses:
            raise UserError("no server is given; asked for a URL such as http://localhost:8000, or several")
        self.current = self.addresses[0]
        self._clock = clock
        self._back = dict.fromkeys(self.addresses, 0.0)
        self._failures = dict.fromkeys(self.addresses, 0)

    def __len__(self) -> int:
        return len(self.addresses)

    def well(self, address: Address) -> None:
        """It answered."""
        self.current = address
        if self._failures[address]:
            self._failures[address], self._back[address] = 0, 0.0

    def failed(self, address: Address) -> None:
        """It is dead: leave it out for a while."""
        out_s = min(LONGEST_OUT_S, FIRST_OUT_S * 2.0 ** min(self._failures[address], 10))
        self._failures[address] += 1
        self._leave_out(address, out_s)

    def busy(self, address: Address, wait_s: float) -> None:
        """It lives, but asks to be left alone for so long."""
        self._leave_out(address, wait_s)

    def wait_s(self) -> float:
        """Seconds until one of them may be asked."""
        return max(0.0, min(self._back.values()) - self._clock())

    def _leave_out(self, address: Address, out_s: float) -> None:
        now = self._clock()
        self._back[address] = max(self._back[address], now + out_s)
        if self.current == address:
            place = self.addresses.index(address)
            others = (*self.addresses[place + 1 :], *self.addresses[: place + 1])
            soonest = min(others, key=self._back.__getitem__)
            self.current = next((one for one in others if self._back[one] <= now), soonest)
