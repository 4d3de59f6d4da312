"""The pages on HTTP: addresses, headers and rendering.

Rendering happens in one thread of its own, so that many who look slow each other down and nobody who asks. Invariant:
every answer names what a browser may load and run, which is this package's style and script and nothing else; a report,
which comes out of a bundle, runs nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from mlaas4hep.errors import NotFoundError, nearest
from mlaas4hep.serve.exposition import Totals
from mlaas4hep.serve.openapi import describe
from mlaas4hep.serve.pages.listing import figure_words, model_rows
from mlaas4hep.serve.pages.sealed import REPORT_PAGE, report_file
from mlaas4hep.serve.pages.view import model_view
from mlaas4hep.serve.service import InferenceService

if TYPE_CHECKING:
    from jinja2 import Environment

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
# The page of a training has its style within and pictures beside it; `sandbox` takes all scripts from it.
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox allow-same-origin"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_STYLE, _SCRIPT = "style.css", "try.js"
_TYPES = {_STYLE: "text/css", _SCRIPT: "text/javascript", "icon.svg": "image/svg+xml"}
_A_YEAR = "public, max-age=31536000, immutable"


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


def wants_html(accept: str) -> bool:
    """Whether a browser asks: HTML is named, and JSON is not named with as much weight.

    Examples
    --------
    >>> wants_html("text/html,application/xhtml+xml,*/*;q=0.8"), wants_html("*/*"), wants_html("")
    (True, False, False)
    >>> wants_html("application/json, text/html;q=0.5"), wants_html("text/html;q=0")
    (False, False)
    """
    weights = {}
    for one in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in one.split(";"))
        weights[kind] = next((_weight(piece[2:]) for piece in parameters if piece.startswith("q=")), 1.0)
    return weights.get("text/html", 0.0) > weights.get("application/json", 0.0)


def _weight(text: str) -> float:
    return float(text) if text.replace(".", "", 1).isdecimal() else 0.0


class _ForBrowsers(Route):
    """A route that is there for browsers only; who else asks finds the next one with this path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found, child = super().matches(scope)
        if found is not Match.NONE and not wants_html(dict(scope["headers"]).get(b"accept", b"").decode("latin-1")):
            return Match.NONE, {}
        return found, child


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
        return _page(request, "models.html", rows=rows, server=self.service.server_metadata())

    def _routes(self, request: Request) -> Response:
        return _page(request, "routes.html", description=describe(request.app.routes))

    def _model(self, request: Request) -> Response:
        name, version = request.path_params["name"], request.path_params.get("version")
        rows = model_rows(self.service, self.totals())
        row = next((one for one in rows if one.name == name), None)
        if row is None:
            raise NotFoundError(f"no model '{name}' is served here{nearest(name, [one.name for one in rows])}")
        url = str(request.base_url).rstrip("/")
        view = model_view(self.service, row, version, url=url, guarded=self.guarded)
        return _page(request, "model.html", row=row, view=view, guarded=self.guarded)

    def _report(self, request: Request) -> Response:
        name, version = request.path_params["name"], request.path_params["version"]
        served = self.service.repository.entry(name)
        model = served.known.get(version) if served is not None else None
        if model is None:
            raise NotFoundError(f"no model '{name}' with version {version} is loaded here")
        file = request.path_params["file"] or REPORT_PAGE
        kind = mimetypes.guess_type(file)[0] or "application/octet-stream"
        headers = _HEADERS | {"Content-Security-Policy": REPORT_POLICY, "Cache-Control": "no-cache"}
        return Response(report_file(model, file), media_type=kind, headers=headers)

    async def _answer(self, make: Callable[[Request], Response], request: Request) -> Response:
        try:
            return await self._in_thread(make, request)
        except NotFoundError as error:
            return await self._in_thread(_missing, request, str(error))

    async def _in_thread(self, make: Callable[..., Response], *arguments: Any) -> Response:
        return await asyncio.get_running_loop().run_in_executor(self._thread, make, *arguments)


def _missing(request: Request, text: str) -> Response:
    return _page(request, "missing.html", status=404, text=text)


def _page(request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
    # As the browser counts: an escaped slash is none.
    root = "../" * (request.scope["raw_path"].count(b"/") - 1)
    content = _environment().get_template(template).render(root=root, stamp=_stamp(), **values)
    headers = _HEADERS | {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
    return Response(content, status_code=status, media_type="text/html", headers=headers)


async def _static(request: Request) -> Response:
    file = request.path_params["file"]
    if file not in _TYPES:
        raise NotFoundError(f"no file '{file}'{nearest(file, _TYPES)}")
    headers = _HEADERS | {"Content-Security-Policy": POLICY, "Cache-Control": _A_YEAR}
    return Response(_content(file), media_type=_TYPES[file], headers=headers)


@cache
def _content(file: str) -> bytes:
    """Style of the reports and of the pages, or the script of the form."""
    own = (files("mlaas4hep.serve.pages") / "static" / file).read_bytes()
    return (files("mlaas4hep.report") / "templates" / file).read_bytes() + own if file == _STYLE else own


@cache
def _stamp() -> str:
    """What changes with style and script, so that they may be kept for long."""
    return hashlib.sha256(_content(_STYLE) + _content(_SCRIPT)).hexdigest()[:12]


@cache
def _environment() -> Environment:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    from mlaas4hep.report.page import figure, measured, rounded, share

    environment = Environment(
        loader=ChoiceLoader([PackageLoader("mlaas4hep.serve.pages"), PackageLoader("mlaas4hep.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(figure=figure, share=share, rounded=rounded, piece=_piece)
    environment.globals.update(measured=measured, figure_words=figure_words)
    return environment


def _piece(text: str) -> str:
    """Text as one piece of an address."""
    return quote(text, safe="")
