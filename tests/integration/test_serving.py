"""A real server process on loopback, started through the CLI, asked by every kind of client."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pytest

from mlaas4hep.bundle import Bundle
from mlaas4hep.cli import run
from mlaas4hep.client import Client, Limits
from mlaas4hep.errors import NotFoundError, RequestError
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService
from mlaas4hep.serve.service import Limits as ServerLimits
from tests.blocking import Blocking
from tests.small_bundle import as_instances, make_events, write_small_bundle

COMMAND = [sys.executable, "-m", "mlaas4hep"]


def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    """A server on a free port, and its URL once it answers."""
    process = subprocess.Popen(
        [*COMMAND, "serve", *arguments, "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return process, json.loads(line)["url"]


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Status and standard error of a server that was told to stop."""
    _, error = process.communicate(timeout=20)
    return process.returncode, error


def ask(
    url: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, content, {"Content-Type": "application/json"} | (headers or {}))
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer, dict(response.getheaders())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_small_bundle(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def url(bundle: Bundle) -> Iterator[str]:
    process, url = start(str(bundle.path.parent))
    yield url
    process.terminate()
    assert end_of(process) == (0, "")


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_tritonclient_gets_metadata_and_predictions(url: str, bundle: Bundle, binary: bool) -> None:
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(urlsplit(url).netloc)
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("tth")
        assert client.is_model_ready("tth", "1")
        assert client.get_server_metadata()["name"] == "mlaas4hep"
        metadata = client.get_model_metadata("tth")
        rows = bundle.spec.preprocessor().run(make_events(20), 20).inputs
        inputs = []
        for one in metadata["inputs"]:
            tensor = rows[one["name"]] if binary else np.nan_to_num(rows[one["name"]])
            rows[one["name"]] = tensor
            inputs.append(triton.InferInput(one["name"], tensor.shape, one["datatype"]))
            inputs[-1].set_data_from_numpy(tensor, binary_data=binary)
        outputs = [triton.InferRequestedOutput("scores", binary_data=binary)]
        answer = client.infer("tth", inputs, outputs=outputs, request_id="7")
        assert answer.get_response()["id"] == "7"
        assert answer.as_numpy("scores").tobytes() == bundle.session().run(rows).tobytes()
        by_default = client.infer("tth", inputs, model_version="1")
        assert by_default.as_numpy("scores").tobytes() == answer.as_numpy("scores").tobytes()
    finally:
        client.close()


def test_tritonclient_reads_our_errors(url: str) -> None:
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(urlsplit(url).netloc)
    try:
        assert not client.is_model_ready("nothing")
        with pytest.raises(triton.InferenceServerException, match="no model 'nothing' is served here"):
            client.get_model_metadata("nothing")
    finally:
        client.close()


@pytest.mark.parametrize("make", [Client, Blocking], ids=["sync", "async"])
def test_our_client_gets_the_offline_scores_by_name_and_by_tensor(make: Any, url: str, bundle: Bundle) -> None:
    columns = make_events(200, seed=9)
    prepared = bundle.spec.preprocessor().run(columns, 200)
    offline = bundle.session().run(prepared.inputs)
    with make(url, limits=Limits(rows=64)) as client:
        assert client.live()
        assert client.ready("tth")
        assert client.models() == ["tth"]
        assert client.infer("tth", prepared.inputs)["scores"].tobytes() == offline.tobytes()
        table = {
            name: column if isinstance(column, np.ndarray) else column.tolist() for name, column in columns.items()
        }
        answer = client.predict_table("tth", table)
        assert answer.scores["signal"][answer.selected].tobytes() == offline.tobytes()
        predictions = client.predict("tth", as_instances(columns))
        served = [one["signal"] for one in predictions if one is not None]
        assert np.array(served, np.float32).tobytes() == offline.tobytes()
        assert [one is not None for one in predictions] == prepared.selected.tolist()
        with pytest.raises(NotFoundError, match="did you mean 'tth'"):
            client.predict("tt", [])
        with pytest.raises(RequestError, match=r"column 'Jet_pt' \(jagged, float32\) is missing"):
            client.predict("tth", [{"MET_pt": 1.0}])


@pytest.mark.parametrize("make", [Client, Blocking], ids=["sync", "async"])
def test_a_question_that_is_too_large_for_the_server_is_asked_in_smaller_ones(make: Any, bundle: Bundle) -> None:
    prepared = bundle.spec.preprocessor().run(make_events(20_000), 20_000)
    service = InferenceService(open_repository(bundle.path.parent), limits=ServerLimits(max_body_bytes=100_000))
    with background(service) as url, make(url) as client:
        scores = client.infer("tth", prepared.inputs)["scores"]
    assert scores.tobytes() == bundle.session().run(prepared.inputs).tobytes()


def test_a_contract_comes_with_an_event_that_can_be_asked(url: str) -> None:
    status, contract, _ = ask(url, "GET", "/v1/models/tth")
    assert status == 200
    status, answer, _ = ask(url, "POST", "/v1/models/tth:predict", {"instances": [contract["example"]]})
    assert status == 200
    assert (answer["model_name"], answer["model_version"]) == ("tth", "1")
    assert len(answer["predictions"]) == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "said"),
    [
        ("GET", "/v2/modells", None, {}, 404, "no route /v2/modells; did you mean '/v2/models'"),
        ("GET", "/v2/models/tt", None, {}, 404, "no model 'tt' is served here; did you mean 'tth'"),
        ("GET", "/v2/models/tth/versions/9", None, {}, 404, "has no version 9; versions: 1"),
        ("POST", "/v1/models/tt:predict", {}, {}, 404, "did you mean 'tth'"),
        ("PUT", "/v2/models/tth/infer", {}, {}, 405, "allowed: POST"),
        ("GET", "/v2/models/tth/infer", None, {}, 405, "allowed: POST"),
        ("GET", "/v1/models/tth:predict", None, {}, 405, "GET does not go with /v1/models/tth:predict; allowed: POST"),
        ("DELETE", "/v1/models/tth:predict", None, {}, 405, "allowed: .*POST"),
        ("POST", "/v1/models/tth:predict", {"instances": {"nJet": 1}}, {}, 400, "a list of events, .*found an object"),
        ("POST", "/v2/models/tth/infer", b"{", {}, 400, "not JSON"),
        ("POST", "/v2/models/tth/infer", b"", {}, 400, "not JSON"),
        ("POST", "/v2/models/tth/infer", {"inputs": []}, {}, 400, "input 'event' .* is missing; given: nothing"),
        ("POST", "/v2/models/tth/infer", b"{}", {"Inference-Header-Content-Length": "-1"}, 400, "number of bytes"),
        ("POST", "/v2/models/tth/infer", b"{}", {"Content-Type": "text/csv"}, 415, "'text/csv' is not read here"),
        ("POST", "/v1/models/tth:predict", b"{}", {"Content-Encoding": "gzip"}, 415, "encoding 'gzip'"),
        ("POST", "/v1/models/tth:predict", {"inputs": []}, {}, 400, "asked for .*instances.* found 'inputs'"),
    ],
)
def test_what_cannot_be_answered_says_why_in_one_form(
    url: str, method: str, path: str, body: Any, headers: dict[str, str], status: int, said: str
) -> None:
    found, answer, sent = ask(url, method, path, body, headers)
    assert found == status
    assert list(answer) == ["error"]
    assert sent["content-type"] == "application/json"
    assert re.search(said, answer["error"]), answer["error"]


