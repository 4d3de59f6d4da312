"""TFaaS's routes on a real server: rows to models of both kinds, by both ways, and what is told of models."""

from __future__ import annotations

import http.client
import io
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mlaas4hep.bundle import Bundle
from mlaas4hep.errors import RequestError, UploadError
from mlaas4hep.serve.model import ServedModel
from mlaas4hep.serve.oip import message
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.operation import Operation, Options
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService
from mlaas4hep.serve.tfaas_row import _Layout
from mlaas4hep.serve.uploads import MAX_UPLOADS, Received, Stored, Uploads
from mlaas4hep.spec.scaling import flatten
from tests.attacks import small_network
from tests.plain_graph import write_plain_graph
from tests.small_bundle import make_events, write_small_bundle


def write_net(folder: Path, name: str = "net", *, max_batch_size: int = 8) -> None:
    """A plain network from x [n, 4] to y [n, 2]."""
    (folder / name / "1").mkdir(parents=True)
    onnx.save(small_network(), folder / name / "1" / "model.onnx")
    (folder / name / "config.pbtxt").write_text(f"max_batch_size: {max_batch_size}\n")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("models")
    write_net(folder)
    write_net(folder, "alone", max_batch_size=0)
    write_plain_graph(folder)
    (folder / "net" / "1" / "params.json").write_bytes(b'{"name": "net", "labels": "l.txt", "inputNode": "in"}')
    (folder / "net" / "1" / "conversion.json").write_bytes(b'{"labels": ["cat", "dog"]}')
    return folder


@pytest.fixture(scope="module")
def bundle(models: Path) -> Bundle:
    return write_small_bundle(models)


@pytest.fixture(scope="module")
def url(models: Path, bundle: Bundle) -> Iterator[str]:
    with background(InferenceService(open_repository(models))) as url:
        yield url


def ask(
    url: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, content, headers or {})
    response = connection.getresponse()
    data = response.read()
    connection.close()
    found = {name.lower(): value for name, value in response.getheaders()}
    return response.status, json.loads(data) if "json" in found.get("content-type", "") else data, found


def row_of(bundle: Bundle, entry: int) -> list[float | None]:
    inputs = bundle.spec.preprocessor().run(make_events(50, seed=2), 50).inputs
    return [None if np.isnan(one) else float(one) for one in flatten(bundle.spec.scaling, inputs)[entry]]


def wanted(bundle: Bundle, entry: int) -> float:
    inputs = bundle.spec.preprocessor().run(make_events(50, seed=2), 50).inputs
    return float(bundle.predict({name: one[entry : entry + 1] for name, one in inputs.items()})[0, 0])


@pytest.mark.parametrize("path", ["/json", "/predict/json", "/tfaas/json", "/tfaas/predict/json", "/json?x=1"])
def test_a_row_has_the_score_of_the_same_tensors_bit_for_bit(path: str, url: str, bundle: Bundle) -> None:
    """An address with a question mark takes the long way."""
    row, names = row_of(bundle, 7), bundle.spec.flat_names
    for keys in ({}, {"keys": names}):
        status, answer, headers = ask(url, "POST", path, {"values": row, "model": "tth", **keys})
        assert (status, answer, headers["content-type"]) == (200, [wanted(bundle, 7)], "application/json")


def test_keys_say_which_value_is_which_in_any_order(url: str, bundle: Bundle) -> None:
    row, names = row_of(bundle, 3), bundle.spec.flat_names
    order = np.random.default_rng(0).permutation(len(names))
    asked = {"key": [names[at] for at in order], "values": [row[at] for at in order], "name": "tth"}
    assert ask(url, "POST", "/json", asked)[:2] == (200, [wanted(bundle, 3)])


@pytest.mark.parametrize("model", ["net", "alone"])
def test_a_graph_without_names_takes_values_in_their_order_and_its_keys_are_let_be(model: str, url: str) -> None:
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1.5, -2, 1e-3, None]}
    scores = ask(url, "POST", f"/v2/models/{model}/infer", {"inputs": [tensor]})[1]["outputs"][0]["data"]
    for keys in ([], ["a", "b", "c", "d"]):
        row = {"keys": keys, "values": tensor["data"], "model": model}
        assert ask(url, "POST", "/json", row)[:2] == (200, scores)


