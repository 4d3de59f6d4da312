"""Pictures and their answers in the JSON of KServe's v1.

``{"instances": [{"b64": "..."}]}`` asks, or each picture stands under the name of its input. Invariant:
what is read are the BYTES that a tensor of the same pictures has, so that both have the same answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import RequestError, nearest
from mlaas4hep.serve.images import MAX_PICTURES, ImageInput
from mlaas4hep.serve.protocol import check_pieces, decode_json
from mlaas4hep.serve.tensors import json_values

if TYPE_CHECKING:
    from mlaas4hep.serve.model import ServedModel

_B64 = "b64"


class _Encoded(msgspec.Struct, forbid_unknown_fields=True):
    b64: str


class _Body(msgspec.Struct):
    instances: list[dict[str, str | _Encoded]]


_decoder = msgspec.json.Decoder(_Body)


def read_instances(body: bytes, image: ImageInput) -> NDArray[np.object_]:
    """Base64 of pictures, as BYTES of shape [n]; `RequestError` where the body holds something else."""
    check_pieces(body, keys=2 * MAX_PICTURES + 1)
    found: _Body = decode_json(_decoder, body)
    texts = np.empty(len(found.instances), object)
    for number, one in enumerate(found.instances):
        texts[number] = _text(one, image.name, number)
    return texts


def encode_picture_answer(model: ServedModel, outputs: Mapping[str, NDArray[Any]], count: int = 1) -> bytes:
    """JSON of the outputs for so many pictures, in the form of KServe's v1: by label where one output has labels."""
    rows = [{name: one[at : at + 1] for name, one in outputs.items()} for at in range(count)]
    predictions = [_prediction(model, row) for row in rows] if model.batches else [_prediction(model, outputs)]
    answer = {"predictions": predictions, "model_name": model.name, "model_version": model.version}
    return msgspec.json.encode(answer)


def _prediction(model: ServedModel, outputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    values = {spec.name: _row(outputs[spec.name]) for spec in model.outputs if spec.name in outputs}
    labels = model.outputs[0].labels if len(model.outputs) == 1 else ()
    (first, *_) = values.values()
    if labels and first.size == len(labels):
        return dict(zip(labels, json_values(first.ravel()), strict=True))
    return {name: _nested(array) for name, array in values.items()}


def _text(instance: dict[str, str | _Encoded], name: str, number: int) -> str:
    value = instance.get(name) if name in instance else instance.get(_B64)
    if len(instance) == 1 and value is not None:
        return value if isinstance(value, str) else value.b64
    near = nearest(next((one for one in instance if one != name), ""), (name, _B64))
    asked = f'asked for {{"{_B64}": "..."}} or {{"{name}": {{"{_B64}": "..."}}}}, base64 of a PNG or JPEG'
    raise RequestError(f"instance {number}: {asked}; found {', '.join(instance) or 'nothing'}{near}")


def _row(array: NDArray[Any]) -> NDArray[Any]:
    return array[0] if array.shape[:1] == (1,) else array


def _nested(array: NDArray[Any]) -> Any:
    values = np.empty(array.size, object)
    values[:] = json_values(array.ravel())
    return values.reshape(array.shape).tolist()
