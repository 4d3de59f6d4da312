"""What far files cost: bytes over the network an epoch, and the seconds that the line takes for them.

Measured by reading a few clusters with as many threads as a run has, side by side. Invariant: what was measured is told
with the estimate; nothing is read but what a run reads too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import msgspec

from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.places import LOCAL, open_place, scheme_of
from mlaas4hep.data.places.effort import PROCESS
from mlaas4hep.data.source import Source, Weighed
from mlaas4hep.errors import DataError

# Enough to see the rate of a line, little enough to wait for.
_MOST_BYTES = 32_000_000


class Network(msgspec.Struct, frozen=True):
    """An epoch over the network.

    Parameters
    ----------
    epoch_bytes
        Of the columns that are read, of all far files.
    epoch_seconds
        That the line takes for them; learning and inflating go on meanwhile.
    measured_clusters, measured_bytes, measured_seconds
        What the rate of the line was found on.
    threads
        That read at the same time.
    """

    epoch_bytes: int
    epoch_seconds: float
    measured_clusters: int
    measured_bytes: int
    measured_seconds: float
    threads: int

    @property
    def bytes_per_s(self) -> float:
        """Rate of the line."""
        return self.measured_bytes / max(self.measured_seconds, 1e-9)


def far_files(files: Sequence[FileEntry]) -> list[FileEntry]:
    """Those that do not lie on this machine."""
    return [one for one in files if scheme_of(one.path) != LOCAL]


def measure_network(
    files: Sequence[FileEntry],
    names: Sequence[str],
    *,
    stored: int | None,
    file_bytes: int,
    unit: int,
    threads: int,
    skips: bool,
) -> Network | None:
    """Read a few clusters and time it.

    Parameters
    ----------
    files
        Far ones.
    names
        Columns; what a file has not is not read.
    stored
        Bytes of them in all files; None where the format does not tell, then they are taken from what was read.
    file_bytes
        Of the whole files: small ones come whole when they are opened.
    unit
        No more entries are read at once.
    threads
        That read at the same time, at least one.
    skips
        Whether clusters that cannot be read are passed over.

    Returns
    -------
    None where nothing could be read.

    Raises
    ------
    DataError
        A cluster that cannot be read and may not be passed over.
    """
    threads = max(threads, 1)

    def opened(file: FileEntry) -> Source | None:
        try:
            return file.open()
        except DataError:
            if not skips:
                raise
            return None

    def read(one: tuple[Source, int, int]) -> int:
        source, start, stop = one
        try:
            source.read([name for name in names if name in source.columns], start, stop)
        except DataError:
            if not skips:
                raise
            return 0
        return stop - start

    with ThreadPoolExecutor(threads) as pool, ExitStack() as closing:
        chosen = [files[number * len(files) // threads] for number in range(threads)]
        sources = [one for one in pool.map(opened, chosen) if one is not None]
        for source in sources:
            closing.callback(source.close)
        ranges = _chosen(sources, names, unit)
        before, begin = PROCESS.so_far().bytes, time.perf_counter()
        entries = list(pool.map(read, ranges))
        seconds, fetched = time.perf_counter() - begin, PROCESS.so_far().bytes - before
    if not sum(entries):
        return None
    if not fetched:
        return _whole(files[0], file_bytes)
    total = stored if stored is not None else round(fetched / sum(entries) * sum(one.num_entries for one in files))
    clusters = sum(map(bool, entries))
    return Network(total, total / fetched * seconds, clusters, fetched, seconds, threads)


def _whole(file: FileEntry, file_bytes: int) -> Network:
    """Where nothing is left to be read after the opening: the rate of the line, from the bytes of one file."""
    begin = time.perf_counter()
    place = open_place(file.path, replicas=file.replicas)
    try:
        fetched = sum(len(one) for one in place.read([(0, min(place.size, _MOST_BYTES))]))
    finally:
        place.close()
    seconds = time.perf_counter() - begin
    return Network(file_bytes, file_bytes / max(fetched, 1) * seconds, len(file.clusters) - 1, fetched, seconds, 1)


def _chosen(sources: Sequence[Source], names: Sequence[str], unit: int) -> list[tuple[Source, int, int]]:
    """A cluster of each, spread over the file where one file is opened several times; not too many bytes in all."""
    ranges: list[tuple[Source, int, int]] = []
    left = _MOST_BYTES
    for number, source in enumerate(sources):
        cluster = number * (len(source.clusters) - 1) // len(sources)
        start, stop = source.clusters[cluster : cluster + 2].tolist()
        stop = min(stop, start + unit)
        if isinstance(source, Weighed):
            left -= source.weigh([name for name in names if name in source.columns], start, stop).stored
        if left < 0 and ranges:
            break
        ranges.append((source, start, stop))
    return ranges
