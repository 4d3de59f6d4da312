"""Streams that end early: the consumer stops, raises, is interrupted or terminated. Nothing is left, nobody waits.

What a kill leaves is the matter of ``tests/acceptance/test_kill_stream.py``.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from benchmarks.damage.bases import NARROW, narrow
from benchmarks.damage.judge import config_of, dataset
from mlaas4hep.config import Cache
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.testing import write_events
from tests.examples import examples
from tests.fault_server import Faults, fault_server

LIMIT_S = 30.0
"""No claim of speed: longer than that is a hang, as a server that never answers would make it (a minute and more)."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("files")
    return [str(write_events(folder / f"{one}.root", narrow(4_000, seed=one), cluster=500)) for one in range(2)]


def opened(files: list[str], **settings: object) -> EventDataset:
    return dataset(config_of(files, NARROW, "stop"), **{"shuffle": True, "shuffle_window": 2_000, **settings})


def readers() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("mlaas4hep")]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_abandoned_iterators_leave_no_thread_and_no_open_file(files: list[str], tmp_path: Path) -> None:
    gc.collect()  # what other tests left behind
    before = open_files()
    for number in range(examples(50)):
        cache = Cache(path=str(tmp_path / "cache")) if number % 2 else None
        stream = opened(files, threads=number % 5, cache=cache)
        batches = stream.epoch(number)
        next(batches)
        if number % 3 == 0:
            batches.close()
        del batches, stream
    gc.collect()
    assert readers() == []
    assert open_files() == before


def test_a_consumer_that_stops_or_raises_in_the_middle_leaves_no_thread(files: list[str]) -> None:
    with opened(files, threads=4) as stream:
        with stream.epoch(0) as batches:
            next(batches)
        assert readers() == []
        with pytest.raises(ZeroDivisionError):
            fail_within(stream)
        assert readers() == []


def fail_within(stream: EventDataset) -> None:
    with stream.epoch(1) as batches:
        raise ZeroDivisionError(next(batches))


@dataclass(frozen=True)
class SilentLater(Faults):
    """Answers until it is told to be silent."""

    silent: threading.Event = field(default_factory=threading.Event)

    def choose(self, path: str, start: int, stop: int, time_asked: int) -> tuple[str | None, Random]:
        return ("stall" if self.silent.is_set() else None), Random(0)


def test_closing_does_not_wait_for_a_server_that_does_not_answer(tmp_path: Path) -> None:
    write_events(tmp_path / "far.root", narrow(200_000), cluster=20_000)
    faults = SilentLater()
    with fault_server(tmp_path, faults) as server:
        stream = opened([f"{server.url}/far.root"], shuffle=False, threads=2, chunk_entries=5_000)
        faults.silent.set()
        batches = stream.epoch(0)
        wait_for(lambda: server.met["stall"] > 0)
        closing = threading.Thread(target=batches.close, daemon=True)
        closing.start()
        closing.join(LIMIT_S)
        assert not closing.is_alive()


CONSUMER = """
import sys, time
from pathlib import Path
from benchmarks.damage.bases import NARROW
from benchmarks.damage.judge import config_of, dataset
from mlaas4hep.config import Cache
files, cache = sys.argv[2:], Cache(path=sys.argv[1])
stream = dataset(config_of(files, NARROW, "stop"), shuffle=True, shuffle_window=2_000, threads=4, cache=cache)
with stream, stream.epoch(0) as batches:
    for number, _ in enumerate(batches):
        print(number, flush=True)
        time.sleep(0.05)
"""


