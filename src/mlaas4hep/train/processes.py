"""Samples as they are counted: one class each.

Yields are told for signal and background. A sample whose events have each their own class is counted once a class, as
if the classes had been samples of their own. Invariant: the processes together hold every event of the samples once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from mlaas4hep.spec.statistics import SampleCounts
from mlaas4hep.train.kept import ScoredPart


@dataclass(frozen=True, slots=True, eq=False)
class Processes:
    """Samples, or parts of samples, of one class each.

    Parameters
    ----------
    counts
        By name, what the scan counted.
    classes
        By name, the class.
    places
        int64 [N]: process of each event of the test part.
    """

    counts: dict[str, SampleCounts]
    classes: dict[str, str]
    places: NDArray[np.int64]


def processes_of(
    samples: Mapping[str, SampleCounts],
    sample_classes: Mapping[str, str | None],
    classes: Sequence[str],
    test: ScoredPart | None,
) -> Processes:
    """The processes of a run.

    Parameters
    ----------
    samples
        What the scan counted.
    sample_classes
        Class of each sample, in the order of the catalogue; None where its events have each their own.
    classes
        In label order.
    test
        Scores of the test part; None where it is empty.
    """
    counts: dict[str, SampleCounts] = {}
    found: dict[str, str] = {}
    places = np.zeros(0 if test is None else len(test.samples), dtype=np.int64)
    for number, (sample, label) in enumerate(sample_classes.items()):
        for name, of, one in _parts(sample, label, samples[sample]):
            if test is not None:
                own = test.samples == number
                if label is None:
                    own &= test.judged.labels == classes.index(of)
                places[own] = len(counts)
                one = replace(one, test=int(np.count_nonzero(own)))
            counts[name], found[name] = one, of
    return Processes(counts, found, places)


def _parts(sample: str, label: str | None, counts: SampleCounts) -> Iterator[tuple[str, str, SampleCounts]]:
    if label is not None:
        yield sample, label, counts
        return
    for name, sums in counts.by_class.items():
        yield f"{sample}: {name}", name, SampleCounts(counts.read, sums)
