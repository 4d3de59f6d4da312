"""X.509 proxies: where ours is, until when it is good, and what keeps one from being used.

A file of text with certificates (the proxy's own, then those that vouch for it) and one private key. Only the dates are
read out of it, by hand: no library that is installed everywhere tells them. Invariant: words of this module hold paths,
names of variables and dates, never what stands in the file.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from mlaas4hep.errors import DataError, counted

VARIABLE = "X509_USER_PROXY"
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_LOCKED = re.compile(r"-----BEGIN ENCRYPTED PRIVATE KEY-----|Proc-Type: 4,ENCRYPTED")
_RENEW = "voms-proxy-init makes a new one"
# Of ASN.1, in the encoding of certificates (X.690): tags, and the two spellings of a time.
_VERSION = 0xA0
_TIMES = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}
_VALIDITY = 3  # place in a certificate, behind serial number, algorithm and issuer


def proxy_file(environment: Mapping[str, str] | None = None) -> str | None:
    """The X.509 proxy: ``X509_USER_PROXY``, else ``/tmp/x509up_u$UID`` where it is there.

    Raises
    ------
    DataError
        ``X509_USER_PROXY`` names a file that is not there.
    """
    env = os.environ if environment is None else environment
    if path := env.get(VARIABLE):
        if not os.path.isfile(path):
            raise DataError(f"{VARIABLE}={path}: no such file; make a proxy (voms-proxy-init) or unset it")
        return path
    return _usual() if os.path.isfile(_usual()) else None


def proxy_told(environment: Mapping[str, str] | None = None) -> str:
    """Words for a message of a server that would not have us: what was looked for, what was found and shown to it."""
    env = os.environ if environment is None else environment
    try:
        path = proxy_file(env)
        if path is None:
            return f"no X.509 proxy was found to show: {VARIABLE} is not set, and there is no {_usual()}; {_RENEW}"
        ends = ends_of(_text(path))
    except DataError as error:
        return str(error)
    named = f"the X.509 proxy {path} ({VARIABLE}{'' if env.get(VARIABLE) else ' is not set'})"
    if ends is None:
        return f"{named} was shown"
    late = time.time() - ends
    when = f"{datetime.fromtimestamp(ends, UTC):%Y-%m-%d %H:%M} UTC"
    if late > 0:
        return f"{named} expired on {when}, {_span(late)} ago; {_RENEW}"
    return f"{named} was shown, which is good until {when}"


def unusable(path: str) -> str | None:
    """Why a file cannot be a proxy, as far as its text tells; None where it may be one."""
    text = _text(path)
    if not _CERTIFICATE.search(text):
        return "it holds no certificate"
    if _LOCKED.search(text):
        return "its private key is locked by a password, and a proxy's is not"  # OpenSSL would ask on the terminal
    return None if _KEY.search(text) else "it holds no private key"


def ends_of(text: str) -> float | None:
    """When the first of the certificates in a text ends, in seconds since 1970; None where there is none to be read."""
    found = [one for one in map(_end_of, _CERTIFICATE.findall(text)) if one is not None]
    return min(found, default=None)


def _usual() -> str:
    return f"/tmp/x509up_u{os.getuid()}"


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError as error:
        raise DataError(f"X.509 proxy {path}: cannot be read: {error.strerror}") from error


def _end_of(block: str) -> float | None:
    """``notAfter`` of a certificate (RFC 5280, 4.1): the second time of the element behind its issuer."""
    try:
        [(_, whole)] = _elements(base64.b64decode(block))
        told = [one for one in _elements(next(_elements(whole))[1]) if one[0] != _VERSION]
        _, (tag, end) = _elements(told[_VALIDITY][1])
        return datetime.strptime(end.decode("ascii"), _TIMES[tag]).replace(tzinfo=UTC).timestamp()
    except (binascii.Error, ValueError, IndexError, KeyError, StopIteration):
        return None  # damaged, or no certificate at all: whoever it is shown to says so


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of the elements that stand one behind the other."""
    at = 0
    while at < len(data):
        tag, size = data[at], data[at + 1]
        at += 2
        if size & 0x80:
            size, at = int.from_bytes(data[at : at + (size & 0x7F)]), at + (size & 0x7F)
        yield tag, data[at : at + size]
        at += size


def _span(seconds: float) -> str:
    """A time in the largest unit of which there is one.

    Examples
    --------
    >>> _span(90), _span(5 * 3600), _span(3 * 86400)
    ('1 minute', '5 hours', '3 days')
    """
    for size, word in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            return counted(int(seconds // size), word)
    return counted(int(seconds), "second")
