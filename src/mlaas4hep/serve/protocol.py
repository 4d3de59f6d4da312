"""Open Inference Protocol v2 on the wire: tensors as JSON or in the binary extension.

Bytes come in here and leave as numpy arrays (`decode_request`), answers go the other way (`encode_response`); neither
side knows HTTP or a model. Invariant: a float32 that enters or leaves keeps its bits.

JSON has no NaN: ``null`` or ``"NaN"`` is a missing value, ``"Infinity"`` and ``"-Infinity"`` are infinite, in requests
and in answers (where a NaN is written ``null``). A JSON number is read as a double and then rounded to float32, so that
a client should send all digits of the float32 (``float(x)`` in Python), as the answers here do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import RequestError

DATATYPE = "FP32"
HEADER_LENGTH = "Inference-Header-Content-Length"

Parameters = dict[str, bool | int | float | str | None]
Number = float | None | Literal["NaN", "Infinity", "-Infinity"]
Tensor = NDArray[np.float32]

_WIRE_TYPE = np.dtype("<f4")
# Keeps the product of three sizes inside an int64, whatever a request says.
_MAX_SIZE = 1 << 20
_LIST_DECODERS: dict[int, msgspec.json.Decoder[Any]] = {
    1: msgspec.json.Decoder(list[Number]),
    2: msgspec.json.Decoder(list[list[Number]]),
    3: msgspec.json.Decoder(list[list[list[Number]]]),
}


class TensorMetadata(msgspec.Struct, frozen=True):
    """Name, datatype and shape of a tensor of a model; -1 stands for the number of events."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct, frozen=True):
    """Answer of ``GET /v2/models/{name}``."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class ServerMetadata(msgspec.Struct, frozen=True):
    """Answer of ``GET /v2``."""

    name: str
    version: str
    extensions: tuple[str, ...]


class OutputChoice(msgspec.Struct, frozen=True):
    """An output that the client asks for, and whether it wants the bytes rather than JSON."""

    name: str
    binary: bool = False


class InferRequest(msgspec.Struct, frozen=True):
    """A question in tensors.

    Parameters
    ----------
    inputs
        float32 arrays by name, in the shape that the client declared.
    outputs
        Outputs asked for; empty asks for all.
    id
        Given back in the answer.
    binary_output
        All outputs as bytes, where `outputs` is empty.
    timeout_s
        How long the client waits: parameter ``timeout``, which counts microseconds as Triton's does; None for no end.
    """

    inputs: dict[str, Tensor]
    outputs: tuple[OutputChoice, ...] = ()
    id: str = ""
    binary_output: bool = False
    timeout_s: float | None = None


class InferResponse(msgspec.Struct, frozen=True):
    """An answer in tensors, float32 by output name."""

    model_name: str
    model_version: str
    outputs: dict[str, Tensor]
    id: str = ""


class _WireInput(msgspec.Struct, frozen=True):
    name: str
    shape: tuple[int, ...]
    datatype: str
    data: msgspec.Raw = msgspec.Raw()
    parameters: Parameters = {}


class _WireChoice(msgspec.Struct, frozen=True):
    name: str
    parameters: Parameters = {}


class _WireRequest(msgspec.Struct, frozen=True):
    inputs: tuple[_WireInput, ...]
    id: str = ""
    outputs: tuple[_WireChoice, ...] = ()
    parameters: Parameters = {}


class _WireOutput(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: Parameters = {}
    data: list[Any] | None = None


class _WireResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: tuple[_WireOutput, ...]
    id: str = ""


_decoder = msgspec.json.Decoder(_WireRequest)
_encoder = msgspec.json.Encoder()


def decode_request(body: bytes, header_length: int | None = None) -> InferRequest:
    """Read a question.

    Parameters
    ----------
    body
        JSON, followed by the bytes of binary tensors in the order of the inputs.
    header_length
        Length of the JSON part; None where all of the body is JSON.

    Raises
    ------
    RequestError
        Not JSON, not of the protocol, or data that do not fill their shape.
    """
    if header_length is not None and not 0 <= header_length <= len(body):
        raise RequestError(f"{HEADER_LENGTH} is {header_length}, but the body has {len(body)} bytes")
    head = body if header_length is None else body[:header_length]
    wire: _WireRequest = decode_json(_decoder, head)
    binary = memoryview(body)[len(head) :]
    inputs: dict[str, Tensor] = {}
    for one in wire.inputs:
        if one.name in inputs:
            raise RequestError(f"input '{one.name}' is given twice")
        inputs[one.name], binary = _read_tensor(one, binary)
    if len(binary):
        raise RequestError(f"{len(binary)} bytes follow the last binary input; see its binary_data_size")
    return InferRequest(
        inputs=inputs,
        outputs=tuple(_choice(one) for one in wire.outputs),
        id=wire.id,
        binary_output=wire.parameters.get("binary_data_output") is True,
        timeout_s=_timeout_s(wire.parameters),
    )


def encode_response(response: InferResponse, request: InferRequest) -> tuple[bytes, int | None]:
    """Write an answer as its question asks for it.

    Returns
    -------
    body, header_length
        ``header_length`` is the length of the JSON part where binary tensors follow it, else None.
    """
    binary = {one.name for one in request.outputs if one.binary}
    if request.binary_output and not request.outputs:
        binary = set(response.outputs)
    tails = [tensor.astype(_WIRE_TYPE).tobytes() for name, tensor in response.outputs.items() if name in binary]
    outputs = tuple(_wire_output(name, one, name in binary) for name, one in response.outputs.items())
    head = _encoder.encode(_WireResponse(response.model_name, response.model_version, outputs, response.id))
    return (b"".join([head, *tails]), len(head)) if binary else (head, None)


def decode_json(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """Decode, with every way to fail turned into a `RequestError` that says where."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise RequestError(f"the request does not fit the protocol: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = "; JSON has no bare NaN, write null for a missing value" if b"NaN" in body else ""
        raise RequestError(f"the body is not JSON: {error}{hint}") from error
    except RecursionError as error:
        raise RequestError("the body is nested too deeply") from error


