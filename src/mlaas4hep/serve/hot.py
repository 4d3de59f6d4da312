"""The usual questions answered inside the protocol: no scope, no task and no router for each request.

`HotProtocol` takes what a `Route` matches as soon as its head is whole, and hands everything else to uvicorn and
Starlette. Invariant: answers leave in the order of their questions, whichever way each of them took, and are the bytes
that the other way would give.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from functools import partial
from typing import Any

from mlaas4hep.errors import BusyError, RequestError
from mlaas4hep.serve.asked import OTHER, Asked, Hot
from mlaas4hep.serve.asking import Refusal, timeout_of, too_large
from mlaas4hep.serve.cold import ColdProtocol
from mlaas4hep.serve.heads import Target
from mlaas4hep.serve.http import once_allowed, told
from mlaas4hep.serve.pressure import RETRY_AFTER_S

# Questions of one connection that wait for their answers; then no more is read of it. One read may bring thousands:
# beyond the second number the connection ends behind the last that was taken.
MAX_PIPELINED, MOST_PIPELINED = 64, 256
# A body of more is not waited for where its model is too busy already: to receive and read it costs too much for that.
LARGE_BODY_BYTES = 4096
# Asked by who watches the server: answered as long as anybody is.
_HEALTH = b"/v2/health/"
_SPARED = (_HEALTH, b"/metrics")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class HotProtocol(ColdProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, hot: Hot, **options: Any) -> None:
        super().__init__(*arguments, wire=hot.service.limits.wire, **options)
        self.hot = hot
        self._pressure = hot.begin(self.loop)
        # What the parser is fed with, while it may begin with a head.
        self._fresh = b""
        self._asked: Asked | None = None
        # Bytes of the rest of a body are not taken.
        self._skips = False
        # Questions in their order, until the answers of all before are written.
        self._slots: deque[Asked] = deque()
        # No more questions are taken; the connection ends behind the last answer.
        self._last = False
        self.url = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.share = self.hot.shares.enter(self.client[0] if self.client else None)
        if len(self.connections) > 2 * self.wire.connections:
            transport.abort()  # so many do not even wait for a refusal

    def connection_lost(self, exc: Exception | None) -> None:
        for asked in self._slots:
            asked.forget(whole=asked is not self._asked)
        self.hot.shares.leave(self.share)
        self._slots.clear()
        self._asked = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        pressure = self._pressure
        if not pressure.began_s:
            pressure.begin()
        if self._is_between():
            data = self._fresh = data[self._take_known(data) :]
        if data:
            super().data_received(data)
            self._fresh = b""
        if not pressure.ends:
            pressure.end()

    def on_message_begin(self) -> None:
        if not self._unfinished:
            self._begin_message()
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._ignores = False

    def on_headers_complete(self) -> None:
        fresh, self._fresh = self._fresh, b""
        if self.parser.should_upgrade():
            self._ignores = True  # it comes again without its wish
            if self.parser.get_method() == b"CONNECT":
                self._refuse(400, "this server passes nothing on, so CONNECT leads nowhere")
            return
        if self._last or not self._takes_head():
            self._ignores = True
            return
        if len(self._slots) + len(self.pipeline) >= MOST_PIPELINED:
            self._stop_after_last()
            self._ignores = True
            return
        cold = self.cycle is not None and not self.cycle.response_complete
        hot = self.hot
        try:
            found = hot.paths[self.url]
        except KeyError:
            found = hot.find(self.url)
        quick = (
            found is not None
            and not cold
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and not (self.expect_100_continue and self._slots)
        )
        if self._is_refused(found, cold, quick=quick):
            return
        if found is None or not quick:
            self._go_cold()
            return
        asked = Asked(self, found, dict(self.headers), self.parser.should_keep_alive())
        length = asked.headers.get(b"content-length")
        limit = hot.service.limits.max_body_bytes
        if length is not None and int(length) > limit:
            self._refuse_head(asked, too_large(limit))
            return
        refusal = self._has_no_chance(asked, length)
        if refusal is not None or self._pressure.too_much(asked.began_s):
            self._refuse_head(asked, refusal)
            return
        self._take(asked)
        if self.expect_100_continue:
            self.transport.write(_CONTINUE)
        elif fresh and length is not None and asked.keep_alive and hot.hooks.authorise is None:
            hot.heads.learn(fresh, self.headers, found, int(length))

    def on_body(self, body: bytes) -> None:
        asked = self._asked
        if asked is None:
            if not self._ignores:
                super().on_body(body)
            return
        self._pending = 0
        asked.size += len(body)
        if self._skips:
            return
        refusal = asked.hold(body)
        if refusal is not None:
            self._skip()
            asked.parts = ()
            asked.refuse(refusal)

    def on_message_complete(self) -> None:
        asked = self._asked
        if asked is None:
            if not self._ignores:
                super().on_message_complete()
            return
        self._pending = 0
        self._unfinished, self._ended_s = False, self.loop.time()
        self._asked = None
        if not self._skips:
            asked.ask()
        elif not self._slots:  # answered before its body was here
            self._after_last()
        self._skips = False
        if len(self._slots) >= MAX_PIPELINED:
            self.flow.pause_reading()

    def flush(self) -> None:
        """Write the answers that are there and whose turn it is."""
        slots = self._slots
        if not slots or (whole := slots[0].reply) is None:
            return
        slots.popleft()
        answers = 1
        if slots and slots[0].reply is not None:
            parts = [whole]
            while slots and (reply := slots[0].reply) is not None:
                parts.append(reply)
                slots.popleft()
            whole, answers = b"".join(parts), len(parts)
        if self.transport.is_closing():
            return
        self.transport.write(whole)
        self._written += len(whole)
        self.server_state.total_requests += answers
        flow = self.flow
        if flow.write_paused:
            flow.pause_reading()
        if not slots and (self._last or self.pipeline):
            self._after_last()
        elif flow.read_paused:
            self._read_on()

    def shutdown(self) -> None:
        """uvicorn ends: what was taken is answered first."""
        if self._asked is None and not self._slots:
            super().shutdown()
            return
        self._stop_after_last()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_on()

    def _is_between(self) -> bool:
        """Whether a new message begins here, and nothing stands before its answer but others of this way."""
        return (
            not (self._unfinished and self._received)
            and not self._last
            and self._asked is None
            and (self.cycle is None or self.cycle.response_complete)
            and not self.pipeline
            and not self._refused
        )

    def _take_known(self, data: bytes) -> int:
        """Take whole questions whose heads are known; gives where the rest begins."""
        hot, start = self.hot, 0
        if hot.hooks.authorise is not None or self._is_full():
            return 0
        if hot.shares.is_crowded(self.share):
            return 0
        size, slots, share, shed = len(data), self._slots, self.share, False
        while start < size and (known := hot.heads.at(data, start)) is not None:
            body = start + known.size
            end = body + known.length
            if end > size or len(slots) >= MOST_PIPELINED:
                break
            start = end
            refusal = hot.shares.refusal(share, asks=True) if share is not None else None
            asked = Asked(self, known.found, known.headers, True)
            asked.size = known.length
            slots.append(asked)
            if refusal is not None:
                asked.refuse(refusal)
            elif self._pressure.too_much(asked.began_s):
                asked.shed(self._pressure)
                shed = True
            elif known.way is not None and hot.lane is not None:
                hot.lane.add(asked, data[body:end], known.way)
            else:
                asked.ask_alone(data[body:end])
        if start:
            if self.timeout_keep_alive_task is not None:
                self._unset_keepalive_if_required()
            self._unfinished, self._ended_s = False, self.loop.time()
            if shed:  # all other answers are written as they come
                self.flush()
            if len(slots) >= MAX_PIPELINED:
                self.flow.pause_reading()
        return start

    def _has_no_chance(self, asked: Asked, length: bytes | None) -> BusyError | None:
        """Why a question is refused before its body is there."""
        if length is not None and int(length) <= LARGE_BODY_BYTES:
            return None
        try:
            timeout_s = timeout_of(asked.headers)
        except RequestError:  # told when it is read
            return None
        deadline = None if timeout_s is None else asked.began_s + timeout_s
        return self.hot.service.refusal(*asked.target[:2], deadline=deadline)

    def on_response_complete(self) -> None:
        self._unread = 0  # of what uvicorn writes the size is not known, but it waits for who does not read
        super().on_response_complete()
        if self._unfinished and self._asked is None and self.cycle.response_complete:
            self._drop_rest()

    def _skip(self) -> None:
        self._skips = True
        self._drop_rest()

    def _take(self, asked: Asked) -> None:
        self._asked = asked
        self._slots.append(asked)
        if not asked.keep_alive:
            self._last = True

    def _is_refused(self, found: Target | None, cold: bool, *, quick: bool) -> bool:
        """Whether a request of any kind gets no further than its head, or is answered when more is known of it."""
        refusal, hot, app = self._is_too_many(found), self.hot, None
        if refusal is None and hot.hooks.authorise is not None:
            method, path = self.parser.get_method().decode("ascii"), self.url.decode("latin-1")
            found_out = hot.hooks.authorise(method, path, dict(self.headers))
            if callable(found_out):
                app, quick = once_allowed(found_out, self.app), False
            else:
                refusal = found_out
        if refusal is None and not quick:
            refusal = self._shed()
        if refusal is None:
            if app is not None:
                self._go_cold(app)
            return app is not None
        if cold:  # its answer cannot come before the one that is under way
            self._go_cold(once_allowed(partial(told, refusal), self.app))
            return True
        path = self.url.decode("latin-1").partition("?")[0]
        target = found or (OTHER, (), path)
        keep_alive = self.parser.should_keep_alive() and not (self._is_full() or hot.shares.is_crowded(self.share))
        method = self.parser.get_method().decode("ascii")
        asked = Asked(self, target, dict(self.headers), keep_alive)
        asked.method = method
        self._refuse_head(asked, refusal)
        return True

    def _is_too_many(self, found: Target | None) -> Refusal | None:
        """Why a connection or a client is refused; who asks for health is told of it as long as anybody is."""
        if self.url.startswith(_HEALTH):
            return None
        if self._is_full():
            text = f"{len(self.connections)} connections are open, and this server takes fewer; ask again later"
            return Refusal(503, text, {"Retry-After": "1"})
        asks = found is not None or self.parser.get_method() == b"POST"
        return self.hot.shares.refusal(self.share, asks=asks) if self.share is not None else None

    def _is_full(self) -> bool:
        return len(self.connections) >= self.wire.connections

    def _shed(self) -> Refusal | None:
        """Why a request on the long way is refused by its head; not who looks at how the server is doing."""
        if self.url.startswith(_SPARED) or not self._pressure.too_much(time.monotonic()):
            return None
        return Refusal(503, self._pressure.text, {"Retry-After": str(RETRY_AFTER_S)})

    def _refuse_head(self, asked: Asked, refusal: Exception | None) -> None:
        """Answer without the body, with None that there is too much to do.

        Who waits for leave to send the body may do so or not: that connection ends.
        """
        asked.keep_alive = asked.keep_alive and not self.expect_100_continue
        self._take(asked)
        self._skip()
        if refusal is not None:
            asked.refuse(refusal)
        else:
            asked.shed(self._pressure)
            self.flush()

    def _go_cold(self, app: Any = None) -> None:
        """uvicorn and Starlette answer, once what was taken here is answered."""
        self._hand_on(app, behind=bool(self._slots))

    def _after_last(self) -> None:
        if self.pipeline:
            self.on_response_complete()
        elif self._last and self._asked is None:
            self.transport.close()
        else:
            self._read_on()

    def _read_on(self) -> None:
        if self.flow.write_paused or self.pipeline or len(self._slots) >= MAX_PIPELINED:
            return
        self.flow.resume_reading()

    def _stop_after_last(self) -> None:
        self._last = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        elif self._slots:
            self._slots[-1].keep_alive = False

    def _refuse(self, status: int, text: str) -> None:
        if self._refused:
            return
        asked, self._asked = self._asked, None
        if asked is None or asked.reply is not None:
            path = self.url.decode("latin-1").partition("?")[0]
            asked = Asked(self, (OTHER, (), path), {}, False)
            asked.method = ""
        if not self._slots:
            self._refuse_alone(asked, status, text)
            return
        self._refused = True
        self._end()
        if self._slots[-1] is not asked:
            self._slots.append(asked)
        asked.keep_alive, self._last = False, True
        asked.refuse(Refusal(status, text))

    def _refuse_alone(self, asked: Asked, status: int, text: str) -> None:
        """Where no answer of this path is before it; one that uvicorn is about to give tells the hooks itself."""
        super()._refuse(status, text)
        cycle = self.cycle
        asked.told_elsewhere = not (cycle is None or cycle.response_complete or not cycle.more_body)
        asked.see(status, 0)

    def _idle_left_s(self) -> float:
        """Until a connection that asks nothing and owes nothing is let go."""
        busy = self._slots or (self.cycle is not None and not self.cycle.response_complete)
        if busy or self.transport.get_write_buffer_size():
            return self.wire.keep_alive_s
        return self._ended_s + self.wire.keep_alive_s - self.loop.time()
