"""Stretches of files that hold like classes, where the events of a sample have each their own.

Files are often written class by class. The scan notes what it meets where; from that, stretches of one class, and
stretches of like mixtures, become strata, and an order takes of each its share as it does of samples. So it is with the
events that a sample selects out of files that it shares with others. Invariant: strata are a function of the classes of
the events and of the clusters, not of how they were read; where classes are mixed evenly already, there are none, and
the order is what it is without them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.entries import FileEntry, Strata
from mlaas4hep.data.plan import STRANDS

Int64s = NDArray[np.int64]
Indices = NDArray[np.intp]

# Classes are counted by blocks: clusters, small ones joined, very large ones in equal parts.
LEAST_BLOCK = 1_024
LARGEST_BLOCK = 131_072
# A block is cut where its class changes, if that is so seldom; else it is a mixture.
MOST_CHANGES = 4
# So many events of one class one after another are no accident.
LEAST_RUN = 1_024
# Standard deviations beyond what an even mixture gives by chance.
_UNEVEN = 8.0


@dataclass(frozen=True)
class Met:
    """Classes of the events of one read range.

    Parameters
    ----------
    first
        The first block of which there are events.
    counts
        int64 [B, classes], of it and those after it.
    block, entry, label, count
        int64 [R] each: where events of one class begin, which, and how many follow each other in a block. A block of
        more than ``MOST_CHANGES`` + 2 of these has not all of them.
    """

    first: int
    counts: Int64s
    block: Int64s
    entry: Int64s
    label: Int64s
    count: Int64s


@dataclass(frozen=True)
class _Stretches:
    """Of a file or a sample: where each begins, its entries, and its events by class [S, classes]."""

    start: Int64s
    size: Int64s
    counts: Int64s


class ClassTally:
    """What classes the events of files have, noted range by range.

    Parameters
    ----------
    catalogue
        Files; those of samples whose events are all of one class and all selected are not looked at.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._classes = max(len(catalogue.classes), 2)
        samples = {one.number for one in catalogue.samples if one.rule is not None or one.selection is not None}
        files = [one for one in catalogue.files if one.sample in samples]
        self._blocks = {one.number: block_bounds(one.clusters) for one in files}
        self._met: dict[int, list[Met]] = {one.number: [] for one in files}

    def wants(self, file: FileEntry) -> bool:
        """Whether the events of a file may differ in class, or in being selected."""
        return file.number in self._blocks

    def meet(self, file: FileEntry, stretch: tuple[int, int], entries: Int64s, labels: Int64s) -> Met:
        """Sum up a read range; may be called by several threads.

        Parameters
        ----------
        file
            Of which `wants` is true.
        stretch
            Its first entry and the one after its last.
        entries, labels
            Of the events that are selected and have a class, rising. Where all are of one class, what is looked at is
            which are selected.
        """
        if self._catalogue.samples[file.sample].rule is None:
            start, stop = stretch
            labels = np.ones(stop - start, dtype=np.int64)
            labels[entries - start] = 0
            entries = np.arange(start, stop)
        bounds = self._blocks[file.number]
        if not len(entries):
            nothing = np.zeros(0, dtype=np.int64)
            return Met(0, np.zeros((0, self._classes), dtype=np.int64), nothing, nothing, nothing, nothing)
        first, last = (np.searchsorted(bounds, entries[[0, -1]], side="right") - 1).tolist()
        cuts = np.searchsorted(entries, bounds[first + 1 : last + 1])
        block = np.repeat(np.arange(last - first + 1), np.diff(cuts, prepend=0, append=len(entries)))
        counts = np.bincount(block * self._classes + labels, minlength=(last - first + 1) * self._classes)
        at = _changes(block, labels)
        count = np.diff(at, append=len(labels))
        block = block[at]
        few = np.arange(len(at)) - np.searchsorted(block, block) < MOST_CHANGES + 2
        at, block, count = at[few], block[few], count[few]
        return Met(first, counts.reshape(-1, self._classes), first + block, entries[at], labels[at], count)

    def add(self, file: FileEntry, met: Met) -> None:
        """Note a range; those of a file in their order."""
        self._met[file.number].append(met)

    def strata(self) -> tuple[Strata, ...]:
        """Of every file of the catalogue; empty for a file all of which is one stratum."""
        found: list[Strata] = [()] * len(self._catalogue.files)
        for sample in self._catalogue.samples:
            files = [one.number for one in self._catalogue.files if one.sample == sample.number and self.wants(one)]
            stretches = [_stretches(self._blocks[number], self._met[number], self._classes) for number in files]
            if files and _is_uneven(np.concatenate([one.counts for one in stretches])):
                strata = _apart(stretches)
                for number, one, own in zip(files, stretches, strata, strict=True):
                    at = np.flatnonzero(np.diff(own, prepend=-1))
                    found[number] = tuple(zip(one.start[at].tolist(), own[at].tolist(), strict=True))
        return tuple(found)


