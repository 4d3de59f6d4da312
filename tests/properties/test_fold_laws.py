"""Folds: every event is held out by exactly one training, whatever the order, the threads and the files."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep.config import Config, parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.split import PARTS, Identity, Part, Splitter
from mlaas4hep.spec.columns import ColumnType
from mlaas4hep.spec.features import Split
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import write_events

TYPES = {"run": ColumnType("flat", "int64"), "event": ColumnType("flat", "int64")}
BY = Identity(("run", "event"), "split.by")
FILES = (130, 70, 1, 99)


def events(count: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {"run": random.integers(0, 5, count), "event": random.permutation(count * 3)[:count]}


splits = st.builds(
    lambda folds, share, seed: Split(test=0.0, validation=share * (1 - 1 / folds), seed=seed, folds=folds),
    st.integers(2, 100),
    st.floats(0, 0.9),
    st.integers(0, 2**32),
)


@given(split=splits, count=st.integers(0, 400), seed=st.integers(0, 100))
def test_each_event_is_held_out_by_one_training_and_is_of_no_other_part_there(
    split: Split, count: int, seed: int
) -> None:
    columns = events(count, seed)
    own = Splitter(split, BY, TYPES).folds(columns, count)
    parts = np.array(
        [Splitter(split.holding_out(fold), BY, TYPES).parts(columns, count) for fold in range(split.num_folds)]
    )
    held_out = parts == PARTS.index("test")
    assert (held_out.sum(axis=0) == 1).all()
    assert (np.argmax(held_out, axis=0) == own).all() or not count
    assert (Splitter(split, BY, TYPES).parts(columns, count) == 0).all()


@given(split=splits, count=st.integers(1, 200), seed=st.integers(0, 100))
def test_fold_and_part_of_an_event_do_not_hang_on_the_events_beside_it(split: Split, count: int, seed: int) -> None:
    columns = events(count, seed)
    order = np.random.default_rng(seed).permutation(count)[: count // 2 + 1]
    fewer = {name: values[order] for name, values in columns.items()}
    for one in (split, split.holding_out(split.num_folds - 1)):
        splitter = Splitter(one, BY, TYPES)
        assert (splitter.folds(columns, count)[order] == splitter.folds(fewer, len(order))).all()
        assert (splitter.parts(columns, count)[order] == splitter.parts(fewer, len(order))).all()


def test_folds_are_of_one_size_and_validation_has_its_share_of_all_events() -> None:
    count, split = 100_000, Split(test=0.0, validation=0.1, folds=4)
    columns = {"run": np.zeros(count, np.int64), "event": np.arange(count)}
    sizes = np.bincount(Splitter(split, BY, TYPES).folds(columns, count))
    assert np.abs(sizes / count - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / count)
    drawn = [Splitter(split.holding_out(fold), BY, TYPES).parts(columns, count) == 1 for fold in range(4)]
    for one in drawn:
        assert abs(one.mean() - 0.1) < 5 * np.sqrt(0.1 * 0.9 / count)
    # Drawn anew for each model: an event that stops one is learned from by another.
    both = (drawn[0] & drawn[1]).mean()
    assert abs(both - 0.5 * (0.1 / 0.75) ** 2) < 5 * np.sqrt(both / count)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folds")
    start = 0
    for number, count in enumerate(FILES):
        random = np.random.default_rng(number)
        columns = {
            "run": np.full(count, number % 2),
            "luminosityBlock": np.zeros(count, np.int64),
            "event": np.arange(start, start + count),
            "x": random.normal(size=count).astype(np.float32),
        }
        write_events(folder / f"{number}.root", columns, cluster=40)
        start += count
    return folder


def config(folder: Path, order: list[int], folds: int, seed: int) -> Config:
    document = {
        "tree": "Events",
        "samples": {f"s{one}": {"files": f"{one}.root", "label": ("background", "signal")[one % 2]} for one in order},
        "preselection": "x > -1.5",
        "inputs": {"event": ["x"]},
        "split": {"folds": folds, "seed": seed},
    }
    return parse_config(yaml.safe_dump(document), folder=folder)


def delivered(catalogue: Catalogue, split: Split, part: Part, threads: int, shuffle: bool) -> list[tuple[str, int]]:
    """Sample and entry of all events of a part."""
    features = msgspec.structs.replace(catalogue.features, split=split)
    names = [catalogue.samples[file.sample].name for file in catalogue.files]
    found: list[tuple[str, int]] = []
    settings = {"part": part, "threads": threads, "shuffle": shuffle, "shuffle_window": 64, "chunk_entries": 33}
    own = replace(catalogue, features=features)
    with EventDataset(own, Preprocessor(features, catalogue.types), **settings) as dataset:  # type: ignore[arg-type]
        for batch in dataset:
            found += [(names[file], entry) for file, entry in batch.entries.tolist()]
    return found


@settings(max_examples=4, deadline=None)
@given(
    order=st.permutations(range(len(FILES))),
    folds=st.integers(2, 4),
    seed=st.integers(0, 3),
    threads=st.sampled_from([0, 2]),
    shuffle=st.booleans(),
)
def test_a_stream_holds_each_event_out_once_and_never_where_it_is_learned_from(
    folder: Path, order: list[int], folds: int, seed: int, threads: int, shuffle: bool
) -> None:
    catalogue = Catalogue.open(config(folder, order, folds, seed))
    split = catalogue.features.split
    everything = delivered(catalogue, split, "train", 0, False)
    held_out: Counter[tuple[str, int]] = Counter()
    for fold in range(folds):
        own = split.holding_out(fold)
        apart = delivered(catalogue, own, "test", threads, shuffle)
        train, validation = (delivered(catalogue, own, part, threads, shuffle) for part in ("train", "validation"))
        assert sorted([*apart, *train, *validation]) == sorted(everything)
        assert not set(train) & set(validation)
        held_out.update(apart)
    assert held_out == Counter(everything)
    natural = Catalogue.open(config(folder, list(range(len(FILES))), folds, seed))
    one = split.holding_out(0)
    assert sorted(delivered(natural, one, "test", 0, False)) == sorted(delivered(catalogue, one, "test", 0, False))
