"""How a delimited text is written: delimiter, names, where the rows begin.

Invariant: it hangs on the first lines alone, which are cut by the same rules as all others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.tables import cells, numbers
from mlaas4hep.data.tables.text import Text
from mlaas4hep.errors import DataError

_SPOKEN = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas", " ": "blanks"}
_BOM = b"\xef\xbb\xbf"
_HEAD_BYTES = 1 << 20
_LINES = 50
_MOST_COLUMNS = 100_000


@dataclass(frozen=True)
class Dialect:
    """How a delimited text is written.

    Parameters
    ----------
    delimiter
        Its byte; a blank stands for any number of blanks and tabs.
    names
        Of the columns, from left to right.
    start, line
        Bytes and lines before the first row that may hold values.
    """

    delimiter: int
    names: tuple[str, ...]
    start: int
    line: int

    @property
    def spoken(self) -> str:
        """The delimiter in words."""
        return _SPOKEN[chr(self.delimiter)]


def sniff(text: Text, where: str) -> Dialect:
    """Find out how a text is written.

    Raises
    ------
    DataError
        It holds no row, or a first row without end.
    """
    head = bytes(text.read(0, _HEAD_BYTES))
    final = len(head) < _HEAD_BYTES
    view = np.frombuffer(head, np.uint8)
    begin = len(_BOM) if head.startswith(_BOM) else 0
    delimiter = _delimiter(view, begin, final)
    rows = _Lines(view, begin, ord(delimiter), final).rows(1)
    if not rows:
        what = "holds no row" if final else f"holds no row within its first {_HEAD_BYTES >> 20} MiB"
        raise DataError(f"{where}: {what}; a table of text has a row a line")
    first, row_begin, row_end = rows[0]
    if _is_header(view, first):
        names = [_cell_text(view, span) for span in first]
        start = row_end
    else:
        names, start = _commented(view, begin, row_begin, delimiter, len(first)), row_begin
    named = tuple(name or f"c{place}" for place, name in enumerate(names))
    return Dialect(ord(delimiter), named, start, int(np.count_nonzero(view[:start] == 10)))


def _delimiter(view: NDArray[np.uint8], begin: int, final: bool) -> str:
    """The first candidate that cuts all of the first lines into the same number of cells, more than one."""
    found = {one: [len(row[0]) for row in _Lines(view, begin, ord(one), final).rows(_LINES)] for one in _SPOKEN}
    for one, counts in found.items():
        if counts and counts[0] > 1 and set(counts) == {counts[0]}:
            return one
    return next((one for one, counts in found.items() if counts and counts[0] > 1), ",")


class _Lines:
    """The first rows of a text as spans of cells."""

    def __init__(self, view: NDArray[np.uint8], begin: int, delimiter: int, final: bool) -> None:
        self._view, self._at, self._delimiter = view, begin, delimiter
        self._final = final
        self._spans = np.empty((_MOST_COLUMNS, 2), dtype=np.int64)

    def rows(self, most: int) -> list[tuple[list[tuple[int, int]], int, int]]:
        """Cells, first byte and last byte of each; a last one that may go on behind the text is left out."""
        found: list[tuple[list[tuple[int, int]], int, int]] = []
        while len(found) < most:
            count, begin, end = cells.split_row(self._view, self._at, len(self._view), self._delimiter, self._spans)
            if not count or (end == len(self._view) and not self._final):
                break
            found.append(([(int(a), int(b)) for a, b in self._spans[:count]], int(begin), int(end)))
            self._at = end
        return found


def _is_header(view: NDArray[np.uint8], row: list[tuple[int, int]]) -> bool:
    """Names only: no cell is a number, and one is a word. Counted columns (0, 1, 2, ...) are names, too."""
    kinds = [numbers.read_number(view, first, last, False)[0] for first, last in row]
    if all(kind == numbers.WHOLE for kind in kinds) and len(kinds) > 2:
        return [_cell_text(view, span) for span in row] == [str(place) for place in range(len(row))]
    return numbers.TEXT in kinds and set(kinds) <= {numbers.TEXT, numbers.MISSING}


def _commented(view: NDArray[np.uint8], begin: int, stop: int, delimiter: str, columns: int) -> list[str]:
    """Names in the comment before the first row, as numpy's ``savetxt`` writes them; else none."""
    lines = view[begin:stop].tobytes().splitlines()
    comment = lines[-1].strip().lstrip(b"#") if lines else b""
    text = np.frombuffer(comment, np.uint8)
    rows = _Lines(text, 0, ord(delimiter), True).rows(1)
    if rows and len(rows[0][0]) == columns and _is_header(text, rows[0][0]):
        return [_cell_text(text, span) for span in rows[0][0]]
    return [""] * columns


def _cell_text(view: NDArray[np.uint8], span: tuple[int, int]) -> str:
    data = view[span[0] : span[1]].tobytes().replace(b'""', b'"')
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")
