"""Folders and wild cards at places that list their folders.

``*``, ``[...]`` and ``**`` are wild in the path of an address; ``?`` is not, since it begins the query of an address.
Invariant: what is found is sorted and fits the pattern; nothing found is an error with the nearest.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from mlaas4hep.config.addresses import shown, split_address
from mlaas4hep.data.places.endings import endings_told, has_known_ending
from mlaas4hep.errors import DataError, nearest

_WILD = re.compile(r"[*\[]")
# ``root://host//**`` would walk the files of a whole experiment.
MOST_FOLDERS = 10_000


class Entry(NamedTuple):
    """A name in a folder."""

    name: str
    is_folder: bool


ListFolder = Callable[[str], list[Entry]]


def expand_address(
    pattern: str, list_folder: ListFolder, *, is_folder: Callable[[str], bool] | None, quoted: bool = False
) -> tuple[str, ...]:
    """Files behind an address; see `mlaas4hep.data.places.PlaceKind.expand`.

    Parameters
    ----------
    pattern
        Of one file, of a folder, or with wild cards.
    list_folder
        What is in a folder.
    is_folder
        Asked of an address without a slash at its end or the ending of a format; None takes it for a file.
    quoted
        Whether names are percent-encoded in addresses of this kind.
    """
    path = split_address(pattern).path
    if _WILD.search(path):
        return _Walk(pattern, list_folder, quoted).files()
    if path.endswith("/") or (is_folder is not None and not has_known_ending(path) and is_folder(pattern)):
        return _in_folder(pattern, list_folder, quoted)
    return (pattern,)


def _in_folder(url: str, list_folder: ListFolder, quoted: bool) -> tuple[str, ...]:
    parts = urlsplit(url)
    names = sorted(one.name for one in list_folder(url) if not one.is_folder and has_known_ending(one.name))
    if not names:
        raise DataError(f"{shown(url)}: is a folder without files that end in {endings_told()}")
    base = parts.path.rstrip("/")
    return tuple(urlunsplit(parts._replace(path=f"{base}/{_written(name, quoted)}")) for name in names)


class _Walk:
    """One pattern, and the folders that were listed for it."""

    def __init__(self, pattern: str, list_folder: ListFolder, quoted: bool) -> None:
        self._pattern = pattern
        self._parts = urlsplit(pattern)
        self._list_folder = list_folder
        self._quoted = quoted
        self._listed: dict[str, list[Entry]] = {}

    def files(self) -> tuple[str, ...]:
        """Addresses that fit; sorted."""
        segments = self._parts.path.split("/")
        fixed = next(place for place, one in enumerate(segments) if _WILD.search(one))
        wild = segments[fixed:]
        if wild[-1] in ("**", ""):
            wild = [*(wild if wild[-1] == "**" else wild[:-1]), "*"]
        found = sorted(set(self._walk("/".join(segments[:fixed]), wild)))
        if not found:
            seen = [one.name for entries in self._listed.values() for one in entries]
            raise DataError(f"{shown(self._pattern)}: matches no file{nearest(wild[-1], seen)}")
        return tuple(urlunsplit(self._parts._replace(path=path)) for path in found)

    def _walk(self, folder: str, segments: list[str]) -> Iterator[str]:
        segment, *rest = segments
        if segment == "**":
            yield from self._walk(folder, rest)
            for one in self._entries(folder):
                if one.is_folder:
                    yield from self._walk(self._below(folder, one), segments)
            return
        wanted = re.compile(fnmatch.translate(unquote(segment) if self._quoted else segment))
        for one in self._entries(folder):
            if one.is_folder == bool(rest) and wanted.match(one.name) and _is_meant(one.name, segment):
                path = self._below(folder, one)
                yield from self._walk(path, rest) if rest else (path,)

    def _entries(self, folder: str) -> list[Entry]:
        if folder not in self._listed:
            if len(self._listed) >= MOST_FOLDERS:
                raise DataError(f"{shown(self._pattern)}: stands for more than {MOST_FOLDERS} folders; name fewer")
            self._listed[folder] = self._list_folder(urlunsplit(self._parts._replace(path=f"{folder}/")))
        return self._listed[folder]

    def _below(self, folder: str, one: Entry) -> str:
        return f"{folder}/{_written(one.name, self._quoted)}"


def _is_meant(name: str, segment: str) -> bool:
    """As in a shell: hidden files are named, not matched."""
    return not name.startswith(".") or segment.startswith(".")


def _written(name: str, quoted: bool) -> str:
    return quote(name) if quoted else name
