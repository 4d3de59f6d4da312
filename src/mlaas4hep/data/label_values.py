"""Which values the column of a label holds: read and told where those that a config asks for are not among them.

Invariant: it says of how many events it speaks; nothing is read where the labels are right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.config import Rule
from mlaas4hep.data.entries import SampleEntry
from mlaas4hep.data.source import Source, text_of
from mlaas4hep.errors import DataError
from mlaas4hep.spec.preprocess import Preprocessor

if TYPE_CHECKING:
    from mlaas4hep.data.catalogue import Catalogue

MOST_EVENTS = 1_000_000
_AT_ONCE = 100_000
_MOST_SHOWN = 8


def values_told(counts: Counter[Any], events: int, entries: int) -> str:
    """Values and how often each is there; of many the most frequent ones.

    Parameters
    ----------
    counts
        By value.
    events, entries
        How many were looked at, and how many there are.

    Examples
    --------
    >>> values_told(Counter({0: 5123, 1: 4877}), 10_000, 10_000), values_told(Counter({"sig": 7}), 7, 20)
    ('0 (5,123), 1 (4,877)', "'sig' (7) in the first 7 of 20 events")
    """
    shown = ", ".join(f"{_shown(value)} ({count:,})" for value, count in _frequent(counts))
    more = f" and {len(counts) - _MOST_SHOWN:,} other values" if len(counts) > _MOST_SHOWN else ""
    where = f" in the first {events:,} of {entries:,} events" if events < entries else ""
    return f"{shown or 'nothing'}{more}{where}"


def asked_told(rule: Rule, classes: Sequence[str] | None = None) -> str:
    """The values that a rule wants, with the classes that they stand for."""
    wanted = rule.values if classes is None else {name: rule.values[name] for name in classes if name in rule.values}
    return ", ".join(f"{' or '.join(map(_shown, values))} for '{name}'" for name, values in wanted.items())


def first_values(source: Source, column: str, *, text: bool) -> str:
    """What one file holds in a column, in words: of its first events."""
    events = min(source.num_entries, _AT_ONCE)
    held = text_of(source).read_text(column, 0, events) if text else source.read([column], 0, events)[column]
    if not isinstance(held, np.ndarray):
        return "a list an event"
    return values_told(_counted(held), events, source.num_entries)


def unmatched(catalogue: Catalogue, preprocessor: Preprocessor, empty: Sequence[str]) -> Iterator[str]:
    """Why classes are empty whose values are nowhere in their column: a line a sample.

    Parameters
    ----------
    catalogue, preprocessor
        What was read.
    empty
        Classes without events.
    """
    for sample in catalogue.samples:
        rule = sample.rule
        if rule is None or rule.column is None:
            continue
        counts, events, entries = _of_sample(sample, rule, catalogue, preprocessor)
        lost = [name for name in empty if name in rule.values and not any(one in counts for one in rule.values[name])]
        if lost:
            held = values_told(counts, events, entries)
            yield f"samples.{sample.name}: column '{rule.column}' holds {held}; asked for {asked_told(rule, lost)}"


def _of_sample(
    sample: SampleEntry, rule: Rule, catalogue: Catalogue, preprocessor: Preprocessor
) -> tuple[Counter[Any], int, int]:
    """Values of the column, events looked at, and events that there are."""
    files = [one for one in catalogue.files if one.sample == sample.number]
    counts: Counter[Any] = Counter()
    events = 0
    for file in files:
        with file.open() as source:
            for start in range(0, min(file.num_entries, MOST_EVENTS - events), _AT_ONCE):
                stop = min(start + _AT_ONCE, file.num_entries)
                try:
                    counts += _counted(_values(source, rule, preprocessor, start, stop))
                except DataError:
                    continue  # left out when it was scanned, and told then
                events += stop - start
    return counts, events, sum(one.num_entries for one in files)


def _values(source: Source, rule: Rule, preprocessor: Preprocessor, start: int, stop: int) -> NDArray[Any]:
    assert rule.column is not None
    if rule.is_text:
        return text_of(source).read_text(rule.column, start, stop)
    columns = source.read(sorted(preprocessor.needs(rule.column)), start, stop)
    return np.asarray(preprocessor.values(rule.column, columns, stop - start))


def _counted(values: NDArray[Any]) -> Counter[Any]:
    if values.dtype.kind in "OUS":
        return Counter(values.tolist())
    found, counts = np.unique(values, return_counts=True)
    return Counter(dict(zip(found.tolist(), counts.tolist(), strict=True)))


def _frequent(counts: Counter[Any]) -> list[tuple[Any, int]]:
    """In the order of the values: of those that are no numbers, of their spelling."""

    def key(one: tuple[Any, int]) -> tuple[float, str]:
        return (one[0], "") if isinstance(one[0], int | float) else (np.inf, repr(one[0]))

    return sorted(counts.most_common(_MOST_SHOWN), key=key)


def _shown(value: Any) -> str:
    """Whole numbers whole, text in quotes."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return f"{value:.6g}" if isinstance(value, float) else repr(value)
