"""Does a stream that was killed go on where it was? Real processes, SIGKILL at random moments, other threads.

``python -m benchmarks.kills --json [--points 200]`` prints one JSON line a mode. A consumer appends each batch to a log
and then replaces its saved state; it is killed again and again, each time resumed with other threads and chunks, until
there were so many kills while it streamed. SHA-256 of the log of (file, entry), and of all bits, must be that of a run
that nobody disturbed, which is itself made with 0, 1, 2 and 4 threads and three chunk sizes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.damage.bases import NARROW, narrow
from benchmarks.damage.judge import bits, config_of, dataset
from mlaas4hep.config import Cache
from mlaas4hep.testing import Format, write_events

THREADS = (0, 1, 2, 4)
CHUNKS = (700, 2_500, None)
EVENTS, CLUSTER, WINDOW = 9_000, 1_000, 5_000
EPOCHS = 2
LIMIT_S = 120.0
_STATE, _UNFINISHED = "state.json", "state.tmp"
_LOGS = ("entries", "bits")


@dataclass(frozen=True)
class Mode:
    """How a stream is set up."""

    shuffle: bool | Literal["exact"] = True
    cached: bool = False
    on_error: str = "stop"


MODES = {
    "order of the files": Mode(shuffle=False),
    "windows": Mode(),
    "cache": Mode(cached=True),
    "exact": Mode(shuffle="exact", cached=True),
    "quarantine": Mode(on_error="skip"),
    "exact with quarantine": Mode(shuffle="exact", cached=True, on_error="skip"),
}


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=20, help="kills while it streams, of each mode")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", action="store_true", help="JSON lines (always so)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        files = write_files(Path(name) / "files")
        for mode in asked.modes:
            found = compare(Path(name), files, mode, points=asked.points, seed=asked.seed)
            print(json.dumps({"mode": mode} | found), flush=True)


def write_files(folder: Path) -> list[str]:
    """Three good files, TTree and RNTuple, and one with a cluster that cannot be read."""
    folder.mkdir()
    paths = []
    formats: tuple[Format, ...] = ("ttree", "rntuple", "ttree", "ttree")
    for number, format in enumerate(formats):
        path = folder / f"events_{number}.root"
        write_events(path, narrow(EVENTS, seed=number), format=format, cluster=CLUSTER)
        paths.append(str(path))
    spoil(Path(paths[-1]))
    return paths


def spoil(path: Path) -> None:
    """Overwrite the head of a basket in the fourth cluster."""
    import uproot

    with uproot.open(path) as file:
        seek = int(file["Events"]["y"].member("fBasketSeek")[3])
    data = bytearray(path.read_bytes())
    data[seek : seek + 8] = b"\xff" * 8
    path.write_bytes(data)


@dataclass(frozen=True)
class Consumer:
    """Who reads the stream: everything that a new process must know.

    Parameters
    ----------
    files
        The last one is damaged; it is left out where nothing may be.
    mode
        Name in `MODES`.
    folder
        Of the saved state, the logs, and the cache.
    threads, chunk_entries
        See `mlaas4hep.data.dataset.EventDataset`.
    """

    files: Sequence[str]
    mode: str
    folder: Path
    threads: int
    chunk_entries: int | None

    def consume(self) -> None:
        """Stream from the saved state, or from the beginning, to the end; log every batch."""
        mode = MODES[self.mode]
        files = list(self.files if mode.on_error != "stop" else self.files[:-1])
        cache = Cache(path=str(self.folder / "cache")) if mode.cached else None
        stream = dataset(
            config_of(files, NARROW, mode.on_error),
            shuffle=mode.shuffle,
            shuffle_window=WINDOW,
            threads=self.threads,
            chunk_entries=self.chunk_entries,
            cache=cache,
        )
        saved = self.saved()
        with stream, open(self.log("entries"), "ab") as entries, open(self.log("bits"), "ab") as rows:
            for log, length in zip((entries, rows), saved["lengths"], strict=True):
                log.truncate(length)
            for epoch in range(self.epoch, EPOCHS):
                with stream.epoch(epoch) as batches:
                    if saved["state"] and epoch == saved["state"]["epoch"]:
                        batches.load_state_dict(saved["state"])
                    for batch in batches:
                        entries.write(batch.entries.tobytes())
                        rows.write(bits(batch).tobytes())
                        entries.flush()
                        rows.flush()
                        self.save(batches.state_dict(), [entries.tell(), rows.tell()])

    def saved(self) -> dict[str, Any]:
        """What was saved last."""
        try:
            found: dict[str, Any] = json.loads((self.folder / _STATE).read_text(encoding="ascii"))
        except FileNotFoundError:
            return {"state": None, "lengths": [0, 0]}
        return found

    @property
    def epoch(self) -> int:
        """In which it is."""
        state = self.saved()["state"]
        return int(state["epoch"]) if state else 0

    def save(self, state: dict[str, Any], lengths: list[int]) -> None:
        """Replace what was saved: the old or the new, never a part."""
        (self.folder / _UNFINISHED).write_text(json.dumps({"state": state, "lengths": lengths}), encoding="ascii")
        os.replace(self.folder / _UNFINISHED, self.folder / _STATE)

    def log(self, name: str) -> Path:
        """Where a log is."""
        return self.folder / name

    def hashes(self) -> dict[str, str]:
        """SHA-256 of the logs."""
        return {f"{name}_sha256": hashlib.sha256(self.log(name).read_bytes()).hexdigest() for name in _LOGS}

    def entries(self) -> list[tuple[int, int]]:
        """Every (file, entry) of the log, in order."""
        found = np.frombuffer(self.log("entries").read_bytes(), dtype=ENTRY)
        return list(zip(found["file"].tolist(), found["entry"].tolist(), strict=True))


ENTRY = np.dtype([("file", "<i4"), ("entry", "<i8")])


def start(consumer: Consumer) -> ForkServerProcess:
    """A process of its own that consumes; imports are done once for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.damage.judge", "uproot", "mlaas4hep.data.cache"])
    consumer.folder.mkdir(parents=True, exist_ok=True)
    process = context.Process(target=consumer.consume)
    process.start()
    return process


