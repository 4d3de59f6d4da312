from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas4hep.client.wire import Broken, Reply, ReplyReader
from tests.examples import examples

WHOLE = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Y: a b \r\n\r\nhello", (200, b"hello", True)),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 \r\ncontent-length:2\r\n\r\n{}", (404, b"{}", True)),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n",
     (200, b"hello world", True)),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\r\n\r\n1\r\n0\r\n0\r\n\r\n", (200, b"\r\n0", True)),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: 1\r\n\r\n", (200, b"", True)),
    (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"", True)),
    (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", (200, b"ok", False)),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", (200, b"ok", False)),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "wanted"), WHOLE)
@settings(max_examples=examples(60))
@given(cuts=st.sets(st.integers(1, 120)))
def test_an_answer_is_the_same_in_whatever_parts_it_comes(
    answer: bytes, wanted: tuple[int, bytes, bool], cuts: set[int]
) -> None:
    reader, edges, reply = ReplyReader(), [0, *sorted(cut for cut in cuts if cut < len(answer)), len(answer)], None
    for start, stop in itertools.pairwise(edges):
        assert reply is None
        reply = reader.feed(answer[start:stop])
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body, reader.keep) == wanted


def test_an_answer_without_a_length_ends_with_the_connection() -> None:
    reader = ReplyReader()
    assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\nall of ") is None
    assert reader.feed(b"it") is None
    assert reader.end().body == b"all of it"
    assert not reader.keep


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP"),
        (b"HTTP/2 200\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "no colon"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab", "more came"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "no valid Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n", "no valid Content-Length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "'gzip', which is not read"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "no valid size"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", "longer than announced"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200", "more came"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 70_000, "no valid size"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, "head of the answer is larger"),
    ],
)
def test_what_is_no_answer_is_told(answer: bytes, said: str) -> None:
    with pytest.raises(Broken, match=said):
        ReplyReader().feed(answer)


@pytest.mark.parametrize("cut", [0, 5, 40, 60, 70])
def test_an_answer_that_ends_early_is_none(cut: int) -> None:
    reader = ReplyReader()
    answer = WHOLE[2][0][:cut]
    assert not answer or reader.feed(answer) is None
    with pytest.raises(Broken, match="cut off" if answer else "without an answer"):
        reader.end()
