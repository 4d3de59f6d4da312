"""A stream in a forked process leaves alone what belongs to the process it came from.

Everything runs in a process of its own, since forking the tests' would take along what other tests have started.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mlaas4hep.testing import make_events, write_events

FORKED = """
import os, signal, sys
from pathlib import Path
from mlaas4hep.config import Cache, parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.errors import DataError
from mlaas4hep.spec.preprocess import Preprocessor

folder, use = sys.argv[1], sys.argv[2] == "used"
config = parse_config(
    f"samples:\\n  signal: {{files: {folder}/s.root}}\\n  background: {{files: {folder}/b.root}}\\n"
    "inputs: {event: [MET_pt]}\\n"
)
catalogue = Catalogue.open(config)
stream = EventDataset(
    catalogue, Preprocessor(config.features, catalogue.types), batch_size=10, threads=2, shuffle=True,
    shuffle_window=60, chunk_entries=20, cache=Cache(folder + "/cache"),
)
every = sum(len(batch) for batch in stream.epoch(0))
batches = stream.epoch(1)
next(batches)
journals = lambda: [one.read_bytes() for one in sorted(Path(folder, "cache").glob("*.journal"))]
files = lambda: sorted(os.listdir("/proc/self/fd"))
before = journals()

def child():
    signal.alarm(20)  # a child that waits for a thread or a lock of its parent is killed, and seen
    if use:
        assert sum(len(batch) for batch in stream.epoch(0)) == every
    opened = files()
    stream.close()
    assert use or files() == opened, "closed what is the parent's"
    assert use or journals() == before, "settled what the parent writes"
    try:
        next(batches)
    except DataError as error:
        assert "before the process was forked" in str(error)
    else:
        raise AssertionError("read by threads that are not there")
    batches.close()

# As if a thread were at work with each of them just then.
locks = [stream._reader._pool._lock, stream._cache._lock, *(one._lock for one in stream._cache._files.values())]
for lock in locks:
    lock.acquire()
number = os.fork()
if not number:
    try:
        child()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    sys.exit(0)  # runs what an interpreter runs when it ends
for lock in locks:
    lock.release()
_, status = os.waitpid(number, 0)
assert status == 0, status
assert sum(len(batch) for batch in batches) == every - 10
stream.close()
assert all(b"settled" in one for one in journals())
print("done")
"""


def run(folder: Path, how: str) -> str:
    for seed, name in enumerate("sb"):
        write_events(folder / f"{name}.root", make_events(120, seed=seed), cluster=40)
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(folder), how],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    return done.stdout.strip() or done.stderr


def test_closing_a_stream_in_a_forked_process_touches_nothing_of_its_parents(tmp_path: Path) -> None:
    assert run(tmp_path, "unused") == "done"


def test_a_forked_process_that_read_closes_its_own_files_alone(tmp_path: Path) -> None:
    assert run(tmp_path, "used") == "done"
