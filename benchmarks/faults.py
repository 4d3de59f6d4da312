"""What becomes of a stream from a web server that goes wrong: stalls, resets, short and wrong answers, 503s, drips.

``python -m benchmarks.faults --json`` prints one JSON line a fault and file, as `benchmarks.mutations` does. A fault
that passes when asked again must be ``identical`` within twice the time of a good server and 5 s; one that does not
pass must be ``accounted`` within the patience for one answer. Wrong bytes of the right length are only seen by the
checksums of the file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.damage.bases import BASES
from benchmarks.damage.corpus import write_good
from benchmarks.damage.judge import ACCOUNTED, ORDER, WRONG
from benchmarks.mutations import MORE_S, TIMES, Good, measure_good, measured, prepare
from mlaas4hep.data.places.persist import PATIENCE
from tests.fault_server import Faults, FaultServer, fault_server

FILES = ("zlib", "rntuple")


@dataclass(frozen=True)
class Fault:
    """A server that goes wrong.

    Parameters
    ----------
    faults
        How.
    passes
        Whether asking again helps: then nothing may be missing.
    """

    faults: Faults
    passes: bool = True


def _once(*kinds: str) -> Fault:
    """Every request fails once."""
    return Fault(Faults({kind: 1 / len(kinds) for kind in kinds}, at_most=1))


def _single(kind: str, times: int = 1) -> Fault:
    """One request fails, and so often in a row: each silence costs the patience for one."""
    return Fault(Faults({kind: 1.0}, in_all=times))


FAULTS: Mapping[str, Fault] = {
    "reset": _once("reset"),
    "short": _once("short"),
    "error": _once("error"),
    "wrong_range": _once("wrong_range"),
    "wrong_length": _once("wrong_length"),
    "no_http": _once("no_http"),
    "stall": _single("stall"),
    "stall_twice": _single("stall", 2),
    "drip": _single("drip"),
    "drip_twice": _single("drip", 2),
    "all_but_silence": _once("reset", "short", "error", "wrong_range", "wrong_length", "no_http"),
    "twice_in_a_row": Fault(Faults({"error": 0.5, "reset": 0.5}, at_most=2)),
    "wrong_bytes": Fault(Faults({"wrong_bytes": 0.5}, seed=1), passes=False),
    "wrong_bytes_always": Fault(Faults({"wrong_bytes": 1.0}), passes=False),
    "error_always": Fault(Faults({"error": 1.0}), passes=False),
    "reset_always": Fault(Faults({"reset": 1.0}), passes=False),
    "short_always": Fault(Faults({"short": 1.0}), passes=False),
    "changes": Fault(Faults(changes_after=2), passes=False),
    "dead": Fault(Faults(dead=True), passes=False),
}


def main() -> None:
    """Print the findings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="faults; all by default")
    parser.add_argument("--json", action="store_true", help="JSON lines (always so)")
    asked = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as name:
        for line in run(Path(name), asked.names or list(FAULTS)):
            print(json.dumps(line), flush=True)
            lines.append(line)
    verdicts = Counter(line["verdict"] for line in lines)
    slowest = max(lines, key=lambda line: line["seconds"] / line["limit_s"])
    told = {"slowest": slowest["name"], "slowest_s": slowest["seconds"], "its_limit_s": slowest["limit_s"]}
    print(json.dumps({"streams": len(lines), **{one: verdicts[one] for one in ORDER}, **told}))


def run(folder: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    """A line for each file and fault."""
    for base, path in write_good(folder / "good", FILES).items():
        good = prepare(path, BASES[base])
        with fault_server(path.parent) as server:
            good = measure_good(good, f"{server.url}/{path.name}")
        for name in names:
            with fault_server(path.parent, FAULTS[name].faults) as server:
                yield line_of(f"{base}/{name}", FAULTS[name], server, good)


def line_of(name: str, fault: Fault, server: FaultServer, good: Good) -> dict[str, Any]:
    """Stream a good file from a bad server."""
    limit_s = TIMES * good.seconds + MORE_S
    if not fault.passes:
        # Each piece of work is given up after so long; opening is one, a cluster another.
        limit_s += sum(PATIENCE.stall(attempt) for attempt in range(PATIENCE.attempts))
    found = measured(f"{server.url}/{good.path.name}", good, "skip", limit_s)
    finding = found.finding
    if fault.passes and finding.verdict == ACCOUNTED:
        finding.verdict = WRONG
        finding.reason = f"asking again would have helped: {finding.reason}"
    return {
        "name": name,
        "verdict": finding.verdict,
        "seconds": round(finding.seconds, 3),
        "good_seconds": round(good.seconds, 3),
        "limit_s": round(limit_s, 1),
        "peak_mb": round(found.peak_mb, 1),
        "good_peak_mb": round(good.peak_mb, 1),
        "entries": finding.entries,
        "quarantined": finding.quarantined,
        "requests": server.requests,
        "met": dict(server.met),
        "reason": finding.reason.replace(server.url, "http://server"),
    }


if __name__ == "__main__":
    main()
