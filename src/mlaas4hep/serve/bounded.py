"""The wire with limits: uvicorn's protocol, with a bound on what a question may cost before a route sees it.

uvicorn bounds neither the size of a head nor the time of a question that never ends. Invariant: bytes that no route has
taken are at most `MAX_HEAD_BYTES` and what one read brings, and whoever sends nothing for long is let go.
"""

from __future__ import annotations

import asyncio
import http
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Request line and headers; a question of ours has less than 1 kB.
MAX_HEAD_BYTES = 64 << 10
# A question must be whole within this time and what its bytes take at the slowest rate.
UNFINISHED_S = 30.0
SLOWEST_BYTES_S = 64 << 10


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Answers 431 to a head that is too large, 408 to a question that is not finished in time."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._refused = False
        # Bytes since a head or a part of a body was last whole: what lies in the parser.
        self._pending = 0
        self._received = 0
        self._began_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._begin()
        self._received += len(data)
        self._pending += len(data)
        super().data_received(data)
        if self._pending > MAX_HEAD_BYTES:
            self._refuse(431, f"the head of the request is larger than the {MAX_HEAD_BYTES} bytes that are taken")

    def on_message_begin(self) -> None:
        self._begin()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        # The bytes in `_pending` may be those of a body, if both came at once.
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEAD_BYTES:
            self._refuse(431, f"the head of the request is larger than the {MAX_HEAD_BYTES} bytes that are taken")
        self._pending = 0
        if not self._refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._pending = 0
        self._end()
        if not self._refused:
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _begin(self) -> None:
        if self._timer is None and not self._refused:
            self._received, self._began_s = 0, self.loop.time()
            self._timer = self.loop.call_later(UNFINISHED_S, self._check_time)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_time(self) -> None:
        left_s = self._began_s + UNFINISHED_S + self._received / SLOWEST_BYTES_S - self.loop.time()
        if self.flow.read_paused:
            left_s = max(left_s, UNFINISHED_S)  # we do not read, so the client cannot send
        if left_s > 0:
            self._timer = self.loop.call_later(left_s, self._check_time)
        elif self._received:
            self._refuse(408, f"the request was not finished within {UNFINISHED_S:g} s")
        else:
            self.transport.close()

    def _refuse(self, status: int, text: str) -> None:
        """Answer in the form of all errors and hang up; in the middle of another answer only hang up."""
        if self._refused:
            return
        self._refused = True
        self._end()
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = msgspec.json.encode({"error": text})
            head = (
                f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()