def finish(process: ForkServerProcess) -> None:
    """Wait for the end of a run that nobody kills."""
    process.join(LIMIT_S)
    if process.is_alive():
        process.kill()
        raise RuntimeError(f"a stream did not end within {LIMIT_S:.0f} s")
    if process.exitcode != 0:
        raise RuntimeError(f"a stream ended with {process.exitcode}")


def compare(folder: Path, files: Sequence[str], mode: str, *, points: int, seed: int) -> dict[str, Any]:
    """Undisturbed runs, and killed ones until there were so many kills."""
    chance = random.Random(f"{seed}:{mode}")
    place = folder / mode.replace(" ", "_")
    whole = [*undisturbed(files, mode, place)]
    reference = whole[0][0]
    tally = Tally()
    while tally.kills < points:
        consumer = killed_run(files, mode, place / f"killed-{tally.runs}", chance, tally, points, whole[0][1])
        tally.add(reference, consumer)
    told = {"undisturbed": len(whole), "undisturbed_equal": sum(one.hashes() == reference.hashes() for one, _ in whole)}
    return told | vars(tally) | reference.hashes()


def undisturbed(files: Sequence[str], mode: str, folder: Path) -> Iterator[tuple[Consumer, float]]:
    """Every number of threads with every chunk size, and how long each streamed."""
    for threads in THREADS:
        for chunk in CHUNKS:
            consumer = Consumer(files, mode, folder / f"whole-{threads}-{chunk}", threads, chunk)
            process = start(consumer)
            wait_for_state(process, consumer, 0)
            started = time.monotonic()
            finish(process)
            yield consumer, time.monotonic() - started


@dataclass
class Tally:
    """What was counted over the killed runs.

    Parameters
    ----------
    kills
        While it streamed: after its first batch.
    kills_before
        Before its first batch: while files were opened, or the first window was read.
    kills_while_filling
        Of all these, those after which the cache was not yet whole.
    kills_while_saving
        Of all these, those that left a state half written.
    """

    runs: int = 0
    kills: int = 0
    kills_before: int = 0
    kills_while_filling: int = 0
    kills_while_saving: int = 0
    equal: int = 0
    missing: int = 0
    twice: int = 0

    def add(self, reference: Consumer, consumer: Consumer) -> None:
        """A run that came to its end."""
        self.runs += 1
        self.equal += consumer.hashes() == reference.hashes()
        # Each epoch has every event once: as often as there are epochs, all in all.
        wanted, found = (sorted(one.entries()) for one in (reference, consumer))
        if wanted != found:
            self.missing += len(set(wanted) - set(found))
            self.twice += max(len(found) - len(wanted), 0)


def killed_run(
    files: Sequence[str], mode: str, folder: Path, chance: random.Random, tally: Tally, points: int, streaming_s: float
) -> Consumer:
    """One run, killed up to five times, then left to end."""
    for _ in range(5):
        consumer = Consumer(files, mode, folder, chance.choice(THREADS), chance.choice(CHUNKS))
        before = _written(consumer)
        process = start(consumer)
        if tally.kills >= points:
            break
        if chance.random() < 0.2:
            time.sleep(chance.random() * 0.3)
        else:
            wait_for_state(process, consumer, before)
            time.sleep(chance.random() * streaming_s / 2)
        if not process.is_alive():
            break
        process.kill()
        process.join()
        if process.exitcode == 0:  # it came to its end in between
            break
        streamed = _written(consumer) != before
        tally.kills += streamed
        tally.kills_before += not streamed
        tally.kills_while_saving += (folder / _UNFINISHED).exists()
        tally.kills_while_filling += MODES[mode].cached and consumer.epoch == 0
    else:
        process = start(consumer)
    finish(process)
    return consumer


def wait_for_state(process: ForkServerProcess, consumer: Consumer, before: int) -> None:
    """Until a batch was logged, or the process ended."""
    end = time.monotonic() + LIMIT_S
    while _written(consumer) == before and process.exitcode is None and time.monotonic() < end:
        time.sleep(0.001)


def _written(consumer: Consumer) -> int:
    try:
        return (consumer.folder / _STATE).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


if __name__ == "__main__":
    main()