@pytest.mark.parametrize(
    ("row", "status", "words"),
    [
        ({"values": [1.0], "model": "tth"}, 400, "takes 12 values a row, found 1; their order is MET_pt, ht, nJet"),
        ({"values": [1.0], "keys": ["MET_px"], "model": "tth"}, 400, "no value 'MET_px'; did you mean 'MET_pt'"),
        ({"values": [1.0], "keys": ["MET_pt"], "model": "tth"}, 400, "the row lacks ht, nJet, jets_0_Jet_pt"),
        ({"values": [1, 2], "keys": ["ht", "ht"], "model": "tth"}, 400, "the key 'ht' is given twice"),
        ({"values": [1, 2], "keys": ["ht"], "model": "tth"}, 400, "1 keys and 2 values"),
        ({"values": [1, 2, 3], "model": "net"}, 400, "model 'net' takes 4 values, found 3"),
        ({"values": [1, 2], "model": "plain"}, 400, "has 13 inputs"),
        ({"values": [1, 2, 3, 4], "model": "nett"}, 404, "no model 'nett' is served here; did you mean 'net'"),
        ({"values": [1, 2, 3, 4]}, 400, "the question names no model; served here: alone, net, plain, tth"),
        ({"Values": [1], "model": "net"}, 400, "has no 'values'; found 'Values'"),
        ({"values": [1, "x", 3, 4], "model": "net"}, 400, r"\$.values\[1\]"),
        ([1, 2], 400, "does not fit the protocol"),
        (b"{", 400, "is not JSON"),
        (b'{"values": [NaN]}', 400, "JSON has no bare NaN"),
    ],
)
def test_a_row_that_does_not_fit_says_why(row: Any, status: int, words: str, url: str, bundle: Bundle) -> None:
    for path in ("/json", "/json?x=1"):
        found, answer, _ = ask(url, "POST", path, row)
        assert (found, bool(re.search(words, answer["error"]))) == (status, True), answer


def layout_of(folder: Path, kind: int, shape: list[int | str], *, max_batch_size: int = 8) -> _Layout:
    """Of a plain graph that gives what it takes."""
    ends = [helper.make_tensor_value_info(name, kind, shape) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    (folder / "1").mkdir()
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "1/model.onnx"
    )
    (folder / "config.pbtxt").write_text(f"max_batch_size: {max_batch_size}")
    return _Layout(ServedModel.plain(folder / "1"), ())


@pytest.mark.parametrize(
    ("kind", "shape", "batch", "found"),
    [
        (TensorProto.INT64, ["n", 2], 8, np.array([[1, 2]], np.int64)),
        (TensorProto.DOUBLE, ["n", 2, 1], 8, np.array([[[1], [2]]], np.float64)),
        (TensorProto.FLOAT, ["n", "m"], 0, np.array([[1, 2]], np.float32)),
        (TensorProto.FLOAT, ["n", 1, "m"], 8, np.array([[[1, 2]]], np.float32)),
        (TensorProto.UINT8, [2], 0, np.array([1, 2], np.uint8)),
    ],
)
def test_values_become_one_row_of_whatever_a_graph_takes(
    kind: int, shape: list[int | str], batch: int, found: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    layout = layout_of(tmp_path, kind, shape, max_batch_size=batch)
    tensor = layout.tensors([1.0, 2.0], ())["x"]
    assert (tensor.dtype, tensor.tolist()) == (found.dtype, found.tolist())
    assert layout.scores({"y": tensor}).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("kind", "shape", "values", "words"),
    [
        (TensorProto.INT64, ["n", 2], [1.5, 2.0], "INT64 holds integers"),
        (TensorProto.INT64, ["n", 2], [None, 2.0], "INT64 holds integers"),
        (TensorProto.BOOL, ["n", 2], [1.0, 2.0], "takes BOOL, a row holds numbers"),
        (TensorProto.FLOAT, ["n", 2, "m"], [1.0, 2.0, 3.0], r"a row of shape \[1, 2, -1\], found 3"),
        (TensorProto.FLOAT, ["n", "m", "k"], [1.0], r"a row of shape \[1, -1, -1\]"),
    ],
)
def test_values_that_a_graph_does_not_take_are_told(
    kind: int, shape: list[int | str], values: list[Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=words):
        layout_of(tmp_path, kind, shape).tensors(values, ())


def test_a_row_of_protobuf_has_the_same_scores_with_their_labels(url: str, bundle: Bundle) -> None:
    pytest.importorskip("google.protobuf", reason="protobuf is not installed")
    values = [1.5, -2.25, 0.125, 4.0]
    scores = ask(url, "POST", "/json", {"values": values, "model": "net"})[1]
    body = message("Row")(key=list("abcd"), value=values, model="net").SerializeToString()
    for path in ("/proto", "/predict/proto", "/tfaas/proto?x=1"):
        status, answer, headers = ask(url, "POST", path, body)
        found = message("Predictions").FromString(answer)
        assert (status, headers["content-type"]) == (200, "application/x-protobuf")
        assert [one.probability for one in found.prediction] == scores
        assert [one.label for one in found.prediction] == ["cat", "dog"]
    status, answer, _ = ask(url, "POST", "/proto", b"\xff\xff")
    assert (status, "no message Row of TFaaS" in answer["error"]) == (400, True)


def write_image_entry(folder: Path, name: str, found: str) -> None:
    """A plain graph from gray pictures of 2 x 3 to the sums of their columns, as an upload to TFaaS would be."""
    (folder / name / "1").mkdir(parents=True)
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 3, 1])]
    ends += [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])]
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 3])
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)], "g", ends[:1], ends[1:], [axes]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / name / "1" / "model.onnx")
    (folder / name / "config.pbtxt").write_text("max_batch_size: 8")
    (folder / name / "1" / "params.json").write_text(json.dumps({"name": name, "img_channels": 1}))
    told = {"found": found, "labels": ["left", "middle", "right"]}
    (folder / name / "1" / "conversion.json").write_text(json.dumps(told))


