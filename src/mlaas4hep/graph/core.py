"""What a backend exports: a bare ONNX graph from prepared tensors to scores, and what it wants to be fed.

A `Core` knows nothing of raw values, missing ones or scaling: `mlaas4hep.graph.merge` puts the contract's part before
it and the order of the scores behind it. Invariant: its input names are those of the contract, ``x`` for the flat view,
or group names and ``<group>_mask``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Layout = Literal["flat", "groups"]
Missing = Literal["impute", "native"]
Link = Literal["sigmoid", "softmax", "identity"]

FLAT_INPUT = "x"
MASK_SUFFIX = "_mask"

OPSET = 18
IR_VERSION = 8


@dataclass(frozen=True, slots=True, eq=False)
class Core:
    """A framework's model as ONNX, without preprocessing.

    Parameters
    ----------
    model
        Serialised ONNX model; opset 13 to 23, only the standard operators and ``ai.onnx.ml``.
    layout
        ``"flat"``: one input ``x``, float32 [N, W], the flat view. ``"groups"``: one input a group under the group's
        name, float32 [N, F] or [N, K, F], and where the model asks for it ``<group>_mask``, bool [N, K] (float32 where
        its input is declared so), true where a slot holds an object.
    missing
        ``"impute"``: inputs are scaled, and 0 where a value is missing. ``"native"``: inputs are raw, only clipped to
        finite values, and NaN where a value is missing (trees).
    output
        Name of the model's output that holds scores, [N, C']; of a regression targets in standard units.
    columns
        Which columns of that output are the contract's ``score_names``, in that order.
    thresholds
        float64 [T, 2]: (flat index, value) at which the model jumps; the parity gate tries rows on both sides. None for
        a smooth model. Only with the flat layout.
    """

    model: bytes
    layout: Layout
    missing: Missing
    output: str
    columns: tuple[int, ...]
    thresholds: NDArray[np.float64] | None = None
