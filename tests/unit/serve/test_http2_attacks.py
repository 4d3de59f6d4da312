"""What harms other servers over HTTP/2, sent as raw frames: the connection or its stream ends, all others go on."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest

from mlaas4hep.serve import grpc_call, http2
from mlaas4hep.serve.frames import (
    CANCEL,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Heads,
    field,
    frame,
)
from mlaas4hep.serve.hooks import Hooks, Seen
from mlaas4hep.serve.intake import Intake
from mlaas4hep.serve.limits import Limits, WireLimits
from mlaas4hep.serve.oip import SERVICE, message
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService
from mlaas4hep.serve.sockets import bind
from tests.small_bundle import write_small_bundle

FIELDS = {
    b":method": b"POST",
    b":scheme": b"http",
    b":path": f"/{SERVICE}/ModelInfer".encode(),
    b"content-type": b"application/grpc",
}
START = PREFACE + frame(SETTINGS, 0, 0)
CLOSED = PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))  # takes no byte of any answer
BLOCK = b"".join(field(name, value) for name, value in FIELDS.items())


def question(*, datatype: str = "FP32", shape: Sequence[int] = (1, 3), raw: bytes | None = None) -> bytes:
    """A ModelInferRequest; what is given changes its first input."""
    found = message("ModelInferRequest")(model_name="tth")
    found.inputs.add(name="event", datatype=datatype, shape=shape)
    found.inputs.add(name="jets", datatype="FP32", shape=(1, 3, 3))
    found.raw_input_contents.append(np.ones(3, np.float32).tobytes() if raw is None else raw)
    found.raw_input_contents.append(np.ones(9, np.float32).tobytes())
    return bytes(found.SerializeToString())


def call(body: bytes, *, stream: int = 1, packed: bool = False, encoding: bytes = b"") -> bytes:
    block = BLOCK + (field(b"grpc-encoding", encoding) if encoding else b"")
    data = bytes((packed,)) + len(body).to_bytes(4, "big") + body
    return frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, data)


class Place:
    """A server, and what its hooks saw."""

    def __init__(self, service: InferenceService, port: int) -> None:
        self.service = service
        self.port = port
        self.seen: list[Seen] = []
        self.expected = b""

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as raw:
            yield raw

    def send(self, *parts: bytes) -> list[tuple[int, int, int, bytes]]:
        """Frames that come back until the server hangs up, or for a while: kind, flags, stream, payload."""
        with self.connected() as raw:
            with suppress(OSError):  # ended before all was sent
                raw.sendall(START + b"".join(parts))
                raw.shutdown(socket.SHUT_WR)
            return frames_of(raw)

    def ask(self) -> bytes:
        """The answer's message."""
        with self.connected() as raw:
            raw.sendall(START + call(question()))
            data = b""
            while b"grpc-status" not in data:
                part = raw.recv(1 << 16)
                assert part, data
                data += part
        return next(payload for kind, _, _, payload in split(data) if kind == DATA)


def frames_of(raw: socket.socket) -> list[tuple[int, int, int, bytes]]:
    data = b""
    try:
        while part := raw.recv(1 << 16):
            data += part
    except ConnectionResetError:
        pass
    return split(data)


def split(data: bytes) -> list[tuple[int, int, int, bytes]]:
    found, at = [], 0
    while at + 9 <= len(data):
        high, low, kind, flags, stream = struct.unpack_from(">BHBBI", data, at)
        size = high << 16 | low
        found.append((kind, flags, stream, data[at + 9 : at + 9 + size]))
        at += 9 + size
    return found


def code_of(found: list[tuple[int, int, int, bytes]]) -> int | None:
    """Of the frame that ended the connection."""
    codes = [int.from_bytes(payload[4:8], "big") for kind, _, _, payload in found if kind == GOAWAY]
    return codes[-1] if codes else None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    models = tmp_path_factory.mktemp("models")
    write_small_bundle(models)
    listening = bind("127.0.0.1", 0)
    limits = Limits(max_body_bytes=2 << 20, wire=WireLimits(body_bytes=3 << 20))
    place = Place(InferenceService(open_repository(models), limits=limits), listening.getsockname()[1])
    with background(place.service, hooks=Hooks(on_request=place.seen.append), grpc=listening):
        place.expected = place.ask()
        yield place


@pytest.fixture
def place(server: Place, caplog: pytest.LogCaptureFixture) -> Iterator[Place]:
    server.seen.clear()
    yield server
    assert server.ask() == server.expected
    assert server.service.intake.held == 0
    assert [one.getMessage() for one in caplog.records if one.levelname == "ERROR"] == []


