"""Loads and unloads a model many times and says how much memory a cycle leaves behind.

``python -m benchmarks.cycles --json``: keys ``cycles``, ``grown_bytes_cycle``, ``cycle_ms``, ``rss_mb``. A tenth of the
cycles go before, so that caches and the allocator's pools are full when counting begins.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.repository import ModelRepository

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden" / "bundle_v1" / "network"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=GOLDEN, help="folder NAME of a bundle or plain entry")
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="one line")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(asked.model, Path(folder) / asked.model.name)
        found = measure(open_repository(folder), asked.cycles)
    print(json.dumps(found) if asked.json else "\n".join(f"{key:20} {value}" for key, value in found.items()))


def measure(repository: ModelRepository, cycles: int) -> dict[str, float]:
    """Bytes of resident memory that each cycle adds, and what it takes."""
    name = repository.names[0]
    run(repository, name, max(cycles // 10, 1))
    before, began_s = resident_bytes(), time.perf_counter()
    run(repository, name, cycles)
    took_s, after = time.perf_counter() - began_s, resident_bytes()
    return {
        "cycles": cycles,
        "grown_bytes_cycle": round((after - before) / cycles, 1),
        "cycle_ms": round(took_s / cycles * 1e3, 2),
        "rss_mb": round(after / 1e6, 1),
    }


def run(repository: ModelRepository, name: str, cycles: int) -> None:
    """Unload and load."""
    for _ in range(cycles):
        repository.unload(name).result()
        repository.load(name).result()


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
