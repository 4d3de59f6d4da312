"""However a class is told, the same events come out; those that have none are counted (law 8)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlaas4hep.config import Config, parse_config
from mlaas4hep.data.account import Counts
from mlaas4hep.data.batches import Batch
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.scan import scan, scan_files
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import make_events, same_batch, write_events
from tests.examples import examples

NUMBERS = itertools.count()
SLOW = settings(max_examples=examples(12), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
COLUMN = "{column: y, classes: {background: 0, signal: [1, 2]}}"
CONDITIONS = "{expressions: {signal: y == 1 or y == 2, background: y == 0}}"

labels_of_a_file = st.lists(st.sampled_from([0, 1, 2, 3, -1]), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("labels")


def written(folder: Path, labels: list[int], *, cluster: int = 7) -> Path:
    """A file of its own; the weights are of both signs."""
    number = next(NUMBERS)
    events = make_events(len(labels), seed=number)
    signs = np.where(np.arange(len(labels)) % 3 == 0, -1, 1).astype(np.float32)
    events |= {"y": np.array(labels, np.int32), "genWeight": signs * np.float32(0.5 + number % 5)}
    return write_events(folder / f"{number}.root", events, cluster=cluster)


def config(samples: str, labels: str = "") -> Config:
    return parse_config(
        f"samples: {{{samples}}}\ninputs: {{event: [MET_pt], jets: {{vars: [Jet_pt], length: 2}}}}\n"
        f"preselection: MET_pt > 15\nweights: {{event: genWeight}}\n{labels}\n"
    )


def streamed(made: Config, **wanted: Any) -> tuple[list[Batch], dict[int, Counts]]:
    catalogue = Catalogue.open(made)
    preprocessor = Preprocessor(made.features, catalogue.types)
    dataset = EventDataset(catalogue, preprocessor, threads=0, batch_size=9, **wanted)
    with dataset, dataset.epoch(1) as batches:
        return list(batches), batches.counts


def events(batches: list[Batch]) -> Iterator[tuple[int, int, float]]:
    """Entry, label and weight of each."""
    for batch in batches:
        yield from zip(batch.entries["entry"].tolist(), batch.labels.tolist(), batch.weights.tolist(), strict=True)


@SLOW
@given(
    sizes=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    shuffle=st.booleans(),
    window=st.integers(1, 60),
    part=st.sampled_from([None, "train", "test"]),
)
def test_samples_columns_and_conditions_give_the_same_batches(
    folder: Path, sizes: tuple[int, int], shuffle: bool, window: int, part: str | None
) -> None:
    signal, background = written(folder, [2] * sizes[0]), written(folder, [0] * sizes[1])
    samples = f"signal: {{files: {signal}}}, background: {{files: {background}}}"
    wanted = {"shuffle": shuffle, "shuffle_window": window, "part": part}
    by_sample, counts = streamed(config(samples), **wanted)
    for labels in (COLUMN, CONDITIONS):
        others, other_counts = streamed(config(samples, f"labels: {labels}"), **wanted)
        assert len(by_sample) == len(others)
        assert all(map(same_batch, by_sample, others))
        assert counts == other_counts


@SLOW
@given(labels=labels_of_a_file)
def test_one_file_cut_by_selections_into_samples_is_the_same_file_labelled_event_by_event(
    folder: Path, labels: list[int]
) -> None:
    path = written(folder, labels)
    cut = f"signal: {{files: {path}, selection: y == 1 or y == 2}}, background: {{files: {path}, selection: y == 0}}"
    expected = sorted(events(streamed(config(cut))[0]))
    for rule in (COLUMN, CONDITIONS):
        batches, counts = streamed(config(f"all: {{files: {path}}}", f"labels: {rule}"), shuffle=True)
        assert sorted(events(batches)) == expected
        _check_counts(path, counts[0], np.array(labels), delivered=len(expected))


def _check_counts(path: Path, found: Counts, labels: NDArray[Any], *, delivered: int) -> None:
    """Law 8, with events that have no class."""
    met = make_events(len(labels), seed=int(path.stem))["MET_pt"]
    assert isinstance(met, np.ndarray)
    selected = met > 15
    unlabelled = int(np.count_nonzero(selected & ~np.isin(labels, (0, 1, 2))))
    assert found == Counts(len(labels), delivered, int(np.count_nonzero(~selected)), unlabelled=unlabelled)


@SLOW
@given(files=st.lists(labels_of_a_file, min_size=1, max_size=3), max_memory=st.sampled_from([None, 100_000]))
def test_the_scan_counts_what_the_stream_delivers_class_by_class(
    folder: Path, files: list[list[int]], max_memory: int | None
) -> None:
    paths = [str(written(folder, labels)) for labels in files]
    made = config(f"all: {{files: [{', '.join(paths)}]}}", f"labels: {COLUMN}")
    catalogue = Catalogue.open(made)
    preprocessor = Preprocessor(made.features, catalogue.types)
    found = scan_files(catalogue, preprocessor, threads=0, max_memory=max_memory)
    assert found.statistics == scan(catalogue, preprocessor, threads=2)
    for counts in found.files:
        assert counts.read == counts.delivered + counts.cut + counts.unlabelled
    train = list(events(streamed(made, part="train")[0]))
    every = list(events(streamed(made)[0]))
    for label, name in enumerate(made.classes):
        weights = [weight for _, one, weight in train if one == label]
        sums = found.statistics.classes[name]
        assert (sums.events, sums.negative) == (len(weights), sum(weight < 0 for weight in weights))
        assert sums.sum_weights == sum(weights)  # halves: exact in any order
        assert found.statistics.samples["all"].by_class[name].events == sum(one == label for _, one, _ in every)


@SLOW
@given(labels=labels_of_a_file, seen=st.integers(1, 40), shuffle=st.booleans())
def test_events_of_kind_data_never_come_into_training_and_change_nothing(
    folder: Path, labels: list[int], seen: int, shuffle: bool
) -> None:
    simulated, real = written(folder, labels), written(folder, [1] * seen)
    alone = config(f"all: {{files: {simulated}}}", f"labels: {COLUMN}")
    both = config(f"all: {{files: {simulated}}}, seen: {{files: {real}, kind: data}}", f"labels: {COLUMN}")
    one, counts = streamed(alone, shuffle=shuffle)
    other, other_counts = streamed(both, shuffle=shuffle)
    assert counts == other_counts
    assert len(one) == len(other)
    assert all(map(same_batch, one, other))
    catalogues = Catalogue.open(alone), Catalogue.open(both)
    figures = [scan(each, Preprocessor(alone.features, each.types), threads=0) for each in catalogues]
    assert figures[0] == figures[1]
    paths = {file.path for file in Catalogue.open(both, kind="data").files}
    assert paths == {str(real)}
