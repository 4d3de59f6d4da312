"""One call of gRPC on its way: its head, its message, its question, and the status behind its answer.

Invariant: every call gets one status, and what it says is what HTTP says, in gRPC's words. A long message is not read
before it is known whether whoever sent it may ask; then it is read in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol
from urllib.parse import quote

from google.protobuf.message import DecodeError

from mlaas4hep.errors import BusyError, MLaaSError, RequestError
from mlaas4hep.serve.asking import INLINE_BODY_BYTES, Refusal, is_wide, refusal_of
from mlaas4hep.serve.frames import Stream, field
from mlaas4hep.serve.grpc_message import ENCODINGS, first_text, framed, is_compressed, unframed
from mlaas4hep.serve.grpc_methods import METHODS, Answers, Fields, Method
from mlaas4hep.serve.grpc_tensors import read_request, write_response
from mlaas4hep.serve.hooks import Hooks, Seen
from mlaas4hep.serve.intake import Intake
from mlaas4hep.serve.oip import SERVICE, message
from mlaas4hep.serve.sending import Sending
from mlaas4hep.serve.service import InferenceService, Outputs, Question
from mlaas4hep.serve.shares import Share
from mlaas4hep.serve.ticket import Outcome, Ticket

# Codes of gRPC's list of statuses.
DEADLINE_EXCEEDED, INTERNAL = 4, 13
_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 408: 4, 409: 9, 413: 8, 415: 12, 429: 8, 501: 12, 503: 14, 504: 4}
_MAX_TEXT = 2000
# Of messages that hold no tensors.
MAX_SMALL = 64 << 10

# ``:status: 200`` and ``content-type: application/grpc``, of the table that every HTTP/2 implementation knows.
_HEAD = b"\x88" + b"\x0f\x10" + b"\x10application/grpc"
_DONE = field(b"grpc-status", b"0")
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PLAIN = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
# Headers of refusals that are told over gRPC too.
_TOLD = ("WWW-Authenticate", "grpc-accept-encoding")
_INFER, _NONE = METHODS[f"/{SERVICE}/ModelInfer".encode()], Method("", "", str, None)
_log = logging.getLogger(__name__)


class Server(Protocol):
    """What a call needs of who takes it."""

    service: InferenceService
    answers: Answers
    hooks: Hooks
    max_body: int
    intake: Intake


class Call:
    """One request on its way; `Http2Protocol` hands it what comes."""

    __slots__ = (
        "began_s",
        "connection",
        "given_up",
        "held",
        "method",
        "question",
        "raw",
        "read_s",
        "server",
        "share",
        "stream",
        "task",
        "ticket",
        "timeout_s",
    )

    def __init__(self, server: Server, connection: Sending, stream: Stream) -> None:
        self.server = server
        self.connection = connection
        self.stream = stream
        self.began_s = time.monotonic()
        self.read_s = 0.0
        self.method = _NONE
        self.timeout_s: float | None = None
        self.ticket: Ticket | None = None
        self.question: Question[Any] | None = None
        self.task: asyncio.Future[Any] | None = None
        self.raw = True
        self.given_up = False
        self.held = 0
        self.share: Share | None = None

    @property
    def asks(self) -> bool:
        """Whether it is a question to a model."""
        return self.method is _INFER

    def take(self, share: Share) -> None:
        """Count as a question of this client until it is answered."""
        self.share = share
        share.questions += 1

    def read_head(self) -> None:
        """Refuse what is no call of a method that is here."""
        head = self.stream.head
        kind = head.get(b"content-type", b"")
        if head.get(b":method") != b"POST" or not kind.startswith(b"application/grpc"):
            raise Refusal(415, "asked for a call of gRPC: POST with content type application/grpc")
        path = head.get(b":path", b"")
        method = METHODS.get(path)
        if method is None:
            raise Refusal(501, f"no method '{path.decode('latin-1')[:200]}' is served here")
        self.method = method
        encoding = head.get(b"grpc-encoding", b"identity")
        if encoding not in ENCODINGS:
            found = encoding.decode("latin-1")[:40]
            known = b",".join(ENCODINGS).decode()
            raise Refusal(501, f"grpc-encoding '{found}' is not read here", {"grpc-accept-encoding": known})
        timeout = head.get(b"grpc-timeout")
        if timeout is not None:
            self.timeout_s = _seconds(timeout)

    def ask(self) -> None:
        """The request is whole."""
        body, self.stream.body = self.stream.body, b""
        self.held = len(body)
        self._try(self._begin, body)

    def refuse(self, error: BaseException) -> None:
        """Answer with a status and a text."""
        self._give_back()
        if self.given_up:
            return
        if not isinstance(error, MLaaSError | Refusal):
            _log.error("%s failed", self.stream.head.get(b":path"), exc_info=error)
        refusal = refusal_of(error)
        code = _CODES.get(refusal.status, INTERNAL)
        head, text = _HEAD, quote(refusal.text[:_MAX_TEXT], safe=_PLAIN).encode()
        if isinstance(error, BusyError):
            left_s = self._deadline()
            if left_s is not None and left_s <= time.monotonic():
                code = DEADLINE_EXCEEDED
            else:  # gRPC's clients wait so long before they ask again
                head += field(b"grpc-retry-pushback-ms", str(math.ceil(error.retry_after_s * 1e3)).encode())
        for name in _TOLD:
            if name in refusal.headers:
                head += field(name.lower().encode(), refusal.headers[name].encode("latin-1"))
        head += field(b"grpc-status", str(code).encode()) + field(b"grpc-message", text)
        self.connection.refuse(self.stream, head)
        self._tell(refusal.status, 0)

    def give_up(self) -> None:
        """Nobody waits for the answer any more."""
        self.given_up = True
        self._give_back()
        if self.ticket is not None:
            self.ticket.cancel()
        self._tell(499, 0)

    def _give_back(self) -> None:
        """The message is read, or not wanted."""
        self.server.intake.give_back(self.held)
        self.held = 0

    def _try(self, work: Callable[..., None], *arguments: Any) -> None:
        """A further step, unless nobody waits for it; then nothing of it is kept."""
        if self.given_up:
            self._give_back()
            return
        try:
            work(*arguments)
        except Exception as error:
            self.refuse(error)

    def _begin(self, body: bytes | bytearray) -> None:
        """Find out who is asked about, by reading as little as may be."""
        method, encoding = self.method, self.stream.head.get(b"grpc-encoding")
        if method.answer is not None:
            request = self._decoded(body, MAX_SMALL)
            self._admit(method.model_of(request), partial(self._answer, request))
        elif len(body) <= INLINE_BODY_BYTES and not is_compressed(body):
            request = self._decoded(body, self.server.max_body)
            self._admit(request.model_name, partial(self._wake, request.model_name, partial(self._ask, request)))
        else:
            name = first_text(body, encoding)
            self._admit(name, partial(self._wake, name, partial(self._ask_long, name, body)))

    def _decoded(self, body: bytes | bytearray, limit: int) -> Any:
        data = unframed(body, self.stream.head.get(b"grpc-encoding"), limit)
        try:
            return message(f"{self.method.name}Request").FromString(data)
        except DecodeError as error:
            raise RequestError(f"the message is no {self.method.name}Request") from error

    def _admit(self, name: str, then: Callable[[], None]) -> None:
        """Go on where whoever asks may do so; by the address that HTTP has for the same question."""
        authorise = self.server.hooks.authorise
        verdict = authorise(self.method.verb, self.method.path(name), self.stream.head) if authorise else None
        if isinstance(verdict, Refusal):
            raise verdict
        if verdict is None:
            then()
            return
        self._await(verdict(), partial(self._admitted, then))

    def _admitted(self, then: Callable[[], None], refusal: Refusal | None) -> None:
        if refusal is not None:
            raise refusal
        then()

    def _await(self, work: Awaitable[Any], then: Callable[[Any], None]) -> None:
        self.task = asyncio.ensure_future(work)

        def done(task: asyncio.Future[Any]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self.refuse(error)
            elif not task.cancelled():
                self._try(then, task.result())

        self.task.add_done_callback(done)

    def _wake(self, name: str, then: Callable[[], None]) -> None:
        """Go on when the model is awake; one that was put to sleep again meanwhile is waited for again."""
        waking = self.server.service.repository.waking(name)
        if waking is None:
            then()
            return

        def woken(done: Future[Any]) -> None:
            error = done.exception()
            step = partial(self.refuse, error) if error else partial(self._try, self._wake, name, then)
            self.connection.loop.call_soon_threadsafe(step)

        waking.add_done_callback(woken)

    def _ask(self, request: Any) -> None:
        self._submit(self._question(request))

    def _ask_long(self, name: str, body: bytes | bytearray) -> None:
        def read() -> Question[Any]:
            request = self._decoded(body, self.server.max_body)
            if request.model_name != name:  # another than the one that was asked for leave
                raise RequestError("asked for model_name as the first field of a long message, and once")
            return self._question(request)

        self._read_in_thread(read)

    def _question(self, request: Any) -> Question[Any]:
        self.raw = bool(request.raw_input_contents) or not request.inputs
        asked = read_request(request)
        return self.server.service.ask_tensors(request.model_name, asked, version=request.model_version or None)

    def _submit(self, question: Question[Any]) -> None:
        self.question = question
        if question.prepare is not None:  # the message is held until then
            self._read_in_thread(question.ready)
            return
        self._give_back()  # what waits for a run is counted by the batcher
        if self.timeout_s is not None and question.timeout_s is not None:
            self.timeout_s = min(self.timeout_s, question.timeout_s)
        elif self.timeout_s is None:
            self.timeout_s = question.timeout_s
        self.read_s = time.monotonic() - self.began_s
        batcher = self.server.service.batcher(question.model)
        self.ticket = batcher.submit(
            question.inputs, question.rows, self._landed, deadline=self._deadline(), checked=True
        )

    def _deadline(self) -> float | None:
        return None if self.timeout_s is None else self.began_s + self.timeout_s

    def _landed(self, outcome: Outcome) -> None:
        if isinstance(outcome, Exception):
            self.refuse(outcome)
        elif is_wide(outcome):
            self._in_thread(partial(self._write, outcome), self._settle)
        else:
            self._try(lambda: self._settle(self._write(outcome)))

    def _write(self, outputs: Outputs) -> bytes:
        if self.question is None:
            raise RuntimeError("an answer came to a question that was not asked")
        return write_response(self.question.finish(outputs), raw=self.raw)

    def _answer(self, request: Any) -> None:
        """Of all that is no inference."""
        if self.method.answer is None:
            raise RuntimeError("an inference is answered by a batcher")
        self._give_back()
        found = self.method.answer(self.server.answers, request)
        if isinstance(found, Coroutine):
            self._await(found, self._reply)
        else:
            self._reply(found)

    def _reply(self, fields: Fields) -> None:
        self._settle(message(f"{self.method.name}Response")(**fields).SerializeToString())

    def _settle(self, data: bytes) -> None:
        self._give_back()
        self.connection.answer(self.stream, _HEAD, framed(data), _DONE)
        self._tell(200, len(data))

    def _tell(self, status: int, bytes_out: int) -> None:
        share, self.share = self.share, None
        if share is not None:
            share.questions -= 1
        told = self.server.hooks.on_request
        if told is None:
            return
        question, ticket = self.question, self.ticket
        told(
            Seen(
                method="POST",
                path=self.stream.head.get(b":path", b"").decode("latin-1"),
                status=status,
                client=self.connection.client,
                route="grpc" if self.method is _INFER else "",
                model=question.model if question else None,
                rows=question.rows if question else 0,
                bytes_in=self.stream.size,
                bytes_out=bytes_out,
                seconds=time.monotonic() - self.began_s,
                queue_s=ticket.started_s - ticket.began_s if ticket and ticket.started_s else 0.0,
                run_s=ticket.ended_s - ticket.started_s if ticket else 0.0,
                headers=self.stream.head,
                read_s=self.read_s,
            )
        )

    def _read_in_thread(self, work: Callable[[], Question[Any]]) -> None:
        """Go on with what is asked; raises `BusyError` where too much waits to be read."""
        backlog = self.server.service.backlog
        backlog.enter()
        self._in_thread(work, self._submit, ended=backlog.leave)

    def _in_thread(
        self, work: Callable[[], Any], then: Callable[[Any], None], *, ended: Callable[[float], None] | None = None
    ) -> None:
        """``ended`` is told how long it took, whether anybody still waits or not."""
        loop = self.connection.loop

        def run() -> None:
            began_s = time.monotonic()
            try:
                found = None if self.given_up else work()
            except Exception as error:
                loop.call_soon_threadsafe(self.refuse, error)
            else:
                loop.call_soon_threadsafe(self._try, then, found)
            finally:
                if ended is not None:
                    ended(time.monotonic() - began_s)

        self.server.service.executor.submit(run)


def _seconds(timeout: bytes) -> float:
    found = _TIMEOUT.fullmatch(timeout)
    if found is None:
        raise Refusal(400, f"grpc-timeout '{timeout.decode('latin-1')[:40]}' is none")
    return int(found[1]) * _UNITS[found[2]]
