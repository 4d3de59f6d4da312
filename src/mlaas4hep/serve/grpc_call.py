"""One call of gRPC on its way: its head, its message, its question, and the status behind its answer.

Invariant: every call gets one status, and what it says is what HTTP says, in gRPC's words.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol
from urllib.parse import quote

from google.protobuf.message import DecodeError

from mlaas4hep.errors import BusyError, MLaaSError, RequestError
from mlaas4hep.serve.asking import INLINE_BODY_BYTES, Refusal, is_wide, refusal_of
from mlaas4hep.serve.batcher import Outcome, Ticket
from mlaas4hep.serve.frames import Stream, field
from mlaas4hep.serve.grpc_tensors import read_request, write_response
from mlaas4hep.serve.hooks import Hooks, Seen
from mlaas4hep.serve.intake import Intake
from mlaas4hep.serve.oip import SERVICE, message
from mlaas4hep.serve.sending import Sending
from mlaas4hep.serve.service import InferenceService, Outputs, Question

# Codes of gRPC's list of statuses.
OK, INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED = 0, 3, 4, 8, 12
INTERNAL, UNAVAILABLE = 13, 14
_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 408: 4, 409: 9, 413: 8, 415: 12, 429: 8, 501: 12, 503: 14, 504: 4}
_MAX_TEXT = 2000

# ``:status: 200`` and ``content-type: application/grpc``, of the table that every HTTP/2 implementation knows.
_HEAD = b"\x88" + b"\x0f\x10" + b"\x10application/grpc"
_DONE = field(b"grpc-status", b"0")
_PREFIX = f"/{SERVICE}/".encode()
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_WINDOW_BITS = {b"gzip": 31, b"deflate": 15}
_PLAIN = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
_log = logging.getLogger(__name__)


class Server(Protocol):
    """What a call needs of who takes it."""

    service: InferenceService
    hooks: Hooks
    max_body: int
    intake: Intake

    def takes(self, method: str) -> bool:
        """Whether there is such a method."""

    def answer(self, method: str, request: Any) -> Any:
        """The fields of the answer to all that is no inference."""


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
        "stream",
        "ticket",
        "timeout_s",
    )

    def __init__(self, server: Server, connection: Sending, stream: Stream) -> None:
        self.server = server
        self.connection = connection
        self.stream = stream
        self.began_s = time.monotonic()
        self.read_s = 0.0
        self.method = ""
        self.timeout_s: float | None = None
        self.ticket: Ticket | None = None
        self.question: Question[Any] | None = None
        self.raw = True
        self.given_up = False
        self.held = 0

    def read_head(self) -> None:
        """Refuse what is no call of this service."""
        head = self.stream.head
        kind = head.get(b"content-type", b"")
        if head.get(b":method") != b"POST" or not kind.startswith(b"application/grpc"):
            raise Refusal(415, "asked for a call of gRPC: POST with content type application/grpc")
        path = head.get(b":path", b"")
        self.method = path.removeprefix(_PREFIX).decode("latin-1")
        if not path.startswith(_PREFIX) or not self.server.takes(self.method):
            raise Refusal(501, f"no method '{path.decode('latin-1')[:200]}' is served here")
        encoding = head.get(b"grpc-encoding", b"identity")
        if encoding != b"identity" and encoding not in _WINDOW_BITS:
            raise Refusal(501, f"grpc-encoding '{encoding.decode('latin-1')[:40]}' is not read here")
        timeout = head.get(b"grpc-timeout")
        if timeout is not None:
            self.timeout_s = _seconds(timeout)

    def ask(self) -> None:
        """The request is whole."""
        body, self.stream.body = self.stream.body, b""
        self.held = len(body)
        # What is packed may be of any size.
        if len(body) > INLINE_BODY_BYTES or body[:1] == b"\1":
            self._in_thread(partial(self._read, body), self._authorise)
            return
        try:
            request = self._read(body)
        except Exception as error:
            self.refuse(error)
            return
        self._authorise(request)

    def refuse(self, error: BaseException) -> None:
        """Answer with a status and a text."""
        self._give_back()
        if self.given_up:
            return
        if not isinstance(error, MLaaSError | Refusal):
            _log.error("%s failed", self.method, exc_info=error)
        refusal = refusal_of(error)
        code = _CODES.get(refusal.status, INTERNAL)
        head, text = _HEAD, quote(refusal.text[:_MAX_TEXT], safe=_PLAIN).encode()
        if isinstance(error, BusyError):
            left_s = self._deadline()
            if left_s is not None and left_s <= time.monotonic():
                code = DEADLINE_EXCEEDED
            else:  # gRPC's clients wait so long before they ask again
                head += field(b"grpc-retry-pushback-ms", str(math.ceil(error.retry_after_s * 1e3)).encode())
        if refusal.status == 401:
            head += field(b"www-authenticate", refusal.headers.get("WWW-Authenticate", "Bearer").encode())
        head += field(b"grpc-status", str(code).encode()) + field(b"grpc-message", text)
        self.connection.refuse(self.stream, head)
        self._tell(refusal.status, 0)

    def give_up(self) -> None:
        """Nobody waits for the answer any more."""
        self.given_up = True
        if self.ticket is not None:
            self.ticket.cancel()
        self._tell(499, 0)

    def _read(self, body: bytes | bytearray) -> Any:
        """The request's message, and of an inference its question."""
        data = _message(body, self.stream.head.get(b"grpc-encoding"), self.server.max_body)
        try:
            request = message(f"{self.method}Request").FromString(data)
        except DecodeError as error:
            raise RequestError(f"the message is no {self.method}Request") from error
        if self.method == "ModelInfer" and self.server.hooks.authorise is None:
            self.question = self._question(request)
        return request

    def _question(self, request: Any) -> Question[Any]:
        self.raw = bool(request.raw_input_contents) or not request.inputs
        asked = read_request(request)
        return self.server.service.ask_tensors(request.model_name, asked, version=request.model_version or None)

    def _give_back(self) -> None:
        self.server.intake.give_back(self.held)
        self.held = 0

    def _authorise(self, request: Any) -> None:
        self._give_back()
        if self.given_up:
            return
        authorise = self.server.hooks.authorise
        if authorise is None:
            self._answer(request)
            return
        verdict = authorise(*_place(self.method, request), self.stream.head)
        if isinstance(verdict, Refusal):
            self.refuse(verdict)
        elif verdict is None:
            self._answer(request)
        else:
            task = asyncio.ensure_future(verdict())
            task.add_done_callback(partial(self._authorised, request))

    def _authorised(self, request: Any, task: asyncio.Future[Refusal | None]) -> None:
        error = task.exception()
        refusal = error or task.result()
        if self.given_up:
            return
        if refusal is not None:
            self.refuse(refusal)
        else:
            self._answer(request)

    def _answer(self, request: Any) -> None:
        try:
            if self.method == "ModelInfer":
                self._submit(request)
                return
            fields = self.server.answer(self.method, request)
            data = message(f"{self.method}Response")(**fields).SerializeToString()
        except Exception as error:
            self.refuse(error)
            return
        self._settle(data)

    def _submit(self, request: Any) -> None:
        question = self.question = self.question or self._question(request)
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
            try:
                data = self._write(outcome)
            except Exception as error:
                self.refuse(error)
                return
            self._settle(data)

    def _write(self, outputs: Outputs) -> bytes:
        if self.question is None:
            raise RuntimeError("an answer came to a question that was not asked")
        found, specs = self.question.finish(outputs), self.question.model.outputs
        return write_response(found.model_name, found.model_version, found.id, found.outputs, specs, raw=self.raw)

    def _settle(self, data: bytes) -> None:
        if self.given_up:
            return
        self.connection.answer(self.stream, _HEAD, b"\x00" + len(data).to_bytes(4, "big") + data, _DONE)
        self._tell(200, len(data))

    def _tell(self, status: int, bytes_out: int) -> None:
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
                route="grpc" if self.method == "ModelInfer" else "",
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

    def _in_thread(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        loop = self.connection.loop

        def run() -> None:
            try:
                found = None if self.given_up else work()
            except Exception as error:
                loop.call_soon_threadsafe(self.refuse, error)
            else:
                loop.call_soon_threadsafe(then, found)

        self.server.service.executor.submit(run)


def _message(body: bytes | bytearray, encoding: bytes | None, limit: int) -> bytes | memoryview:
    """The one message of a request."""
    if len(body) < 5 or body[0] > 1 or int.from_bytes(body[1:5], "big") != len(body) - 5:
        raise RequestError(f"the body of {len(body)} bytes is not one message of gRPC")
    if not body[0]:
        return bytes(memoryview(body)[5:])
    if encoding not in _WINDOW_BITS:
        raise RequestError("the message is compressed, but grpc-encoding does not say how")
    reader = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        data = reader.decompress(memoryview(body)[5:], limit + 1)
    except zlib.error as error:
        raise RequestError(f"the message is not what grpc-encoding says: {error}") from error
    if len(data) > limit:
        raise Refusal(413, f"the message is larger than the {limit} bytes that this server takes")
    if not reader.eof:
        raise RequestError("the compressed message is not whole")
    return data


def _seconds(timeout: bytes) -> float:
    found = _TIMEOUT.fullmatch(timeout)
    if found is None:
        raise Refusal(400, f"grpc-timeout '{timeout.decode('latin-1')[:40]}' is none")
    return int(found[1]) * _UNITS[found[2]]


def _place(method: str, request: Any) -> tuple[str, str]:
    """Method and path that HTTP has for the same question, by which is decided who may ask it."""
    if method == "ModelInfer":
        return "POST", f"/v2/models/{quote(request.model_name, safe='')}/infer"
    if method == "RepositoryIndex":
        return "POST", "/v2/repository/index"
    if method.startswith("RepositoryModel"):
        verb = method.removeprefix("RepositoryModel").lower()
        return "POST", f"/v2/repository/models/{quote(request.model_name, safe='')}/{verb}"
    if method in ("ServerLive", "ServerReady"):
        return "GET", f"/v2/health/{method.removeprefix('Server').lower()}"
    if method.startswith("Model") and request.name:
        return "GET", f"/v2/models/{quote(request.name, safe='')}"
    return "GET", "/v2"
