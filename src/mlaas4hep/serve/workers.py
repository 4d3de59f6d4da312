"""Several processes on one port: started, watched, started again when they die, told what the first one is told.

The one that watches is small: it answers nothing and loads nothing, so it can be forked at any time. Invariant: while
it lives there are as many workers as were asked for, or one is about to start again; when it ends, none is left.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

# After a worker died young, the next one waits, longer each time; one that lived for a while has forgiven.
FIRST_WAIT_S, LONGEST_WAIT_S, HEALTHY_S = 0.1, 30.0, 10.0
# How often it is looked whether workers do anything, and after how many looks that one does nothing it is killed. Looks
# are counted, not seconds: where the whole machine stood still, nobody is to blame.
LOOK_S, STILL = 1.0, 60
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker knows of itself.

    Parameters
    ----------
    number, workers
        From 0; that of a successor is the same. And how many there are.
    folder
        Where the workers lay their counts, and talk to each other.
    tell
        Called once with the words for who waits for the server, when this worker answers.
    """

    number: int
    workers: int
    folder: Path
    tell: Callable[[str], None]

    def beat(self) -> None:
        """Say that this worker does something; it is killed when it has not for long."""
        os.utime(_beat_file(self.folder, self.number))


@dataclass(slots=True)
class _Child:
    number: int
    pid: int = 0
    began_s: float = 0.0
    failures: int = 0
    starts_s: float | None = 0.0  # when it is to start; None while it runs
    words: bytes = b""
    was_ready: bool = False
    told: int = -1  # pipe that it tells with, -1 once it was read
    beat_ns: int = 0
    still: int = 0  # how often in a row it was seen to do nothing


@dataclass(slots=True)
class _Watch:
    """What the watching process holds."""

    children: list[_Child]
    folder: Path
    on_ready: Callable[[str], None]
    limit_s: float
    selector: selectors.DefaultSelector = field(default_factory=selectors.DefaultSelector)
    wakes: tuple[int, int] = (-1, -1)
    alive: tuple[int, int] = (-1, -1)
    announced: bool = False
    looked_s: float = 0.0


def start_workers(workers: int, *, on_ready: Callable[[str], None], limit_s: float) -> Worker | int:
    """Fork workers and watch them. Returns in each worker what it is, and in the first process its exit status.

    Parameters
    ----------
    workers
        How many.
    on_ready
        Called with the words of the first, when all answer.
    limit_s
        How long a worker may take to end; then it is killed.
    """
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="mlaas4hep-", dir=place))
    watch = _Watch([_Child(number) for number in range(workers)], folder, on_ready, limit_s)
    watch.wakes, watch.alive = os.pipe(), os.pipe()
    os.set_blocking(watch.wakes[0], False)
    os.set_blocking(watch.wakes[1], False)
    before = {sign: signal.signal(sign, _hear) for sign in _SIGNALS}
    signal.set_wakeup_fd(watch.wakes[1], warn_on_full_buffer=False)
    watch.selector.register(watch.wakes[0], selectors.EVENT_READ)
    found = _watch(watch)
    if isinstance(found, Worker):
        return found
    signal.set_wakeup_fd(-1)
    for sign, handler in before.items():
        signal.signal(sign, handler)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _watch(watch: _Watch) -> Worker | int:
    while True:
        for child in watch.children:
            if child.starts_s is not None and time.monotonic() >= child.starts_s:
                worker = _start(watch, child)
                if worker is not None:
                    return worker
        status = _turn(watch)
        if status is not None:
            return status


def _turn(watch: _Watch) -> int | None:
    """Wait for something, and act on it; a status when all is to end."""
    starts = [child.starts_s for child in watch.children if child.starts_s is not None]
    timeout = max(min([*starts, watch.looked_s + LOOK_S]) - time.monotonic(), 0.0)
    signs: set[int] = set()
    for key, _ in watch.selector.select(timeout):
        if key.fd == watch.wakes[0]:
            signs |= set(_drain(watch.wakes[0]))
        else:
            _hear_words(watch, key.data)
    if signal.SIGHUP in signs:
        _pass_on(watch, signal.SIGHUP)
    _look(watch)
    status = _bury(watch)
    if status is None and signs & {signal.SIGTERM, signal.SIGINT}:
        status = 0
    if status is not None:
        _end(watch)
    return status


