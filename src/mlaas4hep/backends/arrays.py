"""Arrays and settings to files without pickles, and back: the native part of a bundle.

Used by every backend. Invariant: equal arrays give equal bytes, and nothing that is read is ever executed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import BundleError

ARRAYS = "weights.npz"
SETTINGS = "settings.json"


def pack(settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, bytes]:
    """Files by name: settings as JSON, arrays as an uncompressed npz."""
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]
    text = json.dumps(dict(settings), indent=1, sort_keys=True)
    return {SETTINGS: text.encode() + b"\n", ARRAYS: buffer.getvalue()}


def unpack(files: Mapping[str, bytes]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Settings and arrays from what `pack` gave; `BundleError` where they are missing or hold objects."""
    missing = [name for name in (SETTINGS, ARRAYS) if name not in files]
    if missing:
        raise BundleError(f"native weights: {', '.join(missing)} is not among {', '.join(sorted(files)) or 'no files'}")
    try:
        with np.load(io.BytesIO(files[ARRAYS]), allow_pickle=False) as store:
            arrays = {name: store[name] for name in store.files}
        return json.loads(files[SETTINGS]), arrays
    except (ValueError, OSError) as error:
        raise BundleError(f"native weights: {ARRAYS} or {SETTINGS} cannot be read: {error}") from error


def under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The same arrays with names such as ``prefix/name``: several sets in one."""
    return {f"{prefix}/{name}": values for name, values in arrays.items()}


def below(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Those that `under` gave that prefix, with their own names."""
    head = f"{prefix}/"
    return {name.removeprefix(head): values for name, values in arrays.items() if name.startswith(head)}
