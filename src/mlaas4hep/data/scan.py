"""One pass over all events before training: what the contract and the weights must know of the data.

Features are measured on the training part alone, so that nothing of the test part leaks into the scaling; counts and
sums of weights are of all parts. Invariant: partial results are folded in plan order, so two runs give the same bits
whatever the number of threads (law 9).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.arguments import whole
from mlaas4hep.config import bytes_of
from mlaas4hep.data.account import Counts
from mlaas4hep.data.asked import require_catalogue
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.duplicates import DuplicateFinder, Duplicates, EventHasher
from mlaas4hep.data.entries import SampleEntry, Strata
from mlaas4hep.data.hashing import UInt64
from mlaas4hep.data.measuring import loops
from mlaas4hep.data.owners import Owners
from mlaas4hep.data.pace import readers, reading_unit
from mlaas4hep.data.plan import Chunk, Plan
from mlaas4hep.data.prefetch import Prefetch
from mlaas4hep.data.reader import MAX_READ_BYTES, EventReader, Events, reading_bytes
from mlaas4hep.data.split import PARTS
from mlaas4hep.data.strata import ClassTally, Met
from mlaas4hep.errors import DataError
from mlaas4hep.spec.accumulate import StatisticsAccumulator
from mlaas4hep.spec.features import EVENT
from mlaas4hep.spec.measuring import Loops, measured
from mlaas4hep.spec.padding import truncated_objects
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.statistics import SampleCounts, Statistics, WeightSums

Taken = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Entries and labels of the events that a sample selects."""
Hashed = tuple[NDArray[np.int64], UInt64]
"""Entries of the events that a sample selects, and what tells whether two are the same."""
Word = TypeVar("Word", np.int64, np.uint64)


@dataclass(frozen=True)
class Weighed:
    """Part, label and physics weight of events, [n] each."""

    parts: NDArray[np.int8]
    labels: NDArray[np.int64]
    weights: NDArray[np.float64]

    @classmethod
    def concat(cls, parts: list[Weighed]) -> Weighed:
        """Join events."""
        return cls(
            np.concatenate([one.parts for one in parts]),
            np.concatenate([one.labels for one in parts]),
            np.concatenate([one.weights for one in parts]),
        )


@dataclass(frozen=True)
class ScanResult:
    """What a pass finds.

    Parameters
    ----------
    statistics
        Of all that was read.
    files
        What became of the entries of each file, in catalogue order (law 8).
    strata
        Of each file: see `mlaas4hep.data.strata`.
    duplicates
        Events that are there more than once; None where they were not looked for.
    """

    statistics: Statistics
    files: tuple[Counts, ...]
    strata: tuple[Strata, ...]
    duplicates: Duplicates | None = None


