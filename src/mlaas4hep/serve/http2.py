"""HTTP/2 as a gRPC server needs it, in one asyncio protocol: frames, header blocks, flow control, limits.

A request is handed to a `Handler` when its head is there and again when it is whole; `Sending.answer` writes what
comes of it. Invariant: what a peer sends is bounded before it is kept, in size, in number and in time; who does
otherwise gets the error that RFC 9113 names for it and the connection ends.

A head that repeats an earlier one byte for byte is looked up, not decoded, as long as the table of header compression
stands as it stood: that is nearly every head of a gRPC client.
"""

from __future__ import annotations

import asyncio
import struct

from mlaas4hep.serve.frames import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITISED,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    BrokenError,
    Heads,
    Stream,
    frame,
    frame_head,
    uint32,
    unpadded,
)
from mlaas4hep.serve.sending import DEFAULT_FRAME, DEFAULT_WINDOW, Handler, Sending

# What this side allows: one frame, one stream's and one connection's bytes under way, streams, and one head.
MAX_FRAME, STREAM_WINDOW, CONNECTION_WINDOW, MAX_STREAMS, MAX_HEAD = 1 << 16, 1 << 20, 8 << 20, 256, 16 << 10
# How long a connection may do nothing, a request may be on its way (or the other side read nothing), a frame may take;
# and how often that is looked at.
IDLE_S, REQUEST_S, FRAME_S, CHECK_S = 300.0, 120.0, 30.0, 10.0
# Streams that a client may give up beyond those that were answered: opening and resetting them is an attack.
MAX_RESETS = 500
# Frames without a question (pings, settings, windows, empty data) between two looks; and how many more for an answer.
MAX_IDLE_FRAMES, IDLE_FRAMES_AN_ANSWER = 10_000, 8

_MOST = 2**31 - 1