def _start(watch: _Watch, child: _Child) -> Worker | None:
    """Fork; gives the worker in the new process, None in this one."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child.starts_s, child.began_s, child.words, child.still = None, time.monotonic(), b"", 0
    _beat_file(watch.folder, child.number).touch()
    child.pid = os.fork()
    if child.pid == 0:
        os.close(reading)
        _become_worker(watch)
        return Worker(child.number, len(watch.children), watch.folder, lambda words: _tell(writing, words))
    os.close(writing)
    child.told = reading
    watch.selector.register(reading, selectors.EVENT_READ, child)
    return None


def _become_worker(watch: _Watch) -> None:
    """Let go what is the watching process's, and end when it does."""
    signal.set_wakeup_fd(-1)
    for sign in _SIGNALS:
        signal.signal(sign, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to be opened anew
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; who watches passes it on as SIGTERM
    for other in watch.children:
        if other.told >= 0:
            os.close(other.told)
    watch.selector.close()
    for end in (*watch.wakes, watch.alive[1]):
        os.close(end)

    def follow() -> None:
        os.read(watch.alive[0], 1)  # nothing is ever written: this ends when the other side does
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="mlaas4hep-parent", daemon=True).start()


def _tell(pipe: int, words: str) -> None:
    with os.fdopen(pipe, "wb") as told:
        told.write(words.encode() or b" ")


def _hear_words(watch: _Watch, child: _Child) -> None:
    found = os.read(child.told, 65_536)
    child.words += found
    if found:
        return
    _close_pipe(watch, child)
    child.was_ready = child.was_ready or bool(child.words)
    if child.words and not watch.announced and all(one.was_ready for one in watch.children):
        watch.announced = True
        watch.on_ready(watch.children[0].words.decode())


def _close_pipe(watch: _Watch, child: _Child) -> None:
    if child.told >= 0:
        watch.selector.unregister(child.told)
        os.close(child.told)
        child.told = -1


def _bury(watch: _Watch) -> int | None:
    """Take note of who died, and when its successor starts; a status where the server cannot start at all."""
    for child in watch.children:
        if child.starts_s is not None:
            continue
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid == 0:
            continue
        while child.told >= 0:
            _hear_words(watch, child)
        code = os.waitstatus_to_exitcode(status)
        if not watch.announced and not child.was_ready:
            child.starts_s = float("inf")
            return code if code > 0 else 1  # it has said why
        _put_off(child, code)
    return None


def _look(watch: _Watch) -> None:
    """Kill who answers no more without being dead: connections would go there for ever."""
    now = time.monotonic()
    if now < watch.looked_s + LOOK_S:
        return
    watch.looked_s = now
    for child in watch.children:
        if child.starts_s is not None or not child.words:
            continue  # it is starting, which may take long
        beat_ns = _beat_file(watch.folder, child.number).stat().st_mtime_ns
        child.still = 0 if beat_ns != child.beat_ns else child.still + 1
        child.beat_ns = beat_ns
        if child.still >= STILL:
            sys.stderr.write(f"worker {child.number} (process {child.pid}) did nothing for {STILL * LOOK_S:g} s\n")
            child.still = 0
            os.kill(child.pid, signal.SIGKILL)


def _beat_file(folder: Path, number: int) -> Path:
    return folder / f"beat-{number}"


def _put_off(child: _Child, code: int) -> None:
    now = time.monotonic()
    child.failures = 0 if now - child.began_s >= HEALTHY_S else child.failures + 1
    wait_s = min(FIRST_WAIT_S * 2 ** max(child.failures - 1, 0), LONGEST_WAIT_S)
    child.starts_s = now + wait_s
    why = f"by signal {-code}" if code < 0 else f"with status {code}"
    sys.stderr.write(f"worker {child.number} (process {child.pid}) ended {why}; it starts again in {wait_s:g} s\n")


def _pass_on(watch: _Watch, sign: int) -> None:
    for child in watch.children:
        if child.starts_s is None:
            os.kill(child.pid, sign)


def _end(watch: _Watch) -> None:
    """Let all finish what they took; who takes too long is killed. A further signal is passed on."""
    _pass_on(watch, signal.SIGTERM)
    ends_s = time.monotonic() + watch.limit_s
    running = [child for child in watch.children if child.starts_s is None]
    while running:
        if watch.selector.select(0.05) and {signal.SIGTERM, signal.SIGINT} & set(_drain(watch.wakes[0])):
            _pass_on(watch, signal.SIGTERM)
        if time.monotonic() > ends_s:
            _pass_on(watch, signal.SIGKILL)
        for child in running:
            if os.waitpid(child.pid, os.WNOHANG) != (0, 0):
                child.starts_s = float("inf")
                _close_pipe(watch, child)
        running = [child for child in watch.children if child.starts_s is None]


def _drain(pipe: int) -> bytes:
    try:
        return os.read(pipe, 4096)
    except BlockingIOError:  # it was another pipe that woke us
        return b""


def _hear(sign: int, frame: object) -> None:
    """Signals are read from the pipe; without a handler they would end this process."""