@pytest.fixture
def consumer(files: list[str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in the midst of its first epoch, with a session and a folder for temporary files of its own."""
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", CONSUMER, str(tmp_path / "cache"), *files],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize(("how", "ends_with"), [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "")])
def test_a_signal_ends_the_consumer_and_leaves_no_process_and_no_temporary_file(
    consumer: subprocess.Popen[str], files: list[str], tmp_path: Path, how: signal.Signals, ends_with: str
) -> None:
    consumer.send_signal(how)
    _, told = consumer.communicate(timeout=LIMIT_S)
    assert consumer.returncode == -how
    assert told.strip().endswith(ends_with)
    assert in_session(consumer.pid) == []
    assert list((tmp_path / "tmp").iterdir()) == []
    # What it kept is good for the next one.
    with opened(files, cache=Cache(path=str(tmp_path / "cache"))) as stream:
        assert sum(len(batch) for batch in stream) == 8_000


def in_session(leader: int) -> list[int]:
    """Processes of a session."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if os.getsid(int(folder.name)) == leader:
                    found.append(int(folder.name))
            except ProcessLookupError:
                continue
    return found


SOON_S = 20.0
"""Less than the patience for a silent server, some 35 s; more than a busy machine takes."""
# Each says when the server may fall silent, and goes on when it has.
OPENED = """
import sys
from benchmarks.damage.bases import NARROW
from benchmarks.damage.judge import config_of, dataset
stream = dataset(config_of(sys.argv[1:2], NARROW, "stop"), shuffle=False, threads=2, chunk_entries=5_000)
print("ready", flush=True)
sys.stdin.readline()
"""
STREAM = f"""{OPENED}
with stream, stream.epoch(0) as batches:
    print(sum(len(batch) for batch in batches))
"""
LOADER = f"""{OPENED}
from torch.utils.data import DataLoader
from mlaas4hep.data.into.torch import TorchDataset
for batch in DataLoader(TorchDataset(stream), batch_size=None, num_workers=2):
    print(len(batch["labels"]))
"""
TRAINING = r"""
import sys
from mlaas4hep.config import parse_config
from mlaas4hep.progress import Silent
from mlaas4hep.train.run import train
class Epochs(Silent):
    def start(self, title, total=None, **others):
        if title.startswith("epoch"):
            print("ready", flush=True)
            sys.stdin.readline()
config = parse_config(
    f"samples: {{signal: {{files: '{sys.argv[1]}', selection: x > 0}}, "
    f"background: {{files: '{sys.argv[1]}', selection: x <= 0}}}}\n"
    "inputs: {event: [y, n]}\nsplit: {by: [ev]}\nmodel: {name: mlp, hidden: [4]}\n"
)
train(config, output=sys.argv[2], progress=Epochs())
"""


@pytest.fixture(scope="module")
def far_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("far")
    write_events(folder / "far.root", narrow(200_000), cluster=20_000)
    return folder


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "what", [STREAM, pytest.param(LOADER, marks=pytest.mark.slow), TRAINING], ids=["stream", "loader", "training"]
)
def test_a_signal_ends_what_waits_for_a_silent_server_and_leaves_no_process(
    far_folder: Path, tmp_path: Path, what: str, how: signal.Signals
) -> None:
    if what is LOADER:
        pytest.importorskip("torch")
    faults = SilentLater()
    with fault_server(far_folder, faults) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", what, f"{server.url}/far.root", str(tmp_path / "run")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        try:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == "ready\n", process.communicate()[1]
            faults.silent.set()
            process.stdin.write("\n")
            process.stdin.flush()
            wait_for(lambda: server.met["stall"] > 0)
            process.send_signal(how)
            # Until all have ended who hold its output: workers, too.
            _, told = process.communicate(timeout=SOON_S)
            assert process.returncode == -how if what is not TRAINING else process.returncode != 0
            wait_for(lambda: in_session(process.pid) == [])  # workers close their output first
            assert ("interrupted" if what is TRAINING else "KeyboardInterrupt" if how == signal.SIGINT else "") in told
        finally:
            for left in in_session(process.pid):
                os.kill(left, signal.SIGKILL)
            process.communicate()


LATE = """
import multiprocessing, os, time
from mlaas4hep.data.into.orphans import end_with_parent
def late():
    while os.getppid() == multiprocessing.parent_process().pid:
        time.sleep(0.01)
    end_with_parent()
    time.sleep(60)
multiprocessing.get_context("fork").Process(target=late).start()
os._exit(0)
"""


def test_a_worker_whose_parent_ended_before_it_began_ends_too() -> None:
    left = subprocess.Popen([sys.executable, "-c", LATE], stdout=subprocess.PIPE, start_new_session=True)
    try:
        left.communicate(timeout=SOON_S)  # until the worker, who holds the output, has ended
    finally:
        for one in in_session(left.pid):
            os.kill(one, signal.SIGKILL)


def wait_for(met: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not met() and time.monotonic() < end:
        time.sleep(0.01)
    assert met()
