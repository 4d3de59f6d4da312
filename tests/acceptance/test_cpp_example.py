"""The C++ example, built as its page says, against a real server and one that misbehaves."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlaas4hep.bundle import Bundle
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService
from tests.compiler import require_compiler
from tests.crooked_server import HANG_UP, busy, crooked, reply
from tests.small_bundle import as_instances, make_events, write_small_bundle

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program."""
    require_compiler()
    folder = tmp_path_factory.mktemp("cpp")
    shutil.copytree(ROOT / "examples" / "cpp", folder, dirs_exist_ok=True)
    subprocess.run(["make", "-C", folder], check=True, capture_output=True)
    return folder / "ask"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_small_bundle(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def url(bundle: Bundle) -> Iterator[str]:
    with background(InferenceService(open_repository(bundle.path.parent))) as url:
        yield url


def test_tensors_get_the_bits_of_the_model(ask: Path, url: str, bundle: Bundle, tmp_path: Path) -> None:
    prepared = bundle.spec.preprocessor().run(make_events(300), 300)
    words = []
    for name, tensor in prepared.inputs.items():
        tensor.tofile(tmp_path / name)
        words.append(f"{name}={','.join(map(str, tensor.shape))}:{tmp_path / name}")
    done = subprocess.run([ask, url, "tth", "tensors", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    scores = np.array([line.split() for line in done.stdout.splitlines()], np.float32)
    assert scores.tobytes() == bundle.session().run(prepared.inputs).tobytes()


def test_events_by_name_go_as_they_are(ask: Path, url: str, tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"instances": as_instances(make_events(3))}).replace("NaN", "null"))
    done = subprocess.run([ask, url, "tth", "events", request], capture_output=True, text=True)
    assert len(json.loads(done.stdout)["predictions"]) == 3, done.stderr
    done = subprocess.run([ask, url, "tt", "events", request], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "did you mean 'tth'" in done.stderr


def test_a_busy_server_and_a_broken_line_are_asked_again(ask: Path, tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    request.write_text('{"instances": []}')
    with crooked(busy(), HANG_UP, reply(200, {"predictions": []})) as server:
        done = subprocess.run([ask, server.url, "a b/c", "events", request], capture_output=True, text=True)
    assert done.stdout.strip() == '{"predictions": []}', done.stderr
    assert len(server.asked) == 3
    assert server.asked[0].path == "/v1/models/a%20b%2Fc:predict"
    assert int(server.asked[0].headers["x-request-timeout-ms"]) <= 30_000
    with crooked(busy("3600")) as server:
        done = subprocess.run([ask, server.url, "m", "events", request], capture_output=True, text=True)
    assert (done.returncode, len(server.asked)) == (1, 1)
    assert "in its own words" in done.stderr


def test_what_was_typed_wrong_is_told(ask: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1234")
    for words, said in [([], "usage: ask URL MODEL"), (["x=2:" + str(tmp_path / "x")], "asks for 2 values, found 1")]:
        asked = [ask, *(["http://h", "m", "tensors", *words] if words else [])]
        done = subprocess.run(asked, capture_output=True, text=True)
        assert done.returncode != 0
        assert said in done.stderr
