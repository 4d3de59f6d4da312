"""Sends changed questions to a server of ours over HTTP and gRPC and says what became of it.

``python -m benchmarks.fuzz --json [--seconds 600] [--seed 0]`` starts ``mlaas4hep serve`` on loopback in a process of
its own. Keys: ``sent``, ``statuses`` and ``rpc`` (of gRPC, and ``goaway N`` for connections that were ended),
``late`` (503 with Retry-After, since a question gave less time than a run takes: changed ones give a microsecond),
``checks`` (good questions between, and ``wrong`` ones of them), ``failures`` (any other 5xx and statuses of gRPC that
mean a mistake of ours, each with the bytes that were sent), ``tracebacks`` in the log, ``hangs`` (connections that the
server did not end within 10 s of our end), ``log_controls`` (control characters in the access log), own memory, sockets
and threads before and after, and ``kb_1000``: kB that stay for 1,000 questions, over the second half. Its own status is
1 where anything but refusals was found, or memory grew.

With ``--replay FILE`` (lines of base64) each message is sent once.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.mutated import Seed, mutated, mutated_rpc, seeds_of
from mlaas4hep.serve.oip import message as message_class

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden" / "bundle_v1"
LINES, HANG_S, QUIET_S = 16, 10.0, 0.03
# A question of which something is kept leaves 100 bytes at least. Shorter runs see only how caches fill.
MOST_KB_1000, SETTLED_S = 20.0, 300.0
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) [^\r]*\r\n((?:[^\r\n]+\r\n)*)")
_RPC_STATUS = re.compile(rb"\x0bgrpc-status([\x01\x02])(\d{1,2})")
_LATE = re.compile(rb"s that are left|its deadline, or the time")
_INTERNAL = frozenset({2, 13})
_MOST_KEPT = 20
# Looks at the memory over the second half, through which a line is drawn.
_SAMPLES = 40


@dataclass
class Found:
    """What came of it."""

    sent: int = 0
    checks: int = 0
    wrong: int = 0
    late: int = 0
    hangs: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    rpc: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, str]] = field(default_factory=list)

    def fail(self, what: str, sent: bytes) -> None:
        """Keep what was sent."""
        if len(self.failures) < _MOST_KEPT:
            self.failures.append({"what": what, "sent": base64.b64encode(sent).decode()})


class Fuzz:
    """Changed questions to one server.

    Parameters
    ----------
    host, port, rpc_port
        Where it is; ``rpc_port`` 0 leaves gRPC out.
    seed
        Of all that is sent.
    """

    def __init__(self, host: str, port: int, rpc_port: int = 0, *, seed: int = 0) -> None:
        self.random = Random(seed)
        self.found = Found()
        self._http, self._grpc = (host, port), (host, rpc_port)
        tfaas = any(line.endswith(" /json") for line in self._get("/")["routes"])
        self.seeds = seeds_of(self._get, tfaas=tfaas)
        self.messages = [_rpc_message(one, self._get) for one in self.seeds if one.head_length is not None]
        # A model with lists cannot be asked in the form of TFaaS, but what is near to that can.
        self._good = {one: answer for one in self.seeds if (answer := self._ask(one)).startswith(b"HTTP/1.1 200 ")}
        if not self._good:
            raise RuntimeError("no good question is answered")
        self._started = [socket.create_connection(self._http, timeout=HANG_S)]

    def run(self, seconds: float, *, most: int | None = None) -> Iterator[Found]:
        """Send for so long; gives what was found so far after each batch."""
        ends_s = time.monotonic() + seconds
        while time.monotonic() < ends_s and (most is None or self.found.sent < most):
            rpc = bool(self._grpc[1]) and self.random.random() < 0.25
            if rpc:
                batch = [mutated_rpc(self.random, self.messages) for _ in range(LINES)]
            else:
                batch = [mutated(self.random, self.seeds) for _ in range(LINES)]
            self.send(batch, rpc=rpc)
            self.check()
            yield self.found

    def send(self, batch: list[bytes], *, rpc: bool = False) -> None:
        """Each message on a connection of its own, all at a time."""
        for message, answer in zip(batch, exchange(self._grpc if rpc else self._http, batch), strict=True):
            self.found.sent += 1
            if answer is None:
                self.found.hangs += 1
                self.found.fail("hang", message)
            elif rpc:
                self._count_rpc(message, answer)
            else:
                self._count(message, answer)

    def check(self) -> None:
        """A good question has the bytes of the beginning."""
        asked, expected = self.random.choice(list(self._good.items()))
        self.found.checks += 1
        if self._ask(asked) != expected:
            self.found.wrong += 1

    def close(self) -> None:
        """Let go of the connection that was open all the time."""
        for one in self._started:
            one.close()

    def _count(self, message: bytes, answer: bytes) -> None:
        for one in _STATUS.finditer(answer):
            status, headers = one.groups()
            self.found.statuses[int(status)] += 1
            body = answer[one.end() + 2 :].partition(b"\r\n")[0]
            if status == b"503" and b"retry-after" in headers and _LATE.search(body):
                self.found.late += 1
            elif int(status) >= 500:
                self.found.fail(status.decode(), message)

    def _count_rpc(self, message: bytes, answer: bytes) -> None:
        for size, text in _RPC_STATUS.findall(answer):
            code = int(text[: size[0]])
            self.found.rpc[str(code)] += 1
            if code in _INTERNAL:
                self.found.fail(f"rpc {code}", message)
        at = 0
        while at + 9 <= len(answer):
            length = int.from_bytes(answer[at : at + 3], "big")
            if answer[at + 3] == 7:
                self.found.rpc[f"goaway {int.from_bytes(answer[at + 13 : at + 17], 'big')}"] += 1
            at += 9 + length

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self._http[0]}:{self._http[1]}{path}", timeout=HANG_S) as answer:
            return json.loads(answer.read())

    def _ask(self, seed: Seed) -> bytes:
        (answer,) = exchange(self._http, [seed.message()])
        return answer or b""


def _rpc_message(seed: Seed, get: Any) -> bytes:
    """The question of binary tensors as gRPC has it."""
    head = json.loads(seed.body[: seed.head_length])
    found = message_class("ModelInferRequest")(model_name=seed.path.split("/")[3], id="seed")
    at = seed.head_length or 0
    for one in head["inputs"]:
        size = one["parameters"]["binary_data_size"]
        found.inputs.add(name=one["name"], datatype=one["datatype"], shape=one["shape"])
        found.raw_input_contents.append(seed.body[at : at + size])
        at += size
    return bytes(found.SerializeToString())


def exchange(address: tuple[str, int], batch: list[bytes]) -> list[bytes | None]:
    """What comes back of each message until the server hangs up; None where it does not, though we ended.

    Our side ends when nothing more has come for a moment: most changed questions are not whole.
    """
    answers: list[bytes | None] = [b""] * len(batch)
    with selectors.DefaultSelector() as selector:
        for number, message in enumerate(batch):
            line = socket.create_connection(address, timeout=HANG_S)
            with suppress(OSError):  # refused before it was whole
                line.sendall(message)
            line.setblocking(False)
            selector.register(line, selectors.EVENT_READ, number)
        ended, last_s = False, time.monotonic()
        while selector.get_map():
            ready = selector.select(QUIET_S)
            for key, _ in ready:
                _receive(selector, key, answers)
            now = time.monotonic()
            if ready:
                last_s = now
            elif not ended:
                ended, last_s = True, now
                for key in selector.get_map().values():
                    _end(key.fileobj)
            elif now - last_s > HANG_S:
                break
        for key in list(selector.get_map().values()):
            answers[key.data] = None
            key.fileobj.close()  # type: ignore[union-attr]
    return answers


def _receive(selector: selectors.BaseSelector, key: selectors.SelectorKey, answers: list[bytes | None]) -> None:
    line: Any = key.fileobj
    try:
        part = line.recv(1 << 16)
    except OSError:
        part = b""
    if part:
        answers[key.data] = (answers[key.data] or b"") + part
    else:
        selector.unregister(line)
        line.close()


def _end(line: Any) -> None:
    with suppress(OSError):  # gone already
        line.shutdown(socket.SHUT_WR)


@dataclass(frozen=True)
class State:
    """Own memory in kB, open sockets and threads of a process.

    Pages of files are not counted: whether those are private depends on which other processes run at the moment.
    """

    own_kb: int
    sockets: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> State:
        """As they are now."""
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        lines = [line.split() for line in rollup.splitlines() if line.startswith(("Anonymous:", "Swap:"))]
        sockets = 0
        for one in Path(f"/proc/{pid}/fd").iterdir():
            try:
                sockets += str(one.readlink()).startswith("socket:")
            except OSError:
                continue  # closed meanwhile
        return cls(sum(int(line[1]) for line in lines), sockets, len(list(Path(f"/proc/{pid}/task").iterdir())))


@contextmanager
def serving(models: Path, log: Path) -> Iterator[tuple[int, int, int]]:
    """``mlaas4hep serve`` on free ports; gives process, port and port of gRPC."""
    command = [sys.executable, "-m", "mlaas4hep", "serve", str(models), "--port", "0"]
    command += ["--access-log", str(log.with_suffix(".jsonl"))]
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            words = process.stdout.readline() if process.stdout else ""
            port, rpc = re.search(r"http://[^:]+:(\d+)", words), re.search(r"gRPC on [^:]+:(\d+)", words)
            if port is None:
                raise RuntimeError(f"the server did not start: {words} {log.read_text()[-2000:]}")
            yield process.pid, int(port[1]), int(rpc[1]) if rpc else 0
        finally:
            process.terminate()
            try:
                process.wait(timeout=HANG_S + 30.0)
            finally:
                process.kill()
                if process.stdout:
                    process.stdout.close()


def measure(models: Path, *, seconds: float, seed: int, replay: list[bytes] | None = None) -> dict[str, Any]:
    """Start a server, send, and count."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with serving(models, log) as (pid, port, rpc_port):
            fuzz = Fuzz("127.0.0.1", port, rpc_port, seed=seed)
            before, began_s = State.of(pid), time.monotonic()
            samples: list[tuple[int, int]] = []
            if replay is not None:
                for one in replay:
                    fuzz.send([one], rpc=one.startswith(b"PRI"))
            for found in fuzz.run(seconds if replay is None else 0.0):
                if time.monotonic() - began_s > seconds * (0.5 + len(samples) / 2 / _SAMPLES):
                    samples.append((found.sent, State.of(pid).own_kb))
            fuzz.close()
            time.sleep(0.5)
            after, found = State.of(pid), fuzz.found
            process_s = time.monotonic() - began_s
        text = log.read_text(errors="replace")
        lines = log.with_suffix(".jsonl").read_bytes()
    return {
        "seed": seed,
        "seconds": round(process_s, 1),
        "sent": found.sent,
        "statuses": {str(status): count for status, count in sorted(found.statuses.items())},
        "rpc": dict(sorted(found.rpc.items())),
        "late": found.late,
        "checks": found.checks,
        "wrong": found.wrong,
        "hangs": found.hangs,
        "failures": found.failures,
        "tracebacks": text.count("Traceback"),
        "log_lines": len(text.splitlines()),
        "log_controls": sum(lines.count(bytes((one,))) for one in (*range(10), *range(11, 32), 127)),
        "kb_1000": growth(samples),
        "own_mb": [round(one.own_kb / 1e3, 1) for one in (before, after)],
        "sockets": [before.sockets, after.sockets],
        "threads": [before.threads, after.threads],
    }


