"""Group ``http``: the protocol below the protocol."""

from __future__ import annotations

import gzip
import json

from conformance import sections
from conformance.checks import FailedCheckError, check, require
from conformance.groups.infer import require_same
from conformance.replies import read_reply, require_error, shown
from conformance.target import Target
from conformance.wire import JSON, Answer, BrokenWireError, LateAnswerError

LIVE = "/v2/health/live"


def _body(target: Target, **more: object) -> bytes:
    return json.dumps(target.question(target.tensors(), **more)).encode()


def _infer_bytes(target: Target, body: bytes, **headers: str) -> bytes:
    target.note(f"POST {target.path}/infer {' '.join(f'{name}: {one}' for name, one in headers.items())}", body)
    return target.place.request("POST", f"{target.path}/infer", body, headers)


@check("http", "keep_alive", expected="many requests on one connection", section="RFC 9112 section 9.3")
def keep_alive(target: Target) -> str:
    with target.connect() as connection:
        for number in range(20):
            answer = connection.exchange(_infer_bytes(target, _body(target, id=str(number))))
            require(read_reply(answer, target.outputs).id == str(number), f"request {number}: {shown(answer)}")
    return "20 requests"


@check(
    "http", "keep_alive_after_error", expected="an error ends no connection, or says so", section="RFC 9112 section 9.3"
)
def keep_alive_after_error(target: Target) -> str:
    with target.connect() as connection:
        answer = connection.exchange(_infer_bytes(target, b'{"inputs": 1}'))
        if answer.headers.get("connection", "").lower() == "close":
            return "closed, as announced"
        read_reply(connection.exchange(_infer_bytes(target, _body(target))), target.outputs)
    return "goes on"


@check("http", "connection_close", expected="Connection: close is honoured", section="RFC 9112 section 9.6")
def connection_close(target: Target) -> str:
    with target.connect() as connection:
        answer = connection.exchange(_infer_bytes(target, _body(target), Connection="close"))
        read_reply(answer, target.outputs)
        require(connection.at_end(), "the connection stays open, or more follows the answer")
    return "closed"


@check("http", "pipelining", expected="answers in the order of the requests", section="RFC 9112 section 9.3.2")
def pipelining(target: Target) -> str:
    ids = [f"pipe-{number}" for number in range(8)]
    with target.connect() as connection:
        connection.send(b"".join(_infer_bytes(target, _body(target, id=one)) for one in ids))
        found = [read_reply(connection.receive(), target.outputs).id for _ in ids]
    require(found == ids, f"ids came as {found}")
    return f"{len(ids)} requests at once"


@check("http", "slow_body", expected="a body in many small pieces is one body", section="RFC 9112 section 6")
def slow_body(target: Target) -> str:
    data = _infer_bytes(target, _body(target))
    with target.connect() as connection:
        for place in range(0, len(data), 97):
            connection.send(data[place : place + 97])
        read_reply(connection.receive(), target.outputs)
    return f"{len(data) // 97 + 1} pieces"


@check("http", "chunked", expected="a body in chunks is a body", section="RFC 9112 section 7.1")
def chunked(target: Target) -> str:
    body = _body(target, id="chunks")
    with target.connect() as connection:
        answer = connection.exchange(_chunked(target, [body[:10], body[10:11], body[11:]]))
        require(read_reply(answer, target.outputs).id == "chunks", shown(answer))
        # What is left of the chunks would be the head of the next request.
        read_reply(connection.exchange(_infer_bytes(target, body)), target.outputs)
    return "three chunks"


@check("http", "bad_chunk", expected="a chunk without a size: 4xx or closed", section="RFC 9112 section 7.1")
def bad_chunk(target: Target) -> str:
    head = _chunked(target, [])[: -len(b"0\r\n\r\n")]
    return _refused_or_closed(target, head + b"kit\r\n{}\r\n0\r\n\r\n")


@check(
    "http", "expect_continue", expected="100 before the body, or the answer at once", section="RFC 9110 section 10.1.1"
)
def expect_continue(target: Target) -> str:
    body = _body(target, id="expected")
    data = _infer_bytes(target, body, Expect="100-continue")
    with target.connect() as connection:
        connection.send(data[: -len(body)])
        interim = connection.interim()
        if interim != 100:
            return f"answered {interim} without the body"
        connection.send(body)
        answer = connection.receive()
    require(read_reply(answer, target.outputs).id == "expected", shown(answer))
    return "100, then the answer"


