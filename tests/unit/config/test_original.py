"""Every key of the original's params.json is honoured or refused by name; specs and lists are checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlaas4hep.config.original import IDENTIFIER, Params, read_lines, read_params, read_specs
from mlaas4hep.errors import ConfigError


def params(folder: Path, **written: Any) -> Params:
    (folder / "params.json").write_text(json.dumps(written), encoding="utf-8")
    found, keys = read_params(folder / "params.json")
    assert keys == tuple(written)
    return found


def test_a_file_of_the_documentation_is_read(tmp_path: Path) -> None:
    found = params(
        tmp_path,
        nevts=50000,
        shuffle=True,
        chunk_size=10000,
        epochs=5,
        batch_size=100,
        identifier="",
        branch="Events",
        selected_branches="",
        exclude_branches=["run", "event", "luminosityBlock"],
        hist="pdfs",
        redirector="",
        verbose=1,
    )
    assert found == Params(
        nevts=50000,
        chunk_size=10000,
        epochs=5,
        batch_size=100,
        branch="Events",
        exclude_branches=("run", "event", "luminosityBlock"),
        hist="pdfs",
        redirector="",
        verbose=1,
    )
    assert found.identifier == IDENTIFIER


def test_without_a_key_it_is_as_in_the_original(tmp_path: Path) -> None:
    found = params(tmp_path)
    assert (found.nevts, found.batch_size, found.epochs, found.shuffle) == (-1, 50, 10, True)
    assert params(tmp_path, chunk_size=None, branch=None) == found


def test_branches_are_a_list_or_stand_between_commas_or_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "branches.txt").write_text("Jet_pt\n# a remark\n\nHT\n", encoding="utf-8")
    for written in (["Jet_pt", "HT"], "Jet_pt, HT", "branches.txt", str(tmp_path / "branches.txt")):
        found = params(tmp_path, exclude_branches=written, selected_branches=written, identifier=written)
        assert found.exclude_branches == found.selected_branches == found.identifier == ("Jet_pt", "HT")
    assert params(tmp_path, identifier=[]).identifier == IDENTIFIER


def test_what_the_original_never_used_is_taken_whatever_it_is(tmp_path: Path) -> None:
    assert params(tmp_path, split=0.3, nan=-1, hist={"a": 1}, metrics=True, training="standard").split == 0.3


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"shuffle": False}, "shuffle: false cannot be had: .*training.shuffle: window"),
        ({"epoch": 5}, "epoch: unknown key; did you mean 'epochs'"),
        ({"epochs": 0}, "epochs: 0 is below 1"),
        ({"batch_size": -4}, "batch_size: -4 is below 1"),
        ({"nevts": 0}, "nevts: 0 is no number of events"),
        ({"chunk_size": -2}, "chunk_size: -2 is no number of events"),
        ({"verbose": 3}, "verbose: 3 is none of 0, 1, 2 .*--progress"),
        ({"shuffle": "True"}, "shuffle: wants true or false, found text 'True'"),
        ({"exclude_branches": {"a": 1}}, "exclude_branches: wants a list, found a mapping"),
        ({"training": "chunks"}, "training: 'chunks' cannot be had; .*'standard' .*training.epochs"),
        ({"metrics": {"threshold": 0.5}}, "metrics.threshold: cannot be set; write true"),
        ({"metrics": {"bins": 5}}, "metrics.bins: unknown key; write true"),
        ({"nevts": "all"}, "nevts: wants a whole number, found text 'all'"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(tmp_path: Path, written: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"params.json: 1 problem\n  - {words}"):
        params(tmp_path, **written)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        params(tmp_path, shuffle=False, epochs=0, chunksize=5)
    assert len(raised.value.problems) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [("{epochs: 5}", "is not JSON"), ("[1]", "wants a mapping of keys"), ("[" * 100_000, "is not JSON")],
)
def test_what_is_no_params_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "params.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        read_params(tmp_path / "params.json")
    with pytest.raises(ConfigError, match=r"does not exist; did you mean 'params\.json'"):
        read_params(tmp_path / "param.json")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_params(tmp_path)


def test_specs_are_branches_and_dimensions(tmp_path: Path) -> None:
    file = tmp_path / "global-specs.json"
    whole = {
        "jdim": {"Jet_pt": 9},
        "minv": {"HT": 0},
        "maxv": {"HT": 9},
        "fkeys": ["HT"],
        "jkeys": ["Jet_pt"],
        "nans": {},
    }
    file.write_text(json.dumps(whole), encoding="utf-8")
    found = read_specs(file)
    assert (found.jdim, found.fkeys, found.jkeys) == ({"Jet_pt": 9}, ("HT",), ("Jet_pt",))
    for change, words in (
        ({"jdim": {}}, "jdim: has no 'Jet_pt', which is among jkeys"),
        ({"jdim": {"Jet_pt": -1}}, "jdim.Jet_pt: -1 is no length"),
        ({"jkeys": "Jet_pt"}, "jkeys: wants a list"),
    ):
        file.write_text(json.dumps(whole | change), encoding="utf-8")
        with pytest.raises(ConfigError, match=words):
            read_specs(file)
    file.write_text('{"epochs": 5}', encoding="utf-8")
    with pytest.raises(ConfigError, match="is no specs file: wants jdim, fkeys, jkeys; found epochs"):
        read_specs(file)


def test_lines_of_a_list_are_read_without_remarks(tmp_path: Path) -> None:
    file = tmp_path / "files.txt"
    file.write_text("# all of them\na.root\n\n b.root \n", encoding="utf-8")
    assert read_lines(file, "--files") == ("a.root", "b.root")
    file.write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="--files: has no line in it"):
        read_lines(file, "--files")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="--files: is not a text file"):
        read_lines(file, "--files")
    with pytest.raises(ConfigError, match="--files: cannot be read"):
        read_lines(tmp_path, "--files")
