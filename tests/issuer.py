"""An issuer of tokens on loopback: publishes discovery and keys, signs, changes its keys, goes down and comes back."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

AUDIENCE = "https://ml.example.org"
Signer = RSAKey | ECKey | OKPKey


class Issuer:
    """Its keys, and what it was asked for.

    Attributes
    ----------
    keys
        Name to key, with the algorithm that it signs with; what is published.
    down
        Whether it answers 500.
    asked
        Paths, in order.
    """

    def __init__(self, url: str = "") -> None:
        self.url = url
        self.keys: dict[str, tuple[str, Signer]] = {}
        self.down = False
        self.asked: list[str] = []
        self.add("first")

    def add(self, kid: str, algorithm: str = "ES256") -> None:
        """Publish one more key."""
        makers: dict[str, Any] = {
            "ES": lambda: ECKey.generate_key("P-256"),
            "RS": lambda: RSAKey.generate_key(2048),
            "PS": lambda: RSAKey.generate_key(2048),
            "Ed": lambda: OKPKey.generate_key("Ed25519"),
        }
        self.keys[kid] = (algorithm, makers[algorithm[:2]]())

    def token(self, *, kid: str = "first", head: dict[str, Any] | None = None, **claims: Any) -> str:
        """A good token, but for what is said otherwise; a claim of None is left out."""
        algorithm, key = self.keys[kid]
        now = int(time.time())
        whole = {
            "iss": self.url, "sub": "tester", "aud": AUDIENCE, "scope": "compute.read", "wlcg.ver": "1.0",
            "iat": now - 5, "nbf": now - 5, "exp": now + 600, **claims,
        }  # fmt: skip
        given = {name: value for name, value in whole.items() if value is not None}
        return jwt.encode({"alg": algorithm, "kid": kid} | (head or {}), given, key, algorithms=[algorithm])

    def header(self, **options: Any) -> bytes:
        """The value of ``Authorization`` with a token."""
        return b"Bearer " + self.token(**options).encode()

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and document at a path."""
        self.asked.append(path)
        if self.down:
            return 500, {}
        if path == "/.well-known/openid-configuration":
            return 200, {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        if path == "/keys":
            made = [key.as_dict(private=False) | {"kid": kid, "use": "sig"} for kid, (_, key) in self.keys.items()]
            return 200, {"keys": made}
        return 404, {}


@contextmanager
def running_issuer() -> Iterator[Issuer]:
    """One that answers over HTTP."""
    issuer = Issuer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, document = issuer.answer(self.path)
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer.url = f"http://127.0.0.1:{server.server_port}"
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
