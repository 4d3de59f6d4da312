import asyncio
import contextlib
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from benchmarks.throttle import CHUNK, Bandwidth, Line, Throttle

RATE = 40e6


class AtOnce(selectors.DefaultSelector):
    """Never waits: says how long it would have."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.waited += timeout or 0.0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock is moved by waiting, so that rates are exact and take no time."""

    def __init__(self) -> None:
        self._at_once = AtOnce()
        super().__init__(self._at_once)

    def time(self) -> float:
        return self._at_once.waited


def in_virtual_time(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


def test_bytes_leave_at_the_bandwidth() -> None:
    async def work() -> float:
        bandwidth = Bandwidth(RATE)
        for _ in range(1_000):
            left = await bandwidth.leave(CHUNK)
        return left

    # The clock's lateness that is made up for may be used once.
    assert in_virtual_time(work()) == pytest.approx(1_000 * CHUNK / RATE, abs=0.011)


def test_connections_take_turns_on_the_line() -> None:
    async def many(bandwidth: Bandwidth, pieces: int, done: list[str], name: str) -> None:
        for _ in range(pieces):
            await bandwidth.leave(CHUNK)
        done.append(name)

    async def work() -> list[str]:
        bandwidth, done = Bandwidth(RATE), []
        await asyncio.gather(many(bandwidth, 1_000, done, "large"), many(bandwidth, 10, done, "small"))
        return done

    assert in_virtual_time(work()) == ["small", "large"]


def test_a_line_that_was_idle_gives_no_credit_beyond_the_clocks_lateness() -> None:
    async def work() -> float:
        bandwidth = Bandwidth(RATE)
        await bandwidth.leave(1)
        await asyncio.sleep(100)
        begin = asyncio.get_running_loop().time()
        for _ in range(100):
            left = await bandwidth.leave(CHUNK)
        return left - begin

    assert in_virtual_time(work()) >= 100 * CHUNK / RATE - 0.011


@contextlib.asynccontextmanager
async def echo_behind(line: Line) -> AsyncIterator[tuple[Throttle, int]]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(CHUNK):
                writer.write(piece)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    throttle = Throttle(server.sockets[0].getsockname()[1], line)
    async with server, throttle.serve() as port:
        yield throttle, port


def on_loopback(line: Line, ask: Callable[[Throttle, int], Coroutine[Any, Any, Any]]) -> Any:
    async def work() -> Any:
        async with echo_behind(line) as (throttle, port):
            return await ask(throttle, port)

    return asyncio.run(work())


def test_bytes_come_through_unchanged_in_order_and_with_their_end() -> None:
    sent = np.random.default_rng(0).bytes(3_000_001)

    async def ask(_: Throttle, port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        writer.write_eof()
        got = await reader.read(-1)
        writer.close()
        return got

    assert on_loopback(Line(rtt_s=0.004, bytes_per_s=1e9), ask) == sent


def test_nothing_arrives_before_its_time() -> None:
    line = Line(rtt_s=0.05, bytes_per_s=1e9)

    async def ask(_: Throttle, port: int) -> tuple[float, float]:
        clock = asyncio.get_running_loop().time
        begin = clock()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"first")
        await reader.readexactly(5)
        first = clock()
        writer.write(b"second")
        await reader.readexactly(6)
        writer.close()
        return first - begin, clock() - first

    first, second = on_loopback(line, ask)
    assert first >= 2 * line.rtt_s  # one round trip to connect, one to ask
    assert second >= line.rtt_s


def test_a_request_that_is_cut_off_resets_the_connection_and_is_counted() -> None:
    async def ask(throttle: Throttle, port: int) -> tuple[int, int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"anything")
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        return throttle.requests, throttle.resets

    assert on_loopback(Line(rtt_s=0.0, bytes_per_s=1e9, reset=1.0), ask) == (1, 1)


def test_nobody_behind_the_line_looks_like_a_lost_connection() -> None:
    async def work() -> None:
        async with Throttle(1, Line(rtt_s=0.0, bytes_per_s=1e9)).serve() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()

    asyncio.run(work())
