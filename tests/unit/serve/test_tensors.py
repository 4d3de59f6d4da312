"""Every datatype on both wires: what is written and read again is the same, and what is none of it is told."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from mlaas4hep.errors import RequestError
from mlaas4hep.serve.protocol import InferResponse, decode_request, encode_response
from mlaas4hep.serve.tensors import DTYPES, WORDS, check_texts, from_bytes, from_json, to_bytes

SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)


@st.composite
def tensors(draw: st.DrawFn) -> NDArray[Any]:
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = draw(SHAPES)
    if dtype.kind != "O":
        return draw(arrays.arrays(dtype, shape))
    texts = draw(st.lists(st.text(max_size=4), min_size=math.prod(shape), max_size=math.prod(shape)))
    array = np.empty(len(texts), object)
    array[:] = texts
    return array.reshape(shape)


def same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    if left.dtype.kind == "f":  # JSON has one NaN
        left, right = (np.where(np.isnan(one), np.nan, one).astype(one.dtype) for one in (left, right))
    equal = left.tolist() == right.tolist() if left.dtype.kind == "O" else left.tobytes() == right.tobytes()
    return left.shape == right.shape and left.dtype == right.dtype and equal


@settings(max_examples=150, deadline=None)
@given(array=tensors(), binary=st.booleans(), nested=st.booleans())
def test_a_tensor_of_any_datatype_and_shape_goes_out_and_comes_back_to_the_bit(
    array: NDArray[Any], binary: bool, nested: bool
) -> None:
    wish = json.dumps({"inputs": [], "parameters": {"binary_data_output": binary}}).encode()
    content, length = encode_response(InferResponse("m", "1", {"x": array}), decode_request(wish))
    answer = json.loads(content[:length])
    assert answer["outputs"][0]["datatype"] == WORDS[array.dtype]
    if nested and not binary:
        values = np.empty(array.size, object)
        values[:] = answer["outputs"][0]["data"]
        answer["outputs"][0]["data"] = values.reshape(array.shape).tolist() if array.ndim else [values[0]]
    head = json.dumps({"inputs": answer["outputs"]}).encode()
    tail = b"" if length is None else content[length:]
    found = decode_request(head + tail, len(head)).inputs["x"]
    assert found.flags.aligned
    assert same(array, found)


@pytest.mark.parametrize("word", ["FP16", "FP32", "FP64"])
def test_words_of_json_are_the_values_that_no_number_has(word: str) -> None:
    found = from_json(b'[null, "NaN", "Infinity", "-Infinity", 1e300]', word, (5,), "x")
    large = 1e300 if word == "FP64" else math.inf
    np.testing.assert_array_equal(found, np.array([math.nan, math.nan, math.inf, -math.inf, large]))
    assert found.dtype == DTYPES[word]


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "said"),
    [
        ("INT16", (2,), b"\0" * 3, r"input 'x': shape \[2\] of INT16 needs 4 bytes, found 3"),
        ("BOOL", (2,), b"\0\7", "bytes of 0 or 1 for BOOL, found 7"),
        ("BYTES", (2,), struct.pack("<I", 1) + b"a", r"shape \[2\] needs 2 texts, found 1"),
        ("BYTES", (0,), struct.pack("<I", 1) + b"a", r"shape \[0\] needs 0 texts, found 1"),
        ("BYTES", (1,), struct.pack("<I", 2) + b"a", "text 0 is longer than the 5 bytes"),
        ("BYTES", (1,), b"\0\0\0", "text 0 is longer than the 3 bytes"),
        ("BYTES", (1,), struct.pack("<I", 1 << 31) + b"a", "text 0 is longer than the 5 bytes"),
    ],
)
def test_bytes_that_are_no_tensor_are_refused(datatype: str, shape: tuple[int, ...], data: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        from_bytes(memoryview(data), datatype, shape, "input 'x'")


def test_texts_are_written_as_length_and_utf8() -> None:
    assert to_bytes(np.array(["\u00e9", ""], object)) == b"\x02\0\0\0\xc3\xa9\0\0\0\0"


def test_bytes_that_are_no_text_stay_what_they_are_and_never_reach_a_graph() -> None:
    data = memoryview(struct.pack("<I", 1) + b"a" + struct.pack("<I", 2) + b"\xff\xd8")
    array = from_bytes(data, "BYTES", (2,), "input 'x'")
    assert array.tolist() == ["a", b"\xff\xd8"]
    check_texts(array[:1], "input 'x'")
    with pytest.raises(RequestError, match="input 'x': text 1 is not UTF-8, as a graph's texts are"):
        check_texts(array, "input 'x'")
