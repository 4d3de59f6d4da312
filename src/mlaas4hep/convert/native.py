"""Native weights with our contract: what a bundle keeps in ``native/``, or PyTorch's weights as safetensors.

Invariant: only models that this package builds itself are rebuilt, by name and dials; weights are plain arrays.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.backends.arrays import ARRAYS, SETTINGS, pack
from mlaas4hep.backends.protocol import Task
from mlaas4hep.backends.registry import BUILT_IN, find_backend
from mlaas4hep.convert.made import Asked, Made, versions_of
from mlaas4hep.errors import MLaaSError, UploadError, nearest

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
_TYPES |= {"BOOL": "?"}
_MAX_HEAD = 16 << 20
_PACKAGES = {"sklearn": "scikit-learn", "xgboost": "xgboost-cpu"}


def convert_native(folder: Path, asked: Asked) -> Made:
    """The files of a folder, ``settings.json`` and weights."""
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    if "weights.safetensors" in files:
        files[ARRAYS] = pack({}, read_safetensors(files.pop("weights.safetensors")))[ARRAYS]
    return _made(files, asked)


def convert_safetensors(data: bytes, asked: Asked, settings: bytes | None) -> Made:
    """Weights in one file; what they are of stands in its metadata under ``settings``, or came beside it."""
    found = settings or _metadata(data).get("settings", "").encode()
    if not found:
        raise UploadError(
            "safetensors hold numbers without a model: send a settings.json beside it, such as "
            '{"backend": "torch", "model": "mlp", "dials": {}}, and the spec.json of its contract; or send ONNX'
        )
    return _made({SETTINGS: found, ARRAYS: pack({}, read_safetensors(data))[ARRAYS]}, asked)


def _made(files: dict[str, bytes], asked: Asked) -> Made:
    if asked.spec is None:
        raise UploadError("native weights need their contract: send the bundle's spec.json with them")
    name = _backend(files)
    task = Task.of(asked.spec, seed=0)
    try:
        predictor = find_backend(name).load(files, task)
        core = predictor.export()
    except MLaaSError:
        raise
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise UploadError(
            f"the native weights do not fit their settings or the contract: {type(error).__name__}: {str(error)[:300]}"
        ) from error
    return Made(
        core=core,
        core_reference=predictor.predict,
        framework=name,
        converter=f"backend {name}",
        versions=versions_of(_PACKAGES.get(name, name)),
    )


def _backend(files: dict[str, bytes]) -> str:
    if SETTINGS not in files:
        return "xgboost" if "xgboost.json" in files else "lightgbm"
    try:
        name = json.loads(files[SETTINGS]).get("backend")
    except (ValueError, RecursionError, AttributeError) as error:
        raise UploadError(f"settings.json cannot be read: {error}") from error
    if name is None:
        name = "xgboost" if "xgboost.json" in files else "lightgbm" if "lightgbm.txt" in files else "sklearn"
    if name not in BUILT_IN:
        raise UploadError(f"settings.json names the backend '{name}'{nearest(str(name), BUILT_IN)}")
    return str(name)


def _metadata(data: bytes) -> dict[str, str]:
    found = _head(data)[0].get("__metadata__", {})
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _head(data: bytes) -> tuple[dict[str, Any], int]:
    size = int.from_bytes(data[:8], "little")
    if size > min(_MAX_HEAD, len(data) - 8):
        raise UploadError(f"the safetensors file says that its head has {size} bytes")
    try:
        head = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError) as error:
        raise UploadError(f"the head of the safetensors file is no JSON: {error}") from error
    if not isinstance(head, dict):
        raise UploadError("the head of the safetensors file is no object")
    return head, 8 + size


def read_safetensors(data: bytes) -> dict[str, NDArray[Any]]:
    """Arrays by name; `UploadError` where offsets, shapes and types do not fit each other."""
    head, start = _head(data)
    arrays = {}
    for name, one in head.items():
        if name == "__metadata__":
            continue
        try:
            dtype = np.dtype(_TYPES[one["dtype"]])
            shape = tuple(map(int, one["shape"]))
            begin, end = (int(value) for value in one["data_offsets"])
            count = int(np.prod(shape, dtype=object))
            if (
                not 0 <= begin <= end <= len(data) - start
                or end - begin != count * dtype.itemsize
                or min(shape, default=0) < 0
            ):
                raise ValueError("its place, shape and type do not fit")
            arrays[name] = np.frombuffer(data, dtype, count, start + begin).reshape(shape).copy()
        except (KeyError, TypeError, ValueError) as error:
            raise UploadError(f"'{str(name)[:80]}' in the safetensors file cannot be read: {error}") from error
    return arrays
