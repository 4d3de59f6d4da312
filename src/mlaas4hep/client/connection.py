"""Asking while the caller waits: one kept connection to each server, over plain sockets.

A connection that a server closed while it was idle is opened again without counting as a failure. Invariant: whoever
calls `Transport.ask` gets what the server answered, or one error of ours; a connection on which anything went wrong is
closed.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from typing import TypeVar

from mlaas4hep.client.attempts import Attempts, Failed, Patience
from mlaas4hep.client.identity import Bearer, Tls
from mlaas4hep.client.questions import Question, error_text
from mlaas4hep.client.servers import Address, Servers
from mlaas4hep.client.wire import JOINED_BYTES, Broken, Reply, ReplyReader, head_of
from mlaas4hep.errors import RequestError, ServerError

TIMEOUT = "X-Request-Timeout-Ms"
_FIRST_BYTES, _MORE_BYTES = 64 << 10, 1 << 20

T = TypeVar("T")


def head_for(question: Question[T], address: Address, headers: str, left_s: float) -> bytes:
    """Head of a request; tells the server how long it will be waited for."""
    size = None if question.body is None else sum(map(len, question.body))
    told = f"{question.headers}{headers}{TIMEOUT}: {max(1, int(left_s * 1000))}\r\n"
    return head_of(question.method, address.prefix + question.path, address.authority, told, size)


class Connection:
    """A connection to one server, opened when first needed and again when it was closed.

    Parameters
    ----------
    address
        Of the server.
    context
        TLS, where its address asks for that.
    connect_s
        Longest wait for the connection.
    """

    def __init__(self, address: Address, context: ssl.SSLContext | None, *, connect_s: float) -> None:
        self.address = address
        self._context = context
        self._connect_s = connect_s
        self._socket: socket.socket | None = None
        self._poll = select.poll()
        self._timeout_s = 0.0

    def exchange(self, head: bytes, body: tuple[bytes, ...], left_s: float, *, safe: bool) -> Reply:
        """Send one question and read the whole answer.

        Raises
        ------
        Failed
            There is none.
        """
        ends_s = time.monotonic() + left_s
        # Nobody could tell whether a question was heard that went into a connection that was closed; and what came
        # without being asked for, such as a proxy's 408 before it hangs up, is no answer to this one.
        if self._poll.poll(0) or not safe:
            self.close()
        kept = self._socket is not None
        reader = ReplyReader()
        try:
            return self._exchange(reader, head, body, ends_s, left_s)
        except Failed as failure:
            self.close()
            if not (kept and safe) or reader.began or failure.late:
                raise
        except BaseException:
            self.close()
            raise
        try:
            # A server may close a connection that was idle for a while: that is no failure, and no reason to wait.
            return self._exchange(ReplyReader(), head, body, ends_s, ends_s - time.monotonic())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the connection back; the next question opens another."""
        if self._socket is not None:
            self._poll.unregister(self._socket)
            self._socket.close()
            self._socket = None

    def _exchange(
        self, reader: ReplyReader, head: bytes, body: tuple[bytes, ...], ends_s: float, left_s: float
    ) -> Reply:
        line = self._socket
        sent = line is not None
        try:
            if line is None:
                line = self._open(left_s)
                left_s = ends_s - time.monotonic()
            sent = True
            self._wait_at_most(line, left_s)
            reply = self._talk(line, reader, head, body, ends_s)
        except TimeoutError as error:
            reason = "no answer in time" if sent else "no connection in time"
            raise Failed(reason, sent=sent, late=sent) from error
        except Broken as error:
            raise Failed(str(error), sent=True) from error
        except ssl.SSLCertVerificationError as error:
            raise ServerError(f"{self.address.url}: its certificate is not trusted: {error.verify_message}") from error
        except OSError as error:
            raise Failed(error.strerror or str(error) or type(error).__name__, sent=sent) from error
        if not reader.keep:
            self.close()
        return reply

    def _talk(
        self, line: socket.socket, reader: ReplyReader, head: bytes, body: tuple[bytes, ...], ends_s: float
    ) -> Reply:
        try:
            self._send(line, head, body, ends_s)
        except (BrokenPipeError, ConnectionResetError):
            # A server that takes no more of a body may have said why before it hung up.
            return self._receive(line, reader, ends_s)
        data = line.recv(_FIRST_BYTES)
        reply = reader.feed(data) if data else reader.end()
        return self._receive(line, reader, ends_s) if reply is None else reply

    def _send(self, line: socket.socket, head: bytes, body: tuple[bytes, ...], ends_s: float) -> None:
        if sum(map(len, body)) <= JOINED_BYTES:
            line.sendall(b"".join((head, *body)))
            return
        for part in (head, *body):
            line.sendall(part)
            self._wait_at_most(line, ends_s - time.monotonic())

    def _receive(self, line: socket.socket, reader: ReplyReader, ends_s: float) -> Reply:
        while True:
            self._wait_at_most(line, ends_s - time.monotonic())
            data = line.recv(_MORE_BYTES)
            reply = reader.feed(data) if data else reader.end()
            if reply is not None:
                return reply

    def _wait_at_most(self, line: socket.socket, left_s: float) -> None:
        if left_s <= 0:
            raise TimeoutError
        if left_s != self._timeout_s:  # each setting is a call of the system
            line.settimeout(left_s)
            self._timeout_s = left_s

    def _open(self, left_s: float) -> socket.socket:
        patience_s = min(left_s, self._connect_s)
        plain = socket.create_connection((self.address.host, self.address.port), timeout=patience_s)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = plain
            if self._context is not None:
                line = self._context.wrap_socket(plain, server_hostname=self.address.host)
        except BaseException:
            plain.close()
            raise
        self._socket, self._timeout_s = line, patience_s
        self._poll.register(line, select.POLLIN)
        return line


