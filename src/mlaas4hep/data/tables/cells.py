"""Rows and cells of delimited text, compiled.

Cells are cut the same way when a file is indexed and when it is read. Blank lines and lines that begin with ``#`` are
no rows. Invariant: nothing is written outside the arrays given, whatever bytes the text holds.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mlaas4hep.data.tables.numbers import HARD, REAL, as_float, read_number

DONE, UNFINISHED, RAGGED, OPEN_QUOTE, CHANGED = 0, 1, 2, 3, 4
_MORE, _ROW, _END, _QUOTE_END = 0, 1, 2, 3
_NEWLINE, _RETURN, _TAB, _SPACE, _QUOTE, _HASH = 10, 13, 9, 32, 34, 35


@njit(cache=True, nogil=True)
def _is_blank(letter, delimiter):  # type: ignore[no-untyped-def]
    return letter in (_SPACE, _TAB, _RETURN) and letter != delimiter


@njit(cache=True, nogil=True)
def _ends_cell(letter, delimiter):  # type: ignore[no-untyped-def]
    return letter in (delimiter, _NEWLINE) or (delimiter == _SPACE and letter == _TAB)


@njit(cache=True, nogil=True)
def _row_start(text, at, stop, delimiter):  # type: ignore[no-untyped-def]
    """The next line that is a row, from the beginning of a line; ``stop`` where there is none."""
    while at < stop:
        first = at
        while at < stop and (_is_blank(text[at], delimiter) or text[at] == _SPACE):
            at += 1
        if at == stop:
            return stop
        if text[at] != _NEWLINE and text[at] != _HASH:
            return first
        while at < stop and text[at] != _NEWLINE:
            at += 1
        at += at < stop
    return stop


@njit(cache=True, nogil=True)
def _cell(text, at, stop, delimiter):  # type: ignore[no-untyped-def]
    """First and last byte of a cell without its blanks and quotes, where to go on, and what stands there."""
    while at < stop and _is_blank(text[at], delimiter):
        at += 1
    if delimiter == _SPACE:
        while at < stop and (text[at] == _SPACE or text[at] == _TAB or text[at] == _RETURN):
            at += 1
    first = last = at
    if at < stop and text[at] == _QUOTE:
        at += 1
        first = at
        while at < stop and not (text[at] == _QUOTE and (at + 1 == stop or text[at + 1] != _QUOTE)):
            at += 2 if text[at] == _QUOTE else 1
        if at >= stop:
            return first, stop, stop, _QUOTE_END
        last = at
        at += 1
        while at < stop and not _ends_cell(text[at], delimiter):
            if not _is_blank(text[at], delimiter):
                last = at + 1  # text behind the quotes: no number any more
            at += 1
    else:
        while at < stop and not _ends_cell(text[at], delimiter):
            at += 1
        last = at
    while last > first and (text[last - 1] == _SPACE or text[last - 1] == _TAB or text[last - 1] == _RETURN):
        last -= 1
    if delimiter == _SPACE:
        while at < stop and (text[at] == _SPACE or text[at] == _TAB or text[at] == _RETURN):
            at += 1
        if at < stop and text[at] != _NEWLINE:
            return first, last, at, _MORE
    if at >= stop:
        return first, last, stop, _END
    return first, last, at + 1, (_ROW if text[at] == _NEWLINE else _MORE)


@njit(cache=True, nogil=True)
def survey(text, at, stop, final, delimiter, max_rows, max_bytes, kinds):  # type: ignore[no-untyped-def]
    """Look at rows from ``at`` on, until there are ``max_rows`` of them or they take ``max_bytes``.

    Parameters
    ----------
    text
        uint8 [n].
    final
        Whether the file ends with the text: a last line without an end is a row then.
    kinds
        uint8 [columns]: the kinds of cells seen are added.

    Returns
    -------
    Where the next row begins, rows seen, status, and cells of a row that is `RAGGED`.
    """
    rows, begin, columns = 0, at, len(kinds)
    seen = np.zeros(columns, dtype=np.uint8)
    while rows < max_rows and at - begin < max_bytes:
        row = _row_start(text, at, stop, delimiter)
        if row == stop:
            return (stop if final else _last_line(text, at, stop)), rows, UNFINISHED, 0
        place, what, column = row, _MORE, 0
        while what == _MORE:
            first, last, place, what = _cell(text, place, stop, delimiter)
            if column < columns:
                kind, _ = read_number(text, first, last, False)
                seen[column] = kind
            column += 1
        if what != _ROW and not final:
            return row, rows, UNFINISHED, 0
        if what == _QUOTE_END:
            return row, rows, OPEN_QUOTE, 0
        if column != columns:
            return row, rows, RAGGED, column
        kinds |= seen
        rows += 1
        at = place
    return at, rows, DONE, 0


@njit(cache=True, nogil=True)
def _last_line(text, at, stop):  # type: ignore[no-untyped-def]
    """Where the last line begins: what stands before it is blank or comment, and whole."""
    begin = stop
    while begin > at and text[begin - 1] != _NEWLINE:
        begin -= 1
    return begin


@njit(cache=True, nogil=True)
def convert(text, delimiter, skip, rows, targets, wanted, out, at_row, hard):  # type: ignore[no-untyped-def]
    """Bits of the wanted columns of ``rows`` rows of a text, after ``skip`` rows.

    Parameters
    ----------
    text
        uint8 [n], whole rows.
    targets
        int64 [columns]: row of ``out`` for each column, -1 for those that are not wanted.
    wanted
        uint8 [k]: kinds that a cell may be; those with `REAL` among them become float64.
    out
        int64 [k, n]: filled from column ``at_row`` on.
    hard
        int64 [m, 4]: cells that Python must read, as (k, row, first byte, last byte).

    Returns
    -------
    Rows done, hard cells met (those beyond ``m`` are counted only), status, and where the trouble is.
    """
    at, stop, columns, met, row = 0, len(text), len(targets), 0, -skip
    while row < rows:
        begin = _row_start(text, at, stop, delimiter)
        if begin == stop:
            return max(row, 0), met, UNFINISHED, stop
        place, what, column = begin, _MORE, 0
        while what == _MORE:
            first, last, place, what = _cell(text, place, stop, delimiter)
            target = targets[column] if column < columns else -1
            column += 1
            if row < 0 or target < 0:
                continue
            kind, bits = read_number(text, first, last, True)
            if (REAL if kind == HARD else kind) & wanted[target] == 0:
                return row, met, CHANGED, begin
            if kind == HARD:
                if met < len(hard):
                    hard[met, 0], hard[met, 1], hard[met, 2], hard[met, 3] = target, at_row + row, first, last
                met += 1
            out[target, at_row + row] = as_float(kind, bits) if wanted[target] & REAL else bits
        if column != columns:
            return row, met, RAGGED, begin
        row += 1
        at = place
    return rows, met, DONE, 0


@njit(cache=True, nogil=True)
def spans_of(text, delimiter, skip, rows, column, spans):  # type: ignore[no-untyped-def]
    """First and last byte of the cell of one column, for ``rows`` rows after ``skip``: how many rows there are.

    ``spans`` is int64 [rows, 2]; it is not written to for a row that has too few cells.
    """
    at, stop, row = 0, len(text), -skip
    while row < rows:
        begin = _row_start(text, at, stop, delimiter)
        if begin == stop:
            return max(row, 0)
        place, what, number = begin, _MORE, 0
        while what == _MORE:
            first, last, place, what = _cell(text, place, stop, delimiter)
            if row >= 0 and number == column:
                spans[row, 0], spans[row, 1] = first, last
            number += 1
        row += 1
        at = place
    return rows


@njit(cache=True, nogil=True)
def split_row(text, at, stop, delimiter, spans):  # type: ignore[no-untyped-def]
    """The next row as first and last bytes of its cells (int64 [m, 2]): how many, where it begins and where it ends."""
    row = _row_start(text, at, stop, delimiter)
    if row == stop:
        return 0, stop, stop
    place, what, count = row, _MORE, 0
    while what == _MORE:
        first, last, place, what = _cell(text, place, stop, delimiter)
        if count < len(spans):
            spans[count, 0], spans[count, 1] = first, last
        count += 1
    return count, row, place
