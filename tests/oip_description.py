"""What the Open Inference Protocol says of its REST interface, in OpenAPI: its paths, what must be in their answers.

Restated from the protocol's text (kserve/open-inference-protocol, version 2), for the tests alone. Where the protocol
names an error body for one route it is asked of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]
_TEXT: Schema = {"type": "string"}
_SHAPE: Schema = {"type": "array", "items": {"type": "integer"}}
_PARAMETERS: Schema = {"type": "object"}
_DATA: Schema = {"type": "array", "items": {"type": ["array", "number", "string", "boolean", "null"]}}


def _object(required: Mapping[str, Schema], **optional: Schema) -> Schema:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


_METADATA_TENSOR = _object({"name": _TEXT, "datatype": _TEXT, "shape": _SHAPE})
_TENSOR = {"name": _TEXT, "shape": _SHAPE, "datatype": _TEXT, "data": _DATA}
SERVER = _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)})
MODEL = _object(
    {"name": _TEXT, "platform": _TEXT, "inputs": _list(_METADATA_TENSOR), "outputs": _list(_METADATA_TENSOR)},
    versions=_list(_TEXT),
)
QUESTION = _object(
    {"inputs": _list(_object(_TENSOR, parameters=_PARAMETERS))},
    id=_TEXT,
    parameters=_PARAMETERS,
    outputs=_list(_object({"name": _TEXT}, parameters=_PARAMETERS)),
)
ANSWER = _object(
    {"model_name": _TEXT, "outputs": _list(_object(_TENSOR, parameters=_PARAMETERS))},
    model_version=_TEXT,
    id=_TEXT,
    parameters=_PARAMETERS,
)
_ERROR = _object({"error": _TEXT})
_MODEL, _VERSION = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"


def _content(schema: Schema | None) -> dict[str, Any]:
    found: dict[str, Any] = {"description": "as the protocol has it"}
    return found if schema is None else found | {"content": {"application/json": {"schema": schema}}}


def _operation(schema: Schema | None, *, body: Schema | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"responses": {"200": _content(schema), "4XX": _content(_ERROR)}}
    if body is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return found


def _at(path: str, method: str, operation: dict[str, Any]) -> dict[str, Any]:
    names = [name for name in ("name", "version") if f"{{{name}}}" in path]
    parameters = [{"name": name, "in": "path", "required": True, "schema": _TEXT} for name in names]
    return {method: operation | ({"parameters": parameters} if names else {})}


PATHS: Mapping[str, dict[str, Any]] = {
    "/v2/health/live": _at("", "get", _operation(None)),
    "/v2/health/ready": _at("", "get", _operation(None)),
    "/v2": _at("", "get", _operation(SERVER)),
    **{f"{path}/ready": _at(path, "get", _operation(None)) for path in (_MODEL, _VERSION)},
    **{path: _at(path, "get", _operation(MODEL)) for path in (_MODEL, _VERSION)},
    **{f"{path}/infer": _at(path, "post", _operation(ANSWER, body=QUESTION)) for path in (_MODEL, _VERSION)},
}
DESCRIPTION: Mapping[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Open Inference Protocol", "version": "2"},
    "paths": dict(PATHS),
}
