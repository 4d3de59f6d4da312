"""Asking on an event loop: a pool of kept connections to each server, each an `asyncio.Protocol` of its own.

Invariant: as for `mlaas4hep.client.connection`; and a question that is cancelled takes its connection with it, so that
no answer is ever read by another question.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections import deque
from typing import TypeVar, cast

from mlaas4hep.arguments import whole
from mlaas4hep.client.attempts import Attempts, Failed, Patience
from mlaas4hep.client.connection import head_for, read
from mlaas4hep.client.identity import Bearer, Tls
from mlaas4hep.client.questions import Question
from mlaas4hep.client.servers import Address, Servers
from mlaas4hep.client.wire import JOINED_BYTES, Broken, Reply, ReplyReader
from mlaas4hep.errors import ServerError

T = TypeVar("T")


class Line(asyncio.Protocol):
    """One connection, with one question at a time."""

    def __init__(self) -> None:
        self.used = False
        self.open = False
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._poll = select.poll()
        self._reader = ReplyReader()
        self._answer: asyncio.Future[Reply] | None = None
        self._ends_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not looked at by kind: uvloop's are no children of asyncio's.
        self._transport, self.open = cast(asyncio.Transport, transport), True
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.abort()  # nobody asked
            return
        try:
            reply = self._reader.feed(data)
        except Broken as error:
            self._fail(Failed(str(error), sent=True))
            return
        if reply is not None:
            self._answer.set_result(reply)

    def eof_received(self) -> bool:
        self.open = False
        if self._answer is not None and not self._answer.done():
            try:
                self._answer.set_result(self._reader.end())
            except Broken as error:
                self._fail(Failed(str(error), sent=True))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.abort()
        reason = getattr(exc, "strerror", None) or str(exc or "") or "the server hung up"
        self._fail(Failed(reason, sent=True))
        if not self.closed.done():
            self.closed.set_result(None)

    async def exchange(self, head: bytes, body: tuple[bytes, ...], left_s: float) -> Reply:
        """Send one question and wait for the whole answer.

        Raises
        ------
        Failed
            There is none.
        """
        if self._transport is None or not self.open:
            raise Failed("the server hung up", sent=False)
        loop = asyncio.get_running_loop()
        self._reader = ReplyReader()
        self._answer = loop.create_future()
        self._watch(loop, loop.time() + left_s)
        try:
            if sum(map(len, body)) <= JOINED_BYTES:
                self._transport.write(b"".join((head, *body)))
            else:
                self._transport.writelines((head, *body))
            reply = await self._answer
        except BaseException:
            self.abort()
            raise
        finally:
            self._answer = None
        self.used = True
        if not self._reader.keep:
            self.abort()
        return reply

    def quiet(self) -> bool:
        """Whether it is open, and nothing came that nobody asked for, such as a proxy's 408 before it hangs up."""
        return self.open and not self._poll.poll(0)

    @property
    def began(self) -> bool:
        """Whether any of an answer came to the last question."""
        return self._reader.began

    def abort(self) -> None:
        """Close at once."""
        self.open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()

    def _watch(self, loop: asyncio.AbstractEventLoop, ends_s: float) -> None:
        """Give up then. A timer for each question would cost half as much again: one is left to the next."""
        self._ends_s = ends_s
        if self._timer is None or self._timer.when() > ends_s:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(ends_s, self._look)

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        if self._answer is None or self._answer.done():
            return
        if loop.time() < self._ends_s:
            self._watch(loop, self._ends_s)
        else:
            self._fail(Failed("no answer in time", sent=True, late=True))

    def _fail(self, failure: Failed) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(failure)


class AsyncTransport:
    """Asks questions at the first of several servers that answers, many at once. Lives on one event loop.

    Parameters
    ----------
    servers, patience, bearer, tls
        See there.
    connections
        Most that are open at once; further questions wait for one.
    """

    def __init__(self, servers: Servers, patience: Patience, bearer: Bearer, tls: Tls, *, connections: int) -> None:
        self.servers = servers
        self.patience = patience
        self._bearer = bearer
        self._context = tls.context() if any(one.scheme == "https" for one in servers.addresses) else None
        self._room = asyncio.Semaphore(whole(connections, "connections", least=1))
        self._idle: dict[Address, deque[Line]] = {one: deque() for one in servers.addresses}
        self._lines: set[Line] = set()

    async def ask(self, question: Question[T], deadline_s: float) -> T:
        """What a server answers; see `mlaas4hep.client.connection.Transport.ask`."""
        attempts = Attempts(self.servers, self.patience, deadline_s, safe=question.safe, again=question.again)
        shown = False
        while True:
            async with self._room:
                address, left_s = attempts.begin()
                try:
                    reply = await self._exchange(question, address, left_s)
                    pause_s = attempts.judged(address, reply)
                    if pause_s is None and reply.status == 401 and not shown:
                        shown = True
                        if self._bearer.another(address):
                            continue
                    if pause_s is None:
                        return read(question, reply, address, self._bearer)
                except Broken as error:
                    self._drop_idle(address)
                    pause_s = attempts.failed(address, Failed(str(error), sent=True))
                except Failed as failure:
                    pause_s = attempts.failed(address, failure)
            if pause_s:
                await asyncio.sleep(pause_s)

    async def close(self) -> None:
        """Close all connections, and wait until they are."""
        lines = list(self._lines)
        for one in lines:
            one.abort()
        await asyncio.gather(*(one.closed for one in lines))
        for idle in self._idle.values():
            idle.clear()

    async def _exchange(self, question: Question[T], address: Address, left_s: float) -> Reply:
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + left_s
        head = head_for(question, address, self._bearer.header(address), left_s)
        body = question.body or ()
        line = self._kept(address) if question.safe else None
        if line is not None:
            try:
                return await self._use(line, address, head, body, left_s)
            except Failed as failure:
                if line.began or failure.late:
                    raise
        # The first, or one instead of those that the server closed while they were idle.
        line = await self._connect(address, ends_s - loop.time())
        return await self._use(line, address, head, body, max(ends_s - loop.time(), 0.0))

    async def _use(self, line: Line, address: Address, head: bytes, body: tuple[bytes, ...], left_s: float) -> Reply:
        reply = await line.exchange(head, body, left_s)
        if line.open:
            self._idle[address].append(line)
        return reply

    def _kept(self, address: Address) -> Line | None:
        """The connection that was used last, of those that are still open."""
        idle = self._idle[address]
        while idle:
            line = idle.pop()
            if line.quiet():
                return line
            line.abort()
        return None

    def _drop_idle(self, address: Address) -> None:
        while (line := self._kept(address)) is not None:
            line.abort()

    async def _connect(self, address: Address, left_s: float) -> Line:
        loop = asyncio.get_running_loop()
        context = self._context if address.scheme == "https" else None
        try:
            async with asyncio.timeout(min(left_s, self.patience.connect_s)):
                _, line = await loop.create_connection(Line, address.host, address.port, ssl=context)
        except TimeoutError as error:
            raise Failed("no connection in time", sent=False) from error
        except ssl.SSLCertVerificationError as error:
            raise ServerError(f"{address.url}: its certificate is not trusted: {error.verify_message}") from error
        except OSError as error:
            raise Failed(error.strerror or str(error) or type(error).__name__, sent=False) from error
        self._lines.add(line)
        line.closed.add_done_callback(lambda _: self._lines.discard(line))
        return line
