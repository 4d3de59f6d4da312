"""The service on HTTP: routes, statuses and bodies, as a Starlette application.

Open Inference Protocol v2 under ``/v2``, events by name in KServe's v1 form under ``/v1``. Invariant: every error
leaves through `problem`, as ``{"error": text}`` with a status that says whose fault it is; what was not raised on
purpose leaves as 500 without its text.

Questions to models are read and written by `mlaas4hep.serve.asking`, as on the hot path (`mlaas4hep.serve.hot`), which
takes the usual ones before they come here.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.routing import Route as Path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlaas4hep.errors import MLaaSError, nearest
from mlaas4hep.serve.asking import JSON, Refusal, Route, answer, refusal_of, routes
from mlaas4hep.serve.control import control_routes
from mlaas4hep.serve.forms import whole_body
from mlaas4hep.serve.hooks import Hooks, Seen
from mlaas4hep.serve.openapi import openapi_route
from mlaas4hep.serve.service import InferenceService, Question
from mlaas4hep.serve.tfaas import tfaas_routes
from mlaas4hep.serve.tfaas_row import BASE

# Of a scope: who is to be called first and awaited, and gives a refusal or None.
FIND_OUT = "mlaas4hep.find_out"
# Letters of an address that are told again.
_MAX_PATH = 512


def create_app(
    service: InferenceService, hooks: Hooks | None = None, more: Sequence[BaseRoute] = (), *, base: str = BASE
) -> Starlette:
    """The application that answers for a service.

    ``hooks`` are told of what it answered, ``more`` routes go first, those of TFaaS are found under ``base``, too.
    """
    endpoints = _Endpoints(service, base)
    handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
        HTTPException: _on_http_error,
        MLaaSError: _on_error,
        Refusal: _on_error,
        ClientDisconnect: _on_error,
        Exception: _on_error,
    }
    middleware = [Middleware(_Watched, on_request=hooks.on_request)] if hooks and hooks.on_request else []
    middleware.append(Middleware(_Admitted))
    return Starlette(routes=[*more, *endpoints.routes()], exception_handlers=handlers, middleware=middleware)


class _Watched:
    """Tells a hook of every request that came this way."""

    def __init__(self, app: ASGIApp, on_request: Callable[[Seen], None]) -> None:
        self.app = app
        self.on_request = on_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began_s, status, sizes = time.monotonic(), 500, [0, 0]

        async def received() -> Message:
            message = await receive()
            sizes[0] += len(message.get("body", b""))
            return message

        async def sent(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            sizes[1] += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, received, sent)
        finally:
            question: Question[Any] | None = scope.get("mlaas4hep.question")
            seen = Seen(
                method=scope["method"],
                path=scope["path"],
                status=status,
                client=scope["client"][0] if scope["client"] else "",
                route=scope.get("mlaas4hep.route", ""),
                model=question.model if question else None,
                rows=question.rows if question else 0,
                bytes_in=sizes[0],
                bytes_out=sizes[1],
                seconds=time.monotonic() - began_s,
                queue_s=0.0,
                run_s=0.0,
                headers=dict(scope["headers"]),
            )
            self.on_request(seen)


class _Admitted:
    """Waits where the wire could not tell whether a request is refused, and refuses it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        find_out = scope.get(FIND_OUT)
        refusal = await find_out() if find_out is not None else None
        app = self.app if refusal is None else problem(refusal.status, refusal.text, refusal.headers)
        await app(scope, receive, send)


