"""Versions that come and go under load: ``python -m benchmarks.switching --json`` says, in one line, what clients saw.

A server with ``--control`` is asked over 64 connections that are kept, each with a row of its own, while version after
version is put into its folder, loaded, and the one before taken away. Every answer is held, to the bit, against what
the version that it names gives offline. Keys: ``switches``, ``asked``, ``failed`` (any status but 200, or a connection
that broke), ``wrong`` (other bits than those of the version it names), ``late`` (an older version answered a question
that was sent after its switch was confirmed), ``switch_p50_ms``, ``switch_max_ms``, ``rps``, ``p99_ms``.

Then, with nobody else asking, the model is unloaded, loaded and asked ``--cycles`` times: ``grown_bytes_cycle`` of
private memory of the server stay behind each. A tenth goes before, so that pools are full when counting begins.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.overload import place, served
from mlaas4hep.bundle import load_bundle
from tests.small_bundle import make_events, write_small_bundle

NAME, CONTENTS = "tth", 4
Tensors = Mapping[str, NDArray[np.float32]]


@dataclass
class Seen:
    """What clients saw."""

    asked: int = 0
    waited_s: list[float] = field(default_factory=list)
    failed: int = 0
    wrong: int = 0
    late: int = 0
    reasons: set[str] = field(default_factory=set)


class Versions:
    """Contents for any number of versions, and what each gives for each row."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.bundles = [write_small_bundle(folder / str(seed), name=NAME, seed=seed) for seed in range(CONTENTS)]
        self.tensors: Tensors = self.bundles[0].spec.preprocessor().run(make_events(4 * rows, seed=9), 4 * rows).inputs
        self.answers = [load_bundle(one.path).predict(self.tensors) for one in self.bundles]

    def put(self, home: Path, version: int) -> None:
        """Lay a version down, whole at once."""
        path = self.bundles[version % CONTENTS].path
        (home / NAME).mkdir(exist_ok=True)
        if not (home / NAME / "config.pbtxt").exists():
            shutil.copy(path.parent / "config.pbtxt", home / NAME)
        shutil.copytree(path, home / ".new")
        (home / ".new").rename(home / NAME / str(version))

    def is_right(self, version: str, row: int, scores: bytes) -> bool:
        """Whether that is the row's answer by that version, to the bit."""
        return version.isdecimal() and self.answers[int(version) % CONTENTS][row].tobytes() == scores


