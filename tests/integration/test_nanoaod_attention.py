"""The particle transformer on real NanoAOD of two productions: events with and without jets, muons, electrons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.config import parse_config
from mlaas4hep.data.source import open_source
from mlaas4hep.spec.columns import Jagged
from mlaas4hep.train.run import train

pytestmark = pytest.mark.usefixtures("plain_pictures")

CONFIG = """
name: nano
tree: Events
samples:
  tt: {{files: {folder}/nano_tt_v12.root, label: signal}}
  dy: {{files: {folder}/nano_dy.root, label: background}}
new_variables: {{Jet_cos: cos(Jet_phi - MET_phi), Jet_sin: sin(Jet_phi - MET_phi)}}
inputs:
  event: [{{name: MET_pt, scale: log}}]
  jets:
    vars: [{{name: Jet_pt, scale: log}}, Jet_eta, Jet_cos, Jet_sin, Jet_btagDeepFlavB]
    length: 12
    sort: -Jet_pt
  muons: {{vars: [{{name: Muon_pt, scale: log}}, Muon_eta], length: 3, sort: -Muon_pt}}
  electrons: {{vars: [{{name: Electron_pt, scale: log}}, Electron_eta], length: 3, sort: -Electron_pt}}
split: {{seed: 1, validation: 0.2}}
weights: {{training: balanced}}
training: {{epochs: 30, batch_size: 32}}
model: {{name: attention, width: 16, heads: 2, learning_rate: 3.0e-3, averaging: 0.9}}
"""


@pytest.mark.slow
def test_real_nanoaod_is_learned_from_whatever_an_event_lacks(test_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    folder = test_data / "nanoaod"
    result = train(parse_config(CONFIG.format(folder=folder)), output=tmp_path / "run", threads=0)
    train_part = result.metrics["parts"]["train"]
    assert train_part["auc"] > 0.9
    bundle = result.bundle
    with open_source(str(folder / "nano_tt_v12.root"), "Events") as source:
        columns = source.read(sorted(bundle.spec.columns), 0, 200)
    muons = columns["Muon_pt"]
    assert isinstance(muons, Jagged)
    assert 20 < (muons.counts == 0).sum() < 180
    scores, selected = bundle.score(columns, 200)
    assert selected.all()
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) > 150
