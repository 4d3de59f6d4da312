"""What the example scripts of tritonclient ask, asked through tritonclient of a real server; one test a script.

Not among them: shared memory, and sequences and streams of answers, which models here have not. The scripts compare
the server's name and a few of its words with Triton's; ours has its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as aio_grpc
import tritonclient.http as over_http
import tritonclient.http.aio as aio_http
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService
from mlaas4hep.serve.sockets import bind

FIRST, SECOND = np.arange(16, dtype=np.int32)[np.newaxis], np.ones((1, 16), np.int32)
Way = tuple[ModuleType, str]


def write_model(folder: Path, name: str, nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> None:
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    (folder / name / "1").mkdir(parents=True)
    onnx.save(model, folder / name / "1" / "model.onnx")
    (folder / name / "config.pbtxt").write_text("max_batch_size: 8\n")


def end(name: str, kind: int) -> Any:
    return helper.make_tensor_value_info(name, kind, ["n", 16])


def write_models(folder: Path) -> None:
    """The models of the scripts: sum and difference of numbers, and of texts that are numbers; texts as they are."""
    node = helper.make_node
    for name, kind in (("simple", TensorProto.INT32), ("simple_int8", TensorProto.INT8)):
        inputs, outputs = ([end(f"{head}{place}", kind) for place in (0, 1)] for head in ("INPUT", "OUTPUT"))
        names = ["INPUT0", "INPUT1"]
        write_model(folder, name, [node("Add", names, ["OUTPUT0"]), node("Sub", names, ["OUTPUT1"])], inputs, outputs)
    text = TensorProto.STRING
    nodes = [node("Cast", [f"INPUT{place}"], [f"number{place}"], to=TensorProto.INT32) for place in (0, 1)]
    nodes += [node("Add", ["number0", "number1"], ["sum"]), node("Sub", ["number0", "number1"], ["difference"])]
    nodes += [node("Cast", ["sum"], ["OUTPUT0"], to=text), node("Cast", ["difference"], ["OUTPUT1"], to=text)]
    inputs, outputs = ([end(f"{head}{place}", text) for place in (0, 1)] for head in ("INPUT", "OUTPUT"))
    write_model(folder, "simple_string", nodes, inputs, outputs)
    identity = node("Identity", ["INPUT0"], ["OUTPUT0"])
    write_model(folder, "simple_identity", [identity], [end("INPUT0", text)], [end("OUTPUT0", text)])


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    models = tmp_path_factory.mktemp("models")
    write_models(models)
    listening = bind("127.0.0.1", 0)
    service = InferenceService(open_repository(models), control=True)
    with background(service, grpc=listening) as url:
        yield {"http": url.removeprefix("http://"), "grpc": f"127.0.0.1:{listening.getsockname()[1]}"}


@pytest.fixture(params=["http", "grpc"])
def way(request: pytest.FixtureRequest, places: dict[str, str]) -> Way:
    return {"http": over_http, "grpc": over_grpc}[request.param], places[request.param]


@pytest.fixture
def client(way: Way) -> Iterator[Any]:
    with way[0].InferenceServerClient(way[1]) as client:
        yield client


def asked(library: Any, *, binary: tuple[bool, bool] = (True, True)) -> dict[str, Any]:
    """Inputs and outputs of ``simple``; over HTTP as bytes or as JSON."""
    inputs = [library.InferInput(f"INPUT{place}", [1, 16], "INT32") for place in (0, 1)]
    outputs = []
    for place, (one, data) in enumerate(zip(inputs, (FIRST, SECOND), strict=True)):
        how = {"binary_data": binary[place]} if "http" in library.__name__ else {}
        one.set_data_from_numpy(data, **how)
        outputs.append(library.InferRequestedOutput(f"OUTPUT{place}", **how))
    return {"inputs": inputs, "outputs": outputs}


def check(result: Any) -> None:
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), FIRST + SECOND)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), FIRST - SECOND)


def models_of(statistics: Any) -> list[Any]:
    return list(statistics["model_stats"] if isinstance(statistics, dict) else statistics.model_stats)


def field_of(answer: Any, name: str) -> Any:
    return answer[name] if isinstance(answer, dict) else getattr(answer, name)


@pytest.mark.parametrize("binary", [(False, True), (True, False)])
def test_infer(client: Any, way: Way, binary: tuple[bool, bool]) -> None:
    question = asked(way[0], binary=binary)
    more: dict[str, Any] = {"headers": {"test": "1"}}
    if way[0] is over_http:
        more["query_params"] = {"test_1": 1, "test_2": 2}
    check(client.infer("simple", **question, **more))
    check(client.infer("simple", question["inputs"], **more))
    assert len(models_of(client.get_inference_statistics("simple"))) == 1
    with pytest.raises(InferenceServerException, match="wrong_model_name"):
        client.infer("wrong_model_name", **question)


def test_reuse_of_inputs_and_outputs(client: Any, way: Way) -> None:
    question = asked(way[0])
    for _ in range(3):
        check(client.infer("simple", **question))
    question["inputs"][1].set_data_from_numpy(SECOND * 2)
    found = client.infer("simple", **question)
    np.testing.assert_array_equal(found.as_numpy("OUTPUT0"), FIRST + 2 * SECOND)


def test_async_infer_over_http(places: dict[str, str]) -> None:
    with over_http.InferenceServerClient(places["http"], concurrency=2) as client:
        waiting = [client.async_infer("simple", **asked(over_http)) for _ in range(2)]
        for one in waiting:
            check(one.get_result())


def test_async_infer_over_grpc(places: dict[str, str]) -> None:
    found: list[Any] = []
    done = threading.Semaphore(0)

    def told(result: Any, error: Any) -> None:
        found.append(error or result)
        done.release()

    with over_grpc.InferenceServerClient(places["grpc"]) as client:
        for _ in range(2):
            client.async_infer("simple", callback=told, **asked(over_grpc))
        assert all(done.acquire(timeout=20) for _ in range(2))
    for one in found:
        check(one)


@pytest.mark.parametrize("name", ["http", "grpc"])
def test_aio_infer(places: dict[str, str], name: str) -> None:
    library: Any = {"http": aio_http, "grpc": aio_grpc}[name]
    plain: Any = {"http": over_http, "grpc": over_grpc}[name]

    async def ask() -> None:
        async with library.InferenceServerClient(places[name]) as client:
            check(await client.infer("simple", **asked(plain)))
            assert len(models_of(await client.get_inference_statistics("simple"))) == 1
            for one in await asyncio.gather(*(client.infer("simple", asked(plain)["inputs"]) for _ in range(2))):
                check(one)

    asyncio.run(ask())


@pytest.mark.parametrize("name", ["http", "grpc"])
def test_aio_health_metadata_and_model_control(places: dict[str, str], name: str) -> None:
    library: Any = {"http": aio_http, "grpc": aio_grpc}[name]

    async def ask() -> None:
        async with library.InferenceServerClient(places[name]) as client:
            assert await client.is_server_live(headers={"test": "1", "dummy": "2"})
            assert await client.is_server_ready()
            assert await client.is_model_ready("simple")
            assert field_of(await client.get_model_metadata("simple"), "name") == "simple"
            with pytest.raises(InferenceServerException, match="wrong_model_name"):
                await client.get_model_metadata("wrong_model_name")
            await client.load_model("simple")
            assert await client.is_model_ready("simple")
            await client.unload_model("simple")
            assert not await client.is_model_ready("simple")
            await client.load_model("simple")

    asyncio.run(ask())


def test_string_infer(client: Any, way: Way) -> None:
    texts = [np.array([[str(one).encode() for one in data[0]]], object) for data in (FIRST, SECOND)]
    inputs = [way[0].InferInput(f"INPUT{place}", [1, 16], "BYTES") for place in (0, 1)]  # type: ignore[attr-defined]
    for one, data in zip(inputs, texts, strict=True):
        one.set_data_from_numpy(data)
    found = client.infer("simple_string", inputs)
    np.testing.assert_array_equal(found.as_numpy("OUTPUT0").astype(np.int32), FIRST + SECOND)
    np.testing.assert_array_equal(found.as_numpy("OUTPUT1").astype(np.int32), FIRST - SECOND)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("kind", [np.object_, np.bytes_])
@pytest.mark.parametrize("text", [b"he\x00llo", b"\x00\x01\x02\x03", "é".encode()])
def test_string_infer_of_bytes_that_no_text_usually_holds(
    client: Any, way: Way, text: bytes, kind: Any, binary: bool
) -> None:
    data = np.array([[text] * 16], kind)
    how = {"binary_data": binary} if way[0] is over_http else {}
    one = way[0].InferInput("INPUT0", [1, 16], "BYTES")  # type: ignore[attr-defined]
    one.set_data_from_numpy(data, **how)
    output = way[0].InferRequestedOutput("OUTPUT0", **how)  # type: ignore[attr-defined]
    found = client.infer("simple_identity", [one], outputs=[output]).as_numpy("OUTPUT0")
    said = [value.encode() if isinstance(value, str) else value for value in found.ravel()]
    assert said == [text] * 16


def test_health_and_metadata(client: Any, way: Way) -> None:
    more: dict[str, Any] = {"query_params": {"test_1": 1}} if way[0] is over_http else {"headers": {"test": "1"}}
    assert client.is_server_live(**more)
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert field_of(client.get_server_metadata(), "name") == "mlaas4hep"
    assert field_of(client.get_model_metadata("simple", **more), "name") == "simple"
    with pytest.raises(InferenceServerException, match="wrong_model_name"):
        client.get_model_metadata("wrong_model_name")
    config = client.get_model_config("simple")
    config = config if isinstance(config, dict) else config.config
    assert (field_of(config, "name"), field_of(config, "max_batch_size")) == ("simple", 8)
    (first, _) = field_of(config, "input")
    assert (field_of(first, "name"), list(field_of(first, "dims"))) == ("INPUT0", [16])
    assert field_of(first, "data_type") in ("TYPE_INT32", over_grpc.model_config_pb2.TYPE_INT32)


def test_model_control(client: Any, way: Way) -> None:
    index = client.get_model_repository_index()
    assert len(index if isinstance(index, list) else index.models) == 4
    client.load_model("simple")
    assert client.is_model_ready("simple")
    with pytest.raises(InferenceServerException, match="is no JSON"):
        client.load_model("simple", config='"parameters": {"config": {{"max_batch_size": "16"}}}')
    client.load_model("simple", config='{"max_batch_size":"16"}')
    config = client.get_model_config("simple")
    assert field_of(config if isinstance(config, dict) else config.config, "max_batch_size") == 16
    check(client.infer("simple", **asked(way[0])))
    client.load_model("simple")
    config = client.get_model_config("simple")
    assert field_of(config if isinstance(config, dict) else config.config, "max_batch_size") == 8
    client.unload_model("simple")
    assert not client.is_model_ready("simple")
    with pytest.raises(InferenceServerException, match="is unloaded"):
        client.infer("simple", **asked(way[0]))
    client.load_model("simple")
    with pytest.raises(InferenceServerException, match="no entry 'wrong_model_name'"):
        client.load_model("wrong_model_name")


def test_files_of_a_load_are_refused(places: dict[str, str]) -> None:
    with over_grpc.InferenceServerClient(places["grpc"]) as client:
        with pytest.raises(InferenceServerException, match="is not taken"):
            client.load_model("simple", config="{}", files={"file:" + "A" * 256: b"a"})
        assert client.is_server_live()


def test_keep_alive_and_channel_arguments(places: dict[str, str]) -> None:
    alive = over_grpc.KeepAliveOptions(keepalive_time_ms=200, keepalive_timeout_ms=5000, http2_max_pings_without_data=0)
    for more in ({"keepalive_options": alive}, {"channel_args": [("grpc.lb_policy_name", "pick_first")]}):
        with over_grpc.InferenceServerClient(places["grpc"], **more) as client:
            check(client.infer("simple", **asked(over_grpc)))


def explicit(model: str, datatype: str, contents: str, values: Callable[[Any], list[Any]]) -> Any:
    request = service_pb2.ModelInferRequest(model_name=model, id="my request id")
    for place, data in enumerate((FIRST, SECOND)):
        one = request.inputs.add(name=f"INPUT{place}", datatype=datatype, shape=[1, 16])
        getattr(one.contents, contents).extend(values(data[0]))
        request.outputs.add(name=f"OUTPUT{place}")
    return request


@pytest.mark.parametrize(
    ("model", "datatype", "contents"),
    [
        ("simple", "INT32", "int_contents"),
        ("simple_int8", "INT8", "int_contents"),
        ("simple_string", "BYTES", "bytes_contents"),
    ],
)
def test_explicit_contents_through_the_stub(places: dict[str, str], model: str, datatype: str, contents: str) -> None:
    def values(data: Any) -> list[Any]:
        return [str(one).encode() for one in data] if datatype == "BYTES" else [int(one) for one in data]

    with grpc.insecure_channel(places["grpc"]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(service_pb2.ServerLiveRequest()).live
        assert stub.ModelConfig(service_pb2.ModelConfigRequest(name=model)).config.name == model
        found = stub.ModelInfer(explicit(model, datatype, contents, values))
    assert found.id == "my request id"
    assert [int(one) for one in getattr(found.outputs[0].contents, contents)] == (FIRST + SECOND)[0].tolist()
    assert [int(one) for one in getattr(found.outputs[1].contents, contents)] == (FIRST - SECOND)[0].tolist()