def json_values(array: NDArray[Any]) -> list[Any]:
    """Numbers of a flat array as JSON can hold them: NaN as None, infinities as words."""
    values: list[Any] = array.tolist()
    if np.isfinite(array).all():
        return values
    return [value if math.isfinite(value) else _word(value) for value in values]


def _word(value: float) -> str | None:
    if math.isnan(value):
        return None
    return "Infinity" if value > 0 else "-Infinity"


def _timeout_s(parameters: Parameters) -> float | None:
    """0 stands for none, as with Triton."""
    found = parameters.get("timeout", 0)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < math.inf:
        raise RequestError(f"parameter 'timeout': asked for a number of microseconds, found '{found}'")
    return found / 1e6 if found else None


def _choice(wire: _WireChoice) -> OutputChoice:
    if wire.parameters.get("classification"):
        raise RequestError(f"output '{wire.name}': the classification extension is not served; ask for the scores")
    return OutputChoice(wire.name, binary=wire.parameters.get("binary_data") is True)


def _read_tensor(wire: _WireInput, binary: memoryview) -> tuple[Tensor, memoryview]:
    """One input, and the binary part that is left after it."""
    where = f"input '{wire.name}'"
    if wire.datatype != DATATYPE:
        raise RequestError(f"{where}: asked for datatype {DATATYPE}, found '{wire.datatype}'")
    if len(wire.shape) not in _LIST_DECODERS or not all(0 <= size <= _MAX_SIZE for size in wire.shape):
        raise RequestError(f"{where}: shape {list(wire.shape)} is none that a tensor of a model has")
    if "binary_data_size" in wire.parameters:
        return _read_binary(wire, binary, where)
    if not len(bytes(wire.data)):
        raise RequestError(f"{where}: neither 'data' nor parameter 'binary_data_size' is there")
    return _read_json(wire, where), binary


def _read_binary(wire: _WireInput, binary: memoryview, where: str) -> tuple[Tensor, memoryview]:
    size, asked = wire.parameters["binary_data_size"], math.prod(wire.shape) * _WIRE_TYPE.itemsize
    if size != asked:
        raise RequestError(f"{where}: shape {list(wire.shape)} needs binary_data_size {asked}, found {size}")
    if len(binary) < asked:
        raise RequestError(f"{where}: {asked} bytes announced, {len(binary)} bytes follow the JSON part")
    array = np.frombuffer(binary[:asked], dtype=_WIRE_TYPE).reshape(wire.shape)
    # The JSON part has any length, so the bytes after it may stand on any address; a graph wants them aligned.
    return np.require(array, np.float32, ["A", "C"]), binary[asked:]


def _read_json(wire: _WireInput, where: str) -> Tensor:
    raw = bytes(wire.data)
    depth = _depth(raw)
    if depth not in _LIST_DECODERS:
        raise RequestError(f"{where}: 'data' is a list of numbers, flat or nested like the shape")
    try:
        values = _LIST_DECODERS[depth].decode(raw)
    except msgspec.ValidationError as error:
        raise RequestError(f"{where}: 'data' holds numbers or null (missing): {_in_words(error)}") from error
    return _fill(values, wire.shape, depth, where)


def _fill(values: list[Any], shape: tuple[int, ...], depth: int, where: str) -> Tensor:
    try:
        array = np.array(values, dtype=np.float64)
    except ValueError as error:
        raise RequestError(f"{where}: 'data' has rows of different lengths; pad with null") from error
    fits = array.size == math.prod(shape) if depth == 1 else array.shape == shape
    if not fits:
        raise RequestError(f"{where}: shape {list(shape)} asked by the request, data of {list(array.shape)} found")
    with np.errstate(over="ignore"):
        return array.astype(np.float32).reshape(shape)


def _depth(raw: bytes) -> int:
    """How deep the lists are nested, from the brackets at the start."""
    head = raw[:256].translate(None, b" \t\r\n")
    return len(head) - len(head.lstrip(b"["))


def _in_words(error: msgspec.ValidationError) -> str:
    return str(error).replace("`float | str | null`", "a number").replace("`", "'")


def _wire_output(name: str, tensor: Tensor, binary: bool) -> _WireOutput:
    if binary:
        size: Mapping[str, Any] = {"binary_data_size": tensor.size * _WIRE_TYPE.itemsize}
        return _WireOutput(name, DATATYPE, tensor.shape, parameters=dict(size))
    return _WireOutput(name, DATATYPE, tensor.shape, data=json_values(tensor.ravel()))
