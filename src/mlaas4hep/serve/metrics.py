"""What a server did, counted: a few additions a request, made into text when somebody asks.

The counts are Python's own numbers, changed on the event loop alone, so there is no lock. Each of several workers lays
a copy of its counts into a folder in memory twice a second, and who is asked adds those of the others to its own.
Invariant: a count never goes back, not when a worker is killed and its successor takes the number over; what it counted
after its last copy, half a second at most, is lost with it.
"""

from __future__ import annotations

import logging
import os
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import time
from typing import Any

import msgspec

from mlaas4hep.serve.exposition import Process, Totals, read_process, to_text
from mlaas4hep.serve.hooks import Seen, SeenTogether
from mlaas4hep.serve.model import ServedModel

PUBLISH_S = 0.5
# Upper bounds of the latency histogram.
BOUNDS_S = (.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1.0, 2.5, 5.0, 10.0)  # fmt: skip
# Names that are counted one by one; of more there is one sum, so that no client can fill the memory with new ones.
MAX_MODELS = 4096
_OTHER = ("other", "")

# Places in the list of one model: reasons of failures, sums of seconds, what was run, then the histogram.
_REJECTED, _CANCELED, _BACKEND, _ELSE, _FAILED_S = range(5)
_TOTAL_S, _QUEUE_S, _READ_S, _WRITE_S, _ROWS, _RUNS, _RUN_S, _LAST_S = range(5, 13)
_BUCKETS = 13
_SIZE = _BUCKETS + len(BOUNDS_S) + 1

_log = logging.getLogger(__name__)


class Counts(msgspec.Struct):
    """What one process, or several together, did with one version of a model."""

    model: str
    version: str
    sums: list[float] = msgspec.field(default_factory=lambda: [0] * _SIZE)
    batches: dict[int, list[float]] = {}

    def add(self, other: Counts) -> None:
        """Add another's counts; the time of the last question is the later one."""
        last_s = max(self.sums[_LAST_S], other.sums[_LAST_S])
        self.sums = [one + two for one, two in zip(self.sums, other.sums, strict=True)]
        self.sums[_LAST_S] = last_s
        for rows, (runs, seconds) in list(other.batches.items()):
            mine = self.batches.setdefault(rows, [0, 0.0])
            mine[0] += runs
            mine[1] += seconds

    def totals(self) -> Totals:
        """Under names."""
        sums = self.sums
        return Totals(
            model=self.model,
            version=self.version,
            failures={
                "REJECTED": int(sums[_REJECTED]),
                "CANCELED": int(sums[_CANCELED]),
                "BACKEND": int(sums[_BACKEND]),
                "OTHER": int(sums[_ELSE]),
            },
            failed_s=sums[_FAILED_S],
            total_s=sums[_TOTAL_S],
            queue_s=sums[_QUEUE_S],
            read_s=sums[_READ_S],
            run_s=sums[_RUN_S],
            write_s=sums[_WRITE_S],
            rows=int(sums[_ROWS]),
            runs=int(sums[_RUNS]),
            last_s=sums[_LAST_S],
            buckets=tuple(int(one) for one in sums[_BUCKETS:]),
            batches={rows: (int(runs), seconds) for rows, (runs, seconds) in sorted(self.batches.items())},
        )


class _Snapshot(msgspec.Struct):
    """What a worker lays down for the others."""

    process: Process
    models: list[Counts] = []
    statuses: dict[int, int] = {}
    pending: dict[str, int] = {}
    dropped: int = 0


