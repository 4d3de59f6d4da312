"""Both clients against a server that misbehaves as it is told."""

from __future__ import annotations

import math
import os
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlaas4hep.client import Client, Limits, Tls
from mlaas4hep.client import attempts as attempts_module
from mlaas4hep.client import events as events_module
from mlaas4hep.errors import DataError, NotFoundError, RequestError, ServerError, UserError
from tests.blocking import Blocking
from tests.crooked_server import (
    HANG_UP,
    MODELS,
    PAUSE,
    SILENCE,
    Asked,
    busy,
    crooked,
    cut_off,
    echoed,
    predicted,
    reply,
)
from tests.servers import program


@pytest.fixture(params=[Client, Blocking], ids=["sync", "async"])
def make(request: pytest.FixtureRequest) -> Any:
    """One client or the other."""
    return request.param


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("BEARER_TOKEN", "BEARER_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: 999_999_999)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """The limits of every pause by chance, none of which is waited for."""
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return 0.0

    monkeypatch.setattr(attempts_module.random, "uniform", uniform)
    return drawn


def test_one_connection_serves_many_questions(make: Any) -> None:
    with crooked(MODELS) as server:
        with make(server.url) as client:
            assert [client.models() for _ in range(5)] == [["a"]] * 5
        assert server.connections == 1
        assert server.asked[0].headers["host"] == server.url.removeprefix("http://")


def test_a_busy_server_is_asked_again_after_pauses_by_chance_of_doubling_length(
    make: Any, pauses: list[tuple[float, float]]
) -> None:
    with (
        crooked(busy(), busy(), busy(), reply(429, {"error": "x"}), MODELS) as server,
        make(server.url, retries=4) as client,
    ):
        assert client.models() == ["a"]
    assert pauses == [(0.0, 0.05), (0.0, 0.1), (0.0, 0.2), (0.0, 0.4)]


def test_a_server_that_stays_busy_is_an_error_with_its_words(make: Any, pauses: list[Any]) -> None:
    with (
        crooked(busy()) as server,
        make(server.url, retries=1) as client,
        pytest.raises(ServerError, match="503: in its own words"),
    ):
        client.models()
    assert len(server.asked) == 2


def test_the_time_that_a_server_asks_for_is_waited(
    make: Any, pauses: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts_module, "retry_after_s", lambda told: {"7": 0.05}[told])
    waited = attempts_module.time.monotonic()
    with crooked(busy("7"), MODELS) as server, make(server.url) as client:
        client.models()
    assert attempts_module.time.monotonic() - waited >= 0.05


def test_what_a_server_asks_to_wait_beyond_the_deadline_is_not_waited_but_told(make: Any) -> None:
    with (
        crooked(busy("3600"), MODELS) as server,
        make(server.url, timeout_s=20) as client,
        pytest.raises(ServerError, match="in its own words; it asks to be left alone for 3600 s"),
    ):
        client.models()
    assert len(server.asked) == 1


def test_health_is_told_as_it_is_and_not_asked_again(make: Any) -> None:
    with crooked(busy()) as server, make(server.url, retries=5) as client:
        assert not client.ready()
        assert not client.ready("m")
        assert not client.live()
    assert [one.path for one in server.asked] == ["/v2/health/ready", "/v2/models/m/ready", "/v2/health/live"]


def test_a_kept_connection_that_the_server_closed_is_opened_again_without_using_up_a_retry(make: Any) -> None:
    with crooked(MODELS, HANG_UP, MODELS) as server, make(server.url, retries=0) as client:
        client.models()
        assert client.models() == ["a"]
    assert server.connections == 2


def test_what_came_without_being_asked_for_is_no_answer(make: Any) -> None:
    leave = reply(408, {"error": "too late"}, connection="close")  # as proxies take it of an idle connection
    with crooked(MODELS + PAUSE + leave, MODELS) as server, make(server.url, retries=0) as client:
        assert client.models() == ["a"]
        time.sleep(0.1)
        assert client.models() == ["a"]
    assert server.connections == 2


def test_an_answer_that_trickles_is_waited_for(make: Any) -> None:
    trickling = PAUSE.join([MODELS[:10], MODELS[10:50], MODELS[50:]])
    with crooked(trickling) as server, make(server.url, retries=0) as client:
        assert client.models() == ["a"]


@pytest.mark.parametrize("broken", [HANG_UP, cut_off(MODELS, missing=3), b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200" + HANG_UP])
def test_an_answer_that_breaks_off_is_asked_for_again_and_no_more_often_than_allowed(
    make: Any, broken: bytes, pauses: list[Any]
) -> None:
    with crooked(broken, broken, MODELS) as server, make(server.url, retries=2) as client:
        assert client.models() == ["a"]
    with (
        crooked(broken) as server,
        make(server.url, retries=1) as client,
        pytest.raises(ServerError, match="after 2 attempts"),
    ):
        client.models()
    assert len(server.asked) == 2


def test_what_has_an_effect_is_not_asked_again_where_it_may_have_been_done(make: Any, pauses: list[Any]) -> None:
    with crooked(MODELS, HANG_UP, reply(200, b"{}")) as server, make(server.url, retries=5) as client:
        client.models()
        with pytest.raises(ServerError, match="not asked again, since it may have been done"):
            client.load("m")
        assert len(server.asked) == 2
    with crooked(busy(), reply(200, b"{}")) as server, make(server.url, retries=5) as client:
        client.load("m")  # who says to be busy has not done it
    assert [one.path for one in server.asked] == ["/v2/repository/models/m/load"] * 2
    with crooked(reply(502, b"<html>"), reply(200, b"{}")) as server, make(server.url, retries=5) as client:
        with pytest.raises(ServerError, match="502"):
            client.unload("m")
        assert len(server.asked) == 1


def test_the_answer_to_another_question_is_never_taken(make: Any, pauses: list[Any]) -> None:
    wrong = lambda asked: echoed(asked, id="another")  # noqa: E731
    x = np.arange(3, dtype=np.float32)
    with crooked(wrong, echoed) as server, make(server.url) as client:
        assert client.infer("m", {"x": x})["x"].tobytes() == x.tobytes()
    assert server.connections == 2, "the connection was not trusted again"
    with (
        crooked(wrong) as server,
        make(server.url, retries=0) as client,
        pytest.raises(ServerError, match="that of another question"),
    ):
        client.infer("m", {"x": x})


def test_a_silent_server_is_given_up_at_the_deadline_and_is_told_of_it(make: Any) -> None:
    with (
        crooked(SILENCE) as server,
        make(server.url, timeout_s=0.1, retries=5) as client,
        pytest.raises(ServerError, match=r"no answer from http://127\.0\.0\.1:\d+: no answer in time"),
    ):
        client.infer("m", {"x": np.zeros(1, np.float32)})
    (asked,) = server.asked
    assert asked.json["parameters"]["timeout"] == 100_000
    assert 0 < int(asked.headers["x-request-timeout-ms"]) <= 100


def test_another_server_is_asked_where_one_is_dead_silent_or_busy(make: Any) -> None:
    for bad in (SILENCE, HANG_UP, busy("3600"), reply(502, b"<html>")):
        with crooked(bad) as first, crooked(MODELS) as second:
            with make([first.url, second.url], timeout_s=0.4) as client:
                assert [client.models() for _ in range(3)] == [["a"]] * 3
            assert len(first.asked) == 1, "it is left out for a while"
    with crooked(MODELS) as second, make(["http://127.0.0.1:1", second.url]) as client:
        assert client.models() == ["a"]


def test_where_every_server_is_dead_the_last_reason_is_told(make: Any, pauses: list[Any]) -> None:
    with (
        crooked(HANG_UP) as first,
        crooked(HANG_UP) as second,
        make([first.url, second.url], retries=3) as client,
        pytest.raises(ServerError, match="after 4 attempts"),
    ):
        client.models()
    assert len(first.asked) + len(second.asked) == 4


@pytest.mark.parametrize(
    ("status", "kind"), [(400, RequestError), (413, RequestError), (404, NotFoundError), (500, ServerError)]
)
def test_a_status_says_whose_fault_it_is_and_is_not_tried_again(make: Any, status: int, kind: type[Exception]) -> None:
    with (
        crooked(reply(status, {"error": "in its own words"})) as server,
        make(server.url) as client,
        pytest.raises(kind, match="in its own words"),
    ):
        client.models()
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [200, 302, 404, 400, 500])
@pytest.mark.parametrize("body", [b"<!DOCTYPE html><html>", b"", b"[1, 2]", b'{"detail": "not found"}', b"\xff\xfe"])
def test_another_program_at_the_address_is_told_as_such(status: int, body: bytes) -> None:
    with (
        crooked(reply(status, body)) as server,
        Client(server.url) as client,
        pytest.raises(ServerError, match="is that 'mlaas4hep serve'"),
    ):
        client.models()


def test_names_are_quoted_and_a_path_in_the_url_is_kept(make: Any) -> None:
    with crooked(reply(200, {})) as server, make(f"{server.url}/base/") as client:
        client.metadata("a/b c", "1/2")
    assert server.asked[0].path == "/base/v2/models/a%2Fb%20c/versions/1%2F2"


def test_nobody_there_is_said_with_the_address(make: Any) -> None:
    with (
        make("http://127.0.0.1:1", retries=0) as client,
        pytest.raises(ServerError, match=r"127\.0\.0\.1:1: .*(refused|111|Connect)"),
    ):
        client.live()


@pytest.mark.parametrize("timeout_s", [float("nan"), float("inf"), 0.0, -1.0, 1e300, True, "5"])
def test_a_time_that_nobody_can_wait_is_refused(timeout_s: Any) -> None:
    with pytest.raises(UserError, match="timeout_s must be"):
        Client("http://localhost:8000", timeout_s=timeout_s)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_a_question_beyond_the_limits_goes_in_parts_and_its_answers_are_joined_in_order(
    make: Any, binary: bool
) -> None:
    x, names = np.arange(20, dtype=np.float64).reshape(10, 2), np.array([f"e{i}" for i in range(10)], object)
    for limits in (Limits(rows=4), Limits(bytes=100)):
        with crooked(echoed) as server, make(server.url, binary=binary, limits=limits) as client:
            found = client.infer("m", {"x": x, "names": names})
        assert found["x"].tolist() == x.tolist()
        assert found["names"].tolist() == [one.encode() for one in names]
        assert len(server.asked) == 3
    with crooked(predicted) as server, make(server.url, limits=Limits(rows=3)) as client:
        told: list[int] = []
        events = [{"x": float(i)} if i % 4 else {} for i in range(8)]
        found = client.predict("m", events, progress=told.append)
        assert found == [{"s": float(i)} if i % 4 else None for i in range(8)]
        assert (len(server.asked), sum(told)) == (3, 8)


def test_all_parts_of_a_question_are_asked_of_the_version_that_answered_the_first(make: Any) -> None:
    """Which other servers may not tell."""
    arrow = pytest.importorskip("pyarrow")

    def tensors(asked: Asked) -> bytes:
        return reply(200, {"model_version": "7", "outputs": asked.json["inputs"]})

    def events(asked: Asked) -> bytes:
        scores = [{"s": 0.5} for _ in asked.json["instances"]]
        return reply(200, {"predictions": scores, "model_version": "7"})

    def table(asked: Asked) -> bytes:
        count = arrow.ipc.open_stream(asked.body).read_all().num_rows
        found = arrow.table({"s": arrow.array([0.5] * count, arrow.float32())})
        sink = arrow.BufferOutputStream()
        with arrow.ipc.new_stream(sink, found.replace_schema_metadata({"model_version": "7"}).schema) as writer:
            writer.write_table(found.replace_schema_metadata({"model_version": "7"}))
        return reply(200, sink.getvalue().to_pybytes(), content_type=asked.headers["content-type"])

    x = np.arange(5, dtype=np.float32)
    for answer, ask, place, end in (
        (tensors, lambda client: client.infer("m", {"x": x}, version="stable"), "/v2/models/m", "/infer"),
        (events, lambda client: client.predict("m", [{"x": 1.0}] * 5, version="stable"), "/v1/models/m", ":predict"),
        (table, lambda client: client.predict_table("m", {"x": x}, version="stable"), "/v1/models/m", ":predict"),
    ):
        with crooked(answer) as server, make(server.url, binary=False, limits=Limits(rows=2)) as client:
            ask(client)
        paths = [one.path for one in server.asked]
        assert paths == [f"{place}/versions/{version}{end}" for version in ("stable", "7", "7")]


def test_a_server_that_takes_less_than_thought_is_asked_for_half_as_much(make: Any) -> None:
    def small(asked: Asked) -> bytes:
        rows = asked.json["inputs"][0]["shape"][0]
        return reply(413, {"error": "too large"}) if rows > 3 else echoed(asked)

    x = np.arange(22, dtype=np.int16)
    with crooked(small) as server, make(server.url, limits=Limits(rows=11)) as client:
        assert client.infer("m", {"x": x})["x"].tolist() == x.tolist()
    with (
        crooked(reply(413, {"error": "too large"})) as server,
        make(server.url) as client,
        pytest.raises(RequestError, match="too large"),
    ):
        client.infer("m", {"x": x})


def test_inputs_without_rows_in_common_go_as_they_are(make: Any) -> None:
    with crooked(echoed) as server, make(server.url, limits=Limits(rows=1)) as client:
        found = client.infer("m", {"x": np.zeros(3), "n": np.array(5)}, version="2", outputs=["x"])
    assert found["n"].tolist() == 5
    assert server.asked[0].path == "/v2/models/m/versions/2/infer"


def test_an_answer_for_fewer_events_than_asked_is_none(make: Any) -> None:
    with (
        crooked(reply(200, {"predictions": [None]})) as server,
        make(server.url) as client,
        pytest.raises(ServerError, match="answered 1 of 2 events"),
    ):
        client.predict("m", [{}, {}])


class Series:
    """As pandas has them."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)
        self.dtype = self.values.dtype

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, part: slice) -> Series:
        return Series(self.values[part])

    def to_numpy(self) -> Any:
        return self.values

    def to_list(self) -> Any:
        return self.values.tolist()


