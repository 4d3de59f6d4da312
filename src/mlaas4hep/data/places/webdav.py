"""Folders of WebDAV doors, by PROPFIND.

Invariant: what is listed lies in the folder that was asked for; an answer that is not a listing is an error in words.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

from mlaas4hep.config.addresses import split_address
from mlaas4hep.data.places.listing import Entry
from mlaas4hep.data.places.persist import ask
from mlaas4hep.data.places.remote import Failed
from mlaas4hep.data.places.wire import Access, WebAccess, exchange
from mlaas4hep.errors import DataError

_MOST_BYTES = 64 * 1024 * 1024
_DAV = "{DAV:}"
_ASKED = (
    b'<?xml version="1.0"?><propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/><getlastmodified/>'
    b"<getetag/></prop></propfind>"
)


def folder_of(url: str) -> list[Entry]:
    """Files and folders in a folder.

    Raises
    ------
    DataError
        It is not there, or the server lists nothing.
    """
    access = WebAccess(url if url.endswith("/") else f"{url}/")
    here = unquote(split_address(url).path).rstrip("/")
    found = ask(access.url, "cannot be listed", lambda stall_s: list(_properties(access, "1", stall_s)))
    return [
        Entry(posixpath.basename(path), one.find(f".//{_DAV}collection") is not None)
        for path, one in found
        if posixpath.dirname(path) == here and path != here
    ]


def change_of(access: Access, stall_s: float) -> str | None:
    """When a file was changed, or its entity tag, from a server that says so only when asked; None from others."""
    try:
        [(_, one)] = _properties(access, "0", stall_s)
    except (Failed, DataError, ValueError):
        return None  # speaks no WebDAV: then something else must serve for an identity
    return one.findtext(f".//{_DAV}getetag") or one.findtext(f".//{_DAV}getlastmodified")


def _properties(access: Access, depth: str, stall_s: float) -> Iterator[tuple[str, ElementTree.Element]]:
    headers = {"Depth": depth, "Content-Type": "application/xml"}
    with exchange(access, "PROPFIND", headers, stall_s, body=_ASKED) as answer:
        if answer.status == 404:
            raise DataError(f"{access.url}: no such folder (HTTP 404)")
        told = answer.read_all(_MOST_BYTES)
    if answer.status != 207 or told is None:
        raise DataError(f"{access.url}: {_NO_LISTING}")
    for one in _parsed(access.url, told).iter(f"{_DAV}response"):
        yield unquote(urlsplit(one.findtext(f"{_DAV}href", "").strip()).path).rstrip("/"), one


_NO_LISTING = (
    "the server lists no folders (it speaks no WebDAV; index pages for people are not read): name the files, or "
    "write their addresses into a text file and name that"
)


def _parsed(url: str, told: bytes) -> ElementTree.Element:
    if b"<!DOCTYPE" in told[:4096] or b"<!ENTITY" in told:
        raise DataError(f"{url}: sends a listing with definitions of its own, which is not read")
    try:
        return ElementTree.fromstring(told)
    except ElementTree.ParseError as error:
        raise DataError(f"{url}: sends a damaged listing: {error}") from error
