"""Whole files to other places: WebDAV, S3, XRootD, and whatever else fsspec can write to.

A file goes under a hidden name first where the place can rename; an object of S3 appears when it is whole. Each kind is
asked again as patiently as for reading. Invariant: under the name that was asked for lies nothing, what was there
before, or the whole file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from mlaas4hep.config.addresses import shown
from mlaas4hep.data.places import LOCAL, XROOTD_SCHEMES, kind_of, open_place, scheme_of
from mlaas4hep.data.places.persist import ask
from mlaas4hep.data.places.remote import Failed
from mlaas4hep.data.places.wire import Access, WebAccess, exchange
from mlaas4hep.errors import DataError

Putter = Callable[[Path, str, float], None]
"""Copies a file to an address, once, with patience in seconds; raises `Failed`."""
_WEB_SCHEMES = ("http", "https", "dav", "davs")
# Bytes go up before a word comes back, and a store takes its time to put a large file away.
_STALL_S = 60.0
_NO_SUCH_METHOD = (405, 501)


def has_file(url: str) -> bool:
    """Whether there is a file at an address.

    Raises
    ------
    DataError
        It cannot be told.
    """
    try:
        open_place(url).close()
    except DataError as error:
        if "no such file" in str(error).lower():
            return False
        raise
    return True


def put_file(path: Path, url: str) -> None:
    """Copy a file of this machine to an address.

    Raises
    ------
    DataError
        The place cannot be written to, or does not take the file.
    """
    kind_of(url)  # says what is wrong with an address that nobody knows
    put = _putter(scheme_of(url))
    ask(shown(url), "cannot be written", lambda stall_s: put(path, url, max(stall_s, _STALL_S)))


def _putter(scheme: str) -> Putter:
    if scheme in _WEB_SCHEMES:
        return put_web
    if scheme == "s3":
        return put_s3
    if scheme in XROOTD_SCHEMES:
        from mlaas4hep.data.places.xrootd_put import put_xrootd

        return put_xrootd
    if scheme == LOCAL:
        raise DataError("a path of this machine is no address")
    return put_filesystem


def hidden(url: str) -> str:
    """The address beside it under which it is on its way; the same at each attempt.

    Examples
    --------
    >>> hidden("dav://host/out/a.root?x=1")
    'dav://host/out/.a.root.part?x=1'
    """
    path, mark, query = url.partition("?")
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{name}.part{mark}{query}"


def put_web(path: Path, url: str, stall_s: float) -> None:
    """By PUT to a hidden name and MOVE; by PUT alone where the server knows no MOVE."""
    final, part = WebAccess(url), WebAccess(hidden(url))
    _put_body(path, part, stall_s)
    destination, _ = final.address("MOVE")
    if _request(part, "MOVE", {"Destination": destination, "Overwrite": "T"}, stall_s) in _NO_SUCH_METHOD:
        _request(part, "DELETE", {}, stall_s)
        _put_body(path, final, stall_s)


def put_s3(path: Path, url: str, stall_s: float) -> None:
    """By one PUT, or in parts: an object is there when it is whole."""
    from mlaas4hep.data.places import s3_put
    from mlaas4hep.data.places.s3 import S3Access

    if path.stat().st_size > s3_put.ONE_PUT_BYTES:
        s3_put.put_in_parts(path, url, stall_s)
    else:
        _put_body(path, S3Access(url), stall_s)


def put_filesystem(path: Path, url: str, stall_s: float) -> None:
    """By the file system that fsspec has for the scheme."""
    from mlaas4hep.data.places.filesystems import act_on

    def act(system: Any, target: str) -> None:
        part = hidden(target)
        system.put_file(str(path), part)
        system.mv(part, target)

    act_on(url, act, stall_s + path.stat().st_size / (256 * 1024))


def _put_body(path: Path, access: Access, stall_s: float) -> None:
    size = path.stat().st_size
    with path.open("rb") as body:
        status = _request(access, "PUT", {"Content-Length": str(size)}, stall_s, body=body)
    if status in _NO_SUCH_METHOD or status == 404:
        why = "the server takes no files" if status != 404 else "there is no such folder"
        raise Failed(f"{why} (HTTP {status})", again=False)
    if not 200 <= status < 300:
        raise Failed(f"the server answered HTTP {status}", again=False)


def _request(
    access: Access, method: str, headers: Mapping[str, str], stall_s: float, *, body: IO[bytes] | None = None
) -> int:
    with exchange(access, method, headers, stall_s, body=body) as answer:
        answer.read_all(1 << 20)
        return answer.status
