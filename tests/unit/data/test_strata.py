"""Stretches of unlike classes, as the scan finds them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from mlaas4hep.config import Config, parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.entries import FileEntry, Strata
from mlaas4hep.data.forecast import forecast
from mlaas4hep.data.kept_statistics import StatisticsStore, scan_key
from mlaas4hep.data.rows import SIDE_BYTES
from mlaas4hep.data.scan import scan_files
from mlaas4hep.data.strata import LARGEST_BLOCK, ClassTally, block_bounds
from mlaas4hep.progress import Silent
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import make_events, write_events
from mlaas4hep.train.scanned import scanned

CLUSTER = 2_000


def strata(
    *files: NDArray[Any], cluster: int = CLUSTER, read: int | None = None, classes: int = 2
) -> tuple[Strata, ...]:
    """Of files of one sample whose events have these labels, -1 for those that are not selected."""
    entries = [
        FileEntry(number, 0, number, "", "", np.unique([*range(0, len(one), cluster), len(one)]))
        for number, one in enumerate(files)
    ]
    sample = SimpleNamespace(number=0, rule=True, selection=None)
    tally = ClassTally(cast(Catalogue, SimpleNamespace(files=entries, samples=[sample], classes=("c",) * classes)))
    for file, labels in zip(entries, files, strict=True):
        step = read or len(labels)
        for start in range(0, len(labels), step):
            part = labels[start : start + step]
            kept = part >= 0
            where = (start, start + len(part))
            tally.add(file, tally.meet(file, where, start + np.flatnonzero(kept), part[kept].astype(np.int64)))
    return tally.strata()


def sorted_by_class(size: int = 20_000, *, first: int = 8_700) -> NDArray[np.int64]:
    return (np.arange(size) >= first).astype(np.int64)


def at_random(size: int, share: float, seed: int = 1) -> NDArray[np.int64]:
    return (np.random.default_rng(seed).random(size) < share).astype(np.int64)


def test_a_sorted_file_is_cut_at_the_event_where_the_class_changes() -> None:
    assert strata(sorted_by_class()) == (((0, 0), (8_700, 1)),)


@pytest.mark.parametrize("read", [1, 7, 1_000, 1_999, 3_500, 20_000])
def test_strata_do_not_hang_on_how_the_file_was_read(read: int) -> None:
    labels = np.concatenate([sorted_by_class(), at_random(9_000, 0.2)])[:: 1 if read > 7 else 3]
    assert strata(labels, read=read) == strata(labels)


def test_files_of_one_class_each_are_strata_however_small_they_are() -> None:
    files = [np.full(300, number % 2) for number in range(12)]
    assert strata(*files) == tuple(((0, number % 2),) for number in range(12))


@pytest.mark.parametrize("share", [0.5, 0.05, 0.001])
@pytest.mark.parametrize("seed", range(5))
def test_classes_that_are_mixed_evenly_make_no_strata(share: float, seed: int) -> None:
    files = [at_random(50_000, share, seed=10 * seed + number) for number in range(4)]
    assert strata(*files) == ((),) * 4


def test_a_single_cluster_is_cut_too() -> None:
    assert strata(sorted_by_class(), cluster=20_000) == (((0, 0), (8_700, 1)),)


def test_a_short_run_at_the_end_of_a_cluster_that_goes_on_in_the_next_is_no_accident() -> None:
    assert strata(sorted_by_class(first=7_990)) == (((0, 0), (7_990, 1)),)


def test_clusters_whose_class_changes_often_are_mixtures() -> None:
    alternating = np.arange(20_000) // 50 % 2
    found = strata(np.concatenate([alternating, np.zeros(20_000, dtype=np.int64)]))
    assert found[0][-1] == (20_000, 0)
    assert all(number > 2 for _, number in found[0][:-1])


def test_a_few_events_of_another_class_do_not_cut_a_file_to_bits() -> None:
    """They are met in some clusters and not in others; the file is cut at clusters only."""
    rare = np.where(at_random(100_000, 0.0005) == 1, 2, (np.arange(100_000) >= 50_000).astype(np.int64))
    found = strata(rare, classes=3)
    assert all(start % CLUSTER == 0 for start, _ in found[0])
    assert {number for start, number in found[0] if start < 50_000}.isdisjoint(
        {number for start, number in found[0] if start >= 50_000}
    )


def test_mixtures_that_differ_are_apart_and_like_ones_together() -> None:
    files = [at_random(20_000, share, seed=number) for number, share in enumerate((0.1, 0.5, 0.1, 0.5, 0.5, 0.1))]
    numbers = [{number for _, number in one} for one in strata(*files)]
    low, high = numbers[0] | numbers[2] | numbers[5], numbers[1] | numbers[3] | numbers[4]
    assert low.isdisjoint(high)
    assert len(low | high) <= 4


def test_what_is_not_selected_counts_for_the_class_around_it() -> None:
    labels = sorted_by_class()
    labels[at_random(len(labels), 0.6) == 1] = -1
    first = int(np.flatnonzero(labels == 1)[0])
    assert strata(labels) == (((0, 0), (first, 1)),)


def test_clusters_without_selected_events_are_a_stratum_of_their_own() -> None:
    labels = sorted_by_class()
    labels[12_000:16_000] = -1
    assert strata(labels) == (((0, 0), (8_700, 1), (12_000, 2), (16_000, 1)),)


def test_nothing_selected_makes_no_strata() -> None:
    assert strata(np.full(5_000, -1)) == ((),)


def test_one_class_makes_no_strata() -> None:
    assert strata(np.zeros(20_000, dtype=np.int64)) == ((),)


def test_blocks_join_small_clusters_and_cut_large_ones() -> None:
    size = 3 * LARGEST_BLOCK
    assert block_bounds(np.array([0, size])).tolist() == [0, LARGEST_BLOCK, 2 * LARGEST_BLOCK, size]
    joined = block_bounds(np.arange(0, 10_001, 100))
    assert set(joined.tolist()) <= set(range(0, 10_001, 100))
    assert (int(joined[0]), int(joined[-1])) == (0, 10_000)
    assert len(joined) == 11


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file of 6,000 events, 2,300 of the signal first, in clusters of 500."""
    events = make_events(6_000, seed=1)
    events["y"] = (np.arange(6_000) < 2_300).astype(np.int32)
    write_events(tmp_path / "sorted.root", events, cluster=500)
    return tmp_path


