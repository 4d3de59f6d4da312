"""Every route in words of OpenAPI: one entry for method and path, as the router has it.

A new route gets an entry here; a test compares both. Invariant: what an entry says of bodies and statuses is what the
route takes and gives, which is tried with made-up questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mlaas4hep.serve.asking import BINARY, JSON, TIMEOUT
from mlaas4hep.serve.bulk import ARROW, PARQUET
from mlaas4hep.serve.control import ControlRequest, IndexRequest, LabelRequest
from mlaas4hep.serve.describing import ModelContract
from mlaas4hep.serve.images import JPEG, PNG
from mlaas4hep.serve.protocol import HEADER_LENGTH, ModelMetadata, ServerMetadata
from mlaas4hep.serve.served import IndexEntry
from mlaas4hep.serve.tensors import DTYPES

Schema = Mapping[str, Any]
Operation = Mapping[str, Any]
HTML = "text/html"
# Any request may get these: a broken head, tokens, time, too much of one client or of all, a failure of ours.
COMMON = (400, 401, 403, 408, 429, 431, 500, 503)
REASONS = {
    400: "The question does not fit the protocol, the model or its contract.",
    401: "A token is needed, or this one is not good.",
    403: "The token does not grant this, or the server was not started for it.",
    404: "No such model, version or file.",
    408: "The request was not finished in time.",
    409: "Another model has this name, with other inputs or outputs.",
    413: "The body is larger than this server takes.",
    415: "A content type or encoding that is not read here.",
    422: "The upload is refused: what it holds, and what to send instead.",
    429: "This client has more open, or asks more often, than it may; Retry-After says when to come back.",
    431: "The head is too large.",
    500: "The server failed; its log says why.",
    501: "A package that this needs is not installed on the server.",
    503: "Not ready, or too much at once; Retry-After says when to come back.",
}


def text_schema(words: str) -> Schema:
    """A text."""
    return {"type": "string", "description": words}


def ref(name: str) -> Schema:
    """One of `SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def json_of(schema: Schema) -> Mapping[str, Schema]:
    """Content in JSON."""
    return {JSON: {"schema": schema}}


def operation(
    tag: str,
    summary: str,
    *,
    gives: Mapping[str, Schema] | None = None,
    takes: Mapping[str, Schema] | None = None,
    needs_body: bool = False,
    fails: tuple[int, ...] = (),
    headers: tuple[Schema, ...] = (),
    also: Mapping[str, Any] | None = None,
) -> Operation:
    """An entry of the table.

    Parameters
    ----------
    tag, summary
        Where it belongs, and what it does.
    gives, takes
        Content by media type; None for no body.
    needs_body
        Whether a question without a body is refused.
    fails
        Statuses beyond `COMMON`.
    headers
        That are looked at.
    also
        Further responses by status.
    """
    success: dict[str, Any] = {"description": "Done."}
    if gives is not None:
        success["content"] = gives
    refusals = {str(one): {"$ref": f"#/components/responses/{one}"} for one in (*COMMON, *fails)}
    found: dict[str, Any] = {
        "tags": [tag],
        "summary": summary,
        "responses": dict(sorted({"200": success, **refusals, **(also or {})}.items())),
    }
    if takes is not None:
        found["requestBody"] = {"required": needs_body, "content": takes}
    if headers:
        found["parameters"] = list(headers)
    return found


def _header(name: str, words: str, schema: Schema) -> Schema:
    return {"name": name, "in": "header", "required": False, "description": words, "schema": schema}


_WAITS = _header(TIMEOUT, "Milliseconds that the client waits.", {"type": "number", "exclusiveMinimum": 0})
_HEAD = _header(HEADER_LENGTH, "Bytes of JSON before the binary tensors.", {"type": "integer", "minimum": 0})
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_SCALAR: Schema = {"type": ["boolean", "number", "string", "null"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_PARAMETERS: Schema = {"type": "object", "additionalProperties": _SCALAR}
_DATA: Schema = {"type": "array", "items": {"type": ["array", "boolean", "number", "string", "null"]}}
_NAME: Schema = {"type": "string"}
_SHAPE: Schema = {"type": "array", "items": {"type": "integer"}}


def _object(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    found: dict[str, Any] = {"type": "object", "properties": {**required, **(optional or {})}}
    if required:
        found["required"] = list(required)
    return found


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


_TENSOR = {"name": _NAME, "shape": _SHAPE, "datatype": {"enum": sorted(DTYPES)}}
_DURATION = _object({"count": _COUNT, "ns": _COUNT})
_OWN = (ServerMetadata, ModelMetadata, ModelContract, IndexEntry, IndexRequest, ControlRequest, LabelRequest)
SCHEMAS: Mapping[str, Schema] = {
    **msgspec.json.schema_components(_OWN, ref_template="#/components/schemas/{name}")[1],
    "Error": _object({"error": text_schema("What was asked, what was found, and what is near.")}),
    "Live": _object({"live": {"type": "boolean"}}),
    "Ready": _object({"ready": {"type": "boolean"}}),
    "ModelReady": _object({"name": _NAME, "ready": {"type": "boolean"}}),
    "Models": _object({"models": _list(_NAME)}),
    "Routes": _object({"name": _NAME, "routes": _list(_NAME)}),
    "InputTensor": _object(_TENSOR, {"parameters": _PARAMETERS, "data": _DATA}),
    "OutputChoice": _object({"name": _NAME}, {"parameters": _PARAMETERS}),
    "InferRequest": _object(
        {"inputs": _list(ref("InputTensor"))},
        {"id": _NAME, "parameters": _PARAMETERS, "outputs": _list(ref("OutputChoice"))},
    ),
    "OutputTensor": _object(_TENSOR, {"parameters": _PARAMETERS, "data": _DATA}),
    "InferResponse": _object(
        {"model_name": _NAME, "model_version": _NAME, "outputs": _list(ref("OutputTensor"))}, {"id": _NAME}
    ),
    "Events": _object(
        {"instances": _list({"type": "object", "description": "Value by column, of the types that the model has."})}
    ),
    "Predictions": _object(
        {
            "predictions": _list(
                {
                    "description": "Score by name; null where the event is not selected. Of a picture by output.",
                    "type": ["object", "null"],
                    "additionalProperties": {"type": ["number", "null", "array", "string", "boolean"]},
                }
            ),
            "model_name": _NAME,
            "model_version": _NAME,
        }
    ),
    "Statistics": _object(
        {
            "model_stats": _list(
                _object(
                    {
                        "name": _NAME,
                        "version": _NAME,
                        "last_inference": _COUNT,
                        "inference_count": _COUNT,
                        "execution_count": _COUNT,
                        "inference_stats": {"type": "object", "additionalProperties": _DURATION},
                        "batch_stats": _list({"type": "object"}),
                    }
                )
            )
        }
    ),
}

_INFER = operation(
    "tensors",
    "Scores of tensors",
    takes={**json_of(ref("InferRequest")), BINARY: _BYTES},
    gives={**json_of(ref("InferResponse")), BINARY: _BYTES},
    needs_body=True,
    fails=(404, 413, 415),
    headers=(_WAITS, _HEAD),
)
_CONTRACT = operation(
    "events", "What a model wants: columns, scores, an example", gives=json_of(ref("ModelContract")), fails=(404,)
)
_PREDICT = operation(
    "events",
    "Scores of events by name, or outputs for one picture",
    takes={**json_of(ref("Events")), ARROW: _BYTES, PARQUET: _BYTES, PNG: _BYTES, JPEG: _BYTES},
    gives={**json_of(ref("Predictions")), ARROW: _BYTES, PARQUET: _BYTES},
    needs_body=True,
    fails=(404, 413, 415),
    headers=(_WAITS,),
)
_METADATA = operation("tensors", "Tensors of a model", gives=json_of(ref("ModelMetadata")), fails=(404,))
_READY = operation("health", "Whether a model can be asked", gives=json_of(ref("ModelReady")), fails=(404,))
_STATISTICS = operation("counts", "Counts and times of a model", gives=json_of(ref("Statistics")), fails=(404,))
_CONFIG = operation("tensors", "Triton's configuration of a model", gives=json_of({"type": "object"}), fails=(404,))
_CONTROL = json_of(ref("ControlRequest"))
_LABELS = json_of({"type": "object", "additionalProperties": _NAME})
_PAGE = {HTML: {"schema": {"type": "string"}}}
# What is refused to a browser is told on a page.
_TOLD = {str(one): {"description": REASONS[one], "content": {**_PAGE, **json_of(ref("Error"))}} for one in (401, 403)}
_NO_PAGE = {**_TOLD, "404": {"description": REASONS[404], "content": {**_PAGE, **json_of(ref("Error"))}}}
_MODEL, _VERSION = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
_UNREADY = {"503": {"description": "Not to be asked now.", "content": json_of({"anyOf": [ref("Ready"), ref("Error")]})}}
_ANY: Mapping[str, Schema] = {"*/*": {}}

_TEXTS = _list(_NAME)
_VALUES: Schema = {"type": "array", "items": {"type": ["number", "null"]}}
_ROW = operation(
    "tfaas",
    "Scores of a row",
    takes=json_of(_object({"values": _VALUES}, {"keys": _TEXTS, "model": _NAME})),
    gives=json_of({"type": "array", "items": {"type": ["number", "boolean", "string", "null"]}}),
    needs_body=True,
    fails=(404, 413, 415),
    headers=(_WAITS,),
)
_PROTO_ROW = operation(
    "tfaas",
    "Scores of a row as tfaaspb.Row, given as tfaaspb.Predictions",
    takes={BINARY: _BYTES},
    gives={"application/x-protobuf": _BYTES},
    needs_body=True,
    fails=(404, 413, 415, 501),
    headers=(_WAITS,),
)
_FORM = "multipart/form-data"
_PICTURE: Schema = {"type": "string", "format": "binary"}
_IMAGE = operation(
    "tfaas",
    "Scores of a picture",
    takes={_FORM: {"schema": _object({"image": _PICTURE}, {"model": _NAME})}},
    gives=json_of({"type": ["array", "object"]}),
    needs_body=True,
    fails=(404, 413),
)
_MODEL_FORM = dict.fromkeys(("name", "params", "labels", "op"), _PICTURE)
_UPLOAD = operation(
    "tfaas",
    "Bring a model: a form, or an archive",
    takes={_FORM: {"schema": _object({"model": _PICTURE}, _MODEL_FORM)}, BINARY: _BYTES},
    needs_body=True,
    fails=(404, 409, 413, 415, 422, 501),
)
_PARAMS = json_of({"type": "object"})
_DELETE = operation("tfaas", "Delete a model, all its versions", fails=(404, 413))
_FETCH = operation("tfaas", "The graph of a model", gives={BINARY: _BYTES}, fails=(404,))

TABLE: Mapping[tuple[str, str], Operation] = {
    ("GET", "/"): operation(
        "server", "What can be asked; browsers are led to the pages", gives=json_of(ref("Routes")), also=_TOLD
    ),
    ("GET", "/openapi.json"): operation("server", "This description", gives=json_of({"type": "object"})),
    ("GET", "/v2/health/live"): operation("health", "Whether the server answers", gives=json_of(ref("Live"))),
    ("GET", "/v2/health/ready"): operation(
        "health", "Whether its models can be asked", gives=json_of(ref("Ready")), also=_UNREADY
    ),
    ("GET", "/v2"): operation("server", "Name, version, extensions", gives=json_of(ref("ServerMetadata"))),
    ("GET", "/v2/models"): operation("server", "Names of the models", gives=json_of(ref("Models"))),
    ("GET", "/v1/models"): operation("server", "Names of the models", gives=json_of(ref("Models"))),
    ("GET", "/v1/models/{name}"): _CONTRACT,
    ("GET", "/v1/models/{name}/versions/{version}"): _CONTRACT,
    ("POST", "/v1/models/{name}:predict"): _PREDICT,
    ("POST", "/v1/models/{name}/versions/{version}:predict"): _PREDICT,
    ("GET", _MODEL): _METADATA,
    ("GET", _VERSION): _METADATA,
    ("GET", f"{_MODEL}/config"): _CONFIG,
    ("GET", f"{_VERSION}/config"): _CONFIG,
    ("GET", f"{_MODEL}/ready"): _READY,
    ("GET", f"{_VERSION}/ready"): _READY,
    ("POST", f"{_MODEL}/infer"): _INFER,
    ("POST", f"{_VERSION}/infer"): _INFER,
    ("GET", "/metrics"): operation(
        "counts", "Counts for Prometheus", gives={"text/plain": {"schema": {"type": "string"}}}
    ),
    ("GET", "/v2/models/stats"): operation("counts", "Of all models", gives=json_of(ref("Statistics"))),
    ("GET", f"{_MODEL}/stats"): _STATISTICS,
    ("GET", f"{_VERSION}/stats"): _STATISTICS,
    ("POST", "/v2/repository/index"): operation(
        "repository",
        "All models with state and reason",
        takes=json_of(ref("IndexRequest")),
        gives=json_of(_list(ref("IndexEntry"))),
        fails=(413,),
    ),
    ("POST", "/v2/repository/models/{name}/load"): operation(
        "repository", "Bring a model to what its folder holds", takes=_CONTROL, fails=(404, 413)
    ),
    ("POST", "/v2/repository/models/{name}/unload"): operation(
        "repository", "Take a model away", takes=_CONTROL, fails=(404, 413)
    ),
    ("GET", "/v2/repository/models/{name}/labels"): operation(
        "repository", "Versions by their labels", gives=_LABELS, fails=(404,)
    ),
    ("POST", "/v2/repository/models/{name}/labels"): operation(
        "repository",
        "Name a version",
        takes=json_of(ref("LabelRequest")),
        gives=_LABELS,
        needs_body=True,
        fails=(404, 413),
    ),
    ("POST", "/json"): _ROW,
    ("POST", "/predict/json"): _ROW,
    ("POST", "/proto"): _PROTO_ROW,
    ("POST", "/predict/proto"): _PROTO_ROW,
    ("POST", "/image"): _IMAGE,
    ("POST", "/predict/image"): _IMAGE,
    ("POST", "/upload"): _UPLOAD,
    ("POST", "/bundle"): _UPLOAD,
    ("DELETE", "/delete"): _DELETE,
    ("DELETE", "/delete/{name}"): _DELETE,
    ("GET", "/models"): operation("tfaas", "All models", gives=json_of({"type": ["array", "null"]}), fails=(404,)),
    ("GET", "/models/{name}"): _FETCH,
    ("GET", "/data"): _FETCH,
    ("GET", "/params"): operation("tfaas", "Who is asked where nobody is named", gives=_PARAMS, fails=(404,)),
    ("GET", "/params/{name}"): operation("tfaas", "A model in TFaaS's words", gives=_PARAMS, fails=(404,)),
    ("POST", "/params"): operation(
        "tfaas",
        "Say who is asked where nobody is named",
        takes=json_of(_object({"name": _NAME})),
        needs_body=True,
        fails=(404, 413),
    ),
    ("GET", "/status"): operation("counts", "The machine and its load, as TFaaS tells it", gives=_PARAMS),
    ("GET", "/pages"): operation("pages", "The models, for people", gives=_PAGE, also=_TOLD),
    ("GET", "/pages/routes"): operation("pages", "This description, for people", gives=_PAGE, also=_TOLD),
    ("GET", "/pages/static/{file}"): operation("pages", "Style and script", gives=_ANY, fails=(404,)),
    ("GET", "/pages/models/{name}"): operation("pages", "A model, and a form to try it", gives=_PAGE, also=_NO_PAGE),
    ("GET", "/pages/models/{name}/versions/{version}"): operation(
        "pages", "A version of a model", gives=_PAGE, also=_NO_PAGE
    ),
    ("GET", "/pages/models/{name}/versions/{version}/report/{file}"): operation(
        "pages", "The report of its training", gives=_ANY, also=_NO_PAGE
    ),
}

TAGS = {
    "server": "The server itself",
    "health": "Health; what stands under /v2/health never asks for a token",
    "events": "Events by name, in KServe's v1 form",
    "tensors": "Tensors, by the Open Inference Protocol v2",
    "repository": "Models that come and go, by Triton's extension",
    "counts": "What was asked so far",
    "tfaas": "TFaaS's addresses; under its prefix, too",
    "pages": "Pages for people",
}
PARAMETERS = {
    "name": "A model.",
    "version": "A version or a label, such as 1, stable, latest.",
    "file": "Of those that there are.",
}
