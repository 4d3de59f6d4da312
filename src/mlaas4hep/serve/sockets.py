"""The port: taken before anything is loaded, by one process or by several together.

Invariant: a port that another program listens on is never shared with it.
"""

from __future__ import annotations

import errno
import socket

from mlaas4hep.errors import UserError


def bind(host: str, port: int, *, shared: bool = False, option: str = "--port") -> socket.socket:
    """Take a port; 0 takes a free one.

    Parameters
    ----------
    host, port
        Where to listen.
    shared
        Whether other sockets that are `joined` to it listen on it too, each in a process of its own.
    option
        By which another port is chosen, for messages.

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
        return _joined(taken) if shared else taken
    except (OSError, OverflowError) as error:
        taken.close()
        raise UserError(_why(host, port, error, option)) from error


def join(taken: socket.socket) -> socket.socket:
    """A further socket on a shared port, for another process to listen on."""
    found = socket.socket(taken.family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind(taken.getsockname())
    return found


def url_of(listening: socket.socket, *, scheme: str = "http") -> str:
    """Where clients find a socket: ``http://host:port``."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _joined(alone: socket.socket) -> socket.socket:
    """The same port again, once it is sure that nobody else has it: a shared one would be taken beside others."""
    found = socket.socket(alone.family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    address = alone.getsockname()
    alone.close()
    found.bind(address)
    return found


def _why(host: str, port: int, error: OSError | OverflowError, option: str) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is taken by another program; choose another with {option}, or 0 for a free one"
    if isinstance(error, OSError) and error.errno == errno.EACCES:
        return f"port {port} of {host} is not allowed to this user; choose one above 1023 with {option}"
    return f"cannot listen on port {port} of {host}: {error}"
