"""Lets in or not: a token's grants against what is asked, remembered by the hash of the token.

Invariant: what is remembered is never older than the token, nor than `Policy.remember_s`; a token itself is not kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from mlaas4hep.auth.keys import Fetch, IssuerKeys
from mlaas4hep.auth.policy import ACTIONS, Need, Policy
from mlaas4hep.auth.scopes import covers
from mlaas4hep.auth.tokens import Identity, take_apart, verify
from mlaas4hep.errors import ForbiddenError, TokenError

T = TypeVar("T")
ANONYMOUS = Identity("", "", (), frozenset(), float("inf"))
# Tokens that are remembered, and how long one that is not good is refused without another look.
MAX_TOKENS, REFUSED_S = 10_000, 5.0
# Of one token; a name that is asked for may be invented, and of any length.
_MAX_DECISIONS, _MAX_NAME = 256, 256


class _Known(NamedTuple):
    identity: Identity
    until_s: float
    allowed: set[tuple[str, str | None]]


class Gate:
    """Decides who may do what; safe from several threads.

    Parameters
    ----------
    policy
        Who is trusted, and what is needed.
    fetch
        How documents of issuers are got; over the network where it is None.
    clock, ticks
        Seconds of the epoch, and seconds that never go backwards.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self._clock = clock
        self._keys = {
            url: IssuerKeys(issuer, policy, fetch=fetch, clock=ticks) for url, issuer in policy.issuers.items()
        }
        self._open = frozenset(action for action in ACTIONS if Need("anyone") in policy.needs[action])
        self._known: dict[bytes, _Known] = {}
        self._refused: dict[bytes, tuple[float, str]] = {}
        self._executor = ThreadPoolExecutor(4, thread_name_prefix="mlaas4hep-auth")

    def recall(self, authorization: bytes | None, action: str, model: str | None = None) -> Identity | None:
        """Who asks, where it is already known that they may; None where `admit` has to look.

        Parameters
        ----------
        authorization
            The header of that name.
        action
            One of `ACTIONS`.
        model
            Which is asked.
        """
        if authorization is None:
            return ANONYMOUS if action in self._open else None
        known = self._known.get(hashlib.sha256(authorization).digest())
        if known is None or (action, model) not in known.allowed or self._clock() >= known.until_s:
            return None
        return known.identity

    async def admit(self, authorization: bytes | None, action: str, model: str | None = None) -> Identity:
        """As `decide`; an issuer is waited for in a thread."""
        found = self.recall(authorization, action, model)
        if found is not None:
            return found
        if authorization is None or self._needs_no_issuer(authorization):
            return self.decide(authorization, action, model)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self.decide, authorization, action, model)

    def decide(self, authorization: bytes | None, action: str, model: str | None = None) -> Identity:
        """Who asks, once it is sure that they may.

        Raises
        ------
        TokenError
            A token is needed and there is none, or it is not good.
        ForbiddenError
            It does not grant this.
        IssuerError
            It cannot be verified now.
        """
        if authorization is None:
            if action in self._open:
                return ANONYMOUS
            raise TokenError(f"this needs a token: {_words(self.policy.needs[action])}", given=False)
        known = self._verified(authorization)
        needs = self.policy.needs[action]
        if not any(_suffices(need, known.identity, model) for need in needs):
            asked = f"'{action}'" + (f" of model '{model}'" if model else "")
            wanted = [str(found) for one in needs if one.kind == "scope" and (found := one.scope(model)) is not None]
            raise ForbiddenError(
                f"the token does not grant {asked}, which needs {_words(needs)}", scope=" ".join(wanted)
            )
        if len(known.allowed) < _MAX_DECISIONS and len(model or "") <= _MAX_NAME:
            known.allowed.add((action, model))
        return known.identity

    def subject(self, authorization: bytes) -> str | None:
        """Whose token it is, where it was found good lately."""
        known = self._known.get(hashlib.sha256(authorization).digest())
        return None if known is None else known.identity.subject

    def prepare(self) -> list[str]:
        """Ask all issuers for their keys, so that no question has to wait for them; gives what went wrong."""
        return [why for keys in self._keys.values() if (why := keys.refresh()) is not None]

    def close(self) -> None:
        """Wait for no issuer any more."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _verified(self, authorization: bytes) -> _Known:
        digest, now_s = hashlib.sha256(authorization).digest(), self._clock()
        known = self._known.get(digest)
        if known is not None and now_s < known.until_s:
            return known
        refused = self._refused.get(digest)
        if refused is not None and now_s < refused[0]:
            raise TokenError(refused[1])
        try:
            identity = self._identity(authorization, now_s)
        except TokenError as error:
            _keep(self._refused, digest, (now_s + REFUSED_S, str(error)))
            raise
        until_s = min(identity.expires_s + self.policy.clock_skew_s, now_s + self.policy.remember_s)
        return _keep(self._known, digest, _Known(identity, until_s, set()))

    def _identity(self, authorization: bytes, now_s: float) -> Identity:
        asked = take_apart(_token(authorization), self.policy)
        keys = self._keys[asked.issuer]
        key = keys.recall(asked.kid, asked.algorithm) or keys.find(asked.kid, asked.algorithm)
        if keys.due():
            self._executor.submit(keys.refresh)
        return verify(asked, key, self.policy, now_s)

    def _needs_no_issuer(self, authorization: bytes) -> bool:
        """Whether all that is needed for a decision is here, so that it takes well under a millisecond."""
        try:
            asked = take_apart(_token(authorization), self.policy)
        except TokenError:
            return True
        return self._keys[asked.issuer].recall(asked.kid, asked.algorithm) is not None


def _token(authorization: bytes) -> bytes:
    kind, _, token = authorization.partition(b" ")
    if kind.lower() != b"bearer" or not token.strip():
        raise TokenError("the header Authorization must be 'Bearer TOKEN'")
    return token.strip()


def _suffices(need: Need, identity: Identity, model: str | None) -> bool:
    if need.kind in ("anyone", "token"):
        return True
    if need.kind == "group":
        return need.value in identity.groups
    if need.kind == "subject":
        return need.value == identity.subject
    wanted = need.scope(model)
    return wanted is not None and covers(identity.scopes, wanted)


def _words(needs: Iterable[Need]) -> str:
    return " or ".join("any token of a trusted issuer" if one.kind == "token" else str(one) for one in needs)


def _keep(kept: dict[bytes, T], digest: bytes, value: T) -> T:
    while len(kept) >= MAX_TOKENS:
        kept.pop(next(iter(kept)), None)
    kept[digest] = value
    return value