OPENED = frame(HEADERS, END_HEADERS, 1, BLOCK)
FLOODS = {
    "pings": frame(PING, 0, 0, b"12345678"),
    "answers to pings": frame(PING, 1, 0, b"12345678"),
    "settings": frame(SETTINGS, 0, 0),
    "windows of the connection": frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)),
    "windows of a stream": frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)),
    "empty data": frame(DATA, 0, 1),
    "priorities": frame(PRIORITY, 0, 1, b"\0\0\0\0\x10"),
    "resets of what is not open": OPENED + frame(RST_STREAM, 0, 1, b"\0\0\0\x08") * 2,
    "frames that nobody knows": frame(250, 0, 0, b"x"),
}


@pytest.mark.parametrize("what", FLOODS)
def test_a_flood_of_frames_without_a_question_ends_its_connection(
    place: Place, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http2, "MAX_IDLE_FRAMES", 500)
    once, *more = (OPENED, FLOODS[what]) if not FLOODS[what].startswith(OPENED) else (FLOODS[what], FLOODS["pings"])
    assert code_of(place.send(once, *more * 600)) == ENHANCE_YOUR_CALM
    assert [(one.status, one.method) for one in place.seen][-1] in ((400, ""), (499, "POST"))
    assert 400 in [one.status for one in place.seen]


HEADS = {
    "continued without end": frame(HEADERS, 0, 1, BLOCK) + frame(CONTINUATION, 0, 1, field(b"x", b"a" * 1000)) * 40,
    "continued by nothing": frame(HEADERS, 0, 1, BLOCK) + frame(CONTINUATION, 0, 1),
    "in one piece": frame(HEADERS, END_HEADERS, 1, BLOCK + field(b"x", b"a" * 20_000)),
    "many fields": frame(HEADERS, END_HEADERS, 1, BLOCK + field(b"x", b"") * 5000),
}


@pytest.mark.parametrize("what", HEADS)
def test_a_head_that_is_too_large_ends_its_connection(place: Place, what: str) -> None:
    assert code_of(place.send(HEADS[what])) == ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "block",
    [
        b"\x40\x01x\x7f\xa1\x1e" + b"a" * 4000 + b"\xbe" * 1000,  # one entry of 4 kB, named a thousand times
        b"\x7f" + b"\xff" * 5000,
        b"\x3f" + b"\xff" * 5000,
        b"\x82" + b"\xff" * 10 + b"\x7f",
    ],
    ids=["a bomb", "an index without end", "a table without end", "an index of nothing"],
)
def test_a_packed_head_that_means_harm_ends_its_connection(place: Place, block: bytes) -> None:
    assert code_of(place.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))) == COMPRESSION_ERROR


def test_heads_are_kept_only_as_many_and_as_large_as_clients_of_grpc_have_them() -> None:
    heads = Heads(http2.MAX_HEAD)
    for number in range(200):
        heads.read(b"".join(b"\0\1%c\1%c" % (97 + one % 26, number) for one in range(20)))
    assert 0 < len(heads._found) <= 64
    before = len(heads._found)
    assert len(heads.read(b"".join(b"\0\1%c\1x" % (33 + one) for one in range(90)))) == 90
    assert len(heads._found) == before


def test_streams_that_are_opened_only_to_be_given_up_end_their_connection(place: Place) -> None:
    both = [frame(HEADERS, END_HEADERS, n, BLOCK) + frame(RST_STREAM, 0, n, b"\0\0\0\x08") for n in range(1, 3001, 2)]
    assert code_of(place.send(*both)) == ENHANCE_YOUR_CALM
    assert len([one for one in place.seen if one.status == 499]) <= http2.MAX_RESETS + 2


@pytest.mark.parametrize("steady", [False, True])
def test_answers_that_nobody_takes_are_given_up(place: Place, monkeypatch: pytest.MonkeyPatch, steady: bool) -> None:
    monkeypatch.setattr(http2, "REQUEST_S", 0.3)
    monkeypatch.setattr(http2, "CHECK_S", 0.1)
    with place.connected() as raw:
        raw.sendall(CLOSED + call(question()) + call(question(), stream=3))
        found: list[tuple[int, int, int, bytes]] = []
        while [one for one in found if one[0] == RST_STREAM] == []:
            if steady:  # a byte now and then buys no more time
                raw.sendall(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)))
            found += split(raw.recv(1 << 16))
    assert {payload for kind, _, _, payload in found if kind == RST_STREAM} == {struct.pack(">I", CANCEL)}


