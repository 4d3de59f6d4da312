"""Workers of a torch DataLoader, forked or spawned: each event once in all of them together, and nothing left behind.

Everything runs in a process of its own, since forking the tests' would take along what other tests have started.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import pytest

from mlaas4hep.data.dataset import EventDataset

pytest.importorskip("torch")

HEAD = """
import gc, json, os, sys, threading
import torch
from torch.utils.data import DataLoader
from mlaas4hep.config import Cache, parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.into.torch import TorchDataset, even_batches
from mlaas4hep.spec.preprocess import Preprocessor

folder = sys.argv[1]
config = parse_config(
    "samples:\\n"
    f"  signal: {{files: '{folder}/signal*.root'}}\\n  background: {{files: '{folder}/background*.root'}}\\n"
    "preselection: MET_pt > 10\\n"
    "inputs: {event: [MET_pt], jets: {vars: [Jet_pt, Jet_eta], length: 3, sort: -Jet_pt}}\\n"
    "weights: {event: genWeight}"
)

def stream(**settings):
    catalogue = Catalogue.open(config)
    settings = dict(shuffle=True, shuffle_window=60, batch_size=16, seed=5, threads=2) | settings
    return EventDataset(catalogue, Preprocessor(config.features, catalogue.types), **settings)

def entries_of(loader):
    return [batch["entries"].tolist() for batch in loader]

def children():
    # Python's own tracker of shared memory is one for all, and stays.
    numbers = [one for task in os.listdir("/proc/self/task")
               for one in open(f"/proc/self/task/{task}/children").read().split()]
    lines = [open(f"/proc/{one}/cmdline").read() for one in numbers]
    return [one for one in lines if "resource_tracker" not in one]

def show(found):
    json.dump(found, sys.stdout)
"""


def run(script: str, folder: Path, *arguments: str, **environment: str) -> Any:
    """What a script shows, in a process of its own."""
    command = [sys.executable, "-W", "error", "-c", HEAD + script, str(folder), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


WORKERS = """
used = stream()  # its files are open and its locks were used when the workers begin
before = sorted(tuple(entry) for batch in used.epoch(1) for entry in batch.entries.tolist())
dataset = TorchDataset(used, epoch=1, entries=True)
found = {}
for method, workers in (("fork", 1), ("fork", 2), ("spawn", 2)):  # a spawned one imports torch anew, for seconds
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context=method)
    found[f"{method} {workers}"] = entries_of(loader)
show({"all": before, "found": found})
"""


@pytest.fixture(scope="module")
def by_workers(small_files: dict[str, Path]) -> Any:
    """Entries of each batch, by the way in which workers are started and their number."""
    return run(WORKERS, small_files["ttree"])


def test_workers_deliver_each_event_once_in_an_order_of_their_number(by_workers: Any) -> None:
    """Laws 1 and 2: forked and spawned workers give the same."""
    for batches in by_workers["found"].values():
        assert sorted(chain.from_iterable(batches)) == by_workers["all"]
    assert by_workers["found"]["fork 2"] == by_workers["found"]["spawn 2"]
    orders = {json.dumps(list(chain.from_iterable(one))) for one in by_workers["found"].values()}
    assert len(orders) == 2, "shares have orders of their own"


def test_workers_take_turns_with_shares_of_the_stream(
    by_workers: Any, small_stream: Callable[..., EventDataset]
) -> None:
    dataset = small_stream(shuffle=True, shuffle_window=60, batch_size=16, seed=5)
    for workers in (1, 2):
        shares = [list(dataset.share(rank, workers).epoch(1)) for rank in range(workers)]
        turns = [batch for turn in zip_longest(*shares) for batch in turn if batch is not None]
        expected = [[list(entry) for entry in batch.entries.tolist()] for batch in turns]
        assert by_workers["found"][f"fork {workers}"] == expected


EPOCHS = """
dataset = TorchDataset(stream(), entries=True)
loader = DataLoader(dataset, batch_size=None, num_workers=2, persistent_workers=True)
found = []
for epoch in range(3):
    dataset.set_epoch(epoch)
    found.append(entries_of(loader))
del loader
show(found)
"""


def test_workers_that_live_on_are_told_the_epoch(small_files: dict[str, Path]) -> None:
    found = run(EPOCHS, small_files["ttree"])
    assert len({json.dumps(one) for one in found}) == 3
    assert len({json.dumps(sorted(chain.from_iterable(one))) for one in found}) == 1


EARLY_STOP = """
dataset = TorchDataset(stream())
found = []
for workers, method in ((0, None), (2, "fork"), (1, "spawn")):
    batches = iter(DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context=method))
    next(batches)
    del batches
    gc.collect()
    ours_threads = [one.name for one in threading.enumerate() if one.name.startswith("mlaas4hep")]
    found.append([children(), ours_threads])
