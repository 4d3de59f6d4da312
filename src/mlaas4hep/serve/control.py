"""Triton's model repository extension: what is there, load it, take it away; and labels of versions.

The index can be read by whoever may see models. Invariant: loading, unloading and labelling, which change what others
are answered, are refused unless the server was started for it, before a body or a name is looked at.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
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
# Of a load, in place of what lies on disk.
CONFIG = "config"


class IndexRequest(msgspec.Struct, frozen=True):
    """Body of ``POST /v2/repository/index``; may be empty."""

    ready: bool = False


class ControlRequest(msgspec.Struct, frozen=True):
    """Body of load and unload; may be empty."""

    parameters: dict[str, Any] = {}


class LabelRequest(msgspec.Struct, frozen=True):
    """Body of ``POST /v2/repository/models/{name}/labels``; without a version the label is taken away."""

    label: str
    version: str | int | None = None


def control_routes(service: InferenceService) -> list[Route]:
    """Index, load, unload and labels."""

    async def index(request: Request) -> Response:
        asked = await _read(request, IndexRequest)
        return _answer(service.repository_index(ready=asked.ready))

    async def load(request: Request) -> Response:
        return await change("load", request)

    async def unload(request: Request) -> Response:
        return await change("unload", request)

    async def change(what: str, request: Request) -> Response:
        _check_control(service)
        parameters = (await _read(request, ControlRequest)).parameters
        await change_model(service, what, request.path_params["name"], parameters)
        return Response(b"", media_type=JSON)

    async def labels(request: Request) -> Response:
        await service.wake(request.path_params["name"])
        return _answer(service.repository.labels(request.path_params["name"]))

    async def label(request: Request) -> Response:
        _check_control(service)
        asked, name = await _read(request, LabelRequest), request.path_params["name"]
        version = None if asked.version is None else str(asked.version)
        await _as_refusals(service.label_model(name, asked.label, version))
        return await labels(request)

    model = "/v2/repository/models/{name}"
    return [
        Route("/v2/repository/index", index, methods=["POST"]),
        Route(f"{model}/load", load, methods=["POST"]),
        Route(f"{model}/unload", unload, methods=["POST"]),
        Route(f"{model}/labels", labels, methods=["GET"]),
        Route(f"{model}/labels", label, methods=["POST"]),
    ]


async def change_model(service: InferenceService, what: str, name: str, parameters: Mapping[str, Any]) -> None:
    """Load or unload as Triton's extension asks for it, over whichever protocol.

    Raises
    ------
    Refusal
        The server was not started for it, or the model cannot be served.
    RequestError
        A parameter that is not taken.
    """
    _check_control(service)
    known = _IGNORED | ({CONFIG} if what == "load" else set())
    unknown = sorted(set(parameters) - known)
    if unknown:
        raise RequestError(
            f"parameter '{unknown[0][:80]}' is not taken: the files of an entry are those of its folder; put them "
            "there (mlaas4hep convert writes them)"
        )
    if what == "unload":
        await _as_refusals(service.unload_model(name))
        return
    config = parameters.get(CONFIG)
    if config is not None and not isinstance(config, str):
        raise RequestError(f"parameter 'config': asked for the JSON of a config as a text, found '{config}'"[:300])
    await _as_refusals(service.load_model(name, config=config))


def _check_control(service: InferenceService) -> None:
    if not service.control:
        raise Refusal(403, "models are not loaded and unloaded from here; start the server with --control")


async def _as_refusals(work: Awaitable[None]) -> None:
    """What an entry lacks is the fault of who asks for it, here."""
    try:
        await work
    except BundleError as error:
        raise Refusal(400, str(error)) from error


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


def _answer(found: Any) -> Response:
    return Response(msgspec.json.encode(found), media_type=JSON)
