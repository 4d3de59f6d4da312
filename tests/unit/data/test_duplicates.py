"""Events that are in the files more than once are found, whatever holds them, and counted by pairs of samples."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep.config import Config, parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.duplicates import DuplicateFinder, Duplicates
from mlaas4hep.data.kept_statistics import scan_key
from mlaas4hep.data.scan import scan_files
from mlaas4hep.errors import DataError
from mlaas4hep.progress import Silent
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import write_events
from mlaas4hep.train.health import tell_duplicates

pytestmark = pytest.mark.usefixtures("plain_pictures")

ENTRIES = 120


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def columns(seed: int) -> dict[str, Any]:
    """Event numbers begin at 0 in each sample, as those of a generator do."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, 4, ENTRIES)
    return {
        "run": np.ones(ENTRIES, np.uint32),
        "luminosityBlock": np.ones(ENTRIES, np.uint32),
        "event": np.arange(ENTRIES, dtype=np.uint64),
        "met": random.normal(50, 20, ENTRIES).astype(np.float32),
        "Jet_pt": Jagged.from_counts(counts, random.exponential(40, int(counts.sum())).astype(np.float32)),
    }


def part(events: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    return {
        name: one[start:stop] if isinstance(one, np.ndarray) else _cut(one, start, stop) for name, one in events.items()
    }


def _cut(lists: Jagged, start: int, stop: int) -> Jagged:
    low, high = lists.offsets[start], lists.offsets[stop]
    return Jagged(lists.offsets[start : stop + 1] - low, lists.values[low:high])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twice")
    one, other = columns(1), columns(2)
    write_events(folder / "one.root", one, cluster=50)
    write_events(folder / "other.root", other, cluster=50)
    write_events(folder / "twin.root", one, cluster=33, format="rntuple")
    for name in ("some", "copy"):
        write_events(folder / f"{name}.root", part(one, 30, 70), cluster=50)
    return folder


def config(folder: Path, samples: dict[str, Any], **keys: Any) -> Config:
    document = {
        "tree": "Events",
        "samples": samples,
        "labels": {"signal": "s"},
        "inputs": {"event": ["met"], "jets": {"vars": ["Jet_pt"], "length": 2}},
        **keys,
    }
    return parse_config(yaml.safe_dump(document), folder=folder)


def found(setting: Config, **keys: Any) -> Duplicates:
    catalogue = Catalogue.open(setting)
    result = scan_files(catalogue, Preprocessor(setting.features, catalogue.types), duplicates=True, **keys)
    assert result.duplicates is not None
    return result.duplicates


def pairs(duplicates: Duplicates) -> dict[tuple[str, str], int]:
    return {one.samples: one.events for one in duplicates.pairs}


def test_equal_event_numbers_of_different_processes_are_different_events(folder: Path) -> None:
    samples = {"a": {"files": "one.root", "label": "s"}, "b": {"files": "other.root", "label": "t"}}
    assert found(config(folder, samples)) == Duplicates(
        2 * ENTRIES,
        0,
        "run, luminosityBlock, event and the values of met, Jet_pt",
        2 * ENTRIES * (2 * ENTRIES - 1) / 2.0**65,
    )


@pytest.mark.parametrize("threads", [0, 2])
def test_a_tree_and_its_twin_in_an_rntuple_hold_the_same_events(folder: Path, threads: int) -> None:
    samples = {"a": {"files": "one.root", "label": "s"}, "b": {"files": "twin.root", "label": "t"}}
    duplicates = found(config(folder, samples), threads=threads)
    assert pairs(duplicates) == {("a", "b"): ENTRIES}
    assert duplicates.surplus == ENTRIES
    (one,) = duplicates.pairs
    assert one.contradicts
    assert (one.first.file, one.first.entry, one.again.file, one.again.entry) == ("one.root", 0, "twin.root", 0)
    assert "the samples 'a' and 'b' share 120 events" in str(one)
    assert "learned as 's' and as 't'" in str(one)


def test_a_part_of_a_file_that_a_sample_holds_again_is_counted_beyond_the_first(folder: Path) -> None:
    samples = {
        "a": {"files": ["one.root", "some.root", "twin.root"], "label": "s"},
        "b": {"files": ["other.root", "copy.root"], "label": "t", "selection": "met > 50"},
    }
    high = columns(1)["met"] > 50
    duplicates = found(config(folder, samples))
    assert pairs(duplicates) == {("a", "a"): ENTRIES + 40, ("a", "b"): int(high[30:70].sum())}
    again = next(one for one in duplicates.pairs if one.samples == ("a", "a"))
    assert (again.first.entry, again.again.file) == (0, "twin.root")
    assert "holds 160 events more than once" in str(again)


def test_only_selected_events_count(folder: Path) -> None:
    samples = {
        "a": {"files": "one.root", "label": "s", "selection": "met > 50"},
        "b": {"files": "twin.root", "label": "t", "selection": "met <= 50"},
    }
    assert pairs(found(config(folder, samples))) == {}


def test_without_identity_equal_values_of_all_inputs_are_one_event(folder: Path, tmp_path: Path) -> None:
    events = {name: one for name, one in columns(1).items() if name in ("met", "Jet_pt")}
    for name in ("x", "y"):
        write_events(tmp_path / f"{name}.root", events)
    samples = {name: {"files": f"{name}.root", "label": label} for name, label in (("x", "s"), ("y", "t"))}
    duplicates = found(config(tmp_path, samples))
    assert pairs(duplicates) == {("x", "y"): ENTRIES}
    assert duplicates.by == "a hash of the declared inputs (2 columns)"


def test_a_config_reports_refuses_or_does_not_look(folder: Path) -> None:
    samples = {"a": {"files": "one.root", "label": "s"}, "b": {"files": "twin.root", "label": "t"}}
    setting = config(folder, samples)
    duplicates = found(setting)
    assert setting.duplicates == "report"

    told = Told()
    tell_duplicates(duplicates, "report", told)
    assert told.lines == list(duplicates.lines())
    with pytest.raises(DataError, match=r"share 120 events.*\n.*selections that exclude each other"):
        tell_duplicates(duplicates, "refuse", Silent())
    tell_duplicates(None, "refuse", Silent())
    catalogue = Catalogue.open(setting)
    preprocessor = Preprocessor(setting.features, catalogue.types)
    assert scan_files(catalogue, preprocessor).duplicates is None
    assert scan_key(catalogue, preprocessor) != scan_key(catalogue, preprocessor, duplicates=True)


@settings(max_examples=30, deadline=None)
@given(
    events=st.lists(st.tuples(st.integers(0, 239), st.integers(0, 30)), max_size=300, unique_by=lambda one: one[0]),
    max_held=st.sampled_from([1, 3, 20, 10_000]),
    cut=st.integers(1, 60),
)
def test_what_is_found_does_not_hang_on_order_or_memory(
    folder: Path, events: list[tuple[int, int]], max_held: int, cut: int
) -> None:
    samples = {"a": {"files": "one.root", "label": "s"}, "b": {"files": "other.root", "label": "t"}}
    catalogue = CATALOGUES.setdefault(folder, Catalogue.open(config(folder, samples)))
    # Hashes that differ in their upper bits, as those of events do.
    of = np.random.default_rng(0).integers(0, 2**63, 31).astype(np.uint64)
    with DuplicateFinder(catalogue, "numbers", max_held=max_held) as finder:
        for start in range(0, len(events), cut):
            for number in (0, 1):
                own = [one for one in events[start : start + cut] if one[0] // ENTRIES == number]
                entries = np.array([place % ENTRIES for place, _ in own], np.int64)
                finder.add(catalogue.files[number], entries, of[[value for _, value in own]])
        duplicates = finder.find()
    held: dict[int, list[int]] = {}
    for place, value in sorted(events):
        held.setdefault(value, []).append(place)
    wanted: Counter[tuple[str, str]] = Counter()
    for places in held.values():
        counts = Counter("ab"[place // ENTRIES] for place in places)
        wanted.update({(name, name): number - 1 for name, number in counts.items() if number > 1})
        wanted.update(combinations(sorted(counts), 2))
    assert pairs(duplicates) == dict(wanted)
    assert duplicates.surplus == len(events) - len(held)
    for one in duplicates.pairs:
        first, again = (catalogue_place(place.file, place.entry) for place in (one.first, one.again))
        assert first < again
        assert dict(events)[first] == dict(events)[again]


CATALOGUES: dict[Path, Catalogue] = {}


def catalogue_place(file: str, entry: int) -> int:
    return entry + ENTRIES * ["one.root", "other.root"].index(file)


def test_a_run_says_what_it_found_on_its_page(folder: Path, tmp_path: Path) -> None:
    from mlaas4hep.train.run import train

    samples = {"a": {"files": ["one.root", "some.root"], "label": "s"}, "b": {"files": "other.root", "label": "t"}}
    setting = config(folder, samples, model={"name": "bdt", "trees": 2}, name="twice")
    run = train(setting, output=tmp_path / "run", threads=0)
    told = json.loads((run.path / "metrics.json").read_text())["duplicates"]
    assert (told["surplus"], told["pairs"][0]["events"]) == (40, 40)
    assert "40 of 280 selected ones" in " ".join(run.report.read_text().split())
    quiet = config(folder, samples, model={"name": "bdt", "trees": 2}, name="quiet", duplicates="ignore")
    assert train(quiet, output=tmp_path / "quiet", threads=0).metrics["duplicates"] is None
    strict = config(folder, samples, duplicates="refuse")
    with pytest.raises(DataError, match="the sample 'a' holds 40 events more than once"):
        train(strict, output=tmp_path / "strict", threads=0)
