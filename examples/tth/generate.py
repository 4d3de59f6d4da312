#!/usr/bin/env python3
"""Make small, real events of boosted all-hadronic ttH(bb), ttbar and QCD for tests and tutorials.

Pythia 8 generates proton collisions at 13 TeV; detector emulation, FastJet and a selection follow. The
result is a file in the manner of NanoAOD. The same process, seed and number of events always give the same
values. See README.md for what is physics here and what is emulation.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
from output import Columns, Production, digest, stored, write
from processes import MAX_SEED, PROCESSES, Generator, Process
from reconstruction import SELECTION, reconstruct

# Part of what decides the random numbers, hence no option.
BATCH_SIZE = 500
CLUSTER_SIZE = 1000
RUN = 1
DEFAULT_DATA = Path(__file__).parent / "data"

EXAMPLES = """\
examples:
  a quick look, 200 events in a few seconds
    generate.py --process ttH --events 200 --seed 1 --output ttH.root

  other events of the same process: another seed
    generate.py --process ttH --events 200 --seed 2 --output more_ttH.root

  the same events as RNTuple
    generate.py --process ttH --events 200 --seed 1 --output ttH.root --format rntuple

  the whole committed sample, two files at a time
    generate.py --all --jobs 2
"""


@dataclass(frozen=True)
class Job:
    """One file to make; ``twin`` is a second file with the same events as RNTuple."""

    process: str
    events: int
    seed: int
    output: Path
    file_format: str = "ttree"
    cluster_size: int = CLUSTER_SIZE
    twin: Path | None = None


def committed_jobs(folder: Path) -> list[Job]:
    """The files of the committed sample, with their seeds."""
    # The slowest first, so that the workers of run_all finish together.
    return [
        Job("qcd", 1500, 1, folder / "qcd_0.root"),
        Job("qcd", 1500, 2, folder / "qcd_1.root"),
        Job("ttbar", 2500, 1, folder / "ttbar_0.root"),
        Job("ttbar", 2500, 2, folder / "ttbar_1.root"),
        Job("ttH", 2500, 1, folder / "ttH_0.root"),
        Job("ttH", 2500, 2, folder / "ttH_1.root", twin=folder / "rntuple" / "ttH_1.root"),
    ]


@dataclass
class Tally:
    """Counts over all events tried, selected or not."""

    count: int = 0
    sum_of_weights: float = 0.0
    sum_of_squares: float = 0.0
    varied: np.ndarray = field(default_factory=lambda: np.zeros(4))

    def add(self, weights: np.ndarray, variations: np.ndarray) -> None:
        """Count events with these weights [N] and relative shower variations [N, 4]."""
        self.count += len(weights)
        self.sum_of_weights += float(weights.sum())
        self.sum_of_squares += float((weights**2).sum())
        self.varied += weights @ variations


class Progress:
    """A line now and then on standard error: tried, selected, rate, time left."""

    def __init__(self, label: str, wanted: int, *, quiet: bool, interval_s: float = 10.0) -> None:
        self._label = label
        self._wanted = wanted
        self._quiet = quiet
        self._interval_s = interval_s
        self._start = self._last = time.monotonic()

    def update(self, tried: int, selected: int) -> None:
        """Report, if the last report is long enough ago."""
        now = time.monotonic()
        if now - self._last >= self._interval_s:
            self._last = now
            self._report(tried, selected, now - self._start)

    def finish(self, tried: int, selected: int) -> None:
        """Report the totals."""
        self._report(tried, selected, time.monotonic() - self._start)

    def _report(self, tried: int, selected: int, elapsed_s: float) -> None:
        if self._quiet:
            return
        rate = selected / elapsed_s
        left = f"{(self._wanted - selected) / rate:.0f} s left" if rate else "time left unknown"
        print(
            f"{self._label}: {tried} tried, {selected} of {self._wanted} selected"
            f" ({selected / tried:.1%}), {rate:.1f} selected/s, {left}",
            file=sys.stderr,
            flush=True,
        )


def produce(process: Process, events: int, seed: int, progress: Progress) -> Production:
    """Generate until ``events`` events are selected.

    Events after the last selected one do not count as tried, so the sums of weights belong to these events.
    """
    generator = Generator(process, seed)
    block = process.luminosity_block(seed)
    tally, parts, selected_so_far = Tally(), [], 0
    for number, batch in enumerate(generator.batches(BATCH_SIZE)):
        weights, variations = generator.weights(batch)
        selected, columns = reconstruct(batch, np.random.default_rng([block, number]))
        kept = np.flatnonzero(selected)[: events - selected_so_far]
        selected_so_far += len(kept)
        done = selected_so_far == events
        identity = _identity(block, tally.count + 1 + kept)
        truth = {"genWeight": weights[kept], "PSWeight": ak.from_regular(variations[kept])}
        parts.append(stored(identity | truth | _head(columns, len(kept))))
        counted = kept[-1] + 1 if done else len(weights)
        tally.add(weights[:counted], variations[:counted])
        progress.update(tally.count, selected_so_far)
        if done:
            break
    progress.finish(tally.count, selected_so_far)
    columns = _concatenate(parts)
    return Production(columns, _runs(tally, generator), _settings(process, generator, seed, columns))


def run_job(job: Job, *, quiet: bool = False) -> str:
    """Make the file of a job, and its twin; return a line about it."""
    start = time.monotonic()
    progress = Progress(job.output.name, job.events, quiet=quiet)
    production = produce(PROCESSES[job.process], job.events, job.seed, progress)
    write(job.output, production, file_format=job.file_format, cluster_size=job.cluster_size)
    written = [job.output]
    if job.twin is not None:
        write(job.twin, production, file_format="rntuple", cluster_size=job.cluster_size)
        written.append(job.twin)
    sizes = ", ".join(f"{path} ({path.stat().st_size / 1e3:.0f} kB)" for path in written)
    elapsed_s = time.monotonic() - start
    short_digest = production.settings["digest"][:16]
    return f"{sizes}: {len(production)} events in {elapsed_s:.0f} s, digest {short_digest}"


def run_all(jobs: Sequence[Job], *, workers: int, quiet: bool) -> None:
    """Make all files, ``workers`` at a time, each in a fresh process."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for line in pool.map(partial(run_job, quiet=quiet), jobs):
            print(line, flush=True)