def test_the_address_itself_answers_with_the_routes(url: str) -> None:
    status, answer, _ = ask(url, "GET", "/")
    assert status == 200
    assert {"GET /v1/models", "POST /v1/models/{name}:predict", "POST /v2/models/{name}/infer"} <= set(answer["routes"])
    assert "GET /v1/models/{name}:predict" not in answer["routes"]
    assert ask(url, "GET", "/v1/models/tth:predict")[2]["allow"] == "POST"


def test_a_body_over_the_limit_is_refused_however_it_comes_and_the_server_lives(url: str) -> None:
    size = 64 << 20
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=20) as raw:
        head = f"POST /v1/models/tth:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {size + 1}\r\n\r\n"
        raw.sendall(head.encode())
        assert b" 413 " in raw.recv(4096)
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=20) as raw:
        raw.sendall(b"POST /v1/models/tth:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        part = b"%x\r\n%s\r\n" % (8 << 20, b" " * (8 << 20))
        for _ in range(9):
            raw.sendall(part)
        assert b" 413 " in raw.recv(4096)
    assert ask(url, "GET", "/v2/health/live")[0] == 200


def test_large_questions_are_answered_while_others_wait_for_nothing(url: str, bundle: Bundle) -> None:
    columns = make_events(5000, seed=2)
    prepared = bundle.spec.preprocessor().run(columns, 5000)
    with Client(url) as client:
        predictions = client.predict("tth", as_instances(columns))
    served = np.array([one["signal"] for one in predictions if one is not None], np.float32)
    assert served.tobytes() == bundle.session().run(prepared.inputs).tobytes()


def test_predict_asks_from_the_shell(url: str, tmp_path: Path) -> None:
    event = ask(url, "GET", "/v1/models/tth")[1]["example"] | {"nJet": 2}
    pairs = " ".join(f"{name}={json.dumps(value)}" for name, value in event.items())
    file = tmp_path / "events.json"
    file.write_text("\n".join(json.dumps(one) for one in [event, event | {"nJet": 0}]))
    base = [*COMMAND, "predict", "--url", url]
    asked = [*base, "--event", json.dumps(event), "--event", pairs, "--file", str(file), "--json"]
    answer = json.loads(subprocess.run(asked, capture_output=True, check=True).stdout)
    first, second, third, last = answer["predictions"]
    assert first == second == third
    assert last is None
    table = subprocess.run([*base, "--file", "-"], input=file.read_bytes(), capture_output=True, check=True).stdout
    assert [line.split()[0] for line in table.decode().splitlines()] == ["event", "0", "1"]
    assert "not selected" in table.decode()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--event", "MET_pt"], "asked for a JSON object or name=value, found 'MET_pt'"),
        (["--event", "{"], "--event: is not JSON"),
        (["--event", "HT=yes, nJet=2"], "--event HT: is not JSON.*; write numbers, true, false, null"),
        (["--event", "a=" + "[" * 50_000], "--event a: is nested too deeply"),
        (["--timeout", "nan", "--event", "{}"], "'--timeout': nan is not a time in s above 0"),
        (["--model", "tt", "--event", "{}"], "no model 'tt' is served here; did you mean 'tth'"),
        (["--event", "{}"], "column 'Jet_pt' \\(jagged, float32\\) is missing"),
        ([], "no events"),
    ],
)
def test_predict_ends_with_one_message_where_it_cannot_ask(
    url: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", "--url", url, *arguments]) == 2
    told = capsys.readouterr().err
    assert re.search(said, told), told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "events.json: holds no events"),
        ("", "events.json: holds no events"),
        ('{"instances": {}}', "events.json: asked for a list of events"),
        ("[1, 2]", "events.json, event 0: asked for an object .*, found 1"),
        ('{"a": 1}\n"b"\n', "events.json, line 2: asked for an object .*, found 'b'"),
        ("[" * 100_000, "events.json, line 1: is nested too deeply"),
    ],
)
def test_a_file_that_holds_no_events_is_refused(
    tmp_path: Path, content: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "events.json"
    file.write_text(content)
    assert run(["predict", "--file", str(file)]) == 2
    told = capsys.readouterr().err
    assert re.search(said, told), told
    assert "Traceback" not in told


def test_an_event_that_is_not_selected_says_by_what(url: str) -> None:
    event = ask(url, "GET", "/v1/models/tth")[1]["example"] | {"nJet": 0}
    pairs = ", ".join(f"{name}={json.dumps(value)}" for name, value in event.items())
    done = subprocess.run([*COMMAND, "predict", "--url", url, "--event", pairs], capture_output=True, text=True)
    assert done.stdout == "event  signal\n    0  not selected (preselection: HLT and nJet > 0)\n", done.stderr


def refused(*arguments: str) -> str:
    """What a server says that does not start: one message, status 2, nothing on standard output."""
    done = subprocess.run([*COMMAND, "serve", *arguments], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_taken_port_is_refused(url: str, bundle: Bundle) -> None:
    said = refused(str(bundle.path.parent), "--port", str(urlsplit(url).port))
    assert "is taken by another program; choose another with --port" in said


def test_a_folder_without_models_and_a_changed_bundle_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    assert "asked for NAME/1/model.onnx in it, found nothing" in refused(str(tmp_path), "--port", "0")
    shutil.copytree(bundle.path.parent, tmp_path / "tth")
    file = tmp_path / "tth" / "1" / "spec.json"
    file.write_bytes(file.read_bytes().replace(b"MET_pt", b"MET_pT", 1))
    assert "spec.json" in refused(str(tmp_path), "--port", "0")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_question_that_is_shown_at_the_start_can_be_pasted(bundle: Bundle) -> None:
    with subprocess.Popen(
        [*COMMAND, "serve", str(bundle.path.parent), "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        question = next(line for line in process.stdout if line.startswith("  curl "))
        answer = subprocess.run(question, shell=True, capture_output=True, check=True, timeout=20)
        process.terminate()
    assert json.loads(answer.stdout)["model_name"] == "tth"


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_was_accepted(bundle: Bundle, sign: int) -> None:
    process, url = start(str(bundle.path.parent), "--max-wait-ms", "5", "--queue-s", "60")
    body = msgspec.json.encode({"instances": as_instances(make_events(20_000))})
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    connection.request("POST", "/v1/models/tth:predict", body, {"Content-Type": "application/json"})
    # The body is accepted once a later question of another client is answered.
    assert ask(url, "GET", "/v2/health/live")[0] == 200
    process.send_signal(sign)
    assert len(json.loads(connection.getresponse().read())["predictions"]) == 20_000
    connection.close()
    assert end_of(process) == (0, "")


IMPORTS = """
import json, sys
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService
from mlaas4hep.client import Client
with background(InferenceService(open_repository(sys.argv[1]))) as url, Client(url) as client:
    client.predict("tth", [client.contract("tth")["example"]])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
print(json.dumps(sorted(name for name in sys.modules if name.startswith("mlaas4hep."))))
"""


def test_serving_loads_neither_file_formats_nor_frameworks(bundle: Bundle) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, str(bundle.path.parent)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )
    loaded, ours = map(json.loads, done.stdout.splitlines())
    forbidden = {"uproot", "awkward", "sklearn", "torch", "onnx", "matplotlib", "scipy", "pandas", "yaml"}
    assert not forbidden & set(loaded)
    assert not [name for name in ours if name.split(".")[1] in ("data", "train", "backends", "report", "cli")]
