"""The stream over a long, narrow line beside curl over the same line.

``python -m benchmarks.remote --rtt-ms 50 --mb-per-s 40 --json [--protocol http|xrootd] [--fail 0.01]`` serves the
benchmark file on loopback behind `benchmarks.throttle` and prints ``ceiling_mbs`` (the whole file by curl over a line
of the same settings), ``stream_mbs`` (bytes of all columns in the file, by the time of an epoch; files are opened
outside, ``open_s`` says how long that takes), their ratio, and whether the stream is bit for bit that of the local
file. With ``--fail`` a share of requests fails: 503, reset and short over HTTP, cut connections over XRootD; the
ceiling is measured without. Every part has a time limit, so that a hang is an answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click
import uproot

from benchmarks.apart import apart
from benchmarks.declared import dataset, fingerprint, read_epoch
from benchmarks.events import CODECS, NARROW, TREE, events_file
from benchmarks.turns import Unavailable

START_S = 30
LIMIT_S = 300


@dataclass
class Helper:
    """A server in a process of its own; ``port`` while it runs, ``counts`` once it has ended."""

    port: int
    counts: dict[str, int] = field(default_factory=dict)


@contextlib.contextmanager
def helper(module: str, *arguments: str) -> Iterator[Helper]:
    """Run a module that prints its port, serves until its input is closed, and prints its counts."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            if not first:
                raise RuntimeError(f"{module} ended before it served: exit code {process.wait()}")
            running = Helper(json.loads(first)["port"])
            yield running
            process.stdin.close()
            running.counts = json.loads(process.stdout.readline())
        finally:
            process.kill()


@contextlib.contextmanager
def line(to_port: int, *, rtt_ms: float, mb_per_s: float, reset: float = 0.0) -> Iterator[Helper]:
    """The throttle in front of a port."""
    settings = ["--to", to_port, "--rtt-ms", rtt_ms, "--mb-per-s", mb_per_s, "--reset", reset]
    with helper("benchmarks.throttle", *map(str, settings)) as running:
        yield running


@contextlib.contextmanager
def xrootd(path: Path) -> Iterator[tuple[int, str]]:
    """XRootD over one file; gives its port and the file's path there.

    Raises
    ------
    Unavailable
        It is not installed.
    """
    program = shutil.which("xrootd")
    if program is None:
        raise Unavailable("the program xrootd is not installed")
    with tempfile.TemporaryDirectory(prefix="mlaas4hep-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # it does not run as root, and must read
        shutil.copyfile(path, folder / path.name)
        own = folder / "server"
        own.mkdir(mode=0o777)
        own.chmod(0o777)
        port = _free_port()
        settings = ["all.export " + str(folder), f"xrd.port {port}", "xrd.network nodnr", f"all.adminpath {own}"]
        (folder / "xrootd.cfg").write_text("\n".join([*settings, f"all.pidpath {own}"]) + "\n", encoding="utf-8")
        user = ["-R", "nobody"] if os.getuid() == 0 else []
        command = [program, *user, "-c", str(folder / "xrootd.cfg"), "-n", "bench", "-l", str(own / "log")]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=own) as process:
            try:
                _wait_for(port, process)
                yield port, str(folder / path.name)
            finally:
                process.terminate()


@contextlib.contextmanager
def served(path: Path, protocol: str, *, rtt_ms: float, mb_per_s: float, fail: float) -> Iterator[tuple[str, Any]]:
    """A file behind the line: its URL, and a function that gives the counts once the block has ended."""
    counts: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        if protocol == "http":
            server = stack.enter_context(helper("benchmarks.fileserver", *_options(path, fail)))
            way = stack.enter_context(line(server.port, rtt_ms=rtt_ms, mb_per_s=mb_per_s))
            yield f"http://127.0.0.1:{way.port}/{path.name}", counts
        else:
            port, there = stack.enter_context(xrootd(path))
            server = way = stack.enter_context(line(port, rtt_ms=rtt_ms, mb_per_s=mb_per_s, reset=fail))
            yield f"root://127.0.0.1:{way.port}/{there}", counts
    counts.update(server.counts)


def ceiling_mbs(path: Path, *, rtt_ms: float, mb_per_s: float, repeats: int) -> list[float]:
    """The whole file by curl, in MB a second; once for each repetition."""
    with served(path, "http", rtt_ms=rtt_ms, mb_per_s=mb_per_s, fail=0.0) as (url, _):
        return [_curl(url, path.stat().st_size) for _ in range(repeats)]


