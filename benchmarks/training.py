"""What streaming costs a network: epochs through the stream beside epochs of the same network on arrays in memory.

``python -m benchmarks.training --json`` prints one JSON line. A torch `mlp` 128-64 learns the 500,000 events of the
narrow file (100 inputs, batches of 1,024) with one and the same number of torch's threads. Streamed: `learn_streaming`
with ``cache:``; the first epoch reads the ROOT file, fills the cache and learns, later ones come from the cache, both
shuffled; the pass for the statistics lies outside. In memory: rows scaled beforehand lie in one tensor, each epoch
takes them in a random order; the same network, optimiser, dropout and average over the steps, by torch alone. weaver:
its own loader and training loop on the same file and network, on a share of the file, scaled up. All in turns; medians.
``*_cpu_s`` is processor time of the whole process, ``*_thread_s`` of the thread that learns alone, which is what an
epoch lasts where the threads that read ahead have a core of their own: both nearly the same on a machine that is busy.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click
import msgspec
import numpy as np
import torch

from benchmarks.declared import BATCH
from benchmarks.events import NARROW, TREE, Layout, events_file
from benchmarks.peers.environments import ask, interpreter
from benchmarks.turns import Unavailable
from mlaas4hep.backends.protocol import Task
from mlaas4hep.backends.torch import TorchBackend
from mlaas4hep.backends.torch_models import MlpDials
from mlaas4hep.config import Cache, Config, parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.pace import default_threads
from mlaas4hep.data.scan import scan_files
from mlaas4hep.progress import Silent
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.scaling import Scaler
from mlaas4hep.train.loop import Part, learn_streaming
from mlaas4hep.train.machine import machine
from mlaas4hep.train.provenance import versions

DIALS = MlpDials(hidden=(128, 64), device="cpu")
PEER_S = 900.0
LATER = 3
"""Streamed epochs after the first."""
Seconds = dict[str, list[float]]


@dataclass(frozen=True, eq=False)
class Prepared:
    """All that lies outside of what is timed.

    Parameters
    ----------
    catalogue, spec
        The file, scanned.
    x, labels
        All rows scaled, float32 [N, W], and labels, float32 [N].
    threads
        Torch's.
    readers
        Threads that read ahead of the stream.
    """

    catalogue: Catalogue
    spec: ModelSpec
    x: torch.Tensor = field(repr=False)
    labels: torch.Tensor = field(repr=False)
    threads: int
    readers: int

    @property
    def task(self) -> Task:
        """What is learned."""
        return Task.of(self.spec, seed=0, threads=self.threads)


def declared(path: Path, layout: Layout) -> Config:
    """Every branch an input, collections padded, nothing held back; a column says which class an event is of."""
    groups = "".join(
        f"  {name.lower()}s: {{vars: [{', '.join(f'{name}_{one}' for one in layout.variables[name])}], "
        f"length: {length}}}\n"
        for name, (_, length) in layout.collections.items()
    )
    return parse_config(
        f"tree: {TREE}\nsamples: {{all: {{files: {msgspec.json.encode(str(path)).decode()}}}}}\n"
        f"inputs:\n  event: [{', '.join(layout.flat)}]\n{groups}"
        "labels: {classes: [background, signal], "
        "expressions: {background: evt_i0 < 500, signal: evt_i0 >= 500}}\n"
        "split: {by: [evt_i0], test: 0.0, validation: 0.0}\n"
    )


def prepare(path: Path, layout: Layout, *, threads: int, readers: int) -> Prepared:
    """Open, scan, and keep all rows in memory."""
    config = declared(path, layout)
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    found = scan_files(catalogue, preprocessor, threads=readers)
    catalogue = catalogue.stratified(found.strata)
    spec = ModelSpec.seal("benchmark", preprocessor=preprocessor, statistics=found.statistics)
    scaler, rows, labels = Scaler(spec.scaling), [], []
    with EventDataset(catalogue, preprocessor, part="train", batch_size=4096, statistics=found.statistics) as dataset:
        for batch in dataset.epoch(0):
            rows.append(torch.from_numpy(scaler.flat(batch.inputs)))
            labels.append(torch.from_numpy(batch.labels.astype(np.float32)))
    return Prepared(catalogue, spec, torch.cat(rows), torch.cat(labels), threads, readers)


def streamed(prepared: Prepared, *, later: int = LATER) -> Seconds:
    """The first epoch, with a cache that is empty, and later ones."""
    with tempfile.TemporaryDirectory(prefix="mlaas4hep-training-") as folder:
        stream = EventDataset(
            prepared.catalogue,
            prepared.spec.preprocessor(),
            part="train",
            batch_size=BATCH,
            shuffle=True,
            cache=Cache(folder),
            weights="training",
            statistics=prepared.spec.statistics,
            threads=prepared.readers,
        )
        learner = TorchBackend().build("mlp", DIALS, prepared.task)
        ends = _Ends()
        with stream:
            part = Part(stream, len(prepared.labels))
            learn_streaming(learner, part, None, epochs=1 + later, patience=1, progress=ends)  # type: ignore[arg-type]
    walls, cpus, threads = ends.between
    first = {"first_epoch_s": walls[:1], "first_cpu_s": cpus[:1], "first_thread_s": threads[:1]}
    return first | {"epoch_streamed_s": walls[1:], "streamed_cpu_s": cpus[1:], "streamed_thread_s": threads[1:]}


class _Ends(Silent):
    """Notes the clocks where an epoch begins; the last one ends when it is asked."""

    def __init__(self) -> None:
        self._clocks: list[tuple[float, float, float]] = []

    def start(self, description: str, *, total: int | None = None, unit: str = "events") -> None:
        self._clocks.append(_clocks())

    @property
    def between(self) -> tuple[list[float], list[float], list[float]]:
        """Seconds of each epoch: of wall time, of the process, of the thread that learns."""
        self.start("")
        walls, cpus, threads = (np.diff(one).tolist() for one in zip(*self._clocks, strict=True))
        return walls, cpus, threads


def _clocks() -> tuple[float, float, float]:
    return time.perf_counter(), time.process_time(), time.thread_time()


def in_memory(prepared: Prepared, *, epochs: int = 2) -> Seconds:
    """Epochs of the same network by torch alone, on rows that were scaled beforehand."""
    found: Seconds = {"epoch_in_memory_s": [], "in_memory_cpu_s": [], "in_memory_thread_s": []}
    with _torch_threads(prepared.threads):
        step = _plain_step(prepared)
        for _ in range(epochs):
            begun = _clocks()
            for rows in torch.randperm(len(prepared.x)).split(BATCH):
                step(rows)
            for seconds, now, then in zip(found.values(), _clocks(), begun, strict=True):
                seconds.append(now - then)
    return found


def _plain_step(prepared: Prepared) -> Callable[[torch.Tensor], float]:
    sizes = [prepared.x.shape[1], *DIALS.hidden]
    layers: list[torch.nn.Module] = []
    for size, following in zip(sizes, DIALS.hidden, strict=False):
        layers += [torch.nn.Linear(size, following), torch.nn.ReLU(), torch.nn.Dropout(DIALS.dropout)]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], 1))
    optimiser = torch.optim.AdamW(network.parameters(), lr=DIALS.learning_rate, weight_decay=DIALS.weight_decay)
    keep = torch.optim.swa_utils.get_ema_multi_avg_fn(DIALS.averaging)
    averaged = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=keep)
    loss_of = torch.nn.functional.binary_cross_entropy_with_logits

    def step(rows: torch.Tensor) -> float:
        optimiser.zero_grad(set_to_none=True)
        loss = loss_of(network(prepared.x[rows])[:, 0], prepared.labels[rows])
        loss.backward()
        optimiser.step()
        averaged.update_parameters(network)
        return float(loss.detach())

    return step


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def weaver(path: Path, layout: Layout, *, folder: Path, threads: int, share: float) -> Callable[[], Seconds]:
    """Its training on a share of the file, in a fresh process each time; the first time its environment is made."""
    python = interpreter("weaver", folder)
    request = {
        "path": str(path.absolute()),
        "tree": TREE,
        "flat": layout.flat,
        "lengths": layout.lengths,
        "batch": BATCH,
        "share": share,
        "clusters": layout.clusters,
        "threads": threads,
        "hidden": DIALS.hidden,
    }

    def measure() -> Seconds:
        found = ask("weaver_training.py", python, request, limit_s=PEER_S)
        return {"weaver_epoch_s": [found["seconds"] * layout.events / found["events"]]}

    return measure


def measure(prepared: Prepared, peer: Callable[[], Seconds] | None, *, repeats: int) -> Seconds:
    """All in turns."""
    all_: Seconds = {}
    for _ in range(repeats):
        for run in (lambda: in_memory(prepared), lambda: streamed(prepared), peer):
            for name, seconds in (run() if run else {}).items():
                all_.setdefault(name, []).extend(seconds)
    return all_


def ratios(figures: dict[str, Any]) -> dict[str, float]:
    """Of later and first epochs to those in memory, by wall time and by the time of the thread that learns."""
    pairs = {
        "streamed": ("epoch_streamed_s", "epoch_in_memory_s"),
        "first": ("first_epoch_s", "epoch_in_memory_s"),
        "streamed_thread": ("streamed_thread_s", "in_memory_thread_s"),
        "first_thread": ("first_thread_s", "in_memory_thread_s"),
    }
    return {name: round(figures[above] / figures[below], 3) for name, (above, below) in pairs.items()}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON line instead of a table.")
@click.option("--repeats", default=5, show_default=True, help="Turns; medians count.")
@click.option("--threads", default=1, show_default=True, help="Torch's threads, streamed and in memory.")
@click.option("--readers", type=int, default=None, help="Threads that read ahead.  [default: as the training has]")
@click.option("--peer/--no-peer", default=True, help="Install and measure weaver as well.")
@click.option("--share", default=0.1, show_default=True, help="Of the file that weaver learns from in a turn.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(".bench"), show_default=True)
def main(
    *, as_json: bool, repeats: int, threads: int, readers: int | None, peer: bool, share: float, folder: Path
) -> None:
    """Measure epochs of a network, streamed and in memory."""
    folder = folder.absolute()
    load = [round(one, 2) for one in os.getloadavg()]
    path = events_file(folder, NARROW)
    prepared = prepare(path, NARROW, threads=threads, readers=default_threads() if readers is None else readers)
    reasons: dict[str, str] = {}
    rival = None
    if peer:
        try:
            rival = weaver(path, NARROW, folder=folder, threads=threads, share=share)
        except Unavailable as error:
            reasons["weaver_epoch_s"] = str(error)
    found = measure(prepared, rival, repeats=repeats)
    figures: dict[str, Any] = {name: round(median(seconds), 4) for name, seconds in found.items()}
    figures |= dict.fromkeys(reasons, None)
    figures["ratios"] = ratios(figures)
    figures |= {"reasons": reasons, "events": len(prepared.labels), "inputs": prepared.x.shape[1], "batch": BATCH}
    figures |= {"threads": threads, "readers": prepared.readers, "repeats": repeats, "machine": machine()}
    figures |= {"versions": versions(), "load_average_before": load}
    figures["load_average"] = [round(one, 2) for one in os.getloadavg()]
    if as_json:
        click.echo(json.dumps(figures))
        return
    for name, value in figures.items():
        click.echo(f"{name:20} {value}")


if __name__ == "__main__":
    main()
