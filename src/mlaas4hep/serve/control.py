"""Triton's model repository extension on HTTP: what is there, load it, take it away.

The index can be read by whoever may see models. Invariant: loading and unloading, which take models from others, are
refused unless the server was started for it, before a body or a name is looked at.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mlaas4hep.errors import BundleError, RequestError
from mlaas4hep.serve.asking import JSON, Refusal
from mlaas4hep.serve.service import InferenceService

MAX_BODY_BYTES = 64 << 10
# Of Triton: what the models below an ensemble become, which are none here.
_IGNORED = {"unload_dependents"}


class IndexRequest(msgspec.Struct, frozen=True):
    """Body of ``POST /v2/repository/index``; may be empty."""

    ready: bool = False


class ControlRequest(msgspec.Struct, frozen=True):
    """Body of load and unload; may be empty."""

    parameters: dict[str, Any] = {}


def control_routes(service: InferenceService) -> list[Route]:
    """Index, load and unload."""

    async def index(request: Request) -> Response:
        asked = await _read(request, IndexRequest)
        return Response(msgspec.json.encode(service.repository_index(ready=asked.ready)), media_type=JSON)

    async def load(request: Request) -> Response:
        return await change(request, service.load_model)

    async def unload(request: Request) -> Response:
        return await change(request, service.unload_model)

    async def change(request: Request, work: Callable[[str], Awaitable[None]]) -> Response:
        if not service.control:
            raise Refusal(403, "models are not loaded and unloaded from here; start the server with --control")
        _check_parameters((await _read(request, ControlRequest)).parameters)
        try:
            await work(request.path_params["name"])
        except BundleError as error:
            raise Refusal(400, str(error)) from error
        return Response(b"", media_type=JSON)

    model = "/v2/repository/models/{name}"
    return [
        Route("/v2/repository/index", index, methods=["POST"]),
        Route(f"{model}/load", load, methods=["POST"]),
        Route(f"{model}/unload", unload, methods=["POST"]),
    ]


async def _read(request: Request, form: Callable[..., Any]) -> Any:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise Refusal(413, f"the body is larger than the {MAX_BODY_BYTES} bytes that this route takes")
    try:
        return msgspec.json.decode(body or b"{}", type=form)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"the body is not what this route reads: {error}") from error


def _check_parameters(parameters: dict[str, Any]) -> None:
    unknown = sorted(set(parameters) - _IGNORED)
    if unknown:
        raise RequestError(
            f"parameter '{unknown[0]}' is not taken: an entry is loaded as its folder says; put files and config.pbtxt "
            "there (mlaas4hep convert writes them)"
        )
