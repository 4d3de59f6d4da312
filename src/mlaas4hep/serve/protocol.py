"""Open Inference Protocol v2 on the wire: tensors as JSON or in the binary extension.

Bytes come in here and leave as numpy arrays (`decode_request`), answers go the other way (`encode_response`); neither
side knows HTTP or a model. Invariant: a value that enters or leaves keeps its bits.

JSON has no NaN: ``null`` or ``"NaN"`` is a missing value of a float, ``"Infinity"`` and ``"-Infinity"`` are infinite,
in requests and in answers (where a NaN is written ``null``). A JSON number is read as a double and then rounded to FP32
or FP16, so that a client should send all digits of it (``float(x)`` in Python), as the answers here do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from numpy.typing import NDArray

from mlaas4hep.errors import RequestError
from mlaas4hep.serve.tensors import WORDS, check_shape, from_bytes, from_json, json_values, to_bytes

HEADER_LENGTH = "Inference-Header-Content-Length"

# Inputs and outputs of a question; no model has so many.
MAX_TENSORS = 1024
# Lists, keys and values of one body: each takes up to twenty times its letters in memory, and all of them the time of
# others. Numbers with all their digits never are so many.
MAX_LISTS, MAX_KEYS, MAX_VALUES = 1 << 20, 1 << 20, 1 << 23

Parameters = dict[str, bool | int | float | str | None]
Tensor = NDArray[Any]


class TensorMetadata(msgspec.Struct, frozen=True):
    """Name, datatype and shape of a tensor of a model; -1 stands for the number of events."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """Answer of ``GET /v2/models/{name}``; of several models as one with its members, which the protocol has not."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    members: tuple[str, ...] = ()


class ServerMetadata(msgspec.Struct, frozen=True):
    """Answer of ``GET /v2``."""

    name: str
    version: str
    extensions: tuple[str, ...]


class OutputChoice(msgspec.Struct, frozen=True):
    """An output that the client asks for, whether it wants the bytes rather than JSON, and how many classes.

    With ``classes`` above 0 the answer holds so many of the highest values of each row as texts ``value:index``.
    """

    name: str
    binary: bool = False
    classes: int = 0


class InferRequest(msgspec.Struct, frozen=True):
    """A question in tensors.

    Parameters
    ----------
    inputs
        Arrays by name, of the datatype and shape that the client declared.
    outputs
        Outputs asked for; empty asks for all.
    id
        Given back in the answer.
    binary_output
        All outputs as bytes, where `outputs` is empty.
    timeout_s
        How long the client waits: parameter ``timeout``, which counts microseconds as Triton's does; None for no end.
    model_sha256
        Parameter of that name: the graph that is to answer, and no other; empty for whichever is served.
    """

    inputs: dict[str, Tensor]
    outputs: tuple[OutputChoice, ...] = ()
    id: str = ""
    binary_output: bool = False
    timeout_s: float | None = None
    model_sha256: str = ""


class InferResponse(msgspec.Struct, frozen=True):
    """An answer in tensors by output name, in the order of the question."""

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


