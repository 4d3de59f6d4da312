"""Plain values (out of YAML or JSON) into frozen typed ones, with every problem reported at its path.

A config with three mistakes tells all three: `convert` never stops at the first. It walks `msgspec.Struct` classes and
the handful of types that a config is made of. Invariant: a value comes out whole, or a problem went onto the list; what
is left of a faulty value comes out too, so that it can be checked further.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from mlaas4hep.errors import nearest

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


class Invalid:
    """Stands for a value that could not be converted; its problems are on the list."""


INVALID = Invalid()


def convert(value: Any, wanted: Any, path: str, problems: list[str]) -> Any:
    """Bring a plain value to a type.

    Parameters
    ----------
    value
        What YAML or JSON gave.
    wanted
        A `msgspec.Struct` class, ``str``, ``int``, ``float``, ``bool``, ``Any``, ``Literal[...]``, ``X | None``,
        ``tuple[X, ...]``, ``tuple[X, X]`` or ``dict[str, X]``.
    path
        Where the value stands, such as ``samples.ttH.xsec_pb``.
    problems
        Grows by one line a problem.

    Returns
    -------
    The typed value. Where problems were found, what is left without the faulty parts, for further checks; `INVALID`
    where nothing is.
    """
    if wanted is Any:
        return value
    origin = get_origin(wanted)
    if origin is Literal:
        return _convert_literal(value, get_args(wanted), path, problems)
    if origin in (Union, types.UnionType):
        return _convert_union(value, get_args(wanted), path, problems)
    if origin is tuple:
        return _convert_tuple(value, get_args(wanted), path, problems)
    if origin is dict:
        return _convert_dict(value, get_args(wanted)[1], path, problems)
    if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
        return _convert_struct(value, wanted, path, problems)
    return _convert_scalar(value, wanted, path, problems)


def _refuse(value: Any, wanted: str, path: str, problems: list[str]) -> Invalid:
    found = f"{_describe(value)} {_short(value)}"
    if value is None or isinstance(value, bool):
        found = {None: "nothing", True: "true", False: "false"}[value]
    problems.append(f"{path}: wants {wanted}, found {found}")
    return INVALID


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return _WORDS.get(type(value), type(value).__name__)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _convert_scalar(value: Any, wanted: Any, path: str, problems: list[str]) -> Any:
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted is float and isinstance(value, str):
        # YAML 1.1 reads 1e-3 as text: what every physicist types must be a number.
        try:
            return float(value)
        except ValueError:
            return _refuse(value, _WORDS[float], path, problems)
    if wanted is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is wanted:
        return value
    return _refuse(value, _WORDS.get(wanted, str(wanted)), path, problems)


def _convert_literal(value: Any, choices: tuple[Any, ...], path: str, problems: list[str]) -> Any:
    if value in choices:
        return value
    names = [str(choice) for choice in choices]
    hint = nearest(str(value), names, count=1)
    # All of them are named already.
    problems.append(f"{path}: {_short(value)} is none of {', '.join(names)}{hint if 'did you mean' in hint else ''}")
    return INVALID


def _convert_union(value: Any, members: tuple[Any, ...], path: str, problems: list[str]) -> Any:
    if value is None and type(None) in members:
        return None
    kinds = [member for member in members if member not in (type(None), msgspec.UnsetType)]
    if len(kinds) == 1:
        return convert(value, kinds[0], path, problems)
    outer = {tuple: list, dict: Mapping}
    fitting = [kind for kind in kinds if isinstance(value, outer.get(get_origin(kind), Invalid))]
    if len(fitting) == 1:
        return convert(value, fitting[0], path, problems)  # what is wrong stands inside
    for kind in kinds:
        attempt: list[str] = []
        done = convert(value, kind, path, attempt)
        if not attempt:
            return done
    return _refuse(value, " or ".join(_WORDS.get(kind, _words_of(kind)) for kind in kinds), path, problems)


def _words_of(kind: Any) -> str:
    return {tuple: "a list", dict: "a mapping"}.get(get_origin(kind), str(kind))


def _convert_tuple(value: Any, members: tuple[Any, ...], path: str, problems: list[str]) -> Any:
    if not isinstance(value, list | tuple):
        return _refuse(value, "a list", path, problems)
    if members[-1] is not Ellipsis and len(value) != len(members):
        return _refuse(value, f"a list of {len(members)}", path, problems)
    kinds = [members[0]] * len(value) if members[-1] is Ellipsis else list(members)
    done = [
        convert(one, kind, f"{path}[{i}]", problems) for i, (one, kind) in enumerate(zip(value, kinds, strict=True))
    ]
    return tuple(one for one in done if one is not INVALID)


def _convert_dict(value: Any, wanted: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(value, Mapping):
        return _refuse(value, "a mapping", path, problems)
    done = {str(key): convert(one, wanted, f"{path}.{key}", problems) for key, one in value.items()}
    return {key: one for key, one in done.items() if one is not INVALID}


def _convert_struct(value: Any, wanted: type[msgspec.Struct], path: str, problems: list[str]) -> Any:
    if not isinstance(value, Mapping):
        return _refuse(value, "a mapping", path, problems)
    kinds = typing.get_type_hints(wanted)
    fields = {field.name: field for field in msgspec.structs.fields(wanted)}
    prefix = f"{path}." if path else ""
    hints = {str(key): nearest(str(key), fields) for key in value if str(key) not in fields}
    problems.extend(f"{prefix}{key}: unknown key{hint}" for key, hint in hints.items())
    known = {str(key): one for key, one in value.items() if str(key) in fields}
    done = {name: convert(one, kinds[name], f"{prefix}{name}", problems) for name, one in known.items()}
    # A required key that was only misspelled is one mistake, told already.
    misspelled = {name for name in fields for hint in hints.values() if f"did you mean '{name}'" in hint}
    problems.extend(
        f"{prefix}{name}: is required"
        for name, field in fields.items()
        if field.required and name not in known and name not in misspelled
    )
    valid = {name: one for name, one in done.items() if one is not INVALID}
    whole = all(name in valid for name, field in fields.items() if field.required)
    return wanted(**valid) if whole else INVALID
