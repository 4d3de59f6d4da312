"""One question on its way through a connection: read, asked, told, written, and seen by the hooks.

`Asked` knows of its connection only what `Connection` says. Invariant: each question gets one reply, whatever fails.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from mlaas4hep.errors import BusyError, MLaaSError
from mlaas4hep.serve.asking import (
    Asleep,
    Headers,
    Refusal,
    Reply,
    Route,
    deadline_of,
    is_long,
    is_wide,
    read_awake,
    refusal_of,
    too_large,
)
from mlaas4hep.serve.bounded import answer_bytes, closing
from mlaas4hep.serve.heads import KnownHeads, Target
from mlaas4hep.serve.hooks import Hooks, Seen
from mlaas4hep.serve.lane import Lane
from mlaas4hep.serve.limits import ClientLimits
from mlaas4hep.serve.model import ServedModel
from mlaas4hep.serve.pressure import Pressure
from mlaas4hep.serve.service import InferenceService, Outputs, Question
from mlaas4hep.serve.shares import Share, Shares
from mlaas4hep.serve.ticket import Outcome, Ticket

# Paths whose meaning is kept, and how long they may be for that.
_MAX_PATHS, _MAX_PATH = 4096, 512
# Parts of a body that are smaller are joined as they come, since each takes more room than its bytes.
_SMALL_PART = 512
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Hot:
    """What all connections of a server share."""

    service: InferenceService
    routes: Sequence[Route]
    hooks: Hooks = field(default_factory=Hooks)
    paths: dict[bytes, Target | None] = field(default_factory=dict)
    heads: KnownHeads = field(default_factory=KnownHeads)
    shares: Shares = field(default_factory=lambda: Shares(ClientLimits()))
    pressure: Pressure | None = None
    lane: Lane | None = None

    def begin(self, loop: asyncio.AbstractEventLoop) -> Pressure:
        """Watch the loop that the first connection runs on."""
        if self.pressure is None:
            self.pressure = Pressure(loop, self.service.limits.wait_s)
            self.lane = Lane(self.service, loop, self.hooks)
        return self.pressure

    def find(self, url: bytes) -> Target | None:
        """Route, what it names, and path; None where Starlette is to answer."""
        if len(url) > _MAX_PATH:
            return self._find(url)
        if len(self.paths) >= _MAX_PATHS:
            self.paths.clear()
        self.paths[url] = found = self._find(url)
        return found

    def _find(self, url: bytes) -> Target | None:
        if b"?" in url or b"%" in url or b"#" in url or not url.isascii():
            return None
        path = url.decode()
        for route in self.routes:
            target = route.match(path)
            if target is not None:
                return route, target, path
        return None


class Connection(Protocol):
    """What a question needs of the connection it came by."""

    hot: Hot
    loop: asyncio.AbstractEventLoop
    client: tuple[str, int] | None
    share: Share | None

    def flush(self) -> None:
        """A reply is there."""


class Asked:
    """A question on its way through one connection."""

    # What few questions change stands here once, and is not written into each of them.
    method = "POST"
    parts: Sequence[bytes | bytearray] = ()
    size = held = 0
    gone = told = told_elsewhere = False
    reply: bytes | None = None
    ticket: Ticket | None = None
    question: Question[Reply] | None = None
    model: ServedModel | None = None

    def __init__(self, protocol: Connection, found: Target, headers: Headers, keep_alive: bool) -> None:
        self.protocol = protocol
        self.route, self.target, self.path = found
        self.headers = headers
        self.keep_alive = keep_alive
        self.began_s = time.monotonic()
        if protocol.share is not None:
            protocol.share.questions += 1

    def hold(self, part: bytes | bytearray) -> Exception | None:
        """Keep a part of the body; gives the error where it is too large, or bodies fill the memory that they may."""
        service, parts, size = self.protocol.hot.service, self.parts, len(part)
        if self.size > service.limits.max_body_bytes:
            return too_large(service.limits.max_body_bytes)
        if not service.intake.takes(size):
            return service.intake.busy()
        self.held += size
        if parts and size < _SMALL_PART:
            if type(last := parts[-1]) is bytearray:
                last += part
                return None
            part = bytearray(part)
        if isinstance(parts, list):
            parts.append(part)
        else:
            self.parts = [part]
        return None

    def forget(self, *, whole: bool) -> None:
        """Nobody waits for the answer any more. What a thread is reading is given back when it has ended."""
        self.gone = True
        if self.ticket is not None:
            self.ticket.cancel()
        if self.ticket is not None or not whole:
            self._give_back()
        if self.reply is None:
            self.see(499, 0)

    def _give_back(self) -> None:
        if self.held:
            self.protocol.hot.service.intake.give_back(self.held)
            self.held = 0

    def ask(self) -> None:
        """The body is whole; a model that sleeps is waited for."""
        try:
            name = self.target[0] if self.target else None
            waking = self.protocol.hot.service.repository.waking(name) if name else None
        except Exception as error:
            self.refuse(error)
            return
        if waking is None:
            self._read()
        else:
            self._wait(waking)

    def ask_alone(self, body: bytes) -> None:
        """See `lane.Waiting`."""
        self.parts = (body,)
        self.ask()

    def land(self, whole: bytes) -> None:
        """See `lane.Waiting`."""
        self.reply = whole if self.keep_alive else closing(whole)
        self.told = True
        protocol = self.protocol
        if protocol.share is not None:
            protocol.share.questions -= 1
        protocol.flush()

    def seen_landed(self, size: int, model: ServedModel, rows: int, read_s: float, run_s: float, ran_s: float) -> Seen:
        """See `lane.Waiting`."""
        client = self.protocol.client
        return Seen(
            method=self.method,
            path=self.path,
            status=200,
            client=client[0] if client else "",
            route=self.route.name,
            model=model,
            rows=rows,
            bytes_in=self.size,
            bytes_out=size,
            seconds=time.monotonic() - self.began_s,
            queue_s=read_s - self.began_s,
            run_s=ran_s - run_s,
            headers=self.headers,
            read_s=run_s - read_s,
        )

    def _wait(self, waking: Future[Any]) -> None:
        waking.add_done_callback(lambda done: self.protocol.loop.call_soon_threadsafe(self._woken, done))

    def _woken(self, waking: Future[Any]) -> None:
        error = waking.exception()
        if error is None:
            self.ask()  # it may have been put to sleep again, for which the loop does not wait
        else:
            self.refuse(error)

    def _read(self) -> None:
        body = b"".join(self.parts)
        self.parts = ()
        service = self.protocol.hot.service
        if is_long(self.headers, body):
            self._read_in_thread(lambda: read_awake(self.route, service, self.target, self.headers, body))
            return
        try:
            question = self.route.read(service, self.target, self.headers, body)
        except Asleep as asleep:  # it is read once more then
            self.parts = (body,)
            self._wait(asleep.load)
            return
        except Exception as error:
            self.refuse(error)
            return
        self._submit(question)

    def shed(self, pressure: Pressure) -> None:
        """Answer that there is too much to do, without a look at the body; who asked this writes it."""
        self._note_model()
        self.reply = pressure.keeping if self.keep_alive else pressure.closing
        self.see(503, pressure.size)

    def _note_model(self) -> None:
        """Who is asked, for who counts what was refused unread."""
        if len(self.target) == 2 and self.target[0]:
            self.model = self.protocol.hot.service.repository.peek(*self.target)

    def refuse(self, error: BaseException) -> None:
        """Answer with a status and a text."""
        if not isinstance(error, MLaaSError | Refusal):
            _log.error("%s failed", self.path, exc_info=error)
        refusal = refusal_of(error)
        self._settle(refusal.status, Reply(refusal.body, headers=tuple(refusal.headers.items())))

    def _submit(self, question: Question[Reply]) -> None:
        if self.gone:
            self._give_back()
            return
        self.question, self.model = question, question.model
        if question.prepare is not None:  # its bytes are held until then, also where its head was known
            intake = self.protocol.hot.service.intake
            if not self.held and not intake.takes(self.size):
                self.refuse(intake.busy())
                return
            self.held = self.size
            self._read_in_thread(question.ready)
            return
        self._give_back()  # what waits for a run is counted by the batcher
        try:
            deadline = deadline_of(question, self.headers, self.began_s)
        except MLaaSError as error:
            self.refuse(error)
            return
        batcher = self.protocol.hot.service.batcher(question.model)
        self.ticket = batcher.submit(question.inputs, question.rows, self._landed, deadline=deadline, checked=True)

    def _landed(self, outcome: Outcome) -> None:
        if isinstance(outcome, Exception):
            self.refuse(outcome)
        elif is_wide(outcome):
            self._in_thread(lambda: self._finish(outcome), self._answer)
        else:
            try:
                reply = self._finish(outcome)
            except Exception as error:
                self.refuse(error)
                return
            self._answer(reply)

    def _finish(self, outputs: Outputs) -> Reply:
        if self.question is None:
            raise RuntimeError("an answer came to a question that was not asked")
        return self.question.finish(outputs)

    def _answer(self, reply: Reply) -> None:
        self._settle(200, reply)

    def _settle(self, status: int, reply: Reply) -> None:
        self._give_back()
        if self.gone:
            return
        protocol = self.protocol
        self.reply = answer_bytes(status, *reply, close=not self.keep_alive)
        protocol.flush()
        self.see(status, len(reply.body))

    def see(self, status: int, bytes_out: int) -> None:
        """It is answered, or nobody waits for it any more."""
        if self.told:  # such as to who hung up while the body was read in a thread
            return
        self.told = True
        share, on_request = self.protocol.share, self.protocol.hot.hooks.on_request
        if share is not None:
            share.questions -= 1
        if on_request is not None and not self.told_elsewhere:
            on_request(self._seen(status, bytes_out))

    def _seen(self, status: int, bytes_out: int) -> Seen:
        question, ticket, now = self.question, self.ticket, time.monotonic()
        return Seen(
            method=self.method,
            path=self.path,
            status=status,
            client=self.protocol.client[0] if self.protocol.client else "",
            route=self.route.name,
            model=self.model,
            rows=question.rows if question else 0,
            bytes_in=self.size,
            bytes_out=bytes_out,
            seconds=now - self.began_s,
            queue_s=ticket.started_s - ticket.began_s if ticket and ticket.started_s else 0.0,
            run_s=ticket.ended_s - ticket.started_s if ticket else 0.0,
            headers=self.headers,
            read_s=ticket.began_s - self.began_s if ticket else 0.0,
        )

    def _read_in_thread(self, work: Callable[[], Question[Reply]]) -> None:
        """Go on with what is asked, unless too much waits to be read."""
        backlog = self.protocol.hot.service.backlog
        try:
            backlog.enter()
        except BusyError as error:
            self._note_model()
            self.refuse(error)
            return
        self._in_thread(work, self._submit, ended=backlog.leave)

    def _in_thread(
        self, work: Callable[[], Any], then: Callable[[Any], None], *, ended: Callable[[float], None] | None = None
    ) -> None:
        """``ended`` is told how long it took, whether anybody still waits or not."""
        loop = self.protocol.loop

        def run() -> None:
            began_s = time.monotonic()
            try:
                found = None if self.gone else work()
            except Exception as error:
                loop.call_soon_threadsafe(self.refuse, error)
            else:
                loop.call_soon_threadsafe(then, found)
            finally:
                if ended is not None:
                    ended(time.monotonic() - began_s)

        self.protocol.hot.service.executor.submit(run)


def _no_route(path: str) -> None:
    return None


def _read_nothing(*_: Any) -> Question[Reply]:
    raise Refusal(404, "no route")


OTHER = Route("", _no_route, _read_nothing)
