"""What a caller in Python hands over: of the kind that was asked for, or an error that says what it is instead.

Configs and the command line are checked where they are read; these are for functions that users call themselves, at
their beginning. Invariant: what passes is what the annotation says, and nothing else is let through in silence.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlaas4hep.errors import UserError, nearest

_LONGEST = 60


def require(value: object, kind: type, name: str, *, hint: str = "", error: type[UserError] = UserError) -> None:
    """Refuse what is not of a kind.

    Parameters
    ----------
    value
        What was given.
    kind
        A class.
    name
        What it is called there.
    hint
        How one is made.
    error
        What is raised.

    Examples
    --------
    >>> require(3, dict, "events", hint="one mapping an event")
    Traceback (most recent call last):
    ...
    mlaas4hep.errors.UserError: events must be a dict, got 3; one mapping an event
    """
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOUaeiou" else "a"
        raise error(f"{name} must be {article} {kind.__name__}, got {as_found(value)}{f'; {hint}' if hint else ''}")


def whole(value: Any, name: str, *, least: int = 0, most: int | None = None, error: type[UserError] = UserError) -> int:
    """A whole number of Python's own, from one of Python or numpy.

    Examples
    --------
    >>> whole(-1, "epoch")
    Traceback (most recent call last):
    ...
    mlaas4hep.errors.UserError: epoch must be a whole number of at least 0, got -1
    """
    number = None
    if not isinstance(value, bool):  # True would be 1
        with suppress(TypeError):
            number = operator.index(value)
    if number is None or number < least or (most is not None and number > most):
        allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise error(f"{name} must be a whole number {allowed}, got {as_found(value)}")
    return number


def word(value: Any, name: str, known: Collection[Any], *, error: type[UserError] = UserError) -> None:
    """Refuse what is none of some words, with the nearest of them."""
    # By kind, too: an array is equal to nothing, and 1 is not True.
    if not any(type(value) is type(one) and value == one for one in known):
        near = nearest(str(value), [one for one in known if isinstance(one, str)]) if isinstance(value, str) else ""
        shown = near if "did you mean" in near else ""
        raise error(f"{name}={as_found(value)} is none of {', '.join(map(repr, known))}{shown}")


def path_of(value: Any, name: str, *, error: type[UserError] = UserError) -> Path:
    """A path, from text or what stands for a path."""
    return Path(text_path(value, name, error=error))


def text_path(value: Any, name: str, *, error: type[UserError] = UserError) -> str:
    """The same as text: addresses stay as they are."""
    if not isinstance(value, str | os.PathLike):
        raise error(f"{name} must be a path, got {as_found(value)}")
    path = os.fspath(value)
    return path if isinstance(path, str) else os.fsdecode(path)


def text_paths(values: Any, name: str, *, error: type[UserError] = UserError) -> list[str]:
    """Several of those; one alone is a list of one, and not one of letters."""
    if isinstance(values, str | os.PathLike):
        return [text_path(values, name, error=error)]
    if not isinstance(values, Iterable):
        raise error(f"{name} must be paths, got {as_found(values)}")
    return [text_path(one, f"each of {name}", error=error) for one in values]


def names_of(values: Any, name: str, *, error: type[UserError] = UserError) -> Sequence[str]:
    """Refuse what is no list of names; one name alone would be taken for its letters."""
    if isinstance(values, str):
        raise error(f"{name} must be a list of names, got {values!r}; write [{values!r}]")
    if not isinstance(values, Iterable):
        raise error(f"{name} must be a list of names, got {as_found(values)}")
    listed = list(values)
    for one in listed:
        if not isinstance(one, str):
            raise error(f"{name} must be a list of names, and one of them is {as_found(one)}")
    return listed


def as_found(value: object) -> str:
    """A value in few words: what it is, where that does not show.

    Examples
    --------
    >>> as_found("x"), as_found(-1), as_found(2.5), as_found(None), as_found([1, 2]), as_found({}), as_found(Path("a"))
    ("'x'", '-1', '2.5', 'None', 'a list of 2', 'a dict of 0', 'a PosixPath')
    """
    if value is None or isinstance(value, str | bool | int | float):
        text = repr(value)
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
    kind = type(value).__name__
    article = "an" if kind[0] in "AEIOUaeiou" else "a"
    size = f" of {len(value)}" if isinstance(value, list | tuple | dict | set) else ""
    return f"{article} {kind}{size}"