BY_COLUMN = "samples: {all: {files: sorted.root}}\nlabels: {column: y, classes: {background: 0, signal: 1}}"
BY_SELECTION = (
    "samples: {signal: {files: sorted.root, selection: y == 1}, background: {files: sorted.root, selection: y == 0}}"
)


def declared(folder: Path, samples: str) -> Config:
    return parse_config(f"tree: Events\n{samples}\ninputs: {{event: [MET_pt]}}\n", folder=folder)


@pytest.mark.parametrize("samples", [BY_COLUMN, BY_SELECTION])
def test_batches_of_a_sorted_file_hold_both_classes_in_their_share(folder: Path, samples: str) -> None:
    config = declared(folder, samples)
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    found = scan_files(catalogue, preprocessor, threads=0)
    catalogue = catalogue.stratified(found.strata)
    signal = catalogue.classes.index("signal")
    entries = 1_000 * len(catalogue.samples)  # a window of as many events, whoever selects them
    with EventDataset(catalogue, preprocessor, shuffle=True, shuffle_window=entries, batch_size=1_000) as dataset:
        shares = [float(np.mean(batch.labels == signal)) for batch in dataset.epoch(0)]
    assert len(shares) == 6
    assert shares == pytest.approx([2_300 / 6_000] * 6, abs=0.012)


def test_an_order_of_other_strata_takes_no_state_of_this_one(folder: Path) -> None:
    config = declared(folder, BY_COLUMN)
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    found = scan_files(catalogue, preprocessor, threads=0)
    cut = catalogue.stratified(found.strata)

    def fingerprint(catalogue: Catalogue, *, shuffle: bool) -> str:
        with EventDataset(catalogue, preprocessor, shuffle=shuffle) as dataset:
            return dataset.fingerprint

    assert fingerprint(cut, shuffle=True) != fingerprint(catalogue, shuffle=True)
    assert fingerprint(cut, shuffle=False) == fingerprint(catalogue, shuffle=False)


def test_strata_are_kept_with_the_statistics_and_a_forecast_knows_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = declared(folder, BY_COLUMN)
    config = replace(config, training=replace(config.training, shuffle_window=1_000), duplicates="ignore")
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    before = forecast(config).order

    def strata() -> list[Strata]:
        told = scanned(catalogue, preprocessor, threads=0, max_memory=None, rescan=False, progress=Silent())[0]
        return [one.strata for one in told.files]

    fresh, kept = strata(), strata()
    key = scan_key(catalogue, preprocessor)
    assert key is not None
    assert StatisticsStore.of_user().holds(key)
    assert fresh == kept == [((0, 1), (2_300, 0))]
    assert forecast(config).order != before


APART = [(tuple((500 * number, number) for number in range(12)), 12)]
"""Twelve strands, each of which may have begun a chunk whose other rows wait."""
CUT = [(tuple((500 * at + (100 + 37 * at % 300) * part, part) for at in range(12) for part in (0, 1)), 5)]
"""Every cluster in two strata, so that a part of it may be read early."""


@pytest.mark.parametrize(("strata", "strands"), APART + CUT)
@pytest.mark.parametrize("waiting", [100, 400, 700, 1_400, 14_000])
def test_memory_is_bounded_however_many_strata_there_are(
    folder: Path, strata: Strata, strands: int, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlaas4hep.data.memory.LEAST_CHUNK", 1)
    config = declared(folder, BY_COLUMN)
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    row, window, threads = 4 + SIDE_BYTES, 200, 2
    memory = (2 * window + waiting) * row * 4 // 3 + 1
    settings = {"shuffle": True, "shuffle_window": window, "threads": threads, "max_memory": memory}
    with EventDataset(catalogue.stratified([strata]), preprocessor, **settings) as dataset:  # type: ignore[arg-type]
        for epoch in range(8):
            plan = dataset.plan(epoch)
            largest = max(chunk.num_entries for chunk in plan.chunks())
            assert plan.num_strands == strands
            assert plan.most_held + threads * largest <= waiting