def scan(
    catalogue: Catalogue,
    preprocessor: Preprocessor,
    *,
    threads: int = 2,
    max_memory: int | str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Statistics:
    """Statistics of a catalogue: see `scan_files`, of which this is the one half."""
    return scan_files(catalogue, preprocessor, threads=threads, max_memory=max_memory, progress=progress).statistics


def scan_files(
    catalogue: Catalogue,
    preprocessor: Preprocessor,
    *,
    threads: int = 2,
    max_memory: int | str | None = None,
    duplicates: bool = False,
    progress: Callable[[int], None] | None = None,
) -> ScanResult:
    """Read every event of a catalogue once.

    Parameters
    ----------
    catalogue, preprocessor
        What is read, and what is made of it.
    threads
        That read ahead; changes speed only.
    max_memory
        Bytes that columns may take while they are read; changes no figure. None leaves it at some 100 MB a thread.
    duplicates
        Whether to look for events that are there more than once (`mlaas4hep.data.duplicates`).
    progress
        Called with a number of further events done, in the caller's thread.

    Returns
    -------
    Figures of the features over the training part; counts of every sample over all parts; sums of physics weights of
    each class over the training part (classes without events included), or figures of the targets.

    Raises
    ------
    DataError
        Whatever is wrong in the files: the scan is the first to read every byte that training needs. And events that
        two samples take for different classes. A catalogue of kind ``data``: its events have no training part.
    """
    require_catalogue(catalogue, preprocessor)
    threads, max_memory = whole(threads, "threads", error=DataError), bytes_of(max_memory, "max_memory")
    if catalogue.kind != "mc":
        raise DataError("the scan is of samples that are learned from; a catalogue of kind data has no training part")
    entries = reading_unit(preprocessor)
    plan = Plan(catalogue.files, catalogue.num_entries or 1, shuffle=False, chunk_entries=entries)
    threads = readers(catalogue, threads)
    read_bytes = MAX_READ_BYTES if max_memory is None else reading_bytes(max_memory // 2, threads=threads)
    hasher = EventHasher(catalogue, preprocessor) if duplicates else None
    reader = EventReader(catalogue, preprocessor, max_read_bytes=min(read_bytes, MAX_READ_BYTES), hasher=hasher)

    measuring = loops(catalogue.num_entries * preprocessor.features.width)
    owners, tally = Owners(catalogue), ClassTally(catalogue)

    def measure(chunk: Chunk) -> tuple[StatisticsAccumulator, Counts, Taken | None, Met | None, Hashed | None]:
        file = catalogue.files[chunk.file]
        partial, counts = _accumulator(preprocessor, measuring), Counts()
        taken: list[Taken] = []
        weighed: list[Weighed] = []
        hashed: list[Hashed] = []
        scale = catalogue.samples[file.sample].scale
        for events in reader.read(file, chunk.start, chunk.stop):
            _add_inputs(partial, events, preprocessor, measuring)
            kept = events.rows.kept
            weighed.append(Weighed(events.parts[kept], events.labels[kept], events.weights[kept] * scale))
            counts += Counts.of(events.fates)
            if events.hashes is not None:
                hashed.append((events.entries[kept], events.hashes[kept]))
            if owners.wants(file) or tally.wants(file):
                taken.append((events.entries[kept], events.labels[kept]))
        # Sums over the whole chunk: they must not hang on how it was cut to save memory.
        _add_counts(partial, Weighed.concat(weighed), counts, catalogue.samples[file.sample], catalogue.classes)
        joined = _joined(taken) if taken else None
        met = tally.meet(file, (chunk.start, chunk.stop), *joined) if joined is not None and tally.wants(file) else None
        return partial, counts, joined if owners.wants(file) else None, met, _joined(hashed) if hashed else None

    total = _empty(catalogue, preprocessor, measuring)
    files = [Counts()] * len(catalogue.files)
    with ExitStack() as stack:
        finder = stack.enter_context(DuplicateFinder(catalogue, hasher.by)) if hasher is not None else None
        results = stack.enter_context(
            Prefetch(measure, tuple(plan.chunks()), threads=threads, ahead=(threads + 1) * entries)
        )
        for chunk, (partial, counts, taken, met, hashed) in results:
            total.merge(partial)
            if taken is not None:
                owners.claim(catalogue.files[chunk.file], *taken)
            if met is not None:
                tally.add(catalogue.files[chunk.file], met)
            if finder is not None and hashed is not None:
                finder.add(catalogue.files[chunk.file], *hashed)
            files[chunk.file] += counts
            if progress is not None:
                progress(chunk.num_entries)
        found = None if finder is None else finder.find()
    reader.close()
    owners.check()
    return ScanResult(total.seal(), tuple(files), tally.strata(), found)


def _empty(catalogue: Catalogue, preprocessor: Preprocessor, loops: Loops) -> StatisticsAccumulator:
    accumulator = _accumulator(preprocessor, loops)
    for name in catalogue.classes:
        accumulator.add_class(name, WeightSums())
    return accumulator


def _accumulator(preprocessor: Preprocessor, loops: Loops) -> StatisticsAccumulator:
    features = preprocessor.features
    sizes = {group.name: len(group.variables) for group in features.inputs}
    return StatisticsAccumulator(sizes, targets=tuple(features.target_texts), loops=loops)


def _add_inputs(total: StatisticsAccumulator, events: Events, preprocessor: Preprocessor, loops: Loops) -> None:
    train = events.rows.kept & (events.parts == PARTS.index("train"))
    found = measured(events.rows, train, loops)
    if size := len(preprocessor.features.target_texts):
        # They stand behind the variables of the group, or alone.
        found[EVENT], targets = found[EVENT][:-size], found[EVENT][-size:]
        total.add_targets(targets)
    total.add_measured(found)
    longest = {group.name: group.length or 0 for group in preprocessor.features.inputs}
    lengths = {one.name: one.lists[0].counts[train] for one in events.rows.collections}
    total.add_lengths(lengths, {name: truncated_objects(one, longest[name]) for name, one in lengths.items()})


def _add_counts(
    total: StatisticsAccumulator, events: Weighed, counts: Counts, sample: SampleEntry, classes: tuple[str, ...]
) -> None:
    by_part = np.bincount(events.parts, minlength=len(PARTS)).tolist()
    each = dict.fromkeys(sample.rule.classes) if sample.rule is not None else {}
    by_class = {name: WeightSums.of(events.weights[events.labels == classes.index(name)]) for name in each}
    found = SampleCounts(
        counts.read,
        WeightSums.of(events.weights),
        **dict(zip(PARTS, by_part, strict=True)),
        classes=by_class or msgspec.UNSET,
    )
    total.add_sample(sample.name, found)
    train = events.parts == PARTS.index("train")
    total.add_target_weights(WeightSums.of(events.weights[train]))
    for name in each or [classes[sample.label]] if classes else []:
        own = train & (events.labels == classes.index(name))
        total.add_class(name, WeightSums.of(events.weights[own]))


def _joined(taken: list[tuple[NDArray[np.int64], NDArray[Word]]]) -> tuple[NDArray[np.int64], NDArray[Word]]:
    return np.concatenate([one for one, _ in taken]), np.concatenate([one for _, one in taken])
