"""Whole files to other places, on real servers: the whole file under its name, or nothing."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import numpy as np
import pytest

from mlaas4hep.data.places import open_place, s3_put
from mlaas4hep.data.places import put as put_module
from mlaas4hep.data.places.put import has_file, put_file
from mlaas4hep.data.places.remote import Failed
from mlaas4hep.errors import DataError
from tests import servers

ROOT = Path(__file__).parents[3]
ALONE = """
import pathlib, sys
from tests.unit.data.test_put import check
check(pathlib.Path(sys.argv[1]), sys.argv[2])
"""
CONTENT = np.random.default_rng(2).bytes(9_000_001)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a.root").write_bytes(CONTENT)
    return tmp_path / "a.root"


def read(url: str) -> bytes:
    place = open_place(url)
    try:
        return bytes(place.read([(0, place.size)])[0])
    finally:
        place.close()


def check(file: Path, url: str) -> None:
    """A file that was not there, is, and is replaced."""
    assert not has_file(url)
    put_file(file, url)
    assert has_file(url)
    assert read(url) == CONTENT
    file.write_bytes(CONTENT[:1000])
    put_file(file, url)
    assert read(url) == CONTENT[:1000]


class WebDav(http.server.BaseHTTPRequestHandler):
    """As much of WebDAV as is asked; a door that sends bodies elsewhere."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    moves: bool
    redirects: bool
    asked: list[tuple[str, str]]

    def log_message(self, *_: object) -> None: ...

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(("PUT", self.path))
        if self.redirects and not self.path.startswith("/disk"):
            self._answer(307, Location=f"/disk{self.path}")
            return
        self.files[self.path.removeprefix("/disk")] = body
        self._answer(201)

    def do_MOVE(self) -> None:
        self.asked.append(("MOVE", self.path))
        if not self.moves:
            self._answer(405)
            return
        self.files[urlsplit(self.headers["Destination"]).path] = self.files.pop(self.path)
        self._answer(201)

    def do_DELETE(self) -> None:
        self.files.pop(self.path, None)
        self._answer(204)

    def do_GET(self) -> None:
        if self.path not in self.files:
            self._answer(404)
            return
        whole = self.files[self.path]
        first, last = (int(one) for one in self.headers["Range"].removeprefix("bytes=").split("-"))
        part = whole[first : last + 1]
        told = f"bytes {first}-{first + len(part) - 1}/{len(whole)}"
        self._answer(206, part, Content_Range=told, ETag=f'"{hash(whole)}"')


@pytest.fixture
def web() -> Iterator[tuple[str, type[WebDav]]]:
    class Handler(WebDav):
        files: dict[str, bytes] = {}  # noqa: RUF012
        asked: list[tuple[str, str]] = []  # noqa: RUF012
        moves, redirects = True, False

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", Handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_webdav_gets_a_hidden_file_that_is_renamed(file: Path, web: tuple[str, type[WebDav]]) -> None:
    url, handler = web
    check(file, f"{url}/out/a.root")
    assert handler.asked[:2] == [("PUT", "/out/.a.root.part"), ("MOVE", "/out/.a.root.part")]
    assert list(handler.files) == ["/out/a.root"]


def test_a_door_may_send_the_body_elsewhere(file: Path, web: tuple[str, type[WebDav]]) -> None:
    url, handler = web
    handler.redirects = True
    check(file, f"{url}/a.root")


def test_a_server_that_cannot_rename_gets_the_file_as_it_is(file: Path, web: tuple[str, type[WebDav]]) -> None:
    url, handler = web
    handler.moves = False
    check(file, f"{url}/a.root")
    assert list(handler.files) == ["/a.root"]


