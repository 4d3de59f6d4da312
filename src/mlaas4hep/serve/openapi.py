"""``GET /openapi.json``: the routes of an application in the words of OpenAPI 3.1, made of `route_table`.

Invariant: it lists the routes that the application has, each once, and no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mlaas4hep.serve.asking import JSON
from mlaas4hep.serve.route_table import PARAMETERS, REASONS, SCHEMAS, TABLE, TAGS, Operation, json_of, ref

_CONVERTER = re.compile(r"\{(\w+):\w+\}")
_PARAMETER = re.compile(r"\{(\w+)\}")
# With these an error comes when to come back, or how to show who asks.
_HEADERS = {429: "Retry-After", 503: "Retry-After", 401: "WWW-Authenticate", 403: "WWW-Authenticate"}


def openapi_route() -> Route:
    """The route of the description."""

    async def openapi(request: Request) -> Response:
        return Response(msgspec.json.encode(describe(request.app.routes)), media_type=JSON)

    return Route("/openapi.json", openapi, methods=["GET"])


def described(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str]]:
    """Method and path of each route that a client may know of, as the table has them."""
    for route in routes:
        if isinstance(route, Route) and route.include_in_schema:
            path = _CONVERTER.sub(r"{\1}", route.path)
            yield from ((method, path) for method in sorted(route.methods or ()) if method != "HEAD")


def describe(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """The whole description of an application with these routes."""
    paths: dict[str, dict[str, Any]] = {}
    for method, path in described(routes):
        entry = TABLE.get((method, path), {"summary": path, "responses": {"default": {"description": "Not told."}}})
        paths.setdefault(path, {})[method.lower()] = _named(method, path, entry)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mlaas4hep",
            "version": version("mlaas4hep"),
            "description": "Scores of physics events and of tensors; models, their contracts and counts.",
            "license": {"name": "BSD-3-Clause", "identifier": "BSD-3-Clause"},
        },
        "servers": [{"url": "."}],
        "tags": [{"name": name, "description": words} for name, words in TAGS.items()],
        "security": [{}, {"bearer": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(SCHEMAS),
            "responses": {str(status): _refusal(status) for status in sorted(REASONS)},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _named(method: str, path: str, entry: Operation) -> dict[str, Any]:
    """An entry with its name and the parameters of its path."""
    words = [piece for piece in re.split(r"\W+", path) if piece] or ["routes"]
    found = {**entry, "operationId": "_".join([method.lower(), *words])}
    parameters = [_in_path(name) for name in _PARAMETER.findall(path)] + list(entry.get("parameters", ()))
    return {**found, "parameters": parameters} if parameters else found


def _in_path(name: str) -> Mapping[str, Any]:
    schema = {"type": "string", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "description": PARAMETERS.get(name, ""), "schema": schema}


def _refusal(status: int) -> dict[str, Any]:
    found: dict[str, Any] = {"description": REASONS[status], "content": json_of(ref("Error"))}
    if status in _HEADERS:
        found["headers"] = {_HEADERS[status]: {"schema": {"type": "string"}}}
    return found
