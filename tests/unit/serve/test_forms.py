"""Forms as curl and browsers send them, however their bytes are cut; and what only looks like one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from mlaas4hep.errors import RequestError
from mlaas4hep.serve.asking import Refusal
from mlaas4hep.serve.forms import Form, FormParser, Part, read_form, save_body, whole_body

BOUNDARY = b"----x1"
NAMES = st.text("abcdefgh_", min_size=1, max_size=8)
# Bytes that look like parts of a boundary are the ones that matter.
VALUES = st.lists(st.sampled_from([b"\r\n", b"--", BOUNDARY, b"\r", b"\n", b"-", b"a\x00\xff", b""])).map(b"".join)


class Sink:
    def __init__(self) -> None:
        self.parts: list[tuple[Part, bytearray]] = []
        self.ended = 0

    def begin(self, part: Part) -> None:
        self.parts.append((part, bytearray()))

    def data(self, piece: bytes) -> None:
        self.parts[-1][1].extend(piece)

    def end(self) -> None:
        self.ended += 1


def written(fields: dict[str, bytes], boundary: bytes = BOUNDARY) -> bytes:
    parts = [
        b'--%b\r\nContent-Disposition: form-data; name="%b"; filename="f"\r\n\r\n%b\r\n'
        % (boundary, name.encode(), value)
        for name, value in fields.items()
    ]
    return b"".join(parts) + b"--%b--\r\n" % boundary


@given(st.dictionaries(NAMES, VALUES, max_size=4), st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_a_form_is_read_alike_however_it_is_cut(fields: dict[str, bytes], cuts: list[int]) -> None:
    fields = {name: value for name, value in fields.items() if b"\r\n--" + BOUNDARY not in b"\r\n" + value + b"\r\n"}
    body, sink = written(fields), Sink()
    parser = FormParser(BOUNDARY, sink)
    while body:
        for cut in cuts:
            parser.feed(body[:cut])
            body = body[cut:]
    parser.close()
    assert {part.name: bytes(data) for part, data in sink.parts} == fields
    assert sink.ended == len(fields)


PIECES = [b"--", BOUNDARY, b"\r\n", b"Content-Disposition: form-data", b"; name=a", b"\xe9", b"x"]


@given(st.lists(st.sampled_from(PIECES)))
def test_what_is_no_form_is_told_as_that(pieces: list[bytes]) -> None:
    parser, told = FormParser(BOUNDARY, Sink()), "a form"
    try:
        for piece in pieces:
            parser.feed(piece)
        parser.close()
    except RequestError as error:
        told = str(error)
    assert "form" in told


def request(body: bytes, content_type: str = "", pieces: int = 1000, length: int | None = None) -> Request:
    chunks = [body[at : at + pieces] for at in range(0, len(body), pieces)] or [b""]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    headers = [(b"content-type", content_type.encode())] if content_type else []
    headers += [(b"content-length", b"%d" % length)] if length is not None else []
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


def read(body: bytes, content_type: str, *, limit: int = 1 << 20, **options: Any) -> Form:
    return asyncio.run(read_form(request(body, content_type), limit, **({"on_disk": {}} | options)))


def test_a_file_goes_to_the_disk_and_the_rest_into_memory(tmp_path: Path) -> None:
    body = written({"name": b"net", "model": b"\x00" * 3000})
    form = read(body, f'multipart/form-data; boundary="{BOUNDARY.decode()}"', on_disk={"model": tmp_path / "m"})
    assert form.fields == {"name": b"net", "model": tmp_path / "m"}
    assert (form.text("name"), form.text("nothing"), form.filenames["model"]) == ("net", "", "f")
    assert (tmp_path / "m").read_bytes() == b"\x00" * 3000
    assert read(b"model=a%2Fb&x=", "application/x-www-form-urlencoded").fields == {"model": b"a/b", "x": b""}


KIND = f"multipart/form-data; boundary={BOUNDARY.decode()}"
LAST = b"--%b--\r\n" % BOUNDARY


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b"{}", "application/json", "asked for a form"),
        (b"", "multipart/form-data", "no boundary"),
        (written({"a": b"1"})[:-6], KIND, "cut off"),
        (written({"a": b"1"}).replace(b"name", b"game"), KIND, "no name"),
        (written({"a": b"1"}).replace(b"form-data", b"attachment"), KIND, "no Content-Disposition"),
        (written({"a": b"1"}).replace(b"filename", b"x" * 20_000), KIND, "head of more than"),
        (written({"a": b"1"})[: -len(LAST)] + written({"a": b"2"}), KIND, "twice"),
        (written({f"f{at}": b"" for at in range(17)}), KIND, "more than 16 fields"),
        (b"--" + BOUNDARY + b"xyz\r\n", KIND, "followed by other"),
        (b"a=1&b", "application/x-www-form-urlencoded", "is no form"),
    ],
)
def test_a_broken_form_says_what_is_wrong(body: bytes, content_type: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        read(body, content_type)


def test_no_more_is_taken_than_the_limit(tmp_path: Path) -> None:
    body = written({"a": b"1" * 5000})
    for take in (
        lambda: read_form(request(body, KIND), 4000, on_disk={}),
        lambda: read_form(request(body, KIND), 1 << 20, on_disk={}, field_bytes=4000),
        lambda: read_form(request(b"", KIND, length=5000), 4000, on_disk={}),
        lambda: whole_body(request(body), 4000, None),
        lambda: save_body(request(body), 4000, tmp_path / "body"),
    ):
        with pytest.raises(Refusal, match="413: the body is larger than the 4000 bytes"):
            asyncio.run(take())
        (tmp_path / "body").unlink(missing_ok=True)