class Metrics:
    """Counts of one process, and with those of its siblings the text of ``GET /metrics``.

    Parameters
    ----------
    folder
        Where several workers lay their counts; None where there is one.
    worker
        The number of this one.
    pending
        Questions that wait now, by ``NAME/VERSION``.
    dropped
        Lines that the access log could not keep.
    """

    def __init__(
        self,
        *,
        folder: Path | None = None,
        worker: int = 0,
        pending: Callable[[], Mapping[str, int]] = dict,
        dropped: Callable[[], int] = int,
    ) -> None:
        self._file = folder / f"worker-{worker}" if folder else None
        self._worker = worker
        self._pending, self._dropped = pending, dropped
        self._counts: dict[tuple[str, str], Counts] = {}
        self._statuses = [0] * 600
        self._before = self._restore()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if self._file is not None:
            self._publish()  # so that a successor knows of this start, however soon this one dies
            self._thread = threading.Thread(target=self._publish_often, name="mlaas4hep-metrics", daemon=True)
            self._thread.start()

    def seen(self, seen: Seen) -> None:
        """Count a request that was answered."""
        status = seen.status
        self._statuses[status if 0 <= status < 600 else 599] += 1
        model = seen.model
        if model is None:
            return
        counts = self._counts.get((model.name, model.version)) or self._begin(model.name, model.version)
        sums, seconds = counts.sums, seen.seconds
        if status < 400:
            sums[_BUCKETS + bisect_left(BOUNDS_S, seconds)] += 1
            sums[_TOTAL_S] += seconds
            sums[_QUEUE_S] += seen.queue_s
            if seen.run_s:
                sums[_READ_S] += seen.read_s
                sums[_WRITE_S] += seconds - seen.read_s - seen.queue_s - seen.run_s
            sums[_LAST_S] = time()
        else:
            sums[_reason(status)] += 1
            sums[_FAILED_S] += seconds

    def seen_together(self, seen: SeenTogether) -> None:
        """Count requests that one run answered, as `seen` would count each."""
        model, began_s, ended_s = seen.model, seen.began_s, seen.ended_s
        number, begun_s = len(began_s), sum(began_s)
        self._statuses[200] += number
        sums = (self._counts.get((model.name, model.version)) or self._begin(model.name, model.version)).sums
        longest, shortest = ended_s - min(began_s), ended_s - max(began_s)
        bucket = bisect_left(BOUNDS_S, longest)
        if bucket == bisect_left(BOUNDS_S, shortest):
            sums[_BUCKETS + bucket] += number
        else:
            for one in began_s:
                sums[_BUCKETS + bisect_left(BOUNDS_S, ended_s - one)] += 1
        sums[_TOTAL_S] += number * ended_s - begun_s
        sums[_QUEUE_S] += number * seen.read_s - begun_s
        sums[_READ_S] += number * (seen.run_s - seen.read_s)
        sums[_WRITE_S] += number * (ended_s - seen.ran_s)
        sums[_LAST_S] = time()

    def ran(self, model: ServedModel, questions: int, rows: int, seconds: float) -> None:
        """Count a run of a model; as in Triton the time counts for each question that was part of it."""
        counts = self._counts.get((model.name, model.version)) or self._begin(model.name, model.version)
        sums = counts.sums
        sums[_RUNS] += 1
        sums[_ROWS] += rows
        sums[_RUN_S] += seconds * questions
        batch = counts.batches.get(rows)
        if batch is None:
            batch = counts.batches.setdefault(rows if len(counts.batches) < MAX_MODELS else 0, [0, 0.0])
        batch[0] += 1
        batch[1] += seconds

    def text(self) -> str:
        """Everything, in the text format of Prometheus."""
        snapshots = self._snapshots()
        statuses: dict[int, int] = {}
        pending: dict[tuple[str, str], int] = {}
        for one in snapshots:
            for status, count in one.statuses.items():
                statuses[status] = statuses.get(status, 0) + count
            for label, count in one.pending.items():
                name, _, version = label.rpartition("/")
                pending[name, version] = pending.get((name, version), 0) + count
        totals = [counts.totals() for counts in _sum(snapshots)]
        processes = [one.process for one in snapshots]
        return to_text(totals, pending, statuses, processes, BOUNDS_S, dropped=sum(one.dropped for one in snapshots))

    def totals(self, model: str | None = None, version: str | None = None) -> list[Totals]:
        """Of all workers, by model and version; of those that are asked for."""
        found = [counts.totals() for counts in _sum(self._snapshots())]
        return [one for one in found if model in (None, one.model) and version in (None, one.version)]

    def close(self) -> None:
        """Lay the last counts down."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._publish()

    def _begin(self, model: str, version: str) -> Counts:
        key = (model, version) if len(self._counts) < MAX_MODELS else _OTHER
        return self._counts.setdefault(key, Counts(*key))

    def _snapshot(self) -> _Snapshot:
        """Of this process, with what its predecessors under its number left."""
        own = {
            (one.model, one.version): Counts(one.model, one.version, list(one.sums), dict(one.batches))
            for one in list(self._counts.values())
        }
        statuses = {status: count for status, count in enumerate(self._statuses) if count}
        before = self._before
        if before is not None:
            for counts in before.models:
                found = own.setdefault((counts.model, counts.version), Counts(counts.model, counts.version))
                found.batches = {rows: list(batch) for rows, batch in found.batches.items()}
                found.add(counts)
            for status, count in before.statuses.items():
                statuses[status] = statuses.get(status, 0) + count
        process = read_process(self._worker, starts=1 if before is None else before.process.starts + 1)
        dropped = self._dropped() + (before.dropped if before else 0)
        return _Snapshot(process, list(own.values()), statuses, dict(self._pending()), dropped)

    def _snapshots(self) -> list[_Snapshot]:
        own = self._snapshot()
        if self._file is None:
            return [own]
        others = [path for path in sorted(self._file.parent.glob("worker-*")) if path.name != self._file.name]
        found = [snapshot for path in others if path.suffix == "" and (snapshot := _read(path)) is not None]
        return sorted([own, *found], key=lambda one: one.process.worker)

    def _restore(self) -> _Snapshot | None:
        return None if self._file is None else _read(self._file)

    def _publish_often(self) -> None:
        while not self._ended.wait(PUBLISH_S):
            self._publish()

    def _publish(self) -> None:
        if self._file is None:
            return
        part = self._file.with_suffix(".part")
        try:
            part.write_bytes(msgspec.msgpack.encode(self._snapshot()))
            os.replace(part, self._file)
        except OSError as error:  # the counts are older then, until there is room again
            _log.warning("the counts of worker %d cannot be laid down: %s", self._worker, error)


def statistics(totals: Iterable[Totals]) -> dict[str, Any]:
    """The answer of Triton's statistics extension."""
    return {"model_stats": [_statistics(one) for one in totals]}


