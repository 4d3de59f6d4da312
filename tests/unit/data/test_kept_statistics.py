"""Scan results are kept by content: the same bits for the same files and declaration, a scan for anything else."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mlaas4hep.config import Config, parse_config
from mlaas4hep.data import kept_statistics
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.hook import RecordHook
from mlaas4hep.data.kept_statistics import StatisticsStore, scan_key, unchanged
from mlaas4hep.data.scan import ScanResult, scan_files
from mlaas4hep.errors import DataError
from mlaas4hep.progress import Silent
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import make_events, write_events
from mlaas4hep.train.limit import limit_events
from mlaas4hep.train.scanned import scanned

KEY = "k" * 64


class Told(Silent):
    """Keeps the lines, and counts scans."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.scans = 0

    def start(self, description: str, *, total: int | None = None, unit: str = "events") -> None:
        self.scans += description == "scanning events"

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("signal", "background")):
        write_events(tmp_path / f"{name}.root", make_events(300, seed=seed), cluster=50)
    return tmp_path


def declared(
    folder: Path,
    *,
    samples: str = "",
    inputs: str = "[MET_pt]",
    jets: str = "vars: [Jet_pt, Jet_eta], length: 3",
    more: str = "",
) -> Config:
    samples = samples or "signal: {files: signal.root}, background: {files: background.root}"
    text = f"tree: Events\nsamples: {{{samples}}}\ninputs: {{event: {inputs}, jets: {{{jets}}}}}\n{more}"
    return parse_config(text, folder=folder)


def opened(config: Config) -> tuple[Catalogue, Preprocessor]:
    catalogue = Catalogue.open(config)
    return catalogue, Preprocessor(config.features, catalogue.types)


def key(config: Config) -> str:
    found = scan_key(*opened(config))
    assert found is not None
    return found


def result(folder: Path) -> ScanResult:
    return scan_files(*opened(declared(folder)))


def test_a_kept_result_has_the_bits_of_a_fresh_one(folder: Path, tmp_path: Path) -> None:
    store, lines = StatisticsStore(tmp_path / "kept"), list[str]()
    fresh = result(folder)
    store.keep(KEY, fresh, note=lines.append)
    kept = store.find(KEY, note=lines.append)
    assert kept == fresh
    assert repr(kept) == repr(fresh), "also the order of groups and samples"
    assert lines == []


def test_a_second_run_takes_what_the_first_kept_and_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    catalogue, preprocessor = opened(declared(folder))
    told = Told()
    ask = lambda rescan: scanned(  # noqa: E731
        catalogue, preprocessor, threads=1, max_memory=None, rescan=rescan, progress=told
    )[1]
    first, second = ask(False), ask(False)
    assert (first, told.scans) == (second, 1)
    assert [line.split("(")[0] for line in told.lines] == ["statistics: kept from an earlier pass over the same files "]
    assert (scan_key(catalogue, preprocessor) or "")[:12] in told.lines[0]
    assert ask(True) == first
    assert told.scans == 2
    assert [path.name for path in (tmp_path / "cache/mlaas4hep/statistics").iterdir()] == [
        f"{scan_key(catalogue, preprocessor)}.statistics"
    ]


OTHER: dict[str, Callable[[Path], Config]] = {
    "inputs": lambda folder: declared(folder, inputs="[MET_pt, nJet]"),
    "length": lambda folder: declared(folder, jets="vars: [Jet_pt, Jet_eta], length: 4"),
    "sort": lambda folder: declared(folder, jets="vars: [Jet_pt, Jet_eta], length: 3, sort: -Jet_eta"),
    "preselection": lambda folder: declared(folder, more="preselection: MET_pt > 1"),
    "new variable": lambda folder: declared(folder, inputs="[x]", more="new_variables: {x: MET_pt + 1}"),
    "missing": lambda folder: declared(folder, more="missing: [-999]"),
    "weight": lambda folder: declared(folder, more="weights: {event: genWeight}"),
    "split": lambda folder: declared(folder, more="split: {test: 0.3}"),
    "split seed": lambda folder: declared(folder, more="split: {seed: 1}"),
    "identity": lambda folder: declared(folder, more="split: {by: [event]}"),
    "selection": lambda folder: declared(
        folder, samples="signal: {files: signal.root, selection: MET_pt > 3}, background: {files: background.root}"
    ),
    "factor": lambda folder: declared(
        folder,
        samples="signal: {files: signal.root, xsec_pb: 2, sum_of_weights: 10}, "
        "background: {files: background.root, xsec_pb: 1, sum_of_weights: 10}",
    ),
    "label": lambda folder: declared(
        folder,
        samples="signal: {files: signal.root, label: background}, background: {files: background.root, label: signal}",
    ),
    "files": lambda folder: declared(
        folder, samples="signal: {files: background.root}, background: {files: signal.root}"
    ),
}


@pytest.mark.parametrize("what", OTHER)
def test_another_declaration_has_another_key(folder: Path, what: str) -> None:
    assert key(OTHER[what](folder)) != key(declared(folder))


def test_what_the_scan_does_not_look_at_keeps_the_key(folder: Path) -> None:
    scaled = declared(folder, inputs="[{name: MET_pt, scale: log, clip: [0, 100]}]", more="weights: {training: none}")
    assert key(scaled) == key(declared(folder))


def test_a_file_that_is_written_anew_has_another_key(folder: Path) -> None:
    before = key(declared(folder))
    assert key(declared(folder)) == before
    path = folder / "signal.root"
    content = bytearray(path.read_bytes())
    status = path.stat()
    content[-1] ^= 1
    path.write_bytes(content)  # the same file, the same size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert key(declared(folder)) != before


