"""The application on a socket: uvicorn with httptools and uvloop, from a free port to an orderly end.

Invariant: the port is ours before a model is asked for, and whoever waits for the server hears of it only when it
answers.
"""

from __future__ import annotations

import asyncio
import gc
import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from mlaas4hep.errors import MissingExtraError, ServerError
from mlaas4hep.serve.asked import Hot
from mlaas4hep.serve.asking import routes
from mlaas4hep.serve.hooks import Hooks
from mlaas4hep.serve.hot import HotProtocol
from mlaas4hep.serve.http import create_app
from mlaas4hep.serve.operation import Operation
from mlaas4hep.serve.service import InferenceService
from mlaas4hep.serve.shares import Shares
from mlaas4hep.serve.sockets import bind, url_of
from mlaas4hep.serve.tfaas_row import row_routes

if TYPE_CHECKING:
    from mlaas4hep.serve.grpc import GrpcServer

SHUTDOWN_S = 10


def serve(
    service: InferenceService,
    listening: socket.socket,
    *,
    on_ready: Callable[[], None],
    hooks: Hooks | None = None,
    operation: Operation | None = None,
    grpc: socket.socket | None = None,
    watched: Callable[[], None] | None = None,
) -> None:
    """Answer until SIGTERM or SIGINT, then finish what was accepted and return.

    Parameters
    ----------
    service
        Who answers.
    listening
        From `bind`; closed in the end.
    on_ready
        Called once, when the server answers.
    hooks
        Who looks at requests, and who may refuse them.
    operation
        Metrics, log, tokens and TLS, with hooks of its own instead.
    grpc
        From `bind`: where gRPC is answered, if anywhere; closed in the end.
    watched
        Called about once a second, where another process watches whether this one does anything. That one passes
        signals on, so SIGINT, which a terminal sends to both, is left to it.
    """

    def ready() -> None:
        # What lives as long as the server is not looked through again by each collection, which would hold up answers.
        gc.collect()
        gc.freeze()
        on_ready()

    server = _Server(service, ready, hooks or Hooks(), operation, grpc=grpc, watched=watched)

    def stop(sign: int, frame: FrameType | None) -> None:
        if watched is None or sign != signal.SIGINT:
            server.should_exit = True

    def hang_up(sign: int, frame: FrameType | None) -> None:
        if operation is not None:
            operation.hang_up()

    # uvicorn takes both signals while it runs, and raises them again at its end for whoever had them before: here, for
    # nobody, so that an orderly end has status 0.
    before = {sign: signal.signal(sign, stop) for sign in (signal.SIGTERM, signal.SIGINT)}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, hang_up)
    try:
        server.run(sockets=[listening])
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
        listening.close()
        if grpc is not None:
            grpc.close()


@contextmanager
def background(
    service: InferenceService,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    hooks: Hooks | None = None,
    operation: Operation | None = None,
    grpc: socket.socket | None = None,
) -> Iterator[str]:
    """Serve from a thread of this process while the context lasts; gives the URL."""
    listening, ready = bind(host, port), threading.Event()
    server = _Server(service, ready.set, hooks or Hooks(), operation, grpc=grpc)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        if not ready.wait(timeout=30):
            raise ServerError("the server did not start within 30 s")
        yield url_of(listening, scheme=operation.scheme if operation else "http")
    finally:
        server.should_exit = True
        thread.join(timeout=SHUTDOWN_S + 5)
        listening.close()


class _Server(uvicorn.Server):
    def __init__(
        self,
        service: InferenceService,
        on_ready: Callable[[], None],
        hooks: Hooks,
        operation: Operation | None,
        *,
        grpc: socket.socket | None = None,
        watched: Callable[[], None] | None = None,
    ) -> None:
        operation = operation or Operation(service, hooks=hooks)
        base = operation.options.base
        shares = Shares(service.limits.client)
        hot = Hot(service, (*routes(), *row_routes(base)), operation.hooks, shares=shares)
        config = uvicorn.Config(
            operation.around(create_app(service, operation.hooks, operation.routes(), base=base)),
            http=partial(HotProtocol, hot=hot),  # type: ignore[arg-type]
            loop="uvloop",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=math.ceil(service.limits.wire.keep_alive_s),
            timeout_graceful_shutdown=SHUTDOWN_S,
            ssl_context_factory=operation.ssl_context_factory,
        )
        super().__init__(config)
        self._on_ready = on_ready
        self._watched = watched
        self._service = service
        self._drain_s = operation.options.drain_s
        self._ends_s: float | None = None
        self._grpc = grpc
        self._hot = hot
        self._rpc = _rpc(service, operation, shares) if grpc is not None else None
        self._rpc_context = operation.grpc_context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self._rpc is not None and self._grpc is not None:
            pressure = self._hot.begin(asyncio.get_running_loop())
            await self._rpc.start(self._grpc, tls=self._rpc_context, pressure=pressure)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._rpc is None:
            await super().shutdown(sockets=sockets)
        else:
            await asyncio.gather(self._rpc.stop(within_s=SHUTDOWN_S), super().shutdown(sockets=sockets))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Say that this server is not ready any more, and end after a while; told a second time, end at once."""
        if self._watched is not None and sig == signal.SIGINT:
            return
        self._service.draining = True
        if self._drain_s and self._ends_s is None:
            self._ends_s = time.monotonic() + self._drain_s
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if self._watched is not None and counter % 10 == 0:
            self._watched()
        if self._ends_s is not None and time.monotonic() >= self._ends_s:
            self.should_exit = True
        return await super().on_tick(counter)


def _rpc(service: InferenceService, operation: Operation, shares: Shares) -> GrpcServer:
    try:
        from mlaas4hep.serve.grpc import GrpcServer  # imports hpack and protobuf, which are asked for only here
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "grpc", "gRPC (--no-grpc serves without)") from error
    return GrpcServer(service, operation.hooks, statistics=operation.statistics, shares=shares)
