"""gRPC as tritonclient and grpcio speak it, against a server of the small bundle in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from mlaas4hep.serve.asking import Headers, Refusal
from mlaas4hep.serve.hooks import Hooks, Seen
from mlaas4hep.serve.oip import SERVICE, message
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService
from mlaas4hep.serve.sockets import bind
from tests.small_bundle import write_small_bundle


class Place:
    """Where the server is, what it was asked, and whom it lets in."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.asked: list[tuple[str, str]] = []
        self.told = threading.Event()
        self.port = 0

    def on_request(self, seen: Seen) -> None:
        self.seen.append(seen)
        self.told.set()

    def authorise(self, method: str, path: str, headers: Headers) -> Refusal | None:
        self.asked.append((method, path))
        return None if headers.get(b"authorization") != b"Bearer wrong" else Refusal(401, "this token is unknown")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    models = tmp_path_factory.mktemp("models")
    write_small_bundle(models)
    found, listening = Place(), bind("127.0.0.1", 0)
    found.port = listening.getsockname()[1]
    service = InferenceService(open_repository(models), version="9")
    with background(service, hooks=Hooks(found.on_request, found.authorise), grpc=listening):
        yield found


@pytest.fixture
def client(place: Place) -> Iterator[triton.InferenceServerClient]:
    place.seen.clear()
    place.asked.clear()
    place.told.clear()
    with triton.InferenceServerClient(f"127.0.0.1:{place.port}") as client:
        yield client


def tensors(rows: int = 2, *, seed: int = 0) -> list[triton.InferInput]:
    random = np.random.default_rng(seed)
    found = []
    for name, shape in (("event", (rows, 3)), ("jets", (rows, 3, 3))):
        found.append(triton.InferInput(name, list(shape), "FP32"))
        found[-1].set_data_from_numpy(random.normal(size=shape).astype(np.float32))
    return found


def refused(client: triton.InferenceServerClient, inputs: Any, **options: Any) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(options.pop("model", "tth"), inputs, **options)
    return str(caught.value.status()), caught.value.message()


def test_what_tritonclient_asks_about_the_server_and_its_models_is_answered(
    client: triton.InferenceServerClient,
) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tth", "1")
    server = client.get_server_metadata()
    assert (server.name, server.version) == ("mlaas4hep", "9")
    model = client.get_model_metadata("tth")
    assert [(one.name, one.datatype, list(one.shape)) for one in model.inputs] == [
        ("event", "FP32", [-1, 3]),
        ("jets", "FP32", [-1, 3, 3]),
    ]


def test_a_compressed_question_gets_the_bits_of_a_plain_one(client: triton.InferenceServerClient) -> None:
    plain = client.infer("tth", tensors(), request_id="7")
    assert plain.get_response().id == "7"
    for way in ("gzip", "deflate"):
        found = client.infer("tth", tensors(), compression_algorithm=way)
        assert found.as_numpy("scores").tobytes() == plain.as_numpy("scores").tobytes()


def test_tensors_and_answers_larger_than_the_windows_pass(client: triton.InferenceServerClient) -> None:
    rows = 60_000  # 2.9 MB of question and 240 kB of answer, and a window of gRPC's clients has 64 KiB
    found = client.infer("tth", tensors(rows)).as_numpy("scores")
    assert found.shape == (rows, 1)
    last = tensors(rows)
    for one in last:
        array = np.frombuffer(one._get_content(), np.float32).reshape(one.shape())[-5:]
        one.set_shape(list(array.shape))
        one.set_data_from_numpy(array)
    assert client.infer("tth", last).as_numpy("scores").tobytes() == found[-5:].tobytes()


def test_statuses_say_whose_fault_it_is(client: triton.InferenceServerClient) -> None:
    assert refused(client, tensors(), model="nobody") == (
        "StatusCode.NOT_FOUND",
        "no model 'nobody' is served here; known: tth",
    )
    status, text = refused(client, tensors(), parameters={"model_sha256": "ab" * 32})
    assert (status, "abababababab... is asked for" in text) == ("StatusCode.INVALID_ARGUMENT", True)
    status, text = refused(client, tensors()[:1])
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "input 'jets'" in text
    assert "missing" in text
    with pytest.raises(InferenceServerException, match="start the server with --control") as caught:
        client.load_model("tth")
    assert caught.value.status() == "StatusCode.PERMISSION_DENIED"


