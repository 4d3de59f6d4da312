"""What to say of a file that is not there: the names nearest to it, or how much of its folder there is.

Invariant: nothing is opened; of a folder only the names are looked at.
"""

from __future__ import annotations

import os
from pathlib import Path

from mlaas4hep.errors import nearest


def nearest_file(path: Path, *, any_ending: bool = False) -> str:
    """Words for the end of a message on a path that does not exist.

    Parameters
    ----------
    path
        That was asked for.
    any_ending
        Whether every file beside it is an alternative; else those with its ending, where there are any.
    """
    folder = path.parent
    if not folder.is_dir():
        while not folder.is_dir() and folder != folder.parent:
            folder = folder.parent
        return f" (the folder {path.parent} does not exist; {folder} does)"
    if not os.access(folder, os.R_OK):
        return ""
    names = sorted(one.name for one in folder.iterdir())
    same = [name for name in names if _ending(Path(name)) == _ending(path)]
    return nearest(path.name, names if any_ending or not same else same)


def _ending(path: Path) -> str:
    """Endings that mean the same are one."""
    return ".yaml" if path.suffix == ".yml" else path.suffix
