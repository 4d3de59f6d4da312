"""``mlaas4hep serve`` under the conformance kit, as anybody would run it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plain_graph import write_plain_graph
from tests.small_bundle import write_small_bundle


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    models = tmp_path_factory.mktemp("models")
    write_small_bundle(models, name="bundle")
    write_plain_graph(models, name="plain")
    command = [sys.executable, "-m", "mlaas4hep", "serve", str(models), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())
        server.terminate()


@pytest.mark.parametrize("model", ["bundle", "plain"])
def test_our_server_fails_nothing(places: dict[str, str], model: str) -> None:
    where = ["--url", places["url"], "--grpc", places["grpc"]]
    command = [sys.executable, "-m", "conformance", *where, "--unload", "--json", "--fuzz", "60", "--huge", "4"]
    done = subprocess.run([*command, "--model", model], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stderr == ""
    results = [json.loads(line) for line in done.stdout.splitlines()]
    failed = {f"{one['group']}.{one['name']}": one["found"] for one in results if one["status"] == "fail"}
    assert not failed
    assert done.returncode == 0
    # Without what is announced nothing of it would be asked, and nothing could fail.
    asked = {one["group"] for one in results if one["status"] == "pass"}
    basic = {"health", "server", "model", "infer", "refused", "numbers", "empty", "huge", "malformed", "http"}
    assert asked >= basic | {"binary", "concurrency", "classification", "grpc"}
