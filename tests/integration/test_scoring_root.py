"""ROOT itself reads inputs and scores as friends: as many entries, and every value of every event."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from mlaas4hep.score import run
from mlaas4hep.score.asked import ask
from mlaas4hep.score.run import Manner, score_files
from mlaas4hep.testing import Format
from tests.peers import python_of
from tests.scored import offline, write_input
from tests.small_bundle import write_small_bundle

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
