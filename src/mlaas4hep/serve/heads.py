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
# Who is asked and how: questions of one way are answered together.
Way = tuple[tuple[str | None, ...], Form]

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
    """What a head says: who is asked, its headers, the bytes of itself and of the body, and its way in `lane.Lane`."""

    found: Target
    headers: Headers
    size: int
    length: int
    way: Way | None


class KnownHeads:
    """Of all connections of a server."""

    def __init__(self) -> None:
        self._known: dict[bytes, Known] = {}

    def at(self, data: bytes, start: int) -> Known | None:
        """What is known of the head that begins there; None where it is not known, or not whole."""
        end = data.find(b"\r\n\r\n", start, start + MAX_BYTES)
        return None if end < 0 else self._known.get(data[start : end + 4])

    def learn(self, data: bytes, headers: list[tuple[bytes, bytes]], found: Target, length: int) -> None:
        """Keep the head that a piece of the wire begins with, as it was read just now, if it is a usual one."""
        end = data.find(b"\r\n\r\n", 0, MAX_BYTES)
        head = data[: end + 4]
        if end < 0 or not all(name in _USUAL for name, _ in headers):
            return
        # A line a header, each with its two bytes of an end: what the parser bears beside this is not kept.
        lines = head.count(b"\r\n")
        if lines != len(headers) + 2 or lines != head.count(b"\n") or not head.startswith(b"POST /"):
            return
        if len(self._known) >= MAX_HEADS:
            self._known.clear()
        names = dict(headers)
        form = form_of(found[0], names, length)
        self._known[head] = Known(found, names, len(head), length, None if form is None else (found[1], form))
