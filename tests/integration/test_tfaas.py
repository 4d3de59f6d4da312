"""Scripts that were written for TFaaS, run by curl against a server that was started by its command line."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mlaas4hep.cli.serve import command
from mlaas4hep.convert.runtime import Graph
from tests.attacks import graph_def, node_def, pickles, saved_model, small_network, tar_member, tarred, zipped
from tests.contracts.test_keras_frameworks import tensorflows_python
from tests.integration.test_convert_attacks import squares

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
ROW = [0.5, -1.25, 2.0, 3e-3]


@contextmanager
def serving(folder: Path, *options: str, python: str = sys.executable) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process and its URL; what it logs is in ``folder/log``."""
    command = [
        python,
        "-m",
        "mlaas4hep",
        "serve",
        str(folder / "models"),
        "--port",
        "0",
        "--json",
        "--uploads",
        *options,
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, (folder / "log").read_text()
    try:
        yield process, json.loads(line)["url"]
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user of TFaaS has lying about."""
    folder: Path = tmp_path_factory.mktemp("tfaas")
    model = small_network().SerializeToString()
    (folder / "net.onnx").write_bytes(model)
    (folder / "net.b64").write_bytes(base64.encodebytes(model))
    (folder / "labels.txt").write_text("background\nsignal\n")
    # As TFaaS's own pages have it, in words that its server did not read.
    (folder / "params.json").write_text(
        '{"name": "net", "model": "net.onnx", "labels": "labels.txt", "inputNode": "x", "outputNode": "y"}'
    )
    inside = {"params.json": b'{"name": "luca_1", "model": "net.onnx"}', "net.onnx": model}
    (folder / "luca_1.tar.gz").write_bytes(tarred({f"luca_1/{name}": data for name, data in inside.items()}))
    (folder / "plain.tar").write_bytes(tarred({f"./{name}": data for name, data in inside.items()}, mode="w"))
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with serving(folder) as (_, url):
        yield url


def curl(folder: Path, *words: str) -> tuple[int, Any]:
    """Status and answer."""
    done = subprocess.run(
        ["curl", "-s", "-m", "60", "-w", "\n%{http_code}", *words], cwd=folder, capture_output=True, check=True
    )
    body, _, status = done.stdout.rpartition(b"\n")
    try:
        return int(status), json.loads(body)
    except ValueError:
        return int(status), body


def wanted() -> list[float]:
    found = Graph(small_network().SerializeToString()).run({"x": np.array([ROW], np.float32)})["y"][0]
    return [float(one) for one in found]


def test_the_recipes_of_tfaas_run_with_a_form_of_four_fields(folder: Path, url: str) -> None:
    form = ("-F", "name=net", "-F", "params=@params.json", "-F", "labels=@labels.txt")
    assert curl(folder, "-X", "POST", f"{url}/upload", *form, "-F", "model=@net.onnx") == (200, b"")
    (one,) = curl(folder, f"{url}/models")[1]
    assert (one["name"], one["labels"], one["inputNode"], one["input_node"]) == ("net", "labels.txt", "x", "x")
    row = json.dumps({"keys": ["a", "b", "c", "d"], "values": ROW, "model": "net"})
    (folder / "input.json").write_text(row)
    asked = ("-X", "POST", "-H", "Content-type: application/json", "-d@input.json")
    assert curl(folder, *asked, f"{url}/json") == (200, wanted())
    assert curl(folder, "-XPOST", "-d", row, f"{url}/predict/json") == (200, wanted())
    assert curl(folder, f"{url}/params")[1] == json.loads((folder / "params.json").read_text())
    in_base64 = ("-H", "Content-Encoding: base64", *form, "-F", "model=@net.b64")
    assert curl(folder, "-X", "POST", f"{url}/tfaas/upload", *in_base64) == (200, b"")
    status, told = curl(folder, f"{url}/v2/models/net")
    assert (status, told["versions"]) == (200, ["1", "2"])
    assert curl(folder, "-X", "DELETE", f"{url}/delete", "-F", "model=net") == (200, b"")
    assert curl(folder, "-X", "DELETE", f"{url}/delete", "-F", "model=net") == (200, b"")
    assert curl(folder, f"{url}/models") == (200, None)


@pytest.mark.parametrize(
    ("file", "route"), [("luca_1.tar.gz", "upload"), ("plain.tar", "upload"), ("luca_1.tar.gz", "bundle")]
)
def test_a_tarball_is_taken_with_its_folder_and_without(file: str, route: str, folder: Path, url: str) -> None:
    packed = ("-H", "Content-Encoding: gzip") if file.endswith("gz") else ()
    body = ("-H", "Content-Type: application/octet-stream", "--data-binary", f"@{file}")
    assert curl(folder, "-X", "POST", *packed, *body, f"{url}/{route}") == (200, b"")
    assert curl(folder, "-d", json.dumps({"values": ROW, "model": "luca_1"}), f"{url}/json") == (200, wanted())
    assert curl(folder, "-X", "DELETE", f"{url}/delete/luca_1") == (200, b"")


READS = saved_model(graph_def(node_def("x", "Placeholder"), node_def("r", "ReadFile"), node_def("y", "Add", "x", "r")))
BAD = {
    "a pickle": (pickles(Path("ran"))["torch.save"], "holds a pickle"),
    "a pickle in a tarball": (pickles(Path("ran"))["under another name in a tar"], "holds a pickle"),
    "a bomb": (zipped({"a": b"\0" * (30 << 20)}, compression=8), "unpacks to more"),
    "a way out": (tarred({"../../evil": b"x"}), "leads out of it"),
    "a link": (tar_member(tarfile.SYMTYPE), "a link, a device"),
    "a graph that reads files": (tarred({"m/saved_model.pb": READS, "m/variables/x": b""}), "ReadFile"),
}


@pytest.mark.parametrize("form", [True, False], ids=["form", "body"])
@pytest.mark.parametrize("what", BAD)
def test_what_means_harm_is_refused_and_logged_and_the_server_lives(
    what: str, form: bool, folder: Path, url: str
) -> None:
    data, words = BAD[what]
    (folder / "bad").write_bytes(data)
    sent = ("-F", "name=bad", "-F", "model=@bad") if form else ("--data-binary", "@bad")
    status, answer = curl(folder, "-X", "POST", f"{url}/upload", *sent)
    assert (status, words in answer["error"]) == (422, True), answer
    last = (folder / "log").read_text().splitlines()[-1]
    assert "an upload of 127.0.0.1 was refused: " in last
    assert words in last
    assert list((folder / "models").iterdir()) == []
    assert curl(folder, f"{url}/v2/health/ready") == (200, {"ready": True})


def test_what_is_too_large_is_refused_before_it_is_received(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"\0" * (3 << 20))
    with serving(tmp_path, "--upload-mb", "1") as (_, url):
        status, answer = curl(tmp_path, "--data-binary", "@large", f"{url}/upload")
        assert (status, "larger than the 1048576 bytes" in answer["error"]) == (413, True)
        chunked = ("-H", "Transfer-Encoding: chunked", "--data-binary", "@large")
        assert curl(tmp_path, *chunked, f"{url}/upload")[0] == 413
        assert list((tmp_path / "models").iterdir()) == []


def at_work(process: int) -> list[int]:
    """Children of a process that have computed for a while, so that their walls stand."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    children = [int(one) for task in tasks for one in (task / "children").read_text().split()]
    return [one for one in children if int(Path(f"/proc/{one}/stat").read_text().split()[13]) > 40]


def has_ended(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    return not stat.exists() or stat.read_text().split()[2] in "ZX"


def wait_for(found: Callable[[], Any]) -> Any:
    for _ in range(300):
        if result := found():
            return result
        time.sleep(0.1)
    raise AssertionError("nothing happened for 30 s")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks at /proc")
def test_a_conversion_does_not_outlive_a_server_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "endless").write_bytes(squares(3000, 400))
    with serving(tmp_path) as (process, url):
        words = ["curl", "-s", "-F", "name=x", "-F", "model=@endless", f"{url}/upload"]
        asking = subprocess.Popen(words, cwd=tmp_path)
        children = wait_for(lambda: at_work(process.pid))
        process.kill()
        asking.wait(timeout=30)
    assert wait_for(lambda: all(has_ended(one) for one in children))


def test_an_upload_reaches_all_workers_before_it_is_answered(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("models", "log"))
    with serving(tmp_path, "--workers", "2", "--no-grpc") as (_, url):
        form = ("-F", "name=net", "-F", "model=@net.onnx")
        asked = ("-d", json.dumps({"values": ROW, "model": "net"}), f"{url}/json")
        assert curl(tmp_path, f"{url}/upload", *form) == (200, b"")
        assert {curl(tmp_path, *asked)[0] for _ in range(12)} == {200}
        assert curl(tmp_path, f"{url}/upload", "-F", "name=other", "-F", "model=@net.onnx") == (200, b"")
        assert {curl(tmp_path, f"{url}/params")[1]["name"] for _ in range(12)} == {"other"}
        assert curl(tmp_path, "-X", "DELETE", f"{url}/delete/net") == (200, b"")
        assert {curl(tmp_path, *asked)[0] for _ in range(12)} == {404}
        assert curl(tmp_path, f"{url}/upload", *form) == (200, b"")
        assert {curl(tmp_path, *asked)[0] for _ in range(12)} == {200}


def test_a_prefix_is_one_name(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [str(tmp_path / "models"), "--uploads", "--base", "a/b"])
    assert (done.exit_code, "--base is one name" in done.output) == (2, True), done.output


# As the original trained and stored, and as its service packed what it had trained.
_ORIGINAL = """
import json, sys, tarfile
from pathlib import Path
import numpy as np
import tensorflow as tf
import tf_keras as keras

folder = Path(sys.argv[1])
keras.utils.set_random_seed(0)
model = keras.Sequential([
    keras.layers.Dense(128, activation="relu", input_shape=(29,), name="inputs"), keras.layers.Dropout(0.5),
    keras.layers.Dense(64, activation="relu"), keras.layers.Dropout(0.5), keras.layers.Dense(1, activation="sigmoid"),
])
model.compile(optimizer=keras.optimizers.Adam(learning_rate=1e-3), loss=keras.losses.BinaryCrossentropy(),
              metrics=[keras.metrics.BinaryAccuracy(name="accuracy"), keras.metrics.AUC(name="auc")])
rows = np.random.default_rng(0).random((100, 29)).astype(np.float32)
model.fit(rows, (rows[:, 0] > 0.5).astype(int), epochs=1, batch_size=100, verbose=0)
model.save(folder / "luca_1")
(folder / "luca_1" / "params.json").write_text(json.dumps({"name": "luca_1", "model": "saved_model.pb"}))
with tarfile.open(folder / "luca_1.tar.gz", "w:gz") as archive:
    archive.add(folder / "luca_1", arcname=".")

from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
function = tf.function(lambda dense_4_input: model(dense_4_input, training=False))
concrete = function.get_concrete_function(tf.TensorSpec((None, 29), tf.float32, "dense_4_input"))
frozen = convert_variables_to_constants_v2(concrete).graph.as_graph_def()
(folder / "tf_model.pb").write_bytes(frozen.SerializeToString())
names = {"name": "image", "model": "tf_model.pb", "labels": "labels.txt"}
names |= {"inputNode": "dense_4_input", "outputNode": "Identity"}
(folder / "params.json").write_text(json.dumps(names))
(folder / "labels.txt").write_text("signal")
truth = model(rows[:5], training=False).numpy()[:, 0]

# As TFaaS's page about MNIST has it.
digits = keras.Sequential([
    keras.Input((28, 28, 1)), keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.MaxPooling2D(2),
    keras.layers.Flatten(), keras.layers.Dropout(0.5), keras.layers.Dense(10, activation="softmax"),
])
digits.save(folder / "mnist")
about = {"name": "mnist", "model": "saved_model.pb", "labels": "labels.txt", "img_channels": 1,
         "input_name": "serving_default_input_1", "output_name": "StatefulPartitionedCall", "input_node": "input_1",
         "output_node": "dense/Softmax:0"}
(folder / "mnist" / "params.json").write_text(json.dumps(about))
(folder / "mnist" / "labels.txt").write_text("".join(f"{one}\\n" for one in range(10)))
(folder / "mnist" / "model.graph").write_bytes(frozen.SerializeToString())
with tarfile.open(folder / "mnist.tar.gz", "w:gz") as archive:
    archive.add(folder / "mnist", arcname="mnist")
pixels = np.random.default_rng(1).integers(0, 256, (28, 28), np.uint8)
chances = digits(pixels[None, ..., None].astype(np.float32), training=False).numpy()[0]
(folder / "digit.json").write_text(json.dumps({"pixels": pixels.tolist(), "chances": chances.tolist()}))
(folder / "truth.json").write_text(json.dumps({"rows": rows[:5].tolist(), "scores": truth.tolist()}))
"""


@pytest.mark.slow
def test_a_tarball_of_the_original_and_a_frozen_graph_of_tfaas_answer_as_tensorflow_does(tmp_path: Path) -> None:
    python = tensorflows_python()
    look = "from importlib.util import find_spec as f; print(*(one for one in ('tf2onnx', 'tf_keras') if not f(one)))"
    missing = subprocess.run([python, "-c", look], capture_output=True, check=True, text=True).stdout.split()
    if missing:
        pytest.skip(f"the package {missing[0]} is not installed beside TensorFlow")
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([python, "-c", _ORIGINAL, str(tmp_path)], check=True, env=environment, capture_output=True)
    truth = json.loads((tmp_path / "truth.json").read_text())
    with serving(tmp_path, python=python) as (_, url):
        packed = ("-H", "Content-Encoding: gzip", "-H", "Content-Type: application/octet-stream")
        body = ("--data-binary", "@luca_1.tar.gz")
        assert curl(tmp_path, "-X", "POST", *packed, *body, f"{url}/upload") == (200, b"")
        form = ("-F", "name=image", "-F", "params=@params.json", "-F", "model=@tf_model.pb", "-F", "labels=@labels.txt")
        assert curl(tmp_path, "-X", "POST", f"{url}/upload", *form) == (200, b"")
        for model in ("luca_1", "image"):
            for row, score in zip(truth["rows"], truth["scores"], strict=True):
                asked = json.dumps({"values": row, "model": model})
                status, answer = curl(tmp_path, "-X", "POST", "-d", asked, f"{url}/json")
                assert status == 200
                assert answer == pytest.approx([score], abs=1e-6)
        listed = {one["name"]: one for one in curl(tmp_path, f"{url}/models")[1]}
        assert listed["image"]["input_node"] == "dense_4_input"
        digit = json.loads((tmp_path / "digit.json").read_text())
        Image.fromarray(np.array(digit["pixels"], np.uint8)).save(tmp_path / "img1.png")
        body = ("--data-binary", "@./mnist.tar.gz")
        assert curl(tmp_path, "-X", "POST", *packed, *body, f"{url}/upload") == (200, b"")
        picture = ("-F", "image=@./img1.png", "-F", "model=mnist")
        status, answer = curl(tmp_path, f"{url}/predict/image", *picture)
        assert (status, answer) == (200, pytest.approx(digit["chances"], abs=1e-6))
