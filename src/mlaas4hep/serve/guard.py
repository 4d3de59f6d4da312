"""The gate on HTTP: which kind of question a request is, and how a refusal is told.

Invariant: a request whose kind is not known counts as the most dangerous one; only health is asked without a token.
"""

from __future__ import annotations

import logging
import math
import re
from functools import partial
from urllib.parse import unquote

from mlaas4hep.auth import Policy
from mlaas4hep.auth.gate import Gate
from mlaas4hep.errors import ForbiddenError, IssuerError, TokenError
from mlaas4hep.serve.asking import Headers, Refusal
from mlaas4hep.serve.hooks import Verdict
from mlaas4hep.serve.tfaas_row import BASE

_log = logging.getLogger(__name__)
_MAX_QUOTED = 400
# Paths whose meaning is kept, and how long they may be for that.
_MAX_PATHS, _MAX_PATH = 4096, 512


class Guard:
    """Decides about requests by their heads; `authorise` is a hook of `mlaas4hep.serve.hooks.Hooks`."""

    def __init__(self, gate: Gate, *, base: str = BASE) -> None:
        self.gate = gate
        self._base = base
        self._kinds: dict[tuple[str, str], tuple[str, str | None] | None] = {}

    def authorise(self, method: str, path: str, headers: Headers) -> Verdict:
        """None lets pass; where nothing is remembered of a token, what is found out about it is to be awaited."""
        try:
            asked = self._kinds[method, path]
        except KeyError:
            asked = self._remember(method, path)
        if asked is None:
            return None
        action, model = asked
        authorization = headers.get(b"authorization")
        if self.gate.recall(authorization, action, model) is not None:
            return None
        return partial(self._find_out, authorization, action, model)

    def subject(self, authorization: bytes) -> str | None:
        """Whose token it is, where it was found good lately."""
        return self.gate.subject(authorization)

    def _remember(self, method: str, path: str) -> tuple[str, str | None] | None:
        if len(path) > _MAX_PATH:
            return kind_of(method, path, base=self._base)
        if len(self._kinds) >= _MAX_PATHS:
            self._kinds.clear()
        self._kinds[method, path] = found = kind_of(method, path, base=self._base)
        return found

    async def _find_out(self, authorization: bytes | None, action: str, model: str | None) -> Refusal | None:
        try:
            await self.gate.admit(authorization, action, model)
        except (TokenError, ForbiddenError, IssuerError) as error:
            return refusal_of(error)
        return None


def kind_of(method: str, path: str, *, base: str = BASE) -> tuple[str, str | None] | None:
    """Action, as the policy has it, and model of a request; None for what anyone may ask.

    The routes of TFaaS are found under ``base``, too.

    Examples
    --------
    >>> kind_of("POST", "/v2/models/tth/infer"), kind_of("POST", "/v2/repository/models/tth/load")
    (('infer', 'tth'), ('manage', 'tth'))
    >>> kind_of("GET", "/v2/health/ready") is None, kind_of("DELETE", "/anything")
    (True, ('upload', None))
    """
    if not path.startswith("/"):
        return "upload", None  # an address with a host is read by the router otherwise than here
    # As the router does it: escapes first, so that both see the same pieces.
    parts = unquote(re.split("[?#]", path, maxsplit=1)[0]).split("/")[1:]
    if method == "OPTIONS" or parts[:2] == ["v2", "health"]:
        return None
    if parts[:1] == ["pages"] and method in ("GET", "HEAD"):
        return _kind_of_page(parts)
    if parts == ["metrics"]:
        return "metrics", None
    if parts[:1] in (["v1"], ["v2"]) and len(parts) > 1:
        return _kind_of_ours(method, parts)
    return _kind_of_others(method, parts[1:] if base and parts[0] == base else parts)


def _kind_of_ours(method: str, parts: list[str]) -> tuple[str, str | None]:
    if parts[1] == "repository":
        model = parts[3] if len(parts) > 3 and parts[2] == "models" else None
        if parts[2:] == ["index"] or method in ("GET", "HEAD"):
            return "see", model
        return "manage", model
    model = parts[2] if len(parts) > 2 and parts[1] == "models" else None
    if method in ("GET", "HEAD"):
        return "see", model
    if method == "POST" and model is not None:
        name, colon, verb = model.rpartition(":")
        if len(parts) == 3 and colon and verb == "predict":
            return "infer", name
        if len(parts) == 5 and parts[3] == "versions" and parts[4].endswith(":predict"):
            return "infer", model
        if parts[-1] == "infer" and len(parts) in (4, 6):
            return "infer", model
    return "upload", model


def _kind_of_others(method: str, parts: list[str]) -> tuple[str, str | None]:
    """Routes of TFaaS. Where they name the model in the body, no permission for one model suffices."""
    parts = parts[:-1] if parts[-1:] == [""] else parts
    model = parts[1] if len(parts) == 2 and parts[0] in ("models", "params", "delete") else None
    if method in ("GET", "HEAD"):
        # The model itself is more than what is told of it.
        fetches = parts == ["data"] or (model is not None and parts[0] == "models")
        return ("manage" if fetches else "see"), model
    asks = len(parts) in (1, 2) and parts[:-1] in ([], ["predict"]) and parts[-1] in ("json", "proto", "image")
    return ("infer", None) if method == "POST" and asks else ("upload", model)


def _kind_of_page(parts: list[str]) -> tuple[str, str | None] | None:
    if parts[1:2] == ["static"]:
        return None  # the same for every server: it tells nothing of this one
    return "see", parts[2] if parts[1:2] == ["models"] and len(parts) > 2 else None


def refusal_of(error: TokenError | ForbiddenError | IssuerError) -> Refusal:
    """Status, and what RFC 6750 wants to be said with it."""
    if isinstance(error, IssuerError):
        return Refusal(503, str(error), {"Retry-After": str(math.ceil(error.retry_after_s))})
    if isinstance(error, ForbiddenError):
        scope = f', scope="{_quoted(error.scope)}"' if error.scope else ""
        return Refusal(
            403, str(error), {"WWW-Authenticate": f'Bearer realm="mlaas4hep", error="insufficient_scope"{scope}'}
        )
    reason = f', error="invalid_token", error_description="{_quoted(str(error))}"' if error.given else ""
    return Refusal(401, str(error), {"WWW-Authenticate": f'Bearer realm="mlaas4hep"{reason}'})


def _quoted(text: str) -> str:
    """Text that may stand in a quoted string of a header."""
    kept = "".join(one if " " <= one <= "~" and one not in '"\\' else "'" for one in text)
    return kept[:_MAX_QUOTED]


def start_guard(policy: Policy, *, base: str = BASE) -> Guard:
    """A guard that has asked the issuers for their keys; who does not answer is asked again later."""
    guard = Guard(Gate(policy), base=base)
    for why in guard.gate.prepare():
        _log.warning("%s; asked again when a token needs it", why)
    return guard