def test_a_picture_is_answered_as_tfaas_does(tmp_path: Path) -> None:
    from PIL import Image

    picture = io.BytesIO()
    Image.fromarray(np.array([[1, 200, 3], [4, 5, 60]], np.uint8)).save(picture, "PNG")
    write_image_entry(tmp_path, "saved", "a TensorFlow SavedModel")
    write_image_entry(tmp_path, "frozen", "a frozen TensorFlow graph")

    def shown(url: str, path: str, model: str, data: bytes) -> tuple[int, Any]:
        head = 'Content-Disposition: form-data; name="%s"; filename="/tmp/a.png"\r\n\r\n'
        body = f"--b\r\n{head % 'image'}".encode() + data
        body += f'\r\n--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n{model}\r\n--b--'.encode()
        return ask(url, "POST", path, body, {"Content-Type": "multipart/form-data; boundary=b"})[:2]

    with background(InferenceService(open_repository(tmp_path, lazy=True))) as url:
        assert shown(url, "/image", "saved", picture.getvalue()) == (200, [5, 205, 63])
        likeliest = [("middle", 205), ("right", 63), ("left", 5)]
        labels = [{"label": label, "probability": value} for label, value in likeliest]
        answer = {"filename": "a.png", "labels": labels}
        assert shown(url, "/tfaas/predict/image", "frozen", picture.getvalue()) == (200, answer)
        assert shown(url, "/image", "saved", b"\x89PNG broken")[0] == 400
        assert shown(url, "/image", "saved", b"")[0] == 400
        assert shown(url, "/image", "other", picture.getvalue())[0] == 404


def test_models_are_listed_and_described_in_the_words_of_tfaas(url: str, models: Path, bundle: Bundle) -> None:
    for path in ("/models", "/models/", "/tfaas/models"):
        found = {one["name"]: one for one in ask(url, "GET", path)[1]}
        assert list(found) == ["alone", "net", "plain", "tth"]
    assert (found["net"]["input_node"], found["net"]["inputNode"], found["net"]["labels"]) == ("in", "in", "l.txt")
    assert (found["alone"]["input_name"], found["alone"]["output_name"]) == ("x", "y")
    assert ask(url, "GET", "/params/net")[1] == {"name": "net", "labels": "l.txt", "inputNode": "in"}
    assert ask(url, "GET", "/params/tth")[1]["keys"] == list(bundle.spec.flat_names)
    status, answer, _ = ask(url, "GET", "/params/nett")
    assert (status, "did you mean 'net'" in answer["error"]) == (404, True)


def test_data_gives_models_by_name_and_no_other_file(url: str, models: Path, bundle: Bundle) -> None:
    graph = (models / "net" / "1" / "model.onnx").read_bytes()
    for path in ("/data?model=net", "/models/net"):
        status, data, headers = ask(url, "GET", path)
        assert (status, data, headers["content-disposition"]) == (200, graph, 'attachment; filename="net.onnx"')
    for name in ("/etc/passwd", "../net", "net/1/model.onnx", "%2e%2e", ".."):
        assert ask(url, "GET", f"/data?model={name}")[0] == 404
    assert ask(url, "GET", "/data")[0] == 400