def _statistics(one: Totals) -> dict[str, Any]:
    succeeded, failed = one.succeeded, sum(one.failures.values())
    return {
        "name": one.model,
        "version": one.version,
        "last_inference": round(one.last_s * 1e3),
        "inference_count": one.rows,
        "execution_count": one.runs,
        "inference_stats": {
            "success": _duration(succeeded, one.total_s),
            "fail": _duration(failed, one.failed_s),
            "queue": _duration(succeeded, one.queue_s),
            "compute_input": _duration(succeeded, one.read_s),
            "compute_infer": _duration(succeeded, one.run_s),
            "compute_output": _duration(succeeded, one.write_s),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _duration(runs, 0.0),
                "compute_infer": _duration(runs, seconds),
                "compute_output": _duration(runs, 0.0),
            }
            for rows, (runs, seconds) in one.batches.items()
        ],
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}


def _reason(status: int) -> int:
    """In Triton's words: refused before it ran, nobody waits any more, the run failed, or the question was wrong."""
    if status == 503:
        return _REJECTED
    if status == 499:
        return _CANCELED
    return _BACKEND if status >= 500 else _ELSE


def _sum(snapshots: Iterable[_Snapshot]) -> list[Counts]:
    found: dict[tuple[str, str], Counts] = {}
    for snapshot in snapshots:
        for counts in snapshot.models:
            key = (counts.model, counts.version)
            found.setdefault(key, Counts(*key)).add(counts)
    return [found[key] for key in sorted(found)]


def _read(path: Path) -> _Snapshot | None:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=_Snapshot)
    except FileNotFoundError:
        return None
