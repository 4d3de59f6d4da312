"""What becomes of damaged ROOT files: each is streamed in a process of its own, and every row is compared.

``python -m benchmarks.mutations --json`` prints one JSON line a file and a summary: ``identical`` (every entry has the
bits of the good file), ``accounted`` (what is missing stands in the quarantine's records and counts, or a clear error
names the file), ``wrong`` (anything else), ``hang`` (longer than twice the good file and 5 s). Each file is streamed
with ``on_error: skip`` and again with ``stop``; the worse verdict counts. Memory is anonymous and shared.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.apart import apart
from benchmarks.damage.bases import BASES
from benchmarks.damage.corpus import BLIND, Case, make_corpus, write_good
from benchmarks.damage.judge import HANG, IDENTICAL, ORDER, WRONG, Finding, good_rows, judge
from benchmarks.memory import PeakSince

START_S = 60.0
"""Allowance for a process to start on a busy machine, beyond which it hangs."""
TIMES, MORE_S, TIMES_MEMORY = 2.0, 5.0, 1.2
_REPEATS = 3


@dataclass(frozen=True)
class Measured:
    """A finding, and the most memory that the process had at a time."""

    finding: Finding
    peak_mb: float


@dataclass(frozen=True)
class Good:
    """A good file: where it is, its rows (saved), the small file read along with it, and what it costs."""

    path: Path
    kind: str
    rows: Path
    companion: Path
    companion_rows: Path
    seconds: float = 0.0
    peak_mb: float = 0.0


def main() -> None:
    """Print the findings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="cases, such as zlib/values_bit; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of the places where bits are flipped")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time; more make the times less sure")
    parser.add_argument("--json", action="store_true", help="JSON lines (always so)")
    asked = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as name:
        for line in run(Path(name), names=set(asked.names) or None, seed=asked.seed, jobs=asked.jobs):
            print(json.dumps(line), flush=True)
            lines.append(line)
        blind = {} if asked.names else look_blindly(Path(name) / "blind", seed=asked.seed)
    print(json.dumps(summary(lines) | blind), flush=True)


def run(folder: Path, *, names: Collection[str] | None, seed: int, jobs: int) -> Iterator[dict[str, Any]]:
    """A line for each damaged file."""
    bases = [base for base in BASES if names is None or any(name.startswith(f"{base}/") for name in names)]
    paths = write_good(folder / "good", bases)
    good = {base: measure_good(prepare(path, BASES[base])) for base, path in paths.items()}
    with ThreadPoolExecutor(jobs) as pool:
        cases = make_corpus(folder / "bad", paths, seed=seed, names=names)
        yield from pool.map(lambda case: line_of(case, good[case.base]), cases)


def prepare(path: Path, kind: str) -> Good:
    """Read the rows of a good file and of its companion, and save them."""
    companion = path.with_name(f"companion_{kind}.root")
    rows = {one: one.with_suffix(".npy") for one in (path, companion)}
    for one, saved in rows.items():
        if not saved.exists():
            np.save(saved, good_rows(str(one), kind))
    return Good(path, kind, rows[path], companion, rows[companion])


def measure_good(good: Good, path: str | None = None) -> Good:
    """What the good file costs, wherever it lies; the middle one of three times, the largest memory."""
    found = [measured(path or str(good.path), good, "stop", START_S) for _ in range(_REPEATS)]
    if any(one.finding.verdict != IDENTICAL for one in found):
        raise RuntimeError(f"{good.path}: the good file is not read well: {found[0].finding.reason}")
    seconds = sorted(one.finding.seconds for one in found)[_REPEATS // 2]
    return dataclasses.replace(good, seconds=seconds, peak_mb=max(one.peak_mb for one in found))


def line_of(case: Case, good: Good) -> dict[str, Any]:
    """Stream a damaged file both ways, and remove it."""
    limit_s = TIMES * good.seconds + MORE_S
    left, stopped = (measured(str(case.path), good, policy, limit_s) for policy in ("skip", "stop"))
    case.path.unlink()
    verdict = max((left.finding.verdict, stopped.finding.verdict), key=ORDER.index)
    worse = stopped if ORDER.index(stopped.finding.verdict) > ORDER.index(left.finding.verdict) else left
    return {
        "name": case.name,
        "verdict": verdict,
        "seconds": round(max(left.finding.seconds, stopped.finding.seconds), 3),
        "good_seconds": round(good.seconds, 3),
        "peak_mb": round(max(left.peak_mb, stopped.peak_mb), 1),
        "good_peak_mb": round(good.peak_mb, 1),
        "entries": left.finding.entries,
        "quarantined": left.finding.quarantined,
        "reason": worse.finding.reason,
    }


def measured(path: str, good: Good, on_error: str, limit_s: float) -> Measured:
    """Stream a file in a process of its own; longer than ``limit_s`` is a hang."""
    try:
        found = apart(START_S + limit_s, _measure, path, good, on_error)
    except TimeoutError as error:
        return Measured(Finding(HANG, str(error), seconds=START_S + limit_s), 0.0)
    except RuntimeError as error:  # killed for its memory, or by a wrong access
        return Measured(Finding(WRONG, str(error)), 0.0)
    if found.finding.seconds > limit_s:
        found.finding.reason = f"took {found.finding.seconds:.1f} s: {found.finding.reason}"
        found.finding.verdict = HANG
    return found


def _measure(path: str, good: Good, on_error: str) -> Measured:
    rows = {
        path: np.load(good.rows, mmap_mode="r"),
        str(good.companion): np.load(good.companion_rows, mmap_mode="r"),
    }
    with PeakSince() as memory:
        finding = judge(path, str(good.companion), good.kind, on_error, rows)
    return Measured(finding, memory.peak_mb)


def look_blindly(folder: Path, *, seed: int) -> dict[str, Any]:
    """Damage that leaves all lengths, counts and checksums right: how much of it shows."""
    paths = write_good(folder / "good", list(BLIND))
    good = {base: prepare(path, BASES[base]) for base, path in paths.items()}
    found = {
        case.name: measured(str(case.path), good[case.base], "skip", START_S).finding.verdict
        for case in make_corpus(folder / "bad", paths, seed=seed, damages=BLIND)
    }
    return {"blind": found}


def summary(lines: Collection[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts by verdict, the slowest file and the one with the most memory."""
    verdicts = Counter(line["verdict"] for line in lines)
    slowest = max(lines, key=lambda line: line["seconds"])
    largest = max(lines, key=_memory_ratio)
    return {
        "files": len(lines),
        **{verdict: verdicts[verdict] for verdict in ORDER},
        "slowest": slowest["name"],
        "slowest_s": slowest["seconds"],
        "most_memory": largest["name"],
        "most_memory_ratio": round(_memory_ratio(largest), 3),
        "beyond_memory": sum(_memory_ratio(line) > TIMES_MEMORY for line in lines),
    }


def _memory_ratio(line: Mapping[str, Any]) -> float:
    return float(line["peak_mb"] / line["good_peak_mb"])


if __name__ == "__main__":
    main()
