"""What a question costs a client: ours and others, one row in binary, against a server that does nothing.

``python -m benchmarks.clients [--json]`` starts an echo (uvloop, httptools, one fixed answer) in a process of its own
and asks it in turns, block by block, so that neighbours disturb all alike. The best block is given: questions
a second, microseconds a question, and microseconds of the client's own processor time, which neighbours disturb least.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import click
import numpy as np

from mlaas4hep.client import AsyncClient, Client
from mlaas4hep.client.tensors import encode_question

INPUTS = {"event": np.random.default_rng(1).random((1, 42), np.float32)}
Block = Callable[[str, int], None]


def echo() -> None:
    """The server; prints its port."""
    import httptools
    import uvloop

    output = b'{"name":"scores","datatype":"FP32","shape":[1,1],"parameters":{"binary_data_size":4}}'

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport, self.parser, self.body = transport, httptools.HttpRequestParser(self), b""

        def data_received(self, data: bytes) -> None:
            self.parser.feed_data(data)

        def on_body(self, body: bytes) -> None:
            self.body += body

        def on_message_complete(self) -> None:
            start = self.body.find(b'"id":"') + 6
            named = self.body[start : self.body.find(b'"', start)] if start > 5 else b""
            head = b'{"model_name":"m","model_version":"1","outputs":[%s],"id":"%s"}' % (output, named)
            lengths = b"inference-header-content-length: %d\r\ncontent-length: %d" % (len(head), len(head) + 4)
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n%s\r\n\r\n%s\0\0\0?" % (lengths, head)
            )
            self.body = b""

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    uvloop.run(serve())


def raw(url: str, count: int) -> None:
    """A socket and bytes that were made before: the least that Python can do."""
    body = b"".join(encode_question(INPUTS, id="1").parts)
    head = f"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    place = urlsplit(url)
    with socket.create_connection((str(place.hostname), place.port or 80)) as line:
        for _ in range(count):
            line.sendall(head + body)
            assert line.recv(65536).endswith(b"\0\0\0?")


def standard(url: str, count: int) -> None:
    """`http.client` with a body that was made before."""
    encoded = encode_question(INPUTS, id="1")
    body = b"".join(encoded.parts)
    headers = {"Inference-Header-Content-Length": str(encoded.header_length)}
    line = http.client.HTTPConnection(urlsplit(url).netloc)
    for _ in range(count):
        line.request("POST", "/v2/models/m/infer", body, headers)
        assert line.getresponse().read().endswith(b"\0\0\0?")
    line.close()


def triton(url: str, count: int) -> None:
    """`tritonclient.http`."""
    import tritonclient.http as library

    client = library.InferenceServerClient(urlsplit(url).netloc)
    for _ in range(count):
        one = library.InferInput("event", [1, 42], "FP32")
        one.set_data_from_numpy(INPUTS["event"], binary_data=True)
        outputs = [library.InferRequestedOutput("scores", binary_data=True)]
        assert client.infer("m", [one], outputs=outputs, request_id="1").as_numpy("scores")[0, 0] == 0.5
    client.close()


def ours(url: str, count: int) -> None:
    """`mlaas4hep.client.Client`."""
    with Client(url) as client:
        for _ in range(count):
            assert client.infer("m", INPUTS)["scores"][0, 0] == 0.5


def ours_async(connections: int, run: Callable[[Any], None]) -> Block:
    """`mlaas4hep.client.AsyncClient` with so many questions under way."""

    async def ask(url: str, count: int) -> None:
        async with AsyncClient(url, connections=connections) as client:

            async def some() -> None:
                for _ in range(count // connections):
                    assert (await client.infer("m", INPUTS))["scores"][0, 0] == 0.5

            await asyncio.gather(*(some() for _ in range(connections)))

    def block(url: str, count: int) -> None:
        asked: Awaitable[None] = ask(url, count)
        run(asked)

    return block


def askers() -> dict[str, Block]:
    """All that are measured, by name."""
    import uvloop

    found: dict[str, Block] = {"raw": raw, "ours": ours, "http_client": standard}
    for connections in (1, 16):
        found[f"ours_async_c{connections}"] = ours_async(connections, asyncio.run)
        found[f"ours_uvloop_c{connections}"] = ours_async(connections, uvloop.run)
    try:
        import tritonclient.http  # noqa: F401
    except ImportError:
        return found
    return found | {"tritonclient": triton}


def measure(url: str, *, count: int, blocks: int) -> dict[str, float]:
    """Figures by name."""
    taken: dict[str, list[tuple[float, float]]] = {}
    for _ in range(blocks):
        for name, block in askers().items():
            before, began = _processor_s(), time.perf_counter()
            block(url, count)
            taken.setdefault(name, []).append((time.perf_counter() - began, _processor_s() - before))
    figures: dict[str, float] = {}
    for name, times in taken.items():
        wall = min(one for one, _ in times) / count
        figures |= {f"{name}_rps": 1 / wall, f"{name}_us": wall * 1e6}
        figures[f"{name}_cpu_us"] = min(one for _, one in times) / count * 1e6
    return figures


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@click.command()
@click.option("--count", default=1600, show_default=True, help="Questions of a block.")
@click.option("--blocks", default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True)
@click.option("--echo", "only_echo", is_flag=True, help="Be the server.")
def main(count: int, blocks: int, as_json: bool, only_echo: bool) -> None:
    """Measure clients."""
    if only_echo:
        echo()
        return
    command = [sys.executable, "-m", "benchmarks.clients", "--echo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            figures = measure(f"http://127.0.0.1:{int(server.stdout.readline())}", count=count, blocks=blocks)
        finally:
            server.terminate()
    if as_json:
        click.echo(json.dumps({name: round(value, 1) for name, value in figures.items()}))
        return
    click.echo(f"{'':18s} {'/s':>8s} {'us':>8s} {'cpu us':>8s}")
    for name in askers():
        rate, wall, cpu = (figures[f"{name}_{key}"] for key in ("rps", "us", "cpu_us"))
        click.echo(f"{name:18s} {rate:8.0f} {wall:8.1f} {cpu:8.1f}")


if __name__ == "__main__":
    main()