def once_allowed(find_out: Callable[[], Awaitable[Refusal | None]], app: ASGIApp) -> ASGIApp:
    """An application that answers as another, with what it has to find out first."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, FIND_OUT: find_out}, receive, send)

    return answer


async def told(refusal: Refusal) -> Refusal:
    """What was found out already."""
    return refusal


def problem(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    """The body of every error."""
    return _json({"error": text}, status=status, headers=headers)


class _Endpoints:
    def __init__(self, service: InferenceService, base: str) -> None:
        self.service = service
        self.base = base

    def routes(self) -> list[Path]:
        get: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/v2/health/live": self.live,
            "/v2/health/ready": self.ready,
            "/v2": self.server_metadata,
            "/v2/models": self.model_names,
            "/v1/models": self.model_names,
        }
        post: dict[str, Callable[[Request], Awaitable[Response]]] = {}
        for model in ("/v1/models/{name}", "/v1/models/{name}/versions/{version}"):
            get[model] = self.model_contract
            post[f"{model}:predict"] = self.asks("predict")
        only_post = [Path(path, _only_post, methods=["GET"], include_in_schema=False) for path in post]
        for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            get[model] = self.model_metadata
            get[f"{model}/ready"] = self.model_ready
            get[f"{model}/config"] = self.model_config
            post[f"{model}/infer"] = self.asks("infer")
        # First the routes that are asked most, and `:predict` before the name that would swallow it. Where it is asked
        # with GET it would be swallowed even so, since a router goes on to the next route that fits the method.
        return [
            *(Path(path, endpoint, methods=["POST"]) for path, endpoint in post.items()),
            *only_post,
            *control_routes(self.service),
            *tfaas_routes(self.service, self.base),
            openapi_route(),
            Path("/", _index, methods=["GET"]),
            *(Path(path, endpoint, methods=["GET"]) for path, endpoint in get.items()),
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
        await self.service.wake(request.path_params["name"])
        return _json(self.service.model_metadata(*_named(request)))

    async def model_config(self, request: Request) -> Response:
        await self.service.wake(request.path_params["name"])
        return _json(self.service.model_config(*_named(request)))

    async def model_ready(self, request: Request) -> Response:
        name, version = _named(request)
        ready = self.service.model_ready(name, version)
        return _json({"name": name, "ready": ready}, status=200 if ready else 503)

    async def model_contract(self, request: Request) -> Response:
        await self.service.wake(request.path_params["name"])
        return _json(self.service.model_contract(*_named(request)))

    def asks(self, kind: str) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint of one kind of question."""
        route = next(one for one in routes() if one.name == kind)

        async def ask(request: Request) -> Response:
            return await self._ask(route, request)

        return ask

    async def _ask(self, route: Route, request: Request) -> Response:
        name, version = _named(request)
        began_s = time.monotonic()
        await self.service.wake(name)
        self.service.repository.get(name, version)  # before a large body is taken in
        headers = dict(request.headers.raw)
        request.scope["mlaas4hep.route"] = route.name

        def on_question(question: Question[Any]) -> None:
            request.scope["mlaas4hep.question"] = question

        with self.service.intake.holding() as hold:
            body = await whole_body(request, self.service.limits.max_body_bytes, hold)
            target = (name, version)
            reply = await answer(self.service, route, target, headers, body, began_s=began_s, on_question=on_question)
        return Response(reply.body, media_type=reply.media_type, headers=dict(reply.headers))


async def _only_post(request: Request) -> Response:
    raise HTTPException(405, headers={"Allow": "POST"})


async def _index(request: Request) -> Response:
    """What can be asked, for who opens the address in a browser."""
    return _json({"name": "mlaas4hep", "routes": _routes_of(request)})


def _routes_of(request: Request) -> list[str]:
    """Method and path of each route, by path."""
    shown = [route for route in request.app.routes if route.include_in_schema]
    lines = {f"{(route.methods - {'HEAD'}).pop()} {route.path}" for route in shown}
    return sorted(lines, key=lambda line: line.partition(" ")[2])


def _named(request: Request) -> tuple[str, str | None]:
    return request.path_params["name"], request.path_params.get("version")


def _json(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type=JSON, headers=headers)


async def _on_error(request: Request, error: Exception) -> Response:
    """As the hot path refuses."""
    if isinstance(error, ClientDisconnect):
        return problem(400, str(error))
    refusal = refusal_of(error)
    return problem(refusal.status, refusal.text, refusal.headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return await _on_error(request, error)
    path = request.scope["path"][:_MAX_PATH]  # not Starlette's view of an address, which stays in a cache
    if error.status_code == 404:
        paths = [route.path for route in request.app.routes]
        return problem(404, f"no route {path}{nearest(path, paths)}")
    headers = dict(error.headers or {})
    if error.status_code == 405:
        text = f"{request.method} does not go with {path}; allowed: {headers.get('Allow', 'none')}"
        return problem(405, text, headers)
    return problem(error.status_code, error.detail, headers)
