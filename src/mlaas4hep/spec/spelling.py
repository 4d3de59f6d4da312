"""The text of an expression before it is parsed: ROOT's words into ours, names in back-ticks, places kept.

`Spelled.source` is Python's grammar; `Spelled.place` tells at which character of the text as written a character of it
stands. Invariant: what is written in ROOT's way means what it means there, or is refused with the spelling to use.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from dataclasses import dataclass

from mlaas4hep.errors import nearest

ALTERNATIVE = "Alt"
PI = "pi"

_ROOT_WORDS = {
    "Sum": "sum",
    "Length": "count",
    "Max": "max",
    "Min": "min",
    "Alt": ALTERNATIVE,
}
# Of the name spaces TMath and std, in lower case: those that mean the same as ours.
_NAMESPACED = {
    **{name: name for name in ("abs", "fabs", "sqrt", "exp", "log", "log10", "log2", "log1p", "expm1", "hypot")},
    **{name: name for name in ("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh")},
    **{name: name for name in ("asinh", "acosh", "atanh", "floor", "ceil", "min", "max", "isnan", "isfinite", "pow")},
    "power": "pow",
    "finite": "isfinite",
    "pi": PI,
}

_PIECES = re.compile(
    r"`(?P<quoted>[^`]*)(?P<closed>`?)"
    r"|(?P<and>&&)|(?P<or>\|\|)|(?P<not>!(?!=))"
    r"|(?P<space>TMath|std)::(?P<function>\w*)"
    r"|(?P<root>[^\W\d]\w*)\$"
    r"|(?P<plain>[^`&|!\w]|[&|!]|\w+)"
)
_SIGNS = {"and": " and ", "or": " or ", "not": "~"}
_PLAIN_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*\Z")

# Spellings of other languages and what to write instead, looked for before Python's parser sees the text.
_REFUSED: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"\^"),
        "'^' is a power to ROOT and either-or to C and Python: a power is written '**', either-or of conditions '!='",
    ),
    (re.compile(r"\?"), "a choice 'a ? b : c' is written where(a, b, c)"),
    (re.compile(r"['\"]"), "text in quotes is not part of expressions, which are of numbers and conditions"),
    (
        re.compile(r"(?<=\w)::(?=[^\W\d])"),
        "'::' is not part of expressions: functions are written plainly, as in 'abs(x)'",
    ),
    (re.compile(r"(?<![=<>!:])=(?!=)"), "one '=' sets a value: equality is written '=='"),
    (
        re.compile(r"[^\w\s.+\-*/%()<>=!&|~\[\],:]"),
        "this character is not part of expressions; a name with such characters is put in back-ticks, as in `a name`",
    ),
    (
        # Possessive, so that the exponent of '1e5' is not given back and taken for a name.
        re.compile(r"(?<![\w.])(?:\d[\d_]*+(?:\.\d*+)?+|\.\d++)(?:[eE][+-]?+\d++)?+(?=[^\W\d])"),
        "a number runs into a name: put '*' or a space between",
    ),
)


class PlaceError(Exception):
    """Something is wrong at a character of the text; `Expression` adds the text and where it stands."""

    def __init__(self, message: str, at: int) -> None:
        self.message = message
        self.at = at
        super().__init__(message)


@dataclass(frozen=True)
class Spelled:
    """An expression in Python's grammar.

    Parameters
    ----------
    source
        The text that is parsed.
    origin
        By character of it, where it was written.
    quoted
        By identifier that no user wrote, the name in back-ticks that it stands for.
    words
        By such an identifier, the word of ROOT.
    """

    source: str
    origin: tuple[int, ...]
    quoted: dict[str, str]
    words: dict[str, str]

    def place(self, at: int) -> int:
        """Character of the text as written."""
        return self.origin[min(max(at, 0), len(self.origin) - 1)]


def respell(text: str) -> Spelled:
    """Bring a text to Python's grammar.

    Raises
    ------
    PlaceError
        An open back-tick, an unknown word of ROOT, or a spelling of another language.
    """
    spelled = _Writer(text)
    for match in _PIECES.finditer(text):
        spelled.add(match)
    done = spelled.done()
    for pattern, advice in _REFUSED:
        if found := pattern.search(done.source):
            raise PlaceError(advice, done.place(found.start()))
    return done


class _Writer:
    def __init__(self, text: str) -> None:
        self._parts: list[str] = []
        self._origin: list[int] = []
        self._quoted: dict[str, str] = {}
        self._words: dict[str, str] = {}
        self._mark = "name_"
        while self._mark in text:
            self._mark += "_"
        self._end = len(text)

    def add(self, match: re.Match[str]) -> None:
        at, kind = match.start(), match.lastgroup
        if kind == "plain":
            self._write(match[0], range(at, match.end()))
        elif kind == "closed":
            self._write_same(self._quote(match), at)
        elif kind == "function":
            self._write_same(self._namespaced(match), at)
        elif kind == "root":
            self._write_same(self._root(match), at)
        else:
            self._write_same(_SIGNS[str(kind)], at)

    def done(self) -> Spelled:
        source = "".join(self._parts)
        return Spelled(source, (*self._origin, self._end), self._quoted, self._words)

    def _write(self, part: str, origin: range) -> None:
        self._parts.append(part)
        self._origin.extend(origin)

    def _write_same(self, part: str, at: int) -> None:
        self._parts.append(part)
        self._origin.extend([at] * len(part))

    def _quote(self, match: re.Match[str]) -> str:
        if not match["closed"]:
            raise PlaceError("a back-tick opens a name here that none closes", match.start())
        if not match["quoted"]:
            raise PlaceError("there is no name between the back-ticks", match.start())
        word = f"{self._mark}{len(self._quoted)}"
        self._quoted[word] = match["quoted"]
        return word

    def _root(self, match: re.Match[str]) -> str:
        word = _ROOT_WORDS.get(match["root"])
        if word is None:
            known = [f"{one}$" for one in _ROOT_WORDS]
            raise PlaceError(
                f"'{match[0]}' is not known here; of ROOT's words there are {', '.join(known)}", match.start()
            )
        return self._own(word, match[0]) if word == ALTERNATIVE else word

    def _namespaced(self, match: re.Match[str]) -> str:
        word = _NAMESPACED.get(match["function"].lower())
        if word is None:
            close = nearest(match["function"].lower(), _NAMESPACED, count=1)
            raise PlaceError(f"there is no function '{match[0]}'{close}", match.start())
        return self._own(word, match[0]) if word == PI else word

    def _own(self, word: str, written: str) -> str:
        """An identifier that no user can write."""
        self._words[f"{self._mark}{word}"] = word
        return f"{self._mark}{word}"


def spell_name(column: str) -> str:
    """How a column is written in an expression: plainly where that can be read, else in back-ticks.

    Examples
    --------
    >>> [spell_name(name) for name in ("Jet_pt", "Jet.PT", "Jet/Jet.PT", "weights[0]")]
    ['Jet_pt', 'Jet.PT', '`Jet/Jet.PT`', '`weights[0]`']
    """
    plain = (
        _PLAIN_NAME.match(column) is not None
        and not any(keyword.iskeyword(word) for word in column.split("."))
        and unicodedata.normalize("NFKC", column) == column
    )
    return column if plain else f"`{column}`"
