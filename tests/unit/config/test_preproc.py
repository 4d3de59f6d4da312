"""The original's ``preproc.json``: every key is honoured, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlaas4hep.config import Config, parse_config
from mlaas4hep.config.preproc import Preproc, read_preproc, translate_preproc
from mlaas4hep.errors import ConfigError
from mlaas4hep.spec.columns import Column, ColumnType, Jagged
from mlaas4hep.spec.preprocess import Preprocessor

# The shape of the file that the original's documentation shows.
DOCUMENTED: dict[str, Any] = {
    "new_branch": {
        "log_Energy": {
            "def": "log(Energy)",
            "type": "jagged",
            "cut_1": ["log_Energy<6.31", "any"],
            "cut_2": ["log_Energy>5.85", "all"],
            "remove": "False",
            "keys_to_remove": ["Energy"],
        },
        "nMuon_square": {
            "def": "nMuon**2",
            "type": "flat",
            "cut": "1<=nMuon_square<=16",
            "remove": "True",
            "keys_to_remove": ["nMuon"],
        },
    },
    "flat_cut": {"nLeptons": {"cut": "nLeptons<=2", "remove": "False"}},
    "jagged_cut": {"Muon_Pt": {"cut": ["Muon_Pt>200", "all"], "remove": True}},
}
CONFIG = """
samples: {s: {files: s.root, label: signal}, b: {files: b.root, label: background}}
preproc: PATH
preselection: MET > 10
new_variables: {ht: sum(Muon_Pt)}
inputs: {event: [ht, nLeptons], muons: {vars: [log_Energy], length: 2}}
"""


def problems_of(document: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        translate_preproc(document)
    return caught.value.problems


def config(folder: Path, document: Any, text: str = CONFIG, name: str = "preproc.json") -> Config:
    (folder / name).write_text(document if isinstance(document, str) else json.dumps(document))
    return parse_config(text.replace("PATH", name), folder=folder)


def test_the_documented_file_is_said_in_our_words() -> None:
    assert translate_preproc(DOCUMENTED) == Preproc(
        {"log_Energy": "log(Energy)", "nMuon_square": "nMuon ** 2"},
        "(any(log_Energy < 6.31)) and (all(log_Energy > 5.85)) and (1 <= nMuon_square <= 16) and (nLeptons <= 2)"
        " and (all(Muon_Pt > 200))",
        ("Energy", "nMuon_square", "nMuon", "Muon_Pt"),
    )
    assert translate_preproc({}) == Preproc({}, None, ())


def test_a_config_takes_it_over_and_cuts_as_the_original_does(tmp_path: Path) -> None:
    features = config(tmp_path, DOCUMENTED).features
    assert features.new_variables == {
        "ht": "sum(Muon_Pt)",
        "log_Energy": "log(Energy)",
        "nMuon_square": "nMuon ** 2",
    }
    columns: dict[str, Column] = {
        "MET": np.array([20.0, 20.0, 20.0, 20.0, 5.0, 20.0]),
        "nMuon": np.array([1, 1, 5, 2, 1, 1]),
        "nLeptons": np.array([1, 1, 1, 3, 1, 0]),
        "Energy": Jagged.from_lists([[400.0, 600.0], [600.0], [400.0], [400.0], [400.0], []]),
        "Muon_Pt": Jagged.from_lists([[300.0, 201.0], [300.0], [300.0], [300.0], [300.0], []]),
    }
    types = {
        name: ColumnType("jagged" if isinstance(one, Jagged) else "flat", one.dtype.name)  # type: ignore[arg-type]
        for name, one in columns.items()
    }
    prepared = Preprocessor(features, types).run(columns, 6)
    # Second: no log(Energy) below 6.31; third: 25 squared muons; fourth: leptons; fifth: MET; sixth: 'any' of none.
    assert prepared.selected.tolist() == [True, False, False, False, False, False]
    np.testing.assert_allclose(prepared.inputs["muons"][0, :, 0], np.log([400.0, 600.0]), rtol=1e-6)


def test_what_is_removed_is_no_input(tmp_path: Path) -> None:
    text = CONFIG.replace("event: [ht, nLeptons]", "event: [ht, nMuon_square]").replace("[log_Energy]", "[Energy]")
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, DOCUMENTED, text)
    assert caught.value.problems == (
        "inputs.event[1]: preproc 'preproc.json' removes 'nMuon_square' once it has been used; take it out of the "
        "inputs, or out of the file",
        "inputs.muons.vars[0]: preproc 'preproc.json' removes 'Energy' once it has been used; take it out of the "
        "inputs, or out of the file",
    )


def test_a_name_that_both_define_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, {"new_branch": {"ht": {"def": "1", "type": "flat"}}})
    assert caught.value.problems == (
        "new_variables.ht: is defined in preproc 'preproc.json' as well; give one of the two another name",
    )


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ([], "wants a mapping of new_branch, flat_cut, jagged_cut; found []"),
        ({"flat_cuts": {}}, "flat_cuts: unknown key; did you mean 'flat_cut'"),
        ({"flat_cut": []}, "flat_cut: wants a mapping by branch; found []"),
        ({"flat_cut": {"x": "x>1"}}, "flat_cut.x: wants a mapping; found 'x>1'"),
        ({"flat_cut": {"x": {"remove": "False"}}}, "flat_cut.x.cut: is required"),
        ({"flat_cut": {"x": {"cut": ["x>1", "all"]}}}, "flat_cut.x.cut: wants one condition an event, such as"),
        ({"flat_cut": {"x": {"cut": "x>1", "type": "flat"}}}, "flat_cut.x.type: unknown key"),
        ({"flat_cut": {"x": {"cut": "x>1", "remove": "yes"}}}, "flat_cut.x.remove: wants \"True\" or \"False\"; found"),
        ({"jagged_cut": {"x": {"cut": "x>1"}}}, 'jagged_cut.x.cut: wants [condition, "all"] or [condition, "any"]'),
        ({"jagged_cut": {"x": {"cut_7": ["x>1", "some"]}}}, "jagged_cut.x.cut_7: wants [condition"),
        ({"jagged_cut": {"x": {"cut": ["x>", "all"]}}}, "jagged_cut.x.cut: this cannot be read"),
        ({"new_branch": {"x": {"type": "flat"}}}, "new_branch.x.def: is required"),
        ({"new_branch": {"x": {"def": "y", "type": "list"}}}, "new_branch.x.type: wants flat or jagged; found 'list'"),
        ({"new_branch": {"x": {"def": 3, "type": "flat"}}}, "new_branch.x.def: wants an expression; found 3"),
        ({"new_branch": {"x": {"def": "np.log(y)", "type": "flat"}}}, "x.def: functions are written plainly"),
        ({"new_branch": {"x": {"def": "y", "type": "flat", "keys_to_remove": "y"}}}, "keys_to_remove: wants a list of"),
        ({"new_branch": {"x": {"def": "y", "type": "flat", "keys": ["y"]}}}, "new_branch.x.keys: unknown key"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_at_its_path(document: Any, problem: str) -> None:
    found = problems_of(document)
    assert len(found) == 1
    assert problem in found[0]


def test_all_problems_are_told_at_once_with_the_name_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, {"flat_cut": {"x": {"cut": 1}, "y": {}}}, CONFIG + "observer: [x]\n")
    where = f"preproc: {tmp_path / 'preproc.json'}"
    assert caught.value.problems == (
        f"{where}: flat_cut.x.cut: wants an expression; found 1",
        f"{where}: flat_cut.y.cut: is required",
        "observer: unknown key; did you mean 'observers'?",
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ('{"flat_cut": {}, "flat_cut": {}}', "the key 'flat_cut' is given twice"),
        ("é", "is not JSON"),
    ],
)
def test_a_file_that_is_not_json_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(ConfigError, match=said):
        read_preproc(tmp_path / "p.json")


def test_a_file_that_is_not_there_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "preproc.json").write_text("{}")
    (tmp_path / "preproc.root").touch()
    for name, said in [
        ("prepoc.json", r"preproc: .*/prepoc\.json: does not exist; did you mean 'preproc\.json'\?"),
        ("preproc.txt", r"wants a \.json file .*; found 'preproc\.txt'; did you mean .*'preproc\.json'"),
    ]:
        with pytest.raises(ConfigError, match=said):
            parse_config(CONFIG.replace("PATH", name), folder=tmp_path)


def test_a_python_file_is_kept_with_its_path(tmp_path: Path) -> None:
    text = CONFIG.replace("log_Energy", "Muon_Pt").replace("PATH", "hooks/mine.py")
    assert parse_config(text, folder=tmp_path).preproc == str(tmp_path / "hooks/mine.py")
    assert config(tmp_path, DOCUMENTED).preproc is None