def test_status_tells_of_the_machine_and_counts_requests(url: str) -> None:
    first, second = (ask(url, "GET", path)[1] for path in ("/status", "/tfaas/status"))
    ask(url, "POST", "/json", b"{}")
    third = ask(url, "GET", "/status")[1]
    assert set(first) == {"NGo", "Memory", "Load", "CPU", "Uptime", "getRequests", "postRequests"}
    assert second["getRequests"] == first["getRequests"] + 1
    assert (third["postRequests"], third["Uptime"] > first["Uptime"]) == (second["postRequests"] + 1, True)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("POST", "/upload", b"x"), ("POST", "/bundle", b"x"), ("DELETE", "/delete/net", None), ("POST", "/params", b"{}")],
)
def test_a_server_that_was_not_started_for_it_takes_no_models(method: str, path: str, body: Any, url: str) -> None:
    status, answer, _ = ask(url, method, path, body)
    assert (status, "start the server with --uploads" in answer["error"]) == (403, True)


def test_the_upload_of_the_job_service_is_told_apart_by_a_name_in_its_address(url: str) -> None:
    status, answer, _ = ask(url, "POST", "/upload?name=luca", b"x")
    assert (status, "a question to the job service" in answer["error"]) == (404, True)


def test_a_model_that_sleeps_is_woken_by_a_row(models: Path, bundle: Bundle) -> None:
    repository = open_repository(models, lazy=True)
    with background(InferenceService(repository)) as url:
        assert repository.loaded == ()
        assert ask(url, "GET", "/models")[1][1]["name"] == "net"
        assert repository.loaded == ()
        values = {"values": row_of(bundle, 1), "model": "tth"}
        assert ask(url, "POST", "/json", values)[:2] == (200, [wanted(bundle, 1)])
        assert ask(url, "POST", "/json?x", {"values": [1, 2, 3, 4], "model": "net"})[0] == 200
        long = json.dumps({"values": [1, 2, 3, 4], "model": "alone"}).encode() + b" " * (300 << 10)
        assert ask(url, "POST", "/json", long)[0] == 200
    assert repository.loaded == ("alone", "net", "tth")


class Converted:
    """What a converter says that it stored."""

    def __init__(self, name: str, version: str) -> None:
        self.name, self.version = name, version

    def to_json(self) -> bytes:
        return json.dumps({"name": self.name, "version": self.version}).encode()


@pytest.fixture
def taking(tmp_path: Path) -> Iterator[tuple[str, Uploads, list[Received]]]:
    """A server whose converter stores the same network whatever comes, and refuses what holds ``bad``."""
    received: list[Received] = []
    repository = open_repository(tmp_path, empty=True)

    def convert(one: Received) -> Stored:
        received.append(one)
        if b"bad" in one.model.read_bytes():
            raise UploadError("the upload holds\nsomething bad")
        name = (one.form or {}).get("name", b"net").decode()
        if b"broken" in one.model.read_bytes():
            (tmp_path / name / "2").mkdir(parents=True)
            (tmp_path / name / "2" / "model.onnx").write_bytes(b"no graph")
            return Converted(name, "2")
        write_net(tmp_path, name)
        return Converted(name, "1")

    uploads = Uploads(repository, convert, limit_bytes=1000)
    service = InferenceService(repository, uploads=uploads)
    operation = Operation(service, Options(base="old"))
    with background(service, operation=operation) as url:
        yield url, uploads, received
    operation.close()


def test_a_server_without_models_waits_for_the_first_one(
    taking: tuple[str, Uploads, list[Received]], tmp_path: Path
) -> None:
    url = taking[0]
    assert ask(url, "GET", "/v2/health/ready")[:2] == (200, {"ready": True})
    assert ask(url, "GET", "/old/models")[1] is None
    assert ask(url, "GET", "/params")[0] == 400
    status, answer, headers = ask(url, "POST", "/old/upload", b"model", {"Content-Type": "application/octet-stream"})
    assert (status, answer, headers["location"]) == (200, b"", "/v2/models/net/versions/1")
    assert ask(url, "POST", "/json", {"values": [1, 2, 3, 4]})[0] == 200
    assert ask(url, "DELETE", "/delete?model=net")[:2] == (200, b"")
    assert ask(url, "DELETE", "/delete/net")[0] == 200
    assert (ask(url, "GET", "/models")[1], list(tmp_path.iterdir())) == (None, [])


