"""A training tracked by a real MLflow server, which is asked afterwards what it knows."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlaas4hep.config import parse_config
from mlaas4hep.testing import write_events
from mlaas4hep.train.run import train

pytestmark = pytest.mark.usefixtures("plain_pictures")

ROOT = Path(__file__).parents[2]
START_S = 120


def program() -> str:
    """`make check` makes the server an environment of its own; ``MLAAS4HEP_MLFLOW`` names another program."""
    places = [os.environ.get("MLAAS4HEP_MLFLOW", ""), str(ROOT / ".venv-mlflow" / "bin" / "mlflow")]
    found = next((one for one in places if one and Path(one).is_file()), None) or shutil.which("mlflow")
    if found is None:
        pytest.skip("the program mlflow is not installed: make .venv-mlflow/.made")
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    store = ["--backend-store-uri", f"sqlite:///{folder}/runs.db", "--artifacts-destination", str(folder / "files")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with (folder / "log").open("wb") as log:
        command = [program(), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *store]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True)
    try:
        for _ in range(START_S * 5):
            assert process.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def asked(server: str, route: str, **body: Any) -> dict[str, Any]:
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(f"{server}/api/2.0/{route}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


@pytest.mark.slow
def test_a_server_knows_parameters_epochs_figures_hashes_and_files(server: str, tmp_path: Path) -> None:
    for seed, name in enumerate(("background", "signal")):
        random = np.random.default_rng(seed)
        write_events(tmp_path / f"{name}.root", {one: random.normal(seed, 1.5, 400) for one in "xy"}, cluster=100)
    text = f"""
    samples: {{signal: {{files: signal.root}}, background: {{files: background.root}}}}
    inputs: {{event: [x, y]}}
    model: {{name: mlp, hidden: [4]}}
    training: {{epochs: 3, batch_size: 64}}
    tracking: {{mlflow: '{server}', experiment: "a toy's", bundle: true}}
    """
    done = train(parse_config(text, folder=tmp_path), output=tmp_path / "first")
    found = asked(server, "mlflow/runs/search", experiment_ids=["1"], max_results=5)["runs"]
    assert len(found) == 1
    info, data = found[0]["info"], found[0]["data"]
    assert (info["run_name"], info["status"]) == ("first", "FINISHED")
    params = {one["key"]: one["value"] for one in data["params"]}
    assert params["model.hidden"] == "[4]"
    assert params["training.epochs"] == "3"
    assert str(tmp_path) not in json.dumps(found[0]["data"])
    tags = {one["key"]: one["value"] for one in data["tags"]}
    assert (tags["spec_sha256"], tags["model_sha256"]) == (done.bundle.spec_sha256, done.bundle.model_sha256)
    metrics = {one["key"]: one["value"] for one in data["metrics"]}
    assert metrics["final.auc"] == pytest.approx(done.metrics["auc"])
    run_id = info["run_id"]
    steps = asked(server, f"mlflow/metrics/get-history?run_id={run_id}&metric_key=validation_loss")["metrics"]
    assert {one["step"]: one["value"] for one in steps} == pytest.approx(
        {one.epoch: one.validation_loss for one in done.history.records}
    )
    files = {one["path"] for one in asked(server, f"mlflow/artifacts/list?run_id={run_id}")["files"]}
    assert files == {"report.html", "metrics.json", "config.yaml", "history.csv", "pictures", "model"}
    place = f"1/{run_id}/artifacts/model/{done.bundle.name}/1/model.onnx"
    address = f"{server}/api/2.0/mlflow-artifacts/artifacts/{place}"
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert answer.read() == done.bundle.model()
