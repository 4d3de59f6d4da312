"""Files that an operator writes beside a model: YAML to a struct, with every problem in words.

Invariant: a key that is not known, or given twice, is refused: it would be a wish that nobody hears.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from mlaas4hep.errors import BundleError, ConfigError, nearest

T = TypeVar("T", bound=msgspec.Struct)
_MOST = 1 << 20


def load_struct(file: Path, kind: type[T]) -> T:
    """What a file says.

    Raises
    ------
    BundleError
        It is not YAML, lacks a key, has an unknown one, or a value of another kind; the file is named.
    """
    from mlaas4hep.strict_yaml import load_mapping  # brings YAML, which most models do not need

    fields = msgspec.structs.fields(kind)
    known = [field.name for field in fields]
    try:
        found = load_mapping(_text(file), str(file), such_as=", ".join(known[:3]))
    except ConfigError as error:
        raise BundleError(str(error)) from error
    for key in found:
        if key not in known:
            raise BundleError(f"{file}: key '{key}' is none of {', '.join(known)}{nearest(str(key), known)}")
    missing = [field.name for field in fields if field.required and field.name not in found]
    if missing:
        raise BundleError(f"{file}: {', '.join(missing)} must be said: it is not guessed")
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise BundleError(f"{file}: {error}") from error


def _text(file: Path) -> str:
    data = file.read_bytes()
    if len(data) > _MOST:
        raise BundleError(f"{file}: has {len(data)} bytes; at most {_MOST} are read")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BundleError(f"{file}: is no text: {error}") from error
