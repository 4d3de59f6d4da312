from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as some

from mlaas4hep.client.tensors import DATATYPES, Encoded, decode_answer, encode_question
from mlaas4hep.client.wire import Broken
from mlaas4hep.errors import RequestError, ServerError
from tests.examples import examples

NUMBERS = [name for name in DATATYPES if name != "BYTES"]


def echoed(encoded: Encoded) -> dict[str, Any]:
    """The tensors of a question, as a server would send them back."""
    length = encoded.header_length
    body = b"".join(encoded.parts)
    question = json.loads(body if length is None else body[:length])
    head = json.dumps({"model_name": "m", "outputs": question["inputs"]}).encode()
    return decode_answer(head if length is None else head + body[length:], None if length is None else len(head))


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("datatype", NUMBERS)
@settings(max_examples=examples(30))
@given(data=st.data())
def test_numbers_of_every_type_go_and_come_with_their_bits(datatype: str, binary: bool, data: st.DataObject) -> None:
    dtype = DATATYPES[datatype].newbyteorder(data.draw(st.sampled_from("<>")))
    array = data.draw(some.arrays(dtype, some.array_shapes(min_dims=1, max_dims=3, min_side=0)))
    if not binary and dtype.kind == "f":
        array = np.where(np.isnan(array), np.array(np.nan, dtype), array)  # as JSON, NaN is NaN whatever its bits
    found = echoed(encode_question({"x": array[::-1]}, binary=binary))["x"]
    assert found.dtype == dtype.newbyteorder("=")
    assert found.dtype.isnative
    assert found.flags.writeable or not binary
    assert found.tobytes() == array[::-1].astype(dtype.newbyteorder("=")).tobytes() or not binary
    np.testing.assert_array_equal(found, array[::-1])


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_texts_go_as_bytes(binary: bool) -> None:
    for array in (np.array([["a", "é"], ["", "\0"]], object), np.array(["x", "yy"]), np.array([b"x", b"yy"])):
        found = echoed(encode_question({"x": array}, binary=binary))["x"]
        wanted = [one if isinstance(one, bytes) else one.encode() for one in array.ravel().tolist()]
        assert (found.shape, found.ravel().tolist()) == (array.shape, wanted)
    assert echoed(encode_question({"x": np.array([b"\xff\0"], object)}))["x"].tolist() == [b"\xff\0"]


def test_only_the_outputs_that_are_wanted_are_asked_for() -> None:
    encoded = encode_question({"x": np.zeros(1)}, outputs=["a", "b"], id="7", parameters={"timeout": 5})
    question = json.loads(encoded.parts[0])
    assert [one["name"] for one in question["outputs"]] == ["a", "b"]
    assert question["id"] == "7"
    assert question["parameters"] == {"timeout": 5, "binary_data_output": True}
    assert all(one["parameters"]["binary_data"] for one in question["outputs"])
    assert "parameters" not in json.loads(encode_question({"x": np.zeros(1)}, binary=False).parts[0])


@pytest.mark.parametrize(
    ("array", "said"),
    [
        ([1.0], "asked for a numpy array, found list"),
        (np.zeros(1, complex), "complex128 is no datatype"),
        (np.zeros(1, "M8[s]"), "is no datatype"),
        (np.array([1], object), "an array of objects holds texts or bytes, found int"),
    ],
)
def test_what_the_protocol_does_not_have_is_refused(array: Any, said: str) -> None:
    with pytest.raises(RequestError, match=f"input 'x': .*{said}"):
        encode_question({"x": array})


def test_bytes_that_are_no_text_are_not_put_into_json() -> None:
    with pytest.raises(RequestError, match="send them binary"):
        encode_question({"x": np.array([b"\xff"], object)}, binary=False)


def answer(tail: bytes = b"", **output: Any) -> tuple[bytes, int]:
    head = json.dumps({"outputs": [{"name": "s", "datatype": "FP32", "shape": [2]} | output], "id": "1"}).encode()
    return head + tail, len(head)


@pytest.mark.parametrize(
    ("body", "length", "said"),
    [
        (b"not json", None, "none of the Open Inference Protocol"),
        (b"{}", 9, "shorter than the JSON"),
        (*answer(), "neither data nor a size"),
        (*answer(b"1234", parameters={"binary_data_size": 8}), "8 bytes announced, 4 are there"),
        (*answer(b"1234", parameters={"binary_data_size": 4}), r"shape \[2\] has 8 bytes, not 4"),
        (*answer(b"12345678", parameters={"binary_data_size": -8}), "-8 bytes announced"),
        (*answer(b"1234567890", parameters={"binary_data_size": 8}), "2 bytes behind its last output"),
        (*answer(b"", data=[1.0]), "does not hold what it announces"),
        (*answer(b"", data=["x", 1]), "does not hold what it announces"),
        (*answer(b"", data=[1, 2], datatype="FP99"), "does not hold what it announces"),
        (*answer(b"\5\0\0\0ab", datatype="BYTES", parameters={"binary_data_size": 6}), "a text is cut off"),
        (*answer(b"\1\0\0\0a", datatype="BYTES", parameters={"binary_data_size": 5}), "2 texts announced, 1"),
    ],
)
def test_an_answer_that_does_not_add_up_is_the_fault_of_the_server(body: bytes, length: int | None, said: str) -> None:
    with pytest.raises(ServerError, match=said):
        decode_answer(body, length)


def test_an_answer_to_another_question_is_no_answer() -> None:
    body, length = answer(b"", data=[1, 2])
    assert decode_answer(body, length, id="1")["s"].tolist() == [1, 2]
    with pytest.raises(Broken, match="of another question"):
        decode_answer(body, length, id="2")
