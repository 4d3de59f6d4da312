"""A small server that misbehaves as it is told: each question is answered by the next line of its script.

Invariant: what it hears and how often it is connected to is kept, and nothing but the script decides what it sends.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Answer = Callable[["Asked"], bytes]
HANG_UP, SILENCE, PAUSE = b"<hang up>", b"<silence>", b"<pause>"


@dataclass(frozen=True)
class Asked:
    """A question as it was heard."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The JSON part of the body."""
        length = self.headers.get("inference-header-content-length")
        return json.loads(self.body if length is None else self.body[: int(length)])


@dataclass
class Crooked:
    """The server.

    Attributes
    ----------
    script
        Answers in order, the last of them for ever: bytes as they are, or made of the question.
    asked, connections
        What came so far.
    """

    listening: socket.socket
    context: ssl.SSLContext | None = None
    script: list[bytes | Answer] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        scheme, host = ("http", "127.0.0.1") if self.context is None else ("https", "localhost")
        return f"{scheme}://{host}:{self.listening.getsockname()[1]}"

    def serve(self) -> None:
        """Accept until the socket is closed."""
        while True:
            try:
                line, _ = self.listening.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._talk, args=(line,), daemon=True).start()

    def _over_tls(self, line: socket.socket) -> contextlib.AbstractContextManager[socket.socket]:
        if self.context is None:
            return contextlib.nullcontext(line)
        return self.context.wrap_socket(line, server_side=True)

    def _talk(self, line: socket.socket) -> None:
        with contextlib.suppress(OSError), line, self._over_tls(line) as line:
            while (asked := _heard(line)) is not None:
                self.asked.append(asked)
                told = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                answer = told(asked) if callable(told) else told
                if answer == SILENCE:
                    self.ended.wait(20)
                    return
                first, *more = answer.removesuffix(HANG_UP).split(PAUSE)
                line.sendall(first)
                for part in more:
                    time.sleep(0.03)
                    line.sendall(part)
                if answer.endswith(HANG_UP):
                    # A reset: what was not read is not the reason.
                    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    time.sleep(0.01)
                    return


def _heard(line: socket.socket) -> Asked | None:
    data = b""
    while b"\r\n\r\n" not in data:
        part = line.recv(65536)
        if not part:
            return None
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += line.recv(1 << 20)
    method, path, _ = first.split(" ")
    return Asked(method, path, headers, body)


@contextlib.contextmanager
def crooked(*script: bytes | Answer, context: ssl.SSLContext | None = None) -> Iterator[Crooked]:
    """One that runs while the context lasts."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Crooked(listening, context, list(script))
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            listening.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def reply(status: int, body: Any = b"", **headers: str) -> bytes:
    """An answer that is whole; what is no bytes becomes JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    lines = {"content-length": str(len(content))} | named
    head = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in lines.items())]
    return "\r\n".join([*head, "", ""]).encode() + content


def busy(after: str = "0") -> bytes:
    """503."""
    return reply(503, {"error": "in its own words"}, retry_after=after)


MODELS = reply(200, {"models": ["a"]})


def echoed(asked: Asked, *, id: str | None = None) -> bytes:
    """Sends the inputs back as outputs, in the form in which they came."""
    question = asked.json
    length = asked.headers.get("inference-header-content-length")
    answer = {"model_name": "m", "outputs": question["inputs"], "id": question.get("id", "") if id is None else id}
    if length is None:
        return reply(200, answer)
    head = json.dumps(answer).encode()
    return reply(200, head + asked.body[int(length) :], inference_header_content_length=str(len(head)))


def predicted(asked: Asked) -> bytes:
    """Scores that tell the events apart: their x; an event without x is not selected."""
    events = json.loads(asked.body)["instances"]
    return reply(200, {"predictions": [{"s": one["x"]} if "x" in one else None for one in events]})


def cut_off(answer: bytes, *, missing: int) -> bytes:
    """The same without its end."""
    assert re.match(rb"HTTP/1.1 200", answer)
    return answer[:-missing] + HANG_UP
