"""Load: wrk for HTTP and h2load for gRPC, with a body that was made before, and what they say.

Invariant: a load in which one request failed gives no figure; it raises `Unavailable`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.turns import Unavailable

PACKAGES = {"wrk": "wrk", "h2load": "nghttp2-client"}
"""By program, the Debian package that has it."""
STREAMS = 8
"""Calls at once on one connection of gRPC."""
_LUA = """
wrk.method = "POST"
local file = io.open({body}, "rb")
wrk.body = file:read("*a")
file:close()
{headers}
function done(summary, latency, requests)
  local e = summary.errors
  local failed = e.connect + e.read + e.write + e.timeout + e.status
  local line = 'load {{"requests": %d, "microseconds": %d, "failed": %d, "p50_us": %d, "p99_us": %d}}'
  print(line:format(summary.requests, summary.duration, failed, latency:percentile(50), latency:percentile(99)))
end
"""
_UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6}


@dataclass(frozen=True)
class Load:
    """What was seen: requests in seconds, and times of single ones in microseconds where the program tells."""

    requests: int
    seconds: float
    p50_us: float | None = None
    p99_us: float | None = None
    body_bytes: int | None = None

    @property
    def rps(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def program(name: str) -> str:
    """Path of a load generator. Raises Unavailable with the package that has it."""
    found = shutil.which(name)
    if found is None:
        raise Unavailable(f"{name} is not installed; Debian has it: apt-get install {PACKAGES[name]}")
    return found


def lua_script(body: Path, headers: dict[str, str]) -> str:
    """What wrk is told to send."""
    lines = [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items()]
    return _LUA.format(body=json.dumps(str(body)), headers="\n".join(lines))


def wrk(url: str, script: Path, *, connections: int, seconds: float) -> Load:
    """Ask over so many connections, each as soon as it was answered. Raises Unavailable."""
    # wrk counts whole seconds; what is asked for in less is rounded up.
    length = f"{max(1, round(seconds))}s"
    command = [program("wrk"), "-t1", f"-c{connections}", f"-d{length}", "--timeout", "10s", "-s", str(script), url]
    return read_wrk(_output(command, limit_s=seconds + 30))


def h2load(address: str, path: str, body: Path, *, connections: int, seconds: float) -> Load:
    """Call over HTTP/2, up to `STREAMS` calls at once on a connection. Raises Unavailable."""
    lines = max(1, connections // STREAMS)
    streams = connections // lines
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers", "-d", str(body)]
    length = ["-D", str(max(1, round(seconds)))]
    command = [program("h2load"), "-t1", f"-c{lines}", f"-m{streams}", *length, *headers, f"http://{address}{path}"]
    return read_h2load(_output(command, limit_s=seconds + 30))


def read_wrk(text: str) -> Load:
    """The line that the script prints at the end. Raises Unavailable."""
    line = next((line for line in text.splitlines() if line.startswith("load ")), None)
    if line is None:
        raise Unavailable(f"wrk did not say what it saw: {text.strip()[-200:]}")
    seen = json.loads(line.removeprefix("load "))
    if seen["failed"] or not seen["requests"]:
        raise Unavailable(f"{seen['failed']} of {seen['requests']} requests failed")
    return Load(seen["requests"], seen["microseconds"] / 1e6, float(seen["p50_us"]), float(seen["p99_us"]))


def read_h2load(text: str) -> Load:
    """The summary. Raises Unavailable.

    Percentiles are none of it. A call that failed is a good answer to HTTP/2, so ``body_bytes``, of all answers
    together, is what tells whether all were answered.
    """
    finished = re.search(r"finished in ([\d.]+)(us|ms|s), ([\d.]+) req/s", text)
    counted = re.search(r"requests: .*?(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
    traffic = re.search(r"traffic: .*\((\d+)\) data", text)
    if not (finished and counted and traffic):
        raise Unavailable(f"h2load did not say what it saw: {text.strip()[-200:]}")
    succeeded, *lost = (int(one) for one in counted.groups())
    if sum(lost) or not succeeded:
        raise Unavailable(f"{sum(lost)} of {succeeded + sum(lost)} calls failed")
    seconds = float(finished[1]) * _UNITS[finished[2]] / 1e6
    return Load(succeeded, seconds, body_bytes=int(traffic[1]))


def _output(command: list[str], *, limit_s: float) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    if done.returncode != 0:
        raise Unavailable(f"{Path(command[0]).name}: exit code {done.returncode}: {done.stderr.strip()[-200:]}")
    return done.stdout