def test_windows_are_opened_by_the_last_word_of_a_frame(place: Place) -> None:
    many = b"".join(struct.pack(">HI", 4, size) for size in range(9000)) + struct.pack(">HI", 4, 65535)
    with place.connected() as raw:
        raw.sendall(CLOSED + call(question()) + frame(SETTINGS, 0, 0, many))
        data = b""
        while b"grpc-status" not in data:
            data += raw.recv(1 << 16)
    assert place.expected in [payload for kind, _, _, payload in split(data) if kind == DATA]


def test_bodies_of_all_connections_are_bounded_together(place: Place) -> None:
    """Three of a megabyte fit, the fourth is told to come back; then all are given up."""
    part = b"\0" + (1_900_000).to_bytes(4, "big") + bytes(1_000_000)
    data = b"".join(frame(DATA, 0, 1, part[at : at + 60_000]) for at in range(0, len(part), 60_000))
    with place.connected() as a, place.connected() as b, place.connected() as c, place.connected() as d:
        for raw in (a, b, c):
            raw.sendall(START + OPENED + data)
        while place.service.intake.held < 3 * len(part):
            pass
        d.sendall(START + OPENED + data)
        found = b""
        while b"grpc-status" not in found:
            found += d.recv(1 << 16)
    assert b"grpc-status\x0214" in found
    assert b"grpc-retry-pushback-ms" in found
    while place.service.intake.held:
        pass


@pytest.mark.parametrize(
    "body",
    [
        question(shape=[0, 1 << 31, 1 << 31, 1 << 31], raw=b""),
        question(shape=[1 << 62, 1 << 62], raw=b""),
        question(shape=[-1, -3]),
        question(shape=[1] * 70),
        question(datatype="BYTES", shape=[1], raw=struct.pack("<I", 1000) + b"abc"),
        question(datatype="BYTES", shape=[1], raw=struct.pack("<I", 2) + b"\xff\xfe"),
        question(datatype="BYTES", shape=[1 << 28], raw=struct.pack("<I", 0) * 3),
        question(datatype="FP32 "),
        question(raw=b"123"),
        b"\xff" * 100,
        b"\x0a\x03tth" + b"\x2a\xff\xff\xff\xff\x0f",
    ],
)
def test_messages_that_lie_are_refused(place: Place, body: bytes) -> None:
    with place.connected() as raw:
        raw.sendall(START + call(body))
        data = b""
        while b"grpc-status" not in data:
            data += raw.recv(1 << 16)
    assert b"grpc-status\x013" in data
    assert [one.status for one in place.seen] == [400]


def test_what_is_packed_is_unpacked_away_from_the_loop(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kB may be a bomb that takes the time of thousands of questions."""
    names: list[str] = []

    def unpack(*arguments: Any) -> Any:
        names.append(threading.current_thread().name)
        return before(*arguments)

    before = grpc_call.unframed
    monkeypatch.setattr(grpc_call, "unframed", unpack)
    bomb = zlib.compress(b"\x0a\x03tth" + bytes(4 << 20))
    for body, status in ((zlib.compress(question()), b"\x010"), (bomb, b"\x018")):
        with place.connected() as raw:
            raw.sendall(START + call(body, packed=True, encoding=b"deflate"))
            data = b""
            while b"grpc-status" not in data:
                data += raw.recv(1 << 16)
        assert b"grpc-status" + status in data
    assert len(names) == 2
    assert all(name.startswith("mlaas4hep-run") for name in names)


def test_a_turn_ends_behind_what_it_brought_for_who_measures_it() -> None:
    told: list[str] = []

    class Handler:
        max_body, intake = 1 << 20, Intake(1 << 20)

        def __getattr__(self, name: str) -> Any:
            return lambda *_: told.append(name)

    class Line:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

    async def story() -> None:
        protocol = http2.Http2Protocol(Handler())  # type: ignore[arg-type]
        protocol.connection_made(Line())  # type: ignore[arg-type]
        protocol.data_received(START + frame(HEADERS, END_HEADERS | END_STREAM, 1, BLOCK))
        protocol.data_received(frame(PING, 0, 1, b"short"))
        protocol.connection_lost(None)

    asyncio.run(story())
    assert told == ["opened", "reads", "begin", "ask", "has_read", "reads", "broken", "has_read", "give_up", "closed"]