def in_arrow(asked: Asked, heard: list[dict[str, Any]]) -> bytes:
    """As a server that reads Arrow: the score is x, an infinite one is not selected."""
    arrow = pytest.importorskip("pyarrow")
    events = arrow.ipc.open_stream(asked.body).read_all().to_pylist()
    heard.extend(events)
    scores = [None if math.isinf(one["x"]) else one["x"] for one in events]
    table, sink = arrow.table({"s": arrow.array(scores, arrow.float32())}), arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return reply(200, sink.getvalue().to_pybytes(), content_type=asked.headers["content-type"])


@pytest.mark.parametrize("reads_arrow", [True, False])
def test_tables_of_every_kind_are_asked_with(make: Any, monkeypatch: pytest.MonkeyPatch, reads_arrow: bool) -> None:
    awkward, arrow = pytest.importorskip("awkward"), pytest.importorskip("pyarrow")
    monkeypatch.setattr(events_module, "_SLICE", 2)
    x = [1.5, 2.5, float("inf")]
    tables = [
        {"x": np.array(x), "y": [[1], [], [2, 3]]},
        np.array([(value, index) for index, value in enumerate(x)], [("x", "f8"), ("y", "i4")]),
        awkward.Array([{"x": value, "y": [1] * index} for index, value in enumerate(x)]),
        arrow.table({"x": x, "y": [[1], [], [2, None]]}),
        {"x": Series(x), "y": Series([True, False, True])},
        {"x": np.array(x, ">f4"), "y": np.array([1, 2, 3], np.uint8)},
        {"x": x, "y": [[], [], []]},  # of which Arrow does not know what they are lists of
    ]
    heard: list[dict[str, Any]] = []
    kinds = []

    def scored(asked: Asked) -> bytes:
        kinds.append(asked.headers["content-type"])
        if not kinds[-1].endswith("json"):
            return in_arrow(asked, heard) if reads_arrow else reply(415, {"error": "not read here"})
        events = asked.json["instances"]
        heard.extend(events)
        answers = [None if one["x"] == "Infinity" else {"s": one["x"]} for one in events]
        return reply(200, {"predictions": answers})

    with crooked(scored) as server, make(server.url, limits=Limits(rows=2)) as client:
        for table in tables:
            found = client.predict_table("m", table)
            assert found.selected.tolist() == [True, True, False]
            assert found.scores["s"].tolist()[:2] == x[:2]
            assert np.isnan(found.scores["s"][2])
    wanted = [[1], [], [2, 3], 0, 1, 2, [], [1], [1, 1], [1], [], [2, None], True, False, True, 1, 2, 3, [], [], []]
    assert [one["y"] for one in heard] == wanted
    # A server that does not read Arrow is asked with it once.
    assert sum(not one.endswith("json") for one in kinds) == (12 if reads_arrow else 1)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (3, "asked for a mapping of columns, .*; found int"),
        (np.zeros(3), "found ndarray"),
        ({}, "equally long; found none"),
        ({"a": [1], "b": [1, 2]}, "found a 1, b 2"),
        ({"a": [object()]}, "holds what JSON cannot"),
        ({"a": "text"}, "column 'a': asked for an array or a list, found str"),
    ],
)
def test_what_is_no_table_is_refused(table: Any, said: str) -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(RequestError, match=said):
        client.predict_table("m", table)


