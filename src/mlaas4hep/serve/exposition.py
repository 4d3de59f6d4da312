"""Counts as text in Prometheus' format, under the names that Triton gave them.

Triton's counters have no ``_total``; names of our own begin with ``mlaas4hep_`` or are those of the process collectors
of Prometheus. Invariant: a name stands in one block with its help and type, and each set of labels once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Totals(NamedTuple):
    """What was done with one version of a model; times in seconds, of successful questions but for ``failed_s``.

    Parameters
    ----------
    failures
        By Triton's reason.
    failed_s, total_s, queue_s, read_s, run_s, write_s
        Sums over questions: that failed; from head to answer; in the queue; reading; of the runs; writing.
    rows, runs
        That were run, and in how many runs.
    last_s
        When the last one was answered, of the epoch.
    buckets
        Successful questions by duration, the last beyond all bounds.
    batches
        Rows of a run to the number of such runs, and their seconds.
    """

    model: str
    version: str
    failures: Mapping[str, int]
    failed_s: float
    total_s: float
    queue_s: float
    read_s: float
    run_s: float
    write_s: float
    rows: int
    runs: int
    last_s: float
    buckets: tuple[int, ...]
    batches: Mapping[int, tuple[int, float]]

    @property
    def succeeded(self) -> int:
        """Successful questions."""
        return sum(self.buckets)


class Process(msgspec.Struct, frozen=True):
    """One worker as the system sees it; times of the epoch."""

    worker: int
    started_s: float
    starts: int
    cpu_s: float
    resident_bytes: int
    virtual_bytes: int
    open_fds: int


_STARTED_S = time.time()


def read_process(worker: int, *, starts: int) -> Process:
    """This process, now; what the system does not tell is 0."""
    virtual, resident = _memory()
    times = os.times()
    return Process(worker, _STARTED_S, starts, times.user + times.system, resident, virtual, _open_fds())


def to_text(
    totals: Sequence[Totals],
    pending: Mapping[tuple[str, str], int],
    statuses: Mapping[int, int],
    processes: Sequence[Process],
    bounds_s: Sequence[float],
    *,
    dropped: int,
) -> str:
    """All families, one after the other."""
    parts = [*_counts(totals), *_durations(totals), _pending(totals, pending), _histogram(totals, bounds_s)]
    codes = [({"code": str(status)}, float(count)) for status, count in sorted(statuses.items())]
    parts.append(_family("mlaas4hep_http_responses_total", "counter", "Answers by HTTP status, of all routes", codes))
    gone: Samples = [({}, float(dropped))]
    parts.append(_family("mlaas4hep_access_log_dropped_total", "counter", "Lines that the log could not keep", gone))
    parts += [*_processes(processes), *_machine()]
    return "".join(parts)


Samples = Iterable[tuple[Mapping[str, str], float]]


def _counts(totals: Sequence[Totals]) -> Iterator[str]:
    labels = [_of(one) for one in totals]
    succeeded = zip(labels, (one.succeeded for one in totals), strict=True)
    yield _family("nv_inference_request_success", "counter", "Number of successful inference requests", succeeded)
    failed = [(_of(one) | {"reason": reason}, float(count)) for one in totals for reason, count in one.failures.items()]
    yield _family("nv_inference_request_failure", "counter", "Number of failed inference requests", failed)
    rows = zip(labels, (one.rows for one in totals), strict=True)
    yield _family("nv_inference_count", "counter", "Number of rows that were run", rows)
    runs = zip(labels, (one.runs for one in totals), strict=True)
    yield _family("nv_inference_exec_count", "counter", "Number of runs, each of one batch", runs)


def _durations(totals: Sequence[Totals]) -> Iterator[str]:
    for name, help_, values in (
        ("request", "Cumulative time from the head of a request to its answer", [one.total_s for one in totals]),
        ("queue", "Cumulative time that requests waited for a run", [one.queue_s for one in totals]),
        ("compute_input", "Cumulative time that requests were received and read", [one.read_s for one in totals]),
        ("compute_infer", "Cumulative time that the runs of requests took", [one.run_s for one in totals]),
        ("compute_output", "Cumulative time that answers were made and written", [one.write_s for one in totals]),
    ):
        samples = [(_of(one), float(round(value * 1e6))) for one, value in zip(totals, values, strict=True)]
        yield _family(f"nv_inference_{name}_duration_us", "counter", f"{help_}, in microseconds", samples)


def _pending(totals: Sequence[Totals], pending: Mapping[tuple[str, str], int]) -> str:
    waiting = {(one.model, one.version): 0 for one in totals} | dict(pending)
    samples = [({"model": name, "version": version}, float(count)) for (name, version), count in waiting.items()]
    return _family("nv_inference_pending_request_count", "gauge", "Requests that wait for a run now", samples)


def _histogram(totals: Sequence[Totals], bounds_s: Sequence[float]) -> str:
    name = "mlaas4hep_inference_duration_seconds"
    lines = [_head(name, "histogram", "Time from the head of a successful request to its answer")]
    for one in totals:
        count = 0
        for bound, found in zip([*map(repr, bounds_s), "+Inf"], one.buckets, strict=True):
            count += found
            lines.append(_line(f"{name}_bucket", _of(one) | {"le": bound}, count))
        lines.append(_line(f"{name}_sum", _of(one), one.total_s))
        lines.append(_line(f"{name}_count", _of(one), count))
    return "".join(lines)


def _processes(processes: Sequence[Process]) -> Iterator[str]:
    for name, kind, help_, values in (
        ("process_cpu_seconds_total", "counter", "CPU time of a worker", [one.cpu_s for one in processes]),
        ("process_resident_memory_bytes", "gauge", "Memory of a worker", [one.resident_bytes for one in processes]),
        ("process_virtual_memory_bytes", "gauge", "Addresses of a worker", [one.virtual_bytes for one in processes]),
        ("process_open_fds", "gauge", "Open files of a worker", [one.open_fds for one in processes]),
        ("process_start_time_seconds", "gauge", "Start of a worker", [one.started_s for one in processes]),
        ("mlaas4hep_worker_restarts_total", "counter", "Successors of a worker", [one.starts - 1 for one in processes]),
    ):
        labels = [{"worker": str(one.worker)} for one in processes]
        yield _family(name, kind, help_, zip(labels, values, strict=True))


def _machine() -> Iterator[str]:
    """Memory of the machine, as Triton tells it; nothing where the system does not."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in file}
    except OSError:
        return
    used = float(fields["MemTotal"] - fields["MemAvailable"])
    total = float(fields["MemTotal"])
    yield _family("nv_cpu_memory_total_bytes", "gauge", "Memory of the machine", [({}, total)])
    yield _family("nv_cpu_memory_used_bytes", "gauge", "Used memory of the machine", [({}, used)])


def _family(name: str, kind: str, help_: str, samples: Samples) -> str:
    return _head(name, kind, help_) + "".join(_line(name, labels, value) for labels, value in samples)


def _head(name: str, kind: str, help_: str) -> str:
    return f"# HELP {name} {help_}\n# TYPE {name} {kind}\n"


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{inner}}} {value:.17g}\n" if inner else f"{name} {value:.17g}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _of(one: Totals) -> dict[str, str]:
    return {"model": one.model, "version": one.version}


def _memory() -> tuple[int, int]:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            virtual, resident = (int(word) * _PAGE for word in file.read().split()[:2])
    except OSError:
        return 0, 0
    return virtual, resident


def _open_fds() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0
