"""ROOT itself reads inputs and scores as friends: as many entries, and every value of every event."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from mlaas4hep.bundle import load_bundle, write_bundle
from mlaas4hep.config import parse_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.source import open_source
from mlaas4hep.graph.dense import lower_dense
from mlaas4hep.score import run
from mlaas4hep.score.asked import ask
from mlaas4hep.score.run import Manner, score_files
from mlaas4hep.spec.accumulate import StatisticsAccumulator
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.scaling import Scaler
from mlaas4hep.testing import Format
from tests.doc_blocks import blocks_of
from tests.peers import python_of
from tests.scored import offline, write_input
from tests.small_bundle import write_small_bundle

EXAMPLE = Path(__file__).parents[2] / "examples" / "tth"
SCRIPT = Path(__file__).parents[1] / "root_friends.py"


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["ttree", "rntuple"])
def test_root_opens_chain_and_friend(kind: Format, tmp_path: Path) -> None:
    python = python_of("root")
    bundle = write_small_bundle(tmp_path / "model")
    files = [tmp_path / f"{number}.root" for number in range(3)]
    sizes = (300, 1, 450)
    columns = [
        write_input(path, size, seed=size, format=kind, cluster=100) for path, size in zip(files, sizes, strict=True)
    ]
    with mock.patch.object(run, "PART_ENTRIES", 120):  # several baskets, which are not those of the inputs
        done = score_files(ask([bundle]), list(map(str, files)), str(tmp_path / "out"), manner=Manner(kind))
    asked = {
        "inputs": list(map(str, files)),
        "outputs": [one.path for one in done.outputs],
        "tree": "Events",
        "table": "scores",
        "columns": ["MET_pt"],
        "scores": ["tth_signal", "tth_selected", "event", "run"],
        "kind": kind,
        "into": str(tmp_path / "seen.npz"),
    }
    ran = subprocess.run([str(python), "-W", "ignore", str(SCRIPT), json.dumps(asked)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert set(json.loads(ran.stdout.splitlines()[-1]).values()) == {sum(sizes)}
    seen = np.load(tmp_path / "seen.npz")
    wanted = np.concatenate([offline(bundle, one)[:, 0] for one in columns])
    assert seen["tth_signal"].tobytes() == wanted.tobytes()
    assert seen["scanned"].astype(np.float32).tobytes() == wanted.tobytes()
    assert np.array_equal(seen["tth_selected"].astype(bool), ~np.isnan(wanted))
    for name in ("event", "run"):
        assert np.array_equal(seen[name], np.concatenate([np.asarray(one[name]) for one in columns]))
    met = np.concatenate([np.asarray(one["MET_pt"]) for one in columns])
    assert seen["MET_pt"].astype(np.float32).tobytes() == met.tobytes(), "scores stand beside their own events"


def example_bundle(folder: Path) -> Path:
    """A run of the example whose weights are of chance; made like any other bundle."""
    config = parse_config((EXAMPLE / "config.yaml").read_text(), folder=EXAMPLE)
    catalogue = Catalogue.open(config)
    preprocessor = Preprocessor(config.features, catalogue.types)
    with open_source(str(EXAMPLE / "data" / "ttH_0.root"), "Events") as source:
        prepared = preprocessor.run(source.read(sorted(preprocessor.columns), 0, 2000), 2000)
    found = StatisticsAccumulator({group: tensor.shape[-1] for group, tensor in prepared.inputs.items()})
    found.add_inputs(prepared.inputs, lengths=prepared.lengths, truncated=prepared.truncated)
    spec = ModelSpec.seal("tth", preprocessor=preprocessor, statistics=found.seal())
    weights = (np.random.default_rng(0).normal(size=(spec.width, 1)) / 10).astype(np.float32)
    scaler = Scaler(spec.scaling)

    def reference(inputs: dict[str, Any]) -> Any:
        return 1 / (1 + np.exp(-(scaler.flat(inputs) @ weights).astype(np.float64)))

    core = lower_dense([weights], [np.zeros(1)], activation="relu", link="sigmoid")
    write_bundle(folder / "runs" / "tth" / "model", spec=spec, core=core, reference=reference, rows=prepared.inputs)
    return folder / "runs" / "tth" / "model" / "tth"


@pytest.mark.peer
def test_what_the_pages_show_of_root_runs_there(tmp_path: Path) -> None:
    python = python_of("root")
    bundle = example_bundle(tmp_path)
    (tmp_path / "data").symlink_to(EXAMPLE / "data")
    inputs = [str(tmp_path / "data" / f"{name}.root") for name in ("ttH_0", "qcd_0")]
    score_files(ask([load_bundle(bundle)], files=inputs), inputs, str(tmp_path / "scores"), tree="Events")
    blocks = {
        block.file: block.text
        for page in ("score.md", "score-in-analysis.md")
        for block in blocks_of(EXAMPLE.parents[1] / "docs" / "howto" / page)
        if block.file is not None
    }
    ours = [*os.environ.get("PYTHONPATH", "").split(os.pathsep), sysconfig.get_paths()["purelib"]]
    for name, ending in (("friends.py", " of 4000"), ("dataframe.py", "mean score 0.")):
        (tmp_path / name).write_text(blocks[name])
        paths = os.pathsep.join(filter(None, ours)) if name == "dataframe.py" else ""
        environment = os.environ | {"PYTHONPATH": paths}
        command = [str(python), "-W", "ignore", name]
        ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        assert ending in ran.stdout
