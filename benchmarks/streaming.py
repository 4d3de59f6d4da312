"""Events a second of the stream against uproot's own, side by side on one file.

``python -m benchmarks.streaming --json`` prints one JSON line: ``raw_uproot_eps`` (``tree.iterate`` of the same
columns, step = cluster, awkward, one thread), ``stream_eps`` and ``stream_shuffled_eps`` (batches of padded float32),
and ``rss_anon_mb``. The file is read four times in each measurement (2 million events) after one warm-up; raw and ours
take turns, so that a busy machine slows both. Medians of five.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
import msgspec
import uproot

from benchmarks.events import CLUSTER, COLLECTIONS, FLOATS, INTEGERS, VARIABLES, benchmark_file
from benchmarks.memory import PeakMemory
from mlaas4hep.config import parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.spec.preprocess import Preprocessor

PASSES = 4


def dataset(path: Path, *, shuffle: bool, threads: int, batch_size: int = 1024) -> EventDataset:
    """All 45 branches: 25 flat, and four collections that come to 75 values after padding."""
    groups = "".join(
        f"  {name.lower()}s: {{vars: [{', '.join(f'{name}_{one}' for one in VARIABLES)}], length: {length}}}\n"
        for name, (_, length) in COLLECTIONS.items()
    )
    samples = f"signal: {{files: '{path.absolute()}'}}"
    config = parse_config(
        f"samples: {{{samples}, background: {{files: none.root}}}}\n"
        f"inputs:\n  event: [{', '.join([*FLOATS, *INTEGERS])}]\n{groups}"
        "split: {by: [evt_i0]}\n"
    )
    # The config language rightly asks for two classes; this is about one file.
    config = msgspec.structs.replace(config, samples={"signal": config.samples["signal"]})
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    return EventDataset(catalogue, preprocessor, batch_size=batch_size, shuffle=shuffle, threads=threads)


def read_raw(path: Path) -> int:
    """Every column by uproot's own iteration, a cluster a step."""
    names = [*FLOATS, *INTEGERS, *(f"{name}_{one}" for name in COLLECTIONS for one in VARIABLES)]
    with uproot.open(path, array_cache=None) as file:
        return sum(len(arrays) for arrays in file["Events"].iterate(names, step_size=CLUSTER, library="ak"))


def read_stream(stream: EventDataset, epoch: int) -> int:
    """Every batch of an epoch."""
    with stream.epoch(epoch) as batches:
        return sum(len(batch) for batch in batches)


def events_per_second(read: Callable[[int], int]) -> float:
    """Rate over `PASSES` passes, each given its number."""
    begin = time.perf_counter()
    events = sum(read(number) for number in range(PASSES))
    return events / (time.perf_counter() - begin)


def measure(path: Path, *, threads: int, repeats: int) -> dict[str, Any]:
    """All figures, the three kinds of reading in turns."""
    ordered = dataset(path, shuffle=False, threads=threads)
    shuffled = dataset(path, shuffle=True, threads=threads)
    readings: dict[str, Callable[[int], int]] = {
        "raw_uproot_eps": lambda _: read_raw(path),
        "stream_eps": lambda number: read_stream(ordered, number),
        "stream_shuffled_eps": lambda number: read_stream(shuffled, number),
    }
    for read in readings.values():
        read(0)
    rates: dict[str, list[float]] = {name: [] for name in readings}
    for _ in range(repeats):
        for name, read in readings.items():
            rates[name].append(events_per_second(read))
    figures = {name: round(median(values)) for name, values in rates.items()}
    return {**figures, "ratio_shuffled_raw": round(figures["stream_shuffled_eps"] / figures["raw_uproot_eps"], 3)}


def memory_alone(path: Path, *, threads: int) -> float:
    """Peak of the shuffled stream in a fresh process, so that nothing else counts."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_memory_here, (path, threads))


def _memory_here(path: Path, threads: int) -> float:
    shuffled = dataset(path, shuffle=True, threads=threads)
    with PeakMemory() as memory:
        for number in range(PASSES):
            read_stream(shuffled, number)
    return memory.peak_mb


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON line instead of a table.")
@click.option("--threads", default=2, show_default=True, help="Threads that read ahead.")
@click.option("--repeats", default=5, show_default=True, help="Measurements of each kind; the median counts.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(".bench"), show_default=True)
def main(*, as_json: bool, threads: int, repeats: int, folder: Path) -> None:
    """Measure reading, streaming and shuffled streaming side by side."""
    path = benchmark_file(folder)
    figures = measure(path, threads=threads, repeats=repeats)
    figures["rss_anon_mb"] = round(memory_alone(path, threads=threads), 1)
    figures["events"] = PASSES * 10 * CLUSTER
    figures["threads"] = threads
    figures["load_average"] = [round(one, 2) for one in os.getloadavg()]
    if as_json:
        click.echo(json.dumps(figures))
        return
    for name, value in figures.items():
        click.echo(f"{name:20} {value}")


if __name__ == "__main__":
    main()