def _identity(block: int, numbers: np.ndarray) -> Columns:
    return {
        "run": np.full(len(numbers), RUN),
        "luminosityBlock": np.full(len(numbers), block),
        "event": numbers,
    }


def _head(columns: Columns, entries: int) -> Columns:
    return {
        name: _head(values, entries) if isinstance(values, dict) else values[:entries]
        for name, values in columns.items()
    }


def _concatenate(parts: list[Any]) -> Any:
    if isinstance(parts[0], dict):
        return {name: _concatenate([part[name] for part in parts]) for name in parts[0]}
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else ak.concatenate(parts)


def _runs(tally: Tally, generator: Generator) -> Columns:
    cross_section, error = generator.cross_section_pb()
    return {
        "run": np.array([RUN], dtype=np.uint32),
        "genEventCount": np.array([tally.count], dtype=np.int64),
        "genEventSumw": np.array([tally.sum_of_weights]),
        "genEventSumw2": np.array([tally.sum_of_squares]),
        "PSSumw": ak.from_regular(tally.varied[np.newaxis] / tally.sum_of_weights),
        "xsec_pb": np.array([cross_section]),
        "xsecError_pb": np.array([error]),
    }


def _settings(process: Process, generator: Generator, seed: int, columns: Columns) -> dict[str, Any]:
    return {
        "process": process.name,
        "seed": seed,
        "batch_size": BATCH_SIZE,
        "pythia": generator.settings,
        "selection": SELECTION.as_dict(),
        "versions": {name: version(name) for name in ("pythia8mc", "fastjet", "uproot", "awkward", "numpy")},
        "digest": digest(columns),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Make small, real events of boosted all-hadronic ttH(bb), ttbar and QCD.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--process", choices=PROCESSES, help="the hard process of one file")
    what.add_argument("--all", action="store_true", help="make the whole committed sample again")
    one = parser.add_argument_group("one file")
    one.add_argument("--events", type=_positive, default=1000, help="selected events (default: %(default)s)")
    one.add_argument(
        "--seed",
        type=_seed,
        default=1,
        help=f"0 to {MAX_SEED}; another seed, other events (default: %(default)s)",
    )
    one.add_argument("--output", type=Path, metavar="FILE", help="what to write (default: PROCESS_SEED.root)")
    one.add_argument("--format", choices=("ttree", "rntuple"), default="ttree", help="default: %(default)s")
    one.add_argument(
        "--cluster-size",
        type=_positive,
        default=CLUSTER_SIZE,
        help="entries a cluster (default: %(default)s)",
    )
    every = parser.add_argument_group("the committed sample")
    every.add_argument(
        "--data",
        type=Path,
        default=DEFAULT_DATA,
        metavar="DIR",
        help="where it goes (default: data beside this script)",
    )
    every.add_argument("--jobs", type=_positive, default=1, help="files at a time (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {number}")
    return number


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number <= MAX_SEED:
        raise argparse.ArgumentTypeError(f"must be 0 to {MAX_SEED}, not {number}")
    return number


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and make what it asks for."""
    options = _parser().parse_args(arguments)
    if options.all:
        run_all(committed_jobs(options.data), workers=options.jobs, quiet=options.quiet)
        return
    output = options.output or Path(f"{options.process}_{options.seed}.root")
    job = Job(options.process, options.events, options.seed, output, options.format, options.cluster_size)
    print(run_job(job, quiet=options.quiet))


if __name__ == "__main__":
    main()
