"""Bearer tokens: found where the WLCG keeps them, judged whether they may be shown, and told when they have expired.

Used by places of files and by clients of servers. Invariant: what is found here goes into requests alone, never into a
message, an address or an identity.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from mlaas4hep.errors import DataError

# What may stand in an Authorization header (RFC 6750); a line break in it would forge further headers.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*\Z")


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
        return checked_token(told, "BEARER_TOKEN")
    if path := env.get("BEARER_TOKEN_FILE"):
        return checked_token(_text(path, "BEARER_TOKEN_FILE"), f"BEARER_TOKEN_FILE={path}")
    for path in _usual_files(env):
        if os.path.exists(path) and (told := _text(path, "the token file")):
            return checked_token(told, path)
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


def token_of_file(path: str) -> str:
    """The token that a file holds and nothing else.

    Raises
    ------
    DataError
        It cannot be read, or holds no token.
    """
    return checked_token(_text(path, "the token file"), path)


def checked_token(token: str, where: str) -> str:
    """A token as it is, if it can be one; ``where`` it comes from stands in the message."""
    if not _TOKEN.match(token):
        raise DataError(f"{where}: holds no bearer token: it is empty or has characters that no token has")
    return token


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
