"""The keys that an issuer publishes: found by discovery, kept for a while, asked for again when a token names another.

Invariant: asking is rare whatever tokens arrive. After each request for keys the next has to wait, and longer each time
that it brought nothing; in between what is known is all that there is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
import urllib3
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from mlaas4hep.auth.policy import Issuer, Policy, safe_url
from mlaas4hep.errors import IssuerError, TokenError

Key = RSAKey | ECKey | OKPKey
Fetch = Callable[[str, Issuer], bytes]

FIRST_WAIT_S, LONGEST_WAIT_S, LONGEST_MISS_S = 5.0, 300.0, 60.0
TIMEOUT_S, MAX_BYTES = 5.0, 1 << 20
LEAST_RSA_BITS = 2048
_CLASSES: dict[str, type[Key]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
# Kind of key, and its curve, that each signature is made with; a key of another is never tried.
_FAMILIES = {
    **{f"{kind}{bits}": ("RSA", None) for kind in ("RS", "PS") for bits in (256, 384, 512)},
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}


class IssuerKeys:
    """The keys of one issuer; safe from several threads.

    Parameters
    ----------
    issuer
        Whose.
    policy
        For how long they are used.
    fetch
        How a document is got; raises `IssuerError`.
    clock
        Seconds, never backwards.
    """

    def __init__(
        self,
        issuer: Issuer,
        policy: Policy,
        *,
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.issuer = issuer
        self._policy = policy
        self._fetch = fetch or fetch_document
        self._clock = clock
        self._keys: list[tuple[str | None, str | None, Key]] = []
        self._fetched_s: float | None = None
        self._next_s = float("-inf")
        self._failures = self._misses = 0
        self._why = "it was not asked yet"
        self._lock = threading.Lock()

    def recall(self, kid: str | None, algorithm: str) -> Key | None:
        """The key, as far as it is known without asking the issuer."""
        if self._fetched_s is None or self._clock() - self._fetched_s > self._policy.kept_s:
            return None
        return self._choose(kid, algorithm)

    def due(self) -> bool:
        """Whether the keys are old, and may be asked for again; true for one caller, who is to call `refresh`."""
        with self._lock:
            now = self._clock()
            if self._fetched_s is None or now - self._fetched_s < self._policy.refresh_s or now < self._next_s:
                return False
            self._next_s = now + FIRST_WAIT_S
            return True

    def find(self, kid: str | None, algorithm: str) -> Key:
        """The key, asking the issuer where that is needed and may be done again.

        Raises
        ------
        TokenError
            The issuer has no such key.
        IssuerError
            The keys cannot be had, or only such as are too old.
        """
        found = self.recall(kid, algorithm)
        if found is None:
            with self._lock:
                found = self.recall(kid, algorithm)  # another thread may have asked meanwhile
                if found is None and self._clock() >= self._next_s:
                    self._ask()
                    found = self.recall(kid, algorithm)
                    self._put_off(missed=found is None)
        if found is not None:
            return found
        if self._fetched_s is None or self._clock() - self._fetched_s > self._policy.kept_s:
            wait_s = max(self._next_s - self._clock(), 1.0)
            raise IssuerError(f"the keys of {self.issuer.url} cannot be had: {self._why}", retry_after_s=wait_s)
        which = f"'{kid[:64]}'" if kid is not None else "without a name (kid) that alone fits"
        raise TokenError(f"{self.issuer.url} has no key {which} for {algorithm}")

    def refresh(self) -> str | None:
        """Ask for the keys once; where that fails, those that are known stay, and the reason is given."""
        with self._lock:
            self._ask()
            return self._why if self._failures else None

    def _ask(self) -> None:
        try:
            self._keys = usable_keys(self._fetch(self._keys_url(), self.issuer), self.issuer.url)
        except IssuerError as error:
            self._why = str(error)
            self._next_s = self._clock() + min(FIRST_WAIT_S * 2**self._failures, LONGEST_WAIT_S)
            self._failures = min(self._failures + 1, 10)
        else:
            self._fetched_s, self._failures = self._clock(), 0
            self._next_s = self._fetched_s + FIRST_WAIT_S

    def _put_off(self, *, missed: bool) -> None:
        """A token that names a key that is not there makes the next one wait: names can be invented."""
        if self._failures:
            return
        self._misses = min(self._misses + 1, 10) if missed else 0
        wait_s = min(FIRST_WAIT_S * 2 ** max(self._misses - 1, 0), LONGEST_MISS_S)
        self._next_s = max(self._next_s, self._clock() + wait_s)

    def _keys_url(self) -> str:
        """By OpenID Connect Discovery, else by RFC 8414; a document that is another issuer's is refused."""
        try:
            text = self._fetch(f"{self.issuer.url.rstrip('/')}/.well-known/openid-configuration", self.issuer)
        except _NotThereError:
            parts = urlsplit(self.issuer.url)
            place = f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server"
            text = self._fetch(place + parts.path.rstrip("/"), self.issuer)
        document: _Discovery = _decode(text, _Discovery, self.issuer.url)
        if document.issuer != self.issuer.url:
            raise IssuerError(f"{self.issuer.url} calls itself '{document.issuer[:200]}'; write it so in the policy")
        if not safe_url(document.jwks_uri):
            raise IssuerError(f"the keys of {self.issuer.url} lie at '{document.jwks_uri[:200]}', which is not https")
        return document.jwks_uri

    def _choose(self, kid: str | None, algorithm: str) -> Key | None:
        """The one key that fits; several without a name to tell them apart are none."""
        kind, curve = _FAMILIES[algorithm]
        fitting = [
            key
            for name, bound, key in self._keys
            if (kid is None or name == kid) and bound in (None, algorithm) and key.key_type == kind
            and (isinstance(key, RSAKey) or key.curve_name == curve)
        ]  # fmt: skip
        return fitting[0] if len(fitting) == 1 else None