class Http2Protocol(Sending):
    """One connection.

    Parameters
    ----------
    handler
        Who answers.
    """

    def __init__(self, handler: Handler) -> None:
        super().__init__(handler)
        self._rest = b""
        self._open = False  # the preface was read
        self._block: tuple[int, bool, bytearray] | None = None  # a head that goes on: stream, its end, bytes so far
        self._heads = Heads(MAX_HEAD)
        self._taken = self._resets = self._idle_frames = self._answered_before = 0
        self._opens = False  # windows were opened: once for all frames of a read, since each would look at all streams
        self._busy_s = self.loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        peer = transport.get_extra_info("peername")
        self.client = str(peer[0]) if isinstance(peer, tuple) else ""
        settings = ((3, MAX_STREAMS), (4, STREAM_WINDOW), (5, MAX_FRAME), (6, MAX_HEAD))
        self._write(
            frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *one) for one in settings))
            + frame(WINDOW_UPDATE, 0, 0, uint32.pack(CONNECTION_WINDOW - DEFAULT_WINDOW))
        )
        self._timer = self.loop.call_later(CHECK_S, self._check)
        self.handler.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        for stream in list(self.streams.values()):
            self._forget(stream, given_up=not stream.sent)
        self._blocked.clear()
        self.handler.closed(self)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        self.handler.reads()
        try:
            self._read(self._rest + data if self._rest else data)
        except BrokenError as error:
            self._end(error.code, str(error))
        finally:
            self.handler.has_read()

    def _read(self, data: bytes) -> None:
        at, end = 0, len(data)
        if not self._open:
            if end < len(PREFACE) and PREFACE.startswith(data):
                self._rest = data
                return
            if not data.startswith(PREFACE):
                raise BrokenError(PROTOCOL_ERROR, "this port speaks gRPC, which is HTTP/2")
            self._open, at = True, len(PREFACE)
        while end - at >= 9:
            high, low, kind, flags, number = frame_head.unpack_from(data, at)
            size = high << 16 | low
            if size > MAX_FRAME:
                raise BrokenError(FRAME_SIZE_ERROR, f"a frame of {size} bytes, and {MAX_FRAME} may be")
            stop = at + 9 + size
            if stop > end:
                break
            self._take(kind, flags, number & _MOST, data[at + 9 : stop])
            at = stop
            self._busy_s = self.loop.time()
            if self._over:
                return
        self._rest = data[at:]
        if self._opens:
            self._opens = False
            self._send_blocked()

    def _take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind != HEADERS and (kind != DATA or not (payload or flags & END_STREAM)):
            self._idle_frames += 1
            if self._idle_frames > MAX_IDLE_FRAMES:
                self._check_idle_frames()
        if self._block is not None and kind != CONTINUATION:
            raise BrokenError(PROTOCOL_ERROR, "a head is not continued")
        if kind == HEADERS:
            self._take_head(flags, number, payload)
        elif kind == DATA:
            self._take_data(flags, number, payload)
        elif kind == WINDOW_UPDATE:
            self._take_window(number, payload)
        elif kind == RST_STREAM:
            self._take_reset(number, payload)
        elif kind == SETTINGS:
            self._take_settings(flags, number, payload)
        elif kind == PING:
            if len(payload) != 8 or number:
                raise BrokenError(FRAME_SIZE_ERROR if not number else PROTOCOL_ERROR, "a ping is 8 bytes")
            if not flags & ACK:
                self._write(frame(PING, ACK, 0, payload))
        elif kind == CONTINUATION:
            self._take_continuation(flags, number, payload)
        elif kind == PUSH_PROMISE:
            raise BrokenError(PROTOCOL_ERROR, "clients promise nothing")
        elif kind == GOAWAY:
            self._leaving = True
            if not self.streams:
                self._close()

    def _check_idle_frames(self) -> None:
        answers = self._answered - self._answered_before
        if self._idle_frames > MAX_IDLE_FRAMES + IDLE_FRAMES_AN_ANSWER * answers:
            raise BrokenError(ENHANCE_YOUR_CALM, "too many frames without a question")

    def _take_head(self, flags: int, number: int, payload: bytes) -> None:
        if not number & 1:
            raise BrokenError(PROTOCOL_ERROR, f"a client opens no stream {number}")
        if flags & PADDED:
            payload = unpadded(payload)
        if flags & PRIORITISED:
            if len(payload) < 5:
                raise BrokenError(FRAME_SIZE_ERROR, "a priority is 5 bytes")
            payload = payload[5:]
        if len(payload) > MAX_HEAD:
            raise BrokenError(ENHANCE_YOUR_CALM, f"a head of more than {MAX_HEAD} bytes")
        if flags & END_HEADERS:
            self._head(number, bool(flags & END_STREAM), payload)
        else:
            self._block = number, bool(flags & END_STREAM), bytearray(payload)

    def _take_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != number:
            raise BrokenError(PROTOCOL_ERROR, "nothing is to be continued")
        _, ended, block = self._block
        block += payload
        if len(block) > MAX_HEAD or not payload:
            raise BrokenError(ENHANCE_YOUR_CALM, f"a head of more than {MAX_HEAD} bytes")
        if flags & END_HEADERS:
            self._block = None
            self._head(number, ended, bytes(block))

    def _head(self, number: int, ended: bool, block: bytes) -> None:
        head = self._heads.read(block)  # of a refused stream too: the table has to go along
        stream = self.streams.get(number)
        if stream is not None or number <= self._last:
            self._trailers(stream, number, ended)
            return
        self._last = number
        if self._leaving or len(self.streams) >= MAX_STREAMS:
            self._reset(number, REFUSED_STREAM)
            return
        stream = Stream(number, head, self._first_window, self.loop.time())
        self.streams[number] = stream
        self.handler.begin(self, stream)
        if ended and not stream.sent:
            stream.ended = True
            self.handler.ask(self, stream)

    def _trailers(self, stream: Stream | None, number: int, ended: bool) -> None:
        if stream is None:
            return  # of one that was answered or given up
        if stream.ended or not ended:
            raise BrokenError(PROTOCOL_ERROR, f"stream {number} begins twice")
        self._ended(stream)

    def _take_data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        if flags & PADDED:
            payload = unpadded(payload)
        stream = self.streams.get(number)
        if stream is None and (number > self._last or not number & 1):
            raise BrokenError(PROTOCOL_ERROR, f"data of stream {number}, which is not open")
        if stream is not None and stream.ended:
            raise BrokenError(STREAM_CLOSED, f"data behind the end of stream {number}")
        self._taken += size
        if self._taken > CONNECTION_WINDOW:
            raise BrokenError(FLOW_CONTROL_ERROR, "more data than the window has")
        if self._taken > CONNECTION_WINDOW >> 1:
            self._write(frame(WINDOW_UPDATE, 0, 0, uint32.pack(self._taken)))
            self._taken = 0
        if stream is None:
            return
        stream.size += len(payload)
        if stream.size > self.handler.max_body:
            self.handler.too_large(self, stream)
            return
        if not self.handler.intake.takes(len(payload)):
            self.handler.no_room(self, stream)
            return
        if not stream.body:
            stream.body = payload
        else:
            if isinstance(stream.body, bytes):
                stream.body = bytearray(stream.body)
            stream.body += payload
        if flags & END_STREAM:
            self._ended(stream)
            return
        stream.taken += size
        if stream.taken > STREAM_WINDOW:
            raise BrokenError(FLOW_CONTROL_ERROR, "more data than the window has")
        if stream.taken > STREAM_WINDOW >> 1:
            self._write(frame(WINDOW_UPDATE, 0, number, uint32.pack(stream.taken)))
            stream.taken = 0

    def _ended(self, stream: Stream) -> None:
        stream.ended = True
        self.handler.ask(self, stream)

    def _take_window(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise BrokenError(FRAME_SIZE_ERROR, "a window is 4 bytes")
        more = uint32.unpack(payload)[0] & _MOST
        if not number:
            self._window += more
            if not more or self._window > _MOST:
                raise BrokenError(FLOW_CONTROL_ERROR if more else PROTOCOL_ERROR, "a window of no size, or too large")
        else:
            stream = self.streams.get(number)
            if stream is None:
                return
            stream.window += more
            if not more or stream.window > _MOST:
                raise BrokenError(FLOW_CONTROL_ERROR if more else PROTOCOL_ERROR, "a window of no size, or too large")
        self._opens = True

    def _take_reset(self, number: int, payload: bytes) -> None:
        if len(payload) != 4 or not number or number > self._last:
            raise BrokenError(FRAME_SIZE_ERROR if len(payload) != 4 else PROTOCOL_ERROR, "a reset of no stream")
        stream = self.streams.get(number)
        if stream is None:
            return
        self._forget(stream, given_up=True)
        self._resets += 1
        if self._resets > MAX_RESETS + self._answered:
            raise BrokenError(ENHANCE_YOUR_CALM, "streams are opened only to be given up")

    def _take_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) % 6 or (flags & ACK and payload):
            raise BrokenError(PROTOCOL_ERROR if number else FRAME_SIZE_ERROR, "settings that are none")
        if flags & ACK:
            return
        window = self._first_window
        for name, value in struct.iter_unpack(">HI", payload):
            if name == 4:
                if value > _MOST:
                    raise BrokenError(FLOW_CONTROL_ERROR, f"a window of {value} bytes")
                window = value
            elif name == 5:
                if not DEFAULT_FRAME <= value < 1 << 24:
                    raise BrokenError(PROTOCOL_ERROR, f"frames of {value} bytes")
                self._max_frame = value
        self._set_window(window)
        self._write(frame(SETTINGS, ACK, 0))
        self._opens = True

    def _set_window(self, value: int) -> None:
        if value != self._first_window:
            for stream in self.streams.values():
                stream.window += value - self._first_window
            self._first_window = value

    def _check(self) -> None:
        """From time to time: who takes too long is let go."""
        now = self.loop.time()
        self._timer = self.loop.call_later(CHECK_S, self._check)
        if self._over or (self._stalled and now - self._read_s > REQUEST_S):
            self.transport.abort()
            return
        if (not self._open or self._block or self._rest) and not self._stalled and now - self._busy_s > FRAME_S:
            self._end(ENHANCE_YOUR_CALM, "a frame takes too long")
            return
        self._idle_frames, self._answered_before = 0, self._answered
        for stream in [one for one in self.streams.values() if _is_late(one, now)]:
            self._reset(stream.number, CANCEL)
            self._forget(stream, given_up=not stream.sent)
        if not self.streams and now - self._busy_s > IDLE_S:
            self.leave()


def _is_late(stream: Stream, now: float) -> bool:
    """Whether a request does not come, or its answer is not taken; what was taken buys more time."""
    return (not stream.ended or stream.waiting is not None) and now - stream.began_s > REQUEST_S
