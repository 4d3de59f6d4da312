"""Batches: their weights and labels, what is refused, and that nothing is left behind."""

from __future__ import annotations

import gc
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.config import Config, parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.scan import scan, scan_files
from mlaas4hep.errors import ConfigError, DataError
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import make_events, write_events

Stream = Callable[..., EventDataset]


def stream(config: Config, **settings: object) -> EventDataset:
    catalogue = Catalogue.open(config)
    return EventDataset(catalogue, Preprocessor(config.features, catalogue.types), **settings)  # type: ignore[arg-type]


def two_samples(folder: Path, *, signal: str = "", more: str = "inputs: {event: [MET_pt]}") -> Config:
    return parse_config(
        f"samples:\n  signal: {{files: {folder}/s.root{signal}}}\n  background: {{files: {folder}/b.root}}\n{more}\n"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate("sb"):
        write_events(tmp_path / f"{name}.root", make_events(120, seed=seed), cluster=40)
    return tmp_path


def test_rows_are_those_of_the_file(small_stream: Stream) -> None:
    """Inputs, labels and entry numbers of one batch belong together."""
    dataset = small_stream(shuffle=True, shuffle_window=200, batch_size=400)
    batch = next(iter(dataset))
    for row in range(0, len(batch), 37):
        entry = batch.entries[row]
        source = {0: make_events(350, seed=0), 1: make_events(85, seed=1), 2: make_events(223, seed=10)}[entry["file"]]
        assert batch.labels[row] == dataset.catalogue.classes.index("background" if entry["file"] == 2 else "signal")
        assert batch.inputs["event"][row, 0] == source["MET_pt"][entry["entry"]]
        assert batch.weights[row] == pytest.approx(source["genWeight"][entry["entry"]])
        hardest = sorted(source["Jet_pt"][entry["entry"] : entry["entry"] + 1].tolist()[0], reverse=True)[:3]
        found = batch.inputs["jets"][row, :, 0]
        assert found[~np.isnan(found)].tolist() == pytest.approx(hardest)


def test_batches_are_the_consumers_own(small_stream: Stream) -> None:
    batches = iter(small_stream(shuffle=True, batch_size=64))
    first = next(batches)
    kept = first.inputs["event"].copy()
    first.inputs["event"][:] = 0
    list(batches)
    again = next(iter(small_stream(shuffle=True, batch_size=64)))
    assert np.array_equal(again.inputs["event"], kept)


def test_training_weights_are_balanced_over_the_training_part(small_stream: Stream) -> None:
    plain = small_stream()
    statistics = scan(plain.catalogue, plain.preprocessor)
    batch = next(iter(small_stream(part="train", weights="training", statistics=statistics, batch_size=1000)))
    sums = [batch.weights[batch.labels == label].sum() for label in (0, 1)]
    assert sums[0] == pytest.approx(sums[1])
    assert batch.weights.mean() == pytest.approx(1)
    with pytest.raises(DataError, match="need the statistics"):
        small_stream(weights="training")


def test_a_consumer_that_stops_in_the_middle_leaves_no_thread_and_no_file(small_stream: Stream) -> None:
    before = set(threading.enumerate())
    for stop in ("break", "raise", "close"):
        batches = small_stream(shuffle=True, shuffle_window=50, batch_size=16, threads=3).epoch(0)
        try:
            for number, _ in enumerate(batches):
                if number == 3 and stop == "raise":
                    raise KeyError
                if number == 3:
                    break
        except KeyError:
            pass
        if stop == "close":
            batches.close()
            assert next(batches, None) is None
        del batches
        gc.collect()
        assert set(threading.enumerate()) <= before


def test_an_error_in_a_thread_reaches_the_consumer_and_ends_the_stream(folder: Path) -> None:
    columns = make_events(120, seed=3)
    columns["genWeight"][77] = np.nan  # type: ignore[index]
    write_events(folder / "s.root", columns, cluster=40)
    before = set(threading.enumerate())
    made = two_samples(folder, more="inputs: {event: [MET_pt]}\nweights: {event: genWeight}")
    with pytest.raises(DataError, match=r"s\.root, tree 'Events', entry 77: the event weight is nan"):
        list(stream(made, threads=2))
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"shuffle_window": -3}, "shuffle_window must be a whole number of at least 1, got -3"),
        ({"threads": -1}, "threads must be a whole number of at least 0, got -1"),
        ({"batch_size": 2.5}, "batch_size must be a whole number of at least 1, got 2.5"),
        ({"shuffle": "exakt"}, "shuffle='exakt' is none of True, False, 'exact'; did you mean 'exact'?"),
        ({"weights": "trainin"}, "weights='trainin' is none of 'training', 'physics'; did you mean 'training'?"),
        ({"part": "trian"}, "part='trian' is none of None, 'train', 'validation', 'test'; did you mean 'train'?"),
        ({"cache": "rows"}, "cache='rows' is no Cache; write cache=Cache('rows')"),
        ({"chunk_entries": -1}, "chunk_entries must be a whole number of at least 1, got -1"),
        ({"shuffle": True, "max_memory": 50_000}, "the largest window that fits is 153; max_memory 1"),
    ],
)
def test_numbers_out_of_range_are_refused_with_the_number(
    small_stream: Stream, settings: dict[str, int], says: str
) -> None:
    with pytest.raises(DataError, match=re.escape(says)):
        small_stream(**settings)