def stream_seconds(url: str, local: str, *, threads: int, epochs: int) -> tuple[float, list[float]]:
    """Seconds of opening, and of each shuffled epoch over the line; the local file warms up what is compiled."""
    read_epoch(dataset([local], NARROW, shuffle=True, threads=threads), 0)
    begin = time.perf_counter()
    stream = dataset([url], NARROW, shuffle=True, threads=threads)
    opened = time.perf_counter()
    seconds = []
    for epoch in range(epochs):
        begin_epoch = time.perf_counter()
        events = read_epoch(stream, epoch)
        if events != NARROW.events:
            raise Unavailable(f"the stream gave {events} events of {NARROW.events}")
        seconds.append(time.perf_counter() - begin_epoch)
    return opened - begin, seconds


def identical(url: str, local: str, *, threads: int) -> bool:
    """Whether a shuffled epoch over the line is that of the local file, by SHA-256."""
    there, here = (fingerprint(dataset([one], NARROW, shuffle=True, threads=threads), 1) for one in (url, local))
    return there == here


def bytes_needed(path: Path) -> int:
    """What the branches of the stream take in the file, without their counters."""
    with uproot.open(path) as file:
        return sum(int(file[TREE][name].member("fBasketBytes").sum()) for name in NARROW.branches)


def _options(path: Path, fail: float) -> list[str]:
    return ["--folder", str(path.parent), "--fail", str(fail)]


def _curl(url: str, size: int) -> float:
    program = shutil.which("curl")
    if program is None:
        raise Unavailable("the program curl is not installed")
    command = [program, "--silent", "--fail", "--output", os.devnull, "--write-out", "%{size_download} %{time_total}"]
    done = subprocess.run([*command, url], capture_output=True, text=True, timeout=LIMIT_S, check=True)
    got, seconds = (float(one) for one in done.stdout.split())
    if got != size:
        raise Unavailable(f"curl got {got:.0f} bytes of {size}")
    return size / seconds / 1e6


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise Unavailable(f"xrootd does not answer within {START_S} s (exit code {process.poll()})")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON line instead of a table.")
@click.option("--rtt-ms", default=50.0, show_default=True, help="A round trip.")
@click.option("--mb-per-s", default=40.0, show_default=True, help="Bandwidth each way, 10^6 bytes a second.")
@click.option("--protocol", type=click.Choice(["http", "xrootd"]), default="http", show_default=True)
@click.option("--codec", type=click.Choice(list(CODECS)), default="zlib", show_default=True, help="Of the file.")
@click.option("--fail", default=0.0, show_default=True, help="Share of requests that fail.")
@click.option("--threads", default=2, show_default=True, help="Threads that read ahead.")
@click.option("--repeats", default=3, show_default=True, help="Epochs, and downloads by curl; the median counts.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(".bench"), show_default=True)
def main(
    *,
    as_json: bool,
    rtt_ms: float,
    mb_per_s: float,
    protocol: str,
    codec: str,
    fail: float,
    threads: int,
    repeats: int,
    folder: Path,
) -> None:
    """Measure the stream over a line of a given round trip and bandwidth."""
    path = events_file(folder.absolute(), NARROW, codec=codec)
    ceiling = median(ceiling_mbs(path, rtt_ms=rtt_ms, mb_per_s=mb_per_s, repeats=repeats))
    with served(path, protocol, rtt_ms=rtt_ms, mb_per_s=mb_per_s, fail=fail) as (url, counts):
        open_s, seconds = apart(LIMIT_S, stream_seconds, url, str(path), threads=threads, epochs=repeats)
        same = apart(LIMIT_S, identical, url, str(path), threads=threads)
    needed = bytes_needed(path)
    stream_mbs = needed / median(seconds) / 1e6
    figures: dict[str, Any] = {
        "ceiling_mbs": round(ceiling, 2),
        "stream_mbs": round(stream_mbs, 2),
        "ratio": round(stream_mbs / ceiling, 3),
        "identical": same,
        "open_s": round(open_s, 3),
        "epoch_s": [round(one, 3) for one in seconds],
        "megabytes": round(needed / 1e6, 1),
        "protocol": protocol,
        "codec": codec,
        "rtt_ms": rtt_ms,
        "mb_per_s": mb_per_s,
        "fail": fail,
        "counts": counts,
        "threads": threads,
        "load_average": [round(one, 2) for one in os.getloadavg()],
    }
    if as_json:
        click.echo(json.dumps(figures))
        return
    for name, value in figures.items():
        click.echo(f"{name:14} {value}")


if __name__ == "__main__":
    main()
