"""TFaaS's ``params.json``: in snake_case as its server reads it, and in the camelCase of its documentation.

Invariant: what is there and not understood is kept as it came; what is understood is of the right kind.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from mlaas4hep.errors import UploadError

_CAMEL = {
    "inputNode": "input_node",
    "outputNode": "output_node",
    "inputName": "input_name",
    "outputName": "output_name",
    "imgChannels": "img_channels",
}
_MOST = 1 << 20


class Params(msgspec.Struct, frozen=True):
    """What a ``params.json`` says.

    Parameters
    ----------
    name, model, labels, description
        Of the model; its file; the file of its labels.
    input_node, output_node
        Operations of a frozen graph.
    input_name, output_name
        Tensors of a SavedModel, for images.
    img_channels
        1 or 3, of a model of images.
    """

    name: str = ""
    model: str = ""
    labels: str = ""
    description: str = ""
    input_node: str = ""
    output_node: str = ""
    input_name: str = ""
    output_name: str = ""
    img_channels: int = 0


def read_params(data: bytes | None) -> Params:
    """Read the file; a missing one says nothing.

    Raises
    ------
    UploadError
        It is no JSON object, or a key is of another kind.

    Examples
    --------
    >>> read_params(b'{"name": "luca", "inputNode": "dense_1_input", "output_node": "out"}').input_node
    'dense_1_input'
    """
    if data is None:
        return Params()
    if len(data) > _MOST:
        raise UploadError(f"params.json has {len(data)} bytes; at most {_MOST} are read")
    try:
        found: Any = json.loads(data)
        if not isinstance(found, dict):
            raise ValueError("wants an object, {...}")
        known = {_CAMEL.get(key, key): value for key, value in found.items() if value is not None}
        return msgspec.convert(known, Params)
    except (ValueError, RecursionError) as error:
        raise UploadError(f"params.json cannot be read: {error}") from error


def read_labels(data: bytes | None) -> tuple[str, ...]:
    """Names of classes: one a line, or a JSON list."""
    if not data:
        return ()
    try:
        text = data[:_MOST].decode()
        found = json.loads(text) if text.lstrip().startswith("[") else text.splitlines()
    except (ValueError, RecursionError) as error:
        raise UploadError(f"the labels cannot be read: {error}") from error
    return tuple(str(one).strip() for one in found if str(one).strip())