show(found)
"""


def test_who_stops_in_the_middle_leaves_no_process_and_no_thread(small_files: dict[str, Path]) -> None:
    assert run(EARLY_STOP, small_files["ttree"]) == [[[], []]] * 3


RANKS = """
import torch.distributed as distributed
from mlaas4hep.errors import DataError
rank, store = int(sys.argv[2]), sys.argv[3]
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
found = {}
for workers in (0, 2):
    loader = DataLoader(TorchDataset(stream(), entries=True), batch_size=None, num_workers=workers)
    found[workers] = entries_of(loader)
    found[f"even {workers}"] = entries_of(even_batches(loader))
distributed.destroy_process_group()
show(found)
"""


def test_ranks_share_the_events_and_may_have_equally_many_batches(small_files: dict[str, Path], tmp_path: Path) -> None:
    """Laws 1 and 2 over two processes that train together; shares of different length do not hang them."""
    command = [sys.executable, "-W", "error", "-c", HEAD + RANKS, str(small_files["ttree"])]
    both = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        one, other = (json.loads(each.communicate(timeout=120)[0]) for each in both)
    finally:
        for each in both:
            each.kill()
    every = run("show(sorted(e for b in stream().epoch(0) for e in b.entries.tolist()))", small_files["ttree"])
    for workers in ("0", "2"):
        assert sorted(chain.from_iterable(one[workers] + other[workers])) == every
        shortest = min(len(one[workers]), len(other[workers]))
        for rank in (one, other):
            assert rank[f"even {workers}"] == rank[workers][:shortest]


EXACT = """
from mlaas4hep.errors import DataError
events = stream(shuffle="exact", cache=Cache(sys.argv[2], "1 GB"))
dataset = TorchDataset(events, epoch=1, entries=True)
loader = DataLoader(dataset, batch_size=None, num_workers=2)
try:
    entries_of(loader)
    said = "nothing"
except DataError as error:
    said = str(error)
events.fill_cache()
found = entries_of(loader)
every = sorted(e for b in stream().epoch(0) for e in b.entries.tolist())
show([said, sorted(e for batch in found for e in batch), every])
"""


def test_workers_take_an_exact_order_from_a_filled_cache(small_files: dict[str, Path], tmp_path: Path) -> None:
    said, found, every = run(EXACT, small_files["ttree"], str(tmp_path / "cache"))
    assert "with 2 workers needs a filled cache" in said
    assert "call fill_cache() of the EventDataset before" in said
    assert found == every


FORKED = """
import multiprocessing, pickle
events = stream()
held = events.epoch(0)
next(held)  # its threads work while the process is forked

def count(queue):
    queue.put(sum(len(batch) for batch in events))

context = multiprocessing.get_context("fork")
queue = context.Queue()
child = context.Process(target=count, args=(queue,))
child.start()
forked = queue.get(timeout=60)
child.join()
held.close()
pickled = sum(len(batch) for batch in pickle.loads(pickle.dumps(events)))
show([forked, pickled, sum(len(batch) for batch in events)])
"""


def test_a_stream_may_be_used_in_a_forked_process_and_pickled(small_files: dict[str, Path]) -> None:
    forked, pickled, here = run(FORKED, small_files["ttree"])
    assert forked == pickled == here > 300


ERRORS = """
from mlaas4hep.errors import MLaaSError
signal, inputs = f"samples:\\n  signal: {{files: '{folder}/signal*.root'}}\\n", "inputs: {event: [MET_pt]}\\n"
background = f"  background: {{files: '{folder}/background*.root'}}\\n"
weight = "weights: {event: log(0 * MET_pt)}"
twice = "labels: {expressions: {signal: MET_pt > 5, background: MET_pt > 9}}"
said = []
for text in (signal + background + inputs + weight, signal + inputs + twice):
    config = parse_config(text)
    try:
        entries_of(DataLoader(TorchDataset(stream()), batch_size=None, num_workers=1))
        said.append("nothing")
    except MLaaSError as error:
        said.append(str(error))
show([said, children()])
"""


def test_an_error_in_a_worker_reaches_the_consumer_in_its_words(small_files: dict[str, Path]) -> None:
    (weight, twice), children = run(ERRORS, small_files["ttree"])
    assert "the event weight is -inf" in weight
    assert "is of two classes, 'signal' (MET_pt > 5) and 'background' (MET_pt > 9)" in twice
    assert not children
