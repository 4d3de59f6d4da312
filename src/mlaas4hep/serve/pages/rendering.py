"""From a template to an answer: style, scripts, headers, and the addresses that a page has of other pages.

Invariant: every page names what a browser may load and run, which is this package's own style and scripts; whatever is
put into a template is escaped.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.responses import Response
from starlette.types import Scope

from mlaas4hep.errors import NotFoundError, nearest
from mlaas4hep.serve.pages.listing import figure_words

if TYPE_CHECKING:
    from jinja2 import Environment

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_STYLE = "style.css"
_TYPES = {_STYLE: "text/css", "try.js": "text/javascript", "enter.js": "text/javascript", "icon.svg": "image/svg+xml"}
_A_YEAR = "public, max-age=31536000, immutable"


def page_response(scope: Scope, template: str, *, status: int = 200, **values: Any) -> Response:
    """A page of a request; pages link to each other by relative addresses, so that a proxy may put them anywhere."""
    # As the browser counts: an escaped slash is none.
    root = "../" * (scope["raw_path"].count(b"/") - 1)
    content = _environment().get_template(template).render(root=root, stamp=_stamp(), **values)
    headers = HEADERS | {"Content-Security-Policy": POLICY, "Cache-Control": "no-store", "Vary": "Accept"}
    return Response(content, status_code=status, media_type="text/html", headers=headers)


def static_response(file: str) -> Response:
    """Style or script; `NotFoundError` for what is neither."""
    if file not in _TYPES:
        raise NotFoundError(f"no file '{file}'{nearest(file, _TYPES)}")
    headers = HEADERS | {"Content-Security-Policy": POLICY, "Cache-Control": _A_YEAR}
    return Response(_content(file), media_type=_TYPES[file], headers=headers)


def wants_html(scope: Scope) -> bool:
    """Whether a browser asks, by its header Accept."""
    return names_html(dict(scope["headers"]).get(b"accept", b"").decode("latin-1"))


def names_html(accept: str) -> bool:
    """Whether HTML is named, and JSON is not named with as much weight.

    Examples
    --------
    >>> names_html("text/html,application/xhtml+xml,*/*;q=0.8"), names_html("*/*"), names_html("")
    (True, False, False)
    >>> names_html("application/json, text/html;q=0.5"), names_html("text/html;q=0")
    (False, False)
    """
    weights = {}
    for one in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in one.split(";"))
        weights[kind] = next((_weight(piece[2:]) for piece in parameters if piece.startswith("q=")), 1.0)
    return weights.get("text/html", 0.0) > weights.get("application/json", 0.0)


def _weight(text: str) -> float:
    return float(text) if text.isascii() and text.replace(".", "", 1).isdecimal() else 0.0


@cache
def _content(file: str) -> bytes:
    """The style is that of the reports and what the pages add."""
    own = (files("mlaas4hep.serve.pages") / "static" / file).read_bytes()
    return (files("mlaas4hep.report") / "templates" / file).read_bytes() + own if file == _STYLE else own


@cache
def _stamp() -> str:
    """What changes with style and scripts, so that they may be kept for long."""
    return hashlib.sha256(b"".join(map(_content, _TYPES))).hexdigest()[:12]


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
