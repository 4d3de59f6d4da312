"""The Open Inference Protocol over gRPC, on the event loop that answers HTTP: the same service, batchers and hooks.

gRPC is little more than HTTP/2: a message with five bytes before it, and a status behind the answer. So it is spoken
here on `mlaas4hep.serve.http2` (``docs/decisions.md`` 46), and grpcio is not needed. Invariant: a server that is told
to end answers what it accepted before.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl

from mlaas4hep.errors import BusyError
from mlaas4hep.serve.asking import Refusal
from mlaas4hep.serve.frames import Stream
from mlaas4hep.serve.grpc_call import Call
from mlaas4hep.serve.grpc_methods import Answers, Statistics
from mlaas4hep.serve.hooks import Hooks, Seen
from mlaas4hep.serve.http2 import Http2Protocol
from mlaas4hep.serve.pressure import RETRY_AFTER_S, Pressure
from mlaas4hep.serve.sending import Sending
from mlaas4hep.serve.service import InferenceService
from mlaas4hep.serve.shares import Share, Shares

_log = logging.getLogger(__name__)


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
    shares
        What clients have of the server, HTTP included.
    """

    def __init__(
        self,
        service: InferenceService,
        hooks: Hooks | None = None,
        *,
        statistics: Statistics | None = None,
        shares: Shares | None = None,
    ) -> None:
        self.service = service
        self.answers = Answers(service, statistics)
        self.hooks = hooks or Hooks()
        self.max_body = service.limits.max_body_bytes
        self.intake = service.intake
        self._most = service.limits.wire.connections
        self._connections: dict[Sending, Share | None] = {}
        self._shares = shares or Shares(service.limits.client)
        self._pressure: Pressure | None = None
        self._server: asyncio.AbstractServer | None = None
        self._idle: asyncio.Event | None = None

    async def start(
        self, listening: socket.socket, *, tls: ssl.SSLContext | None = None, pressure: Pressure | None = None
    ) -> None:
        """Answer on a socket; ``pressure`` is that of all that the running loop answers."""
        loop = asyncio.get_running_loop()
        self._pressure = pressure or Pressure(loop, self.service.limits.wait_s)
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

    def opened(self, connection: Sending) -> None:
        self._connections[connection] = self._shares.enter(connection.client)
        if len(self._connections) > self._most:
            connection.leave()

    def reads(self) -> None:
        if self._pressure is not None:
            self._pressure.begin()

    def has_read(self) -> None:
        if self._pressure is not None:
            self._pressure.end()

    def closed(self, connection: Sending) -> None:
        self._shares.leave(self._connections.pop(connection, None))
        if self._idle is not None and not self._connections:
            self._idle.set()

    def begin(self, connection: Sending, stream: Stream) -> None:
        call = stream.handle = Call(self, connection, stream)
        try:
            call.read_head()
            if not call.method.is_health:  # answered also where there is too much to do
                self._admit(call, self._connections.get(connection))
        except (BusyError, Refusal) as error:
            call.refuse(error)

    def _admit(self, call: Call, share: Share | None) -> None:
        """Refuse a call where there is too much to do, or where its client has had its share."""
        if share is not None:
            refusal = self._shares.refusal(share, asks=call.asks)
            if refusal is not None:
                raise refusal
            if call.asks:
                call.take(share)
        if self._pressure is not None and self._pressure.too_much(call.began_s):
            raise BusyError(self._pressure.text, retry_after_s=RETRY_AFTER_S)

    def too_large(self, connection: Sending, stream: Stream) -> None:
        text = f"the message is larger than the {self.max_body} bytes that this server takes"
        stream.handle.refuse(Refusal(413, text))

    def no_room(self, connection: Sending, stream: Stream) -> None:
        stream.handle.refuse(self.intake.busy())

    def ask(self, connection: Sending, stream: Stream) -> None:
        stream.handle.ask()

    def broken(self, connection: Sending, text: str) -> None:
        _log.debug("a gRPC connection of %s ends: %s", connection.client, text)
        if self.hooks.on_request is not None:
            self.hooks.on_request(Seen("", "", 400, connection.client, "", None, 0, 0, 0, 0.0, 0.0, 0.0, {}))

    def give_up(self, stream: Stream) -> None:
        if stream.handle is not None:
            stream.handle.give_up()
