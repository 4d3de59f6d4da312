"""Every error that the project raises on purpose, sorted by whose fault it is.

::

    MLaaSError
    ├── UserError            the caller can mend it: one message, exit status 2, HTTP 4xx
    │   ├── ConfigError      a config file; carries all of its problems, each with its path
    │   ├── ExpressionError  an expression; points at the character
    │   ├── DataError        files and columns: missing, unreadable, of another kind, empty
    │   │   └── DeclarationError  what the user declared or wrote fails on events that were read well
    │   ├── ModelError       a model by name, its dials, the user's own model file
    │   ├── BundleError      a model on disk: not there, changed, of another version
    │   ├── UploadError      an uploaded model that is refused: what it holds, and a way out
    │   ├── RequestError     a question that does not fit the model's contract (HTTP 400)
    │   ├── NotFoundError    a model or version that is not served (HTTP 404)
    │   ├── TokenError       no token where one is needed, or one that is not good (HTTP 401)
    │   ├── ForbiddenError   a good token that does not grant what is asked (HTTP 403)
    │   └── MissingExtraError  an optional package that the request needs
    ├── BusyError            more is asked than can be answered in time: come back later (HTTP 503)
    ├── ParityError          the exported graph does not give the framework's scores: nothing is written
    ├── IssuerError          who publishes the keys of tokens does not answer: come back later (HTTP 503)
    └── ServerError          the other side of a connection failed (client only)

A message says what was asked, what was found, the nearest alternative, and where.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

# Names that are longer are near to none.
_LONGEST_NAME = 400


class MLaaSError(Exception):
    """Root of the tree: whatever is raised on purpose."""


class UserError(MLaaSError):
    """The caller asked for something that cannot be done as asked."""


class ConfigError(UserError):
    """A config that cannot be used: all problems at once, each with its path.

    Parameters
    ----------
    problems
        One line a problem, such as ``"samples.ttH.xsec: unknown key; did you mean 'xsec_pb'?"``.
    where
        The file that was read.
    """

    def __init__(self, problems: Sequence[str], where: str = "config") -> None:
        self.problems = tuple(problems)
        self.where = where
        count = len(self.problems)
        head = f"{where}: {count} problem{'s' if count != 1 else ''}"
        super().__init__("\n".join([head, *(f"  - {problem}" for problem in self.problems)]))


class ExpressionError(UserError):
    """An expression that cannot be read or does not fit its columns.

    Parameters
    ----------
    message
        What is wrong.
    text
        The whole expression.
    column
        0-based character at which the trouble starts; drawn as a caret.
    where
        Place in the config, such as ``"new_variables.ht"``.
    """

    def __init__(self, message: str, text: str, column: int = 0, *, where: str = "expression") -> None:
        self.reason = message
        self.text = text
        self.column = column
        self.where = where
        super().__init__(f"{where}: {message}\n  {text}\n  {' ' * column}^")


class DataError(UserError):
    """Input files or columns that are missing, unreadable, empty or of another kind."""


class DeclarationError(DataError):
    """The user's own expression or function fails on events: no damage of a file, and never left out as such."""


class ModelError(UserError):
    """A model that is not known, does not take its dials, or a user's model file that fails."""


class BundleError(UserError):
    """A model on disk that is missing, changed since it was written, or of another version."""


class UploadError(UserError):
    """An uploaded model that is not taken: it holds what runs code, passes a limit, or is of no known kind."""


class RequestError(UserError):
    """A request that does not fit the contract of the model it names."""


class NotFoundError(UserError):
    """A model, version or route that is not served here."""


class TokenError(UserError):
    """No token where one is needed, or one that is forged, expired or meant for another server.

    Parameters
    ----------
    message
        What is wrong; never a part of the token's signature.
    given
        Whether there was a token at all.
    """

    def __init__(self, message: str, *, given: bool = True) -> None:
        self.given = given
        super().__init__(message)


class ForbiddenError(UserError):
    """A good token that does not grant what is asked.

    Parameters
    ----------
    message
        What is asked, and what the token would have to grant.
    scope
        Scopes of which one would do, as in ``WWW-Authenticate``; empty where none would.
    """

    def __init__(self, message: str, *, scope: str = "") -> None:
        self.scope = scope
        super().__init__(message)


class MissingExtraError(UserError):
    """An optional package is needed.

    Parameters
    ----------
    package
        The import that failed.
    extra
        The extra of this project that brings it.
    purpose
        What needs it.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed: pip install 'mlaas4hep[{extra}]'"
        )


class ParityError(MLaaSError):
    """An exported graph whose scores differ from the framework's by more than the bar."""


class BusyError(MLaaSError):
    """More is asked than can be answered in time; nothing was computed.

    Parameters
    ----------
    message
        What is full, and how full.
    retry_after_s
        When asking again has a chance, as far as that can be told.
    """

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class IssuerError(MLaaSError):
    """The keys that a token is verified with cannot be had.

    Parameters
    ----------
    message
        Whose keys, and why.
    retry_after_s
        When they are asked for again.
    """

    def __init__(self, message: str, *, retry_after_s: float = 10.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class ServerError(MLaaSError):
    """A server that did not answer, or answered that it failed."""


def told_once(problems: Iterable[tuple[str, str]]) -> list[str]:
    """Lines for what is wrong in places, given as (place, what): what several have in common is told once.

    Examples
    --------
    >>> told_once([("a.root", ": is empty"), ("b.root", ": no such file"), ("c.root", ": is empty")])
    ['a.root and 1 more file: is empty', 'b.root: no such file']
    """
    places: dict[str, dict[str, None]] = {}
    for place, what in problems:
        places.setdefault(what, {})[place] = None
    return [f"{some_files(list(found))}{what}" for what, found in places.items()]


def some_files(paths: Sequence[str]) -> str:
    """The first of some files, and how many more there are.

    Examples
    --------
    >>> some_files(["a.root"]), some_files(["a.root", "b.root", "c.root"])
    ('a.root', 'a.root and 2 more files')
    """
    more = len(paths) - 1
    return f"{paths[0]} and {more} more file{'s' if more > 1 else ''}" if more else paths[0]


def counted(number: int, word: str) -> str:
    """A number with its word in singular or plural.

    Examples
    --------
    >>> counted(1, "column"), counted(13000, "event")
    ('1 column', '13000 events')
    """
    return f"{number} {word}{'' if number == 1 else 's'}"


def nearest(asked: str, known: Iterable[str], *, count: int = 3) -> str:
    """Words for the end of a message: the known names closest to what was asked.

    Examples
    --------
    >>> nearest("Jet_ptt", ["Jet_pt", "Jet_eta", "MET_pt"], count=1)
    "; did you mean 'Jet_pt'?"
    >>> nearest("x", [])
    ''
    """
    if len(asked) > _LONGEST_NAME:
        return ""  # it costs more than the square of the length, and may come from anyone
    names = [name for name in dict.fromkeys(known) if name != asked]  # what was asked for is no alternative to it
    folded: dict[str, str] = {name.lower(): name for name in names}
    close = difflib.get_close_matches(asked.lower(), folded, n=count, cutoff=0.5)
    if close:
        # One letter off leaves no doubt: names that are half alike would only confuse.
        ratios = [difflib.SequenceMatcher(None, asked.lower(), name).ratio() for name in close]
        close = [name for name, ratio in zip(close, ratios, strict=True) if ratio > ratios[0] - 0.35]
        return f"; did you mean {' or '.join(repr(folded[name]) for name in close)}?"
    if names and len(names) <= 12:
        return f"; known: {', '.join(sorted(names))}"
    return ""
