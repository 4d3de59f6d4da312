"""Tensors of the Open Inference Protocol as a client writes and reads them: a JSON header, then the bytes of each one.

All datatypes that numpy has; BYTES are texts or bytes in arrays of objects. Invariant: values go and come with their
bits, and nothing is converted behind the caller's back. As JSON (on request) a NaN is null and infinities are words.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.client.wire import Broken
from mlaas4hep.errors import RequestError, ServerError, nearest

HEADER_LENGTH = "Inference-Header-Content-Length"

Tensors = dict[str, NDArray[Any]]

DATATYPES = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
_NAMES = {wire: name for name, wire in DATATYPES.items()}
_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Encoded(msgspec.Struct, frozen=True):
    """The body of a question.

    Parameters
    ----------
    parts
        In order.
    header_length
        Of the JSON in front of binary tensors; None where all is JSON.
    headers
        Lines that say so.
    """

    parts: tuple[bytes, ...]
    header_length: int | None
    headers: str


class _Output(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class _Answer(msgspec.Struct, frozen=True):
    outputs: tuple[_Output, ...]
    id: str = ""
    model_version: Any = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Answer)


def encode_question(
    inputs: Mapping[str, NDArray[Any]],
    *,
    outputs: Sequence[str] = (),
    binary: bool = True,
    id: str = "",
    parameters: Mapping[str, Any] | None = None,
) -> Encoded:
    """Body of a question.

    Parameters
    ----------
    inputs
        Arrays by name.
    outputs
        Those asked for; none asks for all.
    binary
        Tensors as their bytes, there and back.
    id
        That the answer must bear.
    parameters
        Of the whole question.

    Raises
    ------
    RequestError
        What is no array, or one of a type that the protocol does not have.
    """
    tensors: list[dict[str, Any]] = []
    tails: list[bytes] = []
    for name, array in inputs.items():
        datatype = datatype_of(array, name)
        tensor: dict[str, Any] = {"name": name, "shape": array.shape, "datatype": datatype}
        if binary:
            tail = _bytes_of(array, datatype, name)
            tails.append(tail)
            tensor["parameters"] = {"binary_data_size": len(tail)}
        else:
            tensor["data"] = _values_of(array, datatype, name)
        tensors.append(tensor)
    question: dict[str, Any] = {"id": id} if id else {}
    question["inputs"] = tensors
    if outputs:
        chosen: dict[str, Any] = {"parameters": {"binary_data": True}} if binary else {}
        question["outputs"] = [{"name": name, **chosen} for name in outputs]
    whole = dict(parameters or {})
    if binary:
        whole["binary_data_output"] = True
    if whole:
        question["parameters"] = whole
    head = _encoder.encode(question)
    if not binary:
        return Encoded((head,), None, "")
    return Encoded((head, *tails), len(head), _BINARY.format(len(head)))


_BINARY = "Content-Type: application/octet-stream\r\n" + HEADER_LENGTH + ": {}\r\n"


def decode_answer(
    body: bytes, header_length: int | None = None, *, id: str = "", note: Callable[[object], None] | None = None
) -> Tensors:
    """Tensors of an answer, by name; ``note`` is told the version that gave it.

    Raises
    ------
    ServerError
        The answer is none of the protocol, or does not hold what it announces.
    Broken
        It bears the id of another question.
    """
    if header_length is not None and header_length > len(body):
        raise ServerError("the answer is shorter than the JSON that it announces")
    try:
        answer = _decoder.decode(body if header_length is None else memoryview(body)[:header_length])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ServerError(f"the answer is none of the Open Inference Protocol: {error}") from error
    if answer.id and id and answer.id != id:
        raise Broken("the answer is that of another question")
    start = len(body) if header_length is None else header_length
    tensors: Tensors = {}
    for one in answer.outputs:
        try:
            tensors[one.name], start = _read(one, body, start)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise ServerError(f"output '{one.name}' of the answer does not hold what it announces: {error}") from error
    if start != len(body):
        raise ServerError(f"the answer has {len(body) - start} bytes behind its last output")
    if note is not None:
        note(answer.model_version)
    return tensors


def datatype_of(array: Any, name: str) -> str:
    """Its datatype in the protocol's words."""
    if type(array) is not np.ndarray and not isinstance(array, np.ndarray):
        raise RequestError(f"input '{name}': asked for a numpy array, found {type(array).__name__}; use numpy.asarray")
    found = _NAMES.get(array.dtype)
    if found is not None:
        return found
    if array.dtype.kind in "US":
        return "BYTES"
    found = _NAMES.get(array.dtype.newbyteorder("<"))
    if found is None:
        hint = nearest(array.dtype.name, [one.name for one in _NAMES])
        raise RequestError(f"input '{name}': numpy's {array.dtype} is no datatype of the protocol{hint}")
    return found


