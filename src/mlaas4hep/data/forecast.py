"""What a run over files will cost, before it starts: bytes, clusters, windows, memory, seconds.

All but the seconds follows from what the files say of themselves; those come from reading a part of one cluster on this
machine. Invariant: nothing is guessed in silence: what was measured on a part, or is not known, is told as such.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.config import Config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.delivery import known_rows
from mlaas4hep.data.entries import FileEntry
from mlaas4hep.data.fates import any_unreadable
from mlaas4hep.data.holdings import Holdings, look_into_cache
from mlaas4hep.data.hooked import KEPT
from mlaas4hep.data.kept_statistics import StatisticsStore, scan_key
from mlaas4hep.data.network import Network, far_files, measure_network
from mlaas4hep.data.pace import readers, reading_unit
from mlaas4hep.data.places import LOCAL, open_place, scheme_of
from mlaas4hep.data.plan import STRANDS, Plan
from mlaas4hep.data.pool import SourcePool
from mlaas4hep.data.quarantine import Skipped
from mlaas4hep.data.reader import MAX_READ_BYTES, EventReader, reading_bytes
from mlaas4hep.data.rows import SIDE_BYTES, writer
from mlaas4hep.data.scan import ScanResult
from mlaas4hep.data.source import Weighed
from mlaas4hep.data.truth import target_texts
from mlaas4hep.errors import DataError
from mlaas4hep.spec.preprocess import Preprocessor

# Of more files, so many spread over all are weighed; their sizes are known of all.
_MOST_WEIGHED = 32
_TINY = 1_000
_WARM_UP = 256
_LONG_WAIT = 4
_COPIES = 4
# Files in which a cluster is looked for that can be read, to be measured.
_MOST_TRIED = 8


class Clusters(msgspec.Struct, frozen=True):
    """Entries that are stored together: how many such sets there are, and their sizes."""

    count: int
    smallest: int
    median: int
    largest: int


class Order(msgspec.Struct, frozen=True):
    """Of a shuffled epoch: entries a window, windows, clusters mixed in one (fewest, median), entries that wait."""

    window: int
    windows: int
    fewest_clusters: int
    median_clusters: int
    waiting: int


class Memory(msgspec.Struct, frozen=True):
    """Bytes that the stream holds at most, besides the program: two windows, what waits for its own, what is read."""

    windows: int
    waiting: int
    reading: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.windows + self.waiting + self.reading


class Forecast(msgspec.Struct, frozen=True):
    """What a run will cost.

    Parameters
    ----------
    files, remote_files, entries
        Of all samples, a file that several read counted once and its entries each time; remote files are those that do
        not lie on this machine.
    columns, width
        Columns that are read, and numbers an event that come out.
    file_bytes
        Of the whole files.
    stored_bytes, inflated_bytes
        Of the columns that are read, an epoch; None where the format does not tell.
    weighed_files
        Files that these two were found on; those of the others are taken in proportion.
    clusters, order, memory
        See there.
    cache_bytes
        A cache of all rows on disk.
    measured_entries, measured_seconds
        Read in one thread for the estimate, of one cluster; of a far file the seconds of the processor alone. Where a
        cache keeps all rows, kept rows of one block.
    threads, epoch_seconds
        The next epoch of reading with so many threads, without learning: what the processors or the network take,
        whichever is slower. Of what a cache keeps nothing is reckoned, unless it keeps everything.
    statistics_kept
        Whether an earlier run has scanned these files; else the scan takes about another epoch.
    warnings
        What is better changed before the run.
    skipped
        Files that cannot be read, and clusters of those that were tried, which the config allows to leave out.
    network
        What comes from other machines; None where nothing does.
    cache
        What is there of the cache that the config names; None where it names none.
    """

    files: int
    remote_files: int
    entries: int
    columns: int
    width: int
    file_bytes: int
    stored_bytes: int | None
    inflated_bytes: int | None
    weighed_files: int
    clusters: Clusters
    order: Order
    memory: Memory
    cache_bytes: int
    measured_entries: int
    measured_seconds: float
    threads: int
    epoch_seconds: float
    statistics_kept: bool
    warnings: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    network: Network | None = None
    cache: Holdings | None = None


@dataclass(frozen=True)
class _Bytes:
    file_bytes: int
    stored: int | None
    inflated: int | None
    weighed: int


def forecast(config: Config, *, threads: int = 2, progress: Callable[[int], None] | None = None) -> Forecast:
    """Look at the files of a config, and read a part of one cluster.

    Parameters
    ----------
    config
        What would be run.
    threads
        That read ahead; more of them where files are far, as in a run.
    progress
        Called with 1 for each file opened.

    Raises
    ------
    DataError
        A file that cannot be used: what a run would say.
    """
    catalogue = Catalogue.open(config, progress=progress)
    threads = readers(catalogue, threads)
    preprocessor = Preprocessor(catalogue.features, catalogue.types)
    notes: list[str] = []
    key = scan_key(catalogue, preprocessor, duplicates=config.duplicates != "ignore")
    kept = None if key is None else StatisticsStore.of_user().find(key, note=notes.append)
    if kept is not None:  # the order hangs on what the scan found
        catalogue = catalogue.stratified(kept.strata)
    reader = EventReader(catalogue, preprocessor)
    window, unit = config.training.shuffle_window, reading_unit(preprocessor)
    plan = Plan(catalogue.files, window, shuffle=True, seed=config.training.seed, chunk_entries=unit)
    weight = _weigh(catalogue.files, sorted(reader.columns))
    order = _order(plan)
    cache = _cache(config, catalogue, preprocessor, kept)
    told = () if cache is None else tuple(cache.warnings(exact=config.training.shuffle == "exact"))
    network = None
    if cache is not None and cache.is_whole:
        entries, seconds = cache.measured_entries, cache.measured_seconds
    else:
        network = _network(catalogue, sorted(reader.columns), weight, unit, threads)
        entries, seconds = _measure(catalogue, preprocessor, reader, unit)
    rate = entries / max(seconds, 1e-9) * max(min(threads, len(os.sched_getaffinity(0))), 1)
    paths = {one.path for one in catalogue.files}
    row_bytes = 4 * _row_width(catalogue, preprocessor) + SIDE_BYTES
    share = 1.0 if cache is None or cache.is_whole else cache.lacking_share
    epoch_seconds = max(catalogue.num_entries / rate, network.epoch_seconds if network is not None else 0.0)
    return Forecast(
        files=len(paths),
        remote_files=sum(scheme_of(path) != LOCAL for path in paths),
        entries=catalogue.num_entries,
        columns=len(reader.columns - {KEPT}),
        width=preprocessor.features.width,
        file_bytes=weight.file_bytes,
        stored_bytes=weight.stored,
        inflated_bytes=weight.inflated,
        weighed_files=weight.weighed,
        clusters=_clusters(catalogue.files),
        order=order,
        memory=_memory(plan, preprocessor, config, row_bytes, threads),
        cache_bytes=catalogue.num_entries * row_bytes,
        measured_entries=entries,
        measured_seconds=seconds,
        threads=threads,
        epoch_seconds=share * epoch_seconds,
        statistics_kept=kept is not None,
        warnings=(*notes, *_warnings(catalogue, preprocessor, config, order, threads), *told),
        skipped=catalogue.quarantine.records,
        network=network,
        cache=cache,
    )


def _cache(
    config: Config, catalogue: Catalogue, preprocessor: Preprocessor, kept: ScanResult | None
) -> Holdings | None:
    if config.cache is None:
        return None
    rows = known_rows(catalogue, None if kept is None else kept.statistics)
    return look_into_cache(config.cache, catalogue, preprocessor, width=_row_width(catalogue, preprocessor), rows=rows)


def _network(catalogue: Catalogue, names: Sequence[str], weight: _Bytes, unit: int, threads: int) -> Network | None:
    far = far_files(catalogue.files)
    if not far:
        return None
    weight = weight if len(far) == len(catalogue.files) else _weigh(far, names)
    return measure_network(
        far,
        names,
        stored=weight.stored,
        file_bytes=weight.file_bytes,
        unit=unit,
        threads=threads,
        skips=catalogue.quarantine.policy.skips,
    )


def _weigh(files: Sequence[FileEntry], names: Sequence[str]) -> _Bytes:
    """Bytes of whole files, each once, and of columns."""
    sizes = {one.path: _size(one) for one in {one.path: one for one in files}.values()}
    step = -(-len(files) // _MOST_WEIGHED)
    stored = inflated = entries = 0
    chosen = files[::step]
    pool = SourcePool()
    for file in chosen:
        with pool.source(file) as source:
            if not isinstance(source, Weighed):
                pool.close()
                return _Bytes(sum(sizes.values()), None, None, 0)
            found = source.weigh(names, 0, file.num_entries)
        stored, inflated, entries = stored + found.stored, inflated + found.inflated, entries + file.num_entries
    pool.close()
    share = sum(one.num_entries for one in files) / max(entries, 1)
    return _Bytes(sum(sizes.values()), round(stored * share), round(inflated * share), len(chosen))


def _size(file: FileEntry) -> int:
    place = open_place(file.path, replicas=file.replicas)
    place.close()
    return place.size


def _sizes(files: Sequence[FileEntry]) -> NDArray[np.int64]:
    return np.concatenate([np.diff(one.clusters) for one in files])


def _clusters(files: Sequence[FileEntry]) -> Clusters:
    sizes = _sizes(files)
    return Clusters(len(sizes), int(sizes.min()), int(np.median(sizes)), int(sizes.max()))


def _order(plan: Plan) -> Order:
    """Windows of the first epoch, and of how many clusters each has parts."""
    mixed: list[set[tuple[int, int]]] = [set() for _ in range(plan.num_windows)]
    for chunk in plan.chunks():
        bounds = plan.files[chunk.file].clusters
        for piece in chunk.pieces:
            first, last = np.searchsorted(bounds, [piece.start, piece.stop - 1], side="right")
            mixed[piece.window] |= {(chunk.file, number) for number in range(int(first), int(last) + 1)}
    counts = [len(one) for one in mixed]
    return Order(plan.window, plan.num_windows, min(counts), int(np.median(counts)), plan.most_held)


def _row_width(catalogue: Catalogue, preprocessor: Preprocessor) -> int:
    """Numbers a row: targets ride behind the inputs."""
    return preprocessor.features.width + len(target_texts(catalogue, preprocessor))


def _memory(plan: Plan, preprocessor: Preprocessor, config: Config, row_bytes: int, threads: int) -> Memory:
    bound = config.training.max_memory_bytes
    rows = 2 * min(plan.window, plan.num_entries) * row_bytes
    largest = max(one.num_entries for one in plan.chunks())
    waiting = (plan.most_held + max(threads, 1) * largest) * row_bytes
    reading = max(threads, 1) * _COPIES * min(largest * _raw_bytes(preprocessor), MAX_READ_BYTES)
    most = max(threads, 1) * _COPIES * reading_bytes(bound // 4, threads=threads)
    return Memory(rows, min(waiting, max(bound - bound // 4 - rows, 0)), min(reading, most))


def _raw_bytes(preprocessor: Preprocessor) -> int:
    """Of an entry in memory, as `reading_unit` takes it."""
    return sum(40 if one.kind == "jagged" else 8 for one in preprocessor.types.values())


def _measure(catalogue: Catalogue, preprocessor: Preprocessor, reader: EventReader, unit: int) -> tuple[int, float]:
    """Entries of one cluster read and written into rows, and the seconds that took in one thread."""
    local = [one for one in catalogue.files if scheme_of(one.path) == LOCAL] or list(catalogue.files)
    width = _row_width(catalogue, preprocessor)
    write = writer(catalogue.num_entries * width)

    def read(file: FileEntry, start: int, stop: int) -> bool:
        table = np.empty((stop - start, width), dtype=np.float32)
        lost = False
        for events in reader.read(file, start, stop, as_stored=True):
            write.table(events.rows, table, events.entries - start)
            lost |= any_unreadable(events.fates)
        table.copy()  # as batches are copied out of their window
        return not lost

    for file, start, stop in _tried(local, unit):
        # Opening, and compiling the first time, are no part of an epoch; the end leaves nothing inflated for the whole.
        if not read(file, max(start, stop - _WARM_UP), stop):
            continue
        # What this thread waits for a far file, others read meanwhile: the line is measured by itself.
        clock = time.perf_counter if scheme_of(file.path) == LOCAL else time.thread_time
        begin = clock()
        if read(file, start, stop):
            return stop - start, clock() - begin
    raise DataError(f"none of the clusters that were tried can be read; the last: {catalogue.quarantine.records[-1]}")


def _tried(files: Sequence[FileEntry], unit: int) -> Iterator[tuple[FileEntry, int, int]]:
    """The middle cluster of the largest file, and others in case it is damaged: file, first entry, last."""
    for file in sorted(files, key=lambda one: -one.num_entries)[:_MOST_TRIED]:
        clusters = len(file.clusters) - 1
        middle = clusters // 2
        for number in dict.fromkeys((middle, 0, clusters - 1)):
            start, stop = file.clusters[number : number + 2].tolist()
            yield file, start, min(stop, start + unit)


def _warnings(
    catalogue: Catalogue, preprocessor: Preprocessor, config: Config, order: Order, threads: int
) -> Iterator[str]:
    sizes, window = _sizes(catalogue.files), order.window
    if int(sizes.max()) > window:
        yield (
            f"the largest cluster has {int(sizes.max())} entries, more than a window of {window}: its events stay "
            "in neighbouring windows; write smaller clusters (TTree::SetAutoFlush, RNTuple's cluster size) or "
            "raise training.shuffle_window"
        )
    # Events that fit into one cluster of the advised size are read at once, however they lie.
    if int(np.median(sizes)) < _TINY and len(sizes) > 1 and catalogue.num_entries > 10 * _TINY:
        yield (
            f"half of the clusters have {int(np.median(sizes))} entries or fewer: reading so little at a time is "
            f"slow; rewrite the files with clusters of some {10 * _TINY} entries or more (hadd, Snapshot)"
        )
    if order.windows > 1 and order.median_clusters < STRANDS:
        yield (
            f"a window mixes parts of {order.median_clusters} clusters: the shuffle is nearly that of the files; "
            "raise training.shuffle_window"
        )
    yield from _few_clusters(catalogue, order)
    if order.waiting > _LONG_WAIT * window:
        yield (
            f"{order.waiting} entries are read before their window comes, {order.waiting / window:.1f} windows full: "
            "clusters are large for this window"
        )
    try:
        EventDataset(
            catalogue,
            preprocessor,
            shuffle=True,
            shuffle_window=window,
            seed=config.training.seed,
            threads=threads,
            max_memory=config.training.max_memory_bytes,
        ).close()
    except DataError as error:
        yield f"the run would stop: {error}"


def _few_clusters(catalogue: Catalogue, order: Order) -> Iterator[str]:
    """Samples whose strands run dry: they have fewer clusters than would be mixed."""
    if order.windows < 2:
        return
    for sample in catalogue.samples:
        own = [one for one in catalogue.files if one.sample == sample.number]
        clusters = sum(len(one.clusters) - 1 for one in own)
        share = sum(one.num_entries for one in own) / catalogue.num_entries
        wanted = math.ceil(STRANDS * share)
        if clusters < wanted or (clusters == 1 and order.windows > 1):
            yield (
                f"sample '{sample.name}' lies in {clusters} cluster{'s' if clusters > 1 else ''}: over an epoch its "
                "events come in the order of the file, shuffled within a window only"
            )
