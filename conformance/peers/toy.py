"""The model: two inputs, two outputs, a little arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NAME = "toy"
INPUTS = {"x": ("FP32", [-1, 3]), "n": ("INT64", [-1, 1])}
OUTPUTS = {"sum": ("FP32", [-1, 2]), "spread": ("FP32", [-1, 2])}


def run(x: NDArray[Any], n: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    """Rows are independent."""
    with np.errstate(all="ignore"):
        total = np.stack([x.sum(axis=1) + n[:, 0], x[:, 0] - n[:, 0] / 3], axis=1)
        spread = np.stack([x.max(axis=1) / 3, x.min(axis=1) / 7], axis=1)
        return {"sum": total.astype(np.float32), "spread": spread.astype(np.float32)}


def declared(tensors: dict[str, tuple[str, list[int]]]) -> list[dict[str, Any]]:
    """As metadata has it."""
    return [{"name": name, "datatype": datatype, "shape": shape} for name, (datatype, shape) in tensors.items()]
