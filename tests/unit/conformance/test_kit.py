"""The parts of the kit: tensors, the wire, messages, reports and the command."""

from __future__ import annotations

import json
import math
import re
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.__main__ import main
from conformance.checks import Result, all_checks, groups_of
from conformance.compare import main as compare
from conformance.groups.malformed import damaged, mutated
from conformance.messages import PROTO, message_class, read_proto
from conformance.report import write_junit
from conformance.tensors import TYPES, Spec, from_bytes, from_json, make, same, to_bytes, to_json
from conformance.wire import BrokenWireError, Connection, LateAnswerError, Place
from tests.oip_rpc import serving_rpc
from tests.oip_server import serving
from tests.servers import program

SHAPES = st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple)


@given(datatype=st.sampled_from(sorted(TYPES)), shape=SHAPES, seed=st.integers(0, 1000))
def test_tensors_of_every_datatype_come_back_from_json_and_bytes(datatype: str, shape: Any, seed: int) -> None:
    array = make(Spec("x", datatype, shape), shape, np.random.default_rng(seed))
    assert array.shape == shape
    assert same(from_bytes(to_bytes(array), datatype, shape), array)
    assert same(from_json(json.loads(json.dumps(to_json(array))), datatype, shape), array)


def test_the_bytes_are_those_of_the_extension() -> None:
    assert to_bytes(np.array([b"ab", b""], dtype=object)) == b"\x02\0\0\0ab\0\0\0\0"
    assert to_bytes(np.array([True, False])) == b"\x01\0"
    assert to_bytes(np.array([1, -2], np.int16)) == b"\x01\0\xfe\xff"
    assert to_bytes(np.array([1.5], np.float32)) == struct.pack("<f", 1.5)


def test_json_has_words_for_what_is_no_number() -> None:
    array = np.array([np.nan, np.inf, -np.inf, -0.0, 0.1], np.float32)
    assert to_json(array) == [None, "Infinity", "-Infinity", -0.0, float(np.float32(0.1))]
    assert same(from_json(to_json(array), "FP32", [5]), array)


@pytest.mark.parametrize(
    ("data", "datatype"),
    [
        ([1, 2, 3], "FP32"),
        ([True], "FP32"),
        ([1.5], "INT64"),
        ([1], "BOOL"),
        ([1], "BYTES"),
        ("x", "FP32"),
        (None, "FP32"),
    ],
)
def test_values_that_do_not_fit_are_no_tensor(data: Any, datatype: str) -> None:
    with pytest.raises(ValueError, match="data"):
        from_json(data, datatype, [1])


@pytest.mark.parametrize("data", [b"\x05\0\0\0ab", b"\x01\0\0", b"\0\0\0\0\0\0\0\0"])
def test_damaged_strings_are_no_tensor(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"bytes|elements"):
        from_bytes(data, "BYTES", [1])


def test_equal_means_equal_bits() -> None:
    zero = np.zeros(1, np.float32)
    assert not same(zero, -zero)
    assert not same(zero, zero.astype(np.float64))
    assert same(zero / np.float32(1) + np.float32(math.nan), np.array([-np.nan], np.float32))