@check("http", "head", expected="HEAD is answered without a body, or 405", section="RFC 9110 section 9.3.2")
def head(target: Target) -> str:
    with target.connect() as connection:
        target.note(f"HEAD {LIVE}, then GET {LIVE} on the same connection")
        first = connection.exchange(target.place.request("HEAD", LIVE), method="HEAD")
        require(first.status in (200, 405, 404, 501), shown(first))
        second = connection.exchange(target.place.request("GET", LIVE), method="GET")
        require(second.status == 200, f"after HEAD, GET: {shown(second)}")
    return str(first.status)


@check("http", "unknown_route", expected="404", section="RFC 9110 section 15.5.5")
def unknown_route(target: Target) -> str:
    for path in ("/v2/no-such-route", f"{target.path}/no-such-route", "/v9", f"{target.path}/infer/more"):
        answer = target.ask("GET", path)
        require(answer.status == 404, f"{path}: {shown(answer)}")
    return "404"


@check("http", "wrong_method", expected="405", section="RFC 9110 section 15.5.6")
def wrong_method(target: Target) -> str:
    for method, path in (("GET", f"{target.path}/infer"), ("DELETE", f"{target.path}/infer"), ("POST", LIVE)):
        answer = target.ask(method, path, b"{}" if method == "POST" else None)
        require(answer.status == 405, f"{method} {path}: {shown(answer)}")
    return "405"


@check("http", "allow", expected="405 says which methods are allowed", section="RFC 9110 section 10.2.1")
def allow(target: Target) -> str:
    answer = target.ask("GET", f"{target.path}/infer")
    require("POST" in answer.headers.get("allow", ""), f"{answer.status}, Allow: {answer.headers.get('allow')!r}")
    return answer.headers["allow"]


@check("http", "unknown_method", expected="4xx or 501, or closed", section="RFC 9110 section 9.1")
def unknown_method(target: Target) -> str:
    target.note(f"BREW {LIVE}")
    return _refused_or_closed(target, target.place.request("BREW", LIVE), also=(501,))


@check("http", "query", expected="a query that nobody asked for does not disturb", section="RFC 9110 section 4.2.2")
def query(target: Target) -> str:
    target.infer(target.question(target.tensors()), path=f"{target.path}/infer?kit=1&a=%20")
    return "answered"


@check("http", "escaped_path", expected="percent escapes in the name are read", section="RFC 3986 section 6.2.2.2")
def escaped_path(target: Target) -> str:
    escaped = "".join(f"%{one:02X}" for one in target.model.encode())
    target.infer(target.question(target.tensors()), path=f"/v2/models/{escaped}/infer")
    return "answered"


@check("http", "gzip_request", expected="a compressed body is read, or 4xx", section="RFC 9110 section 8.4")
def gzip_request(target: Target) -> str:
    body = _body(target)
    headers = {"Content-Type": JSON, "Content-Encoding": "gzip"}
    answer = target.ask("POST", f"{target.path}/infer", gzip.compress(body), headers)
    if answer.status == 200:
        read_reply(answer, target.outputs)
        return "read"
    return require_error(answer)


@check("http", "gzip_answer", expected="an answer compressed as accepted, or plain", section="RFC 9110 section 12.5.3")
def gzip_answer(target: Target) -> str:
    plain = target.infer(target.question(target.tensors(3 if target.batched else 1)))
    answer = target.post(
        target.question(target.tensors(3 if target.batched else 1)), headers={"Accept-Encoding": "gzip"}
    )
    encoding = answer.headers.get("content-encoding", "identity")
    require(encoding in ("gzip", "identity"), f"content encoding '{encoding}'")
    body = gzip.decompress(answer.body) if encoding == "gzip" else answer.body
    require_same(plain, read_reply(Answer(answer.status, answer.headers, body), target.outputs), "when compressed")
    return encoding


@check("http", "wrong_content_type", expected="text/html is answered or 4xx", section="RFC 9110 section 15.5.16")
def wrong_content_type(target: Target) -> str:
    body = _body(target)
    answer = target.ask("POST", f"{target.path}/infer", body, {"Content-Type": "text/html"})
    if answer.status == 200:
        read_reply(answer, target.outputs)
        return "answered"
    return require_error(answer)


