"""The long way through a connection: what uvicorn and Starlette answer, behind answers that are not theirs.

Invariant: a question that goes this way counts as one of its client's until it is answered or its connection is gone,
as every other does.
"""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from mlaas4hep.serve.bounded import BoundedProtocol
from mlaas4hep.serve.shares import Counted, Share


class _Busy:
    """Stands for a cold question in front of one that has to wait for hot answers."""

    response_complete = False


class ColdProtocol(BoundedProtocol):
    """One connection, as far as it hands requests on."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.share: Share | None = None
        # Questions that were handed on and are not answered.
        self._counted: set[Counted] = set()
        # Those that uvicorn answers; it remembers only the newest, and would write to the others' lost connection.
        self._cycles: list[RequestResponseCycle] = []
        # This message is none that is answered.
        self._ignores = False

    def connection_lost(self, exc: Exception | None) -> None:
        for one in self._counted:
            one.end()
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def _hand_on(self, app: ASGIApp | None, *, behind: bool) -> None:
        """Let an application answer, the usual one where none is given, but not before what it is ``behind``."""
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self._ignores = True
            self._refuse(400, f"asked for HTTP/1.0 or 1.1, found {version}")
            return
        url, headers, expect, usual = self.url, self.headers, self.expect_100_continue, self.app
        HttpToolsProtocol.on_message_begin(self)
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)
        if behind and (self.cycle is None or self.cycle.response_complete):
            self.cycle = _Busy()  # type: ignore[assignment]
        self.app = self._counting(app or usual)
        HttpToolsProtocol.on_headers_complete(self)
        self._cycles = [*(one for one in self._cycles if not one.response_complete), self.cycle]
        self.app = usual
        self.headers = []  # what comes behind a body in chunks is no part of the head

    def _counting(self, app: ASGIApp) -> ASGIApp:
        """The application, which ends the count of what it answers."""
        if self.share is None or self.parser.get_method() != b"POST":
            return app
        one, counted = Counted(self.share), self._counted
        counted.add(one)

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            finally:
                one.end()
                counted.discard(one)

        return answer
