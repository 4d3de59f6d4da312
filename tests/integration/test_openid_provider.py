"""A certified OpenID provider as others run them: its tokens, new keys after a new start, and an end."""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlaas4hep.auth import parse_policy
from mlaas4hep.errors import ForbiddenError, TokenError
from tests.servers import free_port, program, running

jwk = pytest.importorskip("joserfc.jwk", reason="joserfc is not installed")
AUDIENCE = "https://ml.example.org"
ROOT = Path(__file__).parents[2]


def package() -> Path:
    places = [os.environ.get("MLAAS4HEP_OIDC", ""), str(ROOT / ".venv-oidc" / "node_modules" / "oidc-provider")]
    found = next((Path(place) for place in places if place and Path(place).is_dir()), None)
    if found is None:
        pytest.skip("the program oidc-provider is not installed: make .venv-oidc/.made")
    return found


@contextmanager
def provider(folder: Path, port: int, kid: str) -> Iterator[str]:
    """One that signs with a new key of that name."""
    key = jwk.ECKey.generate_key("P-256").as_dict(private=True) | {"kid": kid, "use": "sig", "alg": "ES256"}
    keys = folder / f"{kid}.json"
    keys.write_text(json.dumps({"keys": [key]}))
    command = [program("node"), str(ROOT / "tests" / "oidc_provider.mjs"), str(package()), str(port), str(keys)]
    with running(command, ports=[port], log=folder / f"{kid}.log"):
        yield f"http://127.0.0.1:{port}"


def bearer(url: str, *, scope: str = "compute.read", resource: str = AUDIENCE) -> bytes:
    """What a machine shows after it has asked for a token."""
    asked = {"grant_type": "client_credentials", "scope": scope, "resource": resource}
    secret = base64.b64encode(b"robot:not-a-secret-at-all").decode()
    request = urllib.request.Request(
        f"{url}/token", urllib.parse.urlencode(asked).encode(), {"Authorization": f"Basic {secret}"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return b"Bearer " + json.loads(answer.read())["access_token"].encode()


def test_tokens_of_a_real_provider_are_taken_and_its_new_keys_found(tmp_path: Path) -> None:
    from mlaas4hep.auth.gate import Gate

    port, late_s = free_port(), [0.0]
    with provider(tmp_path, port, "first") as url:
        policy = parse_policy(json.dumps({"issuers": [url], "audience": AUDIENCE}))
        gate = Gate(policy, ticks=lambda: 1000.0 + late_s[0])
        assert gate.prepare() == []
        old = bearer(url)
        assert gate.decide(old, "infer").subject == "robot"
        with pytest.raises(ForbiddenError, match=r"needs compute\.modify"):
            gate.decide(old, "manage")
        assert gate.decide(bearer(url, scope="compute.modify"), "manage")
        with pytest.raises(TokenError, match="meant for another server"):
            gate.decide(bearer(url, resource="https://other.example.org"), "infer")
    assert gate.decide(old, "infer"), "the provider is down, its keys are known"
    with provider(tmp_path, port, "second") as url:
        late_s[0] = 60.0
        assert gate.decide(bearer(url), "infer").issuer == url
    gate.close()
