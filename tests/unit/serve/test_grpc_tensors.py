"""Tensors of every datatype in the messages of gRPC: typed and raw contents are the same tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from mlaas4hep.errors import RequestError
from mlaas4hep.serve import protocol
from mlaas4hep.serve.grpc_tensors import CONTENTS, read_request, write_response
from mlaas4hep.serve.oip import message
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.protocol import InferResponse
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService
from mlaas4hep.serve.sockets import bind
from mlaas4hep.serve.tensors import DTYPES, WORDS, to_bytes, to_texts
from tests.plain_graph import LABELS, TYPES, write_plain_graph

SHAPES = array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
ARRAYS = {
    word: arrays(object, SHAPES, elements=st.text(st.characters(exclude_categories=["Cs"])))
    if word == "BYTES"
    else arrays(dtype, SHAPES)
    for word, dtype in DTYPES.items()
}
TYPED = sorted(CONTENTS)


def put(request: Any, name: str, array: NDArray[Any], *, raw: bool) -> None:
    word = WORDS[array.dtype]
    one = request.inputs.add(name=name, datatype=word, shape=array.shape)
    if raw:
        request.raw_input_contents.append(to_bytes(array))
    else:
        values = to_texts(array) if word == "BYTES" else array.ravel().tolist()
        getattr(one.contents, CONTENTS[word]).extend(values)


def same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    """Equal to the bit, but for NaN, which typed floats may keep otherwise."""
    if left.dtype.kind == "f":
        left, right = (np.where(np.isnan(one), one.dtype.type("nan"), one) for one in (left, right))
    return (left.dtype, left.shape, to_bytes(left)) == (right.dtype, right.shape, to_bytes(right))


@given(st.data())
def test_typed_contents_are_the_tensors_of_raw_ones(data: st.DataObject) -> None:
    given_arrays = {word: data.draw(ARRAYS[word]) for word in data.draw(st.lists(st.sampled_from(TYPED), unique=True))}
    found = []
    for raw in (True, False):
        request = message("ModelInferRequest")(model_name="m")
        for name, array in given_arrays.items():
            put(request, name, array, raw=raw)
        found.append(read_request(type(request).FromString(request.SerializeToString())).inputs)
    assert list(found[0]) == list(found[1]) == list(given_arrays)
    for name, array in given_arrays.items():
        assert same(found[0][name], array)
        assert same(found[1][name], array)


@given(st.data())
def test_an_answer_holds_the_tensors_it_was_made_of(data: st.DataObject) -> None:
    words = data.draw(st.lists(st.sampled_from(sorted(DTYPES)), unique=True))
    outputs = {word: data.draw(ARRAYS[word]) for word in words}
    for raw in (True, False):
        answer = message("ModelInferResponse").FromString(write_response(InferResponse("m", "1", outputs), raw=raw))
        is_raw = raw or "FP16" in words
        assert len(answer.raw_output_contents) == (len(words) if is_raw else 0)
        asked = message("ModelInferRequest")(raw_input_contents=answer.raw_output_contents)
        for one in answer.outputs:
            asked.inputs.add(name=one.name, datatype=one.datatype, shape=one.shape)
            if not is_raw:
                asked.inputs[-1].contents.CopyFrom(one.contents)
        found = read_request(asked).inputs
        assert all(same(found[word], outputs[word]) for word in words)


@pytest.mark.parametrize(
    ("word", "shape", "raw", "contents", "said"),
    [
        ("FP31", [1], b"", {}, "found 'FP31'; did you mean 'FP32'"),
        ("BF16", [1], b"\0\0", {}, "found 'BF16'"),
        ("FP32", [2], b"\0" * 7, {}, r"shape \[2\] of FP32 needs 8 bytes, found 7"),
        ("FP32", [-1], b"", {}, r"shape \[-1\] is none"),
        ("FP32", [2**62], b"", {}, "is none that a tensor"),
        ("FP32", [1], b"\0" * 4, {"fp32_contents": [1]}, "one of both"),
        ("FP32", [2], None, {"fp32_contents": [1]}, r"needs 2 values, found 1 in fp32_contents"),
        ("FP32", [1], None, {"fp64_contents": [1]}, "sent in fp32_contents, found fp64_contents"),
        ("FP16", [1], None, {"fp32_contents": [1]}, "FP16 has no typed contents"),
        ("INT8", [1], None, {"int_contents": [128]}, "a value is not one of INT8"),
        ("UINT8", [1], None, {"uint_contents": [256]}, "a value is not one of UINT8"),
        ("BOOL", [1], b"\2", {}, "bytes of 0 or 1"),
        ("BYTES", [2], None, {"bytes_contents": [b"a"]}, "needs 2 texts, found 1"),
        ("BYTES", [1], b"\2\0\0\0a", {}, "longer than the 5 bytes"),
    ],
)
def test_what_is_no_tensor_is_refused(
    word: str, shape: list[int], raw: bytes | None, contents: dict[str, list[Any]], said: str
) -> None:
    request = message("ModelInferRequest")(raw_input_contents=[] if raw is None else [raw])
    one = request.inputs.add(name="x", datatype=word, shape=shape)
    for name, values in contents.items():
        getattr(one.contents, name).extend(values)
    with pytest.raises(RequestError, match=said):
        read_request(request)


def test_no_more_inputs_or_outputs_are_taken_than_a_model_can_have_and_none_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "MAX_TENSORS", 2)
    make = message("ModelInferRequest")
    many = make(inputs=[{"name": str(number)} for number in range(3)])
    with pytest.raises(RequestError, match="3 inputs are given; at most 2 are taken"):
        read_request(many)
    with pytest.raises(RequestError, match="3 outputs are given; at most 2 are taken"):
        read_request(make(outputs=[{"name": str(number)} for number in range(3)]))
    with pytest.raises(RequestError, match="output 's' is asked twice"):
        read_request(make(outputs=[{"name": "s"}, {"name": "s"}]))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("models")
    write_plain_graph(folder)
    # Without the one datatype that has no typed form.
    write_plain_graph(folder, name="typed", words=[word for word in TYPES if word != "FP16"])
    listening = bind("127.0.0.1", 0)
    with background(InferenceService(open_repository(folder)), grpc=listening):
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def values(word: str) -> NDArray[Any]:
    if word == "BYTES":
        return np.array([["é", ""], ["\0", "jet"]], object)
    dtype = DTYPES[word]
    if dtype.kind in "iu":
        return np.array([[np.iinfo(dtype).min, np.iinfo(dtype).max], [0, 1]], dtype)
    return np.array([[np.inf, -0.0], [1, 0.1]], dtype) if dtype.kind == "f" else np.array([[True, False]] * 2)


@pytest.mark.parametrize("raw", [True, False])
def test_every_datatype_passes_through_a_server(address: str, raw: bool) -> None:
    import grpc

    model, words = ("plain", list(TYPES)) if raw else ("typed", [word for word in TYPES if word != "FP16"])
    request = message("ModelInferRequest")(model_name=model)
    for word in words:
        put(request, word, values(word), raw=raw)
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary(f"/{triton.service_pb2.DESCRIPTOR.package}.GRPCInferenceService/ModelInfer")
        answer = message("ModelInferResponse").FromString(ask(request.SerializeToString(), timeout=20))
    assert bool(answer.raw_output_contents) == raw
    for place, one in enumerate(answer.outputs):
        word = one.name.removeprefix("same_")
        back = message("ModelInferRequest")(raw_input_contents=answer.raw_output_contents[place : place + 1])
        back.inputs.add(name="x", datatype=one.datatype, shape=one.shape, contents=None if raw else one.contents)
        assert same(read_request(back).inputs["x"], values(word))


def test_the_highest_classes_are_told_with_their_labels(address: str) -> None:
    inputs = []
    for word in TYPES:
        inputs.append(triton.InferInput(word, [2, 2], word))
        inputs[-1].set_data_from_numpy(values(word))
    output = triton.InferRequestedOutput("same_FP32", class_count=1)
    with triton.InferenceServerClient(address) as client:
        found = client.infer("plain", inputs, outputs=[output]).as_numpy("same_FP32")
    assert found.tolist() == [[f"Infinity:0:{LABELS[0]}".encode()], [f"1.0:0:{LABELS[0]}".encode()]]