class _Discovery(msgspec.Struct):
    issuer: str
    jwks_uri: str


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


class _NotThereError(IssuerError):
    """The issuer answers, but not at this address."""


def usable_keys(text: bytes, issuer: str) -> list[tuple[str | None, str | None, Key]]:
    """Name, algorithm it is bound to, and key, of those that signatures can be verified with; others are left out.

    Raises
    ------
    IssuerError
        It is no key set, or none of its keys is of use.
    """
    found = [key for one in _decode(text, _KeySet, issuer).keys if (key := _usable(one)) is not None]
    if not found:
        raise IssuerError(f"{issuer} publishes no key that verifies a signature")
    return found


def _usable(fields: dict[str, Any]) -> tuple[str | None, str | None, Key] | None:
    kind = _CLASSES.get(str(fields.get("kty")))
    operations = fields.get("key_ops", ["verify"])
    if kind is None or fields.get("use", "sig") != "sig" or "verify" not in operations:
        return None
    public: dict[str, Any] = {name: fields[name] for name in ("kty", "n", "e", "crv", "x", "y") if name in fields}
    try:
        key = kind.import_key(public)
    except (JoseError, ValueError, TypeError):  # a kind of key that is not known here, or a broken one
        return None
    if isinstance(key, RSAKey) and key.public_key.key_size < LEAST_RSA_BITS:
        return None
    name, bound = fields.get("kid"), fields.get("alg")
    return name if isinstance(name, str) else None, bound if isinstance(bound, str) else None, key


def fetch_document(url: str, issuer: Issuer) -> bytes:
    """What lies at an address; redirects are not followed, and little is read.

    Raises
    ------
    IssuerError
        There is no answer, or not the document.
    """
    authority = str(issuer.authority) if issuer.authority else None
    timeout = urllib3.Timeout(total=TIMEOUT_S)
    with urllib3.PoolManager(ca_certs=authority, timeout=timeout, retries=False) as pool:
        try:
            answer = pool.request("GET", url, redirect=False, preload_content=False)
            body = answer.read(MAX_BYTES + 1, decode_content=True)
            answer.close()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise IssuerError(f"{url} does not answer: {error}") from error
    if answer.status == 404:
        raise _NotThereError(f"{url} answers 404")
    if answer.status != 200 or len(body) > MAX_BYTES:
        raise IssuerError(f"{url} answers {answer.status} with {len(body)} bytes")
    return body


def _decode(text: bytes, kind: type[Any], issuer: str) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise IssuerError(f"{issuer} publishes what is not understood: {error}") from error
