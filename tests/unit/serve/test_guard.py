"""Tokens on HTTP: which kind of question each route is, and what is answered to whom."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mlaas4hep.auth import parse_policy
from mlaas4hep.serve.guard import Guard, kind_of
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.operation import Operation, Options
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService
from tests.issuer import AUDIENCE, Issuer, running_issuer
from tests.small_bundle import write_small_bundle

pytest.importorskip("joserfc", reason="joserfc is not installed")
PREDICT = "/v1/models/tth:predict"


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with running_issuer() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("models")).path.parents[1]


@contextmanager
def server(
    models: Path, issuer: Issuer, *, log: str | None = None, cors: tuple[str, ...] = (), **allow: Any
) -> Iterator[str]:
    policy = parse_policy(json.dumps({"issuers": [issuer.url], "audience": AUDIENCE, "allow": allow}))
    service = InferenceService(open_repository(models))
    operation = Operation(service, Options(policy=policy, access_log=log, cors=cors))
    with background(service, operation=operation) as url:
        yield url
    operation.close()


def ask(url: str, method: str, path: str, headers: dict[str, Any] | None = None) -> tuple[int, Any, dict[str, str]]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    body = b'{"instances": []}' if method == "POST" else None
    connection.request(method, path, body, {"Content-Type": "application/json"} | (headers or {}))
    response = connection.getresponse()
    text = response.read()
    connection.close()
    kind = response.headers.get("content-type", "")
    found = {name.lower(): value for name, value in response.getheaders()}
    return response.status, json.loads(text) if "json" in kind else text.decode(), found


def bearer(issuer: Issuer, **claims: Any) -> dict[str, Any]:
    return {"Authorization": issuer.header(**claims)}


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", "/v2/models/tth/infer", ("infer", "tth")),
        ("POST", "/v2/models/tth/versions/1/infer?x=/v2/health", ("infer", "tth")),
        ("POST", "/v1/models/tth:predict", ("infer", "tth")),
        ("POST", "/v1/models/t%74h%3Apredict", ("infer", "tth")),
        ("POST", "/v1/models/tth/versions/stable:predict", ("infer", "tth")),
        ("GET", "/v1/models/tth/versions/stable", ("see", "tth")),
        ("POST", "/v1/models/tth/labels/stable:predict", ("upload", "tth")),
        ("POST", "/predict/json", ("infer", None)),
        ("POST", "/tfaas/image", ("infer", None)),
        ("PUT", "/json", ("upload", None)),
        ("GET", "/models/", ("see", None)),
        ("GET", "/tfaas/params/tth", ("see", "tth")),
        ("GET", "/models/tth", ("manage", "tth")),
        ("GET", "/tfaas/d%61ta?model=tth", ("manage", None)),
        ("POST", "/params", ("upload", None)),
        ("POST", "/tfaas/bundle", ("upload", None)),
        ("DELETE", "/delete/tth", ("upload", "tth")),
        ("GET", "/v2/models/tth/stats", ("see", "tth")),
        ("GET", "/v1/models", ("see", None)),
        ("GET", "/", ("see", None)),
        ("GET", "/openapi.json", ("see", None)),
        ("GET", "/pages", ("see", None)),
        ("GET", "/pages/models/t%74h/versions/1/report/report.html", ("see", "tth")),
        ("GET", "/pages/static/style.css", None),
        ("POST", "/pages/static/style.css", ("upload", None)),
        ("HEAD", "/v2", ("see", None)),
        ("POST", "/v2/repository/index", ("see", None)),
        ("POST", "/v2/repository/models/tth/load", ("manage", "tth")),
        ("POST", "/v2%2Frepository/models%2Ftth/unload", ("manage", "tth")),
        ("POST", "/upload", ("upload", None)),
        ("DELETE", "/v2/models/tth", ("upload", "tth")),
        ("PUT", "/v2/models/tth/infer", ("upload", "tth")),
        ("POST", "/v2/models/tth/infer/more", ("upload", "tth")),
        ("GET", "/metrics", ("metrics", None)),
        ("GET", "/%6Detrics#x", ("metrics", None)),
        ("GET", "http://other/v2/health/../metrics", ("upload", None)),
        ("GET", "/v2/health/ready", None),
        ("GET", "/v2/healthy", ("see", None)),
        ("OPTIONS", "/v2/models/tth/infer", None),
    ],
)
def test_every_request_is_of_one_kind(method: str, path: str, kind: tuple[str, str | None] | None) -> None:
    assert kind_of(method, path) == kind


@pytest.mark.parametrize("more", ["", "&x=" + "a" * 600], ids=["short", "long"])
def test_an_address_of_any_length_is_read_with_the_prefix_that_was_chosen(more: str) -> None:
    guard = Guard(None, base="ml")  # type: ignore[arg-type]
    assert guard._remember("GET", f"/ml/data?model=tth{more}") == ("manage", None)


def test_each_kind_of_question_asks_for_its_scope(models: Path, issuer: Issuer) -> None:
    with server(models, issuer) as url:
        assert ask(url, "GET", "/v2/health/live")[0] == 200
        for method, path in [("GET", "/metrics"), ("GET", "/v2"), ("POST", PREDICT), ("GET", "/nothing")]:
            status, answer, headers = ask(url, method, path)
            assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="mlaas4hep"')
            assert "needs a token" in answer["error"]
        good = bearer(issuer)
        for _ in range(2):  # looked at, and remembered
            assert ask(url, "POST", PREDICT, good)[0] == 200
            assert "nv_inference_request_success" in ask(url, "GET", "/metrics", good)[1]
        status, answer, headers = ask(url, "POST", PREDICT, bearer(issuer, scope="compute.modify"))
        assert status == 403
        assert "needs compute.read" in answer["error"]
        expected = 'Bearer realm="mlaas4hep", error="insufficient_scope", scope="compute.read"'
        assert headers["www-authenticate"] == expected
        for method, path in [("POST", "/upload"), ("DELETE", "/delete/tth"), ("GET", "/data?model=tth")]:
            assert ask(url, method, path, good)[0] == 403
        assert ask(url, "POST", "/tfaas/json", good)[0] == 400  # asked, with a body that is no row
        status, answer, headers = ask(url, "POST", PREDICT, bearer(issuer, exp=1))
        assert status == 401
        assert 'error="invalid_token", error_description="the token has expired' in headers["www-authenticate"]


def test_anyone_may_ask_where_the_policy_says_so_and_still_not_load(models: Path, issuer: Issuer) -> None:
    with server(models, issuer, infer="anyone", see="anyone") as url:
        assert ask(url, "POST", PREDICT)[0] == 200
        assert ask(url, "GET", "/v2/models/tth")[0] == 200
        assert ask(url, "POST", "/v2/repository/models/tth/load")[0] == 401
        assert ask(url, "POST", PREDICT, {"Authorization": "Bearer nonsense"})[0] == 401


def test_a_provider_that_is_down_is_told_with_503(models: Path, issuer: Issuer) -> None:
    issuer.down = True
    try:
        with server(models, issuer) as url:
            status, answer, headers = ask(url, "POST", PREDICT, bearer(issuer))
            assert status == 503
            assert "cannot be had" in answer["error"]
            assert int(headers["retry-after"]) >= 1
            assert ask(url, "GET", "/v2/health/ready")[0] == 200
    finally:
        issuer.down = False


def test_new_keys_of_the_provider_are_found_by_a_question(
    models: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlaas4hep.auth.keys.FIRST_WAIT_S", 0.0)
    with server(models, issuer) as url:
        issuer.add("rotated", "RS256")
        assert ask(url, "POST", PREDICT, bearer(issuer, kid="rotated"))[0] == 200


def test_the_log_names_the_subject_and_who_was_refused(models: Path, issuer: Issuer, tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    with server(models, issuer, log=str(path)) as url:
        ask(url, "POST", PREDICT, bearer(issuer, sub="alice"))
        ask(url, "POST", f"{PREDICT}?access_token={issuer.token()}", bearer(issuer, exp=1))
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert (first["subject"], first["status"], first["model"], first["rows"]) == ("alice", 200, "tth", 0)
    assert (second["status"], second["path"]) == (401, PREDICT)
    assert "subject" not in second
    assert "eyJ" not in path.read_text()


def test_pages_of_other_origins_read_nothing_unless_they_may(models: Path, issuer: Issuer) -> None:
    origin = "https://pages.example.org"
    preflight = {"Origin": origin, "Access-Control-Request-Method": "POST",
                 "Access-Control-Request-Headers": "authorization,content-type"}  # fmt: skip
    with server(models, issuer) as url:
        assert "access-control-allow-origin" not in ask(url, "POST", PREDICT, bearer(issuer) | {"Origin": origin})[2]
    with server(models, issuer, cors=(origin,)) as url:
        status, _, headers = ask(url, "OPTIONS", PREDICT, preflight)
        assert (status, headers["access-control-allow-origin"]) == (200, origin)
        for _ in range(2):
            status, _, headers = ask(url, "POST", PREDICT, bearer(issuer) | {"Origin": origin})
            assert (status, headers["access-control-allow-origin"]) == (200, origin)
        status, _, headers = ask(url, "POST", PREDICT, {"Origin": origin})
        assert (status, headers["access-control-allow-origin"]) == (401, origin)
        other = {"Origin": "https://evil.example.org"}
        assert "access-control-allow-origin" not in ask(url, "POST", PREDICT, bearer(issuer) | other)[2]
        assert "access-control-allow-origin" not in ask(url, "POST", PREDICT, bearer(issuer))[2]


def test_statistics_are_asked_as_of_triton(models: Path, issuer: Issuer) -> None:
    good = bearer(issuer)
    with server(models, issuer) as url:
        assert "statistics" in ask(url, "GET", "/v2", good)[1]["extensions"]
        ask(url, "POST", PREDICT, good)
        for path in ("/v2/models/stats", "/v2/models/tth/stats", "/v2/models/tth/versions/1/stats"):
            (one,) = ask(url, "GET", path, good)[1]["model_stats"]
            assert (one["name"], one["inference_stats"]["success"]["count"]) == ("tth", 1)
        assert ask(url, "GET", "/v2/models/tt/stats", good)[0] == 404
        assert ask(url, "GET", "/v2/models/tth/versions/9/stats", good)[0] == 404
