"""Where bytes lie: a `Place` is one file that gives any range of its bytes, local or far away.

The kinds register by the scheme of their addresses under the entry-point group ``mlaas4hep.places``; a new one is a
module and a line there. Every file format reads through a place, so each format can be read from each place.
Invariant: a place gives the bytes asked for, all of them, or raises `DataError`; its identity changes with its content.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Protocol, runtime_checkable

from mlaas4hep.arguments import text_path
from mlaas4hep.config.addresses import shown
from mlaas4hep.errors import DataError, nearest

GROUP = "mlaas4hep.places"
LOCAL = "file"
XROOTD_SCHEMES = ("root", "roots", "xroot", "xroots")
_WEB, _XROOTD = "mlaas4hep.data.places.http:HttpFiles", "mlaas4hep.data.places.xrootd:XRootDFiles"
_BUILT_IN = {
    LOCAL: "mlaas4hep.data.places.local:LocalFiles",
    **dict.fromkeys(("http", "https", "dav", "davs"), _WEB),
    **dict.fromkeys(XROOTD_SCHEMES, _XROOTD),
    "s3": "mlaas4hep.data.places.s3:S3Files",
}
# Whatever is not listed above, as far as fsspec knows it.
_OTHERS = "mlaas4hep.data.places.filesystems:FileSystems"

Buffer = bytes | bytearray | memoryview


@runtime_checkable
class Place(Protocol):
    """One file. May be shared by threads."""

    url: str
    """As it is named in messages: never with credentials."""
    size: int
    """Bytes."""
    identity: str
    """Differs whenever the content may differ: size, time of change and number of the file, or its entity tag."""

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
        """Bytes from ``start`` to ``stop`` (excluded) of each range, in the order asked for.

        Raises
        ------
        DataError
            The file cannot be read, or ends before a range does.
        """
        ...

    def close(self) -> None:
        """Give the file back; reading after that is an error."""
        ...


@runtime_checkable
class ReadsInto(Protocol):
    """A place at hand, where a read costs no request, that can read into memory of the caller: optional."""

    def expect(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Ranges that will be read soon: what lies on a slow disk may be fetched meanwhile."""
        ...

    def read_into(self, start: int, target: memoryview) -> None:
        """As many bytes as ``target`` has, from ``start`` on; raises what `Place.read` does."""
        ...


class PlaceKind(Protocol):
    """What one scheme of addresses can do."""

    def open(self, url: str) -> Place:
        """Open one file.

        Raises
        ------
        DataError
            There is no such file, it may not be read, or nobody answers.
        """
        ...

    def expand(self, pattern: str) -> tuple[str, ...]:
        """Files behind an address that names one, a folder, or several by wild cards; sorted.

        Raises
        ------
        DataError
            Nothing is found, with the nearest that is.
        """
        ...

    def key(self, url: str) -> object:
        """Equal for every spelling of one file."""
        ...


def scheme_of(url: str) -> str:
    """``root`` of ``root://host//path``; ``file`` of a plain path."""
    scheme, found, _ = url.partition("://")
    return scheme.lower() if found else LOCAL


@cache  # asking what is installed takes as long as opening a file
def place_kinds() -> Mapping[str, str]:
    """Known schemes, and where their kinds are: built-in ones and those of installed packages."""
    return {**{entry.name: entry.value for entry in entry_points(group=GROUP)}, **_BUILT_IN}


def kind_of(url: str) -> PlaceKind:
    """The kind for an address.

    Raises
    ------
    DataError
        Nothing is known for its scheme.
    """
    scheme, known = scheme_of(url), place_kinds()
    place = known.get(scheme)
    if place is None:
        from mlaas4hep.data.places.filesystems import fsspec_schemes

        others = fsspec_schemes()
        if scheme not in others:
            raise DataError(f"{shown(url)}: nothing is known for {scheme}://{_nearest_scheme(scheme, known, others)}")
        place = _OTHERS
    module, _, attribute = place.partition(":")
    kind: PlaceKind = getattr(importlib.import_module(module), attribute)()
    return kind


def _nearest_scheme(scheme: str, known: Iterable[str], others: Iterable[str]) -> str:
    """What files lie behind most often is guessed first: fsspec knows dozens of names of all kinds."""
    ours = [one for one in known if one != LOCAL]
    hint = nearest(scheme, ours, count=1)
    if "did you mean" not in hint:
        hint = nearest(scheme, sorted(others), count=1)
    return hint or f"; known are {', '.join(f'{one}://' for one in sorted(ours))} and what fsspec knows"


# In memory alone, and of this process alone: names of files whose addresses carry credentials.
_with_credentials: dict[str, str] = {}


def remember(address: str) -> str:
    """The name of an address as it may be shown; opening that name in this process opens the address."""
    name = shown(address)
    if name != address:
        _with_credentials[name] = address
    return name


def open_place(url: str, *, replicas: Sequence[str] = ()) -> Place:
    """Open a file wherever it lies.

    Parameters
    ----------
    url
        Its path or address.
    replicas
        Addresses of this file, asked in that order where one before does not answer; by default ``url`` alone.

    Raises
    ------
    DataError
        There is no such file, it may not be read, nobody answers, or nothing is known for its scheme.
    """
    url = text_path(url, "path", error=DataError)
    if len(replicas) < 2:
        address = replicas[0] if replicas else _with_credentials.get(url, url)
        return kind_of(address).open(address)
    from mlaas4hep.data.places.remote import RemoteKind, replica_of
    from mlaas4hep.data.places.steady import SteadyPlace

    kinds = [(one, kind_of(one)) for one in replicas]
    return SteadyPlace(
        [kind.replica(one) if isinstance(kind, RemoteKind) else replica_of(one, kind.open) for one, kind in kinds]
    )