def test_what_cannot_be_written_is_told(
    file: Path, web: tuple[str, type[WebDav]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, handler = web
    monkeypatch.setattr(
        handler, "do_PUT", lambda self: (self.rfile.read(len(CONTENT)), self._answer(403))[1], raising=True
    )
    with pytest.raises(DataError, match=r"a.root: cannot be written: is not open to us \(HTTP 403\)"):
        put_file(file, f"{url}/a.root")
    assert not handler.files
    with pytest.raises(DataError, match="nothing is known for sx://"):
        put_file(file, "sx://host/a.root")


def test_whatever_fsspec_writes_to_is_written_to(file: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.makedirs("/put", exist_ok=True)
    check(file, "memory://put/a.root")
    assert [one["name"] for one in memory.ls("/put")] == ["/put/a.root"]
    memory.rm("/put", recursive=True)


def test_s3_gets_an_object(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("botocore")
    with servers.open_folder() as folder:
        (folder / servers.BUCKET).mkdir()
        with servers.s3(folder) as endpoint:
            settings = {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": servers.KEY_ID, "SECRET_ACCESS_KEY": servers.KEY}
            for name, value in settings.items():
                monkeypatch.setenv(f"AWS_{name}", value)
            check(file, f"s3://{servers.BUCKET}/out/a.root")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a bucket; large files begin at 1 MB, and are sent in parts of 4 MB."""
    pytest.importorskip("botocore")
    monkeypatch.setattr(s3_put, "ONE_PUT_BYTES", 1 << 20)
    monkeypatch.setattr(s3_put, "PART_BYTES", 4 << 20)
    with servers.open_folder() as folder:
        (folder / servers.BUCKET).mkdir()
        with servers.s3(folder) as endpoint:
            settings = {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": servers.KEY_ID, "SECRET_ACCESS_KEY": servers.KEY}
            for name, value in settings.items():
                monkeypatch.setenv(f"AWS_{name}", value)
            yield folder / servers.BUCKET


def test_s3_gets_a_large_object_in_parts(file: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called, call = [], s3_put._call

    def lossy(access: Any, operation: str, *rest: Any, **more: Any) -> Any:
        called.append(operation)
        if called.count("upload_part") == 2 and operation == "upload_part":
            raise Failed("the line is dead")  # one part is sent again, and no other
        answer = call(access, operation, *rest, **more)
        if operation == "complete_multipart_upload" and called.count(operation) == 1:
            raise Failed("the answer is lost")  # the store has joined them
        return answer

    monkeypatch.setattr(s3_put, "_call", lossy)
    check(file, f"s3://{servers.BUCKET}/out/a.root")
    parts = ["upload_part"] * 4
    assert called == ["create_multipart_upload", *parts, *["complete_multipart_upload"] * 2]


def test_parts_that_cannot_be_sent_leave_no_object(file: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called, call = [], s3_put._call

    def dead(access: Any, operation: str, *rest: Any, **more: Any) -> Any:
        called.append(operation)
        if operation == "upload_part" and len(called) > 2:
            raise Failed("the disk of the store is full", again=False)
        return call(access, operation, *rest, **more)

    monkeypatch.setattr(s3_put, "_call", dead)
    with pytest.raises(DataError, match=r"a.root: cannot be written: the disk of the store is full"):
        put_file(file, f"s3://{servers.BUCKET}/a.root")
    assert called[-1] == "abort_multipart_upload"
    assert not has_file(f"s3://{servers.BUCKET}/a.root")
    with pytest.raises(DataError, match="no such bucket"):
        put_file(file, "s3://elsewhere/a.root")


def test_a_part_is_a_file_of_its_own(file: Path) -> None:
    with file.open("rb") as whole:
        part = s3_put.Part(whole, 100, 250)
        whole.seek(7)
        assert (len(part), part.read(100), part.tell()) == (150, CONTENT[100:200], 100)
        assert part.read(100) + part.read(100) == CONTENT[200:250]
        part.seek(0)
        assert part.read() == CONTENT[100:250]


def test_xrootd_gets_a_hidden_file_that_is_renamed(file: Path) -> None:
    pytest.importorskip("XRootD")
    with servers.open_folder() as folder:
        folder.chmod(0o777)
        with servers.xrootd(folder) as server:
            # In a process of its own: a client that has begun without authorities can have no TLS later.
            done = subprocess.run(
                [sys.executable, "-c", ALONE, str(file), f"{server.root}/out/a.root"],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path]))},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        assert [one.name for one in (folder / "out").iterdir()] == ["a.root"]


def test_an_attempt_that_broke_leaves_nothing_under_the_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    memory.makedirs("/broken", exist_ok=True)
    broken = type(memory).mv

    def fail(*_: object) -> None:
        raise OSError("the line is dead")

    monkeypatch.setattr(type(memory), "mv", fail)
    monkeypatch.setattr(put_module, "ask", lambda url, what, act: act(1.0))
    with pytest.raises(Exception, match="the line is dead"):
        put_file(file, "memory://broken/a.root")
    assert not has_file("memory://broken/a.root")
    monkeypatch.setattr(type(memory), "mv", broken)
    put_file(file, "memory://broken/a.root")
    assert read("memory://broken/a.root") == CONTENT
