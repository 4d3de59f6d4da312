"""Columns of several files, told apart: what all have, of one kind, and what only some have, or have otherwise.

Invariant: every column of every file is here; one that cannot be taken from all of them has a reason that names a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mlaas4hep.data.source import ColumnInfo
from mlaas4hep.errors import some_files


class SharedColumns:
    """Gathers the columns of files one after the other.

    Attributes
    ----------
    infos
        By name, as the first file has it that has it; in the order of the files.
    """

    def __init__(self) -> None:
        self.infos: dict[str, ColumnInfo] = {}
        self._first: dict[str, str] = {}
        self._others: dict[str, str] = {}
        self._lacking: dict[str, list[str]] = {}
        self._paths: list[str] = []

    def add(self, path: str, columns: Mapping[str, ColumnInfo]) -> None:
        """Add those of one file."""
        for name in columns.keys() - self.infos.keys():
            if self._paths:
                self._lacking[name] = list(self._paths)
        for name, info in columns.items():
            known = self.infos.setdefault(name, info)
            self._first.setdefault(name, path)
            if _kind(known) != _kind(info):
                unread = " (cannot be read)" if info.type is None else ""
                self._others.setdefault(
                    name, f"is {known.description} in {self._first[name]}, {info.description} in {path}{unread}"
                )
        for name in self.infos.keys() - columns.keys():
            self._lacking.setdefault(name, []).append(path)
        self._paths.append(path)

    def readable(self) -> Iterator[str]:
        """Names of those that all files have, of one kind."""
        return (name for name in self.infos if self.reason(name) is None)

    def is_partial(self, name: str) -> bool:
        """Whether a column can be read, but not from all files, or not as one kind."""
        return self.infos[name].type is not None and self.reason(name) is not None

    def reason(self, name: str) -> str | None:
        """Why a column cannot be read from all files; None where it can."""
        if name in self._lacking:
            return f"not in {some_files(self._lacking[name])}, but in {self._first[name]}"
        return self.infos[name].reason if self.infos[name].type is None else self._others.get(name)


def _kind(info: ColumnInfo) -> str | None:
    return None if info.type is None else info.type.kind
