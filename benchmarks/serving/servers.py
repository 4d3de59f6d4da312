"""Servers, ours and the peers: how each is started on free ports, what it understands, and how it is stopped.

Invariant: when the block of `running` ends, no process of the server is left, and the first answer of each form was
compared with onnxruntime.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.peers import environments
from benchmarks.serving.cells import OURS
from benchmarks.serving.networks import Network
from benchmarks.serving.processes import tree
from benchmarks.serving.questions import Wire, ask, check, question
from benchmarks.turns import Unavailable

START_S = 60
STOP_S = 10
_PEER_WIRES: Mapping[str, frozenset[Wire]] = {
    "fastapi": frozenset({"json"}),
    "mosec": frozenset({"json"}),
    # Its HTTP refuses the binary extension.
    "mlserver": frozenset({"json", "grpc"}),
    "pytriton": frozenset({"json", "bin", "grpc"}),
}
SERVERS = (OURS, *_PEER_WIRES)


@dataclass(frozen=True)
class Running:
    """A server that answers; ``pid`` leads its processes."""

    pid: int
    http: str
    grpc: str

    def address(self, wire: Wire) -> str:
        """Where questions of this form go."""
        return self.grpc if wire == "grpc" else self.http


def wires(server: str) -> frozenset[Wire]:
    """The forms that a server understands."""
    if server != OURS:
        return _PEER_WIRES[server]
    ours: frozenset[Wire] = frozenset({"json", "bin"})
    return ours | {"grpc"} if _has("--grpc-port") else ours


def why_not(server: str, wire: Wire, workers: int) -> str | None:
    """Why a server cannot be asked so; None where it can."""
    if wire not in wires(server):
        return f"{server} does not understand {wire}"
    if server == OURS and workers > 1 and not _has("--workers"):
        return "mlaas4hep serve has no --workers"
    return None


@contextmanager
def running(server: str, network: Network, *, workers: int, folder: Path) -> Iterator[Running]:
    """Start a server in a session of its own and wait until it answers rightly; its words go into a file of ``folder``.

    Raises
    ------
    Unavailable
        Its environment cannot be made, it does not start, or its answer is wrong.
    """
    ports = _free_ports(3)
    command, more = _command(server, network, ports, workers=workers, folder=folder)
    log = folder / f"serving-{server}.log"
    with log.open("wb") as words:
        process = subprocess.Popen(
            command, stdout=words, stderr=subprocess.STDOUT, env=os.environ | more, start_new_session=True
        )
        try:
            found = Running(process.pid, f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")
            _wait(process, found, network, log, grpc="grpc" in wires(server))
            yield found
        finally:
            _stop(process)


def _command(
    server: str, network: Network, ports: list[int], *, workers: int, folder: Path
) -> tuple[list[str], dict[str, str]]:
    """The command line, and what it wants in its environment."""
    if server == OURS:
        options = ["--port", str(ports[0])]
        options += ["--workers", str(workers)] if _has("--workers") else []
        options += ["--grpc-port", str(ports[1])] if _has("--grpc-port") else []
        return [sys.executable, "-m", "mlaas4hep", "serve", str(network.home), *options], {}
    python = environments.interpreter(server, folder)
    order = {"name": network.name, "path": str(network.path), "input": network.input, "output": network.output}
    numbers = dict(zip(("http", "grpc", "metrics"), ports, strict=True))
    script = Path(environments.__file__).with_name(f"serve_{server}.py")
    command = [str(python), str(script), json.dumps(order | numbers | {"shape": network.shape, "workers": workers})]
    # Its programs (mlserver) are found by name, and its modules by processes that it starts.
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    return command, {"PATH": path, "PYTHONPATH": str(script.parent)}


@cache
def _has(option: str) -> bool:
    """Whether ``mlaas4hep serve`` knows an option."""
    command = [sys.executable, "-m", "mlaas4hep", "serve", "--help"]
    return option in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _wait(process: subprocess.Popen[bytes], found: Running, network: Network, log: Path, *, grpc: bool) -> None:
    """Until one row is answered over HTTP, and rightly; and until the port of gRPC is open."""
    rows = network.rows(1)
    asked, end, last = question(network, "json", rows), time.monotonic() + START_S, "no answer"
    while time.monotonic() < end:
        if process.poll() is not None:
            raise Unavailable(f"{log}: it ended with exit code {process.returncode}")
        try:
            scores, _ = ask(found.http, network, "json", asked)
            if grpc:
                place, _, port = found.grpc.partition(":")
                socket.create_connection((place, int(port)), 5).close()
        except (OSError, Unavailable) as error:
            last = str(error)  # it is up before its model is
            time.sleep(0.1)
            continue
        check(scores, network.answer(rows))
        return
    raise Unavailable(f"{log}: it did not answer within {START_S} s: {last}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the first process to end, then make all of them."""
    every = tree(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    for pid in {*every, *tree(process.pid)}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _free_ports(count: int) -> list[int]:
    """Free ones at this moment; all are held until the last is found, so that they differ."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports
