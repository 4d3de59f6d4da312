"""A limit on events takes the first entries of every sample and keeps what they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.entries import FileEntry, SampleEntry
from mlaas4hep.data.split import Identity
from mlaas4hep.errors import DataError
from mlaas4hep.spec.features import FeatureSpec, InputGroup, Variable
from mlaas4hep.train.limit import limit_events


def catalogue(sizes: list[list[int]], factor: float = 2.0) -> Catalogue:
    samples = tuple(SampleEntry(f"s{i}", i, i, None, factor) for i in range(len(sizes)))
    files = []
    for sample, entries in enumerate(sizes):
        for index, number in enumerate(entries):
            clusters = np.append(np.arange(0, number, 40), number)
            files.append(FileEntry(len(files), sample, index, f"{sample}-{index}.root", "t", clusters))
    features = FeatureSpec(inputs=(InputGroup("event", (Variable("x"),)),))
    return Catalogue(samples, tuple(files), ("a", "b"), {}, features, Identity(("x",), "inputs"))


def test_every_sample_keeps_its_share_and_its_yield() -> None:
    less = limit_events(catalogue([[100, 200], [100]]), 200)
    assert [(file.number, file.sample, file.num_entries) for file in less.files] == [
        (0, 0, 100),
        (1, 0, 50),
        (2, 1, 50),
    ]
    assert less.files[1].clusters.tolist() == [0, 40, 50]
    assert [sample.factor for sample in less.samples] == [4.0, 4.0]


def test_a_limit_above_what_is_there_changes_nothing() -> None:
    whole = catalogue([[100], [50]])
    assert limit_events(whole, 150) is whole


def test_a_small_sample_keeps_one_event() -> None:
    assert [file.num_entries for file in limit_events(catalogue([[1000], [1]]), 10).files] == [9, 1]


def test_fewer_events_than_samples_are_refused() -> None:
    with pytest.raises(DataError, match=r"--max-events 1: there are 2 samples"):
        limit_events(catalogue([[10], [10]]), 1)
