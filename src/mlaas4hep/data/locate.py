"""Paths and globs to files.

`locate` is the first step of every command that takes files. Invariant: the files come in a fixed order (as given, each
glob sorted), each once, however it was spelled; what finds nothing is an error, never an empty list.
"""

from __future__ import annotations

from collections.abc import Iterable

from mlaas4hep.data.places import kind_of
from mlaas4hep.errors import DataError


def locate(patterns: Iterable[str]) -> tuple[str, ...]:
    """Files behind paths and globs.

    Parameters
    ----------
    patterns
        Local paths, globs (``*``, ``?``, ``[...]``, ``**``), or folders (all their ``.root`` files). A path that
        exists is taken as it stands, also where it holds glob characters.

    Returns
    -------
    Paths in the order given, those of a glob or folder sorted; a file named twice comes once.

    Raises
    ------
    DataError
        With one line for each pattern that finds nothing.
    """
    found, problems = search(patterns)
    if problems:
        raise DataError("\n".join(problems))
    return found


def search(patterns: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Like `locate`, but gives the files that there are, and one line for each pattern that finds nothing."""
    found: dict[object, str] = {}
    problems: list[str] = []
    for pattern in patterns:
        try:
            for path in kind_of(pattern).expand(pattern):
                found.setdefault(file_key(path), path)
        except DataError as error:
            problems.append(str(error))
    return tuple(found.values()), tuple(problems)


def file_key(path: str) -> object:
    """Equal for every spelling of, and every link to, one file."""
    return kind_of(path).key(path)
