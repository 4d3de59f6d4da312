"""``mlaas4hep train --files ...``: the original's command line, up to a model that a config gives again to the bit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mlaas4hep.bundle import load_bundle
from mlaas4hep.cli import run
from mlaas4hep.config import read_config
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.testing import write_events
from mlaas4hep.train.document import to_yaml

pytestmark = pytest.mark.usefixtures("plain_pictures")

MODEL = """
from sklearn.neural_network import MLPClassifier


def model(idim):
    return MLPClassifier(hidden_layer_sizes=(idim,))
"""
PARAMS: dict[str, Any] = {"nevts": 500, "chunk_size": 100, "epochs": 2, "batch_size": 40, "shuffle": True}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, name in enumerate(("bkg", "sig")):
        random = np.random.default_rng(seed)
        counts = random.integers(1, 4, 300)
        jets = Jagged.from_lists([random.normal(seed, 1, count).tolist() for count in counts])
        write_events(tmp_path / f"{name}.root", {"HT": random.normal(seed, 1, 300), "Jet_pt": jets})
    (tmp_path / "files.txt").write_text("# both\nbkg.root\nsig.root\n", encoding="utf-8")
    (tmp_path / "labels.txt").write_text("0\n1\n", encoding="utf-8")
    (tmp_path / "net.py").write_text(MODEL, encoding="utf-8")
    (tmp_path / "params.json").write_text(json.dumps(PARAMS), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


WORKFLOW = ("--files=files.txt", "--labels=labels.txt", "--model=net.py")


def figures(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], str]:
    """The last line of a training, and what it told."""
    capsys.readouterr()
    assert run(["train", *arguments, "--json", "--no-progress"]) == 0
    printed, told = capsys.readouterr()
    return json.loads(printed.splitlines()[-1]), told


def test_the_workflow_and_the_config_that_it_becomes_give_the_same_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, told = figures(capsys, *WORKFLOW, "--fout=models/net.pb", "--set=split.seed=3")
    assert 0.7 < found["auc"] < 1
    assert found["events"] == 500
    assert "nevts: 500 -> --max-events 500\n" in told
    assert "epochs: 2 -> training.epochs, over all events; there over each chunk" in told
    assert "chunk_size: 100 -> training.shuffle_window" in told
    assert "written: models/net.pb" in told
    copied = load_bundle(folder / "models" / "net.pb")
    assert (copied.name, copied.model_sha256) == ("net", found["model_sha256"])

    assert run(["train", *WORKFLOW, "--show-config", "--set=split.seed=3", "--set=name=net"]) == 0
    (folder / "shown.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert to_yaml(read_config("shown.yaml")) == (folder / "runs" / "net" / "config.yaml").read_text(encoding="utf-8")
    again, _ = figures(capsys, "runs/net/config.yaml", "--max-events=500")
    hashes = ("spec_sha256", "model_sha256", "auc")
    assert {name: again[name] for name in hashes} == {name: found[name] for name in hashes}


def test_the_config_that_is_shown_tells_what_each_key_became(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", *WORKFLOW, "--show-config", "--set=model.alpha=0.1"]) == 0
    text = capsys.readouterr().out
    assert "# batch_size: 40 -> training.batch_size\n" in text
    assert "# Made from --files=files.txt --labels=labels.txt --model=net.py of the original.\n" in text
    plain = yaml.safe_load(text)
    assert plain["samples"]["sig"] == {"files": [str(folder / "sig.root")], "label": "1"}
    assert plain["training"] == {"epochs": 2, "batch_size": 40, "patience": 2, "shuffle_window": 100}
    assert plain["model"] == {"file": str(folder / "net.py"), "alpha": 0.1}
    assert not (folder / "runs").exists()


def test_every_key_that_is_given_is_told_and_none_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = {
        "identifier": "",
        "branch": "Events",
        "selected_branches": "",
        "exclude_branches": ["nJet"],
        "hist": "pdfs",
        "redirector": "",
        "verbose": 0,
        "split": 0.3,
        "nan": 0,
        "training": "standard",
        "metrics": True,
    }
    (folder / "params.json").write_text(json.dumps(PARAMS | more), encoding="utf-8")
    (folder / "global-specs.json").write_text("{}", encoding="utf-8")
    assert run(["train", *WORKFLOW, "--show-config"]) == 0
    told = [line.removeprefix("# ") for line in capsys.readouterr().out.splitlines() if line.startswith("# ")]
    keys = [line.partition(":")[0] for line in told if " -> " in line]
    assert keys == [*PARAMS, *more]
    assert told[-1].startswith("global-specs.json: is not read unless --specs names it")
    (folder / "params.json").unlink()
    assert run(["train", *WORKFLOW, "--show-config"]) == 0
    assert "# epochs: not given -> 10, as in the original" in capsys.readouterr().out


def test_lists_may_stand_on_the_command_line_and_the_model_on_pythons_path(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "code" / "nets").mkdir(parents=True)
    (folder / "code" / "nets" / "wide.py").write_text(MODEL, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder / "code"))
    arguments = ["--files=bkg.root,sig.root", "--labels=0,1", "--model=nets.wide", "--show-config", "--dtype=root"]
    assert run(["train", *arguments, "--fout=wide.onnx"]) == 0
    plain = yaml.safe_load(capsys.readouterr().out)
    assert plain["model"] == {"file": str(folder / "code" / "nets" / "wide.py")}
    assert plain["name"] == "wide"


def test_a_preproc_file_and_specs_go_into_the_config(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = {"new_branch": {"HT2": {"def": "HT**2", "type": "flat", "remove": "False"}}}
    (folder / "preproc.json").write_text(json.dumps(written), encoding="utf-8")
    specs = {"jdim": {"Jet_pt": 2}, "fkeys": ["HT"], "jkeys": ["Jet_pt"], "minv": {}, "maxv": {}}
    (folder / "specs.json").write_text(json.dumps(specs), encoding="utf-8")
    assert run(["train", *WORKFLOW, "--preproc=preproc.json", "--specs=specs.json", "--show-config"]) == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["inputs"] == {"event": ["HT", "HT2"], "jets": {"vars": ["Jet_pt"], "length": 2}}
    assert "--specs specs.json: its branches and dimensions are taken; minv and maxv are not" in text
    (folder / "ours.py").write_text("def preprocessing(rec):\n    return {'sum': sum(rec['Jet_pt'])}\n")
    assert run(["train", *WORKFLOW, "--preproc=ours.py", "--show-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["inputs"] == {"event": ["sum"]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["config.yaml", *WORKFLOW],
            "config.yaml and --files=files.txt.*: give a config, or the files of the original",
        ),
        (["config.yaml", "--show-config"], "config.yaml and --show-config: give a config"),
        ([], "Missing argument 'CONFIG'"),
        (["--files=files.txt", "--labels=labels.txt"], "wants --model as well, a Python file with model"),
        (["--files=files.txt", "--model=net.py"], "wants --labels as well, a text file with a label a line"),
        (["--labels=labels.txt", "--model=net.py"], "wants --files as well"),
        ([*WORKFLOW[:2], "--model=nett.py"], "'nett.py' does not exist, here or on PYTHONPATH; did you mean 'net.py'"),
        (["--files=file.txt", *WORKFLOW[1:]], "'file.txt' does not exist; did you mean 'files.txt'"),
        ([WORKFLOW[0], "--labels=0,1,1", WORKFLOW[2]], "3 labels for 2 files; wants one a file"),
        ([WORKFLOW[0], "--labels=truth", WORKFLOW[2]], "'truth' is neither a file, nor labels between commas, nor"),
        ([*WORKFLOW, "--params=param.json"], "param.json: .*\n.*does not exist; did you mean 'params.json'"),
        ([*WORKFLOW, "--specs=params.json"], "is no specs file: wants jdim, fkeys, jkeys; found nevts"),
        ([*WORKFLOW, "--preproc=pre.json"], "'pre.json' does not exist"),
        ([*WORKFLOW, "--dtype=hdf5"], "'hdf5' is none of json, csv, parquet, avro, root"),
        ([*WORKFLOW, "--fout=net.py"], "--fout net.py: is there already; nothing is written over"),
        ([*WORKFLOW, "--fout=net.h5"], "--fout net.h5: files of one framework are not written"),
    ],
)
def test_what_does_not_go_together_is_one_message(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert run(["train", *arguments]) == 2
    printed, told = capsys.readouterr()
    assert printed == ""
    assert "Traceback" not in told
    assert re.search(words, told), told
    assert not (folder / "runs").exists()


def test_a_key_that_cannot_be_honoured_ends_it_with_the_new_word(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "params.json").write_text(json.dumps(PARAMS | {"shuffle": False, "epoch": 3}), encoding="utf-8")
    assert run(["train", *WORKFLOW]) == 2
    told = capsys.readouterr().err
    assert "params.json: 2 problems" in told
    assert "training.shuffle: window" in told
    assert "epoch: unknown key; did you mean 'epochs'" in told


@pytest.mark.parametrize(("command", "words"), [("workflow.py", "mlaas4hep train --files"), ("reader", "inspect FILE")])
def test_commands_of_the_original_are_named(capsys: pytest.CaptureFixture[str], command: str, words: str) -> None:
    assert run([command, "--files=files.txt"]) == 2
    assert words in capsys.readouterr().err
