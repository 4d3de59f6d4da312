"""What has to be known of files before the original's workflow can be a config: columns, list lengths, labels.

Invariant: kinds of columns and which lists go together are those of the first events of each file; longest lists and
values of labels are those of all events that were asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.comparing import SharedColumns
from mlaas4hep.data.hooked import KEPT
from mlaas4hep.data.inspect import prefix_of
from mlaas4hep.data.opening import Opening
from mlaas4hep.data.source import Source, Texts, text_of
from mlaas4hep.errors import DataError
from mlaas4hep.spec.columns import Column, Jagged, concat_columns
from mlaas4hep.spec.expressions import Expression
from mlaas4hep.spec.new_variables import NewVariables

# To see which lists have equal lengths; where they differ later, the training says so.
_LOOKED_AT = 20_000
_AT_ONCE = 50_000
_COLUMNS_AT_ONCE = 256
_MOST_CLASSES = 100


@dataclass(frozen=True)
class Look:
    """The first events of some files, and all of them where they are asked for.

    Parameters
    ----------
    openings
        How all files are opened.
    columns
        Of the first events, new variables included.
    reasons
        Why the other columns cannot be inputs.
    texts
        Columns of text.
    new
        New variables, of which the columns are made.
    most
        At most so many events of each file are asked for; None asks for all.
    """

    openings: tuple[Opening, ...]
    columns: Mapping[str, Column]
    reasons: Mapping[str, str]
    texts: frozenset[str]
    new: NewVariables = field(repr=False)
    most: int | None

    @classmethod
    def into(
        cls,
        openings: Sequence[Opening],
        some: Sequence[Opening],
        *,
        new_variables: Mapping[str, str],
        most: int | None = None,
    ) -> Look:
        """Look into some of the files.

        Raises
        ------
        DataError
            A file cannot be read.
        ExpressionError
            A new variable does not fit the columns.
        """
        shared, parts, texts = SharedColumns(), [], set[str]()
        for one in some:
            with one.open() as source:
                shared.add(source.path, {name: info for name, info in source.columns.items() if name != KEPT})
                parts.append(_first(source, max(_LOOKED_AT // len(some), 1)))
                texts |= set(source.texts) if isinstance(source, Texts) else set()
        readable = list(shared.readable())
        columns = concat_columns([{name: part[name] for name in readable} for part in parts])
        new = NewVariables(new_variables, columns)
        found = _with_new(columns, new.expressions)
        usable = {name: one for name, one in found.items() if isinstance(one, np.ndarray | Jagged)}
        reasons = {name: "holds lists of lists" for name in found if name not in usable}
        reasons |= {name: shared.reason(name) or "cannot be read" for name in shared.infos if name not in columns}
        return cls(tuple(openings), usable, reasons, frozenset(texts), new, most)

    @property
    def names(self) -> list[str]:
        """All columns and new variables, usable or not."""
        return [*self.columns, *self.reasons]

    def families(self, names: Sequence[str]) -> Iterator[list[str]]:
        """Jagged columns of one prefix whose lists are of equal length in every event, together."""
        found: dict[tuple[str, bytes], list[str]] = {}
        for name in names:
            found.setdefault((prefix_of(name), self._offsets(name)), []).append(name)
        yield from found.values()

    def _offsets(self, name: str) -> bytes:
        column = self.columns[name]
        return column.offsets.tobytes() if isinstance(column, Jagged) else b""

    def longest(self, families: Sequence[Sequence[str]]) -> list[int]:
        """Of the lists of each family, over all events that are asked for."""
        in_files = {self._offsets(name): name for name in self.columns if name not in self.new}
        # Of lists that an expression makes longer or shorter nothing is in the files: those of the events looked at.
        alike = [in_files.get(self._offsets(names[0])) for names in families]
        most = [
            _longest(self.columns[names[0]]) if name is None else 0 for name, names in zip(alike, families, strict=True)
        ]
        wanted = sorted({name for name in alike if name is not None})
        for source, start, stop in self._stretches(self.most) if wanted else ():
            columns = source.read(wanted, start, stop)
            found = [0 if name is None else _longest(columns[name]) for name in alike]
            most = list(map(max, most, found))
        return most

    def values_of_label(self, column: str) -> list[int | str]:
        """Different values of a column over all events, in their order.

        Raises
        ------
        DataError
            It holds lists, no whole numbers, or more values than there can be classes.
        """
        found: set[int | str] = set()
        for source, start, stop in self._stretches(None):
            found |= _values(self._label(source, column, start, stop), f"{source.path}: --labels: column '{column}'")
            if len(found) > _MOST_CLASSES:
                raise DataError(
                    f"{source.path}: --labels: column '{column}' holds more than {_MOST_CLASSES} values; a number that "
                    "is to be learned is a target (targets: in a config, see --show-config)"
                )
        return sorted(found, key=lambda value: (isinstance(value, str), value))

    def _label(self, source: Source, column: str, start: int, stop: int) -> Column:
        if column in self.texts:
            return text_of(source).read_text(column, start, stop)
        columns = source.read(sorted(self.new.columns_behind([column])), start, stop)
        return _with_new(columns, {name: self.new.expressions[name] for name in self.new.steps_to([column])})[column]

    def _stretches(self, most: int | None) -> Iterator[tuple[Source, int, int]]:
        """All events that are asked for, in parts that fit into memory."""
        for one in self.openings:
            with one.open() as source:
                last = source.num_entries if most is None else min(most, source.num_entries)
                for start in range(0, last, _AT_ONCE):
                    yield source, start, min(start + _AT_ONCE, last)


def _first(source: Source, events: int) -> dict[str, Column]:
    names = [name for name, info in source.columns.items() if info.type is not None and name != KEPT]
    columns: dict[str, Column] = {}
    for place in range(0, len(names), _COLUMNS_AT_ONCE):
        columns |= source.read(names[place : place + _COLUMNS_AT_ONCE], 0, min(events, source.num_entries))
    return columns


def _with_new(columns: Mapping[str, Column], new: Mapping[str, Expression]) -> dict[str, Column]:
    """Columns with the expressions that are made of them, each after those that it uses."""
    found = dict(columns)
    events = max(map(len, columns.values()), default=0)
    for name, expression in new.items():
        found[name] = expression.evaluate(found, events)
    return found


def _longest(column: Column) -> int:
    return int(column.counts.max(initial=0)) if isinstance(column, Jagged) else 0


def _values(column: Column | NDArray[np.str_], where: str) -> set[int | str]:
    if not isinstance(column, np.ndarray):
        raise DataError(f"{where} holds a list an event; wants one value")
    if column.dtype.kind in "OUS":
        return {str(value) for value in set(column.tolist())}
    found = np.unique(column)
    found = found[np.isfinite(found)]
    if np.any(found != np.floor(found)):
        raise DataError(
            f"{where} holds {found[found != np.floor(found)][0]:.6g}, which is no class; a number to be learned is a "
            "target (targets: in a config, see --show-config)"
        )
    return {int(value) for value in found.tolist()}
