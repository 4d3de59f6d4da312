"""A config written back is the config that was read."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from mlaas4hep.config import parse_config
from mlaas4hep.train.document import to_yaml

CONFIG = """
name: tth
tree: Events
eras: {"2022": {lumi_fb: 8.0}}
samples:
  ttH: {files: [a.root, "root://host//b/*.root"], era: "2022", label: signal, xsec_pb: 0.295, sum_of_weights: Runs/sumw}
  tt: {files: tt/*.root, era: "2022", label: background, xsec_pb: 832.0, sum_of_weights: 1e6, selection: "nGenTop == 2"}
preselection: "nJet >= 4"
new_variables: {ht: "sum(Jet_pt)"}
inputs:
  event: [{name: MET_pt, scale: log}, ht]
  jets: {vars: [Jet_pt, {name: Jet_eta, clip: [-5, 5]}], length: 6, sort: -Jet_pt}
weights: {event: genWeight}
split: {by: [run, event], test: 0.3, seed: 4}
missing: [-999]
model: {name: mlp, backend: torch, hidden: [64, 32], learning_rate: 1e-3}
training: {epochs: 7, max_memory: 500 MB}
"""


def test_every_key_comes_back_and_paths_are_absolute(tmp_path: Path) -> None:
    first = parse_config(CONFIG, folder=tmp_path, overrides=["training.seed=9"])
    again = parse_config(to_yaml(first), folder=tmp_path / "elsewhere")
    assert replace(again, path=first.path) == first
    assert again.samples["ttH"].files == (str(tmp_path / "a.root"), "root://host//b/*.root")
    assert again.training.seed == 9


def test_replicas_redirectors_and_a_preprocessing_function_come_back(tmp_path: Path) -> None:
    written = (
        "samples: {a: {files: [[x.root, 'root://b//x.root'], y.root], label: signal}, b: {files: b.root}}\n"
        "inputs: {event: [x]}\nredirector: root://r\npreproc: pre.py\non_error: skip up to 3\ncache: rows\n"
    )
    first = parse_config(written, folder=tmp_path)
    again = parse_config(to_yaml(first), folder=Path("/elsewhere"))
    assert replace(again, path=first.path) == first
    assert again.samples["a"].files[0] == (str(tmp_path / "x.root"), "root://b//x.root")
    assert again.preproc == str(tmp_path / "pre.py")


def test_a_short_config_stays_short(tmp_path: Path) -> None:
    short = (
        "samples: {a: {files: a.root, label: signal}, b: {files: b.root}}\ninputs: {event: [x]}\nmodel: {file: m.py}"
    )
    first = parse_config(short, folder=tmp_path)
    text = to_yaml(first)
    assert "eras" not in text
    assert "preselection" not in text
    assert replace(parse_config(text, folder=Path("/")), path=first.path) == first


OWN = "b: {files: b.root, labels: {column: z, classes: {top: [7, 8]}}}"


@pytest.mark.parametrize(
    ("samples", "labels", "classes"),
    [
        (OWN, "labels: {column: y, classes: {qcd: [0, 3], top: 1}, signal: qcd}", ("top", "qcd")),
        (OWN, "labels: {column: y, classes: [top, qcd]}", ("top", "qcd")),
        (OWN, "labels: {classes: [top, qcd], expressions: {top: nTop == 2, qcd: nTop == 0}}", ("top", "qcd")),
        ("", "labels: {column: word, classes: {signal: s, background: b}}", ("background", "signal")),
        ("b: {files: b.root, kind: data}", "targets: {mass: GenTop_mass, log_pt: log(GenTop_pt)}", ()),
    ],
)
def test_labels_and_targets_come_back(samples: str, labels: str, classes: tuple[str, ...], tmp_path: Path) -> None:
    text = f"samples: {{a: {{files: a.root}}, {samples}}}\ninputs: {{event: [x]}}\n{labels}"
    first = parse_config(text, folder=tmp_path)
    again = parse_config(to_yaml(first), folder=Path("/"))
    assert replace(again, path=first.path) == first
    assert again.classes == first.classes == classes
    assert [again.rule_of(name) for name in again.samples] == [first.rule_of(name) for name in first.samples]
