"""Events a second of the stream beside its limits and its peers, all in turns on one file.

``python -m benchmarks.streaming --json [--codec zlib|lz4|zstd]`` prints one JSON line. Each figure is the median of
five measurements of at least 2 million events (wide: 60,000) after a warm-up; opening files lies outside the timed
part, for uproot as for the stream. ``raw_uproot`` is ``tree.iterate`` of the same columns, step = cluster, one thread;
``raw_uproot_twice`` is that in two processes at once, so ``raw_twice_raw`` is what a second processor adds here;
``decompress`` reads and inflates exactly these columns, checksums verified, and forgets them; ``memcpy`` takes random
rows in RAM; ``weaver`` and ``rdataloader`` are the peers of `benchmarks.peers`. Columns, events and padding are the
same for all; the peers' sums over all values are compared with the stream's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.apart import apart
from benchmarks.declared import BATCH, catalogue, dataset, read_epoch
from benchmarks.events import CODECS, NARROW, TREE, WIDE, Layout, events_file
from benchmarks.limits import InflateOnly, RawUproot, RawUprootTwice, random_rows
from benchmarks.memory import PeakMemory
from benchmarks.peers.environments import reading
from benchmarks.turns import Reading, Turns, timed
from mlaas4hep.config import Cache
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.scan import scan

PASSES = 4  # over 500,000 events
WIDE_PASSES = 3  # over 20,000 events
TEN = 10
PEER_S = 900
MEMORY_S = 900
PEERS = {
    "weaver": ("weaver_bulk.py", "weaver_eps"),
    "root": ("root_rdataloader.py", "rdataloader_first_eps", "rdataloader_eps"),
}
"""By environment: the script, and its figures."""
RATIOS = {
    "raw_twice_raw": ("raw_uproot_twice_eps", "raw_uproot_eps"),
    "shuffled_raw": ("stream_shuffled_eps", "raw_uproot_eps"),
    "shuffled_limit": ("stream_shuffled_eps", "decompress_eps"),
    "shuffled_unshuffled": ("stream_shuffled_eps", "stream_eps"),
    "shuffled_rdataloader": ("stream_shuffled_eps", "rdataloader_eps"),
    "shuffled_weaver": ("stream_shuffled_eps", "weaver_eps"),
    "cached_memcpy": ("cached_exact_eps", "memcpy_eps"),
    "cached_shuffled": ("cached_exact_eps", "stream_shuffled_eps"),
    "scan_raw": ("scan_eps", "raw_uproot_eps"),
    "wide_raw": ("wide_eps", "raw_uproot_wide_eps"),
}


def cached_exact(path: Path, cache: Path, *, threads: int) -> EventDataset:
    """The stream in an exact global permutation, out of a cache in the folder ``cache`` that its first epoch fills."""
    return dataset([str(path)], NARROW, shuffle="exact", cache=Cache(str(cache)), threads=threads)


def narrow_turns(turns: Turns, path: Path, *, threads: int, cache: Path) -> None:
    """Add the limits and ours."""
    ordered = dataset([str(path)], NARROW, shuffle=False, threads=threads)
    shuffled = dataset([str(path)], NARROW, shuffle=True, threads=threads)
    inflating = InflateOnly(path, NARROW, threads=2)
    reads: dict[str, Callable[[int], int]] = {
        "raw_uproot_eps": RawUproot(path, NARROW).read,
        "raw_uproot_twice_eps": RawUprootTwice(path, NARROW).read,
        "decompress_eps": inflating.read,
        "stream_eps": partial(read_epoch, ordered),
        "stream_shuffled_eps": partial(read_epoch, shuffled),
        "memcpy_eps": random_rows(NARROW.events, NARROW.width, batch=BATCH),
        "scan_eps": _scanning(path, NARROW, threads=threads),
    }
    for name, read in reads.items():
        turns.add((name,), partial(_warm, name, read, passes=PASSES))
    turns.add(("cached_exact_eps",), partial(_cached, path, cache, threads=threads))


def wide_turns(turns: Turns, path: Path, *, threads: int) -> None:
    """Add the wide file's."""
    shuffled = dataset([str(path)], WIDE, shuffle=True, threads=threads)
    reads: dict[str, Callable[[int], int]] = {
        "raw_uproot_wide_eps": RawUproot(path, WIDE).read,
        "wide_eps": partial(read_epoch, shuffled),
    }
    for name, read in reads.items():
        turns.add((name,), partial(_warm, name, read, passes=WIDE_PASSES))


def peer_turns(turns: Turns, path: Path, *, folder: Path) -> None:
    """Add the peers; their environments are made where they are missing."""
    request = {
        "path": str(path.absolute()),
        "tree": TREE,
        "flat": NARROW.flat,
        "lengths": NARROW.lengths,
        "label": NARROW.integers[0],
        "clusters": NARROW.clusters,
        "batch": BATCH,
        "passes": PASSES,
    }
    expected = _sums(path)
    for name, (script, *figures) in PEERS.items():
        make = partial(reading, name, script, request, folder=folder, limit_s=PEER_S, expected=expected)
        turns.add(tuple(figures), make)


