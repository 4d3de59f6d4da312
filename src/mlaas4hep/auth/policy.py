"""The file of ``--auth``: whose tokens are taken, and what each kind of question asks for.

Invariant: what the file does not allow is refused; nothing is open but what it opens by name, and health.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mlaas4hep.auth.scopes import Scope, parse_scope
from mlaas4hep.errors import ConfigError, nearest

# What is asked of a server, and what that takes where the file says nothing.
ACTIONS: dict[str, tuple[str, str]] = {
    "see": ("token", "names, tensors, columns and statistics of models"),
    "infer": ("compute.read", "scores"),
    "manage": ("compute.modify", "load and unload, fetch the file of a model"),
    "upload": ("compute.modify", "bring new models, and delete them"),
    "metrics": ("token", "GET /metrics"),
}
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
MODEL = "{model}"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,254}")


class Need(NamedTuple):
    """One thing that suffices: kind ``anyone``, ``token``, ``group``, ``subject`` or ``scope``, and which."""

    kind: str
    value: str = ""

    def scope(self, model: str | None) -> Scope | None:
        """The scope that is wanted of a model; None where this cannot be granted for it."""
        if MODEL not in self.value:
            return parse_scope(self.value)
        if model is None or not _NAME.fullmatch(model):
            return None  # a name with a slash or an escape would be another path
        return parse_scope(self.value.replace(MODEL, model))

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}" if self.kind in ("group", "subject") else self.value or self.kind


@dataclass(frozen=True, slots=True)
class Issuer:
    """Somebody whose tokens are taken.

    Parameters
    ----------
    url
        Exactly as in the tokens' ``iss``.
    algorithms
        Of signatures; asymmetric ones only.
    authority
        File of the certificate authorities that its server is trusted by; None for the system's.
    """

    url: str
    algorithms: tuple[str, ...] = ALGORITHMS
    authority: Path | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """Whose tokens are taken, and what suffices for what.

    Parameters
    ----------
    issuers
        By their URL.
    audience
        A token must be meant for one of these.
    needs
        For each of `ACTIONS` what suffices, each alone.
    clock_skew_s
        How far clocks may differ.
    refresh_s, kept_s
        Age at which keys are asked for again, and beyond which they are not used, where their issuer does not answer.
    remember_s
        How long a verified token is taken without another look, at most.
    """

    issuers: Mapping[str, Issuer]
    audience: tuple[str, ...]
    needs: Mapping[str, tuple[Need, ...]]
    clock_skew_s: float = 30.0
    refresh_s: float = 3600.0
    kept_s: float = 86400.0
    remember_s: float = 300.0


def read_policy(path: Path) -> Policy:
    """The policy of a YAML file.

    Raises
    ------
    ConfigError
        It cannot be read; tells all that is wrong with it.
    """
    from mlaas4hep.strict_yaml import read_text  # brings YAML, which a server without such a file does not need

    return parse_policy(read_text(path), where=str(path), folder=path.parent)


def parse_policy(text: str, *, where: str = "auth", folder: Path = Path()) -> Policy:
    """As `read_policy`, from text; paths in it are relative to ``folder``."""
    from mlaas4hep.strict_yaml import load_mapping  # brings YAML, which a server without tokens does not need

    document = load_mapping(text, where, such_as="issuers, audience, allow")
    problems: list[str] = []
    known = ("issuers", "audience", "allow", *_TIMES)
    problems += [f"{key}: unknown key{nearest(str(key), known)}" for key in document if key not in known]
    issuers = _issuers(document.get("issuers"), folder, problems)
    audience = _texts(document.get("audience"), "audience", problems)
    needs = _needs(document.get("allow", {}), problems)
    if len(issuers) > 1 and any(one.kind == "subject" for some in needs.values() for one in some):
        problems.append("allow: subject:NAME needs a single issuer, since each gives names of its own; take groups")
    times = {key: _seconds(document[key], key, problems) for key in _TIMES if key in document}
    if "issuers" not in document:
        problems.append("issuers: is missing; whose tokens are taken, such as [https://wlcg.cloud.cnaf.infn.it/]")
    if "audience" not in document:
        problems.append("audience: is missing; what tokens for this server say, such as https://ml.example.org")
    if problems:
        raise ConfigError(problems, where=where)
    return Policy(issuers, audience, needs, **times)


_TIMES = ("clock_skew_s", "refresh_s", "kept_s", "remember_s")


def _issuers(value: Any, folder: Path, problems: list[str]) -> dict[str, Issuer]:
    items = value if isinstance(value, list) else [] if value is None else [value]
    found: dict[str, Issuer] = {}
    for number, item in enumerate(items):
        place = f"issuers[{number}]"
        fields = item if isinstance(item, dict) else {"issuer": item}
        known = ("issuer", "algorithms", "authority")
        problems += [f"{place}.{key}: unknown key{nearest(str(key), known)}" for key in fields if key not in known]
        url = _issuer_url(fields.get("issuer"), place, problems)
        authority = fields.get("authority")
        if authority is not None and not (isinstance(authority, str) and (folder / authority).is_file()):
            problems.append(f"{place}.authority: no file '{authority}'")
            authority = None
        algorithms = _texts(fields.get("algorithms", list(ALGORITHMS)), f"{place}.algorithms", problems)
        for one in algorithms:
            if one not in ALGORITHMS:
                hint = "; only signatures that a public key verifies are taken"
                problems.append(f"{place}.algorithms: '{one}'{nearest(one, ALGORITHMS)}{hint}")
        found[url] = Issuer(url, algorithms, folder / authority if authority else None)
    if value is not None and not items:
        problems.append("issuers: is empty; with none, no token can be taken")
    return found


def _issuer_url(value: Any, place: str, problems: list[str]) -> str:
    parts = urlsplit(value) if isinstance(value, str) else None
    if parts is None or not parts.hostname or parts.query or parts.fragment:
        problems.append(f"{place}: asked for a URL such as https://cms-auth.cern.ch/, found {value!r}")
        return str(value)
    if not safe_url(value):
        problems.append(f"{place}: '{value}' is not https; keys that come in the clear may be anybody's")
    return str(value)


def safe_url(url: str) -> bool:
    """Whether what comes from there comes from there: https, or this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)


