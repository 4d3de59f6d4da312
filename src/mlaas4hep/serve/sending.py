"""The sending half of an HTTP/2 connection: answers, the windows they must fit, and how a connection ends.

Invariant: an answer leaves once, whole and in order, and no faster than the other side takes it; who gives up a stream
or a connection is told to the `Handler`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from mlaas4hep.serve.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    NO_ERROR,
    RST_STREAM,
    Stream,
    frame,
    uint32,
)
from mlaas4hep.serve.intake import Intake

# Answers must be taken faster than this, beyond the time that each stream has anyway.
SLOWEST_BYTES_S = 64 << 10
# What a peer is taken to allow until its settings say otherwise.
DEFAULT_WINDOW, DEFAULT_FRAME = 65_535, 16_384


class Handler(Protocol):
    """Who answers the requests of connections."""

    max_body: int
    intake: Intake

    def opened(self, connection: Sending) -> None:
        """A connection is there."""

    def reads(self) -> None:
        """Something came, and is read now."""

    def has_read(self) -> None:
        """It was read, and what came of it is asked."""

    def closed(self, connection: Sending) -> None:
        """A connection is gone; all its requests were given up before."""

    def begin(self, connection: Sending, stream: Stream) -> None:
        """A head is there; it may be answered at once."""

    def too_large(self, connection: Sending, stream: Stream) -> None:
        """A body is larger than may be; answer."""

    def no_room(self, connection: Sending, stream: Stream) -> None:
        """Too much is held already; answer."""

    def ask(self, connection: Sending, stream: Stream) -> None:
        """A request is whole."""

    def broken(self, connection: Sending, text: str) -> None:
        """A connection breaks the rules, and ends."""

    def give_up(self, stream: Stream) -> None:
        """Nobody waits for the answer any more."""


class Sending(asyncio.Protocol):
    """One connection, without what it reads.

    Parameters
    ----------
    handler
        Who answers.
    """

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.loop = asyncio.get_running_loop()
        self.client = ""
        self.streams: dict[int, Stream] = {}
        self.transport: asyncio.Transport
        self._last = 0
        self._leaving = self._over = False
        self._window = self._first_window = DEFAULT_WINDOW
        self._max_frame = DEFAULT_FRAME
        self._answered = 0
        self._blocked: deque[Stream] = deque()
        self._read_s = self.loop.time()
        self._stalled = False

    def pause_writing(self) -> None:
        """The other side does not read: neither is it read."""
        self._stalled = True
        self._read_s = self.loop.time()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self._stalled = False
        if not self._over:
            self.transport.resume_reading()
            self._send_blocked()

    def answer(self, stream: Stream, head: bytes, body: bytes, trailers: bytes) -> None:
        """Write an answer: header block, body, and the header block behind it; once a stream."""
        if self._over or stream.sent or stream.number not in self.streams:
            return
        stream.sent = True
        self._answered += 1
        number, size = stream.number, len(body)
        start = frame(HEADERS, END_HEADERS, number, head)
        if size <= self._max_frame and size <= stream.window and size <= self._window and not self._stalled:
            self._window -= size
            tail = frame(HEADERS, END_HEADERS | END_STREAM, number, trailers)
            self._write(start + frame(DATA, 0, number, body) + tail)
            self._finish(stream)
            return
        self._write(start)
        stream.waiting = body, trailers
        stream.began_s = self.loop.time()
        self._blocked.append(stream)
        self._send_blocked()

    def refuse(self, stream: Stream, head: bytes) -> None:
        """Answer with a header block alone."""
        if self._over or stream.sent or stream.number not in self.streams:
            return
        stream.sent = True
        self._answered += 1
        self._write(frame(HEADERS, END_HEADERS | END_STREAM, stream.number, head))
        self._finish(stream)

    def leave(self) -> None:
        """Take no more requests; end when those that are under way are answered."""
        if self._leaving or self._over:
            return
        self._leaving = True
        self._write(frame(GOAWAY, 0, 0, uint32.pack(self._last) + uint32.pack(NO_ERROR)))
        if not self.streams:
            self._close()

    def _write(self, data: bytes) -> None:
        if not self._over:
            self.transport.write(data)

    def _send_blocked(self) -> None:
        """Send what the windows allow, each stream a frame in turn."""
        for _ in range(len(self._blocked)):
            stream = self._blocked.popleft()
            while self._send_part(stream):
                pass
            if stream.waiting is not None and stream.number in self.streams:
                self._blocked.append(stream)

    def _send_part(self, stream: Stream) -> bool:
        """Send one frame; tells whether another may follow."""
        if stream.waiting is None or stream.number not in self.streams or self._stalled:
            return False
        body, trailers = stream.waiting
        size = min(len(body), self._max_frame, stream.window, self._window)
        if body and size <= 0:
            return False
        stream.window -= size
        self._window -= size
        stream.began_s += size / SLOWEST_BYTES_S
        self._write(frame(DATA, 0, stream.number, bytes(body[:size])))
        if size < len(body):
            stream.waiting = memoryview(body)[size:], trailers  # type: ignore[assignment]
            return True
        stream.waiting = None
        self._write(frame(HEADERS, END_HEADERS | END_STREAM, stream.number, trailers))
        self._finish(stream)
        return False

    def _finish(self, stream: Stream) -> None:
        """All of an answer is written."""
        if not stream.ended:  # what is left of the request is not wanted
            self._reset(stream.number, NO_ERROR)
        self._forget(stream, given_up=False)

    def _reset(self, number: int, code: int) -> None:
        self._write(frame(RST_STREAM, 0, number, uint32.pack(code)))

    def _forget(self, stream: Stream, *, given_up: bool) -> None:
        del self.streams[stream.number]
        if not stream.ended:
            self.handler.intake.give_back(len(stream.body))
            stream.body = b""
        if given_up:
            self.handler.give_up(stream)
        if self._leaving and not self.streams:
            self._close()

    def _close(self) -> None:
        if not self._over:
            self._over = True
            self.transport.close()

    def _end(self, code: int, text: str) -> None:
        self._write(frame(GOAWAY, 0, 0, uint32.pack(self._last) + uint32.pack(code) + text.encode()))
        self._close()
        self.handler.broken(self, text)
