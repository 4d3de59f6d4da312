"""Where JSON objects begin and end in a text, compiled: one a line, or the elements of one array.

Invariant: a row ends where its line or its bracket ends, whatever is inside of it.
"""

from __future__ import annotations

from numba import njit

_NEWLINE, _QUOTE, _BACKSLASH, _COMMA = 10, 34, 92, 44
_OPEN, _OPEN_LIST, _CLOSE, _CLOSE_LIST = 123, 91, 125, 93


@njit(cache=True, nogil=True)
def _skip_blanks(text, at, stop):  # type: ignore[no-untyped-def]
    while at < stop and (text[at] == 32 or text[at] == 9 or text[at] == _NEWLINE or text[at] == 13):
        at += 1
    return at


@njit(cache=True, nogil=True)
def lines(text, at, final, max_rows, max_bytes):  # type: ignore[no-untyped-def]
    """Lines that are not blank, until there are ``max_rows`` or they take ``max_bytes``.

    Returns
    -------
    Where the next line begins, lines seen, and whether the text ended.
    """
    begin, rows, stop = at, 0, len(text)
    while rows < max_rows and at - begin < max_bytes:
        place, blank = at, True
        while place < stop and text[place] != _NEWLINE:
            blank = blank and (text[place] == 32 or text[place] == 9 or text[place] == 13)
            place += 1
        if place == stop and not final:
            return at, rows, True
        rows += not blank
        if place == stop:
            return stop, rows, True
        at = place + 1
    return at, rows, False


@njit(cache=True, nogil=True)
def elements(text, at, final, max_rows, max_bytes):  # type: ignore[no-untyped-def]
    """Elements of an array, each with the comma behind it; ends before the bracket that closes the array.

    Returns
    -------
    Where the next element begins, elements seen, and whether the text or the array ended.
    """
    begin, rows, stop = at, 0, len(text)
    while rows < max_rows and at - begin < max_bytes:
        place = _skip_blanks(text, at, stop)
        if place == stop or text[place] == _CLOSE_LIST:
            return (place if place == stop and final else at), rows, True
        place = max(_element_end(text, place, stop), place + (text[place] != _COMMA))
        place = _skip_blanks(text, place, stop)
        if place == stop:
            return at, rows, True  # what is behind it decides; an array that is cut off ends before it
        at = place + (text[place] == _COMMA)
        rows += 1
    return at, rows, False


@njit(cache=True, nogil=True)
def _element_end(text, at, stop):  # type: ignore[no-untyped-def]
    """Behind the value that begins at ``at``."""
    depth, quoted = 0, False
    while at < stop:
        letter = text[at]
        if quoted:
            if letter == _BACKSLASH:
                at += 1
            elif letter == _QUOTE:
                quoted = False
        elif letter == _QUOTE:
            quoted = True
        elif letter in (_OPEN, _OPEN_LIST):
            depth += 1
        elif letter in (_CLOSE, _CLOSE_LIST):
            if depth == 0:
                return at
            depth -= 1
            if depth == 0:
                return at + 1
        elif letter == _COMMA and depth == 0:
            return at
        at += 1
    return stop
