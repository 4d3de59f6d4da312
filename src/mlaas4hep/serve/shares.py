"""What each client has of the server now, held against what one may have.

A client is an address; of IPv6 the first half, which is what one network gets. Invariant: an address that is known of
has a connection or asked something within the last second, so that the memory of strangers does not grow.
"""

from __future__ import annotations

import ipaddress
import math
import time

from mlaas4hep.serve.asking import Refusal
from mlaas4hep.serve.limits import ClientLimits

# Beyond so many addresses, those that are gone are looked for.
_MANY = 1024


class Share:
    """Of one client: its connections, its questions that are not answered, and the requests that it may still make."""

    __slots__ = ("address", "connections", "left", "questions", "seen_s")

    def __init__(self, address: str, left: float) -> None:
        self.address = address
        self.connections = self.questions = 0
        self.left, self.seen_s = left, time.monotonic()


class Counted:
    """A question of a client, from when it is taken until it has ended."""

    __slots__ = ("_share",)

    def __init__(self, share: Share) -> None:
        self._share: Share | None = share
        share.questions += 1

    def end(self) -> None:
        """It is answered, or nobody waits for it any more; told again it does nothing."""
        share, self._share = self._share, None
        if share is not None:
            share.questions -= 1


class Shares:
    """The shares of all clients of one server; on its event loop.

    Parameters
    ----------
    limits
        Of one client.
    """

    def __init__(self, limits: ClientLimits) -> None:
        self.limits = limits
        self._any = limits.any
        self._burst = max(limits.rate or 0.0, 1.0)
        self._shares: dict[str, Share] = {}

    def enter(self, address: str | None) -> Share | None:
        """A connection is there; None where nothing is limited, so that nothing needs to be counted."""
        if not self._any:
            return None
        name = client_of(address or "")
        share = self._shares.get(name)
        if share is None:
            if len(self._shares) >= _MANY:
                self._sweep()
            share = self._shares[name] = Share(name, self._burst)
        share.connections += 1
        return share

    def leave(self, share: Share | None) -> None:
        """A connection is gone."""
        if share is not None:
            share.connections -= 1

    def is_crowded(self, share: Share | None) -> bool:
        """Whether a client has more connections than it may have; who is refused for that is hung up on."""
        most = self.limits.connections
        return share is not None and most is not None and share.connections > most

    def refusal(self, share: Share, *, asks: bool) -> Refusal | None:
        """Why a request is refused; None where it is taken. ``asks`` tells that it is a question to a model."""
        limits = self.limits
        if self.is_crowded(share):
            found = f"{share.connections} connections of this client are open, and {limits.connections} may be"
            return _refused(f"{found}; close some, or ask over those that are there", 1.0)
        if asks and limits.questions is not None and share.questions >= limits.questions:
            found = f"{share.questions} questions of this client wait for their answers, and {limits.questions} may"
            return _refused(f"{found}; ask again when some are answered", 1.0)
        return self._spend(share, limits.rate) if limits.rate is not None else None

    def _spend(self, share: Share, rate: float) -> Refusal | None:
        now_s = time.monotonic()
        share.left = min(share.left + (now_s - share.seen_s) * rate, self._burst)
        share.seen_s = now_s
        if share.left < 1:
            found = f"this client may make {rate:g} requests a second, and made more"
            return _refused(f"{found}; ask more slowly, or more rows at a time", (1 - share.left) / rate)
        share.left -= 1
        return None

    def _sweep(self) -> None:
        old_s = time.monotonic() - 1.0
        gone = [name for name, one in self._shares.items() if not one.connections and one.seen_s < old_s]
        for name in gone:
            del self._shares[name]


def client_of(address: str) -> str:
    """The client that an address belongs to.

    Examples
    --------
    >>> client_of("192.0.2.7"), client_of("::ffff:192.0.2.7"), client_of("2001:db8:1:2:3:4:5:6")
    ('192.0.2.7', '192.0.2.7', '2001:db8:1:2::')
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)).network_address)


def _refused(text: str, retry_s: float) -> Refusal:
    return Refusal(429, text, {"Retry-After": str(max(1, math.ceil(retry_s)))})
