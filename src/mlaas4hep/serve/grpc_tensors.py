"""Tensors in and out of the messages of the Open Inference Protocol over gRPC: typed contents, or raw bytes.

Raw contents are the bytes of HTTP's binary extension. Invariant: an answer is raw unless its question was typed and all
its outputs have a typed form, which FP16 has not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import RequestError
from mlaas4hep.serve.oip import message
from mlaas4hep.serve.protocol import (
    InferRequest,
    InferResponse,
    OutputChoice,
    check_classes,
    check_counts,
    check_once,
    hash_of,
    seconds_of,
)
from mlaas4hep.serve.tensors import DTYPES, WORDS, check_shape, from_bytes, from_texts, to_bytes, to_texts

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


def read_request(request: Any) -> InferRequest:
    """A question of a ModelInferRequest.

    Raises
    ------
    RequestError
        Tensors that are too many, given twice or do not fill their shape, outputs that are asked twice, raw contents
        that are not one an input, or a parameter that asks for what is not served.
    """
    check_counts(len(request.inputs), len(request.outputs))
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise RequestError(f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs; asked for one an input")
    inputs: dict[str, NDArray[Any]] = {}
    for place, one in enumerate(request.inputs):
        if one.name in inputs:
            raise RequestError(f"input '{one.name}' is given twice")
        inputs[one.name] = _read_tensor(one, raw[place] if raw else None)
    timeout_s = seconds_of(_parameter(request.parameters, "timeout", 0))
    graph = hash_of(_parameter(request.parameters, "model_sha256", ""))
    outputs = check_once([_choice(one) for one in request.outputs])
    return InferRequest(inputs, outputs, id=request.id, timeout_s=timeout_s, model_sha256=graph)


def write_response(response: InferResponse, *, raw: bool) -> bytes:
    """A ModelInferResponse, on the wire."""
    answer = message("ModelInferResponse")(
        model_name=response.model_name, model_version=response.model_version, id=response.id
    )
    words = {name: WORDS[array.dtype] for name, array in response.outputs.items()}
    raw = raw or any(word not in CONTENTS for word in words.values())
    for name, array in response.outputs.items():
        word = words[name]
        tensor = answer.outputs.add(name=name, datatype=word, shape=array.shape)
        if raw:
            answer.raw_output_contents.append(to_bytes(array))
        else:
            values = to_texts(array) if word == "BYTES" else array.ravel().tolist()
            getattr(tensor.contents, CONTENTS[word]).extend(values)
    data: bytes = answer.SerializeToString()
    return data


def _read_tensor(one: Any, raw: bytes | None) -> NDArray[Any]:
    where, word, shape = f"input '{one.name}'", one.datatype, tuple(one.shape)
    check_shape(word, shape, where)
    if raw is None:
        return _read_typed(one.contents, word, shape, where)
    if one.HasField("contents"):
        raise RequestError(f"{where}: contents are given beside raw_input_contents; asked for one of both")
    return from_bytes(memoryview(raw), word, shape, where)


def _read_typed(contents: Any, word: str, shape: tuple[int, ...], where: str) -> NDArray[Any]:
    if word not in CONTENTS:
        raise RequestError(f"{where}: {word} has no typed contents; send raw_input_contents")
    others = [field.name for field, _ in contents.ListFields() if field.name != CONTENTS[word]]
    if others:
        raise RequestError(f"{where}: {word} is sent in {CONTENTS[word]}, found {', '.join(others)}")
    values, count = getattr(contents, CONTENTS[word]), math.prod(shape)
    if word == "BYTES":
        return from_texts(values, shape, where)
    if len(values) != count:
        raise RequestError(
            f"{where}: shape {list(shape)} needs {count} values, found {len(values)} in {CONTENTS[word]}"
        )
    try:
        return np.fromiter(values, DTYPES[word], count).reshape(shape)
    except OverflowError as error:
        raise RequestError(f"{where}: a value is not one of {word}") from error


def _choice(wire: Any) -> OutputChoice:
    classes = check_classes(_parameter(wire.parameters, "classification", 0), wire.name)
    return OutputChoice(wire.name, binary=True, classes=classes)


def _parameter(parameters: Any, name: str, missing: Any) -> Any:
    if name not in parameters:
        return missing
    kind = parameters[name].WhichOneof("parameter_choice")
    return getattr(parameters[name], kind) if kind else None
