"""Tensors in and out of the messages of the Open Inference Protocol over gRPC: typed contents, or raw bytes.

Raw contents are little-endian values row by row, and texts each with its length in four bytes before it. Invariant: an
answer is raw unless its question was typed and all its outputs have a typed form, which FP16 has not.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import RequestError, nearest
from mlaas4hep.serve.model import TensorSpec
from mlaas4hep.serve.oip import message
from mlaas4hep.serve.protocol import InferRequest, OutputChoice
from mlaas4hep.serve.tensors import DTYPES, text_or_bytes

CONTENTS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_WIRE = {word: dtype.newbyteorder("<") for word, dtype in DTYPES.items()}
_MAX_RANK, _MAX_SIZE = 16, 1 << 31
_length = struct.Struct("<I")


def read_request(request: Any) -> InferRequest:
    """A question of a ModelInferRequest.

    Raises
    ------
    RequestError
        Tensors that are given twice or do not fill their shape, raw contents that are not one an input, or a parameter
        that asks for what is not served.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise RequestError(f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs; asked for one an input")
    inputs: dict[str, NDArray[Any]] = {}
    for place, one in enumerate(request.inputs):
        if one.name in inputs:
            raise RequestError(f"input '{one.name}' is given twice")
        inputs[one.name] = _read_tensor(one, raw[place] if raw else None)
    outputs = tuple(map(_choice, request.outputs)) if request.outputs else ()
    return InferRequest(inputs, outputs, id=request.id, timeout_s=_timeout_s(request.parameters))


def write_response(
    name: str, version: str, id: str, outputs: Mapping[str, NDArray[Any]], specs: tuple[TensorSpec, ...], *, raw: bool
) -> bytes:
    """A ModelInferResponse, on the wire."""
    answer = message("ModelInferResponse")(model_name=name, model_version=version, id=id)
    words = {one.name: one.datatype for one in specs}
    raw = raw or any(words[one] not in CONTENTS for one in outputs)
    for output, array in outputs.items():
        word = words[output]
        tensor = answer.outputs.add(name=output, datatype=word, shape=array.shape)
        if raw:
            answer.raw_output_contents.append(_raw(array, word))
        else:
            values = [_encoded(one) for one in array.flat] if word == "BYTES" else array.ravel().tolist()
            getattr(tensor.contents, CONTENTS[word]).extend(values)
    data: bytes = answer.SerializeToString()
    return data


def _read_tensor(one: Any, raw: bytes | None) -> NDArray[Any]:
    where, word = f"input '{one.name}'", one.datatype
    dtype = _WIRE.get(word)
    if dtype is None:
        raise RequestError(f"{where}: unknown datatype '{word[:40]}'{nearest(word[:40], DTYPES)}")
    shape = tuple(one.shape)
    if len(shape) > _MAX_RANK or (shape and (min(shape) < 0 or max(shape) > _MAX_SIZE)):
        raise RequestError(f"{where}: shape {list(shape)} is none that a tensor has")
    count = math.prod(shape)
    if raw is None:
        flat = _read_typed(one.contents, word, count, where)
    elif one.HasField("contents"):
        raise RequestError(f"{where}: contents are given beside raw_input_contents; asked for one of both")
    elif word == "BYTES":
        flat = _texts(_split(raw, where), count, where)
    elif len(raw) != count * dtype.itemsize:
        need = f"shape {list(shape)} of {word} needs {count * dtype.itemsize} bytes"
        raise RequestError(f"{where}: {need}, found {len(raw)} in raw_input_contents")
    else:
        flat = np.frombuffer(raw, dtype)
        if word == "BOOL" and count and flat.view(np.uint8).max() > 1:
            raise RequestError(f"{where}: a BOOL is 0 or 1")
    return flat.reshape(shape)


def _read_typed(contents: Any, word: str, count: int, where: str) -> NDArray[Any]:
    if word not in CONTENTS:
        raise RequestError(f"{where}: {word} has no typed contents; send raw_input_contents")
    others = [field.name for field, _ in contents.ListFields() if field.name != CONTENTS[word]]
    if others:
        raise RequestError(f"{where}: {word} is sent in {CONTENTS[word]}, found {', '.join(others)}")
    values = getattr(contents, CONTENTS[word])
    if word == "BYTES":
        return _texts(list(values), count, where)
    if len(values) != count:
        raise RequestError(f"{where}: its shape has {count} elements, found {len(values)} in {CONTENTS[word]}")
    try:
        return np.fromiter(values, DTYPES[word], count)
    except OverflowError as error:
        raise RequestError(f"{where}: a value is not one of {word}") from error


def _split(raw: bytes, where: str) -> list[bytes]:
    parts, at = [], 0
    while at < len(raw):
        start = at + 4
        stop = start + _length.unpack_from(raw, at)[0] if start <= len(raw) else len(raw) + 1
        if stop > len(raw):
            raise RequestError(f"{where}: its raw_input_contents end within a text; each has its length before it")
        parts.append(raw[start:stop])
        at = stop
    return parts


def _texts(values: list[bytes], count: int, where: str) -> NDArray[Any]:
    if len(values) != count:
        raise RequestError(f"{where}: its shape has {count} elements, found {len(values)} texts")
    array = np.empty(count, dtype=object)
    array[:] = list(map(text_or_bytes, values))
    return array


def _raw(array: NDArray[Any], word: str) -> bytes:
    if word != "BYTES":
        return array.astype(_WIRE[word], copy=False).tobytes()
    texts = [_encoded(one) for one in array.flat]
    return b"".join(_length.pack(len(one)) + one for one in texts)


def _encoded(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _choice(wire: Any) -> OutputChoice:
    if "classification" in wire.parameters:
        raise RequestError(f"output '{wire.name}': the classification extension is not served; ask for the scores")
    return OutputChoice(wire.name, binary=True)


def _timeout_s(parameters: Any) -> float | None:
    """Parameter ``timeout``, in microseconds as Triton's; 0 stands for none."""
    if "timeout" not in parameters:
        return None
    one = parameters["timeout"]
    kind = one.WhichOneof("parameter_choice")
    found: Any = getattr(one, kind) if kind else None
    if kind not in ("int64_param", "uint64_param", "double_param") or not 0 <= found < math.inf:
        raise RequestError(f"parameter 'timeout': asked for a number of microseconds, found '{found}'")
    return found / 1e6 if found else None
