"""Finds pickles by content, whatever a file is called: no model file is ever unpickled, so none is stored either.

Covers plain pickles of protocol 1 to 5 (joblib, old torch files), zip archives that hold one (torch files), and numpy
files of objects. Looks at first bytes and headers only; nothing is executed.
"""

from __future__ import annotations

import io
import zipfile

import numpy as np

_NPY = b"\x93NUMPY"


def holds_pickle(data: bytes) -> bool:
    """Whether reading this file the usual way would execute a pickle."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any(_is_pickle(_first_bytes(archive, name)) for name in archive.namelist())
    return _is_pickle(data)


def _first_bytes(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as member:
        return member.read(4096)


def _is_pickle(data: bytes) -> bool:
    if data.startswith(_NPY):
        return _has_objects(data)
    return len(data) >= 2 and data[0] == 0x80 and 1 <= data[1] <= 5


def _has_objects(data: bytes) -> bool:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    dtype = read(stream)[2]
    return bool(dtype.hasobject)
