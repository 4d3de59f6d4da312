"""What is learned of each event: labels by sample, tree, column, word or condition; targets; nothing of real data."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlaas4hep.config import Cache, Config, parse_config
from mlaas4hep.data.account import Counts
from mlaas4hep.data.batches import Batch
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.kept_statistics import scan_key
from mlaas4hep.data.label_values import unmatched
from mlaas4hep.data.scan import scan, scan_files
from mlaas4hep.data.source import open_source
from mlaas4hep.data.split import PARTS
from mlaas4hep.errors import ConfigError, DataError
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import Format, make_events, same_batch, write_events

ROOT: tuple[Format, ...] = ("ttree", "rntuple")
SIZE = 240
RNG = np.random.default_rng(3)
LABELS = RNG.choice([0, 1, 1, 2, -1], SIZE).astype(np.int32)
WEIGHTS = RNG.choice([1.0, 0.5, -0.7], SIZE).astype(np.float32)
MASS = RNG.normal(173.0, 9.0, SIZE).astype(np.float32)
WORDS = {0: "b", 1: "s", 2: "other", -1: ""}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("truth")
    for format in ROOT:
        events = make_events(SIZE) | {"y": LABELS, "genWeight": WEIGHTS, "mass": MASS, "good": LABELS > 0}
        write_events(made / f"{format}.root", events, format=format, cluster=40)
    _write_words(made)
    write_events(made / "other.root", make_events(80, seed=9), cluster=40)
    seen = make_events(70, seed=4)
    del seen["genWeight"]
    write_events(made / "seen.root", {name: seen[name] for name in ("MET_pt", "Jet_pt", "Jet_eta")}, cluster=30)
    return made


def _write_words(folder: Path) -> None:
    import awkward as ak
    import uproot

    words = ak.Array([WORDS[one] for one in LABELS.tolist()])
    plain = make_events(SIZE)
    for kind in ROOT:
        with uproot.recreate(folder / f"words_{kind}.root") as file:
            types: dict[str, Any] = {"MET_pt": np.dtype("f4"), "event": np.dtype("u8"), "word": "string"}
            made = file.mktree("Events", types) if kind == "ttree" else file.mkrntuple("Events", types)
            made.extend({"MET_pt": plain["MET_pt"], "event": plain["event"], "word": words})


def config(folder: Path, more: str, *, samples: str = "all: {files: ttree.root}", event: str = "genWeight") -> Config:
    return parse_config(
        f"samples: {{{samples}}}\ninputs: {{event: [MET_pt], jets: {{vars: [Jet_pt], length: 2}}}}\n"
        f"weights: {{event: {event}}}\nsplit: {{test: 0.3, validation: 0}}\n{more}\n",
        folder=folder,
    )


def opened(made: Config) -> tuple[Catalogue, Preprocessor]:
    catalogue = Catalogue.open(made)
    return catalogue, Preprocessor(made.features, catalogue.types)


def stream(made: Config, **settings: Any) -> tuple[list[Batch], dict[int, Counts]]:
    with EventDataset(*opened(made), batch_size=32, **settings) as dataset, dataset.epoch(0) as batches:
        return list(batches), batches.counts


def joined(batches: Sequence[Batch], name: str) -> NDArray[Any]:
    return np.concatenate([getattr(one, name) for one in batches])


CONDITIONS = "labels: {expressions: {signal: y == 1, background: y == 0}}"
BY_COLUMN = "labels: {column: y, classes: {background: 0, signal: 1}}"


@pytest.mark.parametrize("format", ROOT)
def test_the_label_of_an_event_is_the_value_of_its_column(folder: Path, format: Format) -> None:
    batches, counts = stream(config(folder, BY_COLUMN, samples=f"all: {{files: {format}.root}}"))
    entries = joined(batches, "entries")["entry"]
    assert entries.tolist() == np.flatnonzero((LABELS == 0) | (LABELS == 1)).tolist()
    assert joined(batches, "labels").tolist() == LABELS[entries].tolist()
    assert counts == {0: Counts(SIZE, len(entries), unlabelled=SIZE - len(entries))}


@pytest.mark.parametrize(
    "labels",
    [
        "labels: {expressions: {signal: y == 1, background: y == 0}}",
        "labels: {column: y, classes: [background, signal]}",
        "new_variables: {kind: y + 5}\nlabels: {column: kind, classes: {background: 5, signal: 6}}",
        "missing: [-1]\nlabels: {column: y, classes: {background: 0, signal: 1}}",
    ],
)
@pytest.mark.parametrize("part", [None, "train"])
def test_column_conditions_and_new_variables_give_the_same_batches(folder: Path, labels: str, part: str | None) -> None:
    one, counts = stream(config(folder, BY_COLUMN), part=part, shuffle=True, shuffle_window=90, seed=5)
    other, others = stream(config(folder, labels), part=part, shuffle=True, shuffle_window=90, seed=5)
    assert len(one) == len(other) > 2
    assert all(map(same_batch, one, other))
    assert counts == others


@pytest.mark.parametrize("kind", ROOT)
def test_words_are_labels_where_the_format_gives_them(folder: Path, kind: str) -> None:
    text = (
        f"samples: {{all: {{files: words_{kind}.root, selection: MET_pt > 20}}}}\ninputs: {{event: [MET_pt]}}\n"
        "labels: {column: word, classes: {background: b, signal: [s, other]}}\n"
    )
    batches, counts = stream(parse_config(text, folder=folder))
    entries = joined(batches, "entries")["entry"]
    assert joined(batches, "labels").tolist() == (LABELS[entries] > 0).tolist()
    assert counts[0].unlabelled > 0
    assert counts[0].cut > 0
    assert counts[0].delivered == len(entries)


def test_a_source_gives_any_range_of_a_column_of_words_and_refuses_others(folder: Path) -> None:
    for kind in ROOT:
        with open_source(str(folder / f"words_{kind}.root"), "Events") as source:
            assert source.texts == {"word"}  # type: ignore[attr-defined]
            words = source.read_text("word", 7, 19).tolist()  # type: ignore[attr-defined]
            assert words == [WORDS[one] for one in LABELS[7:19].tolist()]
            with pytest.raises(DataError, match=r"has no column of text 'wrod'; did you mean 'word'"):
                source.read_text("wrod", 0, 1)  # type: ignore[attr-defined]
            with pytest.raises(DataError, match="entries 0 to 999 asked for, but it has 240"):
                source.read_text("word", 0, 999)  # type: ignore[attr-defined]


def test_words_may_stand_in_a_friend(folder: Path) -> None:
    text = (
        "samples: {all: {files: ttree.root, friends: words_ttree.root}}\ninputs: {event: [mass]}\n"
        "labels: {column: word, classes: {background: b, signal: [s, other]}}\n"
    )
    batches, counts = stream(parse_config(text, folder=folder))
    entries = joined(batches, "entries")["entry"]
    assert joined(batches, "labels").tolist() == (LABELS[entries] > 0).tolist()
    assert counts[0].unlabelled == int(np.count_nonzero(LABELS < 0))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_words_of_a_delimited_text_are_labels(tmp_path: Path, delimiter: str) -> None:
    met = make_events(SIZE)["MET_pt"]
    assert isinstance(met, np.ndarray)
    words = [WORDS[one] or '""' for one in LABELS.tolist()]
    lines = [delimiter.join(("MET_pt", "Label")), "# a comment"]
    lines += [delimiter.join((repr(float(value)), word)) for value, word in zip(met, words, strict=True)]
    (tmp_path / "events.csv").write_text("\n".join(lines) + "\n")
    text = (
        "samples: {all: {files: events.csv}}\ninputs: {event: [MET_pt]}\n"
        "labels: {column: Label, classes: {background: b, signal: [s, other]}}\n"
    )
    batches, counts = stream(parse_config(text, folder=tmp_path), chunk_entries=37)
    entries = joined(batches, "entries")["entry"]
    assert entries.tolist() == np.flatnonzero(LABELS >= 0).tolist()
    assert joined(batches, "labels").tolist() == (LABELS[entries] > 0).tolist()
    assert counts[0].unlabelled == int(np.count_nonzero(LABELS < 0))


def test_words_of_a_real_file_are_labels(test_data: Path) -> None:
    text = (
        f"samples: {{Z: {{files: {test_data}/ntuples/uproot-Zmumu.root, tree: events}}}}\ninputs: {{event: [M]}}\n"
        "labels: {column: Type, classes: {global: GG, mixed: [GT, TT]}, signal: global}\n"
    )
    _, counts = stream(parse_config(text))
    assert counts[0] == Counts(2304, 2304)


def test_text_and_numbers_are_not_taken_for_each_other(folder: Path) -> None:
    words = "labels: {column: y, classes: {background: b, signal: s}}"
    with pytest.raises(DataError, match=r"column 'y' holds numbers \(int32\): .* labels\.classes gives text"):
        Catalogue.open(config(folder, words))
    text = "samples: {all: {files: words_ttree.root}}\ninputs: {event: [MET_pt]}\n"
    with pytest.raises(DataError, match=r"column 'word' holds text: .* gives numbers for it: 0 for 'b'"):
        Catalogue.open(parse_config(text + "labels: {column: word, classes: [b, signal]}", folder=folder))


def test_an_event_of_two_classes_is_named_but_only_where_it_is_selected(folder: Path) -> None:
    both = "labels: {expressions: {signal: y > 0, background: y == 0 or y == 2}}"
    first = int(np.flatnonzero(LABELS == 2)[0])
    told = rf"ttree.root, tree 'Events', entry {first}: is of two classes, 'signal' \(y > 0\) and 'background' \(y == 0"
    with pytest.raises(ConfigError, match=told):
        stream(config(folder, f"{both}\non_error: skip"), chunk_entries=40, threads=0)
    _, counts = stream(config(folder, f"{both}\npreselection: y != 2"))
    assert counts[0].cut == int(np.count_nonzero(LABELS == 2))


def test_what_cannot_be_a_label_is_refused_with_its_place(folder: Path) -> None:
    for labels, problem in [
        ("{column: Jet_pt, classes: [b, signal]}", r"samples\.all: labels\.column: 'Jet_pt' is a list an event"),
        ("{expressions: {signal: y, b: y == 0}}", r"labels\.expressions\.signal: must be true or false"),
        ("{expressions: {signal: Jet_pt > 1, b: y == 0}}", r"labels\.expressions\.signal: must be true or false"),
    ]:
        made = config(folder, f"labels: {labels}")
        with pytest.raises(ConfigError, match=problem):
            EventDataset(*opened(made))
    with pytest.raises(DataError, match=r"labels\.column: no column 'yy' in .*; did you mean 'y'"):
        Catalogue.open(config(folder, "labels: {column: yy, classes: [b, signal]}"))


def test_samples_of_one_class_are_mixed_with_samples_of_several(folder: Path) -> None:
    samples = "all: {files: ttree.root}, other: {files: other.root, label: background}"
    batches, counts = stream(config(folder, BY_COLUMN, samples=samples))
    files, labels = joined(batches, "entries")["file"], joined(batches, "labels")
    assert set(labels[files == 1]) == {0}
    assert set(labels[files == 0]) == {0, 1}
    assert counts[1] == Counts(80, 80)


def test_two_trees_of_a_file_are_two_classes(folder: Path, tmp_path: Path) -> None:
    write_events(tmp_path / "both.root", make_events(20), tree="Sig", extra={"Bkg": make_events(30, seed=1)})
    samples = "signal: {files: both.root, tree: Sig}, background: {files: both.root, tree: Bkg}"
    batches, _ = stream(config(tmp_path, "", samples=samples))
    assert np.bincount(joined(batches, "labels")).tolist() == [30, 20]


def test_the_scan_counts_events_by_their_own_class_with_negative_weights(folder: Path) -> None:
    made = config(folder, BY_COLUMN)
    found = scan_files(*opened(made), threads=0)
    with EventDataset(*opened(made), part="train") as dataset:
        batches = list(dataset)
    labels, weights = joined(batches, "labels"), joined(batches, "weights")
    for number, name in enumerate(("background", "signal")):
        own, sums = weights[labels == number], found.statistics.classes[name]
        assert (sums.events, sums.negative) == (len(own), int(np.count_nonzero(own < 0)))
        assert sums.negative > 0
        assert sums.sum_weights == pytest.approx(own.sum(), rel=1e-12)
    sample = found.statistics.samples["all"]
    assert sample.by_class["signal"].events == int(np.count_nonzero(LABELS == 1))
    assert sum(one.events for one in sample.by_class.values()) == sample.selected.events
    assert sample.read - sample.selected.events == found.files[0].unlabelled > 0


def test_balanced_training_gives_classes_of_a_column_equal_sums(folder: Path) -> None:
    made = config(folder, BY_COLUMN)
    catalogue, preprocessor = opened(made)
    statistics = scan(catalogue, preprocessor, threads=0)
    settings: dict[str, Any] = {"part": "train", "weights": "training", "statistics": statistics}
    with EventDataset(catalogue, preprocessor, **settings) as dataset:
        batches = list(dataset)
    labels, weights = joined(batches, "labels"), joined(batches, "weights")
    sums = np.bincount(labels, weights)
    assert sums[0] == pytest.approx(sums[1])
    assert weights.mean() == pytest.approx(1.0)
    assert (weights < 0).any()


def test_an_event_that_two_samples_take_for_different_classes_is_refused(folder: Path) -> None:
    samples = (
        "one: {files: ttree.root, selection: MET_pt > 20, label: signal}, "
        "two: {files: ttree.root, selection: MET_pt > 10}"
    )
    told = r"'one' and 'two' both select \d+ entries.*cannot be 'signal' and 'background' at once"
    with pytest.raises(DataError, match=told):
        scan(*opened(config(folder, BY_COLUMN, samples=samples)), threads=0)
    same = samples.replace("MET_pt > 20", "y == 1")
    scan(*opened(config(folder, BY_COLUMN, samples=same)), threads=0)


REGRESSION = "targets: {mass: mass, logm: log(mass)}"


def test_targets_come_beside_the_inputs_and_change_none_of_them(folder: Path) -> None:
    plain, _ = stream(config(folder, BY_COLUMN.replace("0,", "[0, 2, -1],")), shuffle=True, shuffle_window=100)
    batches, counts = stream(config(folder, REGRESSION), shuffle=True, shuffle_window=100)
    assert counts == {0: Counts(SIZE, SIZE)}
    for one, other in zip(plain, batches, strict=True):
        assert other.targets is not None
        assert all(np.array_equal(one.inputs[name], other.inputs[name], equal_nan=True) for name in one.inputs)
        assert np.array_equal(one.entries, other.entries)
        assert one.targets is None
        assert set(other.labels) == {-1}
        mass = MASS[other.entries["entry"]]
        assert other.targets.dtype == np.float32
        assert np.array_equal(other.targets, np.column_stack([np.log(mass.astype(float)), mass]).astype(np.float32))


def test_targets_stand_alone_where_no_input_is_flat(folder: Path) -> None:
    text = "samples: {all: {files: ttree.root}}\ninputs: {jets: {vars: [Jet_pt, Jet_eta], length: 3}}\n" + REGRESSION
    batches, _ = stream(parse_config(text, folder=folder))
    targets = joined(batches, "targets")
    assert np.array_equal(targets[:, 1], MASS)
    text = text.replace(REGRESSION, BY_COLUMN.replace("0,", "[0, 2, -1],"))
    plain, _ = stream(parse_config(text, folder=folder))
    for one, other in zip(plain, batches, strict=True):
        assert np.array_equal(one.inputs["jets"], other.inputs["jets"], equal_nan=True)


def test_an_event_without_a_target_is_counted_and_an_infinite_one_refused(folder: Path) -> None:
    missing = int(np.count_nonzero(LABELS == 0))
    _, counts = stream(config(folder, "targets: {m: mass * sqrt(0.5 - (y == 0))}"))
    assert counts[0] == Counts(SIZE, SIZE - missing, unlabelled=missing)
    first = int(np.flatnonzero(LABELS == 2)[0])
    with pytest.raises(DataError, match=rf"entry {first}: the target 'm' is inf; targets must be finite"):
        stream(config(folder, "targets: {m: mass / (y - 2)}"), threads=0, chunk_entries=40)
    with pytest.raises(ConfigError, match=r"targets\.m: gives a list an event"):
        EventDataset(*opened(config(folder, "targets: {m: Jet_pt}")))


def test_the_contract_of_a_regression_names_its_targets_and_what_they_are_like(folder: Path) -> None:
    made = config(folder, REGRESSION)
    catalogue, preprocessor = opened(made)
    statistics = scan(catalogue, preprocessor, threads=0)
    assert statistics.targets
    batches, _ = stream(made, part="train")
    targets = joined(batches, "targets").astype(float)
    for place, name in enumerate(("logm", "mass")):
        one = statistics.targets.features[name]
        assert one.count == len(targets)
        assert one.mean == pytest.approx(targets[:, place].mean(), rel=1e-12)
        assert one.std == pytest.approx(targets[:, place].std(), rel=1e-9)
    assert statistics.targets.weights.events == len(targets)
    assert statistics.targets.weights.negative > 0
    spec = ModelSpec.seal("m", preprocessor=preprocessor, statistics=statistics)
    assert (spec.task, spec.classes, spec.score_names) == ("regression", (), ("logm", "mass"))
    assert "mass" not in spec.columns
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert ModelSpec.from_json(spec.to_json()).sha256 == spec.sha256
    again = scan(catalogue, preprocessor, threads=2, max_memory=2_000_000)
    assert again == statistics
    settings: dict[str, Any] = {"part": "train", "weights": "training", "statistics": statistics}
    with EventDataset(catalogue, preprocessor, **settings) as dataset:
        assert joined(list(dataset), "weights").mean() == pytest.approx(1.0)


def test_contracts_of_classes_do_not_speak_of_targets(folder: Path) -> None:
    made = config(folder, "", samples="signal: {files: ttree.root}, background: {files: other.root}")
    catalogue, preprocessor = opened(made)
    spec = ModelSpec.seal("m", preprocessor=preprocessor, statistics=scan(catalogue, preprocessor, threads=0))
    assert b"targets" not in spec.to_json()
    written = json.loads(spec.to_json())["statistics"]["samples"]
    assert all("classes" not in one for one in written.values())


DATA = "signal: {files: ttree.root}, background: {files: other.root}, seen: {files: seen.root, kind: data}"


@pytest.mark.parametrize(
    "more",
    [
        "",
        "split: {by: [event], test: 0.2}",
        "observers: [y]",
    ],
)
def test_samples_of_kind_data_are_a_catalogue_of_their_own_that_needs_no_truth(folder: Path, more: str) -> None:
    text = (
        f"samples: {{{DATA}}}\ninputs: {{event: [MET_pt], jets: {{vars: [Jet_pt], length: 2}}}}\n"
        f"preselection: MET_pt > 10\nweights: {{event: genWeight}}\n{more}\n"
    )
    made = parse_config(text, folder=folder)
    simulated = Catalogue.open(made)
    assert [one.name for one in simulated.samples] == ["signal", "background"]
    catalogue = Catalogue.open(made, kind="data")
    assert [one.name for one in catalogue.samples] == ["seen"]
    assert catalogue.kind == "data"
    preprocessor = Preprocessor(made.features, simulated.types)
    with EventDataset(catalogue, preprocessor, batch_size=16) as dataset, dataset.epoch(0) as batches:
        read = list(batches)
        counts = batches.counts
    met = make_events(70, seed=4)["MET_pt"]
    assert isinstance(met, np.ndarray)
    assert np.concatenate([one.inputs["event"][:, 0] for one in read]).tolist() == met[met > 10].tolist()
    assert set(joined(read, "labels")) == {-1}
    assert set(joined(read, "weights")) == {1.0}
    assert counts[0] == Counts(70, len(joined(read, "labels")), 70 - int(np.count_nonzero(met > 10)))


def test_data_has_no_targets(folder: Path) -> None:
    samples = "all: {files: ttree.root}, seen: {files: seen.root, kind: data}"
    made = config(folder, REGRESSION, samples=samples)
    with EventDataset(
        Catalogue.open(made, kind="data"), Preprocessor(made.features, Catalogue.open(made).types)
    ) as one:
        assert [batch.targets for batch in one] == [None]


def test_data_is_neither_split_nor_weighed_nor_scanned(folder: Path) -> None:
    made = config(folder, "", samples=DATA)
    catalogue, preprocessor = Catalogue.open(made, kind="data"), Preprocessor(made.features, Catalogue.open(made).types)
    for settings in ({"part": "train"}, {"weights": "training"}):
        with pytest.raises(DataError, match="samples of kind data are not learned from"):
            EventDataset(catalogue, preprocessor, **settings)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the scan is of samples that are learned from"):
        scan(catalogue, preprocessor)
    with pytest.raises(DataError, match="has no sample of kind data; it has all"):
        Catalogue.open(config(folder, BY_COLUMN), kind="data")


def test_a_column_that_data_lacks_is_told_for_data_too(folder: Path) -> None:
    made = config(folder, "preselection: run > 0", samples=DATA)
    with pytest.raises(
        DataError, match=r"preselection: no column 'run' in .*seen\.root, tree 'Events' \(sample seen\)"
    ):
        Catalogue.open(made, kind="data")


def test_parts_hold_every_labelled_event_once(folder: Path) -> None:
    made = config(folder, BY_COLUMN)
    parts = [stream(made, part=part) for part in PARTS]
    read = [set(joined(batches, "entries")["entry"].tolist()) if batches else set() for batches, _ in parts]
    assert sum(map(len, read)) == len(set().union(*read)) == int(np.count_nonzero((LABELS == 0) | (LABELS == 1)))
    for _, counts in parts:
        one = counts[0]
        assert one.read == one.delivered + one.cut + one.other_part + one.unlabelled
    assert sum(counts[0].unlabelled for _, counts in parts) == int(np.count_nonzero((LABELS == 2) | (LABELS == -1)))


def test_a_saved_place_fits_only_the_same_labels(folder: Path) -> None:
    one, other = (
        EventDataset(*opened(config(folder, labels))) for labels in (BY_COLUMN, BY_COLUMN.replace("0,", "[0, 2],"))
    )
    with one, other, one.epoch(0) as first, other.epoch(0) as second:
        next(first)
        with pytest.raises(DataError, match="this state was saved from another stream"):
            second.load_state_dict(first.state_dict())


@pytest.mark.parametrize("more", [BY_COLUMN, REGRESSION, "labels: {expressions: {signal: y > 0, background: y == 0}}"])
@pytest.mark.parametrize("part", [None, "train"])
def test_a_cache_keeps_labels_and_targets_and_counts_what_has_none(
    folder: Path, tmp_path: Path, more: str, part: str | None
) -> None:
    made = config(folder, more)
    plain, counts = stream(made, part=part, shuffle=True, shuffle_window=100, seed=2)
    cache = Cache(str(tmp_path / "cache"))
    for _ in range(2):  # filled, then read
        kept, kept_counts = stream(made, part=part, shuffle=True, shuffle_window=100, seed=2, cache=cache)
        assert len(plain) == len(kept)
        assert all(map(same_batch, plain, kept))
        assert kept_counts == counts
    dataset = EventDataset(*opened(made), part=part, shuffle="exact", cache=cache, seed=2)  # type: ignore[arg-type]
    with dataset, dataset.epoch(1) as epoch:
        exact = list(epoch)
        assert epoch.counts == counts
    order, other = (np.argsort(joined(one, "entries")["entry"]) for one in (plain, exact))
    names = ("labels", "weights", "targets") if "targets" in more else ("labels", "weights")
    for name in names:
        assert np.array_equal(joined(plain, name)[order], joined(exact, name)[other])


def test_rows_kept_for_one_rule_are_not_taken_for_another(folder: Path, tmp_path: Path) -> None:
    cache = Cache(str(tmp_path))
    stream(config(folder, BY_COLUMN), cache=cache)
    for labels in (BY_COLUMN.replace("1}", "2}"), BY_COLUMN.replace("{column", "{signal: background, column")):
        found, _ = stream(config(folder, labels), cache=cache)
        expected, _ = stream(config(folder, labels))
        assert all(map(same_batch, found, expected))


def test_kept_statistics_are_of_the_same_labels_and_targets_alone(folder: Path) -> None:
    words = (BY_COLUMN, BY_COLUMN.replace("1}", "2}"), CONDITIONS, REGRESSION, "targets: {mass: mass}")
    keys = [scan_key(*opened(config(folder, more))) for more in words]
    assert None not in keys
    assert len(set(keys)) == len(words)
    assert keys[0] == scan_key(*opened(config(folder, BY_COLUMN)))


def test_data_and_simulation_of_one_file_are_kept_apart(folder: Path, tmp_path: Path) -> None:
    cache = Cache(str(tmp_path))
    samples = "all: {files: ttree.root}, seen: {files: ttree.root, kind: data}"
    for more in (BY_COLUMN.replace("0,", "[0, 2, -1],"), REGRESSION):
        made = config(folder, more, samples=samples)
        stream(made, cache=cache)
        observed, preprocessor = Catalogue.open(made, kind="data"), opened(made)[1]
        with EventDataset(observed, preprocessor, cache=cache) as dataset:
            batches = list(dataset)
        assert set(joined(batches, "weights")) == {1.0}
        assert set(joined(batches, "labels")) == {-1}
        assert [batch.targets for batch in batches] == [None]


def test_values_that_no_event_has_are_told_with_those_that_there_are(folder: Path) -> None:
    held = {value: LABELS.tolist().count(value) for value in (-1, 0, 1, 2)}
    there = ", ".join(f"{value} ({count})" for value, count in held.items())
    catalogue, preprocessor = opened(
        config(folder, "labels: {column: y, classes: {background: [0, 7], signal: [5, 6]}}")
    )
    assert list(unmatched(catalogue, preprocessor, ["signal", "background"])) == [
        f"samples.all: column 'y' holds {there}; asked for 5 or 6 for 'signal'"
    ]
    made = config(folder, "new_variables: {z: 10 * y}\nlabels: {column: z, classes: {background: 0, signal: 1}}")
    assert "holds -10 (" in next(unmatched(*opened(made), ["signal"]))
    assert list(unmatched(*opened(made), ["background"])) == [], "its values are there; something else cuts them"


@pytest.mark.parametrize("kind", ROOT)
def test_labels_of_the_wrong_kind_are_told_with_what_is_there(folder: Path, kind: str) -> None:
    text = (
        "samples: {{all: {{files: [{file}]}}}}\ninputs: {{event: [MET_pt]}}\n"
        "labels: {{column: {column}, classes: {classes}}}\n"
    )
    numbers = text.format(file=f"{kind}.root, other.root", column="nJet", classes="{background: b, signal: s}")
    with pytest.raises(DataError) as refused:
        Catalogue.open(parse_config(numbers, folder=folder))
    assert re.search(
        r"root and 1 more file, tree 'Events': column 'nJet' holds numbers \(int32\): .*0 \(\d+\), 1 \(\d+\), .*; "
        "labels.classes gives text for it: 'b' for 'background', 's' for 'signal'",
        str(refused.value),
    )
    words = text.format(file=f"words_{kind}.root", column="word", classes="{background: 0, signal: 1}")
    count = int(np.sum(LABELS == 0))
    with pytest.raises(
        DataError, match=rf"column 'word' holds text: '' \(\d+\), 'b' \({count}\), .*gives numbers for it: 0 "
    ):
        Catalogue.open(parse_config(words, folder=folder))