@contextmanager
def saying(data: bytes) -> Iterator[Connection]:
    """A connection to somebody who says that much and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            one, _ = server.accept()
            with one:
                one.sendall(data)

        thread = threading.Thread(target=talk)
        thread.start()
        with Place("127.0.0.1", server.getsockname()[1], timeout_s=5).open() as connection:
            yield connection
        thread.join()


def test_answers_are_read_one_by_one_in_all_their_forms() -> None:
    data = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: 1\r\nx-a: 2\r\n\r\none"
        b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\ntw\r\n1\r\no\r\n0\r\nX: y\r\n\r\n"
        b"HTTP/1.0 200 OK\r\n\r\nto the end"
    )
    with saying(data) as connection:
        first, second, third = connection.receive(), connection.receive(), connection.receive()
        assert connection.at_end()
    assert (first.status, first.body, first.interim, first.headers["x-a"]) == (200, b"one", (100,), "1, 2")
    assert (second.status, second.body) == (404, b"two")
    assert (third.version, third.body) == ("HTTP/1.0", b"to the end")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "in the middle"),
        (b"<html>\r\n\r\n", "not an answer of HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nkit\r\n", "size of a chunk"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n", "Content-Length"),
    ],
)
def test_what_is_no_answer_is_told(data: bytes, said: str) -> None:
    with saying(data) as connection, pytest.raises(BrokenWireError, match=said):
        connection.receive()


def test_a_server_that_says_nothing_is_not_waited_for_without_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = Place("127.0.0.1", server.getsockname()[1], timeout_s=0.05)
        with place.open() as connection, pytest.raises(LateAnswerError, match=r"within 0\.05 s"):
            connection.receive()


def test_nothing_there_to_ask_has_a_status_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", "http://127.0.0.1:1"]) == 2
    with serving() as url:
        assert main(["--url", url, "--model", "nothing"]) == 2
    assert "metadata of model 'nothing' cannot be read: 404" in capsys.readouterr().err


def test_the_command_says_by_its_status_whether_something_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as url:
        assert main(["--url", url, "--only", "infer", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {one["group"] for one in lines} == {"infer"}
    assert {one["status"] for one in lines} == {"pass"}
    with serving("wrong id") as url:
        assert main(["--url", url, "--only", "infer", "--junit", str(tmp_path / "found.xml")]) == 1
    shown = capsys.readouterr().out
    assert "fail    infer.id" in shown
    assert "expected  the id of the request comes back (OIP REST, Inference Response JSON Object)" in shown
    suite = ElementTree.parse(tmp_path / "found.xml").getroot()[0]
    assert (suite.get("name"), suite.get("failures")) == ("infer", "1")
    assert [one.get("name") for one in suite if one.find("failure") is not None] == ["id"]


def test_a_sample_stands_in_where_random_values_would_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [10.0, 20.0, 30.0]}]}
    sample["inputs"].append({"name": "n", "shape": [1, 1], "datatype": "INT64", "data": [77]})
    (tmp_path / "sample.json").write_text(json.dumps(sample))
    with serving() as url:
        arguments = ["--url", url, "--only", "infer", "--json", "--sample", str(tmp_path / "sample.json")]
        assert main(arguments) == 0
    asked = json.loads(capsys.readouterr().out.splitlines()[0])["asked"]
    values = re.findall(r'"x".*"data": \[([\d.]+), ([\d.]+), ([\d.]+)\]', asked)
    assert np.allclose(np.array(values, float), [10, 20, 30], rtol=0.1)


def test_headers_go_with_every_request_and_checks_may_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    data = Place.parse("h:1", headers=[("Authorization", "Bearer x")]).request("GET", "/v2")
    assert b"\r\nAuthorization: Bearer x\r\n" in data
    with serving() as url:
        arguments = ["--url", url, "--only", "infer", "--skip", "infer.id", "--header", "X-A: 1", "--json"]
        assert main(arguments) == 0
    names = [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()]
    assert "one_row" in names
    assert "id" not in names
    with pytest.raises(SystemExit):
        main(["--url", "h:1", "--header", "no value"])
    assert "asked for NAME:VALUE, found 'no value'" in capsys.readouterr().err


def test_runs_are_compared_group_by_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = [
        {"group": "infer", "name": "id", "status": "fail"},
        {"group": "infer", "name": "one_row", "status": "pass"},
    ]
    (tmp_path / "a").write_text("a log\n" + "".join(json.dumps(one) + "\n" for one in results))
    (tmp_path / "b").write_text(json.dumps(results[1]))
    compare([f"one={tmp_path / 'a'}", f"other={tmp_path / 'b'}"])
    lines = capsys.readouterr().out.splitlines()
    assert "| `infer` | 1 / 1 / 0 | 1 / 0 / 0 |" in lines
    assert "| `health` | - | - |" in lines
    assert "| `infer` | id |  |" in lines


def test_servers_with_certificates_of_their_own_are_asked_over_tls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("grpc")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=kit"]
    more = ["-keyout", str(key), "-out", str(certificate), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *more], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(tls=context) as url, serving_rpc(tls=(key.read_bytes(), certificate.read_bytes())) as address:
        assert main(["--url", url, "--timeout", "5"]) == 2, "who is not trusted is not asked"
        assert "certificate" in capsys.readouterr().err
        checks = ["--only", "infer.one_row", "--only", "grpc.infer_raw", "--only", "http.connection_close"]
        assert main(["--url", url, "--grpc", address, "--ca", str(certificate), "--json", *checks]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["status"] for one in results] == ["pass"] * 3


def test_a_seed_makes_the_same_damaged_requests_whatever_was_made_before() -> None:
    question = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}], "id": "a"}
    body = json.dumps(question).encode()

    def make(seed: int) -> list[object]:
        random = np.random.default_rng(seed)
        return [(json.dumps(mutated(question, random)), damaged(body, random)) for _ in range(1000)]

    first = make(3)
    assert make(3) == first
    assert make(4) != first
    assert len(set(first)) > 900


def test_an_unknown_group_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--url", "http://127.0.0.1:1", "--only", "inferr"])
    assert "inferr: no such group or check; groups: health, server, model, infer" in capsys.readouterr().err


def test_every_check_says_what_it_expects_and_where_that_is_written() -> None:
    checks = all_checks()
    assert all(one.expected and one.section for one in checks)
    assert len(groups_of(checks)) == 16


def test_a_report_holds_whatever_a_server_says(tmp_path: Path) -> None:
    odd = Result("infer", "id", "fail", "a\0b", "c", "d", "\x1b[31m \ud800 <&> \ufffe", 0.1)
    write_junit(tmp_path / "found.xml", [odd], url="http://localhost")
    failure = ElementTree.parse(tmp_path / "found.xml").getroot().find(".//failure")
    assert failure is not None
    assert failure.get("message") == "?[31m ? <&> ?"


def test_our_messages_have_the_numbers_and_types_of_triton_s() -> None:
    triton = pytest.importorskip("tritonclient.grpc").service_pb2.DESCRIPTOR.message_types_by_name
    ours = read_proto(PROTO.read_text()).message_type
    assert len(ours) > 20
    for one in ours:
        theirs = {field.name: (field.number, field.type) for field in triton[one.name].fields}
        # A map is a list of messages of the same form, under another name; "properties" is newer than Triton.
        mine = {field.name: (field.number, field.type) for field in one.field if field.name != "properties"}
        assert mine.items() <= theirs.items(), one.name
        for inner in one.nested_type:
            if inner.name in triton[one.name].nested_types_by_name:
                fields = triton[one.name].nested_types_by_name[inner.name].fields
                assert {f.name: f.number for f in inner.field} == {f.name: f.number for f in fields}, inner.name


def test_messages_of_triton_s_classes_are_read_by_ours() -> None:
    triton = pytest.importorskip("tritonclient.grpc").service_pb2
    theirs = triton.ModelInferRequest(model_name="m", id="1", raw_input_contents=[b"ab"])
    theirs.parameters["a"].int64_param = -3
    theirs.inputs.add(name="x", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([1, 2])
    ours = message_class("ModelInferRequest").FromString(theirs.SerializeToString())
    assert (ours.model_name, ours.id, list(ours.raw_input_contents)) == ("m", "1", [b"ab"])
    assert ours.parameters["a"].int64_param == -3
    assert list(ours.inputs[0].contents.fp32_contents) == [1, 2]
    assert ours.SerializeToString() == theirs.SerializeToString()


def test_a_proto_that_is_not_understood_is_refused() -> None:
    with pytest.raises(ValueError, match="'enum' is not read here"):
        read_proto('syntax = "proto3"; package a; enum B { C = 0; }')
    with pytest.raises(ValueError, match="no message 'Nowhere'"):
        read_proto('syntax = "proto3"; package a; message B { Nowhere c = 1; }')
