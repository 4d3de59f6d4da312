"""Tokens against an issuer that is asked over HTTP on loopback: forged, late, for others, of new keys, of none."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mlaas4hep.auth import parse_policy
from mlaas4hep.auth.gate import ANONYMOUS, Gate
from mlaas4hep.errors import ForbiddenError, IssuerError, TokenError
from tests.issuer import AUDIENCE, Issuer, running_issuer

pytest.importorskip("joserfc", reason="joserfc is not installed")


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.late_s = 0.0

    def time(self) -> float:
        return time.time() + self.late_s

    def ticks(self) -> float:
        return 1000.0 + self.late_s


@pytest.fixture(scope="module")
def running() -> Iterator[Issuer]:
    with running_issuer() as issuer:
        yield issuer


@pytest.fixture
def issuer(running: Issuer) -> Issuer:
    running.down = False
    running.asked.clear()
    running.keys.clear()
    running.add("first")
    return running


@pytest.fixture
def clock() -> Clock:
    return Clock()


def gate_of(issuer: Issuer, clock: Clock, **allow: Any) -> Gate:
    text = json.dumps({"issuers": [issuer.url], "audience": [AUDIENCE], "allow": allow})
    return Gate(parse_policy(text), clock=clock.time, ticks=clock.ticks)


@pytest.fixture
def gate(issuer: Issuer, clock: Clock) -> Iterator[Gate]:
    found = gate_of(issuer, clock, upload=["storage.create:/models/{model}", "group:/cms/higgs"], see="anyone")
    yield found
    found.close()


def unsigned(head: dict[str, Any], claims: dict[str, Any]) -> bytes:
    return b".".join(base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=") for one in (head, claims))


def test_a_good_token_is_let_in_and_remembered_without_asking_again(issuer: Issuer, gate: Gate) -> None:
    header = issuer.header()
    assert gate.recall(header, "infer", "tth") is None
    found = gate.decide(header, "infer", "tth")
    assert (found.subject, found.issuer) == ("tester", issuer.url)
    assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]
    assert gate.recall(header, "infer", "tth") == found
    assert gate.recall(header, "manage", "tth") is None, "what was decided of one action says nothing of another"
    gate.decide(issuer.header(sub="another"), "infer", "tth")
    assert len(issuer.asked) == 2


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "RS512", "PS256", "EdDSA"])
@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
def test_each_asymmetric_algorithm_is_taken(issuer: Issuer, gate: Gate, algorithm: str) -> None:
    issuer.add("other", algorithm)
    assert gate.decide(issuer.header(kid="other"), "infer").subject == "tester"


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"exp": int(time.time()) - 90}, "has expired"),
        ({"exp": None}, "Object missing required field `exp`"),
        ({"exp": "2100-01-01"}, "claims of the token are not what is asked for"),
        ({"nbf": int(time.time()) + 3600}, "does not hold yet"),
        ({"iat": int(time.time()) + 3600}, "does not hold yet"),
        ({"aud": "https://other.example.org"}, "meant for another server; here it must name https://ml.example.org"),
        ({"aud": None}, "missing required field `aud`"),
        ({"aud": []}, "meant for another server"),
        ({"sub": None}, "missing required field `sub`"),
        ({"iss": "https://evil.example.org"}, "of an issuer that is not trusted"),
        ({"scope": "storage.read"}, "lacks the path that the WLCG profile demands"),
        ({"scope": "storage.read:/a/../b"}, "is not normalised"),
    ],
)
def test_a_token_that_does_not_hold_is_refused_with_the_reason(
    issuer: Issuer, gate: Gate, claims: dict[str, Any], said: str
) -> None:
    header = issuer.header(**claims)
    for _ in range(2):  # the second time from memory, with the same words
        with pytest.raises(TokenError, match=said):
            gate.decide(header, "infer")


def test_clocks_may_differ_a_little(issuer: Issuer, gate: Gate) -> None:
    now = int(time.time())
    assert gate.decide(issuer.header(exp=now - 10, nbf=now + 10, iat=now + 10), "infer")


def test_a_forged_signature_is_refused(issuer: Issuer, gate: Gate) -> None:
    good = issuer.token()
    gate.decide(b"Bearer " + good.encode(), "infer")
    head, claims, signature = good.split(".")
    more = unsigned({}, json.loads(base64.urlsafe_b64decode(claims + "==")) | {"scope": "compute.modify"}).split(b".")[
        1
    ]
    strange = Issuer(issuer.url)
    for forged in (
        f"{head}.{more.decode()}.{signature}",
        f"{head}.{claims}.",
        f"{head}.{claims}.{'A' * len(signature)}",
        strange.token(),
    ):
        with pytest.raises(TokenError, match="signature of the token does not fit"):
            gate.decide(b"Bearer " + forged.encode(), "infer")


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "HS512", "ES256K", "RSA1_5", ""])
def test_no_algorithm_is_taken_that_needs_no_public_key(issuer: Issuer, gate: Gate, algorithm: str) -> None:
    claims = {"iss": issuer.url, "sub": "x", "aud": AUDIENCE, "exp": time.time() + 60, "scope": "compute.read"}
    token = unsigned({"alg": algorithm, "kid": "first"}, claims)
    for signature in (b"", b"AAAA"):
        with pytest.raises(TokenError, match="signed in a way that is not taken here"):
            gate.decide(b"Bearer " + token + b"." + signature, "infer")


def test_a_public_key_is_no_secret_of_hs256(issuer: Issuer, gate: Gate) -> None:
    issuer.add("rsa", "RS256")
    key = issuer.keys["rsa"][1]
    claims = {"iss": issuer.url, "sub": "x", "aud": AUDIENCE, "exp": time.time() + 60, "scope": "compute.modify"}
    for secret in (
        key.as_pem(private=False),
        key.as_der(private=False),
        json.dumps(key.as_dict(private=False)).encode(),
    ):
        signed = unsigned({"alg": "HS256", "kid": "rsa"}, claims)
        mac = base64.urlsafe_b64encode(hmac.digest(secret, signed, hashlib.sha256)).rstrip(b"=")
        with pytest.raises(TokenError, match="signed in a way that is not taken here"):
            gate.decide(b"Bearer " + signed + b"." + mac, "infer")


def test_a_key_is_used_with_its_own_kind_of_signature_alone(issuer: Issuer, gate: Gate) -> None:
    issuer.add("rsa", "RS256")
    with pytest.raises(TokenError, match="has no key 'first' for RS256"):
        gate.decide(issuer.header(kid="rsa", head={"kid": "first"}), "infer")


@pytest.mark.parametrize(
    "header",
    [b"", b"Bearer", b"Bearer ", b"Basic dGVzdDp0ZXN0", b"Bearer a", b"Bearer a.b", b"Bearer a.b.c",
     b"Bearer a.b.c.d.e", b"Bearer \xff.\xff.\xff", b"Bearer " + b"A" * 20_000, b"Bearer e30.e30.e30",
     b"Bearer " + base64.b64encode(b'{"alg":' + b"[" * 6000) + b".e30.AA"],
)  # fmt: skip
def test_what_is_no_token_is_refused(gate: Gate, header: bytes) -> None:
    with pytest.raises(TokenError):
        gate.decide(header, "infer")


def test_an_extension_that_is_not_known_is_refused(issuer: Issuer, gate: Gate) -> None:
    _head, claims, signature = issuer.token().split(".")
    other = unsigned({"alg": "ES256", "kid": "first", "crit": ["b64"], "b64": False}, {}).split(b".")[0].decode()
    with pytest.raises(TokenError, match="an extension that is not known"):
        gate.decide(f"Bearer {other}.{claims}.{signature}".encode(), "infer")


def test_new_keys_are_found_when_a_token_names_them_and_old_ones_end(issuer: Issuer, gate: Gate, clock: Clock) -> None:
    old = issuer.header()
    gate.decide(old, "infer")
    issuer.keys.clear()
    issuer.add("second", "RS256")
    clock.late_s = 10
    assert gate.decide(issuer.header(kid="second"), "infer")
    assert gate.recall(old, "infer"), "a verified token is remembered for a few minutes"
    clock.late_s = 400
    with pytest.raises(TokenError, match="has no key 'first'"):
        gate.decide(old, "infer")


def test_invented_key_names_make_the_issuer_be_asked_rarely(issuer: Issuer, gate: Gate, clock: Clock) -> None:
    for number in range(50):
        with pytest.raises(TokenError, match="has no key"):
            gate.decide(issuer.header(head={"kid": f"invented-{number}"}), "infer")
    assert len(issuer.asked) == 2
    for _ in range(20):
        clock.late_s += 5
        with pytest.raises(TokenError, match="has no key"):
            gate.decide(issuer.header(head={"kid": f"invented-{clock.late_s}"}), "infer")
    assert len(issuer.asked) <= 12, "each time that it brought nothing, the next one waits longer"
    clock.late_s += 60
    issuer.add("new")
    assert gate.decide(issuer.header(kid="new", exp=int(clock.time()) + 60), "infer")


def test_known_keys_go_on_while_the_issuer_is_down_and_then_the_server_says_so(
    issuer: Issuer, gate: Gate, clock: Clock
) -> None:
    gate.decide(issuer.header(), "infer")
    issuer.down = True
    clock.late_s = 20_000
    late = int(time.time()) + 200_000
    assert gate.decide(issuer.header(exp=late), "infer"), "keys of some hours are good"
    clock.late_s = 86_500
    with pytest.raises(IssuerError, match=r"cannot be had: .* answers 500") as caught:
        gate.decide(issuer.header(exp=late), "infer")
    assert caught.value.retry_after_s > 0
    issuer.down = False
    clock.late_s += 1000
    assert gate.decide(issuer.header(exp=late), "infer")


def test_an_issuer_that_never_answered_is_asked_rarely_and_told_of(issuer: Issuer, gate: Gate, clock: Clock) -> None:
    issuer.down = True
    for _ in range(20):
        with pytest.raises(IssuerError, match="answers 500"):
            gate.decide(issuer.header(), "infer")
    assert len(issuer.asked) == 1
    issuer.down = False
    clock.late_s = 6
    assert gate.decide(issuer.header(), "infer")


def test_old_keys_are_asked_for_again_beside_the_questions(issuer: Issuer, gate: Gate, clock: Clock) -> None:
    gate.decide(issuer.header(), "infer")
    clock.late_s = 4000
    issuer.add("second")
    gate.decide(issuer.header(exp=int(clock.time()) + 60), "infer")
    gate._executor.shutdown(wait=True)
    assert issuer.asked[2:] == ["/.well-known/openid-configuration", "/keys"]


@pytest.mark.parametrize(
    ("claims", "action", "model", "granted"),
    [
        ({"scope": "compute.read"}, "infer", "tth", True),
        ({"scope": "compute.read"}, "manage", "tth", False),
        ({"scope": "openid compute.modify"}, "manage", "tth", True),
        ({"scope": ["compute.modify"], "wlcg.ver": None}, "manage", None, True),
        ({"scope": "compute.reader Compute.read compute"}, "infer", "tth", False),
        ({"scope": None}, "infer", "tth", False),
        ({"scope": None}, "metrics", None, True),
        ({"scope": "storage.create:/models"}, "upload", "tth", True),
        ({"scope": "storage.modify:/"}, "upload", "tth", True),
        ({"scope": "storage.create:/models/tth"}, "upload", "tth", True),
        ({"scope": "storage.create:/models/tt"}, "upload", "tth", False),
        ({"scope": "storage.create:/models/tth/"}, "upload", "tth", False),
        ({"scope": "storage.read:/models"}, "upload", "tth", False),
        ({"scope": "storage.create:/models/a"}, "upload", "a/../b", False),
        ({"scope": "storage.create:/models"}, "upload", "../etc", False),
        ({"scope": "storage.create:/models"}, "upload", None, False),
        ({"wlcg.groups": ["/cms", "/cms/higgs"]}, "upload", "tth", True),
        ({"wlcg.groups": ["/cms"], "groups": ["higgs"]}, "upload", "tth", False),
    ],
)
def test_a_token_grants_what_its_scopes_and_groups_say(
    issuer: Issuer, gate: Gate, claims: dict[str, Any], action: str, model: str | None, granted: bool
) -> None:
    header = issuer.header(**claims)
    if granted:
        assert gate.decide(header, action, model).subject == "tester"
        return
    with pytest.raises(ForbiddenError, match=f"'{action}'"):
        gate.decide(header, action, model)


def test_a_refusal_names_the_scope_that_would_do(issuer: Issuer, gate: Gate) -> None:
    with pytest.raises(ForbiddenError, match=r"storage.create:/models/{model} or group:/cms/higgs") as caught:
        gate.decide(issuer.header(), "upload", "tth")
    assert caught.value.scope == "storage.create:/models/tth"


def test_anyone_may_do_what_the_policy_opens_but_a_bad_token_is_told(issuer: Issuer, gate: Gate) -> None:
    assert gate.recall(None, "see", "tth") == ANONYMOUS
    assert gate.decide(None, "see") == ANONYMOUS
    with pytest.raises(TokenError, match=r"needs a token: compute.read") as caught:
        gate.decide(None, "infer")
    assert not caught.value.given
    with pytest.raises(TokenError, match="not a signed one"):
        gate.decide(b"Bearer nonsense", "see")


def test_an_issuer_that_calls_itself_otherwise_is_not_believed(issuer: Issuer, clock: Clock) -> None:
    other = Issuer(issuer.url + "/tenant")
    gate = gate_of(other, clock)
    with pytest.raises(IssuerError, match="cannot be had"):
        gate.decide(other.header(), "infer")
    gate.close()


def test_many_threads_with_a_new_key_ask_the_issuer_once(issuer: Issuer, gate: Gate) -> None:
    header, found = issuer.header(), []
    threads = [threading.Thread(target=lambda: found.append(gate.decide(header, "infer").subject)) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == ["tester"] * 8
    assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]


def test_neither_tokens_nor_many_hashes_are_kept(issuer: Issuer, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlaas4hep.auth.gate.MAX_TOKENS", 5)
    tokens = [issuer.header(sub=str(number)) for number in range(20)]
    for header in tokens:
        gate.decide(header, "infer")
        with pytest.raises(TokenError):
            gate.decide(header + b"A", "infer")
    for name in ("x" * 60_000, *map(str, range(300))):
        gate.decide(tokens[-1], "infer", name)
    (known,) = [one for one in gate._known.values() if one.identity.subject == "19"]
    assert len(known.allowed) <= 256 > max(len(model or "") for _, model in known.allowed)
    assert len(gate._known) == len(gate._refused) == 5
    assert all(len(digest) == 32 for digest in [*gate._known, *gate._refused])
