"""Files to S3: small ones by one PUT, large ones in parts that the store joins.

S3 takes 5 GB in one request; a part that fails is sent again by itself. Invariant: an object is there when it is whole.
What is given up on the way is withdrawn; of a process that was killed the store may keep parts that nobody sees.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from mlaas4hep.data.places.persist import ask
from mlaas4hep.data.places.remote import Failed
from mlaas4hep.data.places.s3 import S3Access
from mlaas4hep.data.places.wire import exchange
from mlaas4hep.errors import DataError

ONE_PUT_BYTES = 512 << 20
"""Larger files go in parts."""
PART_BYTES = 64 << 20
_MOST_PARTS = 10_000
_MOST_WORDS = 1 << 20


class Part:
    """Some bytes of a file, as a file of its own."""

    def __init__(self, file: IO[bytes], start: int, stop: int) -> None:
        self._file, self._start, self._stop = file, start, stop
        self._at = start

    def __len__(self) -> int:
        return self._stop - self._start

    def seek(self, to: int) -> int:
        """To a byte of the part."""
        self._at = self._start + to
        return to

    def tell(self) -> int:
        """Bytes that were read."""
        return self._at - self._start

    def read(self, most: int = -1) -> bytes:
        """The next bytes; none at the end of the part."""
        left = self._stop - self._at
        self._file.seek(self._at)
        data = self._file.read(left if most < 0 else min(most, left))
        self._at += len(data)
        return data


def put_in_parts(path: Path, url: str, stall_s: float) -> None:
    """Copy a file of this machine to an object, part by part.

    Raises
    ------
    DataError
        A part cannot be sent, however often it is tried; then nothing is there.
    """
    access, size = S3Access(url), path.stat().st_size
    step = max(PART_BYTES, -(-size // _MOST_PARTS))
    upload = _begun(access, stall_s)
    try:
        tags: list[str] = []
        with path.open("rb") as file:
            for start in range(0, size, step):
                part = Part(file, start, min(start + step, size))
                tags.append(_sent(access, upload, len(tags) + 1, part, stall_s))
        ask(access.url, "cannot be written", lambda s: _joined(access, upload, tags, size, max(s, stall_s)))
    except BaseException:
        with contextlib.suppress(Failed, DataError):  # what went wrong before is what is told
            _call(access, "abort_multipart_upload", "DELETE", {"UploadId": upload}, stall_s)
        raise


def _begun(access: S3Access, stall_s: float) -> str:
    _, told, _ = _call(access, "create_multipart_upload", "POST", {}, stall_s)
    try:
        found = next((one.text for one in ElementTree.fromstring(told).iter() if one.tag.endswith("UploadId")), None)
    except ElementTree.ParseError:
        found = None
    if not found:
        raise Failed("the store does not say how a file is sent in parts", again=False)
    return found


def _sent(access: S3Access, upload: str, number: int, part: Part, stall_s: float) -> str:
    """Send a part; gives its tag."""
    asked = {"UploadId": upload, "PartNumber": number}

    def send(seconds: float) -> str:
        _, _, headers = _call(access, "upload_part", "PUT", asked, max(seconds, stall_s), body=part)
        if "etag" not in headers:
            raise Failed(f"the store gives no tag for part {number}")
        return headers["etag"]

    return ask(access.url, "cannot be written", send)


def _joined(access: S3Access, upload: str, tags: list[str], size: int, stall_s: float) -> None:
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(tag)}</ETag></Part>"
        for number, tag in enumerate(tags, 1)
    )
    body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
    status, told, _ = _call(access, "complete_multipart_upload", "POST", {"UploadId": upload}, stall_s, body=body)
    if status == 404 and _is_there(access, size, stall_s):
        return  # it was joined before, and the answer was lost
    refused = re.search(rb"<Error>.*?<Code>([^<]*)", told, re.DOTALL)  # also behind a status of success
    if status == 404 or refused:
        why = refused[1].decode("ascii", "replace") if refused else f"HTTP {status}"
        raise Failed(f"the store does not join the parts ({why})", again=status != 404)


def _is_there(access: S3Access, size: int, stall_s: float) -> bool:
    with exchange(access.of("get_object"), "GET", {"Range": "bytes=0-0"}, stall_s) as answer:
        return answer.headers.get("content-range", "").endswith(f"/{size}")


def _call(
    access: S3Access,
    operation: str,
    method: str,
    asked: Mapping[str, Any],
    stall_s: float,
    *,
    body: bytes | Part | None = None,
) -> tuple[int, bytes, Mapping[str, str]]:
    """Status, body and headers of an answer; `Failed` where it is none or a refusal."""
    length = {"Content-Length": str(len(body or b""))} if method != "DELETE" else {}
    with exchange(access.of(operation, asked), method, length, stall_s, body=body or b"") as answer:  # type: ignore[arg-type]
        told = answer.read_all(_MOST_WORDS) or b""
    if answer.status in (405, 501) or (answer.status == 404 and operation != "complete_multipart_upload"):
        why = "there is no such bucket" if answer.status == 404 else "the store takes no parts"
        raise Failed(f"{why} (HTTP {answer.status})", again=False)
    return answer.status, told, answer.headers
