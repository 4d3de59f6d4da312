"""The routes of TFaaS on HTTP: models come, are listed, described, fetched and deleted, asked by rows and pictures.

All of them exist under a prefix, too, as its setting ``base`` had it. Invariant: a model is named, never a path; and
what changes the server (upload, delete, the default model) is refused unless it was started with ``--uploads``.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route as Address

from mlaas4hep.bundle.layout import MODEL_FILE
from mlaas4hep.errors import (
    BundleError,
    MissingExtraError,
    MLaaSError,
    NotFoundError,
    ParityError,
    RequestError,
    UploadError,
)
from mlaas4hep.serve.asking import JSON, Refusal, Route, answer, timeout_of, too_large
from mlaas4hep.serve.forms import FIELDS, FORM, Hold, read_form, save_body, whole_body
from mlaas4hep.serve.service import InferenceService, Question
from mlaas4hep.serve.tfaas_image import ask_image
from mlaas4hep.serve.tfaas_params import described, params_of
from mlaas4hep.serve.tfaas_row import addresses, default_of, row_routes
from mlaas4hep.serve.uploads import Received, Stored, Uploads, decode_base64

Endpoint = Callable[[Request], Awaitable[Response]]
MAX_SMALL_BYTES = 1 << 20
# Beside the file of an upload: its other fields and the form's own words.
_FORM_BYTES = 4 << 20
_FORM_FIELDS = ("name", "params", "model", "labels", "op", "spec", "settings")
# As TFaaS tells them apart: whoever sends a form has the model in one of its fields, all others send an archive.
_JOBS = (
    "POST /upload with 'name' in the address is a question to the job service, which does not answer here; to bring a "
    "model, send its name as a field of the form (curl -F name=...)"
)
_OFF = "models are not taken and deleted from here; start the server with --uploads"
_log = logging.getLogger(__name__)


def tfaas_routes(service: InferenceService, base: str) -> list[Address]:
    """All routes of TFaaS, with a prefix and without."""
    endpoints = _Endpoints(service)
    found: list[tuple[str, str, Endpoint]] = [
        ("POST", "/upload", endpoints.upload),
        ("POST", "/bundle", endpoints.upload),
        ("GET", "/models", endpoints.models),
        ("GET", "/models/{name}", endpoints.data),
        ("GET", "/params", endpoints.params),
        ("GET", "/params/{name}", endpoints.params),
        ("POST", "/params", endpoints.set_default),
        ("DELETE", "/delete", endpoints.delete),
        ("DELETE", "/delete/{name}", endpoints.delete),
        ("GET", "/data", endpoints.data),
    ]
    heads = ("", f"/{base}") if base else ("",)
    listed = [(method, f"{head}{path}", endpoint) for head in heads for method, path, endpoint in found]
    asked = [
        ("POST", path, endpoints.rows(route)) for route in row_routes(base) for path in addresses(route.name, base)
    ]
    asked += [("POST", path, endpoints.image) for path in addresses("image", base)]
    return [
        Address(path + end, endpoint, methods=[method], include_in_schema=not end and not _under(path, base))
        for method, path, endpoint in (*asked, *listed)
        for end in ("", *(["/"] if path.endswith("/models") else []))
    ]


def _under(path: str, base: str) -> bool:
    return bool(base) and path.startswith(f"/{base}/")


class _Endpoints:
    def __init__(self, service: InferenceService) -> None:
        self.service = service

    def rows(self, route: Route) -> Endpoint:
        """Rows that do not take the short way (`mlaas4hep.serve.hot`)."""

        async def ask(request: Request) -> Response:
            request.scope["mlaas4hep.route"], began_s = route.name, time.monotonic()
            seen = functools.partial(request.scope.__setitem__, "mlaas4hep.question")
            with self.service.intake.holding() as hold:
                body = await whole_body(request, self.service.limits.max_body_bytes, hold)
                headers = dict(request.headers.raw)
                reply = await answer(self.service, route, (), headers, body, began_s=began_s, on_question=seen)
            return Response(reply.body, media_type=reply.media_type, headers=dict(reply.headers))

        return ask

    async def image(self, request: Request) -> Response:
        request.scope["mlaas4hep.route"] = "image"
        began_s, wait_s = time.monotonic(), timeout_of(dict(request.headers.raw))
        deadline = None if wait_s is None else began_s + wait_s
        with self.service.intake.holding() as hold:
            question = await self._picture(request, hold)
            request.scope["mlaas4hep.question"] = question
            return Response(await self.service.answer(question, deadline=deadline), media_type=JSON)

    async def _picture(self, request: Request, hold: Hold) -> Question[bytes]:
        limit = self.service.limits.max_body_bytes
        form = await read_form(request, limit, on_disk={}, field_bytes=limit, hold=hold)
        name = form.text("model") or request.query_params.get("model", "") or default_of(self.service)
        picture = form.fields.get("image")
        if not isinstance(picture, bytes) or not picture:
            raise RequestError(f"the form has no file 'image' (curl -F 'image=@picture.png' -F 'model={name}')")
        await self.service.wake(name)
        return await asyncio.to_thread(ask_image, self.service, name, picture, form.filenames.get("image", ""))

    async def models(self, request: Request) -> Response:
        """``null`` where there is none, as TFaaS says it."""
        names = self.service.model_names()
        found = await asyncio.to_thread(lambda: [told for name in names if (told := self._described(name))])
        return _json(found or None)

    def _described(self, name: str) -> dict[str, Any] | None:
        try:
            return described(self.service, name)
        except NotFoundError:  # deleted since the names were listed
            return None

    async def params(self, request: Request) -> Response:
        name = request.path_params.get("name") or default_of(self.service)
        return Response(await asyncio.to_thread(params_of, self.service, name), media_type=JSON)

    async def set_default(self, request: Request) -> Response:
        self._uploads(request)
        with self.service.intake.holding() as hold:
            name = _name_in(await whole_body(request, MAX_SMALL_BYTES, hold))
        await self.service.set_default(name)
        return Response()

    async def data(self, request: Request) -> Response:
        """The graph of a model."""
        name = request.path_params.get("name") or request.query_params.get("model", "")
        if not name:
            raise RequestError("asked for /data?model=NAME, found no name")
        if "/" in name:
            raise NotFoundError(f"/data gives models by their names, and '{name[:200]}' is none; see /models")
        self.service.model_ready(name)
        folder = await asyncio.to_thread(self.service.repository.folder, name)
        if folder is None or not (folder / MODEL_FILE).is_file():
            raise NotFoundError(f"model '{name}' lies in no file")
        return FileResponse(folder / MODEL_FILE, media_type="application/octet-stream", filename=f"{name}.onnx")

    async def delete(self, request: Request) -> Response:
        uploads = self._uploads(request)
        name = request.path_params.get("name") or request.query_params.get("model", "")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not name and kind in (FORM, FIELDS):
            with self.service.intake.holding() as hold:
                name = (await read_form(request, MAX_SMALL_BYTES, on_disk={}, hold=hold)).text("model")
        if not name:
            raise RequestError("asked for the name of a model (curl -X DELETE -F model=NAME), found none")
        await uploads.remove(name, self.service.remove_model)
        return Response()

    async def upload(self, request: Request) -> Response:
        if "name" in request.query_params:
            raise Refusal(404, _JOBS)
        uploads = self._uploads(request)
        try:
            async with uploads.receiving() as folder:
                received = await _received(request, folder, uploads.limit_bytes)
                stored = await uploads.take(received, self.service.load_model, self.service.remove_model)
        except (MLaaSError, Refusal) as error:
            refusal = _refusal_of(error)
            client = request.client.host if request.client else "somebody"
            if refusal is not None:
                _log.warning("an upload of %s was refused: %s", client, " ".join(refusal.text.split())[:500])
                raise refusal from error
            raise
        await self.service.set_default(stored.name)
        return _taken(request, stored)

    def _uploads(self, request: Request) -> Uploads:
        """Who takes models; refuses where nobody does, and pages of other sites, which visitors did not ask to."""
        if self.service.uploads is None:
            raise Refusal(403, _OFF)
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        strange = site not in ("same-origin", "none") if site else origin is not None and not _is_own(request, origin)
        if strange:
            raise Refusal(403, f"a page of {(origin or 'another site')[:200]} may not change the models of this server")
        return self.service.uploads


def _is_own(request: Request, origin: str) -> bool:
    return urlsplit(origin).netloc == request.headers.get("host", "")


async def _received(request: Request, folder: Path, limit: int) -> Received:
    """The body on the disk: a form's model, or the whole of it."""
    path = folder / ".model"  # gives no name to what has none
    kind, encoding = request.headers.get("content-type", ""), request.headers.get("content-encoding", "identity")
    if encoding not in ("identity", "gzip", "base64"):
        raise Refusal(415, f"content encoding '{encoding[:80]}' is not taken; an archive may be gzip, a model base64")
    if kind.partition(";")[0].strip().lower() != FORM:
        await save_body(request, limit, path)
        received = Received(path)
    else:
        if encoding == "gzip":
            raise Refusal(415, "a form is taken as it is; what its fields hold may be packed by gzip")
        form = await read_form(request, limit + _FORM_BYTES, on_disk={"model": path}, field_bytes=_FORM_BYTES)
        received = Received(path, {name: one for name, one in form.fields.items() if isinstance(one, bytes)})
        if "model" not in form.fields:
            sent = ", ".join(form.fields) or "nothing"
            raise RequestError(
                f"the form has no file 'model'; it has {sent}. A model comes with {', '.join(_FORM_FIELDS)}"
            )
    size = path.stat().st_size
    if size > limit:
        raise too_large(limit)
    if not size:
        raise RequestError("the upload is empty (curl --data-binary @model.tar.gz, or -F model=@model.onnx)")
    if encoding == "base64":
        await asyncio.to_thread(decode_base64, path)
    return received


def _refusal_of(error: MLaaSError | Refusal) -> Refusal | None:
    """Status of an upload that is not taken; None for errors that have theirs already."""
    text = str(error)
    if isinstance(error, Refusal):
        return error
    if isinstance(error, UploadError | ParityError):
        return Refusal(422, text)
    if isinstance(error, MissingExtraError):
        return Refusal(501, text)
    if isinstance(error, BundleError):
        return Refusal(409, text)
    return Refusal(400, text) if isinstance(error, RequestError) else None


def _taken(request: Request, stored: Stored) -> Response:
    """Empty, as TFaaS answers; who asks for JSON is told what was made."""
    headers = {"Location": f"/v2/models/{stored.name}/versions/{stored.version}"}
    if JSON in request.headers.get("accept", ""):
        return Response(stored.to_json(), media_type=JSON, headers=headers)
    return Response(headers=headers)


def _name_in(body: bytes) -> str:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error}") from error
    name = found.get("name") if isinstance(found, dict) else None
    if not isinstance(name, str) or not name:
        raise RequestError('asked for the name of the default model, {"name": "..."}, found none')
    return name


def _json(value: Any) -> Response:
    return Response(json.dumps(value).encode(), media_type=JSON)
