"""One token, verified: signed by an issuer that is trusted, for this server, now.

Invariant: what a token says is believed only after its signature was verified with a public key of the issuer that it
names, by an algorithm that the policy lists for it; no secret is ever a key here.
"""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any, NamedTuple

import msgspec
from joserfc import jws
from joserfc.errors import JoseError

from mlaas4hep.auth.keys import Key
from mlaas4hep.auth.policy import Policy
from mlaas4hep.auth.scopes import Scope, parse_scope
from mlaas4hep.errors import TokenError

MAX_TOKEN_BYTES = 16 << 10


class Identity(NamedTuple):
    """Who asks, and what that grants.

    Parameters
    ----------
    subject, issuer
        Of the token; both empty for nobody in particular.
    scopes, groups
        What it grants.
    expires_s
        When it ends, in seconds of the epoch.
    """

    subject: str
    issuer: str
    scopes: tuple[Scope, ...]
    groups: frozenset[str]
    expires_s: float


class _Head(msgspec.Struct):
    alg: str
    kid: str | None = None
    crit: Any = None


class _Issued(msgspec.Struct):
    iss: str


class _Claims(msgspec.Struct):
    iss: str
    sub: str
    exp: float
    aud: str | list[str]
    nbf: float | None = None
    iat: float | None = None
    scope: str | list[str] = ""
    groups: list[str] = []
    wlcg_groups: list[str] = msgspec.field(name="wlcg.groups", default_factory=list)
    wlcg_version: str | None = msgspec.field(name="wlcg.ver", default=None)


class Unverified(NamedTuple):
    """A token that was taken apart; nothing of it is true yet."""

    token: bytes
    issuer: str
    algorithm: str
    kid: str | None


def take_apart(token: bytes, policy: Policy) -> Unverified:
    """Who is said to have signed a token, and how; refuses what no key could make good.

    Raises
    ------
    TokenError
        It is no signed token, of no issuer of the policy, or signed in a way that is not taken.
    """
    parts = token.split(b".")
    if len(token) > MAX_TOKEN_BYTES or len(parts) != 3:
        raise TokenError("the token is not a signed one (JWT) of at most 16 kB")
    head: _Head = _read(_base64(parts[0]), _Head, "head")
    issuer: str = _read(_base64(parts[1]), _Issued, "claims").iss
    known = policy.issuers.get(issuer)
    if known is None:
        raise TokenError("the token is of an issuer that is not trusted here")
    if head.alg not in known.algorithms:
        raise TokenError("the token is signed in a way that is not taken here")
    if head.crit is not None:
        raise TokenError("the token asks for an extension that is not known here")
    return Unverified(token, issuer, head.alg, head.kid)


def verify(asked: Unverified, key: Key, policy: Policy, now_s: float) -> Identity:
    """Who a token is of, once all of it holds.

    Raises
    ------
    TokenError
        It is forged, for somebody else, or not for now.
    """
    try:
        signed = jws.deserialize_compact(asked.token, key, registry=_registry(asked.algorithm))
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        raise TokenError("the signature of the token does not fit the key of its issuer") from error
    claims: _Claims = _read(signed.payload or b"", _Claims, "claims")
    _check_claims(claims, asked, policy, now_s)
    scopes = _scopes(claims)
    groups = frozenset([*claims.groups, *claims.wlcg_groups])
    return Identity(claims.sub, claims.iss, scopes, groups, claims.exp)


def _registry(algorithm: str) -> jws.JWSRegistry:
    found = jws.JWSRegistry(algorithms=[algorithm])
    found.max_header_length = found.max_payload_length = found.max_signature_length = MAX_TOKEN_BYTES
    return found


def _check_claims(claims: _Claims, asked: Unverified, policy: Policy, now_s: float) -> None:
    skew_s = policy.clock_skew_s
    times = [one for one in (claims.exp, claims.nbf, claims.iat) if one is not None]
    if claims.iss != asked.issuer or not all(math.isfinite(one) for one in times):
        raise TokenError("the token contradicts itself")
    if claims.exp <= now_s - skew_s:
        raise TokenError(f"the token has expired, {now_s - claims.exp:.0f} s ago")
    if max([one for one in (claims.nbf, claims.iat) if one is not None], default=now_s) > now_s + skew_s:
        raise TokenError("the token does not hold yet; do the clocks differ?")
    audience = [claims.aud] if isinstance(claims.aud, str) else claims.aud
    if not set(audience) & set(policy.audience):
        raise TokenError(f"the token is meant for another server; here it must name {' or '.join(policy.audience)}")


def _scopes(claims: _Claims) -> tuple[Scope, ...]:
    texts = claims.scope.split() if isinstance(claims.scope, str) else claims.scope
    found = []
    for text in texts:
        try:
            found.append(parse_scope(text))
        except ValueError as error:
            if claims.wlcg_version is not None:  # the profile demands that such a token is refused as a whole
                raise TokenError(f"the token is not of the WLCG profile that it names: {error}") from error
    return tuple(found)


def _base64(part: bytes) -> bytes:
    try:
        return base64.b64decode(part + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise TokenError("the token is not base64") from error


def _read(text: bytes, kind: type[Any], what: str) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise TokenError(f"the {what} of the token are not what is asked for: {error}") from error