def _bytes_of(array: NDArray[Any], datatype: str, name: str) -> bytes:
    if datatype == "BYTES":
        texts = list(_texts(array, name))
        return b"".join(itertools.chain.from_iterable((len(one).to_bytes(4, "little"), one) for one in texts))
    wire = DATATYPES[datatype]
    # Equal types may differ in their byte order alone; tobytes is in C order whatever the array is.
    return array.tobytes() if array.dtype == wire else array.astype(wire).tobytes()


def _values_of(array: NDArray[Any], datatype: str, name: str) -> list[Any]:
    flat = array.ravel()
    if datatype == "BYTES":
        try:
            return [one.decode() for one in _texts(array, name)]
        except UnicodeDecodeError as error:
            raise RequestError(
                f"input '{name}': JSON holds texts, and these bytes are none; send them binary"
            ) from error
    values: list[Any] = flat.tolist()
    if array.dtype.kind != "f" or np.isfinite(flat).all():
        return values
    return [plain_float(value) for value in values]


def plain_float(value: float) -> float | str | None:
    """As JSON can hold it: NaN as null, infinities as words."""
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _texts(array: NDArray[Any], name: str) -> Iterator[bytes]:
    for one in array.ravel().tolist():
        if isinstance(one, str):
            yield one.encode()
        elif isinstance(one, bytes | bytearray):
            yield bytes(one)
        else:
            raise RequestError(f"input '{name}': an array of objects holds texts or bytes, found {type(one).__name__}")


def _read(output: _Output, body: bytes, start: int) -> tuple[NDArray[Any], int]:
    """One output, and where the bytes of the next begin."""
    wire = DATATYPES[output.datatype]
    size = output.parameters.get("binary_data_size") if output.parameters else None
    if size is None:
        if output.data is None:
            raise ValueError("it has neither data nor a size")
        return _from_json(output, wire), start
    stop = start + int(size)
    if size < 0 or stop > len(body):
        raise ValueError(f"{size} bytes announced, {len(body) - start} are there")
    count = math.prod(output.shape)
    if output.datatype == "BYTES":
        return _read_texts(body[start:stop], count).reshape(output.shape), stop
    if count * wire.itemsize != size:
        raise ValueError(f"shape {list(output.shape)} has {count * wire.itemsize} bytes, not {size}")
    # A copy: aligned, writable, and not keeping the whole answer in memory.
    array = np.frombuffer(body, wire, count, start).astype(wire.newbyteorder("=")).reshape(output.shape)
    return array, stop


def _from_json(output: _Output, wire: np.dtype[Any]) -> NDArray[Any]:
    flat = output.data or []
    for _ in range(len(output.shape)):
        if flat and isinstance(flat[0], list):  # nested like the shape, which is allowed too
            flat = list(itertools.chain.from_iterable(flat))
    if output.datatype == "BYTES":
        array = np.empty(len(flat), object)
        array[:] = [str(one).encode() for one in flat]
        return array.reshape(output.shape)
    if wire.kind == "f":
        flat = [math.nan if one is None else _WORDS[one] if isinstance(one, str) else one for one in flat]
        return np.array(flat, np.float64).astype(wire.newbyteorder("=")).reshape(output.shape)
    return np.array(flat, wire.newbyteorder("=")).reshape(output.shape)


def _read_texts(data: bytes, count: int) -> NDArray[Any]:
    """Each with its length in four bytes in front."""
    texts: list[bytes] = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        if at + 4 + size > len(data):
            raise ValueError("a text is cut off")
        texts.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    if len(texts) != count:
        raise ValueError(f"{count} texts announced, {len(texts)} are there")
    array = np.empty(count, object)
    array[:] = texts
    return array