def test_fewer_events_have_another_key(folder: Path) -> None:
    catalogue, preprocessor = opened(declared(folder))
    keys = {scan_key(limit_events(catalogue, events), preprocessor) for events in (100, 120, 600)}
    assert len(keys) == 3
    assert scan_key(catalogue, preprocessor) in keys


def test_other_code_has_another_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(declared(folder))
    monkeypatch.setattr(kept_statistics, "own_code", lambda: "other")
    assert key(declared(folder)) != before


def test_files_without_identity_are_not_kept(folder: Path) -> None:
    catalogue, preprocessor = opened(declared(folder))
    files = tuple(dataclasses.replace(one, identity="") for one in catalogue.files)
    assert scan_key(dataclasses.replace(catalogue, files=files), preprocessor) is None


def test_what_a_function_of_the_user_changes_is_not_kept(folder: Path) -> None:
    (folder / "hook.py").write_text("def preprocessing(rec):\n    return rec\n")
    catalogue, preprocessor = opened(declared(folder))
    hook = RecordHook.load(str(folder / "hook.py"))
    assert scan_key(dataclasses.replace(catalogue, hook=hook), preprocessor) is None


def test_what_was_read_of_a_file_that_changed_meanwhile_is_not_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    catalogue, preprocessor = opened(declared(folder))
    assert unchanged(catalogue)
    os.utime(folder / "signal.root", ns=(1, 1))
    assert not unchanged(catalogue)
    with pytest.raises(DataError, match="was changed meanwhile"):
        scanned(catalogue, preprocessor, threads=1, max_memory=None, rescan=False, progress=Told())
    assert not (tmp_path / "cache").exists()
    (folder / "signal.root").unlink()
    assert not unchanged(catalogue)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "head", "other version"])
def test_a_damaged_entry_is_named_and_not_used(folder: Path, tmp_path: Path, damage: str) -> None:
    store, lines = StatisticsStore(tmp_path / "kept"), list[str]()
    fresh = result(folder)
    store.keep(KEY, fresh, note=lines.append)
    [path] = (tmp_path / "kept").iterdir()
    text = path.read_bytes()
    flipped = bytearray(text)
    flipped[len(text) // 2] ^= 4
    path.write_bytes(
        {
            "cut": text[:-20],
            "flip": bytes(flipped),
            "empty": b"",
            "head": text.replace(b"mlaas4hep", b"mlaas4hp", 1),
            "other version": text.replace(b"statistics 1", b"statistics 9", 1),
        }[damage]
    )
    assert store.find(KEY, note=lines.append) is None
    assert len(lines) == 1
    assert str(path) in lines[0]
    assert "events are scanned again" in lines[0]
    store.keep(KEY, fresh, note=lines.append)
    assert store.find(KEY, note=lines.append) == fresh


def test_a_body_of_another_shape_is_damage_too(tmp_path: Path) -> None:
    store, lines = StatisticsStore(tmp_path), list[str]()
    body = msgspec.json.encode({"statistics": {"groups": 3}, "files": []})
    head = f"mlaas4hep statistics 1 {kept_statistics.hashlib.sha256(body).hexdigest()}\n".encode()
    (tmp_path / f"{KEY}.statistics").write_bytes(head + body)
    assert store.find(KEY, note=lines.append) is None
    assert "damaged" in lines[0]


def test_what_was_unused_for_longest_goes_first(folder: Path, tmp_path: Path) -> None:
    fresh = result(folder)
    store = StatisticsStore(tmp_path / "kept", max_entries=3)
    for place in range(3):
        store.keep(f"{place:064}", fresh, note=pytest.fail)
        os.utime(tmp_path / f"kept/{place:064}.statistics", (1000 + place, 1000 + place))
    assert store.find(f"{0:064}", note=pytest.fail) == fresh
    store.keep(f"{3:064}", fresh, note=pytest.fail)
    assert {int(path.stem) for path in (tmp_path / "kept").iterdir()} == {0, 2, 3}
    size = next((tmp_path / "kept").iterdir()).stat().st_size
    StatisticsStore(tmp_path / "kept", max_bytes=size).keep(f"{4:064}", fresh, note=pytest.fail)
    assert [int(path.stem) for path in (tmp_path / "kept").iterdir()] == [4]


def test_drafts_of_writers_that_died_are_removed_in_time(folder: Path, tmp_path: Path) -> None:
    old, young = tmp_path / "old.part", tmp_path / "young.part"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    StatisticsStore(tmp_path).keep(KEY, result(folder), note=pytest.fail)
    assert (old.exists(), young.exists()) == (False, True)


def test_many_writers_of_one_entry_leave_one_whole_entry(folder: Path, tmp_path: Path) -> None:
    fresh, lines = result(folder), list[str]()
    stores = [StatisticsStore(tmp_path / "kept", max_entries=2) for _ in range(8)]

    def write(number: int) -> None:
        for turn in range(20):
            stores[number].keep(f"{(number + turn) % 4:064}", fresh, note=lines.append)
            found = stores[number].find(f"{turn % 4:064}", note=lines.append)
            assert found is None or found == fresh

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert lines == []
    assert not list((tmp_path / "kept").glob("*.part"))


def test_a_folder_that_cannot_be_written_is_told_and_no_more(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"a file")
    lines: list[str] = []
    store = StatisticsStore(tmp_path / "kept")
    store.keep(KEY, result(folder), note=lines.append)
    assert "statistics cannot be kept" in lines[0]
    assert store.find(KEY, note=lines.append) is None


def test_an_ordered_scan_is_the_same_for_any_threads(folder: Path) -> None:
    catalogue, preprocessor = opened(declared(folder))
    found = {repr(scan_files(catalogue, preprocessor, threads=threads)) for threads in (0, 1, 3)}
    assert len(found) == 1
    assert np.isfinite(result(folder).statistics.groups["event"][0].mean or np.nan)
