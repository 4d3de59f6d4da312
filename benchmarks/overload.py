"""More than a server can answer: ``python -m benchmarks.overload --json`` prints what becomes of it, in one line.

A server of its own on this machine is asked by `benchmarks.openloop`: first as fast as it answers, which gives its peak
(the best of some depths), then by the clock at twice that, then as fast as it answers again: a machine may be slower a
minute later, so ``peak_rps`` is the mean of before and after. ``p99_ms`` is the waiting of right answers from when a
request was due; it is to be no longer than ``bound_ms``, which the server is started with (``--queue-s``). All others
are to be refused with 503 and ``Retry-After``. ``goodput`` is right answers a second against the peak. With ``--kill``
one of two workers is killed under half of the peak: right answers, wrong ones, those that broke off, and how long it
took until there were two again.

Models: the network of `benchmarks.serving`, one row of JSON; ResNet-50 of 64 x 64, one picture in binary.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click

from benchmarks.openloop import Lines, Seen
from benchmarks.serving.networks import Network, mlp, resnet
from benchmarks.serving.processes import cpu_s
from benchmarks.serving.questions import Wire, ask, check, http_path, question

STOP_S, BACK_S = 30.0, 30.0


@dataclass(frozen=True)
class Case:
    """A model under load: where it is made, how it is asked, and what its server may take."""

    make: Callable[[Path], Network]
    wire: Wire
    connections: int
    depths: tuple[int, ...]
    bound_s: float
    wanted: float


CASES = {
    "mlp": Case(mlp, "json", 64, (1, 4, 16), 0.25, 0.4),
    "resnet64": Case(resnet, "bin", 16, (1,), 0.5, 0.9),
}


class Address(NamedTuple):
    """Host and port of a server."""

    http: str
    grpc: str


@contextmanager
def served(home: Path, *options: str, grpc: bool = False) -> Iterator[tuple[subprocess.Popen[str], Address]]:
    """A server that leads its own processes, and where it answers."""
    command = [sys.executable, "-m", "mlaas4hep", "serve", str(home), "--port", "0", "--json", *options]
    command += [] if grpc else ["--no-grpc"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise click.ClickException(f"the server did not start: {' '.join(command)}")
        told = json.loads(line)
        yield process, Address(urlsplit(told["url"]).netloc, told["grpc"] or "")
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def pairs(address: str, network: Network, case: Case) -> list[tuple[bytes, bytes | None]]:
    """A request a connection, each with a row of its own; right answers are those of onnxruntime in this process."""
    rows = network.rows(case.connections)
    found: list[tuple[bytes, bytes | None]] = []
    for number in range(case.connections):
        row = rows[number : number + 1]
        asked = question(network, case.wire, row)
        scores, _ = ask(address, network, case.wire, asked)
        check(scores, network.answer(row))
        lines = [f"POST {http_path(network)} HTTP/1.1", f"Host: {address}", f"Content-Length: {len(asked.body)}"]
        head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in asked.headers.items()), "", ""])
        found.append((head.encode() + asked.body, None))
    return found


def place(address: str) -> tuple[str, int]:
    """Host and port."""
    host, _, port = address.rpartition(":")
    return host, int(port)


def overload(network: Network, case: Case, *, seconds: float, peak_s: float, bound_s: float) -> dict[str, Any]:
    """Peak, then twice as much."""
    with served(network.home, "--queue-s", str(bound_s)) as (process, (address, _)):
        asked = pairs(address, network, case)
        peaks = {}
        for depth in case.depths:
            with Lines(place(address), asked) as lines:
                peaks[depth] = lines.in_turn(depth, peak_s).rps
        best, before = max(peaks, key=peaks.__getitem__), cpu_s(process.pid)
        with Lines(place(address), asked) as lines:
            lines.by_clock(
                peaks[best] / 10, 0.5, wait_s=5
            )  # each connection learns what is right while nothing is wrong
            seen = lines.by_clock(2 * peaks[best], seconds, wait_s=bound_s * 4 + 2)
        used = cpu_s(process.pid) - before
        with Lines(place(address), asked) as lines:
            after = lines.in_turn(best, peak_s).rps
    return figures(seen, peak=(peaks[best] + after) / 2, bound_s=bound_s, case=case) | {
        "peaks_rps": {str(depth): round(rps) for depth, rps in peaks.items()},
        "peak_after_rps": round(after),
        "server_cpus": round(used / seen.seconds, 2),
    }


def figures(seen: Seen, *, peak: float, bound_s: float, case: Case) -> dict[str, Any]:
    """What was seen, and whether it is what is wanted."""
    others = {"wrong": seen.wrong, "bare": seen.bare, "open": seen.open, "statuses": seen.statuses}
    p99_ms, share = seen.waited_ms(0.99), seen.rps / peak
    met = share >= case.wanted and p99_ms <= bound_s * 1e3 and not any(others.values())
    return {
        "peak_rps": round(peak),
        "offered_rps": round(seen.asked / seen.seconds),
        "goodput_rps": round(seen.rps),
        "goodput": round(share, 3),
        "p50_ms": round(seen.waited_ms(0.5), 2),
        "p99_ms": round(p99_ms, 2),
        "bound_ms": bound_s * 1e3,
        "refused": seen.refused,
        **others,
        "met": met,
        "generator_cpus": round(seen.cpu_s / seen.seconds, 2),
        "generator_late_ms": round(seen.late_s * 1e3, 1),
    }


def kill(network: Network, case: Case, *, seconds: float, peak_s: float) -> dict[str, Any]:
    """Kill one of two workers in the middle of half of the peak."""
    with served(network.home, "--workers", "2") as (process, (address, _)):
        asked = pairs(address, network, case)
        with Lines(place(address), asked) as lines:
            peak = lines.in_turn(1, peak_s).rps
        killing = _Killing(process.pid, address, at_s=seconds / 3)
        with Lines(place(address), asked, mends=True) as lines:
            lines.by_clock(peak / 10, 0.5, wait_s=5)
            seen = lines.by_clock(peak / 2, seconds, wait_s=10, on_tick=killing)
    return {
        "asked": seen.asked,
        "right": len(seen.waited_s),
        "wrong": seen.wrong,
        "broken": seen.broken,
        "refused": seen.refused,
        "open": seen.open,
        "statuses": seen.statuses,
        "back_after_s": killing.back_s and round(killing.back_s, 2),
        "met": not (seen.wrong or seen.open or seen.statuses) and killing.back_s is not None,
    }


class _Killing:
    """Kills a worker once, and waits until its successor counts."""

    def __init__(self, parent: int, address: str, *, at_s: float) -> None:
        self._file = Path(f"/proc/{parent}/task/{parent}/children")
        self._url = f"http://{address}/metrics"
        self._at_s = at_s
        self._began_s: float | None = None
        self.back_s: float | None = None

    def __call__(self, now_s: float) -> None:
        if self._began_s is None and now_s >= self._at_s:
            self._began_s = time.monotonic()
            os.kill(int(self._file.read_text().split()[0]), signal.SIGKILL)
            threading.Thread(target=self._watch, args=(self._began_s,), daemon=True).start()

    def _watch(self, began_s: float) -> None:
        while self.back_s is None and time.monotonic() < began_s + BACK_S:
            time.sleep(0.05)
            with suppress(OSError, http.client.HTTPException), urllib.request.urlopen(self._url, timeout=5) as answer:
                text = answer.read().decode()
                restarts = [line for line in text.splitlines() if line.startswith("mlaas4hep_worker_restarts_total{")]
                if any(not line.endswith(" 0") for line in restarts):
                    self.back_s = time.monotonic() - began_s


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON line instead of a table.")
@click.option("--models", default=",".join(CASES), show_default=True, help="Which, with commas between.")
@click.option("--seconds", default=60.0, show_default=True, help="Of each overload.")
@click.option("--peak-seconds", default=5.0, show_default=True, help="Of each depth that the peak is looked for in.")
@click.option("--bound-s", type=float, help="The longest that an answer may take.  [default: by model]")
@click.option("--kill", "kills", is_flag=True, help="Kill one of two workers under load instead.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(".bench"), show_default=True)
def main(
    *,
    as_json: bool,
    models: str,
    seconds: float,
    peak_seconds: float,
    bound_s: float | None,
    kills: bool,
    folder: Path,
) -> None:
    """Ask a server for twice of what it can answer, or kill one of its workers."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped then, too
    begin = time.monotonic()
    found: dict[str, Any] = {}
    for name in models.split(","):
        if name not in CASES:
            raise click.BadParameter(f"no model '{name}'; there are {', '.join(CASES)}")
        case = CASES[name]
        network = case.make(folder.absolute() / "serving" / "models")
        if kills:
            some = kill(network, case, seconds=seconds, peak_s=peak_seconds)
        else:
            wait_s = bound_s or case.bound_s
            some = overload(network, case, seconds=seconds, peak_s=peak_seconds, bound_s=wait_s)
        found |= {f"{name}_{key}": value for key, value in some.items()}
    found |= {"seconds": seconds, "cpus": len(os.sched_getaffinity(0)), "load_average": os.getloadavg()}
    found["took_s"] = round(time.monotonic() - begin)
    if as_json:
        click.echo(json.dumps(found))
        return
    for key, value in found.items():
        click.echo(f"{key:28} {value}")


if __name__ == "__main__":
    main()
