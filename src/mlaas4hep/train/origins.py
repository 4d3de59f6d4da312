"""The files of a training, told so that another machine can find them again and say whether they are the same.

A file is known by its bytes (`mlaas4hep.data.contents`). Invariant: no folder of this machine is named, and no
credential.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import msgspec

from mlaas4hep.config.addresses import is_address, shown
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.contents import identity_of
from mlaas4hep.data.entries import FileEntry
from mlaas4hep.errors import DataError

_AT_ONCE = 8


class Origin(msgspec.Struct, frozen=True):
    """One file.

    Parameters
    ----------
    sample, index
        Whose it is, and its place among the files of the sample.
    path
        An address, or the path below the folder that holds all local files of the training.
    tree, entries
        What was read, and all entries of it.
    bytes, identity
        Its size, and ``sha256:...`` of all bytes or ``sampled-sha256:...`` of some; None where the bytes could not be
        read again.
    friends
        Paths of the files whose trees stood beside it, with their identities.
    """

    sample: str
    index: int
    path: str
    tree: str
    entries: int
    bytes: int | None = None
    identity: str | None = None
    friends: tuple[tuple[str, str | None], ...] = ()


def origins_of(catalogue: Catalogue, *, progress: Callable[[int], None] = lambda _: None) -> tuple[Origin, ...]:
    """Every file of a catalogue; one that cannot be read at this moment has no identity.

    Parameters
    ----------
    catalogue
        All files, opened.
    progress
        Called with 1 for each file.
    """
    short = Shortened(path for file in catalogue.files for path in (file.path, *_friends(file)))

    def told(file: FileEntry) -> Origin:
        size, identity = _known(file.path, file.replicas)
        friends = tuple((short(one), _known(one)[1]) for one in _friends(file))
        progress(1)
        name, entries = catalogue.samples[file.sample].name, file.tree_entries or file.num_entries
        return Origin(name, file.index, short(file.path), file.tree, entries, size, identity, friends)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return tuple(pool.map(told, catalogue.files))


def _friends(file: FileEntry) -> tuple[str, ...]:
    return () if file.opening is None else file.opening.friends


def _known(path: str, replicas: Sequence[str] = ()) -> tuple[int | None, str | None]:
    try:
        return identity_of(path, replicas)
    except DataError:
        return None, None  # the stream says what is wrong with a file that it needs; here it only has no identity


class Shortened:
    """Paths without the folder that holds all that are local; addresses without credentials.

    Examples
    --------
    >>> short = Shortened(["/eos/me/2022/a.root", "/eos/me/2023/a.root", "https://me:word@host/b.root"])
    >>> short("/eos/me/2023/a.root"), short("https://me:word@host/b.root")
    ('2023/a.root', 'https://host/b.root')
    """

    def __init__(self, paths: Iterable[str]) -> None:
        folders = {os.path.dirname(_absolute(one)) for one in map(_plain, paths) if not is_address(one)}
        self._above = os.path.commonpath(folders) if folders else "/"

    def __call__(self, path: str) -> str:
        plain = _plain(path)
        if is_address(plain):
            return shown(plain)
        return PurePosixPath(os.path.relpath(_absolute(plain), self._above)).as_posix()


def _plain(path: str) -> str:
    return path.removeprefix("file://")


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))
