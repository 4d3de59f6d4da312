"""Friend trees: further columns of the same events, kept in other files.

As ROOT's ``AddFriend``, events are matched by their number and by nothing else. Invariant: all trees have the same
number of entries; where they do not, which event belongs to which cannot be known, and nothing is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from mlaas4hep.data.places import kind_of
from mlaas4hep.data.source import ColumnInfo, Source, Texts, check_asked, cut_reads, text_of
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Column


class FriendSource:
    """Columns of a tree and of its friends, by the clusters of the tree.

    A column of a friend is asked for by its own name, or by ``friend.column``. Where the tree has a column of that
    name, the tree's is meant; where several friends have it, it must be asked for by ``friend.column``.

    Parameters
    ----------
    main
        The tree; closed with this source, as its friends are.
    friends
        By the name that goes before the point.

    Raises
    ------
    DataError
        A friend has another number of entries. Nothing is closed then.
    """

    def __init__(self, main: Source, friends: Mapping[str, Source]) -> None:
        for name, one in friends.items():
            if one.num_entries != main.num_entries:
                raise DataError(
                    f"{one.path}, tree '{one.tree}': has {one.num_entries} entries and cannot be friend '{name}' of "
                    f"{main.path}, tree '{main.tree}', which has {main.num_entries}"
                )
        self.path = main.path
        self.identity = "+".join([main.identity, *(one.identity for one in friends.values())])
        self.tree = main.tree
        self.num_entries = main.num_entries
        self.clusters = main.clusters
        self._main = main
        self._friends = dict(friends)
        self._places: dict[str, tuple[Source, str]] = {}
        self.columns: Mapping[str, ColumnInfo] = self._join()

    def read(self, names: Sequence[str], entry_start: int, entry_stop: int) -> dict[str, Column]:
        """See `mlaas4hep.data.source.Source.read`; each tree is read once."""
        check_asked(self, names, entry_start, entry_stop)
        found: dict[str, Column] = {}
        for source in self._sources():
            own = self._own(names, source)
            read = source.read(list(dict.fromkeys(own.values())), entry_start, entry_stop) if own else {}
            found.update({name: read[column] for name, column in own.items()})
        return {name: found[name] for name in names}

    @cached_property
    def texts(self) -> frozenset[str]:
        """See `mlaas4hep.data.source.Texts.texts`."""
        having = {id(one): frozenset(one.texts) for one in self._sources() if isinstance(one, Texts)}
        return frozenset(name for name, (one, column) in self._places.items() if column in having.get(id(one), ()))

    def read_text(self, name: str, entry_start: int, entry_stop: int) -> NDArray[Any]:
        """See `mlaas4hep.data.source.Texts.read_text`."""
        source, column = self._places.get(name, (self._main, name))
        return text_of(source).read_text(column, entry_start, entry_stop)

    def cut(self, names: Sequence[str], entry_start: int, entry_stop: int, max_bytes: int) -> list[int]:
        """See `mlaas4hep.data.source.Divisible.cut`; each tree has its share of the bytes."""
        asked = [(source, list(self._own(names, source).values())) for source in self._sources()]
        sharing = [(source, own) for source, own in asked if own]
        bounds = {entry_start, entry_stop}
        for source, own in sharing:
            bounds.update(cut_reads(source, own, entry_start, entry_stop, max_bytes=max_bytes // len(sharing)))
        return sorted(bounds)

    def close(self) -> None:
        """See `mlaas4hep.data.source.Source.close`."""
        for source in self._sources():
            source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _sources(self) -> list[Source]:
        return [self._main, *self._friends.values()]

    def _own(self, names: Sequence[str], source: Source) -> dict[str, str]:
        """Names asked for that a source has, with what it calls them itself."""
        return {name: self._places[name][1] for name in names if self._places[name][0] is source}

    def _join(self) -> dict[str, ColumnInfo]:
        columns = dict(self._main.columns)
        self._places = {name: (self._main, name) for name in columns}
        owners: dict[str, list[str]] = {}
        for friend, source in self._friends.items():
            for name in source.columns:
                owners.setdefault(name, []).append(friend)
        for name, having in owners.items():
            if name not in self._main.columns:
                columns[name] = self._plain(name, having)
        for friend, source in self._friends.items():
            for name, info in source.columns.items():
                columns.setdefault(f"{friend}.{name}", _renamed(info, f"{friend}.{name}"))
                self._places.setdefault(f"{friend}.{name}", (source, name))
        return columns

    def _plain(self, name: str, having: Sequence[str]) -> ColumnInfo:
        """A column by its own name, which must say whose it is where several friends have it."""
        source = self._friends[having[0]]
        if len(having) > 1:
            choice = " or ".join(f"'{friend}.{name}'" for friend in having)
            return ColumnInfo(
                name, None, source.columns[name].description, f"{len(having)} friends have it; ask for {choice}"
            )
        self._places[name] = source, name
        return source.columns[name]


def _renamed(info: ColumnInfo, name: str) -> ColumnInfo:
    return ColumnInfo(name, info.type, info.description, info.reason)


def match_friends(files: Sequence[str], friends: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Which friend files belong to each file, by position.

    Parameters
    ----------
    files
        Files of a sample, as they were found.
    friends
        Addresses of friends: each names as many files as the sample has, and is a friend; or all of them together name
        as many, and are one friend.

    Returns
    -------
    The friends of each file, in the order of ``friends``.

    Raises
    ------
    DataError
        Numbers of files that fit neither way, or files that are not there.
    """
    found = [kind_of(address).expand(address) for address in friends]
    if all(len(one) == len(files) for one in found):
        return tuple(zip(*found, strict=True)) if found else ((),) * len(files)
    together = [file for one in found for file in one]
    if len(together) == len(files):
        return tuple((file,) for file in together)
    counts = ", ".join(f"{len(one)} of {address}" for address, one in zip(friends, found, strict=True))
    raise DataError(f"friends: {len(files)} files need as many friend files each, found {counts}")
