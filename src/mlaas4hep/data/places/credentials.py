"""Who we are, for places that ask: bearer tokens and X.509 proxies, found where the WLCG keeps them.

They are looked up anew for each request, since a token lives for an hour and a training for a day. Invariant: what is
found here goes into requests alone, never into a message, an address or an identity.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import os
import re
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from mlaas4hep.data.places.proxies import VARIABLE, proxy_file, proxy_told, unusable
from mlaas4hep.errors import DataError

# What may stand in an Authorization header (RFC 6750); a line break in it would forge further headers.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*\Z")
_GRID_AUTHORITIES = "/etc/grid-security/certificates"


def bearer_token(environment: Mapping[str, str] | None = None) -> str | None:
    """The token of the WLCG profile, by its rules of discovery; None where there is none.

    ``BEARER_TOKEN``, the file ``BEARER_TOKEN_FILE``, ``$XDG_RUNTIME_DIR/bt_u$UID``, ``/tmp/bt_u$UID``: the first
    that is there decides.

    Raises
    ------
    DataError
        What was named cannot be read, or holds no token.
    """
    env = os.environ if environment is None else environment
    if told := env.get("BEARER_TOKEN", "").strip():
        return _checked(told, "BEARER_TOKEN")
    if path := env.get("BEARER_TOKEN_FILE"):
        return _checked(_text(path, "BEARER_TOKEN_FILE"), f"BEARER_TOKEN_FILE={path}")
    for path in _usual_files(env):
        if os.path.exists(path) and (told := _text(path, "the token file")):
            return _checked(told, path)
    return None


def expiry_told(token: str) -> str:
    """Words for a message on a token that was refused: when it ended, if it says so and has."""
    parts = token.split(".")
    if len(parts) != 3:
        return ""
    try:
        ends = float(json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))["exp"])
    except (binascii.Error, ValueError, KeyError, TypeError):
        return ""  # not a JSON web token: nothing to tell
    late = time.time() - ends
    return f" (it expired {late / 60:.0f} minutes ago)" if late > 0 else ""


def credentials_told() -> str:
    """Words for a message of a server that lets nobody in without a token or a proxy: which of them we have."""
    try:
        token = bearer_token()
    except DataError as error:
        return str(error)
    told = "no token was found" if token is None else f"our token was of no use{expiry_told(token)}"
    return f"{told}; {proxy_told()}"


def tls_context(environment: Mapping[str, str] | None = None) -> ssl.SSLContext:
    """TLS that checks certificates by the system's authorities and the grid's, and shows our proxy to who asks for it.

    ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` replace the system's; ``X509_CERT_DIR`` and ``X509_CERT_FILE`` come on top.

    Raises
    ------
    DataError
        A proxy or a folder of authorities that was named cannot be used.
    """
    env = os.environ if environment is None else environment
    context = ssl.create_default_context()
    folder = env.get("X509_CERT_DIR", _GRID_AUTHORITIES)
    if os.path.isdir(folder):
        context.load_verify_locations(capath=folder)
    if file := env.get("X509_CERT_FILE"):
        _load(lambda: context.load_verify_locations(cafile=file), f"X509_CERT_FILE={file}")
    if proxy := proxy_file(env):
        named = f"X.509 proxy {proxy}{f' ({VARIABLE})' if env.get(VARIABLE) else ''}"
        if reason := unusable(proxy):
            raise DataError(f"{named}: cannot be used: {reason}; make a proxy (voms-proxy-init)")
        _load(lambda: context.load_cert_chain(proxy), named)
    return context


def may_carry_secrets(scheme: str, host: str) -> bool:
    """Whether a token may go there: over TLS, or to this machine itself."""
    if scheme == "https":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _usual_files(env: Mapping[str, str]) -> list[str]:
    name = f"bt_u{os.getuid()}"
    runtime = env.get("XDG_RUNTIME_DIR")
    return [*([os.path.join(runtime, name)] if runtime else []), f"/tmp/{name}"]


def _text(path: str, what: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError as error:
        raise DataError(f"{what} {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{what} {path}: holds no token: it is not plain text") from error


def _checked(token: str, where: str) -> str:
    if not _TOKEN.match(token):
        raise DataError(f"{where}: holds no bearer token: it is empty or has characters that no token has")
    return token


def _load(act: Callable[[], object], what: str) -> None:
    try:
        act()
    except (OSError, ssl.SSLError) as error:
        raise DataError(f"{what}: cannot be used: {error.strerror or error}") from error
