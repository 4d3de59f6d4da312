"""What tokens grant, and whether that is enough: scopes of OAuth 2.0 with the paths of the WLCG profile.

Invariant: a path covers itself and what lies below it, piece by piece; ``/models/a`` never covers ``/models/ab``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote

# By the profile these hold what the others hold, and more.
_WIDER = {"storage.create": ("storage.modify",), "storage.read": ("storage.stage",)}
_WORD = re.compile(r"[\x21\x23-\x39\x3b-\x5b\x5d-\x7e]+")


class Scope(NamedTuple):
    """One thing that is granted: a word, and where it holds; everywhere without a path."""

    name: str
    path: str | None = None

    def __str__(self) -> str:
        return self.name if self.path is None else f"{self.name}:{self.path}"


def parse_scope(text: str) -> Scope:
    """A scope from its text.

    Raises
    ------
    ValueError
        It is none: not a word of RFC 6749, a path that is not absolute or not normalised, or one of WLCG's storage
        scopes without the path that the profile demands.

    Examples
    --------
    >>> parse_scope("compute.read"), parse_scope("storage.read:/models/tth")
    (Scope(name='compute.read', path=None), Scope(name='storage.read', path='/models/tth'))
    """
    name, colon, path = text.partition(":")
    if colon and not path.startswith("/"):
        name, colon, path = text, "", ""  # a word with a colon, such as urn:example:read
    if not _WORD.fullmatch(name.replace(":", "")):
        raise ValueError(f"'{text}' is not a scope")
    if name.startswith("storage.") and not colon:
        raise ValueError(f"'{text}' lacks the path that the WLCG profile demands, such as {text}:/")
    return Scope(name, _normal(path, text) if colon else None)


def covers(held: Iterable[Scope], wanted: Scope) -> bool:
    """Whether some of what is held grants what is wanted.

    Examples
    --------
    >>> covers([Scope("storage.read", "/models")], Scope("storage.read", "/models/tth"))
    True
    >>> covers([Scope("storage.read", "/models/t")], Scope("storage.read", "/models/tth"))
    False
    """
    names = (wanted.name, *_WIDER.get(wanted.name, ()))
    return any(one.name in names and _reaches(one.path, wanted.path) for one in held)


def _reaches(held: str | None, wanted: str | None) -> bool:
    if held is None:
        return True
    if wanted is None:
        return False
    return wanted == held or wanted.startswith(held if held.endswith("/") else held + "/")


def _normal(path: str, text: str) -> str:
    """A path with its escapes resolved; what is not normalised could mean another one, so it is refused."""
    found = unquote(path, errors="strict")
    pieces = found.removesuffix("/").split("/")[1:]
    if any(piece in ("", ".", "..") for piece in pieces) or "\0" in found:
        raise ValueError(f"the path of '{text}' is not normalised")
    return found