def test_who_is_not_let_in_is_told_so_and_seen(client: triton.InferenceServerClient, place: Place) -> None:
    status, text = refused(client, tensors(), headers={"authorization": "Bearer wrong"})
    assert (status, text) == ("StatusCode.UNAUTHENTICATED", "this token is unknown")
    assert place.asked == [("POST", "/v2/models/tth/infer")]
    assert place.told.wait(5)
    assert [(one.status, one.path) for one in place.seen] == [(401, f"/{SERVICE}/ModelInfer")]


def test_hooks_see_what_was_asked(client: triton.InferenceServerClient, place: Place) -> None:
    client.infer("tth", tensors(3))
    assert place.told.wait(5)
    (seen,) = place.seen
    assert (seen.status, seen.rows, seen.client, seen.route) == (200, 3, "127.0.0.1", "grpc")
    assert seen.model is not None
    assert seen.model.name == "tth"
    assert seen.run_s > 0


def test_answers_on_one_connection_belong_to_their_questions(client: triton.InferenceServerClient) -> None:
    alone = [client.infer("tth", tensors(seed=seed)).as_numpy("scores").tobytes() for seed in range(20)]
    found: dict[int, bytes] = {}
    done = threading.Semaphore(0)

    def keep(seed: int) -> Any:
        def told(result: Any, error: Any) -> None:
            found[seed] = result.as_numpy("scores").tobytes()
            done.release()

        return told

    for seed in range(20):
        client.async_infer("tth", tensors(seed=seed), keep(seed))
    assert all(done.acquire(timeout=20) for _ in range(20))
    assert [found[seed] for seed in range(20)] == alone


def test_the_messages_are_those_of_tritonclient() -> None:
    ours = message("ModelInferRequest")(model_name="m", id="é", raw_input_contents=[b"\0\1"])
    ours.parameters["timeout"].int64_param = -3
    ours.inputs.add(name="x", datatype="INT8", shape=[1, -1]).contents.int_contents.extend([1, -2])
    theirs = triton.service_pb2.ModelInferRequest.FromString(ours.SerializeToString())
    assert str(theirs) == str(ours)
    for name in ("ModelStatisticsResponse", "RepositoryIndexResponse", "ModelMetadataResponse", "ServerReadyResponse"):
        fields = {one.name: one.number for one in message(name).DESCRIPTOR.fields}
        there = {one.name: one.number for one in getattr(triton.service_pb2, name).DESCRIPTOR.fields}
        assert there.items() <= fields.items()


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", 1),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", 6),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x01\x01\x05\x00\x00\x00\x01\xff", 9),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x01\x00\x00\x00\x00\x00\x05\x00", 1),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00", 1),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82" * 2, 1),
    ],
    ids=["no preface", "frame too large", "head that is none", "data of no stream", "window of 0", "no continuation"],
)
def test_a_connection_that_breaks_the_rules_is_told_which_and_ends(place: Place, sent: bytes, code: int) -> None:
    with socket.create_connection(("127.0.0.1", place.port), timeout=10) as connection:
        connection.sendall(sent)
        found = b""
        while part := connection.recv(65536):
            found += part
    at = found.index(b"\x07\x00\x00\x00\x00\x00") + 10  # type and place of a GOAWAY, then the last stream
    assert int.from_bytes(found[at : at + 4], "big") == code


def test_what_unpacks_to_more_than_may_be_is_refused(place: Place) -> None:
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{place.port}") as channel:
        ask = channel.unary_unary(f"/{SERVICE}/ModelInfer", request_serializer=lambda data: data)
        with pytest.raises(grpc.RpcError) as caught:
            ask(b"\x0a\x03tth" + bytes(65 << 20), compression=grpc.Compression.Gzip, timeout=30)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_question_whose_time_is_over_is_told_so(place: Place) -> None:
    import grpc

    question = message("ModelInferRequest")(model_name="tth")
    question.parameters["timeout"].int64_param = 1  # a microsecond
    for one in tensors(1):
        question.inputs.add(name=one.name(), datatype="FP32", shape=one.shape())
        question.raw_input_contents.append(one._get_content())
    with grpc.insecure_channel(f"127.0.0.1:{place.port}") as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{SERVICE}/ModelInfer")(question.SerializeToString(), timeout=20)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "cannot be there" in caught.value.details()
