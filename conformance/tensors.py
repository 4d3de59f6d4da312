"""Tensors of any datatype of the protocol: made at random, written as JSON and as bytes, read back, compared.

Invariant: a numpy array of the datatype's own type stands on both sides; BYTES is an object array of ``bytes``.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
_WORDS = (b"muon", b"electron", b"jet", b"tau", b"photon", b"neutrino")
_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf, None: math.nan}


@dataclass(frozen=True)
class Spec:
    """A tensor as a model declares it; -1 is a size that a request chooses."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def batched(self) -> bool:
        return bool(self.shape) and self.shape[0] == -1

    @property
    def floating(self) -> bool:
        return self.datatype in ("FP16", "FP32", "FP64")

    @property
    def integer(self) -> bool:
        return "INT" in self.datatype

    def sized(self, rows: int, free: int) -> tuple[int, ...]:
        """The shape with `rows` first, where that is open, and `free` for other open sizes."""
        sizes = [free if size < 0 else size for size in self.shape]
        return (rows, *sizes[1:]) if self.batched else tuple(sizes)


def make(spec: Spec, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """Values that most models take: numbers around 0, small counts, short words."""
    kind = TYPES[spec.datatype]
    if spec.datatype == "BYTES":
        values = np.empty(math.prod(shape), dtype=object)
        values[:] = [_WORDS[one] for one in random.integers(0, len(_WORDS), values.size)]
        return values.reshape(shape)
    if spec.floating:
        return np.asarray(random.normal(size=shape)).astype(kind)
    return np.asarray(random.integers(0, 2 if spec.datatype == "BOOL" else 4, shape)).astype(kind)


def to_json(array: Array) -> list[Any]:
    """Flat values for JSON: every digit of a float, NaN as null, infinities as words."""
    flat = array.ravel()
    if array.dtype == object:
        return [one.decode() for one in flat]
    values: list[Any] = flat.tolist()
    if array.dtype.kind != "f" or np.isfinite(flat).all():
        return values
    return [one if math.isfinite(one) else None if math.isnan(one) else _word(one) for one in values]


def from_json(data: Any, datatype: str, shape: Sequence[int]) -> Array:
    """Read flat or nested values. Raises ValueError where they do not fit."""
    values = list(_flat(data))
    if len(values) != math.prod(shape):
        raise ValueError(f"shape {list(shape)} has {math.prod(shape)} elements, 'data' has {len(values)}")
    if datatype == "BYTES":
        return _objects([_as_bytes(one) for one in values], shape)
    kind = TYPES[datatype]
    if kind.kind == "f":
        values = [_number(one) for one in values]
    elif not all(isinstance(one, bool if kind.kind == "b" else int) for one in values):
        raise ValueError(f"'data' of datatype {datatype} holds something else")
    with np.errstate(over="ignore"):
        return np.array(values, dtype=kind if kind.kind != "f" else np.float64).astype(kind).reshape(shape)


def to_bytes(array: Array) -> bytes:
    """Little-endian, row by row; a string is its length in four bytes and itself."""
    if array.dtype == object:
        return b"".join(struct.pack("<I", len(one)) + one for one in array.ravel())
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def from_bytes(data: bytes, datatype: str, shape: Sequence[int]) -> Array:
    """Read what `to_bytes` writes. Raises ValueError where sizes do not fit."""
    if datatype == "BYTES":
        return _objects(_strings(data), shape)
    kind, size = TYPES[datatype], math.prod(shape)
    if len(data) != size * kind.itemsize:
        raise ValueError(f"shape {list(shape)} of {datatype} needs {size * kind.itemsize} bytes, found {len(data)}")
    return np.frombuffer(data, dtype=kind).reshape(shape)


def same(left: Array, right: Array) -> bool:
    """Equal to the last bit; every NaN equals every other."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    if left.dtype == object:
        return bool((left == right).all())
    if left.dtype.kind == "f":
        left, right = (np.where(np.isnan(one), np.nan, one).astype(one.dtype) for one in (left, right))
    return left.tobytes() == right.tobytes()


def close(left: Array, right: Array) -> bool:
    """Equal up to what another order of summation may change."""
    if left.dtype.kind != "f" or right.dtype.kind != "f":
        return same(left, right)
    return left.shape == right.shape and bool(np.allclose(left, right, rtol=1e-3, atol=1e-5, equal_nan=True))


def _word(value: float) -> str:
    return "Infinity" if value > 0 else "-Infinity"


def _number(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if value is None or (isinstance(value, str) and value in _NUMBERS):
        return _NUMBERS[value]
    raise ValueError(f"'data' of a float holds {value!r}")


def _as_bytes(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"'data' of datatype BYTES holds {value!r}, not text")
    return value.encode()


def _flat(data: Any) -> Any:
    if not isinstance(data, list):
        raise ValueError(f"'data' is no array but {type(data).__name__}")
    for one in data:
        if isinstance(one, list):
            yield from _flat(one)
        else:
            yield one


def _strings(data: bytes) -> list[bytes]:
    found, place = [], 0
    while place < len(data):
        if place + 4 > len(data):
            raise ValueError("bytes end within the length of a string")
        (size,) = struct.unpack_from("<I", data, place)
        place += 4 + size
        if place > len(data):
            raise ValueError(f"bytes end within a string of {size} bytes")
        found.append(data[place - size : place])
    return found


def _objects(values: list[bytes], shape: Sequence[int]) -> Array:
    if len(values) != math.prod(shape):
        raise ValueError(f"shape {list(shape)} has {math.prod(shape)} elements, found {len(values)}")
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)
