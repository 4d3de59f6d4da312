"""Paths and globs to files.

`locate` is the first step of every command that takes files. Invariant: the files come in a fixed order (as given, each
glob sorted), each once, however it was spelled; what finds nothing is an error, never an empty list.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from mlaas4hep.errors import DataError, nearest


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
    found: dict[tuple[int, int], str] = {}
    problems: list[str] = []
    for pattern in patterns:
        for path in _expand(pattern, problems):
            found.setdefault(file_key(path), path)
    return tuple(found.values()), tuple(problems)


def file_key(path: str) -> tuple[int, int]:
    """Device and inode: the same for every spelling of, and every link to, one file."""
    try:
        status = Path(path).stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be opened: {error.strerror}") from error
    return status.st_dev, status.st_ino


def _expand(pattern: str, problems: list[str]) -> list[str]:
    if "://" in pattern:
        problems.append(f"{pattern}: remote files are not read by this version yet; copy it here first")
        return []
    path = os.path.expanduser(pattern)
    if Path(path).is_dir():
        files = sorted(str(one) for one in Path(path).glob("*.root"))
        if not files:
            problems.append(f"{pattern}: is a folder without .root files")
        return files
    if Path(path).exists():
        return [path]
    if not glob.has_magic(path):
        problems.append(f"{pattern}: no such file{_alternatives(Path(path))}")
        return []
    files = sorted(one for one in glob.glob(path, recursive=True) if Path(one).is_file())
    if not files:
        problems.append(f"{pattern}: matches no file{_alternatives(_fixed_part(path))}")
    return files


def _fixed_part(pattern: str) -> Path:
    """The part of a glob before its first wild card, with a name that cannot exist behind it."""
    parts = Path(pattern).parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[: fixed + 1])


def _alternatives(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        while not folder.is_dir() and folder != folder.parent:
            folder = folder.parent
        return f" (the folder {path.parent} does not exist; {folder} does)"
    return nearest(path.name, sorted(one.name for one in folder.iterdir()), count=3)
