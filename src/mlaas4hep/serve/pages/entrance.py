"""What a browser sees where a token is needed: a field for one, in place of the JSON that programs get.

Browsers send no bearer token when they open an address; the script of this page asks for the same address with the
token and shows what comes. Invariant: the status stays, and nothing of the refused page is told.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlaas4hep.serve.pages.rendering import page_response, wants_html


class Entrance:
    """Around an application that refuses with 401 and 403."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _is_page(scope):
            await self.app(scope, receive, send)
            return
        refused: list[Message] = []

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (401, 403):
                refused.append(message)
            elif not refused:
                await send(message)
            elif not message.get("more_body"):
                refused.append(message)

        await self.app(scope, receive, sent)
        if refused:
            await _answer(scope, refused)(scope, receive, send)


def _is_page(scope: Scope) -> bool:
    """A report is none: its pictures are asked for without the token."""
    path: str = scope["path"]
    ours = path in ("/", "/pages") or path.startswith(("/pages/models/", "/pages/routes"))
    return ours and "/report/" not in path and wants_html(scope)


def _answer(scope: Scope, refused: list[Message]) -> ASGIApp:
    head = {name.decode("latin-1"): value.decode("latin-1") for name, value in refused[0]["headers"]}
    told: dict[str, Any] = msgspec.json.decode(refused[-1].get("body", b"{}"))
    response = page_response(
        scope, "entrance.html", status=refused[0]["status"], why=told.get("error", "a token is needed")
    )
    if "www-authenticate" in head:
        response.headers["WWW-Authenticate"] = head["www-authenticate"]
    return response
