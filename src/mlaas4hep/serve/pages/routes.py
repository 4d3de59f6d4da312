"""The pages on HTTP: their addresses, and what each is made of.

Rendering happens in one thread of its own, so that many who look slow each other down and nobody who asks. Invariant:
a report, which comes out of a bundle, runs no script.
"""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from mlaas4hep.errors import NotFoundError, nearest
from mlaas4hep.serve.exposition import Totals
from mlaas4hep.serve.openapi import describe
from mlaas4hep.serve.pages.listing import model_rows
from mlaas4hep.serve.pages.rendering import HEADERS, page_response, static_response, wants_html
from mlaas4hep.serve.pages.sealed import REPORT_PAGE, report_file
from mlaas4hep.serve.pages.view import model_view
from mlaas4hep.serve.service import InferenceService

# The page of a training has its style within and pictures beside it; `sandbox` takes all scripts from it.
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox allow-same-origin"
)


def page_routes(
    service: InferenceService, totals: Callable[[], Iterable[Totals]], *, guarded: bool = False
) -> list[BaseRoute]:
    """The routes of the pages.

    Parameters
    ----------
    service
        Whose models are shown.
    totals
        What was asked so far.
    guarded
        Whether the server may ask for tokens, so that the form has a field for one.
    """
    pages = _Pages(service, totals, guarded=guarded)
    model, version = "/pages/models/{name}", "/pages/models/{name}/versions/{version}"
    return [
        _ForBrowsers("/", _to_pages, methods=["GET"], include_in_schema=False),
        Route("/pages", pages.models, methods=["GET"]),
        Route("/pages/routes", pages.routes, methods=["GET"]),
        Route("/pages/static/{file}", _static, methods=["GET"]),
        Route(model, pages.model, methods=["GET"]),
        Route(version, pages.model, methods=["GET"]),
        Route(f"{version}/report/{{file:path}}", pages.report, methods=["GET"]),
    ]


class _ForBrowsers(Route):
    """A route that is there for browsers only; who else asks finds the next one with this path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found, child = super().matches(scope)
        return (found, child) if found is Match.NONE or wants_html(scope) else (Match.NONE, {})


async def _to_pages(request: Request) -> Response:
    return RedirectResponse("pages", status_code=307, headers={"Vary": "Accept", "Cache-Control": "no-store"})


class _Pages:
    def __init__(self, service: InferenceService, totals: Callable[[], Iterable[Totals]], *, guarded: bool) -> None:
        self.service = service
        self.totals = totals
        self.guarded = guarded
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlaas4hep-pages")

    async def models(self, request: Request) -> Response:
        return await self._answer(self._models, request)

    async def routes(self, request: Request) -> Response:
        return await self._answer(self._routes, request)

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if "wake" in request.query_params:
            try:
                await self.service.wake(name)
            except NotFoundError as error:
                return await self._in_thread(_missing, request, str(error))
        return await self._answer(self._model, request)

    async def report(self, request: Request) -> Response:
        return await self._answer(self._report, request)

    def _models(self, request: Request) -> Response:
        rows = model_rows(self.service, self.totals())
        return page_response(request.scope, "models.html", rows=rows, server=self.service.server_metadata())

    def _routes(self, request: Request) -> Response:
        return page_response(request.scope, "routes.html", description=describe(request.app.routes))

    def _model(self, request: Request) -> Response:
        name, version = request.path_params["name"], request.path_params.get("version")
        rows = model_rows(self.service, self.totals())
        row = next((one for one in rows if one.name == name), None)
        if row is None:
            raise NotFoundError(f"no model '{name}' is served here{nearest(name, [one.name for one in rows])}")
        url = str(request.base_url).rstrip("/")
        view = model_view(self.service, row, version, url=url, guarded=self.guarded)
        return page_response(request.scope, "model.html", row=row, view=view, guarded=self.guarded)

    def _report(self, request: Request) -> Response:
        name, version = request.path_params["name"], request.path_params["version"]
        served = self.service.repository.entry(name)
        model = served.known.get(version) if served is not None else None
        if model is None:
            raise NotFoundError(f"no model '{name}' with version {version} is loaded here")
        file = request.path_params["file"] or REPORT_PAGE
        kind = mimetypes.guess_type(file)[0] or "application/octet-stream"
        headers = HEADERS | {"Content-Security-Policy": REPORT_POLICY, "Cache-Control": "no-cache"}
        return Response(report_file(model, file), media_type=kind, headers=headers)

    async def _answer(self, make: Callable[[Request], Response], request: Request) -> Response:
        try:
            return await self._in_thread(make, request)
        except NotFoundError as error:
            return await self._in_thread(_missing, request, str(error))

    async def _in_thread(self, make: Callable[..., Response], *arguments: Any) -> Response:
        return await asyncio.get_running_loop().run_in_executor(self._thread, make, *arguments)


def _missing(request: Request, text: str) -> Response:
    return page_response(request.scope, "missing.html", status=404, text=text)


async def _static(request: Request) -> Response:
    return static_response(request.path_params["file"])