class Transport:
    """Asks questions at the first of several servers that answers. Not to be shared between threads.

    Parameters
    ----------
    servers, patience, bearer, tls
        See there.
    """

    def __init__(self, servers: Servers, patience: Patience, bearer: Bearer, tls: Tls) -> None:
        self.servers = servers
        self.patience = patience
        self._bearer = bearer
        context = tls.context() if any(one.scheme == "https" for one in servers.addresses) else None
        self._connections = {
            one: Connection(one, context if one.scheme == "https" else None, connect_s=patience.connect_s)
            for one in servers.addresses
        }

    def ask(self, question: Question[T], deadline_s: float) -> T:
        """What a server answers.

        Raises
        ------
        ServerError
            No answer after all retries, or none in time.
        """
        attempts = Attempts(self.servers, self.patience, deadline_s, safe=question.safe, again=question.again)
        shown = False
        while True:
            address, left_s = attempts.begin()
            try:
                reply = self._exchange(question, address, left_s)
                pause_s = attempts.judged(address, reply)
                if pause_s is None and reply.status == 401 and not shown:
                    shown = True
                    if self._bearer.another(address):
                        continue
                if pause_s is None:
                    return read(question, reply, address, self._bearer)
            except Broken as error:
                self._connections[address].close()
                pause_s = attempts.failed(address, Failed(str(error), sent=True))
            except Failed as failure:
                pause_s = attempts.failed(address, failure)
            if pause_s:
                time.sleep(pause_s)

    def close(self) -> None:
        """Close all connections."""
        for one in self._connections.values():
            one.close()

    def _exchange(self, question: Question[T], address: Address, left_s: float) -> Reply:
        head = head_for(question, address, self._bearer.header(address), left_s)
        return self._connections[address].exchange(head, question.body or (), left_s, safe=question.safe)


def read(question: Question[T], reply: Reply, address: Address, bearer: Bearer) -> T:
    """What an answer says; where it came from is told in errors."""
    if reply.status in (401, 403) and question.again:
        words = error_text(reply)
        raise RequestError(f"{address.url} answered {reply.status}: {f'{words}; ' if words else ''}{bearer.told()}")
    return question.read(Reply(reply.status, reply.body, reply.headers, address.url))
