"""Paths, addresses, wild cards and lists of files to files.

`locate` is the first step of every command that takes files. Invariant: the files come in a fixed order (as given, each
glob sorted), each once, however it was spelled; what finds nothing is an error, never an empty list.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from mlaas4hep.arguments import text_paths
from mlaas4hep.config.addresses import is_address, secrets_in, shown
from mlaas4hep.data.places import XROOTD_SCHEMES, kind_of, open_place, remember, scheme_of
from mlaas4hep.data.places.endings import is_list
from mlaas4hep.errors import DataError

_MOST_LIST_BYTES = 64 * 1024 * 1024
_COMMENT = re.compile(r"(^|\s)#.*$")
_WILD = re.compile(r"[*\[]")


@dataclass(frozen=True)
class Located:
    """One file.

    Parameters
    ----------
    path
        Its name in messages and reports, without credentials.
    replicas
        Addresses to read it from, in the order in which they are asked; empty where that is ``path`` alone.
    """

    path: str
    replicas: tuple[str, ...] = field(default=(), repr=False)


def locate(patterns: Iterable[str]) -> tuple[str, ...]:
    """Files behind paths, addresses and globs.

    Parameters
    ----------
    patterns
        Local paths or addresses (``root://...``), globs (``*``, ``?``, ``[...]``, ``**``), folders (all their files
        with the ending of a format), or text files with one of those a line. A path that exists is taken as it stands,
        also where it holds glob characters.

    Returns
    -------
    Paths in the order given, those of a glob or folder sorted; a file named twice comes once.

    Raises
    ------
    DataError
        With one line for each pattern that finds nothing.
    """
    found, problems = search(text_paths(patterns, "patterns", error=DataError))
    if problems:
        raise DataError("\n".join(problems))
    return tuple(one.path for one in found)


def search(
    patterns: Iterable[str | Sequence[str]], *, redirectors: Sequence[str] = ()
) -> tuple[tuple[Located, ...], tuple[str, ...]]:
    """Like `locate`, but gives the files that there are, and one line for each pattern that finds nothing.

    Parameters
    ----------
    patterns
        As for `locate`; a list in it holds addresses of one and the same file.
    redirectors
        Where files lie whose absolute path is not found on this machine, such as ``root://cms-xrd-global.cern.ch``;
        several are asked one after the other.
    """
    found: dict[object, Located] = {}
    problems: list[str] = []
    for pattern in patterns:
        try:
            for one in _files(pattern, redirectors):
                found.setdefault(file_key(one.path, one.replicas), one)
        except DataError as error:
            problems.append(str(error))
    return tuple(found.values()), tuple(problems)


def file_key(path: str, replicas: Sequence[str] = ()) -> object:
    """Equal for every spelling of, and every link to, one file; for a file with replicas, in whatever order."""
    if not replicas:
        return kind_of(path).key(path)
    return min((_key_of_replica(one) for one in replicas), key=repr)


def _key_of_replica(address: str) -> object:
    """A replica on this machine may be missing, as long as another is there."""
    if is_address(address) or os.path.exists(address):
        return kind_of(address).key(address)
    return "missing", os.path.abspath(address)


def _files(pattern: str | Sequence[str], redirectors: Sequence[str]) -> Iterator[Located]:
    if not isinstance(pattern, str):
        yield _with_replicas(pattern)
        return
    for one in _expand(pattern, redirectors):
        if is_list(one.path):
            yield from _listed(one, redirectors)
        else:
            yield one


def _expand(pattern: str, redirectors: Sequence[str]) -> list[Located]:
    if not (redirectors and os.path.isabs(pattern)):
        return [_located([one]) for one in kind_of(pattern).expand(pattern)]
    try:
        return [_located([one]) for one in kind_of(pattern).expand(pattern)]
    except DataError as error:
        return _redirected(pattern, redirectors, error)


def _redirected(path: str, redirectors: Sequence[str], not_here: DataError) -> list[Located]:
    """``/store/a.root`` at ``root://host`` is ``root://host//store/a.root``; wild cards are asked of the first."""
    behind = [_joined(one, path) for one in redirectors]
    try:
        names = kind_of(behind[0]).expand(behind[0])
    except DataError as error:
        raise DataError(f"{not_here}; nor is it found through the redirector: {error}") from error
    base = behind[0].removesuffix(path)
    return [_located([one, *(_joined(other, one.removeprefix(base)) for other in redirectors[1:])])
            for one in names]  # fmt: skip


def _joined(redirector: str, path: str) -> str:
    """Absolute paths stand behind two slashes in addresses of XRootD."""
    slash = "/" if scheme_of(redirector) in XROOTD_SCHEMES else ""
    return f"{redirector.rstrip('/')}{slash}{path}"


def _with_replicas(addresses: Sequence[str]) -> Located:
    for one in addresses:
        if is_list(one) or (_WILD.search(one) and not os.path.exists(one)):
            raise DataError(f"{shown(one)}: a list of replicas names one file, without wild cards and text files")
        kind_of(one)
    return _located(addresses)


def _located(addresses: Sequence[str]) -> Located:
    first = addresses[0]
    plain = len(addresses) == 1 and not any(secrets_in(first))
    return Located(remember(first), () if plain else tuple(addresses))


def _listed(one: Located, redirectors: Sequence[str]) -> Iterator[Located]:
    """Files named in a text file; relative paths start at its folder."""
    address = one.replicas[0] if one.replicas else one.path
    for number, line in _lines(address):
        where = f"{one.path}, line {number}"
        pattern = _from_folder(line, address)
        if is_list(pattern):
            raise DataError(f"{where}: {shown(line)}: a list of files inside a list is not read")
        try:
            yield from _expand(pattern, redirectors)
        except DataError as error:
            raise DataError(f"{where}: {error}{_as_it_stands(line)}") from error


def _lines(address: str) -> list[tuple[int, str]]:
    place = open_place(address)
    try:
        if place.size > _MOST_LIST_BYTES:
            raise DataError(f"{place.url}: has {place.size} bytes, too many for a list of files")
        text = bytes(place.read([(0, place.size)])[0]).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{place.url}: is no list of files: no text at byte {error.start}") from error
    finally:
        place.close()
    lines = [(number, _COMMENT.sub("", line).strip()) for number, line in enumerate(text.splitlines(), 1)]
    kept = [(number, line) for number, line in lines if line]
    if not kept:
        raise DataError(f"{place.url}: is a list of files without a file in it")
    return kept


def _from_folder(line: str, address: str) -> str:
    path = os.path.expandvars(line)
    if is_address(path):
        return path
    path = os.path.expanduser(path)
    return path if os.path.isabs(path) else f"{address.rpartition('/')[0] or '.'}/{path}"


def _as_it_stands(line: str) -> str:
    """A list made elsewhere may mean its paths from there: told, not guessed."""
    if not is_address(line) and not os.path.isabs(line) and os.path.exists(line):
        return " (paths in a list start at the folder of the list; from the working directory it is there)"
    return ""