def _needs(value: Any, problems: list[str]) -> dict[str, tuple[Need, ...]]:
    given = value if isinstance(value, dict) else {}
    if not isinstance(value, dict):
        problems.append(f"allow: asked for a mapping such as {{infer: anyone}}, found {value!r}")
    problems += [f"allow.{key}: unknown{nearest(str(key), ACTIONS)}" for key in given if key not in ACTIONS]
    found = {}
    for action, (default, _) in ACTIONS.items():
        texts = _texts(given.get(action, default), f"allow.{action}", problems)
        found[action] = tuple(_need(text, f"allow.{action}", problems) for text in texts)
    return found


def _need(text: str, place: str, problems: list[str]) -> Need:
    if text in ("anyone", "token"):
        return Need(text)
    kind, colon, value = text.partition(":")
    if colon and kind in ("group", "subject") and value:
        return Need(kind, value)
    try:
        parse_scope(text.replace(MODEL, "model"))
    except ValueError as error:
        problems.append(f"{place}: {error}; or anyone, token, group:NAME, subject:NAME")
    return Need("scope", text)


def _texts(value: Any, place: str, problems: list[str]) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if items is None:
        return ()
    if not isinstance(items, list) or not items or not all(isinstance(one, str) and one for one in items):
        problems.append(f"{place}: asked for text or a list of texts, found {value!r}")
        return ()
    return tuple(items)


def _seconds(value: Any, place: str, problems: list[str]) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        problems.append(f"{place}: asked for a number of seconds, found {value!r}")
        return 0.0
    return float(value)
