"""Pictures in the JSON of KServe's v1: ``{"instances": [{"b64": "..."}]}``, or each under the name of its input.

Invariant: what comes out is what the same pictures are as BYTES of a tensor, so that both have the same answers.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import RequestError, nearest
from mlaas4hep.serve.images import MAX_PICTURES, ImageInput
from mlaas4hep.serve.protocol import check_pieces, decode_json

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


def _text(instance: dict[str, str | _Encoded], name: str, number: int) -> str:
    value = instance.get(name) if name in instance else instance.get(_B64)
    if len(instance) == 1 and value is not None:
        return value if isinstance(value, str) else value.b64
    near = nearest(next((one for one in instance if one != name), ""), (name, _B64))
    asked = f'asked for {{"{_B64}": "..."}} or {{"{name}": {{"{_B64}": "..."}}}}, base64 of a PNG or JPEG'
    raise RequestError(f"instance {number}: {asked}; found {', '.join(instance) or 'nothing'}{near}")