def question(tensors: Tensors, row: int, host: str) -> bytes:
    """A row in binary."""
    parts = {name: tensor[row : row + 1] for name, tensor in tensors.items()}
    inputs = [
        {"name": name, "shape": one.shape, "datatype": "FP32", "parameters": {"binary_data_size": one.nbytes}}
        for name, one in parts.items()
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    body = head + b"".join(one.tobytes() for one in parts.values())
    lines = [f"POST /v2/models/{NAME}/infer HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += ["Content-Type: application/octet-stream", f"Inference-Header-Content-Length: {len(head)}", "", ""]
    return "\r\n".join(lines).encode() + body


class Load:
    """Connections that ask, one question at a time each, until they are told to stop."""

    def __init__(self, address: str, versions: Versions, connections: int) -> None:
        self.seen, self.confirmed, self.stops = Seen(), 1, False
        self._address, self._versions, self._connections = address, versions, connections

    async def run(self) -> None:
        """All of them."""
        await asyncio.gather(*(self._ask(row) for row in range(self._connections)))

    async def _ask(self, row: int) -> None:
        seen, asked = self.seen, question(self._versions.tensors, row, self._address)
        reader, writer = await asyncio.open_connection(*place(self._address))
        while not self.stops:
            confirmed, began_s = self.confirmed, time.perf_counter()
            writer.write(asked)
            seen.asked += 1
            try:
                status, version, scores = await answer(reader)
            except (OSError, asyncio.IncompleteReadError) as error:
                seen.failed += 1
                seen.reasons.add(type(error).__name__)
                reader, writer = await asyncio.open_connection(*place(self._address))
                continue
            seen.waited_s.append(time.perf_counter() - began_s)
            if status != 200:
                seen.failed += 1
                seen.reasons.add(f"{status} {scores[:200]!r}")
                continue
            seen.wrong += not self._versions.is_right(version, row, scores)
            seen.late += int(version) < confirmed
        writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, str, bytes]:
    """Status, version, and the bytes of the scores; of an error its text."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    body = await reader.readexactly(int(fields[b"content-length"]))
    status, length = int(head.split()[1]), int(fields.get(b"inference-header-content-length", b"0"))
    if status != 200 or not length:
        return status, "", body
    return status, json.loads(body[:length])["model_version"], body[length:]


def control(address: str, what: str) -> float:
    """Load or unload; gives the seconds that it took."""
    began_s = time.perf_counter()
    url = f"http://{address}/v2/repository/models/{NAME}/{what}"
    with urllib.request.urlopen(urllib.request.Request(url, data=b"{}", method="POST"), timeout=60) as told:
        told.read()
    return time.perf_counter() - began_s


async def switch(
    home: Path, address: str, versions: Versions, *, switches: int, every_s: float, connections: int
) -> tuple[Seen, list[float], float]:
    """Version after version, while all ask."""
    load, loop, took_s = Load(address, versions, connections), asyncio.get_running_loop(), []
    asking = asyncio.create_task(load.run())
    began_s = time.perf_counter()
    with ThreadPoolExecutor(1) as thread:
        for version in range(2, switches + 2):
            await asyncio.sleep(every_s)
            await loop.run_in_executor(thread, versions.put, home, version)
            took_s.append(await loop.run_in_executor(thread, control, address, "load"))
            load.confirmed = version
            await asyncio.sleep(every_s)
            await loop.run_in_executor(thread, shutil.rmtree, home / NAME / str(version - 1))
            await loop.run_in_executor(thread, control, address, "load")
    load.stops = True
    await asyncio.wait_for(asking, 60)
    return load.seen, took_s, time.perf_counter() - began_s


def cycle(address: str, versions: Versions, pid: int, cycles: int) -> dict[str, float]:
    """Unload, load, ask; what stays behind."""

    async def ask() -> int:
        reader, writer = await asyncio.open_connection(*place(address))
        writer.write(question(versions.tensors, 0, address))
        found = await answer(reader)
        writer.close()
        return found[0]

    def run(count: int) -> int:
        failed = 0
        for _ in range(count):
            control(address, "unload")
            control(address, "load")
            failed += asyncio.run(ask()) != 200
        return failed

    run(max(cycles // 10, 1))
    before, began_s = private_bytes(pid), time.perf_counter()
    failed = run(cycles)
    took_s, after = time.perf_counter() - began_s, private_bytes(pid)
    return {
        "cycles": cycles,
        "cycles_failed": failed,
        "grown_bytes_cycle": round((after - before) / cycles, 1),
        "cycle_ms": round(took_s / cycles * 1e3, 2),
        "private_mb": round(after / 1e6, 1),
    }


def private_bytes(pid: int) -> int:
    """Of a process, without pages of files: whether those are private depends on which other processes run."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Anonymous:", "Swap:")))


def figures(seen: Seen, took_s: Sequence[float], seconds: float) -> dict[str, Any]:
    """In short."""
    waited, took = sorted(seen.waited_s), sorted(took_s)
    return {
        "switches": len(took),
        "asked": seen.asked,
        "failed": seen.failed,
        "wrong": seen.wrong,
        "late": seen.late,
        "reasons": sorted(seen.reasons)[:5],
        "switch_p50_ms": round(took[len(took) // 2] * 1e3, 1),
        "switch_max_ms": round(took[-1] * 1e3, 1),
        "rps": round(len(waited) / seconds),
        "p99_ms": round(waited[int(0.99 * len(waited))] * 1e3, 2),
    }


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON line instead of a table.")
@click.option("--switches", default=50, show_default=True, help="Versions that come, and go.")
@click.option("--every-s", default=0.2, show_default=True, help="Between two changes.")
@click.option("--connections", default=64, show_default=True)
@click.option("--cycles", default=1000, show_default=True, help="Of unloading and loading; 0 for none.")
@click.option("--workers", default=1, show_default=True, help="Of the server; memory is that of one worker's alone.")
def main(*, as_json: bool, switches: int, every_s: float, connections: int, cycles: int, workers: int) -> None:
    """Switch versions of a model that is asked all the time."""
    with tempfile.TemporaryDirectory() as folder:
        home, versions = Path(folder) / "models", Versions(Path(folder) / "made", connections)
        home.mkdir()
        versions.put(home, 1)
        with served(home, "--control", "--workers", str(workers)) as (process, (address, _)):
            work = switch(home, address, versions, switches=switches, every_s=every_s, connections=connections)
            found = figures(*asyncio.run(work))
            if cycles and workers == 1:
                found |= cycle(address, versions, process.pid, cycles)
    found |= {"workers": workers, "cpus": len(os.sched_getaffinity(0)), "load_average": os.getloadavg()}
    if as_json:
        click.echo(json.dumps(found))
        return
    for key, value in found.items():
        click.echo(f"{key:20} {value}")


if __name__ == "__main__":
    main()
