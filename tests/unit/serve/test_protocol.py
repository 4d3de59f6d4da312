from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest

from mlaas4hep.errors import RequestError
from mlaas4hep.serve.protocol import InferResponse, decode_request, encode_response


def tensor(data: Any = None, shape: tuple[int, ...] = (2, 2), **changes: Any) -> dict[str, Any]:
    return {"name": "event", "shape": shape, "datatype": "FP32", "data": data} | changes


def body(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


@pytest.mark.parametrize("data", [[1, None, 2.5, "NaN"], [[1, None], [2.5, "NaN"]]], ids=["flat", "nested"])
def test_json_data_may_be_flat_or_nested_and_null_is_missing(data: Any) -> None:
    request = decode_request(body(tensor(data)))
    np.testing.assert_array_equal(request.inputs["event"], np.array([[1, np.nan], [2.5, np.nan]], np.float32))
    assert request.inputs["event"].dtype == np.float32


def test_numbers_beyond_float32_become_infinite_as_in_numpy() -> None:
    found = decode_request(body(tensor([1e300, "Infinity", "-Infinity", 1e-300]))).inputs["event"]
    assert found.tolist() == [[np.inf, np.inf], [-np.inf, 0.0]]


def test_no_events_are_a_valid_question() -> None:
    assert decode_request(body(tensor([], (0, 2)))).inputs["event"].shape == (0, 2)


def test_binary_tensors_follow_the_header_in_order_and_keep_their_bits() -> None:
    one = np.array([[np.nan, -0.0]], np.float32)
    two = np.array([[1e-45, np.inf]], np.float32)
    size = {"binary_data_size": 8}
    inputs = [{"name": name, "shape": [1, 2], "datatype": "FP32", "parameters": size} for name in ("event", "more")]
    # A header of odd length puts the tensors on odd addresses.
    head = body(*inputs, id="x" * (len(body(*inputs)) % 2))
    request = decode_request(head + one.tobytes() + two.tobytes(), len(head))
    assert request.inputs["event"].tobytes() == one.tobytes()
    assert request.inputs["more"].tobytes() == two.tobytes()
    assert all(array.flags.aligned for array in request.inputs.values())


def test_json_and_binary_inputs_mix() -> None:
    head = body(tensor([1, 2, 3, 4]), {**tensor(shape=(1,)), "name": "b", "parameters": {"binary_data_size": 4}})
    request = decode_request(head + struct.pack("<f", 7), len(head))
    assert request.inputs["event"].tolist() == [[1, 2], [3, 4]]
    assert request.inputs["b"].tolist() == [7]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (tensor([1, 2, 3]), r"shape \[2, 2\] asked by the request, data of \[3\] found"),
        (tensor([[1, 2]]), r"shape \[2, 2\] asked by the request, data of \[1, 2\] found"),
        (tensor([[1, 2], [3]]), "rows of different lengths"),
        (tensor([1, 2, 3, True]), r"Expected a number, got 'bool' - at '\$\[3\]'"),
        (tensor([1, 2, 3, "4"]), "of FP32 holds numbers or null"),
        (tensor(5), r"'data' is a list, flat or nested like the shape \[2, 2\], found 5"),
        (tensor([[[1]]]), r"found \[\[\[1\]\]\]"),
        (tensor([[], []], (2, 2)), r"data of \[2, 0\] found"),
        (tensor([[]], (0, 2)), r"data of \[1, 0\] found"),
        ({"name": "event", "shape": [1], "datatype": "FP32"}, "neither 'data' nor parameter"),
        (
            tensor([1], (1,), datatype="FP8"),
            "asked for one of BOOL, .*, found 'FP8'; did you mean 'FP64'",
        ),
        (tensor([1.0], (1,), datatype="INT64"), "INT64 holds integers from -9223372036854775808 to .*got 'float'"),
        (tensor([1, 300], (2,), datatype="INT8"), r"integers from -128 to 127: .* <= 127 - at '\$\[1\]'"),
        (tensor([2**64], (1,), datatype="UINT64"), "from 0 to 18446744073709551615, found 18446744073709551616"),
        (tensor([1], (1,), datatype="BOOL"), "BOOL holds true or false: Expected 'bool', got 'int'"),
        (tensor([1], (1,), datatype="BYTES"), "BYTES holds texts"),
        (tensor([None], (1,), datatype="BYTES"), "BYTES holds texts"),
        (tensor([], (-1, 2)), "is none that a tensor of a model has"),
        (tensor([], (0, 1 << 62)), "is none that a tensor of a model has"),
        (tensor([], (0,) + (1,) * 8), "is none that a tensor of a model has"),
        (tensor([1.0], (1,), parameters={"binary_data_size": 8}), "8 bytes announced, 0 bytes follow"),
        (tensor([1.0], (1,), parameters={"binary_data_size": 4}), "4 bytes announced, 0 bytes follow"),
    ],
)
def test_data_that_do_not_fit_are_refused_in_words(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        decode_request(body(wrong))


@pytest.mark.parametrize(
    ("content", "length", "said"),
    [
        (b"{", None, "not JSON"),
        (b"\xff\xfe", None, "not JSON"),
        (b'{"inputs": [NaN]}', None, "not JSON.*write null for a missing value"),
        (b"[]", None, "Expected `object`, got `array`"),
        (b"{}", None, "missing required field `inputs`"),
        (b'{"inputs": [' + b"[" * 100_000, None, "does not fit|nested too deeply"),
        (b'{"inputs": [], "x": ' + b"[" * 100_000, None, "nested too deeply|not JSON"),
        (body(tensor([1, 2, 3, 4]), tensor([1, 2, 3, 4])), None, "'event' is given twice"),
        (body(tensor([1, 2, 3, 4])), 10_000, "Inference-Header-Content-Length is 10000"),
        (body(tensor([1, 2, 3, 4])) + b"1234", len(body(tensor([1, 2, 3, 4]))), "4 bytes follow the last"),
        (body(outputs=[{"name": "s", "parameters": {"classification": -1}}]), None, "a number of classes, found '-1'"),
        (body(outputs=[{"name": "s", "parameters": {"classification": True}}]), None, "a number of classes"),
        (body(outputs=[{"name": "a"}, {"name": "s"}, {"name": "s"}]), None, "output 's' is asked twice"),
    ],
)
def test_bodies_that_are_not_of_the_protocol_are_refused(content: bytes, length: int | None, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        decode_request(content, length)


def test_an_answer_in_json_carries_every_digit() -> None:
    scores = np.array([[0.1], [np.nan], [np.inf], [-np.inf]], np.float32)
    request = decode_request(body(tensor([1, 2, 3, 4]), id="42"))
    content, length = encode_response(InferResponse("m", "1", {"scores": scores}, id="42"), request)
    assert length is None
    assert json.loads(content) == {
        "model_name": "m",
        "model_version": "1",
        "id": "42",
        "outputs": [
            {
                "name": "scores",
                "datatype": "FP32",
                "shape": [4, 1],
                "data": [float(np.float32(0.1)), None, "Infinity", "-Infinity"],
            }
        ],
    }


@pytest.mark.parametrize(
    "wish",
    [
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": "scores", "parameters": {"binary_data": True}}]},
    ],
    ids=["all outputs", "one output"],
)
def test_an_answer_in_binary_follows_its_header(wish: dict[str, Any]) -> None:
    scores = np.array([[0.1], [np.nan]], np.float32)
    request = decode_request(body(tensor([1, 2, 3, 4]), **wish))
    content, length = encode_response(InferResponse("m", "1", {"scores": scores}), request)
    assert length is not None
    assert json.loads(content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert content[length:] == scores.tobytes()


def test_a_named_output_overrules_the_wish_for_all() -> None:
    wishes = {"outputs": [{"name": "scores"}], "parameters": {"binary_data_output": True}}
    request = decode_request(body(tensor([1, 2, 3, 4]), **wishes))
    assert encode_response(InferResponse("m", "1", {"scores": np.zeros((1, 1), np.float32)}), request)[1] is None
