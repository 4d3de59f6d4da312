"""The quick way to read and write JSON against the general one: the same bits and bytes, or nothing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep.errors import RequestError
from mlaas4hep.serve import quick
from mlaas4hep.serve.model import ServedModel, TensorSpec
from mlaas4hep.serve.protocol import InferRequest, InferResponse, decode_request, encode_response
from mlaas4hep.serve.quick import QuickCodec

NUMBERS = (
    st.floats(allow_nan=False, allow_infinity=False) | st.floats(width=32, allow_nan=False) | st.integers() | st.none()
)


def model_of(*inputs: TensorSpec, scores: tuple[int, ...] = (1,)) -> ServedModel:
    outputs = (TensorSpec("scores", "FP32", scores),)
    return ServedModel('m\u00e9"l', "1", inputs, outputs, None, True, 4096, 1e-5, 0.0, lambda tensors: {})


MODEL = model_of(TensorSpec("event", "FP32", (3,)), TensorSpec("more", "FP32", (2,)))
LISTS = model_of(TensorSpec("jets", "FP32", (2, 3)))


def body_of(model: ServedModel, rows: int, values: list[Any], nested: bool, **more: Any) -> bytes:
    inputs, left = [], iter(values)
    for spec in model.inputs:
        shape = [rows, *spec.shape]
        data: Any = [next(left) for _ in range(int(np.prod(shape)))]
        if nested:
            data = np.array(data, object).reshape(shape).tolist()
        inputs.append({"name": spec.name, "shape": shape, "datatype": "FP32", "data": data})
    return json.dumps({"inputs": inputs, **more}).encode()


@pytest.fixture(params=["with simdjson", "without"])
def fast(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without":
        monkeypatch.setattr(quick, "_fast_parser", lambda: None)
    else:
        pytest.importorskip("simdjson")
        monkeypatch.setattr(quick, "FAST_BYTES", 0)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=st.integers(1, 4), nested=st.booleans(), id=st.text(max_size=3), lists=st.booleans())
@pytest.mark.parametrize("parser", [True, False])
def test_what_is_read_has_the_bits_of_the_general_way(
    parser: bool, data: st.DataObject, rows: int, nested: bool, id: str, lists: bool
) -> None:
    if parser:
        pytest.importorskip("simdjson")
    model = LISTS if lists else MODEL
    size = rows * sum(int(np.prod(one.shape)) for one in model.inputs)
    values = data.draw(st.lists(NUMBERS, min_size=size, max_size=size))
    body = body_of(model, rows, values, nested, **({"id": id} if id else {}))
    codec = QuickCodec(model)
    before, quick.FAST_BYTES = quick.FAST_BYTES, 0 if parser else 1 << 30
    try:
        found = codec.read(body)
    finally:
        quick.FAST_BYTES = before
    try:
        expected = decode_request(body)
    except RequestError:  # whole numbers that no double holds
        assert found is None
        return
    if found is None:
        assert None in values or nested or max(abs(one) for one in values if one is not None) > 1e300
        return
    inputs, count, said = found
    assert (count, said) == (rows, expected.id)
    for name, tensor in expected.inputs.items():
        assert np.isnan(inputs[name]).tolist() == np.isnan(tensor).tolist()
        assert np.nan_to_num(inputs[name], nan=0).tobytes() == np.nan_to_num(tensor, nan=0).tobytes()


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(width=32), min_size=1, max_size=6), id=st.text(max_size=4), wide=st.booleans())
def test_what_is_written_has_the_bytes_of_the_general_way(values: list[float], id: str, wide: bool) -> None:
    model = model_of(*MODEL.inputs, scores=(len(values),) if wide else (1,))
    scores = np.array(values, np.float32).reshape(1 if wide else len(values), -1)
    written = QuickCodec(model).write(scores, id)
    expected, _ = encode_response(InferResponse(model.name, "1", {"scores": scores}, id=id), InferRequest({}))
    assert written == (expected if np.isfinite(scores).all() else None)


def changed(**changes: Any) -> bytes:
    request = json.loads(body_of(MODEL, 1, [1.5, 2, 3, 4, 5], False))
    request["inputs"][0] |= changes
    return json.dumps(request).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"inputs": [1]}',
        b"\xff",
        b"[" * 10_000,
        changed(name="evnt"),
        changed(name="more"),
        changed(datatype="FP64"),
        changed(shape=[2, 3]),
        changed(shape=[1, 1, 3]),
        changed(shape=[1.0, 3]),
        changed(shape=[True, 3]),
        changed(shape=[0, 3]),
        changed(shape=[]),
        changed(data=[1, 2]),
        changed(data=[1, 2, "NaN"]),
        changed(data=[1, 2, True]),
        changed(data=[True, 2, 1]),
        changed(data=[[1, 2], 3]),
        changed(data=[[1, 2], [3]]),
        changed(data=[[1, 2, 3], []]),
        changed(data=[[], 1, [2, 3]]),
        changed(parameters={}),
        changed(data=[1e999, 1, 2]),
        body_of(MODEL, 1, [1, 2, 3, 4, 5], False, parameters={"timeout": 1}),
        body_of(MODEL, 1, [1, 2, 3, 4, 5], False, outputs=[{"name": "scores"}]),
        body_of(MODEL, 1, [1, 2, 3, 4, 5], False).replace(b'"more"', b'"event"'),
        body_of(MODEL, 1, [1, 2, 3, 4, 5], False)[:-1],
        body_of(MODEL, 1, [1, 2, 3, 4, 5], False) + b"{}",
    ],
)
@pytest.mark.usefixtures("fast")
def test_what_is_unusual_or_wrong_is_left_to_the_general_way(body: bytes) -> None:
    assert QuickCodec(MODEL).read(body) is None


def test_the_buffers_of_a_parser_that_read_a_large_body_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    simdjson = pytest.importorskip("simdjson")
    made: list[object] = []

    class Parser(simdjson.Parser):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            made.append(self)

    monkeypatch.setattr(simdjson, "Parser", Parser)
    monkeypatch.setattr(quick, "FAST_BYTES", 0)
    monkeypatch.setattr(quick, "_KEPT_BYTES", 1000)
    codec = QuickCodec(MODEL)
    for rows, parsers in ((1, 1), (2, 1), (100, 2), (100, 3), (1, 3)):
        assert codec.read(body_of(MODEL, rows, [0.5] * (5 * rows), nested=False)) is not None
        assert len(made) == parsers


@pytest.mark.usefixtures("fast")
def test_the_usual_question_is_read_here_and_models_of_other_kinds_are_not() -> None:
    body = body_of(MODEL, 2, [1, 2.5, 3, 4, 5, 6, 7, 8, 9, 10], False)
    found = QuickCodec(MODEL).read(body)
    assert found is not None
    assert found[0]["more"].tolist() == [[7, 8], [9, 10]]
    for other in (TensorSpec("event", "INT64", (3,)), TensorSpec("event", "FP32", (-1,))):
        assert QuickCodec(model_of(other, MODEL.inputs[1])).read(body) is None
