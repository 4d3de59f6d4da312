"""HTTP requests for one attempt: kept connections, redirects of storage doors, time-outs by progress, errors in words.

The only module that knows urllib3. Invariant: a request ends with an answer or with `Failed`, and no credential leaves
for a host that it is not meant for, or over a line that others can read.
"""

from __future__ import annotations

import os
import re
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Protocol
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError, NewConnectionError, SSLError, TimeoutError

from mlaas4hep.config.addresses import shown, split_address
from mlaas4hep.data.places.credentials import credentials_told, tls_context
from mlaas4hep.data.places.proxies import proxy_file, proxy_told
from mlaas4hep.data.places.remote import Failed, system_reason
from mlaas4hep.errors import DataError
from mlaas4hep.tokens import bearer_token, expiry_told, may_carry_secrets

# Kept connections to one host: every reading thread with its requests side by side, and a few more.
_CONNECTIONS, _HOSTS = 16, 64
_HOPS = 5
_CHUNK_BYTES = 256 * 1024
# Slower than that is not progress, or a drop now and then would keep a reader waiting for ever.
LEAST_BYTES_A_S = 4096
# Silence within an answer that has begun: its file is found, on disk and open. So much, or a third of the patience.
_BEGUN_S, _BEGUN_SHARE = 2.0, 1 / 3
_AGAIN = frozenset({408, 409, 423, 425, 429, 500, 502, 503, 504, 507, 509})
# Answers that mean something to who asked: no such file, no such method, changed meanwhile, no such bytes.
_TELLING = frozenset({404, 405, 412, 416, 501})
# Alerts by which a server tells that it wants a certificate of ours, or another one (RFC 8446, 6.2; before TLS 1.3 a
# missing one is a failed handshake), and what nginx answers in their place.
_ABOUT_OURS = re.compile(r"alert (certificate|bad cert|unsupported cert|unknown ca|access denied|handshake failure)")
_ASKED_IN_HTML = re.compile(rb"SSL certificate", re.IGNORECASE)
_LONGEST_WORDS = 4_096
_SAFE = "/%:@!$&'()*+,;=~-._"


Body = bytes | IO[bytes] | None


class Access(Protocol):
    """Address and credentials of one file, made anew for each attempt."""

    url: str
    """As it is named in messages."""

    def address(self, method: str) -> tuple[str, Mapping[str, str]]:
        """Where to send a request, and the headers that say who we are."""
        ...

    def refused(self, status: int, headers: Mapping[str, str]) -> Failed:
        """What an answer of 401 or 403, or a redirect to another region, means."""
        ...


