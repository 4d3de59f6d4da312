"""Iterators of batches: what they say after an error, where they stand, and what they have counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.config import Config, parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import ColumnType
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import make_events, write_events


def opened(config: Config, **settings: object) -> EventDataset:
    catalogue = Catalogue.open(config)
    return EventDataset(catalogue, Preprocessor(config.features, catalogue.types), **settings)  # type: ignore[arg-type]


@pytest.fixture
def failing(tmp_path: Path) -> Config:
    """Of the second file, the first entry has no weight."""
    for number in range(2):
        columns = make_events(100, seed=number)
        columns["genWeight"][0] = 1.0 if number == 0 else np.nan  # type: ignore[index]
        write_events(tmp_path / f"{number}.root", columns, cluster=10)
    return parse_config(
        f"samples:\n  signal: {{files: '{tmp_path}/0.root'}}\n  background: {{files: '{tmp_path}/1.root'}}\n"
        "inputs: {event: [MET_pt]}\nweights: {event: genWeight}\n"
    )


@pytest.mark.parametrize("threads", [0, 2])
def test_an_epoch_that_failed_fails_again_and_does_not_end_quietly(failing: Config, threads: int) -> None:
    with opened(failing, batch_size=1000, threads=threads) as stream:
        batches = stream.epoch(0)
        for _ in range(2):
            with pytest.raises(DataError, match="the event weight is nan"):
                next(batches)
        batches.close()
        with pytest.raises(DataError, match="the event weight is nan"):
            next(batches)


@pytest.mark.parametrize("threads", [0, 2])
def test_the_place_after_an_error_is_that_of_the_last_batch(failing: Config, threads: int) -> None:
    """Events that were taken for a batch that never came are not lost to a stream that goes on from there."""
    with opened(failing, batch_size=16, threads=threads, shuffle=True, shuffle_window=20, chunk_entries=10) as stream:
        batches = stream.epoch(0)
        states = [batches.state_dict()]

        def read() -> None:
            for _ in batches:
                states.append(batches.state_dict())

        with pytest.raises(DataError, match="the event weight is nan"):
            read()
        assert len(states) > 2
        assert batches.state_dict() == states[-1]


TEXT = """
samples:
  signal: {files: 'FOLDER/0.root'}
  background: {files: 'FOLDER/1.root'}
inputs: {event: [MET_pt]}
weights: {event: genWeight}
"""
LABELS = "labels: {{column: {}, signal: a, classes: {{a: 1, b: 2}}}}"
HOOK = "def preprocessing(rec):\n    rec['MET_pt'] = FACTOR * rec['MET_pt']\n    return rec\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(2):
        write_events(tmp_path / f"{number}.root", make_events(100, seed=number), cluster=10)
    for name, factor in (("one.py", "1.0"), ("same.py", "1.0"), ("two.py", "2.0")):
        (tmp_path / name).write_text(HOOK.replace("FACTOR", factor))
    return tmp_path


def fingerprint(folder: Path, text: str = TEXT, **settings: object) -> str:
    config = parse_config(text.replace("FOLDER", str(folder)), folder=folder)
    with opened(config, **settings) as stream:
        return stream.fingerprint


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("", "split: {by: [event]}"),
        ("split: {by: [event]}", "split: {by: [luminosityBlock, event]}"),
        ("", "preproc: one.py"),
        ("preproc: one.py", "preproc: two.py"),
        ("", "labels: {signal: background}"),
        ("", "missing: [-999]"),
        (LABELS.format("luminosityBlock"), LABELS.format("event")),
    ],
)
def test_a_state_does_not_fit_a_stream_that_gives_other_events(folder: Path, one: str, other: str) -> None:
    found = [fingerprint(folder, f"{TEXT}{more}\n", part="train") for more in (one, other)]
    assert found[0] != found[1]
    assert found[0] == fingerprint(folder, f"{TEXT}{one}\n", part="train", threads=0, batch_size=3)


def test_a_state_does_not_fit_a_stream_of_other_weights_labels_or_types(folder: Path) -> None:
    config = parse_config(TEXT.replace("FOLDER", str(folder)))
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    signal, background = catalogue.samples
    double = {**catalogue.types, "MET_pt": ColumnType("flat", "float64")}
    others = [
        replace(catalogue, samples=(replace(signal, factor=2.0), background)),
        replace(catalogue, samples=(replace(signal, label=background.label), background)),
        replace(catalogue, types=double),
    ]
    found = {EventDataset(one, preprocessor).fingerprint for one in (catalogue, *others)}
    assert len(found) == 4
    more = replace(catalogue, types={**catalogue.types, "other": double["MET_pt"]})
    found.add(EventDataset(more, preprocessor).fingerprint)
    assert len(found) == 4, "a column that is not read changes nothing"


def test_where_files_and_functions_lie_changes_nothing(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    moved = tmp_path_factory.mktemp("moved")
    for one in folder.glob("*.root"):
        (moved / one.name).write_bytes(one.read_bytes())
    assert fingerprint(folder) == fingerprint(moved)
    assert fingerprint(folder, f"{TEXT}preproc: one.py\n") == fingerprint(folder, f"{TEXT}preproc: same.py\n")
