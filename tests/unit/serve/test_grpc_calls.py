"""The course of calls over gRPC: waiting, given up, refused, drained, encrypted; of a model that a test holds up."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from mlaas4hep.errors import BundleError
from mlaas4hep.serve import server as serving
from mlaas4hep.serve.asking import INLINE_BODY_BYTES, Headers, Refusal
from mlaas4hep.serve.batcher import QueueLimits
from mlaas4hep.serve.frames import field, frame
from mlaas4hep.serve.hooks import Hooks, Seen
from mlaas4hep.serve.limits import ClientLimits
from mlaas4hep.serve.model import ServedModel, Tensors, TensorSpec
from mlaas4hep.serve.oip import HEALTH, SERVICE, message
from mlaas4hep.serve.operation import Operation, Options
from mlaas4hep.serve.pressure import Pressure
from mlaas4hep.serve.repository import ModelRepository
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService, Limits
from mlaas4hep.serve.sockets import bind
from mlaas4hep.serve.tls import TlsFiles
from tests.servers import program

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)


class Held:
    """A model whose runs last until a test says so."""

    def __init__(self, *, open: bool = False) -> None:
        self.going, self.go_on = threading.Event(), threading.Event()
        self.runs: list[int] = []
        self.call_s = 1e-6 if open else 1.0
        if open:
            self.go_on.set()

    def model(self, name: str = "m") -> ServedModel:
        ends = [(TensorSpec(one, "FP32", (2,)),) for one in ("x", "y")]
        return ServedModel(name, "1", ends[0], ends[1], None, True, 1 << 20, self.call_s, 0.0, self._run)

    def _run(self, tensors: Tensors) -> dict[str, Any]:
        self.runs.append(len(tensors["x"]))
        self.going.set()
        assert self.go_on.wait(20)
        return {"y": tensors["x"] * 2}


@contextmanager
def served(service: InferenceService, **how: Any) -> Iterator[str]:
    listening = bind("127.0.0.1", 0)
    with background(service, grpc=listening, **how):
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def held() -> Held:
    return Held()


def question(rows: int = 1, *, name: str = "m", value: float = 1.0) -> bytes:
    data = np.full((rows, 2), value, np.float32)
    request = message("ModelInferRequest")(model_name=name, raw_input_contents=[data.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=data.shape)
    found: bytes = request.SerializeToString()
    return found


def ask(channel: grpc.Channel, method: str = "ModelInfer", data: bytes = b"", **how: Any) -> Any:
    service = HEALTH if method == "Check" else SERVICE
    return channel.unary_unary(f"/{service}/{method}")(data, **{"timeout": 20, **how})


def begin(channel: grpc.Channel, data: bytes, **how: Any) -> Any:
    return channel.unary_unary(f"/{SERVICE}/ModelInfer").future(data, **{"timeout": 20, **how})


def scores(answer: bytes) -> Any:
    (found,) = message("ModelInferResponse").FromString(answer).raw_output_contents
    return np.frombuffer(found, np.float32)


def refusal(work: Callable[[], Any]) -> tuple[str, str, dict[str, str]]:
    with pytest.raises(grpc.RpcError) as caught:
        work()
    error: Any = caught.value
    return error.code().name, error.details(), dict(error.trailing_metadata() or ())


def until(is_so: Callable[[], bool]) -> None:
    for _ in range(400):
        if is_so():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it did not come to that")


def test_who_finds_the_queue_full_is_told_when_to_come_again(held: Held) -> None:
    limits = Limits(queue=QueueLimits(rows=2, wait_s=1e9))
    service = InferenceService(ModelRepository([held.model()]), limits=limits)
    with served(service) as address, grpc.insecure_channel(address) as channel:
        first = begin(channel, question())
        assert held.going.wait(10)
        code, text, told = refusal(lambda: ask(channel, data=question(3)))
        assert (code, "rows wait already" in text) == ("UNAVAILABLE", True)
        assert int(told["grpc-retry-pushback-ms"]) > 0
        held.go_on.set()
        assert scores(first.result()).tolist() == [2, 2]


def test_a_client_has_its_share_and_a_server_behind_its_time_refuses(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = InferenceService(ModelRepository([held.model()]), limits=Limits(client=ClientLimits(questions=1)))
    with served(service) as address, grpc.insecure_channel(address) as channel:
        first = begin(channel, question())
        assert held.going.wait(10)
        code, text, _ = refusal(lambda: ask(channel, data=question()))
        assert (code, "1 questions of this client wait" in text) == ("RESOURCE_EXHAUSTED", True)
        assert ask(channel, "ServerLive")
        held.go_on.set()
        first.result()
        assert scores(ask(channel, data=question())).tolist() == [2, 2], "what was answered counts no more"
        monkeypatch.setattr(Pressure, "too_much", lambda self, now_s: True)
        code, text, told = refusal(lambda: ask(channel, data=question()))
        assert (code, "within 10 s" in text) == ("UNAVAILABLE", True)
        assert int(told["grpc-retry-pushback-ms"]) == 1000
        assert ask(channel, "ServerLive")


def test_a_deadline_that_cannot_be_met_is_refused_before_anything_runs(held: Held) -> None:
    with (
        served(InferenceService(ModelRepository([held.model()]))) as address,
        grpc.insecure_channel(address) as channel,
    ):
        first = begin(channel, question())
        assert held.going.wait(10)
        code, text, _ = refusal(lambda: ask(channel, data=question(), timeout=0.2))
        assert code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        assert text == "Deadline Exceeded" or "cannot be there within" in text
        held.go_on.set()
        first.result()
    assert held.runs == [1]


def test_a_call_that_is_given_up_gives_its_place_back(held: Held) -> None:
    seen: list[Seen] = []
    service = InferenceService(ModelRepository([held.model()]), limits=Limits(queue=QueueLimits(wait_s=1e9)))
    with served(service, hooks=Hooks(on_request=seen.append)) as address, grpc.insecure_channel(address) as channel:
        first = begin(channel, question())
        assert held.going.wait(10)
        second = begin(channel, question(5))
        until(lambda: service.waiting() == {"m/1": 1})
        second.cancel()
        until(lambda: any(one.status == 499 for one in seen))
        third = begin(channel, question(2))
        until(lambda: service.waiting() == {"m/1": 2})
        held.go_on.set()
        assert len(scores(first.result())) == 2
        assert len(scores(third.result())) == 4
    assert held.runs == [1, 2]


def test_an_orderly_end_answers_what_was_accepted(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[Any] = []

    class Kept(serving._Server):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            running.append(self)

    monkeypatch.setattr(serving, "_Server", Kept)
    service = InferenceService(ModelRepository([held.model()]))
    with served(service) as address, grpc.insecure_channel(address) as channel:
        first = begin(channel, question())
        assert held.going.wait(10)
        running[-1].should_exit = True
        until(lambda: not listens(address))
        held.go_on.set()
        assert scores(first.result()).tolist() == [2, 2]


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def test_a_long_message_is_read_only_where_its_sender_may_ask() -> None:
    asked: list[str] = []

    def authorise(method: str, path: str, headers: Headers) -> Any:
        asked.append(path)
        if headers.get(b"later"):
            return later
        return None if b"token" in headers else Refusal(401, "who are you?")

    async def later() -> Refusal | None:
        await asyncio.sleep(0)
        return None

    rows = INLINE_BODY_BYTES // 8 + 1
    service = InferenceService(ModelRepository([Held(open=True).model()]))
    with served(service, hooks=Hooks(authorise=authorise)) as address, grpc.insecure_channel(address) as channel:
        good = question(rows)
        broken = good[:-1] + b"\xff" + b"\xff" * 20
        for data in (good, broken):
            assert refusal(lambda data=data: ask(channel, data=data))[0] == "UNAUTHENTICATED"  # type: ignore[misc]
        for way in ("token", "later"):
            with_leave = [(way, "1")]
            assert len(scores(ask(channel, data=good, metadata=with_leave))) == 2 * rows
            found = scores(ask(channel, data=good, metadata=with_leave, compression=grpc.Compression.Gzip))
            assert len(found) == 2 * rows
            assert refusal(lambda: ask(channel, data=broken, metadata=with_leave))[0] == "INVALID_ARGUMENT"  # noqa: B023
        # The name that was asked for leave is the one that is answered for.
        twice = good + message("ModelInferRequest")(model_name="other").SerializeToString()
        code, text, _ = refusal(lambda: ask(channel, data=twice, metadata=[("token", "1")]))
        assert (code, "first field of a long message" in text) == ("INVALID_ARGUMENT", True)
    assert set(asked) == {"/v2/models/m/infer"}


def test_health_is_told_in_the_words_of_grpc() -> None:
    service = InferenceService(ModelRepository([Held().model("m")]))
    paths: list[str] = []

    def authorise(method: str, path: str, headers: Headers) -> None:
        paths.append(path)

    def status(name: str) -> int:
        data = message("HealthCheckRequest")(service=name).SerializeToString()
        return int(message("HealthCheckResponse").FromString(ask(channel, "Check", data)).status)

    with served(service, hooks=Hooks(authorise=authorise)) as address, grpc.insecure_channel(address) as channel:
        assert [status(name) for name in ("", SERVICE, "m")] == [1, 1, 1]
        assert refusal(lambda: status("nobody"))[0] == "NOT_FOUND"
        service.draining = True
        assert status("") == 2
    # Who may not see models may not find out their names here either.
    assert paths == ["/v2/health/ready", "/v2/health/ready", "/v2/models/m", "/v2/models/nobody", "/v2/health/ready"]


def test_a_model_that_sleeps_is_waited_for_and_one_that_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    for name in ("m", "broken"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.onnx").touch()
    gate = threading.Event()

    def load(folder: Path) -> ServedModel:
        assert gate.wait(20)
        if folder.parent.name == "broken":
            raise BundleError("it is broken")
        return Held(open=True).model()

    repository = ModelRepository(path=tmp_path, load=load, lazy=True)
    repository.refresh()
    with served(InferenceService(repository)) as address, grpc.insecure_channel(address) as channel:
        waiting = begin(channel, question())
        broken = begin(channel, question(name="broken"))
        metadata = message("ModelMetadataRequest")(name="m").SerializeToString()
        described = channel.unary_unary(f"/{SERVICE}/ModelMetadata").future(metadata, timeout=20)
        assert message("ServerLiveResponse").FromString(ask(channel, "ServerLive")).live
        gate.set()
        assert scores(waiting.result()).tolist() == [2, 2]
        assert message("ModelMetadataResponse").FromString(described.result()).inputs[0].name == "x"
        code, text, _ = refusal(broken.result)
        assert (code, "it is broken" in text) == ("NOT_FOUND", True)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    folder = tmp_path_factory.mktemp("tls")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    extra = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subprocess.run([program("openssl"), *words.split(), *extra], check=True, capture_output=True)
    return TlsFiles(folder / "cert.pem", folder / "key.pem")


def test_it_is_encrypted_where_http_is(certificate: TlsFiles) -> None:
    service = InferenceService(ModelRepository([Held(open=True).model()]))
    operation = Operation(service, Options(tls=certificate))
    credentials = grpc.ssl_channel_credentials(certificate.certificate.read_bytes())
    with served(service, operation=operation) as address:
        with grpc.secure_channel(address, credentials) as channel:  # which insists on h2 over ALPN
            assert scores(ask(channel, data=question())).tolist() == [2, 2]
            assert len(scores(ask(channel, data=question(50_000)))) == 100_000
        with grpc.insecure_channel(address) as channel:
            assert refusal(lambda: ask(channel, data=question(), timeout=5))[0] == "UNAVAILABLE"


def head(path: bytes, *more: tuple[bytes, bytes]) -> bytes:
    pairs = [(b":method", b"POST"), (b":path", path), (b":scheme", b"http"), (b":authority", b"x"),
             (b"content-type", b"application/grpc"), (b"te", b"trailers"), *more]  # fmt: skip
    return b"".join(field(name, value) for name, value in pairs)


@contextmanager
def connected(address: str) -> Iterator[socket.socket]:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as raw:
        raw.sendall(PREFACE)
        yield raw


def read_until(raw: socket.socket, *wanted: bytes) -> bytes:
    found = b""
    while not all(one in found for one in wanted):
        part = raw.recv(1 << 16)
        assert part, found
        found += part
    return found


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(InferenceService(ModelRepository([Held(open=True).model()]))) as address:
        yield address


def test_an_encoding_that_is_not_read_is_refused_with_those_that_are(address: str) -> None:
    with connected(address) as raw:
        raw.sendall(frame(1, 0x5, 1, head(f"/{SERVICE}/ServerLive".encode(), (b"grpc-encoding", b"snappy"))))
        found = read_until(raw, b"grpc-message")
    assert b"identity,gzip,deflate" in found
    assert b"grpc-status" + b"\x0212" in found


@pytest.mark.parametrize("cut", [1, 20, 90])
def test_a_head_may_come_in_pieces_and_padded(address: str, cut: int) -> None:
    block, body = head(f"/{SERVICE}/ModelInfer".encode()), question()
    message_bytes = b"\0" + len(body).to_bytes(4, "big") + body
    with connected(address) as raw:
        raw.sendall(frame(1, 0x8 | 0x20, 1, b"\x03" + bytes(5) + block[:cut] + bytes(3)))
        raw.sendall(frame(9, 0, 1, block[cut : cut + 2]) + frame(9, 0x4, 1, block[cut + 2 :]))
        raw.sendall(frame(0, 0x8, 1, b"\x07" + message_bytes[:9] + bytes(7)) + frame(0, 0, 1))
        raw.sendall(frame(0, 0x1, 1, message_bytes[9:]))
        found = read_until(raw, b"grpc-status")
    assert np.full(2, 2, np.float32).tobytes() in found


def test_who_opens_streams_only_to_give_them_up_is_shown_the_door(address: str) -> None:
    block = head(f"/{SERVICE}/ModelInfer".encode())
    attack = b"".join(frame(1, 0x4, 2 * i + 1, block) + frame(3, 0, 2 * i + 1, bytes(4)) for i in range(600))
    with connected(address) as raw:
        raw.sendall(attack)
        found = b""
        while part := raw.recv(1 << 16):
            found += part
    at = found.index(b"\x07\x00\x00\x00\x00\x00") + 10
    assert int.from_bytes(found[at : at + 4], "big") == 11
    with grpc.insecure_channel(address) as channel:
        assert scores(ask(channel, data=question())).tolist() == [2, 2]
