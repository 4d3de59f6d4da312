"""Tensors of every datatype of the Open Inference Protocol, as JSON and as the bytes of the binary extension.

Invariant: what is read and written again has the same bits, NaN apart, which JSON writes as ``null``. BYTES are texts
here, since a graph of ONNX holds UTF-8 and nothing else: a numpy array of ``str`` objects. Others, such as pictures,
stay ``bytes``, and `check_texts` refuses them where they would reach a graph.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from types import GenericAlias
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import RequestError, nearest

Number = float | None | Literal["NaN", "Infinity", "-Infinity"]

# Words of the Open Inference Protocol for the types of numpy.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}
WORDS = {dtype: word for word, dtype in DTYPES.items()}

# Of a shape in a question, so that sizes that no body fills are refused before anything is reserved for them.
MAX_RANK = 8
MAX_ELEMENTS = 1 << 28

_LENGTH = struct.Struct("<I")
_KINDS = {"b": "true or false", "f": "numbers or null (missing)", "O": "texts"}


def check_shape(datatype: str, shape: Sequence[int], where: str) -> None:
    """Refuse a datatype that the protocol does not have, and a shape that no tensor has."""
    if datatype not in DTYPES:
        asked = f"asked for one of {', '.join(DTYPES)}, found '{datatype[:40]}'"
        raise RequestError(f"{where}: {asked}{nearest(datatype[:40], DTYPES)}")
    fits = len(shape) <= MAX_RANK and all(size >= 0 for size in shape)
    if not fits or math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
        raise RequestError(
            f"{where}: shape {list(shape)[:20]} is none that a tensor of a model has: at most {MAX_RANK} sizes of 0 or "
            f"more, and {MAX_ELEMENTS} elements"
        )


def from_json(raw: bytes, datatype: str, shape: tuple[int, ...], where: str) -> NDArray[Any]:
    """The array of a list, flat or nested like the shape; ``where`` names it in errors.

    Raises
    ------
    RequestError
        The list is of another form or size, or holds what the datatype does not.
    """
    depth = _depth(raw)
    if not 1 <= depth <= max(len(shape), 1):
        asked = "a list, flat or nested like the shape"
        raise RequestError(f"{where}: 'data' is {asked} {list(shape)}, found {_start(raw)}")
    try:
        values = _decoder(datatype, depth).decode(raw)
    except msgspec.ValidationError as error:
        raise RequestError(f"{where}: 'data' of {datatype} holds {_holds(datatype)}: {_in_words(error)}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # texts are not looked at where a body is first read
        raise RequestError(f"{where}: 'data' is not JSON: {error}") from error
    except RecursionError as error:
        raise RequestError(f"{where}: 'data' is nested too deeply") from error
    return _array(_flattened(values, shape, depth, where), datatype, where).reshape(shape)


def json_values(array: NDArray[Any]) -> list[Any]:
    """Values of a flat array as JSON can hold them: NaN as None, infinities as words, everything else as it is."""
    values: list[Any] = array.tolist()
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return values
    return [value if math.isfinite(value) else _word(value) for value in values]


def from_bytes(data: memoryview, datatype: str, shape: tuple[int, ...], where: str) -> NDArray[Any]:
    """The array of the bytes of the binary extension; it may share their memory.

    Raises
    ------
    RequestError
        The bytes are more or fewer than the shape needs, or none of the datatype.
    """
    if datatype == "BYTES":
        return from_texts(_split(data, where), shape, where)
    dtype = DTYPES[datatype]
    asked = math.prod(shape) * dtype.itemsize
    if len(data) != asked:
        raise RequestError(f"{where}: shape {list(shape)} of {datatype} needs {asked} bytes, found {len(data)}")
    if dtype.kind == "b":
        octets = np.frombuffer(data, np.uint8)
        if len(octets) and octets.max() > 1:
            raise RequestError(f"{where}: asked for bytes of 0 or 1 for BOOL, found {octets.max()}")
        return octets.view(np.bool_).reshape(shape)
    array = np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape)
    # The JSON part has any length, so the bytes after it may stand on any address; a graph wants them aligned.
    return np.require(array, dtype, ["A", "C"])


def to_bytes(array: NDArray[Any]) -> bytes:
    """Little-endian, row by row; a text is its length in four bytes and its UTF-8."""
    if array.dtype.kind != "O":
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    texts = to_texts(array)
    return b"".join(chain.from_iterable((_LENGTH.pack(len(text)), text) for text in texts))


def from_texts(values: Sequence[bytes | memoryview], shape: tuple[int, ...], where: str) -> NDArray[Any]:
    """The array of texts in UTF-8, row by row.

    Raises
    ------
    RequestError
        They are more or fewer than the shape needs.
    """
    asked = math.prod(shape)
    if len(values) != asked:
        raise RequestError(f"{where}: shape {list(shape)} needs {asked} texts, found {len(values)}")
    array = np.empty(asked, object)
    array[:] = [_text(bytes(one)) for one in values]
    return array.reshape(shape)


def to_texts(array: NDArray[Any]) -> list[bytes]:
    """Texts of an array in UTF-8, row by row."""
    return [text.encode() for text in array.ravel().tolist()]


def check_texts(array: NDArray[Any], where: str) -> None:
    """Refuse what is no text, as a graph would not take it."""
    for index, one in enumerate(array.ravel().tolist()):
        if not isinstance(one, str):
            raise RequestError(f"{where}: text {index} is not UTF-8, as a graph's texts are")


def number_text(value: Any) -> str:
    """A number of numpy with the fewest digits that are its own; the words of JSON where it is not finite."""
    return str(value) if math.isfinite(value) else _word(value) or "NaN"


def _word(value: float) -> str | None:
    if math.isnan(value):
        return None
    return "Infinity" if value > 0 else "-Infinity"


def _holds(datatype: str) -> str:
    dtype = DTYPES[datatype]
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return f"integers from {limits.min} to {limits.max}"
    return _KINDS[dtype.kind]


@lru_cache(maxsize=len(DTYPES) * MAX_RANK)
def _decoder(datatype: str, depth: int) -> msgspec.json.Decoder[Any]:
    data = _json_type(DTYPES[datatype])
    for _ in range(depth):
        data = GenericAlias(list, (data,))
    return msgspec.json.Decoder(data)


def _json_type(dtype: np.dtype[Any]) -> Any:
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        # A bound beyond int64 cannot be given; numpy finds what is above.
        most = None if limits.max > np.iinfo(np.int64).max else int(limits.max)
        return Annotated[int, msgspec.Meta(ge=int(limits.min), le=most)]
    return {"b": bool, "f": Number, "O": str}[dtype.kind]


def _flattened(values: list[Any], shape: tuple[int, ...], depth: int, where: str) -> list[Any]:
    """All values in one list, where lists in lists have the sizes of the shape."""
    found = [len(values)]
    for _ in range(depth - 1):
        lengths = set(map(len, values))
        if len(lengths) > 1:
            raise RequestError(f"{where}: 'data' has rows of different lengths; pad with null")
        values = list(chain.from_iterable(values))
        found.append(lengths.pop() if lengths else 0)
    if depth == 1:
        fits = len(values) == math.prod(shape)
    else:  # lists that stand for a size of 0 hold no more lists
        fits = tuple(found) == shape[:depth] and (depth == len(shape) or not values)
    if not fits:
        raise RequestError(f"{where}: shape {list(shape)} asked by the request, data of {found} found")
    return values


def _array(values: list[Any], datatype: str, where: str) -> NDArray[Any]:
    dtype = DTYPES[datatype]
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return np.array(values, np.float64).astype(dtype)
    try:
        return np.array(values, dtype)
    except OverflowError as error:
        wrong = max(values)
        raise RequestError(f"{where}: 'data' of {datatype} holds {_holds(datatype)}, found {wrong}") from error


def _split(data: memoryview, where: str) -> list[memoryview]:
    """Texts that each have their length before them."""
    texts: list[memoryview] = []
    place = 0
    while place < len(data):
        start = place + _LENGTH.size
        place = start + _LENGTH.unpack_from(data, place)[0] if start <= len(data) else start
        if place > len(data):
            raise RequestError(f"{where}: text {len(texts)} is longer than the {len(data)} bytes of its tensor")
        texts.append(data[start:place])
    return texts


def _text(data: bytes) -> str | bytes:
    """An element of BYTES: a text where it is UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:  # said of it where a text is needed
        return data


def _depth(raw: bytes) -> int:
    """How deep the lists are nested, from the brackets at the start."""
    head = raw[:256].translate(None, b" \t\r\n")
    return len(head) - len(head.lstrip(b"["))


def _start(raw: bytes) -> str:
    return raw[:20].decode("utf-8", "replace") + ("..." if len(raw) > 20 else "")


def _in_words(error: msgspec.ValidationError) -> str:
    return str(error).replace("`float | str | null`", "a number").replace("`", "'")
