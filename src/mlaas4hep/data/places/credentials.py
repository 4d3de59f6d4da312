"""Who we are, for places that ask: bearer tokens and X.509 proxies, found where the WLCG keeps them.

They are looked up anew for each request, since a token lives for an hour and a training for a day. Invariant: what is
found here goes into requests alone, never into a message, an address or an identity.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping

from mlaas4hep.data.places.proxies import VARIABLE, proxy_file, proxy_told, unusable
from mlaas4hep.errors import DataError
from mlaas4hep.tokens import bearer_token, expiry_told

_GRID_AUTHORITIES = "/etc/grid-security/certificates"


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


def _load(act: Callable[[], object], what: str) -> None:
    try:
        act()
    except (OSError, ssl.SSLError) as error:
        raise DataError(f"{what}: cannot be used: {error.strerror or error}") from error