def block_bounds(clusters: Int64s) -> Int64s:
    """Entry bounds between which classes are counted: clusters, small ones joined, very large ones in parts."""
    ends = clusters[1:]
    groups = (ends - 1) // LEAST_BLOCK if len(ends) and int(np.diff(clusters).min()) < LEAST_BLOCK else ends
    bounds = np.concatenate([clusters[:1], ends[np.flatnonzero(np.diff(groups, append=-1))]])
    parts = -(-np.diff(bounds) // LARGEST_BLOCK)
    if not len(parts) or int(parts.max()) == 1:
        return bounds
    pieces = [
        low + (high - low) * np.arange(count, dtype=np.int64) // count
        for low, high, count in zip(bounds[:-1].tolist(), bounds[1:].tolist(), parts.tolist(), strict=True)
    ]
    return np.concatenate([*pieces, bounds[-1:]])


def _changes(block: Int64s, labels: Int64s) -> Int64s:
    """Where a block or a class begins."""
    new = np.ones(len(labels), dtype=np.bool_)
    new[1:] = (block[1:] != block[:-1]) | (labels[1:] != labels[:-1])
    return np.flatnonzero(new)


def _stretches(bounds: Int64s, met: Sequence[Met], classes: int) -> _Stretches:
    """A file as its blocks, those cut where their class changes that do so seldom and not by accident."""
    counts = np.zeros((len(bounds) - 1, classes), dtype=np.int64)
    for one in met:
        counts[one.first : one.first + len(one.counts)] += one.counts
    block, entry, label, count = (
        np.concatenate([np.zeros(0, dtype=np.int64), *(getattr(one, name) for one in met)])
        for name in ("block", "entry", "label", "count")
    )
    at = _changes(block, label)  # a block that was read in two ranges has its runs joined
    count = np.add.reduceat(count, at) if len(at) else count
    block, entry, label = block[at], entry[at], label[at]
    runs = np.bincount(block, minlength=len(counts))
    few = runs <= MOST_CHANGES + 1
    inside = few[block]
    block, entry, label, count = block[inside], entry[inside], label[inside], count[inside]
    # Runs go on from block to block, but not through a mixture.
    follows = _changes(np.cumsum(~few)[block], label)
    lengths = np.add.reduceat(count, follows) if len(follows) else count
    short = np.repeat(lengths, np.diff(follows, append=len(block))) < LEAST_RUN
    cut = few & (runs > 1) & (np.bincount(block, weights=short, minlength=len(counts)) == 0)
    inside = cut[block]
    block, entry, label, count = block[inside], entry[inside], label[inside], count[inside]
    own = np.zeros((len(block), classes), dtype=np.int64)
    own[np.arange(len(block)), label] = count
    # What stands before the first event of a class in a block belongs to it.
    begins = np.flatnonzero(np.diff(block, prepend=-1))
    entry[begins] = bounds[block[begins]]
    starts = np.concatenate([bounds[:-1][~cut], entry])
    order = np.argsort(starts, kind="stable")
    starts = starts[order]
    return _Stretches(starts, np.diff(starts, append=bounds[-1]), np.concatenate([counts[~cut], own])[order])


def _is_uneven(counts: Int64s) -> bool:
    """Whether classes are spread over stretches [S, classes] more unevenly than chance does it: a chi-squared test.

    Its spread is that of sums of few events, so that rare classes raise no alarm.
    """
    counts = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    if 0 in counts.shape:
        return False
    events = counts.sum(axis=1, keepdims=True)
    share = counts.sum(axis=0) / counts.sum()
    expected = events * share
    found = float(((counts - expected) ** 2 / expected).sum())
    freedom = (counts.shape[0] - 1) * (counts.shape[1] - 1)
    spread = math.sqrt(2 * freedom + float((1 / events).sum() * (1 / share).sum()))
    return bool(found > freedom + _UNEVEN * spread)


def _apart(files: Sequence[_Stretches]) -> list[Int64s]:
    """Stratum of each stretch of the files of a sample: its class; none; or one of some like mixtures.

    Of mixtures there are at most as many as they would have strands.
    """
    counts = np.concatenate([one.counts for one in files])
    size = np.concatenate([one.size for one in files])
    kinds, classes = np.count_nonzero(counts, axis=1), counts.shape[1]
    strata: Int64s = np.where(kinds == 0, classes, counts.argmax(axis=1))
    mixed = np.flatnonzero(kinds > 1)
    shares = counts[mixed] / counts[mixed].sum(axis=1, keepdims=True)
    parts = -(-STRANDS * int(size[mixed].sum()) // int(size.sum()))
    for number, part in enumerate(_alike(shares, size[mixed], parts)):
        strata[mixed[part]] = classes + 1 + number
    return np.split(strata, np.cumsum([len(one.start) for one in files])[:-1])


def _alike(shares: NDArray[np.float64], size: Int64s, parts: int) -> list[Indices]:
    """Mixtures [M, classes] of sizes [M], parted where that tells most of how they differ: a regression tree."""
    found = [np.arange(len(size))]
    while len(found) < parts:
        splits = [_best_split(one, shares[one], size[one]) for one in found]
        best = max(range(len(found)), key=lambda place: splits[place][0])
        gain, low, high = splits[best]
        if gain <= 0.0:
            break
        found[best : best + 1] = [low, high]
    return found


def _best_split(which: Indices, shares: NDArray[np.float64], size: Int64s) -> tuple[float, Indices, Indices]:
    """Of some mixtures in the order of one class or another, the cut that leaves the least variance within, and how
    much less that is."""
    best = (0.0, which, which[:0])
    for one in shares.T:
        order = np.argsort(one, kind="stable")
        weight = np.cumsum(size[order])
        sums = np.cumsum(shares[order] * size[order, np.newaxis], axis=0)
        low, rest = weight[:-1, np.newaxis], (weight[-1] - weight[:-1])[:, np.newaxis]
        gains = (sums[:-1] ** 2 / low + (sums[-1] - sums[:-1]) ** 2 / rest).sum(axis=1)
        gains[one[order[:-1]] == one[order[1:]]] = 0.0  # like ones stay together
        gains -= (sums[-1] ** 2 / weight[-1]).sum()
        if len(gains) and gains.max() > best[0]:
            at = int(gains.argmax()) + 1
            best = (float(gains[at - 1]), which[order[:at]], which[order[at:]])
    return best
