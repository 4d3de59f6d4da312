"""Numbers in JSON between two texts that are known, so that those of many questions are read at once and nothing else.

A client sends the same text around the numbers of each question. Invariant: a text is kept only where it was read whole
and leaves no doubt which of its bytes are the numbers, so that others in their place are what they would be there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Texts that are kept for a model; lists of numbers that are read at once, for the memory that it takes.
MAX_FRONTS, AT_ONCE = 256, 256
_WORD = b'"data"'
# What simdjson raises where there are no numbers, and what a buffer of doubles does not take.
NO_NUMBERS = (ValueError, TypeError, KeyError, AttributeError, RuntimeError)


class _Front(NamedTuple):
    """Of questions that begin alike: the text behind the numbers, the rows, and the commas between the numbers."""

    end: bytes
    rows: int
    commas: int


class Fronts:
    """Of the questions to one model that has one input.

    Parameters
    ----------
    values
        Numbers in a row.
    parse
        simdjson's, of which at most one result is alive.
    """

    def __init__(self, values: int, parse: Callable[[bytes], Any]) -> None:
        self._values, self._parse = values, parse
        self._known: dict[bytes, _Front] = {}
        self._last = b"[", _Front(b"", 0, -1)  # no body of JSON that asks begins so

    def split(self, body: bytes, most: int) -> tuple[bytes, int] | None:
        """The text of the numbers and the rows, where all around them is known and the rows are not more than ``most``.

        There are as many commas as there have to be; whether numbers are between them `read` tells.
        """
        last, front = self._last
        if not body.startswith(last):  # what most begin with
            last = body[: body.find(b"[", body.find(_WORD)) + 1]
            found = self._known.get(last)
            if found is None:
                return None
            self._last = last, front = last, found
        if front.rows > most or not body.endswith(front.end):
            return None
        text = body[len(last) : len(body) - len(front.end)]
        # A null is a number that is missing, but not to simdjson.
        return (text, front.rows) if text.count(b",") == front.commas and b"n" not in text else None

    def learn(self, body: bytes, rows: int) -> None:
        """Keep what stands around the numbers of a body that was read whole, has so many rows, and says no id."""
        key = body.find(_WORD)
        start = body.find(b"[", key) + 1
        end, commas = body.find(b"]", start), rows * self._values - 1
        # The word may be a name, a key twice, or spelt with an escape; a list may have lists in it.
        plain = body.count(_WORD) == 1 and b"\\" not in body
        plain = plain and body[key + len(_WORD) : start].translate(None, b" \t\r\n") == b":["
        if not plain or b"[" in body[start:end] or body.count(b",", start, end) != commas:
            return
        if len(self._known) >= MAX_FRONTS:
            self._known.clear()
        self._known[body[:start]] = _Front(body[end:], rows, commas)

    def read(self, texts: Sequence[bytes]) -> NDArray[np.float32] | None:
        """All numbers one behind the other; None where something is none."""
        parts = []
        try:
            for i in range(0, len(texts), AT_ONCE):
                text = b"[%b]" % b",".join(texts[i : i + AT_ONCE])
                if text.count(b"[") != 1:  # lists in lists would be flattened
                    return None
                # Not kept, since the parser reads no more while a list of its is alive.
                found = np.frombuffer(self._parse(text).as_buffer(of_type="d"), np.float64)
                if len(found) <= text.count(b","):  # without a comma there may be one number or none
                    return None
                with np.errstate(over="ignore"):
                    parts.append(found.astype(np.float32))
        except NO_NUMBERS:
            return None
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
