"""Finds pickles by content, whatever a file is called: no model file is ever unpickled, so none is stored either.

Covers plain pickles of every protocol (joblib, old torch files), zip archives that hold one (torch files), and numpy
files of objects. Looks at bytes, headers and opcodes only; nothing is executed. Invariant: every content has an answer,
and what cannot be looked into (a damaged or locked archive) counts as one that may hold a pickle.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
import zlib

import numpy as np

_NPY = b"\x93NUMPY"
# A pickle of protocol 0 or 1 is told from text by its opcodes up to this many bytes.
_LOOKED_AT = 64 << 10
_IMPORTS = frozenset({"GLOBAL", "INST"})
_CALLS = frozenset({"REDUCE", "INST", "OBJ", "BUILD", "NEWOBJ", "NEWOBJ_EX"})


def holds_pickle(data: bytes) -> bool:
    """Whether reading this file the usual way would, or may, execute a pickle."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        return _zip_holds_pickle(data)
    return _is_pickle(data)


def _zip_holds_pickle(data: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any(_is_pickle(_first_bytes(archive, name)) for name in archive.namelist())
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError):
        return True  # damaged, encrypted, or packed in a way that is not known here: nobody can say what is in it


def _first_bytes(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as member:
        return member.read(_LOOKED_AT)


def _is_pickle(data: bytes) -> bool:
    if data.startswith(_NPY):
        return _has_objects(data)
    if len(data) >= 2 and data[0] == 0x80 and 1 <= data[1] <= 5:
        return True
    return _has_opcodes(data[:_LOOKED_AT])


def _has_opcodes(data: bytes) -> bool:
    """Whether the first bytes are a pickle of protocol 0 or 1, which have no magic number.

    True where they are opcodes up to a STOP that leave one value, where an import is called before anything fails, and
    where opcodes go on for as far as we look. Text and JSON end at once, at what is no opcode.
    """
    last, imported = 0, False
    try:
        for opcode, operand, position in pickletools.genops(data):
            last = position or 0
            imported = imported or (opcode.name in _IMPORTS and _is_import(operand))
            if imported and opcode.name in _CALLS:
                return True
    except Exception:  # genops raises whatever its readers do: ValueError, UnicodeDecodeError, IndexError, struct.error
        return len(data) == _LOOKED_AT and last > _LOOKED_AT // 2
    return _leaves_one_value(data)


def _is_import(operand: object) -> bool:
    """Whether ``module name`` can be one: 'class A:' in a source file reads as the opcode 'c' with 'lass A:'."""
    parts = str(operand).split(" ")
    return len(parts) == 2 and all(part.isidentifier() for name in parts for part in name.split("."))


def _leaves_one_value(data: bytes) -> bool:
    try:
        pickletools.dis(data, out=io.StringIO())
    except Exception:  # as above, and a stack that does not hold what an opcode takes
        return False
    return True


def _has_objects(data: bytes) -> bool:
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        dtype = read(stream)[2]
    except (ValueError, EOFError, UnicodeDecodeError):
        return True  # cut off or of another version
    return bool(dtype.hasobject)
