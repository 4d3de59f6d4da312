"""The application on a socket: uvicorn with httptools and uvloop, from a free port to an orderly end.

Invariant: the port is ours before a model is asked for, and whoever waits for the server hears of it only when it
answers.
"""

from __future__ import annotations

import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

import uvicorn

from mlaas4hep.errors import ServerError, UserError
from mlaas4hep.serve.asking import routes
from mlaas4hep.serve.hooks import Hooks
from mlaas4hep.serve.hot import Hot, HotProtocol
from mlaas4hep.serve.http import create_app
from mlaas4hep.serve.service import InferenceService

KEEP_ALIVE_S = 30
SHUTDOWN_S = 10
# Beyond these, idle ones among them, the answer is 503; a process may commonly have 1024 files open.
MAX_CONNECTIONS = 512


def bind(host: str, port: int) -> socket.socket:
    """Take a port; 0 takes a free one.

    Raises
    ------
    UserError
        The port is taken, not allowed, or the host is not an address of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        taken = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise UserError(f"cannot listen on host '{host}': {error}") from error
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
    except (OSError, OverflowError) as error:
        taken.close()
        raise UserError(_why(host, port, error)) from error
    return taken


def url_of(listening: socket.socket) -> str:
    """Where clients find a socket: ``http://host:port``."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    service: InferenceService,
    listening: socket.socket,
    *,
    on_ready: Callable[[], None],
    hooks: Hooks | None = None,
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
    """
    server = _Server(service, on_ready, hooks or Hooks())

    def stop(sign: int, frame: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn takes both signals while it runs, and raises them again at its end for whoever had them before: here, for
    # nobody, so that an orderly end has status 0.
    before = {sign: signal.signal(sign, stop) for sign in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listening])
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
        listening.close()


@contextmanager
def background(
    service: InferenceService, *, host: str = "127.0.0.1", port: int = 0, hooks: Hooks | None = None
) -> Iterator[str]:
    """Serve from a thread of this process while the context lasts; gives the URL."""
    listening, ready = bind(host, port), threading.Event()
    server = _Server(service, ready.set, hooks or Hooks())
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        if not ready.wait(timeout=30):
            raise ServerError("the server did not start within 30 s")
        yield url_of(listening)
    finally:
        server.should_exit = True
        thread.join(timeout=SHUTDOWN_S + 5)
        listening.close()


class _Server(uvicorn.Server):
    def __init__(self, service: InferenceService, on_ready: Callable[[], None], hooks: Hooks) -> None:
        hot = Hot(service, routes(), hooks)
        config = uvicorn.Config(
            create_app(service, hooks),
            http=partial(HotProtocol, hot=hot),  # type: ignore[arg-type]
            loop="uvloop",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_ready()


def _why(host: str, port: int, error: OSError | OverflowError) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is taken by another program; choose another with --port, or 0 for a free one"
    if isinstance(error, OSError) and error.errno == errno.EACCES:
        return f"port {port} of {host} is not allowed to this user; choose one above 1023 with --port"
    return f"cannot listen on port {port} of {host}: {error}"
