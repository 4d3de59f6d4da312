"""The same rows as JSON, with the binary extension and for gRPC, and the rows of scores in what comes back.

Everything is written by hand here: what is measured must not judge itself. Invariant: all three forms hold equal bits.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.networks import Network, Rows
from benchmarks.turns import Unavailable

Wire = Literal["json", "bin", "grpc"]
GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"
HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Question:
    """A body and the headers that belong to it."""

    body: bytes
    headers: Mapping[str, str]


def http_path(network: Network) -> str:
    """Where questions go."""
    return f"/v2/models/{network.name}/infer"


def question(network: Network, wire: Wire, rows: Rows) -> Question:
    """Rows as a question."""
    if wire == "grpc":
        message = _grpc_message(network, rows)
        return Question(b"\0" + len(message).to_bytes(4, "big") + message, {})
    tensor: dict[str, Any] = {"name": network.input, "shape": list(rows.shape), "datatype": "FP32"}
    if wire == "json":
        # Six decimals are what was drawn: reading them gives the bits of the rows.
        tensor["data"] = [round(one, 6) for one in rows.ravel().tolist()]
        return Question(_compact({"inputs": [tensor]}), {"Content-Type": "application/json"})
    tail = rows.tobytes()
    outputs = [{"name": network.output, "parameters": {"binary_data": True}}]
    head = _compact({"inputs": [tensor | {"parameters": {"binary_data_size": len(tail)}}], "outputs": outputs})
    return Question(head + tail, {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))})


def _grpc_message(network: Network, rows: Rows) -> bytes:
    from conformance.messages import message_class

    message = message_class("ModelInferRequest")(model_name=network.name)
    message.inputs.add(name=network.input, datatype="FP32", shape=list(rows.shape))
    message.raw_input_contents.append(rows.tobytes())
    data: bytes = message.SerializeToString()
    return data


def ask(address: str, network: Network, wire: Wire, asked: Question) -> tuple[Rows, int]:
    """Scores, and the bytes that the answer took.

    Raises
    ------
    Unavailable
        The server refused, with what it said.
    OSError
        It is not there (yet).
    """
    if wire == "grpc":
        return _ask_grpc(address, asked)
    line = http.client.HTTPConnection(address, timeout=60)
    try:
        line.request("POST", http_path(network), asked.body, dict(asked.headers))
        answer = line.getresponse()
        body, length = answer.read(), answer.getheader(HEADER_LENGTH)
    finally:
        line.close()
    if answer.status != 200:
        raise Unavailable(f"{address}{http_path(network)}: status {answer.status}: {body[:200]!r}")
    return _scores(body, length), len(body)


def check(found: Rows, wanted: Rows) -> None:
    """The answer must be that of onnxruntime. Raises Unavailable."""
    if found.size != wanted.size or not np.allclose(found.ravel(), wanted.ravel(), rtol=1e-5, atol=1e-6):
        raise Unavailable(f"a wrong answer: {found.ravel()[:3]}..., onnxruntime says {wanted.ravel()[:3]}...")


def _scores(body: bytes, header_length: str | None) -> Rows:
    if header_length is None:
        return np.array(json.loads(body)["outputs"][0]["data"], np.float32)
    return _floats(body[int(header_length) :])


def _ask_grpc(address: str, asked: Question) -> tuple[Rows, int]:
    try:
        import grpc
    except ImportError:
        raise Unavailable("answers over gRPC cannot be checked without the package grpcio") from None
    from conformance.messages import message_class

    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(GRPC_PATH)
        try:
            data: bytes = call(asked.body[5:], timeout=60)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                raise ConnectionRefusedError(address) from None
            raise Unavailable(f"{address}: {error.code().name}: {error.details()}") from None
    found = message_class("ModelInferResponse").FromString(data)
    if found.raw_output_contents:
        return _floats(found.raw_output_contents[0]), len(data) + 5
    return np.array(found.outputs[0].contents.fp32_contents, np.float32), len(data) + 5


def _floats(data: bytes) -> NDArray[np.float32]:
    return np.frombuffer(data, "<f4")


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