def growth(samples: list[tuple[int, int]]) -> float | None:
    """KB for 1,000 questions, of pairs of questions sent and kB then; None of fewer than two.

    Of the slopes between all of them the one that three quarters exceed: who takes a large piece once or
    twice does not grow, though half of the slopes may lie across it.
    """
    slopes = sorted(1000 * (b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(samples, 2) if b[0] > a[0])
    return round(slopes[len(slopes) // 4], 2) if slopes else None


def is_well(found: dict[str, Any]) -> bool:
    """Whether nothing was found but refusals, and memory stayed."""
    bad = ("wrong", "hangs", "failures", "tracebacks", "log_controls")
    grew = found["seconds"] >= SETTLED_S and found["kb_1000"] is not None and found["kb_1000"] > MOST_KB_1000
    return not (grew or any(found[key] for key in bad)) and found["sockets"][1] <= found["sockets"][0]


def main() -> None:
    """Print the findings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="?", type=Path, default=GOLDEN, help="what is served")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", type=Path, help="messages to send instead, a line of base64 each")
    parser.add_argument("--json", action="store_true", help="one line")
    asked = parser.parse_args()
    replay = [base64.b64decode(line) for line in asked.replay.read_text().split()] if asked.replay else None
    found = measure(asked.models, seconds=asked.seconds, seed=asked.seed, replay=replay)
    print(json.dumps(found) if asked.json else "\n".join(f"{key:14} {value}" for key, value in found.items()))
    sys.exit(0 if is_well(found) else 1)


if __name__ == "__main__":
    main()