def test_a_form_brings_a_model_and_it_becomes_the_default(taking: tuple[str, Uploads, list[Received]]) -> None:
    url, _, received = taking
    for name in ("one", "two"):
        body = b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\n%b\r\n' % name.encode()
        body += b'--b\r\nContent-Disposition: form-data; name="model"; filename="m"\r\n\r\nbW9kZWw=\r\n--b--'
        headers = {"Content-Type": "multipart/form-data; boundary=b", "Content-Encoding": "base64"}
        status, answer, _ = ask(url, "POST", "/upload", body, headers | {"Accept": "application/json"})
        assert (status, answer) == (200, {"name": name, "version": "1"})
    assert [one.form for one in received] == [{"name": b"one"}, {"name": b"two"}]
    assert ask(url, "GET", "/params")[1]["name"] == "two"
    assert ask(url, "POST", "/params", {"name": "one"})[0] == 200
    assert ask(url, "GET", "/params")[1]["name"] == "one"
    assert ask(url, "POST", "/params", {"name": "three"})[0] == 404
    assert ask(url, "POST", "/params", {"model": "x"})[0] == 400
    assert ask(url, "DELETE", "/delete", b"model=one", {"Content-Type": "application/x-www-form-urlencoded"})[0] == 200
    assert ask(url, "GET", "/params")[1]["name"] == "two"
    assert ask(url, "DELETE", "/delete")[0] == 400


FORM = {"Content-Type": "multipart/form-data; boundary=b"}
NO_MODEL = b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nx\r\n--b--'


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"x" * 1001, {}, 413, "larger than the 1000 bytes"),
        (b"", {}, 400, "the upload is empty"),
        (b"bad", {}, 422, "something bad"),
        (b"x", {"Content-Encoding": "br"}, 415, "content encoding 'br' is not taken"),
        (b"x", {"Content-Encoding": "base64"}, 400, "not base64"),
        (b"b\xffd=", {"Content-Encoding": "base64"}, 400, "not base64"),
        (NO_MODEL, FORM, 400, "the form has no file 'model'; it has name"),
        (NO_MODEL[:-4], FORM, 400, "cut off"),
        (NO_MODEL, FORM | {"Content-Encoding": "gzip"}, 415, "a form is taken as it is"),
        (b"x", {"Origin": "https://evil.example"}, 403, "a page of https://evil.example may not change"),
        (b"x", {"Sec-Fetch-Site": "cross-site"}, 403, "a page of another site"),
    ],
)
def test_an_upload_that_is_not_taken_is_told_logged_and_leaves_nothing(
    body: bytes,
    headers: dict[str, str],
    status: int,
    words: str,
    taking: tuple[str, Uploads, list[Received]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        found, answer, _ = ask(taking[0], "POST", "/upload", body, headers)
    assert (found, words in answer["error"].replace("\n", " ")) == (status, True), answer
    assert list(tmp_path.iterdir()) == []
    told = [one.getMessage() for one in caplog.records if "was refused" in one.getMessage()]
    assert status == 403 or (len(told) == 1 and words in told[0] and "\n" not in told[0])


def test_what_was_converted_and_cannot_be_served_is_taken_back(
    taking: tuple[str, Uploads, list[Received]], tmp_path: Path
) -> None:
    url = taking[0]
    status, answer, _ = ask(url, "POST", "/upload", b"broken")
    assert (status, "was converted, but it cannot be served" in answer["error"]) == (422, True)
    assert list(tmp_path.iterdir()) == []
    assert ask(url, "POST", "/upload", b"good")[0] == 200
    assert ask(url, "POST", "/upload", b"broken")[0] == 422
    assert sorted(one.name for one in (tmp_path / "net").iterdir()) == ["1", "config.pbtxt"]
    assert ask(url, "POST", "/json", {"values": [1, 2, 3, 4]})[0] == 200


def test_a_few_uploads_wait_and_more_are_asked_to_come_back(taking: tuple[str, Uploads, list[Received]]) -> None:
    url, uploads, _ = taking
    uploads._under_way = MAX_UPLOADS
    status, answer, headers = ask(url, "POST", "/upload", b"x")
    assert (status, headers["retry-after"], "no more at a time" in answer["error"]) == (503, "10", True)


def test_what_a_killed_process_left_is_cleaned_away_when_it_is_old(tmp_path: Path) -> None:
    for name in (".upload-old", ".convert-old", ".delete-new", "model-old"):
        (tmp_path / name).mkdir()
        if name.endswith("old"):
            os.utime(tmp_path / name, (1, 1))
    Uploads(open_repository(tmp_path, empty=True), lambda one: Converted("", "")).clean()
    assert sorted(one.name for one in tmp_path.iterdir()) == [".delete-new", "model-old"]
