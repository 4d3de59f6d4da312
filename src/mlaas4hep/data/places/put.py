"""Whole files to other places: XRootD, WebDAV, S3, and whatever else fsspec can write to.

A file goes under a hidden name first where the place can rename (XRootD, WebDAV, fsspec); an object of S3 appears when
it is whole. Invariant: under the name that was asked for lies nothing, what was there before, or the whole file.
"""

from __future__ import annotations

from pathlib import Path

from mlaas4hep.config.addresses import shown
from mlaas4hep.data.places import open_place
from mlaas4hep.errors import DataError


def has_file(url: str) -> bool:
    """Whether there is a file at an address."""
    try:
        open_place(url).close()
    except DataError as error:
        if "no such file" in str(error):
            return False
        raise
    return True


def put_file(path: Path, url: str) -> None:
    """Copy a file of this machine to an address.

    Raises
    ------
    DataError
        The place cannot be written to.
    """
    raise DataError(f"{shown(url)}: cannot be written yet; give a folder of this machine")
