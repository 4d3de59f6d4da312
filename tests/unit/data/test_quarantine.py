"""What cannot be read is left out where that is allowed: listed, counted, bounded, and made up for in the weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import uproot
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.config import Config, OnError, parse_config
from mlaas4hep.data.account import Counts
from mlaas4hep.data.batches import Batch
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.quarantine import LARGEST_UNIT, outside, told, units
from mlaas4hep.data.scan import scan_files
from mlaas4hep.errors import ConfigError, DataError
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import make_events, write_events

CLUSTER = 50


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good files and a background; ``break_cluster`` damages them."""
    for number in range(3):
        write_events(tmp_path / f"s{number}.root", make_events(200, seed=number), cluster=CLUSTER)
    write_events(tmp_path / "b.root", make_events(300, seed=9, run=2), cluster=CLUSTER)
    return tmp_path


def config_of(folder: Path, on_error: str) -> Config:
    return parse_config(
        f"samples:\n  signal: {{files: '{folder}/s*.root'}}\n  background: {{files: '{folder}/b.root'}}\n"
        f"inputs: {{event: [MET_pt], jets: {{vars: [Jet_pt, Jet_eta], length: 4}}}}\non_error: {on_error}\n"
    )


def break_cluster(path: Path, cluster: int, branch: str = "Jet_pt") -> None:
    """Overwrite the middle of one basket."""
    with uproot.open(path) as file:
        found = file["Events"][branch]
        seek, size = int(found.member("fBasketSeek")[cluster]), int(found.member("fBasketBytes")[cluster])
    data = bytearray(path.read_bytes())
    data[seek + size // 2 : seek + size // 2 + 20] = bytes(20)
    path.write_bytes(data)


def batches(config: Config) -> tuple[Catalogue, list[Batch], dict[int, Counts]]:
    catalogue = Catalogue.open(config)
    stream = EventDataset(catalogue, Preprocessor(config.features, catalogue.types), batch_size=64)
    with stream, stream.epoch(0) as epoch:
        found = list(epoch)
        return catalogue, found, epoch.counts


def test_a_bad_cluster_stops_the_stream_unless_it_may_be_skipped(folder: Path) -> None:
    break_cluster(folder / "s1.root", 2)
    with pytest.raises(DataError, match=r"s1\.root"):
        batches(config_of(folder, "stop"))


def test_a_bad_cluster_is_left_out_listed_and_counted_and_all_else_is_as_it_was(folder: Path) -> None:
    _, good, _ = batches(config_of(folder, "stop"))
    break_cluster(folder / "s1.root", 2)
    catalogue, left, counts = batches(config_of(folder, "skip"))
    [record] = catalogue.quarantine.records
    assert (record.path, record.start, record.stop) == (f"{folder}/s1.root", 100, 150)
    assert record.reason
    assert counts[1] == Counts(200, 150, 0, 0, 50)
    whole, rest = (np.concatenate([one.entries for one in part]) for part in (good, left))
    gone = (whole["file"] == 1) & (whole["entry"] >= 100) & (whole["entry"] < 150)
    assert np.array_equal(whole[~gone], rest)
    jets = [np.concatenate([one.inputs["jets"] for one in part]) for part in (good, left)]
    assert jets[0][~gone].tobytes() == jets[1].tobytes()


def test_a_file_that_cannot_be_opened_is_left_out_with_its_reason(folder: Path) -> None:
    (folder / "s1.root").write_bytes(b"root" + bytes(20))
    (folder / "s2.root").write_bytes((folder / "s2.root").read_bytes()[:3000])
    catalogue, _, counts = batches(config_of(folder, "skip"))
    assert [Path(one.path).name for one in catalogue.quarantine.records] == ["s1.root", "s2.root"]
    assert "truncated" in catalogue.quarantine.records[0].reason
    assert [counts[number].read for number in sorted(counts)] == [200, 300]


def test_a_sample_of_which_nothing_is_left_is_refused(folder: Path) -> None:
    (folder / "b.root").write_bytes(b"root")
    with pytest.raises(DataError, match=r"background: none of its 1 files can be opened, such as .*b\.root"):
        batches(config_of(folder, "skip"))


@pytest.mark.parametrize(("allowed", "passes"), [("skip up to 2", True), ("skip up to 1", False)])
def test_no_more_is_left_out_than_allowed(folder: Path, allowed: str, passes: bool) -> None:
    break_cluster(folder / "s1.root", 2)
    break_cluster(folder / "b.root", 0, "Jet_eta")
    if passes:
        assert len(batches(config_of(folder, allowed))[0].quarantine) == 2
    else:
        with pytest.raises(DataError, match="2 files or clusters cannot be read, and on_error allows 1"):
            batches(config_of(folder, allowed))


def test_a_share_of_the_entries_may_be_allowed(folder: Path) -> None:
    break_cluster(folder / "s1.root", 2)
    batches(config_of(folder, "skip up to 6 %"))
    with pytest.raises(DataError, match=r"50 of 900 entries \(5.6 %\) cannot be read, and on_error allows 5 %"):
        batches(config_of(folder, "skip up to 5 %"))


def test_a_file_that_cannot_be_opened_counts_as_an_average_one_of_its_sample(folder: Path) -> None:
    (folder / "s1.root").write_bytes(b"root" + bytes(40))
    batches(config_of(folder, "skip up to 23 %"))
    with pytest.raises(DataError, match=r"200 of 900 entries \(22 %\) cannot be read, and on_error allows 20 %"):
        batches(config_of(folder, "skip up to 20 %"))


def test_weights_make_up_for_what_is_left_out(folder: Path) -> None:
    """Expected events stay what they were."""
    break_cluster(folder / "s1.root", 2)
    catalogue, _, _ = batches(config_of(folder, "skip"))
    signal, background = catalogue.corrected().samples
    assert signal.correction == pytest.approx(600 / 550)
    assert background.correction == 1.0
    assert catalogue.corrected().corrected().samples == (signal, background)
    (folder / "s0.root").write_bytes(b"root")
    signal = batches(config_of(folder, "skip"))[0].corrected().samples[0]
    assert signal.correction == pytest.approx(3 / 2 * 400 / 350)


def test_the_scan_meets_the_same_bad_places_as_the_stream(folder: Path) -> None:
    break_cluster(folder / "s1.root", 2)
    config = config_of(folder, "skip")
    catalogue = Catalogue.open(config)
    result = scan_files(catalogue, Preprocessor(config.features, catalogue.types))
    assert result.files[1] == Counts(200, 150, 0, 0, 50)
    assert result.statistics.samples["signal"].read == 600


@pytest.mark.parametrize("text", ["skip up to", "skip up to 1.5", "ignore", "skip up to 3 files"])
def test_what_is_not_known_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"on_error: .* is not known; write stop, skip"):
        config_of(tmp_path, text)


