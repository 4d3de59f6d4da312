"""The service on HTTP: routes, statuses and bodies, as a Starlette application.

Open Inference Protocol v2 under ``/v2``, events by name in KServe's v1 form under ``/v1``. Invariant: every error
leaves through `problem`, as ``{"error": text}`` with a status that says whose fault it is; what was not raised on
purpose leaves as 500 without its text.

Small questions to quick models are answered on the event loop (a thread would cost more than the answer); the others go
to a worker thread, so that health checks and other clients do not wait for them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from mlaas4hep.errors import DataError, MLaaSError, NotFoundError, RequestError, nearest
from mlaas4hep.serve.events import encode_prediction
from mlaas4hep.serve.protocol import HEADER_LENGTH, decode_request, encode_response
from mlaas4hep.serve.service import InferenceService

JSON = "application/json"
BINARY = "application/octet-stream"
# One event of 100 numbers has about 2 kB; decoding and answering 16 kB takes about 0.2 ms.
INLINE_BODY_BYTES = 16 << 10
INLINE_CALL_S = 0.5e-3

_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (NotFoundError, 404),
    (RequestError, 400),
    (DataError, 400),
    (ClientDisconnect, 400),
)

Answer = Callable[[], Response]


def create_app(service: InferenceService) -> Starlette:
    """The application that answers for a service."""
    endpoints = _Endpoints(service)
    handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
        HTTPException: _on_http_error,
        MLaaSError: _on_error,
        ClientDisconnect: _on_error,
        Exception: _on_error,
    }
    return Starlette(routes=endpoints.routes(), exception_handlers=handlers)


def problem(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    """The body of every error."""
    return _json({"error": text}, status=status, headers=headers)


class _Endpoints:
    def __init__(self, service: InferenceService) -> None:
        self.service = service

    def routes(self) -> list[Route]:
        get: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/v2/health/live": self.live,
            "/v2/health/ready": self.ready,
            "/v2": self.server_metadata,
            "/v2/models": self.model_names,
            "/v1/models": self.model_names,
            "/v1/models/{name}": self.model_contract,
        }
        post: dict[str, Callable[[Request], Awaitable[Response]]] = {"/v1/models/{name}:predict": self.predict}
        for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            get[model] = self.model_metadata
            get[f"{model}/ready"] = self.model_ready
            post[f"{model}/infer"] = self.infer
        # First the routes that are asked most, and `:predict` before the name that would swallow it. Where it is asked
        # with GET it would be swallowed even so, since a router goes on to the next route that fits the method.
        return [
            *(Route(path, endpoint, methods=["POST"]) for path, endpoint in post.items()),
            Route("/v1/models/{name}:predict", _only_post, methods=["GET"], include_in_schema=False),
            Route("/", _index, methods=["GET"]),
            *(Route(path, endpoint, methods=["GET"]) for path, endpoint in get.items()),
        ]

    async def live(self, request: Request) -> Response:
        return _json({"live": self.service.live()})

    async def ready(self, request: Request) -> Response:
        ready = self.service.ready()
        return _json({"ready": ready}, status=200 if ready else 503)

    async def server_metadata(self, request: Request) -> Response:
        return _json(self.service.server_metadata())

    async def model_names(self, request: Request) -> Response:
        return _json({"models": self.service.model_names()})

    async def model_metadata(self, request: Request) -> Response:
        return _json(self.service.model_metadata(*_named(request)))

    async def model_ready(self, request: Request) -> Response:
        name, version = _named(request)
        ready = self.service.model_ready(name, version)
        return _json({"name": name, "ready": ready}, status=200 if ready else 503)

    async def model_contract(self, request: Request) -> Response:
        return _json(self.service.model_contract(*_named(request)))

    async def infer(self, request: Request) -> Response:
        name, version = _named(request)
        call_s = self.service.call_s(name, version)
        header_length = _header_length(request)
        body = await self._body(request, binary=header_length is not None)

        def answer() -> Response:
            question = decode_request(body, header_length)
            content, length = encode_response(self.service.infer(name, question, version=version), question)
            if length is None:
                return Response(content, media_type=JSON)
            return Response(content, media_type=BINARY, headers={HEADER_LENGTH: str(length)})

        return await _run(answer, size=len(body), call_s=call_s)

    async def predict(self, request: Request) -> Response:
        name, version = _named(request)
        call_s = self.service.call_s(name, version)
        body = await self._body(request)

        def answer() -> Response:
            prediction = self.service.predict_events(name, body, version=version)
            return Response(encode_prediction(prediction), media_type=JSON)

        return await _run(answer, size=len(body), call_s=call_s)

    async def _body(self, request: Request, *, binary: bool = False) -> bytes:
        """The whole body, of a type that is read here, and not larger than the limit."""
        _check_type(request, (JSON, BINARY) if binary else (JSON,))
        limit = self.service.limits.max_body_bytes
        too_large = HTTPException(413, f"the body is larger than the {limit} bytes that this server takes")
        if int(request.headers.get("content-length") or 0) > limit:
            raise too_large
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise too_large
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


async def _only_post(request: Request) -> Response:
    raise HTTPException(405, headers={"Allow": "POST"})


async def _index(request: Request) -> Response:
    """What can be asked, for who opens the address in a browser."""
    return _json({"name": "mlaas4hep", "routes": _routes_of(request)})


def _routes_of(request: Request) -> list[str]:
    """Method and path of each route, by path."""
    shown = [route for route in request.app.routes if route.include_in_schema]
    lines = {f"{'POST' if 'POST' in route.methods else 'GET'} {route.path}" for route in shown}
    return sorted(lines, key=lambda line: line.partition(" ")[2])


async def _run(answer: Answer, *, size: int, call_s: float) -> Response:
    if size <= INLINE_BODY_BYTES and call_s <= INLINE_CALL_S:
        return answer()
    return await run_in_threadpool(answer)


def _named(request: Request) -> tuple[str, str | None]:
    return request.path_params["name"], request.path_params.get("version")


def _header_length(request: Request) -> int | None:
    text = request.headers.get(HEADER_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise RequestError(f"{HEADER_LENGTH}: asked for a number of bytes, found '{text}'")
    return int(text)


def _check_type(request: Request, known: tuple[str, ...]) -> None:
    """Refuse other content; a request that names no type is taken at its word."""
    found = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if found not in known:
        hint = f"; asked for {' or '.join(known)} (curl -H 'Content-Type: {JSON}')"
        raise HTTPException(415, f"content type '{found}' is not read here{hint}")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise HTTPException(415, f"content encoding '{encoding}' is not read here; send the body as it is")


def _json(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type=JSON, headers=headers)


async def _on_error(request: Request, error: Exception) -> Response:
    """Status by whose fault it is. What is not listed is ours: uvicorn logs it, the client learns nothing of it."""
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return problem(status, str(error))
    return problem(500, "the server failed on this request; its log says why")


async def _on_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return await _on_error(request, error)
    path = request.url.path
    if error.status_code == 404:
        paths = [route.path for route in request.app.routes]
        return problem(404, f"no route {path}{nearest(path, paths)}")
    headers = dict(error.headers or {})
    if error.status_code == 405:
        text = f"{request.method} does not go with {path}; allowed: {headers.get('Allow', 'none')}"
        return problem(405, text, headers)
    return problem(error.status_code, error.detail, headers)
