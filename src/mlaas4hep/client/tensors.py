"""Tensors of the Open Inference Protocol in its binary extension, as a client writes and reads them.

A short JSON header, then the bytes of every tensor. Invariant: float32 goes and comes with its bits, NaN included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import RequestError, ServerError

HEADER_LENGTH = "Inference-Header-Content-Length"
_WIRE_TYPE = np.dtype("<f4")


class _Output(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, Any] = {}


class _Answer(msgspec.Struct, frozen=True):
    outputs: tuple[_Output, ...]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Answer)


def encode_inputs(inputs: Mapping[str, NDArray[Any]]) -> tuple[bytes, int]:
    """Body of a question and the length of its header.

    Raises
    ------
    RequestError
        A tensor that is not float32: nothing is rounded behind the caller's back.
    """
    tails, tensors = [], []
    for name, array in inputs.items():
        if array.dtype != np.float32:
            raise RequestError(f"input '{name}': asked for float32, found {array.dtype}; use .astype('float32')")
        tail = array.astype(_WIRE_TYPE, copy=False).tobytes()
        tails.append(tail)
        tensors.append(
            {
                "name": name,
                "shape": array.shape,
                "datatype": "FP32",
                "parameters": {"binary_data_size": len(tail)},
            }
        )
    head = _encoder.encode({"inputs": tensors, "parameters": {"binary_data_output": True}})
    return b"".join([head, *tails]), len(head)


def decode_outputs(body: bytes, header_length: int) -> dict[str, NDArray[np.float32]]:
    """Tensors of an answer, by name.

    Raises
    ------
    ServerError
        The answer is not in the binary extension.
    """
    try:
        outputs = _decoder.decode(body[:header_length]).outputs
        tensors, start = {}, header_length
        for one in outputs:
            stop = start + int(one.parameters["binary_data_size"])
            # A copy: aligned, writable, and not keeping the whole answer in memory.
            tensors[one.name] = np.frombuffer(body[start:stop], _WIRE_TYPE).reshape(one.shape).astype(np.float32)
            start = stop
    except (msgspec.DecodeError, KeyError, ValueError) as error:
        raise ServerError(f"the answer is not in the binary tensor extension: {error!r}") from error
    return tensors
