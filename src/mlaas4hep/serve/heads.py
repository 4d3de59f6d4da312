"""Heads of requests that are known byte for byte, so that they are looked up and not read again.

A client sends the same head with every question, but for the length of its body; reading it costs more than a third of
a small question. Invariant: a head is kept only as it was read by the parser of HTTP, whole and at the beginning of a
message, and only where each of its headers is one that says nothing of who asks: no token is ever kept.
"""

from __future__ import annotations

from typing import NamedTuple

from mlaas4hep.serve.asking import Headers, Route
from mlaas4hep.serve.together import Form, form_of

Target = tuple[Route, tuple[str | None, ...], str]

# Heads that are kept, and the longest.
MAX_HEADS, MAX_BYTES = 1024, 1024
_USUAL = frozenset(
    (
        b"host",
        b"user-agent",
        b"accept",
        b"accept-encoding",
        b"accept-language",
        b"connection",
        b"content-type",
        b"content-length",
        b"inference-header-content-length",
    )
)


class Known(NamedTuple):
    """What a head says: who is asked, its headers, the bytes of the body, and its form for `lane.Lane`, if any."""

    found: Target
    headers: Headers
    length: int
    form: Form | None


class KnownHeads:
    """Of all connections of a server."""

    def __init__(self) -> None:
        self._known: dict[bytes, Known] = {}
        self.get = self._known.get

    def learn(self, data: bytes, headers: list[tuple[bytes, bytes]], found: Target, length: int) -> None:
        """Keep the head that a piece of the wire begins with, as it was read just now, if it is a usual one."""
        head = head_of(data, 0)
        if head is None or not all(name in _USUAL for name, _ in headers):
            return
        # A line a header, each with its two bytes of an end: what the parser bears beside this is not kept.
        lines = head.count(b"\r\n")
        if lines != len(headers) + 2 or lines != head.count(b"\n") or not head.startswith(b"POST /"):
            return
        if len(self._known) >= MAX_HEADS:
            self._known.clear()
        names = dict(headers)
        self._known[head] = Known(found, names, length, form_of(found[0], names, length))


def head_of(data: bytes, start: int) -> bytes | None:
    """The bytes from there to the end of a head; None where it does not end within `MAX_BYTES`."""
    end = data.find(b"\r\n\r\n", start, start + MAX_BYTES)
    return None if end < 0 else data[start : end + 4]
