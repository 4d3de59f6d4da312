"""What a question may cost before a route sees it, asked through raw sockets."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mlaas4hep.client import Client
from mlaas4hep.serve.limits import Limits, WireLimits
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.server import background
from mlaas4hep.serve.service import InferenceService

GOLDEN = Path(__file__).parents[2] / "golden" / "bundle_v1"
HEAD = b"POST /v1/models/network:predict HTTP/1.1\r\nHost: x\r\n"
BODY = b'{"instances": []}'


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with background(InferenceService(open_repository(GOLDEN / "network"))) as url:
        yield url
        with Client(url) as client:
            assert client.live()


@contextmanager
def served(wire: WireLimits) -> Iterator[str]:
    with background(InferenceService(open_repository(GOLDEN / "network"), limits=Limits(wire=wire))) as url:
        yield url


@pytest.fixture(scope="module")
def hasty() -> Iterator[str]:
    with served(WireLimits(unfinished_s=0.2)) as url:
        yield url


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=20) as raw:
        yield raw


def answer(raw: socket.socket) -> bytes:
    """All that comes until the server hangs up."""
    parts = []
    try:
        while part := raw.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def is_refused(found: bytes, status: int, said: str) -> bool:
    head, _, body = found.partition(b"\r\n\r\n")
    return (
        head.startswith(b"HTTP/1.1 %d " % status) and b"connection: close" in head and said in json.loads(body)["error"]
    )


def sent_of(raw: socket.socket, size: int) -> int:
    """How much of a header line the server takes before it hangs up, in MiB."""
    for sent in range(size):
        try:
            raw.sendall(b"a" * (1 << 20))
        except ConnectionError:
            return sent
    return size


@pytest.mark.parametrize(
    "start",
    [
        b"GET /" + b"a" * 100_000,
        b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"X-Many: yes\r\n" * 8_000,
        b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"\r\n" * 50_000,
    ],
    ids=["url", "value", "many", "whole", "blank lines"],
)
def test_a_head_that_is_too_large_is_refused(url: str, start: bytes) -> None:
    with connected(url) as raw:
        raw.sendall(start)
        found = answer(raw)
    assert is_refused(found, 431, "larger than the 65536 bytes")


@pytest.mark.parametrize("route", ["GET /v2", "POST /v1/models/network:predict"])
@pytest.mark.parametrize(("hosts", "said"), [("", "found none"), ("Host: a\r\nHost: b\r\n", "found 2")])
def test_a_question_names_exactly_one_host(url: str, route: str, hosts: str, said: str) -> None:
    with connected(url) as raw:
        raw.sendall(f"{route} HTTP/1.1\r\n{hosts}Content-Length: 17\r\n\r\n".encode() + BODY)
        assert is_refused(answer(raw), 400, f"asked for one Host header, {said}")


def test_old_clients_need_not_name_a_host(url: str) -> None:
    with connected(url) as raw:
        raw.sendall(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
        assert b'{"live":true}' in answer(raw)


def test_a_head_without_end_is_not_taken_in(url: str) -> None:
    for start in (b"GET / HTTP/1.1\r\nX: ", HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n \r\n0\r\nX: "):
        with connected(url) as raw:
            raw.sendall(start)
            assert sent_of(raw, 200) < 100


def test_a_large_body_behind_a_small_head_is_taken_in_any_pieces(url: str) -> None:
    body = BODY + b" " * 500_000
    whole = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    chunks = b"".join(b"%x\r\n%s\r\n" % (1000, body[i : i + 1000].ljust(1000)) for i in range(0, len(body), 1000))
    for message in (whole, HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"):
        with connected(url) as raw:
            raw.sendall(message)
            assert b'"predictions":[]' in answer(raw)


def test_questions_that_come_at_once_are_answered_in_order(url: str) -> None:
    one = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
    with connected(url) as raw:
        raw.sendall(one * 3 + b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        found = answer(raw)
    assert found.count(b'"predictions":[]') == 3
    assert found.endswith(b'"extensions":["binary_tensor_data","classification","model_configuration","statistics"]}')


@pytest.mark.parametrize(
    "start",
    [b"GET / HT", HEAD + b"Content-Length: 17\r\n\r\n{", HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"],
    ids=["head", "body", "chunks"],
)
def test_a_question_that_does_not_end_is_let_go(hasty: str, start: bytes) -> None:
    with connected(hasty) as raw:
        raw.sendall(start)
        assert is_refused(answer(raw), 408, "not finished within 0.2 s")


def test_who_says_nothing_is_let_go_without_a_word(hasty: str) -> None:
    with connected(hasty) as raw:
        assert answer(raw) == b""


def test_who_sends_steadily_may_take_longer() -> None:
    body = BODY + b" " * 20_000
    with served(WireLimits(unfinished_s=0.05, slowest_bytes_s=1000)) as url, connected(url) as raw:
        raw.sendall(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body[:-1]))
        raw.settimeout(0.3)
        with pytest.raises(TimeoutError):
            raw.recv(1)
        raw.settimeout(20)
        raw.sendall(body[-1:])
        assert b'"predictions":[]' in answer(raw)


def test_what_is_no_http_is_refused_in_the_form_of_all_errors(url: str) -> None:
    with connected(url) as raw:
        raw.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert is_refused(answer(raw), 400, "Invalid HTTP request")


def test_more_connections_than_allowed_are_told_so_but_health_is_answered() -> None:
    with served(WireLimits(connections=3)) as url, connected(url), connected(url), connected(url) as raw:
        raw.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert raw.recv(1000).startswith(b"HTTP/1.1 200 ")
        raw.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert is_refused(answer(raw), 503, "this server takes fewer")


def test_connections_far_beyond_the_number_are_closed_before_they_ask() -> None:
    with served(WireLimits(connections=4)) as url, ExitStack() as stack:
        lines = [stack.enter_context(connected(url)) for _ in range(20)]
        assert answer(lines[-1]) == b""
        for one in lines[2:]:
            one.close()
        while not answered(url):
            pass


def answered(url: str) -> bool:
    with connected(url) as raw:
        raw.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return answer(raw).startswith(b"HTTP/1.1 200 ")


def test_far_more_connections_than_allowed_do_not_even_wait_for_a_refusal() -> None:
    with served(WireLimits(connections=1)) as url, connected(url) as first, connected(url) as second:
        with connected(url) as third:
            assert answer(third) == b""
        for raw in (first, second):
            raw.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert raw.recv(1000).startswith(b"HTTP/1.1 200 ")
