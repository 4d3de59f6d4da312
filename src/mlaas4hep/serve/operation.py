"""What runs beside the answering: counts, a log, tokens, TLS, other origins; all off but the counts.

Invariant: who is refused is refused here, before a route or a model is looked at, and counted and logged all the same.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from mlaas4hep.auth.policy import Policy
from mlaas4hep.errors import MissingExtraError, UserError
from mlaas4hep.serve.access import AccessLog
from mlaas4hep.serve.asking import JSON, Headers, Refusal
from mlaas4hep.serve.exposition import CONTENT_TYPE
from mlaas4hep.serve.hooks import Hooks, Seen, SeenTogether, Verdict
from mlaas4hep.serve.metrics import Counts, Metrics, statistics
from mlaas4hep.serve.model import ServedModel
from mlaas4hep.serve.pages import Entrance, page_routes
from mlaas4hep.serve.protocol import HEADER_LENGTH
from mlaas4hep.serve.service import InferenceService
from mlaas4hep.serve.tfaas_row import BASE
from mlaas4hep.serve.tfaas_status import Status
from mlaas4hep.serve.tls import TlsFiles

if TYPE_CHECKING:
    from mlaas4hep.auth.gate import Gate
    from mlaas4hep.serve.guard import Guard

_CORS_HEADERS = ("Authorization", "Content-Type", HEADER_LENGTH, "X-Request-Id", "X-Request-Timeout-Ms")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """How a server is operated.

    Parameters
    ----------
    access_log
        File of the log, ``-`` for standard output; None for none.
    policy
        Who may do what; None lets everybody do everything.
    tls
        Certificates; None speaks in the clear.
    cors
        Origins whose pages may read answers; ``*`` for all.
    drain_s
        How long questions are still taken after the server was told to end, while it says that it is not ready.
    base
        The prefix under which the routes of TFaaS are found, too; empty for none.
    pages
        Whether there are pages for people, under ``/pages``.
    """

    access_log: str | None = None
    policy: Policy | None = None
    tls: TlsFiles | None = None
    cors: tuple[str, ...] = ()
    drain_s: float = 0.0
    base: str = BASE
    pages: bool = True


class Operation:
    """Runs what `Options` ask for, for one server; `close` it in the end.

    Parameters
    ----------
    service
        Whose questions are counted.
    options
        What runs.
    folder, worker
        Where the workers of one server lay their counts, and the number of this one.
    hooks
        Of the caller, told and asked too.
    """

    def __init__(
        self,
        service: InferenceService,
        options: Options | None = None,
        *,
        folder: Path | None = None,
        worker: int = 0,
        hooks: Hooks | None = None,
    ) -> None:
        self.options = options = options or Options()
        self._also = hooks or Hooks()
        self._guard = _guard(options.policy, options.base) if options.policy is not None else None
        self._context = options.tls.context() if options.tls is not None else None
        self.grpc_context = options.tls.context() if options.tls is not None else None
        if self.grpc_context is not None:
            self.grpc_context.set_alpn_protocols(["h2"])
        subject = self._guard.subject if self._guard is not None else None
        self.log = AccessLog(options.access_log, subject=subject) if options.access_log else None
        dropped = (lambda: self.log.dropped if self.log else 0) if self.log else int
        self.metrics = Metrics(folder=folder, worker=worker, pending=service.waiting, dropped=dropped)
        self._status = Status()
        self._on_run_before = service.on_run
        service.on_run = self._ran
        service.extensions = (*service.extensions, "statistics")
        authorises = self._guard is not None or options.cors or self._also.authorise is not None
        each = self.log is not None or self._also.on_request is not None
        self.hooks = Hooks(
            on_request=self._seen,
            authorise=self._authorise if authorises else None,
            on_together=None if each else self._seen_together,
        )
        self._service = service

    @property
    def gate(self) -> Gate | None:
        """Who may do what, for other transports; None where everybody may do everything."""
        return self._guard.gate if self._guard is not None else None

    @property
    def scheme(self) -> str:
        """Of the server's address."""
        return "http" if self._context is None else "https"

    @property
    def ssl_context_factory(self) -> Callable[..., ssl.SSLContext] | None:
        """As uvicorn asks for it."""
        context = self._context
        return None if context is None else lambda config, default: context

    def routes(self) -> list[BaseRoute]:
        """What can be asked of how the server is doing, and the pages."""
        guarded = self._guard is not None
        pages = page_routes(self._service, self.metrics.totals, guarded=guarded) if self.options.pages else []
        model = "/v2/models/{name}"
        return [
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/status", self._machine, methods=["GET"]),
            *([_hidden(f"/{self.options.base}/status", self._machine)] if self.options.base else []),
            Route("/v2/models/stats", self._statistics, methods=["GET"]),
            Route(f"{model}/stats", self._statistics, methods=["GET"]),
            Route(f"{model}/versions/{{version}}/stats", self._statistics, methods=["GET"]),
            *pages,
        ]

    def around(self, app: ASGIApp) -> ASGIApp:
        """The application with what browsers need: a field for a token, and leave for pages of other origins."""
        if self._guard is not None and self.options.pages:
            app = Entrance(app)
        if not self.options.cors:
            return app
        return CORSMiddleware(
            app,
            allow_origins=self.options.cors,
            allow_methods=("GET", "POST"),
            allow_headers=_CORS_HEADERS,
            expose_headers=(HEADER_LENGTH, "Retry-After", "WWW-Authenticate"),
        )

    def hang_up(self) -> None:
        """Take new files where they were changed: the log that was moved away, new certificates."""
        if self.log is not None:
            self.log.reopen()
        for context in (self._context, self.grpc_context):
            if context is None or self.options.tls is None:
                continue
            try:
                self.options.tls.reload(context)
            except UserError as error:  # the old ones go on
                _log.error("%s", error)

    def statistics(self, name: str | None, version: str | None) -> dict[str, Any]:
        """What Triton's statistics extension tells of a model, or of all; of a version by its label, too.

        Versions that are served and that nobody has asked yet are told of with zeros.
        """
        repository = self._service.repository
        labelled = repository.peek(name, version) if version is not None else None
        version = version if labelled is None else labelled.version
        found = {(one.model, one.version): one for one in self.metrics.totals(name, version)}
        for model in repository.loaded if name is None else (name,):
            served = repository.entry(model)
            for one in served.versions if served is not None else ():
                if version in (None, one):
                    found.setdefault((model, one), Counts(model, one).totals())
        return statistics(found[key] for key in sorted(found))

    def close(self) -> None:
        """Write what waits."""
        if self.log is not None:
            self.log.close()
        self.metrics.close()
        if self._guard is not None:
            self._guard.gate.close()

    def _seen(self, seen: Seen) -> None:
        self.metrics.seen(seen)
        self._status.seen(seen)
        if self.log is not None:
            self.log.seen(seen)
        if self._also.on_request is not None:
            self._also.on_request(seen)

    def _seen_together(self, seen: SeenTogether) -> None:
        self.metrics.seen_together(seen)
        self._status.posts += len(seen.began_s)

    def _ran(self, model: ServedModel, questions: int, rows: int, seconds: float) -> None:
        self.metrics.ran(model, questions, rows, seconds)
        if self._on_run_before is not None:
            self._on_run_before(model, questions, rows, seconds)

    def _authorise(self, method: str, path: str, headers: Headers) -> Verdict:
        for authorise in (self._also.authorise, self._guard.authorise if self._guard else None):
            verdict = authorise(method, path, headers) if authorise is not None else None
            if verdict is not None:
                return verdict
        if self.options.cors and b"origin" in headers:
            return _allowed  # answered by the application, which knows what browsers want to hear
        return None

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _machine(self, request: Request) -> Response:
        return Response(msgspec.json.encode(self._status.told()), media_type=JSON)

    async def _statistics(self, request: Request) -> Response:
        name, version = request.path_params.get("name"), request.path_params.get("version")
        if name is not None:
            self._service.model_ready(name, version)  # tells of a model that is not served
        return Response(msgspec.json.encode(self.statistics(name, version)), media_type=JSON)


def _hidden(path: str, endpoint: Callable[..., Any]) -> Route:
    return Route(path, endpoint, methods=["GET"], include_in_schema=False)


async def _allowed() -> Refusal | None:
    return None


def _guard(policy: Policy, base: str) -> Guard:
    try:
        from mlaas4hep.serve.guard import start_guard  # imports joserfc, which is asked for only where tokens are
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "auth", "--auth") from error
    return start_guard(policy, base=base)