# An integer of JSON may be larger than any float.
_LONGEST_US = 1e300
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
    check_counts(len(wire.inputs), len(wire.outputs))
    inputs: dict[str, Tensor] = {}
    for one in wire.inputs:
        if one.name in inputs:
            raise RequestError(f"input '{one.name}' is given twice")
        inputs[one.name], binary = _read_tensor(one, binary)
    if len(binary):
        raise RequestError(f"{len(binary)} bytes follow the last binary input; see its binary_data_size")
    return InferRequest(
        inputs=inputs,
        outputs=_choices(wire.outputs),
        id=wire.id,
        binary_output=wire.parameters.get("binary_data_output") is True,
        timeout_s=seconds_of(wire.parameters.get("timeout", 0)),
        model_sha256=hash_of(wire.parameters.get("model_sha256", "")),
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
    tails = {name: to_bytes(tensor) for name, tensor in response.outputs.items() if name in binary}
    outputs = tuple(_wire_output(name, one, tails.get(name)) for name, one in response.outputs.items())
    head = _encoder.encode(_WireResponse(response.model_name, response.model_version, outputs, response.id))
    return (b"".join([head, *tails.values()]), len(head)) if binary else (head, None)


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


def check_pieces(body: bytes, *, lists: int | None = None, keys: int | None = None) -> None:
    """Refuse a body that would become far larger in memory, before it is read; None takes the usual bounds."""
    lists, keys = lists or MAX_LISTS, keys or MAX_KEYS
    if len(body) < lists:
        return
    for mark, what, most in ((b"[", "lists", lists), (b'":', "keys", keys), (b",", "values", MAX_VALUES)):
        found = body.count(mark)
        if found > most:
            hint = "send tensors flat or as bytes, events as Arrow, or less at a time"
            raise RequestError(f"the body has {found} {what}; at most {most} are read: {hint}")


def hash_of(given: object) -> str:
    """Of parameter ``model_sha256``. Raises RequestError."""
    if not isinstance(given, str):
        raise RequestError(f"parameter 'model_sha256': asked for the hash of a model as text, found '{given}'")
    return given


def seconds_of(timeout: object) -> float | None:
    """Of parameter ``timeout``, which counts microseconds as Triton's does; 0 stands for none. Raises RequestError."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 <= timeout < _LONGEST_US:
        raise RequestError(f"parameter 'timeout': asked for a number of microseconds, found '{timeout}'")
    return float(timeout) / 1e6 if timeout else None


def check_counts(inputs: int, outputs: int) -> None:
    """Refuse more of them than any model has; raises RequestError."""
    for what, found in (("inputs", inputs), ("outputs", outputs)):
        if found > MAX_TENSORS:
            raise RequestError(f"{found} {what} are given; at most {MAX_TENSORS} are taken")


def check_once(choices: Sequence[OutputChoice]) -> tuple[OutputChoice, ...]:
    """Outputs as they are asked for; `RequestError` where one is asked twice."""
    names = [one.name for one in choices]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RequestError(f"output '{twice}' is asked twice")
    return tuple(choices)


def check_classes(classes: object, output: str) -> int:
    """Of parameter ``classification`` of an output; 0 asks for the values. Raises RequestError."""
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 0:
        asked = f"parameter 'classification': asked for a number of classes, found '{classes}'"
        raise RequestError(f"output '{output}': {asked}")
    return classes


def _choices(wire: tuple[_WireChoice, ...]) -> tuple[OutputChoice, ...]:
    return check_once([_choice(one) for one in wire])


def _choice(wire: _WireChoice) -> OutputChoice:
    classes = check_classes(wire.parameters.get("classification", 0), wire.name)
    return OutputChoice(wire.name, binary=wire.parameters.get("binary_data") is True, classes=classes)


def _read_tensor(wire: _WireInput, binary: memoryview) -> tuple[Tensor, memoryview]:
    """One input, and the binary part that is left after it."""
    where = f"input '{wire.name}'"
    check_shape(wire.datatype, wire.shape, where)
    if "binary_data_size" in wire.parameters:
        return _read_binary(wire, binary, where)
    if not len(bytes(wire.data)):
        raise RequestError(f"{where}: neither 'data' nor parameter 'binary_data_size' is there")
    return from_json(bytes(wire.data), wire.datatype, wire.shape, where), binary


def _read_binary(wire: _WireInput, binary: memoryview, where: str) -> tuple[Tensor, memoryview]:
    size = wire.parameters["binary_data_size"]
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise RequestError(f"{where}: parameter 'binary_data_size': asked for a number of bytes, found '{size}'")
    if len(binary) < size:
        raise RequestError(f"{where}: {size} bytes announced, {len(binary)} bytes follow the JSON part")
    return from_bytes(binary[:size], wire.datatype, wire.shape, where), binary[size:]


def _wire_output(name: str, tensor: Tensor, binary: bytes | None) -> _WireOutput:
    datatype = WORDS[tensor.dtype]
    if binary is not None:
        return _WireOutput(name, datatype, tensor.shape, parameters={"binary_data_size": len(binary)})
    return _WireOutput(name, datatype, tensor.shape, data=json_values(tensor.ravel()))
