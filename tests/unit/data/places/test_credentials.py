"""Tokens, proxies and passwords: found where they should be, sent where they may, shown nowhere."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import time
import traceback
from pathlib import Path

import pytest

from mlaas4hep.config.addresses import secrets_in, shown
from mlaas4hep.data.places import kind_of, open_place, persist
from mlaas4hep.data.places.credentials import tls_context
from mlaas4hep.data.places.persist import Patience
from mlaas4hep.data.places.proxies import ends_of, proxy_file
from mlaas4hep.data.places.remote import Failed
from mlaas4hep.data.places.wire import WebAccess, redirected
from mlaas4hep.errors import DataError
from mlaas4hep.testing import refusal
from mlaas4hep.tokens import bearer_token, expiry_told, may_carry_secrets
from tests.fault_server import Faults, fault_server
from tests.servers import program

UID = os.getuid()


def test_tokens_are_found_in_the_order_of_the_profile(tmp_path: Path) -> None:
    (tmp_path / f"bt_u{UID}").write_text("from.runtime.dir\n")
    (tmp_path / "file").write_text("  from.file\n")
    env = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert bearer_token(env) == "from.runtime.dir"
    env["BEARER_TOKEN_FILE"] = str(tmp_path / "file")
    assert bearer_token(env) == "from.file"
    env["BEARER_TOKEN"] = " from.variable "
    assert bearer_token(env) == "from.variable"


@pytest.mark.skipif(Path(f"/tmp/bt_u{UID}").exists(), reason="a real token lies on this machine")
def test_without_any_there_is_no_token(tmp_path: Path) -> None:
    assert bearer_token({"XDG_RUNTIME_DIR": str(tmp_path)}) is None


def test_a_token_that_would_forge_headers_or_cannot_be_read_is_refused(tmp_path: Path) -> None:
    told = refusal(lambda: bearer_token({"BEARER_TOKEN": "secret\r\nX-Evil: 1"}))
    assert "BEARER_TOKEN" in told
    assert "secret" not in told
    assert "No such file" in refusal(lambda: bearer_token({"BEARER_TOKEN_FILE": str(tmp_path / "none")}))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert "not plain text" in refusal(lambda: bearer_token({"BEARER_TOKEN_FILE": str(tmp_path / "binary")}))


def test_the_age_of_a_token_is_told_only_where_it_says_so() -> None:
    def made(ends: float) -> str:
        body = base64.urlsafe_b64encode(json.dumps({"exp": ends}).encode()).decode().rstrip("=")
        return f"head.{body}.signature"

    assert "expired 10 minutes ago" in expiry_told(made(time.time() - 600))
    assert expiry_told(made(time.time() + 600)) == ""
    assert expiry_told("opaque") == expiry_told("a.b.c") == expiry_told("a.e30.c") == ""


@pytest.mark.parametrize(
    ("scheme", "host", "may"),
    [
        ("https", "door.cern.ch", True),
        ("http", "door.cern.ch", False),
        ("http", "127.0.0.1", True),
        ("http", "localhost", True),
        ("http", "localhost.evil.org", False),
        ("http", "10.0.0.1", False),
    ],
)
def test_secrets_go_over_tls_or_stay_on_this_machine(scheme: str, host: str, may: bool) -> None:
    assert may_carry_secrets(scheme, host) is may


def test_a_token_is_sent_over_https_and_not_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEARER_TOKEN", "abc")
    assert WebAccess("davs://host/a.root").address("GET") == ("https://host/a.root", {"Authorization": "Bearer abc"})
    assert WebAccess("http://host/a.root").address("GET") == ("http://host/a.root", {})


def test_a_password_in_an_address_is_used_but_not_shown() -> None:
    access = WebAccess("https://me:s3cret@host:8443/a b.root?version=2")
    url, headers = access.address("GET")
    assert url == "https://host:8443/a%20b.root?version=2"
    assert headers["Authorization"] == "Basic " + base64.b64encode(b"me:s3cret").decode()
    assert access.url == "https://host:8443/a b.root?version=2"
    assert "s3cret" not in refusal(lambda: WebAccess("http://me:s3cret@host/a.root").address("GET"))


def test_a_proxy_that_is_named_must_be_there_and_hold_one(tmp_path: Path) -> None:
    env = {"X509_USER_PROXY": str(tmp_path / "none")}
    assert "voms-proxy-init" in refusal(lambda: proxy_file(env))
    (tmp_path / "text").write_text("no certificate")
    assert "X.509 proxy" in refusal(lambda: tls_context({"X509_USER_PROXY": str(tmp_path / "text")}))
    assert "X509_CERT_FILE" in refusal(lambda: tls_context({"X509_CERT_FILE": str(tmp_path / "text")}))


@pytest.fixture
def proxy(tmp_path: Path) -> Path:
    command = [program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=me"]
    subprocess.run([*command, "-keyout", tmp_path / "key", "-out", tmp_path / "cert"], check=True, capture_output=True)
    (tmp_path / "proxy").write_bytes((tmp_path / "cert").read_bytes() + (tmp_path / "key").read_bytes())
    return tmp_path / "proxy"


def test_a_proxy_is_loaded_for_servers_that_ask(proxy: Path) -> None:
    env = {"X509_USER_PROXY": str(proxy), "X509_CERT_FILE": str(proxy.parent / "cert")}
    assert proxy_file(env) == str(proxy)
    assert tls_context(env).cert_store_stats()["x509"] > tls_context({}).cert_store_stats()["x509"]


def test_the_end_of_a_proxy_is_that_of_the_first_of_its_certificates_to_end(proxy: Path) -> None:
    told = subprocess.run(
        ["openssl", "x509", "-in", proxy, "-enddate", "-noout"], check=True, capture_output=True, text=True
    ).stdout
    text, ends = proxy.read_text(), ssl.cert_time_to_seconds(told.strip().partition("=")[2])
    assert ends_of(text) == ends
    lines = text.splitlines()
    for damaged in ("", *("\n".join([*lines[:at], "?" * 64, *lines[at + 1 :]]) for at in range(1, 8))):
        assert ends_of(damaged) in (None, ends)
        assert ends_of(text + damaged) == ends


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://u:p@host/a.root", "https://host/a.root"),
        ("https://host/a.root?X-Amz-Credential=k&X-Amz-Signature=s&versionId=3", "https://host/a.root?versionId=3"),
        ("https://host/a.root?sig=s&sv=2", "https://host/a.root?sv=2"),
        ("root://host//a.root?authz=Bearer%20x", "root://host//a.root"),
        ("root://me@host//a.root", "root://me@host//a.root"),
        ("https://host/a.root?jwt=x&bearer=y&pwd=z&delegation=d", "https://host/a.root"),
        ("https://host/a.root?x=eyJhbGciOiJSUzI1NiJ9.e30.c2ln&n=1", "https://host/a.root?n=1"),
        ("https://host/a.root?x=" + 8 * "s3Cr3t" + "&n=1", "https://host/a.root?n=1"),
        ("https://host/a.root;token=x?n=1", "https://host/a.root?n=1"),
        ("https://host/a.root?n=1#token=x", "https://host/a.root?n=1"),
        ("https://host/a.root?file=store/mc/RunIISummer20UL18NanoAODv9/a.root", None),
        ("https://host/a.root?sample=signal", "https://host/a.root?sample=signal"),
        ("/data/me:word@host/a.root?token=1", "/data/me:word@host/a.root?token=1"),
    ],
)
def test_what_is_shown_of_an_address(address: str, name: str | None) -> None:
    name = name or address
    assert shown(address) == name
    assert any(secrets_in(address)) == (address != name)
    assert shown(name) == name


def test_an_address_without_a_host_is_refused() -> None:
    with pytest.raises(DataError, match="names no host"):
        WebAccess("http:///a.root")


@pytest.mark.parametrize("kind", ["error", "reset", "no_http", "wrong_length"])
def test_no_secret_of_an_address_is_in_an_error_or_its_traceback(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(persist, "PATIENCE", Patience(stall_s=0.1, pause_s=0.001, attempts=2))
    (tmp_path / "a.root").write_bytes(bytes(1_000))
    with fault_server(tmp_path, Faults({kind: 1.0})) as server:
        host = server.url.removeprefix("http://")
        for address in (
            f"http://me:s3cret@{host}/a.root",
            f"{server.url}/a.root?X-Amz-Signature=s3cret",
            "http://me:s3cret/a.root",
        ):
            with pytest.raises(DataError) as refused:
                open_place(address)
            assert "s3cret" not in "".join(traceback.format_exception(refused.value)).replace(address, "")


def test_a_token_stays_at_the_door_that_redirects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEARER_TOKEN", "s3cret")
    first, second = "https://door.org/a.root", "https://pool.org:8443/a.root?ticket=1"
    ours = {"Authorization": "Bearer s3cret"}
    assert redirected(first, second, ours) == (second, {})
    assert redirected(first, "/b.root", ours) == ("https://door.org/b.root", ours)
    assert redirected(first, "http://door.org/a.root", ours) == ("http://door.org/a.root", {})
    with pytest.raises(Failed, match="file://"):
        redirected(first, "file:///etc/passwd", ours)


@pytest.mark.parametrize("address", ["http://[::1/a.root", "root://host:s3cret//a.root", "https://host:99999/*.root"])
def test_what_is_no_address_is_refused_without_its_parts(address: str) -> None:
    for act in (open_place, lambda one: kind_of(one).expand(one), lambda one: kind_of(one).key(one)):
        told = refusal(lambda act=act: act(address))  # type: ignore[misc]
        assert "is no address" in told
        assert "s3cret" not in told