def test_memory_changes_nothing_but_the_reading_ahead(small_stream: Stream) -> None:
    free, tight = (
        list(small_stream(shuffle=True, shuffle_window=100, max_memory=one))
        for one in (None, 57 * (2 * 100 + 7 * 50) * 4 // 3 + 100)
    )
    assert [one.entries.tolist() for one in free] == [one.entries.tolist() for one in tight]


def test_a_state_of_another_stream_is_refused(small_stream: Stream) -> None:
    state = small_stream(shuffle=True, seed=1).epoch(0).state_dict()
    for settings in ({"seed": 2}, {"seed": 1, "part": "train"}, {"seed": 1, "shuffle_window": 50}):
        with small_stream(shuffle=True, **settings).epoch(0) as other, pytest.raises(DataError, match="another stream"):
            other.load_state_dict(state)
    assert len(str(state)) < 1000


def test_samples_are_cut_by_their_own_selection(folder: Path) -> None:
    dataset = stream(two_samples(folder, signal=", selection: MET_pt > 50"))
    with dataset.epoch(0) as batches:
        for batch in batches:
            assert np.all(batch.inputs["event"][batch.labels == 1] > 50)
        assert batches.counts[0].cut > 0
        assert batches.counts[1].cut == 0


@pytest.mark.parametrize(
    ("signal", "more", "says"),
    [
        (", selection: MET_pt + 1", "inputs: {event: [MET_pt]}", "must be true or false for each event"),
        (", selection: Jet_pt > 1", "inputs: {event: [MET_pt]}", "must be true or false for each event"),
        ("", "inputs: {event: [MET_pt]}\nweights: {event: Jet_pt}", r"pick one, as in Jet_pt\[0\]"),
    ],
)
def test_expressions_of_the_wrong_kind_are_refused_before_reading(
    folder: Path, signal: str, more: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        stream(two_samples(folder, signal=signal, more=more))


def test_nan_and_infinities_stream_through_and_are_counted(folder: Path) -> None:
    columns = make_events(120, seed=3)
    columns["MET_pt"][:3] = [np.nan, np.inf, -np.inf]  # type: ignore[index]
    write_events(folder / "s.root", columns, cluster=40)
    dataset = stream(two_samples(folder, more="inputs: {event: [MET_pt]}\nsplit: {test: 0, validation: 0}"))
    met = next(iter(dataset)).inputs["event"][:3, 0]
    assert np.isnan(met[0])
    assert np.isinf(met[1:]).all()
    figures = scan(dataset.catalogue, dataset.preprocessor).groups["event"][0]
    assert (figures.count, figures.missing, figures.infinite) == (237, 1, 2)


def test_a_scan_accounts_for_every_entry_and_repeats_bit_for_bit(small_stream: Stream) -> None:
    plain = small_stream()
    done: list[int] = []
    result = scan_files(plain.catalogue, plain.preprocessor, threads=2, progress=done.append)
    assert sum(done) == plain.catalogue.num_entries
    assert result == scan_files(plain.catalogue, plain.preprocessor, threads=0)
    samples = result.statistics.samples
    assert [one.read for one in result.files] == [350, 85, 223]
    assert samples["signal"].read == 435
    for name, files in (("signal", result.files[:2]), ("background", result.files[2:])):
        counts = samples[name]
        assert counts.selected.events == sum(one.delivered for one in files)
        assert counts.selected.events == counts.train + counts.validation + counts.test
        assert result.statistics.classes[name].events == counts.train
    assert sum(result.statistics.lengths["jets"]) == sum(one.train for one in samples.values())


def test_the_parts_have_their_shares_and_follow_the_event(folder: Path, tmp_path: Path) -> None:
    """An event keeps its part in another file, at another place, in another format."""
    columns = make_events(2_000, seed=9)
    made = two_samples(folder, more="inputs: {event: [MET_pt]}\nsplit: {test: 0.3, validation: 0.2}")
    tests = []
    for number, (start, format) in enumerate([(0, "ttree"), (700, "rntuple")]):
        moved = {name: column[start:] for name, column in columns.items()}
        write_events(folder / "s.root", moved, format=format, cluster=300 + number)  # type: ignore[arg-type]
        chosen = [batch.inputs["event"][batch.labels == 1, 0] for batch in stream(made, part="test")]
        tests.append(np.concatenate(chosen))
    assert len(tests[0]) == pytest.approx(600, rel=0.15)
    kept = set(columns["MET_pt"][700:].tolist())  # type: ignore[index]
    assert set(tests[1].tolist()) == set(tests[0].tolist()) & kept


def test_fewer_entries_of_a_file_may_be_used(small_stream: Stream) -> None:
    whole = small_stream().catalogue
    short = replace(whole, files=tuple(replace(one, clusters=np.array([0, 50, 70])) for one in whole.files))
    with EventDataset(short, small_stream().preprocessor, shuffle=True, shuffle_window=64).epoch(0) as batches:
        entries = np.concatenate([batch.entries for batch in batches])
        assert all(one.read == 70 for one in batches.counts.values())
    assert entries["entry"].max() < 70
