"""Addresses without the credentials that may stand in them.

Users paste addresses with a password or a signature in them. Invariant: `shown` gives the same text for the same file,
and none of its secrets, so that it may stand in messages, logs, runs and bundles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

from mlaas4hep.errors import DataError

# Names of query parameters that sign or authorise: AWS, Google and Azure, WLCG doors (authz), CloudFront and others.
_SECRET = re.compile(
    r"amz|goog|token|jwt|bearer|delegation|session|assertion|authz?$|authorization|cred|secret|passw|(^|[-_])pwd|ticket|key"
    r"|policy$|(^|[-_])sig(nature)?$|^cap\.|^xrd\.",
    re.IGNORECASE,
)
# Values that give themselves away under whatever name: signed tokens, and long words of chance.
_SECRET_VALUE = re.compile(r"eyJ[\w-]+\.|[A-Za-z0-9+_=-]{48,}\Z")


def is_address(path: str) -> bool:
    """Whether it names a place by a scheme, rather than a path of this machine."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def shown(url: str) -> str:
    """An address as it may be shown: without user, password, signature and token.

    Examples
    --------
    >>> shown("https://me:word@host/a.root?X-Amz-Signature=abc&version=3")
    'https://host/a.root?version=3'
    >>> shown("data/a?token=1.root")
    'data/a?token=1.root'
    """
    parts = _split(url)
    if parts is None:
        return f"{url.partition('://')[0]}://..." if is_address(url) else url
    if not any(secrets_in(url)):
        return url
    query = "&".join(one for one in parts.query.split("&") if not _is_secret(*one.partition("=")[::2]))
    path, *beside = parts.path.split(";")
    path = ";".join([path, *(one for one in beside if not _is_secret(*one.partition("=")[::2]))])
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, query, ""))


def _is_secret(name: str, value: str) -> bool:
    return bool(_SECRET.search(name) or _SECRET_VALUE.match(unquote(value)))


def split_address(url: str) -> SplitResult:
    """Parts of an address.

    Raises
    ------
    DataError
        Host or port are not written as such.
    """
    parts = _split(url)
    if parts is None:
        raise DataError(f"{shown(url)}: is no address; write it as scheme://host:port/path")
    return parts


def _split(url: str) -> SplitResult | None:
    """None for what is no address; which part of it is wrong may be a password and is not told."""
    if not is_address(url):
        return None
    try:
        parts = urlsplit(url)
        return parts if parts.port is None or parts.port >= 0 else None
    except ValueError:
        return None


def secrets_in(url: str) -> Iterator[tuple[str, str]]:
    """Name and value of each credential that stands in an address."""
    parts = _split(url)
    if parts is None:
        return
    user, found, _ = parts.netloc.rpartition("@")
    # root://user@host names an account, no secret; it is needed to reach the file.
    if found and (":" in user or parts.scheme in ("http", "https", "dav", "davs", "ftp")):
        yield "user and password", user
    beside = "&".join((*parts.path.split(";")[1:], parts.query, parts.fragment))
    for name, value in parse_qsl(beside, keep_blank_values=True):
        if _is_secret(name, value):
            yield name, value