def test_a_token_that_was_given_is_sent_and_never_where_others_read_it(make: Any, tmp_path: Path) -> None:
    with crooked(MODELS) as server, make(server.url, token="abc.def") as client:
        client.models()
    assert server.asked[0].headers["authorization"] == "Bearer abc.def"
    with pytest.raises(UserError, match="not sent to http://gpu7: others could read it"):
        make("http://gpu7", token="abc")
    with pytest.raises(DataError, match="holds no bearer token"):
        make("https://gpu7", token="a b")
    with pytest.raises(DataError, match="cannot be read"):
        make("https://gpu7", token_file=tmp_path / "none")


def test_a_token_that_lies_there_is_shown_to_who_asks_for_one_alone(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEARER_TOKEN", "found")
    unknown = reply(401, {"error": "who are you"})
    with crooked(MODELS, unknown, MODELS) as server, make(server.url) as client:
        for _ in range(3):
            assert client.models() == ["a"]
    assert [one.headers.get("authorization") for one in server.asked] == [None, None, "Bearer found", "Bearer found"]
    with (
        crooked(unknown) as server,
        make(server.url) as client,
        pytest.raises(RequestError, match="401: who are you; the token that was shown is of no use") as caught,
    ):
        client.models()
    assert "found" not in str(caught.value)
    monkeypatch.delenv("BEARER_TOKEN")
    with crooked(unknown) as server, make(server.url) as client, pytest.raises(RequestError, match="set BEARER_TOKEN"):
        client.models()


def test_a_token_file_is_read_again_when_its_token_is_refused(make: Any, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old\n")

    def judge(asked: Asked) -> bytes:
        return MODELS if asked.headers["authorization"] == "Bearer new" else reply(401, {"error": "old"})

    with crooked(judge) as server, make(server.url, token_file=file) as client:
        file.write_text("new\n")
        assert client.models() == ["a"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    extra = ["-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subprocess.run([program("openssl"), *words.split(), *extra], check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def test_tls_is_spoken_with_servers_that_somebody_vouches_for(make: Any, certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    x = np.arange(100_000, dtype=np.float32)
    with crooked(echoed, context=context) as server:
        with make(server.url, tls=Tls(ca=certificate[0]), token="abc") as client:
            assert client.infer("m", {"x": x})["x"].tobytes() == x.tobytes()
        assert server.asked[0].headers["authorization"] == "Bearer abc"
        with make(server.url, tls=Tls(verify=False)) as client:
            assert client.infer("m", {"x": x[:5]})["x"].tolist() == [0, 1, 2, 3, 4]
        with make(server.url) as client, pytest.raises(ServerError, match="certificate is not trusted: self"):
            client.infer("m", {"x": x})
        with pytest.raises(UserError, match=r"authorities in .*key\.pem: cannot be used"):
            make(server.url, tls=Tls(ca=certificate[1]))


def test_our_certificate_is_shown_to_who_asks_for_one(make: Any, certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.load_verify_locations(certificate[0])
    context.verify_mode = ssl.CERT_REQUIRED
    with crooked(MODELS, context=context) as server:
        with make(server.url, tls=Tls(ca=certificate[0], certificate=certificate[0], key=certificate[1])) as client:
            assert client.models() == ["a"]
        with make(server.url, tls=Tls(ca=certificate[0]), retries=0) as client, pytest.raises(ServerError):
            client.models()
    with pytest.raises(UserError, match=r"certificate .* cannot be used"):
        make("https://gpu7", tls=Tls(certificate=certificate[1]))


def test_what_the_repository_holds_is_asked(make: Any) -> None:
    with crooked(reply(200, [{"name": "m", "state": "READY"}])) as server, make(server.url) as client:
        assert client.index() == [{"name": "m", "state": "READY"}]
    assert (server.asked[0].method, server.asked[0].path) == ("POST", "/v2/repository/index")


def test_a_load_may_bring_a_config(make: Any) -> None:
    with crooked(reply(200, {})) as server, make(server.url) as client:
        client.load("m", config={"max_batch_size": 16})
    assert server.asked[0].json == {"parameters": {"config": '{"max_batch_size":16}'}}


def test_large_tensors_go_and_come_whole(make: Any) -> None:
    x = np.random.default_rng(1).random((50_000, 20))
    with crooked(echoed) as server, make(server.url) as client:
        assert client.infer("m", {"x": x})["x"].tobytes() == x.tobytes()
    assert len(server.asked) == 1