@pytest.mark.parametrize("text", ["stop", "skip", "skip up to 3", "skip up to 2.5 %"])
def test_policies_are_shown_as_they_are_written(text: str) -> None:
    assert str(OnError.parse(text)) == text


@given(
    sizes=st.lists(st.integers(1, 3 * LARGEST_UNIT), min_size=1, max_size=5),
    share=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_units_hang_on_the_clusters_alone(sizes: list[int], share: tuple[float, float]) -> None:
    clusters = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    total = int(clusters[-1])
    start, stop = sorted(int(one * total) for one in share)
    every = list(units(clusters, 0, total))
    assert [low for low, _ in every] == [0, *(high for _, high in every[:-1])]
    assert all(high - low <= LARGEST_UNIT for low, high in every)
    assert set(clusters.tolist()) <= {0, *(high for _, high in every)}
    assert list(units(clusters, start, stop)) == [one for one in every if one[0] < stop and one[1] > start]


@st.composite
def apart(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    places = sorted(draw(st.sets(st.integers(0, 40), max_size=10)))
    return tuple(zip(places[::2], places[1::2], strict=False))


@given(ranges=apart(), bounds=st.tuples(st.integers(0, 40), st.integers(0, 40)))
def test_what_is_left_of_a_range_is_all_but_the_others(
    ranges: tuple[tuple[int, int], ...], bounds: tuple[int, int]
) -> None:
    start, stop = sorted(bounds)

    def left() -> Iterator[int]:
        for low, high in outside(start, stop, ranges):
            yield from range(low, high)

    assert list(left()) == [at for at in range(start, stop) if not any(low <= at < high for low, high in ranges)]


def test_what_is_left_out_names_its_file_once(folder: Path) -> None:
    break_cluster(folder / "s1.root", 2)
    for name in ("s0.root", "s2.root"):
        (folder / name).write_bytes(b"")
    catalogue, _, _ = batches(config_of(folder, "skip"))
    whole, place = told(catalogue.quarantine.records)
    assert whole == f"{folder}/s0.root and 1 more file (sample 'signal'): is an empty file (0 bytes)"
    assert place.startswith(f"{folder}/s1.root, tree 'Events', entries 100 to 150: branch 'Jet_pt', basket 2 ")
    assert place.count("s1.root") == 1


HOOK = """
def preprocessing(rec):
    rec["inverse"] = 1 / (WHAT)
    return rec
"""


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("weights: {event: MET_pt / (event - 120)}", r"entry 120: the event weight is inf"),
        ("weights: {event: sum(Jet_pt * Muon_pt)}", r"weights\.event: .*\n +sum\(Jet_pt \* Muon_pt\)"),
        ("preproc: hook.py", r"s1\.root, tree 'Events', from entry .*hook\.py: preprocessing failed in event"),
        ("preselection: 'sum(Jet_pt * Muon_pt) > 0'", r"s\d\.root.*preselection"),
    ],
)
@pytest.mark.parametrize("threads", [0, 2])
def test_what_the_user_wrote_wrong_is_no_damage_and_stops(folder: Path, more: str, says: str, threads: int) -> None:
    """It used to be left out cluster by cluster, as if the files were bad."""
    for number, name in enumerate(["s0", "s1", "s2", "b"]):
        columns = make_events(200, seed=number)
        columns["event"] = np.arange(200, dtype=np.uint64) + np.uint64(1000 if number != 1 else 0)
        columns["Muon_pt"] = Jagged.from_counts(np.arange(200) % 2, np.ones(100))
        write_events(folder / f"{name}.root", columns, cluster=CLUSTER)
    (folder / "hook.py").write_text(HOOK.replace("WHAT", "rec['event'] - 120"))
    text = (
        f"samples:\n  signal: {{files: '{folder}/s*.root'}}\n  background: {{files: '{folder}/b.root'}}\n"
        f"inputs: {{event: [MET_pt]}}\non_error: skip\n{more}\n"
    )
    config = parse_config(text, folder=folder)
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    with EventDataset(catalogue, preprocessor, threads=threads) as stream, pytest.raises(DataError, match=says):
        list(stream)
    with pytest.raises(DataError, match=says):
        scan_files(catalogue, preprocessor, threads=threads)
    assert not catalogue.quarantine


def test_a_target_that_is_infinite_is_no_damage_and_stops(folder: Path) -> None:
    text = f"samples: {{s: {{files: '{folder}/s*.root'}}}}\ninputs: {{event: [MET_pt]}}\non_error: skip\n"
    config = parse_config(text + "targets: {m: MET_pt / (event - event)}\n")
    catalogue = Catalogue.open(config)
    with (
        EventDataset(catalogue, Preprocessor(config.features, catalogue.types)) as stream,
        pytest.raises(DataError, match="the target 'm' is inf"),
    ):
        list(stream)
    assert not catalogue.quarantine


def test_a_function_that_fails_on_the_first_events_stops_before_anything_is_read(folder: Path) -> None:
    (folder / "hook.py").write_text(HOOK.replace("WHAT", "0"))
    text = f"samples: {{s: {{files: '{folder}/s*.root'}}, b: {{files: '{folder}/b.root'}}}}\n"
    config = parse_config(
        text + "labels: {signal: s}\ninputs: {event: [MET_pt]}\non_error: skip\npreproc: hook.py\n", folder=folder
    )
    with pytest.raises(DataError, match=r"s0\.root.*ZeroDivisionError in line 3"):
        Catalogue.open(config)
