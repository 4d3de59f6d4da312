"""How well windows mix the classes of one sample whose files are written class by class.

``python -m benchmarks.classes`` prints, for one sample of 5 million entries, 30 % of them signal, in clusters of 50,000
and windows of 100,000: the rms of the signal's share in windows and in batches, in percent and beside what drawing
entries at random would give; how many entries wait in memory; and how often a cluster is read. Designs: the clusters
dealt as they fall; strands by the place in the files, which need no scan; and strata of like classes, which the scan
finds. The layouts of the files are those that people have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import click
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.entries import Strata
from mlaas4hep.data.plan import Plan
from mlaas4hep.data.strata import ClassTally

ENTRIES = 5_000_000
CLUSTER = 50_000
WINDOW = 100_000
BATCH = 256
SIGNAL = 0.3


@dataclass(frozen=True)
class File:
    """A file as a plan and the scan see it, and whether each of its entries is signal."""

    number: int
    clusters: NDArray[np.int64]
    labels: NDArray[np.int8]
    strata: Strata = ()
    sample: int = 0

    @property
    def index(self) -> int:
        """Inside the sample."""
        return self.number


class ByPlace(Plan):
    """Strands of neighbouring clusters in the order of the files, each permuted."""

    def _strata(self, numbers: list[int]) -> Iterator[Any]:
        units = next(super()._strata(numbers))
        order = np.lexsort((units.start, units.file))
        size = units.size[order]
        place = np.empty(len(order), dtype=np.int64)
        place[order] = (2 * np.cumsum(size) - size) * self._wanted_strands // (2 * size.sum())
        for part in np.unique(place):
            yield units.take(np.flatnonzero(place == part))

    def _deal_stratum(self, units: Any) -> Iterator[Any]:
        yield units


def one_sorted() -> list[NDArray[np.int8]]:
    """All signal, then all background."""
    return [(np.arange(ENTRIES) < SIGNAL * ENTRIES - 12_345).astype(np.int8)]


def a_class_a_file(files: int = 10) -> list[NDArray[np.int8]]:
    """Files of signal alone or of background alone."""
    size = ENTRIES // files
    return [np.full(size, (7 * number) % files < SIGNAL * files, dtype=np.int8) for number in range(files)]


def each_sorted(files: int, *, least: float = SIGNAL) -> list[NDArray[np.int8]]:
    """Files that begin with signal, from a share of them to another, and end with background."""
    size = ENTRIES // files
    ends = size * np.random.default_rng(2).uniform(least, 2 * SIGNAL - least, files)
    return [(np.arange(size) < end).astype(np.int8) for end in ends]


def mixtures(*, even: bool) -> list[NDArray[np.int8]]:
    """Files of events at random, with 5 to 55 % of signal, or with 30 %."""
    generator = np.random.default_rng(1)
    shares = np.full(20, SIGNAL) if even else np.linspace(0.05, 0.55, 20)
    return [(generator.random(ENTRIES // 20) < share).astype(np.int8) for share in shares]


LAYOUTS: dict[str, Callable[[], list[NDArray[np.int8]]]] = {
    "one file, sorted by class": one_sorted,
    "10 files of a class each": a_class_a_file,
    "10 files, each sorted": partial(each_sorted, 10),
    "100 files of a cluster, each sorted": partial(each_sorted, 100),
    "100 such files, 10 to 50 % signal": partial(each_sorted, 100, least=0.1),
    "5 files of a cluster, each sorted": partial(each_sorted, 5),
    "20 files, 5 to 55 % signal": partial(mixtures, even=False),
    "20 files, mixed evenly": partial(mixtures, even=True),
}
DESIGNS: dict[str, Callable[[Sequence[File]], Plan]] = {
    "as they fall": lambda files: Plan(files, WINDOW, shuffle=True),
    "4 by place": lambda files: ByPlace(files, WINDOW, shuffle=True, strands=4),
    "16 by place": lambda files: ByPlace(files, WINDOW, shuffle=True, strands=16),
    "64 by place": lambda files: ByPlace(files, WINDOW, shuffle=True, strands=64),
    "strata": lambda files: Plan(stratified(files), WINDOW, shuffle=True),
    "strata, not early": lambda files: Plan(stratified(files), WINDOW, shuffle=True, early=0),
}


def files_of(labels: Sequence[NDArray[np.int8]]) -> list[File]:
    """Files with clusters of `CLUSTER` entries; five files are of one each."""
    cluster = CLUSTER if len(labels) != 5 else len(labels[0])
    return [
        File(number, np.append(np.arange(0, len(one), cluster), len(one)).astype(np.int64), one)
        for number, one in enumerate(labels)
    ]


def stratified(files: Sequence[File]) -> list[File]:
    """The same, with the strata that a scan finds."""
    sample = SimpleNamespace(number=0, rule=True, selection=None)
    tally = ClassTally(
        cast(Catalogue, SimpleNamespace(files=files, samples=[sample], classes=("background", "signal")))
    )
    for one in files:
        entries, labels = np.arange(len(one.labels)), one.labels.astype(np.int64)
        tally.add(cast(Any, one), tally.meet(cast(Any, one), (0, len(labels)), entries, labels))
    return [replace(one, strata=strata) for one, strata in zip(files, tally.strata(), strict=True)]


def shares(plan: Plan, files: Sequence[File]) -> NDArray[np.float64]:
    """Of signal in each window."""
    sums = [np.concatenate([[0], np.cumsum(one.labels, dtype=np.int64)]) for one in files]
    found = np.zeros(plan.num_windows)
    for chunk in plan.chunks():
        for piece in chunk.pieces:
            found[piece.window] += sums[chunk.file][piece.stop] - sums[chunk.file][piece.start]
    return found / [plan.window_size(number) for number in range(plan.num_windows)]


def reads(plan: Plan) -> float:
    """How often a cluster is read, on average."""
    found: Counter[tuple[int, int]] = Counter()
    for chunk in plan.chunks():
        first, last = chunk.start // CLUSTER, (chunk.stop - 1) // CLUSTER
        found.update((chunk.file, number) for number in range(first, last + 1))
    return sum(found.values()) / len(found)


@click.command()
def main() -> None:
    """Compare the designs over the layouts."""
    head = ("windows %", "x random", "batches %", "x random", "waiting", "strands", "reads")
    click.echo(f"{'layout':36} {'design':18}" + "".join(f"{one:>11}" for one in head))
    for layout, make in LAYOUTS.items():
        files = files_of(make())
        share = sum(int(one.labels.sum()) for one in files) / sum(len(one.labels) for one in files)
        by_chance = np.sqrt(share * (1 - share) / np.array([WINDOW, BATCH]))
        for design, plan_of in DESIGNS.items():
            plan = plan_of(files)
            found = shares(plan, files)
            window = float(np.mean((found - share) ** 2))
            inside = float(np.mean(found * (1 - found))) / BATCH * (WINDOW - BATCH) / (WINDOW - 1)
            rms = np.sqrt([window, window + inside])
            figures = [f"{100 * rms[0]:11.3f}{rms[0] / by_chance[0]:11.2f}"]
            figures += [f"{100 * rms[1]:11.3f}{rms[1] / by_chance[1]:11.2f}"]
            figures += [f"{plan.most_held:11,}{plan.num_strands:11}{reads(plan):11.2f}"]
            click.echo(f"{layout:36} {design:18}" + "".join(figures))


if __name__ == "__main__":
    main()
