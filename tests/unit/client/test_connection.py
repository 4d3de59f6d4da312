from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mlaas4hep.client import Client
from mlaas4hep.client.connection import Connection
from mlaas4hep.errors import NotFoundError, RequestError, ServerError, UserError


class Script(ThreadingHTTPServer):
    """Answers with the next status of a script; 0 hangs up without an answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses: list[int] = []
        self.body = b'{"error": "in its own words", "models": ["a"]}'
        self.asked: list[str] = []
        self.connections = 0
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Script

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        status = self.server.statuses.pop(0)
        if status == 0:
            self.close_connection = True
            return
        body = self.server.body
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def script() -> Iterator[Script]:
    server = Script()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_one_connection_serves_many_questions(script: Script) -> None:
    script.statuses = [200] * 5
    with Client(script.url) as client:
        assert [client.models() for _ in range(5)] == [["a"]] * 5
    assert script.connections == 1


def test_a_busy_server_is_asked_again(script: Script) -> None:
    script.statuses = [503, 503, 200]
    with Client(script.url, retries=2) as client:
        assert client.models() == ["a"]
    assert len(script.asked) == 3


def test_a_server_that_stays_busy_is_an_error_with_its_words(script: Script) -> None:
    script.statuses = [503, 503]
    with Client(script.url, retries=1) as client, pytest.raises(ServerError, match="503: in its own words"):
        client.models()


def test_a_kept_connection_that_the_server_closed_is_opened_again_without_using_up_a_retry(script: Script) -> None:
    script.statuses = [200, 0, 200]
    with Client(script.url, retries=0) as client:
        client.models()
        assert client.models() == ["a"]
    assert script.connections == 2


def test_a_lost_connection_is_tried_again_and_no_more_often_than_asked(script: Script) -> None:
    script.statuses = [0, 0, 200]
    with Client(script.url, retries=2) as client:
        assert client.models() == ["a"]
    script.statuses = [0, 0]
    with Client(script.url, retries=1) as client, pytest.raises(ServerError, match="after 2 attempts"):
        client.models()


@pytest.mark.parametrize(
    ("status", "kind"), [(400, RequestError), (413, RequestError), (404, NotFoundError), (500, ServerError)]
)
def test_a_status_says_whose_fault_it_is_and_is_not_tried_again(
    script: Script, status: int, kind: type[Exception]
) -> None:
    script.statuses = [status]
    with Client(script.url) as client, pytest.raises(kind, match="in its own words"):
        client.models()
    assert len(script.asked) == 1


@pytest.mark.parametrize("status", [200, 404, 400, 500, 502])
@pytest.mark.parametrize("body", [b"<!DOCTYPE html><html>", b"", b"[1, 2]", b'{"detail": "not found"}', b"\xff\xfe"])
def test_another_program_at_the_address_is_told_as_such(script: Script, status: int, body: bytes) -> None:
    script.statuses, script.body = [status], body
    with Client(script.url) as client, pytest.raises(ServerError, match="is that 'mlaas4hep serve'"):
        client.models()


def test_names_are_quoted_and_a_path_in_the_url_is_kept(script: Script) -> None:
    script.statuses = [200]
    with Client(f"{script.url}/base/") as client:
        client.metadata("a/b c")
    assert script.asked == ["/base/v2/models/a%2Fb%20c"]


def test_nobody_there_is_said_with_the_address() -> None:
    with (
        Client("http://127.0.0.1:1", retries=0) as client,
        pytest.raises(ServerError, match=r"127\.0\.0\.1:1: .*refused"),
    ):
        client.live()


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://host:port"])
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(UserError):
        Connection(url, timeout_s=1, retries=0)
