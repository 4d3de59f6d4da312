"""Triton's raw binary request: the bytes of a model's one input alone, with ``Inference-Header-Content-Length: 0``.

Invariant: name, datatype and all sizes but one are the model's own; what is left open follows from the number of bytes.
"""

from __future__ import annotations

import math

from mlaas4hep.errors import RequestError
from mlaas4hep.serve.model import ServedModel, TensorSpec
from mlaas4hep.serve.protocol import HEADER_LENGTH, InferRequest
from mlaas4hep.serve.tensors import from_bytes, from_texts


def read_raw(model: ServedModel, body: bytes) -> InferRequest:
    """A question of a body without JSON; all outputs are answered as bytes.

    Where no size of a row is open, there are as many rows as the bytes fill. A text is the whole body.

    Raises
    ------
    RequestError
        The model has several inputs, or shapes that do not follow from a number of bytes.
    """
    if len(model.inputs) != 1:
        names = ", ".join(one.name for one in model.inputs)
        asked = f"{HEADER_LENGTH}: 0 sends one input without its name"
        raise RequestError(f"{asked}, but model '{model.name}' has {len(model.inputs)}: {names}; send JSON before them")
    (spec,) = model.inputs
    where = f"input '{spec.name}'"
    shape = _shape(model, spec, len(body), where)
    if spec.datatype == "BYTES":
        array = from_texts([body], shape, where)
    else:
        array = from_bytes(memoryview(body), spec.datatype, shape, where)
    return InferRequest({spec.name: array}, binary_output=True)


def _shape(model: ServedModel, spec: TensorSpec, size: int, where: str) -> tuple[int, ...]:
    if spec.shape.count(-1) > (spec.datatype != "BYTES"):
        raise RequestError(
            f"{where}: its shape {list(spec.shape)} does not follow from a number of bytes; send JSON too"
        )
    known = math.prod(one for one in spec.shape if one >= 0)
    fits = 1 if spec.datatype == "BYTES" else size // max(known * spec.dtype.itemsize, 1)
    shape = tuple(fits if one < 0 else one for one in spec.shape)
    if not model.batches:
        return shape
    # At least one row, so that too few bytes are told and not taken as none.
    return (1 if -1 in spec.shape else max(fits, 1), *shape)