def memory(files: list[str], *, threads: int, epochs: int) -> float:
    """Peak of the shuffled stream in MB, anonymous and shared, of this process and all below it."""
    shuffled = dataset(files, NARROW, shuffle=True, threads=threads)
    with PeakMemory() as peak:
        for number in range(epochs):
            read_epoch(shuffled, number)
    return round(peak.peak_mb, 1)


def ratios(figures: Mapping[str, float | None]) -> dict[str, float]:
    """Those of `RATIOS` that were measured."""
    found = {name: (figures.get(above), figures.get(below)) for name, (above, below) in RATIOS.items()}
    return {name: round(above / below, 3) for name, (above, below) in found.items() if above and below}


def _warm(name: str, read: Callable[[int], int], *, passes: int) -> Reading:
    read(0)
    return timed(name, read, passes=passes)


def _cached(path: Path, cache: Path, *, threads: int) -> Reading:
    stream = cached_exact(path, cache, threads=threads)
    stream.fill_cache()
    # The order is exact from the second epoch on.
    return _warm("cached_exact_eps", lambda number: read_epoch(stream, number + 1), passes=PASSES)


def _scanning(path: Path, layout: Layout, *, threads: int) -> Callable[[int], int]:
    opened, preprocessor = catalogue([str(path)], layout)

    def read(_: int) -> int:
        scan(opened, preprocessor, threads=threads)
        return layout.events

    return read


def _sums(path: Path) -> dict[str, float]:
    """Events and the sum of all their values, padding as 0: what the peers must find."""
    events, total = 0, 0.0
    with dataset([str(path)], NARROW, shuffle=False, threads=0).epoch(0) as batches:
        for batch in batches:
            events += len(batch)
            total += sum(float(np.nansum(values, dtype=np.float64)) for values in batch.inputs.values())
    return {"events": events, "sum": total}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON line instead of a table.")
@click.option("--codec", type=click.Choice(list(CODECS)), default="zlib", show_default=True, help="Of the files.")
@click.option("--threads", default=2, show_default=True, help="Threads that read ahead.")
@click.option("--repeats", default=5, show_default=True, help="Measurements of each kind; the median counts.")
@click.option("--peers/--no-peers", default=True, help="Install and measure weaver and ROOT as well.")
@click.option("--wide/--no-wide", default=True, help="Measure the wide file as well.")
@click.option("--peak/--no-peak", default=True, help="Measure memory as well.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(".bench"), show_default=True)
def main(
    *, as_json: bool, codec: str, threads: int, repeats: int, peers: bool, wide: bool, peak: bool, folder: Path
) -> None:
    """Measure reading, streaming and shuffled streaming beside limits and peers."""
    folder = folder.absolute()
    load = [round(one, 2) for one in os.getloadavg()]
    path = events_file(folder, NARROW, codec=codec)
    turns = Turns()
    narrow_turns(turns, path, threads=threads, cache=folder / f"cache-{codec}")
    if wide:
        wide_turns(turns, events_file(folder, WIDE, codec=codec), threads=threads)
    if peers:
        peer_turns(turns, path, folder=folder)
    turns.run(repeats)
    medians = turns.medians()
    figures: dict[str, Any] = {"codec": codec, **medians, "ratios": ratios(medians)}
    if peak:
        ten = [str(events_file(folder, NARROW, codec=codec, number=number)) for number in range(TEN)]
        figures["rss_anon_mb"] = apart(MEMORY_S, memory, [str(path)], threads=threads, epochs=PASSES)
        figures["rss_anon_10x_mb"] = apart(MEMORY_S, memory, ten, threads=threads, epochs=1)
    cpu_ns = {
        name: one for name, one in turns.cpu_ns().items() if name != "raw_uproot_twice_eps"
    }  # not of this process
    # By events a CPU-second: nearly the same on a machine that is busy with other things.
    figures["ratios_cpu"] = ratios({name: 1e9 / one for name, one in cpu_ns.items()})
    figures |= {"cpu_ns_per_event": cpu_ns, "reasons": turns.reasons}
    figures |= {"events": PASSES * NARROW.events, "events_wide": WIDE_PASSES * WIDE.events, "repeats": repeats}
    figures |= {"threads": threads, "cpus": len(os.sched_getaffinity(0)), "processor": _processor()}
    figures |= {"load_average_before": load, "load_average": [round(one, 2) for one in os.getloadavg()]}
    if as_json:
        click.echo(json.dumps(figures))
        return
    for name, value in figures.items():
        click.echo(f"{name:22} {value}")


if __name__ == "__main__":
    main()
