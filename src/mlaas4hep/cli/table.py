"""Numbers and tables as the command line prints them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def number(value: float | None) -> str:
    """Four digits, whole numbers whole, a dash for none.

    Examples
    --------
    >>> number(3.0), number(0.123456), number(None), number(123456.7)
    ('3', '0.1235', '-', '1.235e+05')
    """
    if value is None:
        return "-"
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def size(value: float | None) -> str:
    """Bytes in words.

    Examples
    --------
    >>> size(999), size(12_345_678), size(None)
    ('999 B', '12.3 MB', 'unknown')
    """
    if value is None:
        return "unknown"
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} B"


def table(rows: Sequence[Sequence[str]], *, right: Iterable[int] = ()) -> Iterator[str]:
    """Lines of a table; the columns numbered in ``right`` are flush right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    aligned = set(right)
    for row in rows:
        cells = [
            cell.rjust(width) if place in aligned else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
