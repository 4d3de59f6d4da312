"""A long, narrow line on loopback: a TCP proxy with a round-trip time and a bandwidth.

``python -m benchmarks.throttle --to PORT --rtt-ms 50 --mb-per-s 40`` prints ``{"port": ...}`` and serves until its
standard input is closed. Each direction is a pipe: bytes leave at the bandwidth, shared by all connections in turn, and
arrive half a round trip later, however many are under way; opening a connection costs one round trip. Slow start and
lost packets are not modelled. Invariant: bytes arrive in order, unchanged, and never before their time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import socket
import struct
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import click

CHUNK = 64 * 1024
_LATE_S = 0.01  # so much lateness of the clock is made up for, so that the mean rate is exact
_EARLY_S = 0.002  # shorter waits are not slept


@dataclass(frozen=True)
class Line:
    """What the proxy imitates: round trip in seconds, bytes a second, and the chance that a request is cut off."""

    rtt_s: float
    bytes_per_s: float
    reset: float = 0.0


class Bandwidth:
    """One direction of the line: says when bytes have left, in turn for all who ask."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free = -math.inf
        self._turn = asyncio.Lock()

    async def leave(self, size: int) -> float:
        """Wait for the line, then give the time (of the event loop) at which the last of ``size`` bytes has left."""
        async with self._turn:
            now = asyncio.get_running_loop().time()
            if self._free - now > _EARLY_S:
                await asyncio.sleep(self._free - now)
                now = asyncio.get_running_loop().time()
            self._free = max(self._free, now - _LATE_S) + size / self._bytes_per_s
            return max(self._free, now)


class Throttle:
    """The proxy on one event loop.

    Attributes
    ----------
    requests, resets
        Pieces seen from clients, and connections cut off at one of them.
    """

    def __init__(self, to_port: int, line: Line, *, seed: int = 0) -> None:
        self._to_port = to_port
        self._line = line
        self._random = random.Random(seed)
        self._up, self._down = Bandwidth(line.bytes_per_s), Bandwidth(line.bytes_per_s)
        self._open: set[asyncio.Task[None]] = set()
        self.requests = self.resets = 0

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[int]:
        """Serve on a free port of loopback, which is given; connections end with the block."""
        server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in self._open:
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: that of asyncio tells of every connection that is cut off at the end.
        task = asyncio.create_task(self._connected(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened = asyncio.get_running_loop().time() + self._line.rtt_s
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.transport.abort()  # as a closed port looks
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pipe(reader, far_writer, self._up, opened, from_client=True))
                both.create_task(self._pipe(far_reader, writer, self._down, opened, from_client=False))
        except* (ConnectionError, TimeoutError):
            for one in (writer, far_writer):  # one side was reset: so is the other
                _reset(one)
        finally:
            for one in (writer, far_writer):
                one.close()

    async def _pipe(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        bandwidth: Bandwidth,
        opened: float,
        *,
        from_client: bool,
    ) -> None:
        under_way = 2 * self._line.bytes_per_s * self._line.rtt_s / CHUNK
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64 + int(under_way))
        async with asyncio.TaskGroup() as both:
            both.create_task(self._take(reader, pieces, bandwidth, opened, from_client=from_client))
            both.create_task(_deliver(writer, pieces))

    async def _take(
        self,
        reader: asyncio.StreamReader,
        pieces: asyncio.Queue[tuple[float, bytes]],
        bandwidth: Bandwidth,
        opened: float,
        *,
        from_client: bool,
    ) -> None:
        while True:
            piece = await reader.read(CHUNK)
            if from_client and piece:
                self._perhaps_reset()
            left = await bandwidth.leave(len(piece))
            await pieces.put((max(left, opened) + self._line.rtt_s / 2, piece))
            if not piece:
                return

    def _perhaps_reset(self) -> None:
        self.requests += 1
        if self._random.random() < self._line.reset:
            self.resets += 1
            raise ConnectionResetError("asked for by the benchmark")


async def _deliver(writer: asyncio.StreamWriter, pieces: asyncio.Queue[tuple[float, bytes]]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due, piece = await pieces.get()
        if due > loop.time():
            await asyncio.sleep(due - loop.time())
        if not piece:
            writer.write_eof()
            return
        writer.write(piece)
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close without an orderly end, and without what is still under way."""
    found = writer.get_extra_info("socket")
    if not writer.transport.is_closing():
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _until_input_ends() -> None:
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def _serve(to_port: int, line: Line) -> None:
    throttle = Throttle(to_port, line)
    async with throttle.serve() as port:
        print(json.dumps({"port": port}), flush=True)
        await _until_input_ends()
    print(json.dumps({"requests": throttle.requests, "resets": throttle.resets}), flush=True)


@click.command()
@click.option("--to", "to_port", type=int, required=True, help="Port of the server behind it, on loopback.")
@click.option("--rtt-ms", type=float, default=50.0, show_default=True)
@click.option("--mb-per-s", type=float, default=40.0, show_default=True, help="10^6 bytes a second, each way.")
@click.option("--reset", type=float, default=0.0, show_default=True, help="Chance that a request is cut off.")
def main(*, to_port: int, rtt_ms: float, mb_per_s: float, reset: float) -> None:
    """Serve one port through a long, narrow line."""
    asyncio.run(_serve(to_port, Line(rtt_ms / 1e3, mb_per_s * 1e6, reset)))


if __name__ == "__main__":
    main()