class WebAccess:
    """A plain address, with a bearer token or the password that stands in it.

    Parameters
    ----------
    url
        ``http``, ``https``, ``dav`` or ``davs``.

    Raises
    ------
    DataError
        It names no host.
    """

    def __init__(self, url: str) -> None:
        self.url = shown(url)
        parts = split_address(url)
        if not parts.hostname:
            raise DataError(f"{self.url}: names no host")
        self._scheme = {"dav": "http", "davs": "https"}.get(parts.scheme.lower(), parts.scheme.lower())
        user, _, host = parts.netloc.rpartition("@")
        self._user = user
        self._host = parts.hostname
        self._plain = urlunsplit((self._scheme, host, quote(parts.path, safe=_SAFE) or "/", parts.query, ""))
        self._token: str | None = None

    def address(self, method: str) -> tuple[str, Mapping[str, str]]:
        """See `Access.address`."""
        if not may_carry_secrets(self._scheme, self._host):
            if self._user:
                raise DataError(f"{self.url}: a password may not go over http; use https")
            return self._plain, {}
        if self._user:
            return self._plain, {"Authorization": urllib3.make_headers(basic_auth=unquote(self._user))["authorization"]}
        self._token = bearer_token()
        return self._plain, {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def refused(self, status: int, headers: Mapping[str, str]) -> Failed:
        """See `Access.refused`; a token that was renewed meanwhile is worth another attempt."""
        if status not in (401, 403):
            return Failed(f"the server answered HTTP {status}", again=False)
        if self._token is None:
            secure = self._scheme == "https"
            hint = credentials_told() if secure else "no token was found; tokens and proxies go over https alone"
            return Failed(f"is not open to us (HTTP {status}): {hint}", again=False)
        again = bearer_token() != self._token
        return Failed(f"our token was refused (HTTP {status}){expiry_told(self._token)}", again=again)


@dataclass
class Target:
    """Where a door sent us, so that the next request goes there at once; forgotten when that fails."""

    url: str | None = None


@dataclass
class Answer:
    """Status and headers of an answer, its body still to be read."""

    status: int
    headers: Mapping[str, str]
    body: urllib3.BaseHTTPResponse = field(repr=False)
    stall_s: float

    @property
    def length(self) -> int | None:
        """Announced bytes of the body."""
        told = self.headers.get("content-length", "")
        return int(told) if told.isdigit() else None

    def read_into(self, view: memoryview) -> int:
        """Fill a buffer; fewer bytes only where the body ends before.

        Raises
        ------
        Failed
            The connection broke or made no progress; says how many bytes are good.
        """
        filled, watch = 0, _Watch(self.stall_s)
        while filled < len(view):
            with translated(filled, "the answer was cut off"):
                data = self.body.read1(min(len(view) - filled, _CHUNK_BYTES))
            if not data:
                break
            view[filled : filled + len(data)] = data
            filled += len(data)
            watch.note(filled)
        return filled

    def read_all(self, most: int) -> bytes | None:
        """The whole body; None where it has more than ``most`` bytes."""
        if self.length is not None:
            if self.length > most:
                return None
            held = memoryview(bytearray(self.length))
            filled = self.read_into(held)
            if filled < self.length:
                raise Failed(f"the answer ended after {filled} of {self.length} bytes")
            return bytes(held)
        held = memoryview(bytearray(most + 1))
        filled = self.read_into(held)
        return bytes(held[:filled]) if filled <= most else None


class _Watch:
    """Bytes that trickle are no progress: each pays for a moment, and none for the time before it."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._paid, self._had = time.monotonic(), 0

    def note(self, filled: int) -> None:
        now = time.monotonic()
        self._paid = min(now, self._paid + (filled - self._had) / LEAST_BYTES_A_S)
        self._had = filled
        if now - self._paid > self._stall_s:
            told = f"for {self._stall_s:g} s, fewer than {LEAST_BYTES_A_S} bytes a second came"
            raise Failed(told, filled=filled, slow=True)


@contextmanager
def exchange(
    access: Access,
    method: str,
    headers: Mapping[str, str],
    stall_s: float,
    *,
    body: Body = None,
    target: Target | None = None,
) -> Iterator[Answer]:
    """Send a request, follow redirects, and give the answer if it is 2xx or one of `_TELLING`.

    Raises
    ------
    Failed
        Nobody answers, or the answer is a refusal.
    """
    place = target or Target()
    try:
        answer = _follow(access, method, headers, stall_s, body, place)
        try:
            yield answer
        except BaseException:
            answer.body.close()
            raise
        # What was read to its end goes back to the pool; anything else would be taken for the next answer.
        (answer.body.release_conn if _is_read(answer) else answer.body.close)()
    except Failed:
        place.url = None
        raise


def _is_read(answer: Answer) -> bool:
    return not getattr(answer.body, "length_remaining", 1)


def _follow(
    access: Access, method: str, headers: Mapping[str, str], stall_s: float, body: Body, place: Target
) -> Answer:
    url, ours = (place.url, {}) if place.url is not None else access.address(method)
    for _ in range(_HOPS):
        answer = _send(method, url, {**headers, **ours}, stall_s, body)
        if answer.status not in (301, 302, 303, 307, 308) or not answer.headers.get("location"):
            _check(access, answer)
            return answer
        answer.body.close()
        url, ours = redirected(url, answer.headers["location"], ours)
        place.url = url
    raise Failed(f"was redirected more than {_HOPS} times", again=False)


def redirected(url: str, location: str, ours: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
    """A door sends to a disk server with a ticket in the address; our own credentials stay at the door."""
    there = urljoin(url, location)
    before, after = urlsplit(url), urlsplit(there)
    if after.scheme not in ("http", "https"):
        raise Failed(f"was redirected to {after.scheme}://, which is not HTTP", again=False)
    same = (before.scheme, before.netloc) == (after.scheme, after.netloc)
    return there, ours if same else {}


def _send(method: str, url: str, headers: Mapping[str, str], stall_s: float, body: Body) -> Answer:
    if body is not None and not isinstance(body, bytes):
        body.seek(0)  # a door that sends us elsewhere has taken some of it
    with translated(0, "it was closed, or what came is no HTTP"):
        response = _manager(url).request(
            method,
            url,
            headers={"Accept-Encoding": "identity", "User-Agent": "mlaas4hep", **headers},
            body=body,
            timeout=urllib3.Timeout(connect=stall_s, read=stall_s),
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )
    known = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status, known, response, _from_now_on(response, stall_s))


def _from_now_on(response: urllib3.BaseHTTPResponse, stall_s: float) -> float:
    """Patience for the rest of an answer; the next request on the connection has its own again."""
    seconds = min(stall_s, max(_BEGUN_S, stall_s * _BEGUN_SHARE))
    line = getattr(getattr(response, "connection", None), "sock", None)
    if line is not None:
        line.settimeout(seconds)
    return seconds


def _check(access: Access, answer: Answer) -> None:
    status = answer.status
    if 200 <= status < 300 or status in _TELLING:
        return
    about_ours = status == 400 and _ASKED_IN_HTML.search(answer.read_all(_LONGEST_WORDS) or b"")
    answer.body.close()
    if about_ours:
        raise Failed(f"the server asks for a certificate of ours (HTTP {status}): {proxy_told()}", again=False)
    if status in (301, 307, 400, 401, 403):
        raise access.refused(status, answer.headers)
    wait = answer.headers.get("retry-after", "")
    words = f"the server answered HTTP {status}"
    raise Failed(words, again=status in _AGAIN, wait_s=float(wait) if re.fullmatch(r"\d{1,4}", wait) else 0.0)


@contextmanager
def translated(filled: int, closed: str) -> Iterator[None]:
    """Exceptions of urllib3 and of the system as `Failed`; their own texts hold addresses."""
    try:
        yield
    except NewConnectionError as error:  # a time-out to urllib3, but it is told at once why
        raise Failed(f"no connection: {system_reason(error) or 'no such host'}", filled=filled) from error
    except TimeoutError as error:
        raise Failed("no answer: nothing came for too long", filled=filled, slow=True) from error
    except LocationParseError:
        raise Failed("is not an address", again=False) from None  # its text is the address
    except SSLError as error:
        words, again = _tls_words(error)
        raise Failed(f"no secure connection: {words}", again=again, filled=filled) from error
    except (HTTPError, OSError) as error:
        raise Failed(f"the connection failed: {system_reason(error) or closed}", filled=filled) from error


def _tls_words(error: SSLError) -> tuple[str, bool]:
    """What went wrong, and whether it may go well another time."""
    if "EOF occurred" in str(error):
        # Since TLS 1.3 a server tells only after the handshake what it thinks of us, and may hang up on our question.
        return f"it was broken off, as by a server that asks for a certificate of ours: {proxy_told()}", True
    told = re.search(r"(certificate verify failed: [^(\]]*|[a-z0-9 ]+ alert [a-z ]+|\w+ error)", str(error))
    words = told[1].strip() if told else "TLS failed"
    if _ABOUT_OURS.search(words):
        words = f"the server asks for a certificate of ours, or for another one ({words}): {proxy_told()}"
    return words, False


_managers: dict[tuple[object, ...], urllib3.PoolManager] = {}
_managers_lock = threading.Lock()


def _manager(url: str) -> urllib3.PoolManager:
    """Connections are of one process (a fork must not share them), one way out, and one set of certificates."""
    way_out = _way_out(url)
    key = (os.getpid(), way_out, *_certificates())
    with _managers_lock:
        if key not in _managers:
            for old in [one for one in _managers if one[0] != key[0] or one[1] == way_out]:
                del _managers[old]
            _managers[key] = _new_manager(way_out)
        return _managers[key]


def _new_manager(way_out: str | None) -> urllib3.PoolManager:
    settings = {"num_pools": _HOSTS, "maxsize": _CONNECTIONS, "ssl_context": tls_context()}
    if way_out is None:
        return urllib3.PoolManager(**settings)  # type: ignore[arg-type]
    return urllib3.ProxyManager(way_out, **settings)  # type: ignore[arg-type]


def _way_out(url: str) -> str | None:
    """The HTTP proxy that the environment names for this address, as worker nodes often need."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def _certificates() -> tuple[object, ...]:
    proxy = proxy_file()
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR", "X509_CERT_DIR", "X509_CERT_FILE")
    changed = os.stat(proxy).st_mtime_ns if proxy else None
    return (proxy, changed, *(os.environ.get(name) for name in names))