@check("http", "http_1_0", expected="HTTP/1.0 is answered and closed", section="RFC 9112 section 9.3")
def http_1_0(target: Target) -> str:
    data = _infer_bytes(target, _body(target)).replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)
    with target.connect() as connection:
        answer = connection.exchange(data)
        read_reply(answer, target.outputs)
        require("transfer-encoding" not in answer.headers, "the answer comes in chunks, which HTTP/1.0 does not know")
        require(connection.at_end(), "the connection stays open")
    return "closed after the answer"


@check("http", "no_host", expected="400 without a Host header", section="RFC 9112 section 3.2")
def no_host(target: Target) -> str:
    target.note(f"GET {LIVE} without Host")
    return _refused_or_closed(target, f"GET {target.place.prefix}{LIVE} HTTP/1.1\r\n\r\n".encode())


@check("http", "two_lengths", expected="two Content-Length that differ: 400 or closed", section="RFC 9112 section 6.3")
def two_lengths(target: Target) -> str:
    data = _infer_bytes(target, _body(target))
    return _refused_or_closed(target, data.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n", 1))


@check(
    "http",
    "length_and_chunks",
    expected="400, or the chunks go before and the connection ends",
    section="RFC 9112 section 6.1",
)
def length_and_chunks(target: Target) -> str:
    """The length says that the second request is part of the first; the chunks say that it is a request."""
    target.note("POST with Content-Length and Transfer-Encoding, and a request hidden in the body")
    hidden = target.place.request("GET", "/v2/hidden-request")
    head = _chunked(target, []).removesuffix(b"0\r\n\r\n")
    both = head.replace(b"\r\n\r\n", f"\r\nContent-Length: {5 + len(hidden)}\r\n\r\n".encode(), 1)
    with target.connect() as connection:
        try:
            first = connection.exchange(both + b"0\r\n\r\n" + hidden)
        except LateAnswerError as error:
            raise FailedCheckError(str(error)) from error
        except BrokenWireError as error:
            return str(error)
        require(400 <= first.status < 500, shown(first))
        require(connection.at_end(), "the hidden request was answered, or the connection stays open")
    return f"{first.status}, closed"


@check(
    "http",
    "space_before_colon",
    expected="white space in a header's name: 400 or closed",
    section="RFC 9112 section 5.1",
)
def space_before_colon(target: Target) -> str:
    data = _infer_bytes(target, _body(target))
    return _refused_or_closed(target, data.replace(b"Content-Length:", b"Content-Length :", 1))


@check(
    "http", "bad_length", expected="a Content-Length that is no number: 400 or closed", section="RFC 9110 section 8.6"
)
def bad_length(target: Target) -> str:
    for text in ("-1", "1e3", "0x10", "ten"):
        _refused_or_closed(target, _infer_bytes(target, _body(target), **{"Content-Length": text}))
    return "refused"


@check("http", "large_head", expected="1 MiB of headers: 431 or another 4xx, or closed", section=sections.ROBUST)
def large_head(target: Target) -> str:
    target.note(f"GET {LIVE} with 1 MiB of headers")
    headers = {f"X-Kit-{number}": "x" * 1000 for number in range(1000)}
    return _refused_or_closed(target, target.place.request("GET", LIVE, headers=headers))


@check(
    "http",
    "not_http",
    expected="bytes that are no HTTP: 400 or closed; others are served",
    section="RFC 9112 section 3",
)
def not_http(target: Target) -> str:
    target.note("random bytes")
    found = _refused_or_closed(target, target.random(4).bytes(500) + b"\r\n\r\n")
    target.check_alive()
    return found


def _chunked(target: Target, parts: list[bytes]) -> bytes:
    head = _infer_bytes(target, b"", **{"Content-Length": "", "Transfer-Encoding": "chunked"})
    return head + b"".join(f"{len(one):x}\r\n".encode() + one + b"\r\n" for one in parts) + b"0\r\n\r\n"


def _refused_or_closed(target: Target, data: bytes, also: tuple[int, ...] = ()) -> str:
    with target.connect() as connection:
        try:
            answer = connection.exchange(data)
        except LateAnswerError as error:
            raise FailedCheckError(f"neither answered nor closed: {error}") from error
        except BrokenWireError as error:
            require(not connection.received or connection.refusing, str(error))
            return str(error)
    require(400 <= answer.status < 500 or answer.status in also, shown(answer))
    return shown(answer, 80)
