"""One tensor as the whole body: Triton's raw binary request."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from mlaas4hep.errors import RequestError
from mlaas4hep.serve.asking import BINARY, read_infer
from mlaas4hep.serve.model import ServedModel, TensorSpec
from mlaas4hep.serve.raw import read_raw
from mlaas4hep.serve.repository import ModelRepository
from mlaas4hep.serve.service import InferenceService


def model(word: str, *shape: int, batches: bool = False, inputs: int = 1) -> ServedModel:
    ends = tuple(TensorSpec(f"x{place}", word, shape) for place in range(inputs))
    outputs = (TensorSpec("y", word, shape),)
    return ServedModel("m", "1", ends, outputs, None, batches, 8, 1e-6, 0.0, lambda tensors: {"y": tensors["x0"]})


@pytest.mark.parametrize(
    ("served", "size", "shape"),
    [
        (model("FP32", 2, batches=True), 8, (1, 2)),
        (model("FP32", 2, batches=True), 24, (3, 2)),
        (model("FP32", -1, batches=True), 24, (1, 6)),
        (model("FP16", 2, -1), 24, (2, 6)),
        (model("INT64", 3), 24, (3,)),
        (model("FP32"), 4, ()),
        (model("FP64", -1), 0, (0,)),
        (model("BYTES", 1), 3, (1,)),
        (model("BYTES", 1, batches=True), 0, (1, 1)),
    ],
)
def test_the_shape_follows_from_the_number_of_bytes(served: ServedModel, size: int, shape: tuple[int, ...]) -> None:
    found = read_raw(served, b"\0" * size)
    assert found.inputs["x0"].shape == shape
    assert found.binary_output
    assert served.check(found.inputs) == (shape[0] if served.batches else 1)


@pytest.mark.parametrize(
    ("served", "body", "said"),
    [
        (model("FP32", 2, inputs=2), b"", "model 'm' has 2: x0, x1"),
        (model("FP32", -1, -1), b"", r"\[-1, -1\] does not follow"),
        (model("BYTES", -1), b"", r"\[-1\] does not follow"),
        (model("BYTES", 2), b"", r"shape \[2\] needs 2 texts, found 1"),
        (model("FP32", 2, batches=True), b"\0" * 7, r"shape \[1, 2\] of FP32 needs 8 bytes, found 7"),
        (model("FP32", 2, batches=True), b"\0" * 17, r"shape \[2, 2\] of FP32 needs 16 bytes, found 17"),
        (model("FP32", 2, batches=True), b"", "found 0"),
        (model("FP32", 0, -1), b"\0", "needs 0 bytes, found 1"),
    ],
)
def test_what_does_not_fill_a_tensor_is_refused(served: ServedModel, body: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read_raw(served, body)


def test_bytes_alone_are_answered_in_bytes() -> None:
    service = InferenceService(ModelRepository([model("FP32", 2, batches=True)]))
    body = np.arange(4, dtype=np.float32).tobytes()
    headers: dict[bytes, bytes] = {b"inference-header-content-length": b"0"}
    reply = read_infer(service, ("m", None), headers, body).run()
    told: dict[str, Any] = dict(reply.headers)
    length = int(told["Inference-Header-Content-Length"])
    assert reply.media_type == BINARY
    (output,) = msgspec.json.decode(reply.body[:length])["outputs"]
    assert (output["shape"], reply.body[length:]) == ([2, 2], body)
