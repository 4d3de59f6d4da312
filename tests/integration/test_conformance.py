"""``mlaas4hep serve`` under the conformance kit, as anybody would run it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance.checks import all_checks
from tests.plain_graph import write_plain_graph
from tests.small_bundle import write_small_bundle

TOP = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    models = tmp_path_factory.mktemp("models")
    write_small_bundle(models, name="bundle")
    write_plain_graph(models, name="plain", max_batch_size=256)
    write_plain_graph(models, name="texts", words=["BYTES"])
    command = [sys.executable, "-m", "mlaas4hep", "serve", str(models), "--port", "0", "--json", "--control"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())
        server.terminate()


def asked(places: dict[str, str], *words: str) -> list[dict[str, Any]]:
    """Results of a run in which nothing may fail."""
    command = [sys.executable, "-m", "conformance", "--url", places["url"], "--grpc", places["grpc"], "--json"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, cwd=TOP)
    assert done.stderr == ""
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert {f"{one['group']}.{one['name']}": one["found"] for one in results if one["status"] == "fail"} == {}
    assert done.returncode == 0
    return results


def test_our_server_fails_nothing_and_every_check_is_asked_of_some_model(places: dict[str, str]) -> None:
    sizes = ["--unload", "--fuzz", "30", "--huge", "2"]
    # A model with all types cannot be asked with typed contents, and what is asked of texts needs one that begins so.
    runs = [
        asked(places, "--model", "bundle", *sizes),
        asked(places, "--model", "plain", *sizes),
        asked(places, "--model", "texts", "--only", "binary"),
    ]
    passed = {f"{one['group']}.{one['name']}" for results in runs for one in results if one["status"] == "pass"}
    assert {one.full_name for one in all_checks()} - passed == set()
