"""The wire with limits: uvicorn's protocol, with a bound on what a question may cost before a route sees it.

uvicorn bounds neither the size of a head nor the time of a question that never ends. Invariant: bytes that no route has
taken are at most a head of the largest size and what one read brings; who sends or reads nothing for long is let go.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from mlaas4hep.serve.limits import WireLimits

CLOSE = "connection: close\r\n"
_log = logging.getLogger(__name__)
_USUAL, _USUAL_TYPE = STATUS_LINE[200] + b"content-length: ", b"\r\ncontent-type: application/json\r\n\r\n"


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Answers 431 to a head that is too large, 408 to a question that is not finished in time."""

    def __init__(self, *arguments: Any, wire: WireLimits, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.wire = wire
        self._refused = False
        # Bytes since a head or a part of a body was last whole: what lies in the parser.
        self._pending = 0
        self._fed = 0
        self._unfinished = False
        self._received = 0
        # What is left of the question is not wanted any more, so that its bytes buy it no more time.
        self._unwanted = False
        self._began_s = self._ended_s = 0.0
        # Bytes that the other side had not read when that was last looked at, and what was written since.
        self._unread = self._written = 0
        self._looked_s = 0.0
        # One for the whole connection, since setting one for each question would cost more than the check.
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin()
        self._timer = self.loop.call_later(self.wire.unfinished_s, self._check_time)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._unfinished:
            self._begin()
        self._fed = len(data)
        self._received += self._fed
        self._pending += self._fed
        self._unset_keepalive_if_required()
        self._feed(data)
        if self._pending > self.wire.head_bytes:
            self._refuse_large_head()

    def _feed(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self.parser.get_method() != b"CONNECT":
                    # Nothing is spoken here but HTTP/1.1: what follows is the body, which the parser takes for the
                    # other protocol, and behind it the next question.
                    data = self._plain_head() + data[upgrade.args[0] :]
                    continue
            except httptools.HttpParserCallbackError as error:
                self._refuse_broken(error.__context__ or error)
            except httptools.HttpParserError as error:
                self._refuse(400, f"Invalid HTTP request: {error}")
            return

    def _plain_head(self) -> bytes:
        """The head that was just read, without its wish to speak another protocol."""
        first = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        return first + b"".join(b"%b: %b\r\n" % one for one in self.headers if one[0] != b"upgrade") + b"\r\n"

    def _refuse_broken(self, error: BaseException) -> None:
        """What one of our own callbacks found; where it did not look for it, that is our mistake."""
        if isinstance(error, httptools.HttpParserInvalidURLError | UnicodeDecodeError):
            self._refuse(400, "Invalid HTTP request: its target is none")
            return
        _log.error("reading a request failed", exc_info=error)
        self._refuse(500, "the server failed on this request; its log says why")

    def on_message_begin(self) -> None:
        self._begin_message()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._takes_head():
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

    def _takes_head(self) -> bool:
        """Whether a head that is whole is read on."""
        # Bytes that are not in `_pending` came with those of a message before, which `_fed` counts.
        most = self.wire.head_bytes
        if self._pending > most or self._fed > most:
            # Those may be of a body, if both came at once.
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > most:
                self._refuse_large_head()
        self._pending = 0
        # RFC 9112, 3.2: without this two servers in a row could take one request for different hosts.
        names = [name for name, _ in self.headers]
        hosts = names.count(b"host")
        if b"transfer-encoding" in names and not self._refused:
            self._check_encoding()
        if hosts != 1 and not self._refused and (hosts or self.parser.get_http_version() == "1.1"):
            self._refuse(400, f"asked for one Host header, found {hosts or 'none'}")
        return not self._refused

    def _check_encoding(self) -> None:
        """What else is packed, and how it ends, is a matter on which two servers in a row may differ."""
        found = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if found != [b"chunked"] or self.parser.get_http_version() != "1.1":
            self._refuse(400, "asked for no Transfer-Encoding but 'chunked', once and in HTTP/1.1")

    def _begin_message(self) -> None:
        if not self._unfinished:
            self._begin()
            self._received = 1  # what came with the message before

    def _begin(self) -> None:
        self._unfinished, self._unwanted, self._received, self._began_s = True, False, 0, self.loop.time()

    def _drop_rest(self) -> None:
        """The question is answered before it was whole."""
        self._unwanted, self._began_s = True, self.loop.time()

    def _end(self) -> None:
        self._unfinished, self._ended_s = False, self.loop.time()

    def _check_time(self) -> None:
        if self._reads_nothing():
            self.transport.abort()
            return
        left_s, wire = self._idle_left_s(), self.wire
        if self._unfinished:
            bytes_s = 0.0 if self._unwanted else self._received / wire.slowest_bytes_s
            left_s = self._began_s + wire.unfinished_s + bytes_s - self.loop.time()
            if self.flow.read_paused:
                left_s = max(left_s, wire.unfinished_s)  # we do not read, so the client cannot send
        # Also behind the end, so that who does not take that either is let go.
        again_s = min(left_s, wire.unfinished_s) if left_s > 0 else wire.unfinished_s
        self._timer = self.loop.call_later(again_s, self._check_time)
        if left_s > 0:
            return
        if self._unfinished and self._received and not self._unwanted:
            self._refuse(408, f"the request was not finished within {wire.unfinished_s:g} s")
        else:
            self.transport.close()

    def _reads_nothing(self) -> bool:
        """Whether answers wait for who takes them more slowly than may be, or not at all."""
        unread, now = self.transport.get_write_buffer_size(), self.loop.time()
        waited_s = now - self._looked_s
        waits = unread > 0 and self._unread > 0
        if waits and waited_s < 0.9 * self.wire.unfinished_s:
            return False
        read = self._unread + self._written - unread
        self._unread, self._written, self._looked_s = unread, 0, now
        return waits and read < waited_s * self.wire.slowest_bytes_s

    def _idle_left_s(self) -> float:
        """How long to wait between questions: uvicorn ends that itself."""
        return self.wire.unfinished_s

    def _refuse_large_head(self) -> None:
        self._refuse(431, f"the head of the request is larger than the {self.wire.head_bytes} bytes that are taken")

    def _refuse(self, status: int, text: str) -> None:
        """Answer in the form of all errors and hang up; in the middle of another answer only hang up."""
        if self._refused:
            return
        self._refused = True
        self._end()
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(answer_bytes(status, msgspec.json.encode({"error": text}), close=True))
        self.transport.close()


def answer_bytes(
    status: int,
    body: bytes,
    media_type: str = "application/json",
    headers: Sequence[tuple[str, str]] = (),
    *,
    close: bool = False,
) -> bytes:
    """An answer as Starlette and uvicorn write it, byte for byte."""
    if status == 200 and media_type == "application/json" and not headers and not close:
        return usual_answer(body)[0]
    more = "".join(f"{name.lower()}: {value}\r\n" for name, value in headers)
    head = f"{more}content-length: {len(body)}\r\ncontent-type: {media_type}\r\n{CLOSE if close else ''}\r\n"
    return b"".join((STATUS_LINE[status], head.encode("latin-1"), body))


def usual_answer(body: bytes, more: bytes = b"", last: bytes = b"") -> tuple[bytes, int]:
    """`answer_bytes` of a status 200 in JSON, on a connection that stays, of a body in three parts; and its size."""
    size = len(body) + len(more) + len(last)
    return b"%b%d%b%b%b%b" % (_USUAL, size, _USUAL_TYPE, body, more, last), size


def closing(answer: bytes) -> bytes:
    """The same answer on a connection that ends."""
    return answer.replace(b"\r\n\r\n", b"\r\n%b\r\n" % CLOSE.encode(), 1)
