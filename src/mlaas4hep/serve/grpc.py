"""The Open Inference Protocol over gRPC, on the event loop that answers HTTP: the same service, batchers and hooks.

gRPC is little more than HTTP/2: a message with five bytes before it, and a status behind the answer. So it is spoken
here on `mlaas4hep.serve.http2` (``docs/decisions.md`` 46), and grpcio is not needed. Invariant: every request gets one
status, and what it says is what HTTP says, in gRPC's words.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import socket
import ssl
import time
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote

from google.protobuf.message import DecodeError

from mlaas4hep.errors import BusyError, MLaaSError, RequestError
from mlaas4hep.serve.asking import INLINE_BODY_BYTES, Refusal, is_wide, refusal_of
from mlaas4hep.serve.batcher import Outcome, Ticket
from mlaas4hep.serve.frames import Stream, field
from mlaas4hep.serve.grpc_tensors import read_request, write_response
from mlaas4hep.serve.hooks import Hooks, Seen
from mlaas4hep.serve.http2 import Http2Protocol
from mlaas4hep.serve.oip import SERVICE, message
from mlaas4hep.serve.service import InferenceService, Outputs, Question

MAX_CONNECTIONS = 512
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
_log = logging.getLogger(__name__)

Statistics = Callable[[str | None, str | None], dict[str, Any]]


class GrpcServer:
    """Answers gRPC on one event loop.

    Parameters
    ----------
    service
        Who answers.
    hooks
        Told and asked as for HTTP; `Hooks.authorise` gets the address that HTTP has for the same question.
    statistics
        Model and version to the fields of a ModelStatisticsResponse; None where nothing is counted.
    """

    def __init__(
        self, service: InferenceService, hooks: Hooks | None = None, *, statistics: Statistics | None = None
    ) -> None:
        self.service = service
        self.hooks = hooks or Hooks()
        self.max_body = service.limits.max_body_bytes
        self._statistics = statistics
        self._connections: set[Http2Protocol] = set()
        self._server: asyncio.AbstractServer | None = None
        self._idle: asyncio.Event | None = None

    async def start(self, listening: socket.socket, *, tls: ssl.SSLContext | None = None) -> None:
        """Answer on a socket."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Http2Protocol(self), sock=listening, ssl=tls, backlog=2048)

    async def stop(self, *, within_s: float = 10.0) -> None:
        """Take nothing more, finish what was accepted, and end."""
        if self._server is not None:
            self._server.close()
        self._idle = asyncio.Event()
        for connection in list(self._connections):
            connection.leave()
        try:
            if self._connections:
                await asyncio.wait_for(self._idle.wait(), within_s)
        except TimeoutError:
            _log.warning("%d gRPC connections did not end within %g s", len(self._connections), within_s)
            for connection in list(self._connections):
                connection.transport.abort()

    def opened(self, connection: Http2Protocol) -> None:
        self._connections.add(connection)
        if len(self._connections) > MAX_CONNECTIONS:
            connection.leave()

    def closed(self, connection: Http2Protocol) -> None:
        self._connections.discard(connection)
        if self._idle is not None and not self._connections:
            self._idle.set()

    def begin(self, connection: Http2Protocol, stream: Stream) -> None:
        call = stream.handle = Call(self, connection, stream)
        try:
            call.read_head()
        except Refusal as error:
            call.refuse(error)

    def too_large(self, connection: Http2Protocol, stream: Stream) -> None:
        text = f"the message is larger than the {self.max_body} bytes that this server takes"
        stream.handle.refuse(Refusal(413, text))

    def ask(self, connection: Http2Protocol, stream: Stream) -> None:
        stream.handle.ask()

    def give_up(self, stream: Stream) -> None:
        if stream.handle is not None:
            stream.handle.give_up()

    def answer(self, method: str, request: Any) -> Any:
        """The fields of the answer to all that is no inference."""
        if method == "ModelStatistics" and self._statistics is not None:
            if request.name:
                self.service.model_ready(request.name, request.version or None)
            return self._statistics(request.name or None, request.version or None)
        answers = _ANSWERS.get(method)
        if answers is None:
            raise Refusal(501, f"{method} is not served here")
        return answers(self.service, request)


class Call:
    """One request on its way; `Http2Protocol` hands it what comes."""

    __slots__ = (
        "began_s",
        "connection",
        "given_up",
        "method",
        "question",
        "raw",
        "read_s",
        "server",
        "stream",
        "ticket",
        "timeout_s",
    )

    def __init__(self, server: GrpcServer, connection: Http2Protocol, stream: Stream) -> None:
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

    def read_head(self) -> None:
        """Refuse what is no call of this service."""
        head = self.stream.head
        kind = head.get(b"content-type", b"")
        if head.get(b":method") != b"POST" or not kind.startswith(b"application/grpc"):
            raise Refusal(415, "asked for a call of gRPC: POST with content type application/grpc")
        path = head.get(b":path", b"")
        self.method = path.removeprefix(_PREFIX).decode("latin-1")
        if not path.startswith(_PREFIX) or f"{self.method}Request" not in _REQUESTS:
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
        if len(body) > INLINE_BODY_BYTES:
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

    def _authorise(self, request: Any) -> None:
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
        if question.prepare is None:
            self._ask(question)
        else:
            self._in_thread(question.ready, self._ask)

    def _ask(self, question: Question[Any]) -> None:
        self.question = question
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
                found = work()
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


def _server_metadata(service: InferenceService, request: Any) -> dict[str, Any]:
    found = service.server_metadata()
    return {"name": found.name, "version": found.version, "extensions": found.extensions}


def _model_metadata(service: InferenceService, request: Any) -> dict[str, Any]:
    found = service.model_metadata(request.name, request.version or None)
    tensors = [
        [{"name": one.name, "datatype": one.datatype, "shape": one.shape} for one in some]
        for some in (found.inputs, found.outputs)
    ]
    head = {"name": found.name, "versions": found.versions, "platform": found.platform}
    return head | {"inputs": tensors[0], "outputs": tensors[1]}


def _model_ready(service: InferenceService, request: Any) -> dict[str, Any]:
    return {"ready": service.model_ready(request.name, request.version or None)}


_ANSWERS: dict[str, Callable[[InferenceService, Any], dict[str, Any]]] = {
    "ServerLive": lambda service, request: {"live": service.live()},
    "ServerReady": lambda service, request: {"ready": service.ready()},
    "ModelReady": _model_ready,
    "ServerMetadata": _server_metadata,
    "ModelMetadata": _model_metadata,
}
_REQUESTS = {
    f"{one}Request" for one in (*_ANSWERS, "ModelInfer", "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad")
} | {"RepositoryModelUnloadRequest"}
_PLAIN = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
