"""The original's workflow becomes a config: every branch an input, lists as long as the longest, labels as there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mlaas4hep.config import Config, parse_config
from mlaas4hep.config.original import Params, Specs
from mlaas4hep.config.preproc import translate_preproc
from mlaas4hep.data import original
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.hook import RecordHook
from mlaas4hep.data.original import Translated, Workflow, translate
from mlaas4hep.errors import ConfigError, DataError
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.testing import ending, write_events

EVENTS = 120


def columns(seed: int, longest: int, events: int = EVENTS) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    counts = random.integers(0, 3, events)
    counts[-1] = longest  # only the last event has it
    jets = [random.normal(size=count).astype(np.float32).tolist() for count in counts]
    tracks = [random.normal(size=2).astype(np.float32).tolist() for _ in range(events)]
    return {
        "run": np.ones(events, np.uint32),
        "luminosityBlock": np.full(events, seed, np.uint32),
        "event": np.arange(events, dtype=np.uint64),
        "HT": random.normal(seed, 1, events),
        "genWeight": np.ones(events, np.float32),
        "kind": random.integers(0, 3, events).astype(np.int32),
        "sign": np.where(random.random(events) < 0.5, -1.0, 1.0),
        "Jet_pt": Jagged.from_lists(jets),
        "Jet_eta": Jagged.from_lists(jets),
        "Jet_track": Jagged.from_lists(tracks),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    for seed, (name, longest) in enumerate((("bkg", 4), ("sig", 6))):
        write_events(folder / f"{name}.root", columns(seed, longest), format="rntuple")
        flat = {name: one for name, one in columns(seed, longest).items() if not isinstance(one, Jagged)}
        write_events(folder / f"{name}{ending('csv')}", flat, format="csv")
    (folder / "net.py").write_text("def model(idim): ...\n", encoding="utf-8")
    return folder


def work(folder: Path, *, ends: str = ".root", **settings: Any) -> Workflow:
    """Two files of two labels."""
    files = (str(folder / f"bkg{ends}"), str(folder / f"sig{ends}"))
    given: dict[str, Any] = {"files": files, "labels": ("0", "1"), "model": folder / "net.py", "params": Params()}
    return Workflow(**given | settings)


def read(found: Translated) -> Config:
    """The config, once it fits the files."""
    config = parse_config(yaml.safe_dump(found.document, sort_keys=False))
    Preprocessor(config.features, Catalogue.open(config).types)
    return config


def test_every_branch_is_an_input_and_lists_are_as_long_as_the_longest(folder: Path) -> None:
    found = translate(work(folder))
    assert found.document["inputs"] == {
        "event": ["HT", "genWeight", "kind", "sign", "nJet"],
        "jets": {"vars": ["Jet_pt", "Jet_eta"], "length": 6},
        "jets_2": {"vars": ["Jet_track"], "length": 2},
    }
    config = read(found)
    assert config.features.width == 5 + 2 * 6 + 2
    assert config.classes == ("0", "1")
    assert (config.features.split.test, config.features.split.validation) == (0.2, 0.16)
    assert config.features.weights.training == "none"
    assert (config.training.epochs, config.training.batch_size, config.training.patience) == (10, 50, 10)
    assert found.notes == (
        "by their names generator truth or weights, and inputs too: genWeight; exclude_branches keeps them out",
    )


def test_branches_are_selected_or_excluded_and_identifiers_are_no_inputs(folder: Path) -> None:
    chosen = translate(
        work(folder, params=Params(selected_branches=("event", "Jet_eta", "HT"), exclude_branches=("HT",)))
    )
    assert chosen.document["inputs"] == {"event": ["HT"], "jets": {"vars": ["Jet_eta"], "length": 6}}
    assert "exclude_branches is not looked at beside selected_branches" in chosen.notes[0]
    without = translate(
        work(
            folder, params=Params(exclude_branches=("genWeight", "Jet_track", "Jet_pts"), identifier=("event", "runn"))
        )
    )
    assert without.document["inputs"]["event"] == ["run", "luminosityBlock", "HT", "kind", "sign", "nJet"]
    assert list(without.document["inputs"]) == ["event", "jets"]
    assert without.notes == (
        "exclude_branches: no branch 'Jet_pts'; did you mean 'Jet_pt' or 'Jet_eta' or 'Jet_track'?",
        "identifier: no branch 'runn'; did you mean 'run'?",
        "run, luminosityBlock: may tell one file from another, and inputs too; "
        "identifier or exclude_branches keeps them out",
    )
    with pytest.raises(ConfigError, match="no branch 'Jet_ptt'; did you mean 'Jet_pt'"):
        translate(work(folder, params=Params(selected_branches=("Jet_ptt",))))
    with pytest.raises(ConfigError, match="no branch is left to learn from"):
        translate(work(folder, params=Params(selected_branches=("run",))))


def test_dimensions_and_branches_come_from_the_specs(folder: Path) -> None:
    specs = Specs({"Jet_pt": 3, "Jet_eta": 2}, ("HT", "event"), ("Jet_pt", "Jet_eta"))
    inputs = translate(work(folder, specs=specs)).document["inputs"]
    assert inputs == {"event": ["HT"], "jets": {"vars": ["Jet_pt", "Jet_eta"], "length": 3}}
    with pytest.raises(ConfigError, match=r"--specs.*\n.*no branch 'MET'"):
        translate(work(folder, specs=Specs({}, ("MET",), ())))


def test_a_limit_of_events_is_shared_between_files_and_holds_for_the_lengths(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = translate(work(folder, params=Params(nevts=EVENTS - 1)))
    assert list(found.document["samples"]) == ["bkg", "sig"]
    assert found.document["inputs"]["jets"]["length"] == 2
    assert found.document["samples"]["sig"]["label"] == "1"
    monkeypatch.setattr(original, "_MOST_SAMPLES", 1)
    grouped = translate(work(folder, params=Params(nevts=50)))
    assert list(grouped.document["samples"]) == ["label_0", "label_1"]
    assert "of 2 files, those of a label are read in turn" in grouped.notes[-1]


def test_files_of_one_label_are_one_sample(folder: Path) -> None:
    files = (str(folder / "sig.root"), str(folder / "bkg.root"))
    found = translate(work(folder, files=files, labels=("signal", "background")))
    assert found.document["samples"]["label_signal"] == {"files": [files[0]], "label": "signal"}
    assert read(found).classes == ("background", "signal")
    assert read(translate(work(folder, labels=("10", "2.0")))).classes == ("2", "10")


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ("kind", {"classes": ["0", "1", "2"]}),
        ("sign", {"classes": {"-1": [-1], "1": [1]}, "signal": "1"}),
    ],
)
def test_labels_may_stand_in_a_branch(folder: Path, column: str, told: Any) -> None:
    found = translate(work(folder, labels=column))
    assert found.document["labels"] == {"column": column, **told}
    assert column not in found.document["inputs"]["event"]
    assert read(found).classes == tuple(told["classes"])


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("kindd", "'kindd' is neither a file, nor labels between commas, nor a column; did you mean 'kind'"),
        ("HT", "column 'HT' holds .*, which is no class; .* is a target"),
        ("event", "column 'event' holds more than 100 values"),
        ("Jet_pt", "column 'Jet_pt' holds a list an event"),
        (("1", "1"), "all files have the label 1: nothing is to be told apart"),
    ],
)
def test_labels_that_tell_nothing_apart_are_refused(folder: Path, labels: Any, words: str) -> None:
    with pytest.raises((ConfigError, DataError), match=words):
        translate(work(folder, labels=labels))


def test_a_preproc_file_adds_and_takes_away_inputs(folder: Path) -> None:
    written = {
        "new_branch": {
            "log_pt": {"def": "log(Jet_pt)", "type": "jagged", "cut": ["log_pt > -50", "any"], "remove": "False"},
            "HT2": {"def": "HT**2", "type": "flat", "remove": "False"},
            "first": {"def": "Jet_pt[:1]", "type": "jagged", "keys_to_remove": ["Jet_eta"]},
        },
        "flat_cut": {"sign": {"cut": "sign > 0", "remove": "True"}},
    }
    path = folder / "preproc.json"
    path.write_text(json.dumps(written), encoding="utf-8")
    found = translate(work(folder, preproc=path, preprocessing=translate_preproc(written)))
    assert found.document["inputs"] == {
        "event": ["HT", "genWeight", "kind", "nJet", "HT2"],
        "jets": {"vars": ["Jet_pt"], "length": 6},
        "jets_2": {"vars": ["Jet_track"], "length": 2},
        "logs": {"vars": ["log_pt"], "length": 6},
        "firsts": {"vars": ["first"], "length": 1},
    }
    assert "sign > 0" in str(read(found).features.preselection)


def test_what_the_users_function_returns_are_the_branches(folder: Path) -> None:
    path = folder / "ours.py"
    path.write_text(
        "def preprocessing(rec):\n"
        "    return None if rec['sign'] < 0 else {'twice': 2 * rec['HT'], 'pts': rec['Jet_pt'] + [1.0]}\n",
        encoding="utf-8",
    )
    found = translate(work(folder, preproc=path, preprocessing=RecordHook.load(str(path))))
    assert found.document["inputs"] == {
        "event": ["twice"],
        "pts": {"vars": ["pts"], "length": found.document["inputs"]["pts"]["length"]},
    }
    assert found.document["inputs"]["pts"]["length"] in (3, 5, 7)
    assert read(found).preproc == str(path)


def test_tables_have_no_tree_and_must_be_of_the_type_that_is_asked_for(folder: Path) -> None:
    found = translate(work(folder, ends=".csv", dtype="csv"))
    assert "tree" not in found.document
    assert found.document["inputs"] == {"event": ["HT", "genWeight", "kind", "sign"]}
    read(found)
    lines = (folder / "bkg.csv").read_text(encoding="utf-8").splitlines()
    worded = "\n".join([f"{lines[0]},word", *(f"{line},{'ab'[len(line) % 2]}" for line in lines[1:])])
    (folder / "words.csv").write_text(worded, encoding="utf-8")
    of_words = translate(work(folder, files=(str(folder / "words.csv"),), labels="word"))
    assert of_words.document["labels"] == {"column": "word", "classes": {"a": ["a"], "b": ["b"]}, "signal": "b"}
    assert of_words.document["inputs"] == found.document["inputs"]
    read(of_words)
    with pytest.raises(DataError, match=r"bkg.csv: --dtype says root, but it is csv"):
        translate(work(folder, ends=".csv", dtype="root"))


def test_files_and_trees_that_are_not_there_are_told(folder: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.root"):
        translate(work(folder, files=("nothing.root", "nor_this.root")))
    with pytest.raises(DataError, match=r"branch 'Event' of the params: .*did you mean 'Events'"):
        translate(work(folder, params=Params(branch="Event")))


def test_paths_that_are_not_here_are_looked_for_behind_the_redirector(folder: Path) -> None:
    with pytest.raises(DataError) as raised:
        translate(
            work(folder, files=("store/a.root", str(folder / "sig.root")), params=Params(redirector="file:///nowhere"))
        )
    assert "nowhere/store/a.root" in str(raised.value)
    with pytest.raises(DataError) as raised:
        translate(work(folder, files=("store/a.root", str(folder / "sig.root"))))
    assert "nowhere" not in str(raised.value)
