"""Is a scoring that was killed finished by a rerun? Real processes, SIGKILL at random moments.

``python -m benchmarks.score_kills --json [--kills 20]`` prints one JSON line. A process scores a folder of files into
friend trees, is killed at a moment of chance, and started again until it comes to its end. After every kill each file
under a final name is opened and has all of its entries (``half_files`` counts those that are not whole); at the end the
inputs must have the bytes that they had, the outputs all values and stamps of an undisturbed run, and nothing else may
lie beside them.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.serving.networks import SIZES, mlp
from mlaas4hep.bundle import load_bundle
from mlaas4hep.data.source import open_source
from mlaas4hep.errors import DataError
from mlaas4hep.score.asked import ask
from mlaas4hep.score.run import score_files
from mlaas4hep.score.verify import stamp_of
from mlaas4hep.testing import Format, write_events

FILES, ENTRIES, CLUSTER = 4, 20_000, 5_000
LIMIT_S = 300.0


def write_files(folder: Path) -> list[str]:
    """Inputs of the network's columns, half of them RNTuples."""
    folder.mkdir()
    paths = []
    for number in range(FILES):
        draw = np.random.default_rng(number)
        columns: dict[str, Any] = {f"x{one}": draw.normal(size=ENTRIES).astype(np.float32) for one in range(SIZES[0])}
        columns |= {"run": np.full(ENTRIES, 1, np.uint32), "luminosityBlock": np.full(ENTRIES, number, np.uint32)}
        columns["event"] = np.arange(ENTRIES, dtype=np.uint64)
        format: Format = "rntuple" if number % 2 else "ttree"
        paths.append(str(write_events(folder / f"{number}.root", columns, format=format, cluster=CLUSTER)))
    return paths


def score(bundle: str, files: Sequence[str], out: str, threads: int) -> None:
    """What is killed."""
    asked = ask([load_bundle(bundle)])
    score_files(asked, files, out, threads=threads)
    asked.close()


def start(*arguments: Any) -> ForkServerProcess:
    """In a process of its own; imports are done once for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.serving.networks", "uproot", "mlaas4hep.score.root_files"])
    process = context.Process(target=score, args=arguments)
    process.start()
    return process


def finish(process: ForkServerProcess) -> None:
    """Wait for the end of a run that nobody kills."""
    process.join(LIMIT_S)
    if process.exitcode != 0:
        process.kill()
        raise RuntimeError(f"a scoring ended with {process.exitcode}")


def half_files(out: Path) -> int:
    """Files under final names that are not whole."""
    found = [one for one in out.glob("*.root") if not one.name.startswith(".")]
    return sum(not _is_whole(one) for one in found)


def _is_whole(path: Path) -> bool:
    try:
        stamp = stamp_of(str(path))
        with open_source(str(path)) as source:
            values = source.read(list(source.columns), 0, source.num_entries)
            return stamp is not None and all(len(one) == stamp.alignment.entries for one in values.values())
    except DataError:
        return False


def seen(out: Path) -> dict[str, Any]:
    """All that stands in the outputs, hidden files included."""
    found: dict[str, Any] = {}
    for path in sorted(out.iterdir()):
        digest = hashlib.sha256()
        with open_source(str(path)) as source:
            for name, column in source.read(list(source.columns), 0, source.num_entries).items():
                digest.update(name.encode() + np.asarray(column).tobytes())
        found[path.name] = (digest.hexdigest(), stamp_of(str(path)))
    return found


def hashes(files: Sequence[str]) -> list[str]:
    """Of the bytes of files."""
    return [hashlib.sha256(Path(one).read_bytes()).hexdigest() for one in files]


def kill_at_random(folder: Path, files: Sequence[str], bundle: str, kills: int, seed: int) -> dict[str, Any]:
    """Kill until there were so many kills, finishing each run that was killed a few times."""
    chance = random.Random(seed)
    began = time.monotonic()
    finish(start(bundle, files, str(folder / "whole"), 2))
    whole_s = time.monotonic() - began
    before, wanted = hashes(files), seen(folder / "whole")
    told = {"kills": 0, "runs": 0, "parts_left": 0, "half_files": 0, "equal": 0}
    while told["kills"] < kills:
        out = folder / f"run-{told['runs']}"
        for _ in range(min(4, kills - told["kills"])):
            process = start(bundle, files, str(out), chance.choice((0, 1, 2)))
            time.sleep(chance.random() * whole_s)
            if not process.is_alive():
                break
            process.kill()
            process.join()
            told["kills"] += 1
            told["parts_left"] += sum(1 for _ in out.glob(".*.part"))
            told["half_files"] += half_files(out)
        finish(start(bundle, files, str(out), 2))
        told["runs"] += 1
        told["equal"] += seen(out) == wanted
    return told | {"inputs_untouched": hashes(files) == before, "seconds": round(time.monotonic() - began, 1)}


@click.command()
@click.option("--kills", default=20, show_default=True, help="In all.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line (always so).")
def main(*, kills: int, seed: int, as_json: bool) -> None:
    """Kill scorings, and look what is left."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = mlp(folder / "model").home
        files = write_files(folder / "files")
        click.echo(json.dumps(kill_at_random(folder, files, str(bundle), kills, seed)))


if __name__ == "__main__":
    main()
