"""Columns to tensors: the only code in the project that does it, for training, serving and scoring alike.

In this order: cast to the declared types, values that stand for a missing one to NaN, preselection, new variables,
sorting of collections, padding with NaN.
Invariant: an event gives the same bits alone or among others, and from whatever file or request it came (law 6).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.errors import ConfigError, DataError, ExpressionError, nearest
from mlaas4hep.spec.columns import (
    Column,
    Columns,
    ColumnType,
    Jagged,
    can_be_missing,
    cast,
    compress_columns,
    hide_missing,
)
from mlaas4hep.spec.expressions import Expression
from mlaas4hep.spec.features import FeatureSpec, InputGroup
from mlaas4hep.spec.new_variables import NewVariables


@dataclass(frozen=True)
class Prepared:
    """What comes out of `Preprocessor.run`.

    Parameters
    ----------
    inputs
        float32 by group, [n, F] or [n, K, F], of the n selected events in order; NaN where nothing is.
    selected
        bool [N]: which of the events given passed the preselection.
    truncated
        By collection, how many objects of the selected events were dropped because the list is longer than K.
    lengths
        By collection, int64 [n]: number of objects before truncation.
    """

    inputs: dict[str, NDArray[np.float32]]
    selected: NDArray[np.bool_]
    truncated: dict[str, int]
    lengths: dict[str, NDArray[np.int64]]


class Preprocessor:
    """Turns columns into the tensors that a `FeatureSpec` declares.

    Parameters
    ----------
    features
        The declaration.
    types
        Declared type of every raw column that may be used; whole numbers become float64 where the features declare
        values that stand for a missing one.

    Raises
    ------
    ConfigError
        With all problems at once: a variable that is neither a column nor new, a new one that has the name of a column,
        a jagged one in ``event``, a flat one in a collection, an expression that does not fit its columns.
    """

    def __init__(self, features: FeatureSpec, types: Mapping[str, ColumnType]) -> None:
        self.features = features
        self._known = can_be_missing(types) if features.missing_values else dict(types)
        self._new = NewVariables(features.new_variables)
        self._preselection = _parse(features.preselection, "preselection")
        self._sort = {group.name: _parse(group.sort, f"inputs.{group.name}.sort") for group in features.inputs}
        self._types = self._known
        problems = list(self._check())
        if problems:
            raise ConfigError(problems, where="inputs do not fit the columns of the files")
        self.columns = self._new.columns_behind(self._roots())
        self.types = {name: self._known[name] for name in sorted(self.columns)}

    def run(self, columns: Columns, num_entries: int) -> Prepared:
        """Tensors of a set of events.

        Parameters
        ----------
        columns
            At least `columns`; others are not looked at.
        num_entries
            N, the number of events that the columns hold.

        Raises
        ------
        DataError
            A column is missing or of another kind, or lists of one collection differ in length.
        """
        typed = self._cast(columns, self.types)
        _check_lengths(typed, num_entries)
        selected = self._select(typed, num_entries)
        if not selected.all():
            typed = compress_columns(typed, selected)
        events = _Events(typed, self._new, int(np.count_nonzero(selected)))
        prepared = Prepared({}, selected, {}, {})
        for group in self.features.inputs:
            if group.length is None:
                prepared.inputs[group.name] = _stack(group, events)
            else:
                self._pad(group, events, prepared)
        return prepared

    def evaluate(self, text: str, columns: Columns, num_entries: int, *, where: str = "expression") -> Column:
        """Value of an expression over columns and new variables, such as a weight or an observer.

        ``columns`` are cast to their declared types first; only those that the expression needs are looked at.
        """
        expression = Expression.parse(text, where=where)
        expression.result_type(self._types)
        typed = self._cast(columns, {name: self._known[name] for name in self.needs_of(expression)})
        return _Events(typed, self._new, num_entries).evaluate(expression)

    def _cast(self, columns: Columns, types: Mapping[str, ColumnType]) -> dict[str, Column]:
        """Declared types, and NaN for what stands for a missing value: the same for every expression."""
        typed, codes = cast(columns, types), self.features.missing_values
        return hide_missing(typed, codes) if codes else typed

    def needs(self, name: str) -> frozenset[str]:
        """Raw columns behind a column or new variable."""
        return self._new.columns_behind([name])

    def needs_of(self, expression: Expression) -> frozenset[str]:
        """Raw columns behind an expression, through new variables."""
        return self._new.columns_behind(expression.names)

    def type_of(self, name: str) -> ColumnType:
        """Type of a column or new variable."""
        return self._types[name]

    def _roots(self) -> Iterator[str]:
        for group in self.features.inputs:
            yield from (variable.name for variable in group.variables)
        for expression in (self._preselection, *self._sort.values()):
            if expression is not None:
                yield from expression.names

    def _check(self) -> Iterator[str]:
        taken = [name for name in self._new.expressions if name in self._known]
        if taken:
            # Of a sealed contract only the raw columns are known, so those can never be among them.
            for name in taken:
                yield f"new_variables.{name}: the files have a column '{name}'; choose another name"
            return
        try:
            self._types = self._new.types(self._known)
            for expression in (*self._sort.values(), self._preselection):
                if expression is not None:
                    expression.result_type(self._types)
        except ExpressionError as error:
            yield str(error).replace("\n", "\n    ")
            return  # what builds on a broken expression would only repeat it
        yield from self._check_preselection()
        for group in self.features.inputs:
            yield from self._check_group(group)

    def _check_preselection(self) -> Iterator[str]:
        if self._preselection is None:
            return
        found = self._preselection.result_type(self._types)
        if found.kind != "flat":
            yield f"preselection: gives a list an event; wrap it in any(...) or all(...): {self.features.preselection}"
        elif found.dtype != "bool":
            yield f"preselection: gives {found.dtype}, not true or false: {self.features.preselection}"

    def _check_group(self, group: InputGroup) -> Iterator[str]:
        for index, variable in enumerate(group.variables):
            path = f"inputs.{group.name}[{index}]" if group.length is None else f"inputs.{group.name}.vars[{index}]"
            found = self._types.get(variable.name)
            if found is None:
                close = nearest(variable.name, self._types)
                yield f"{path}: '{variable.name}' is neither a column nor a new variable{close}"
                continue
            if group.length is None and found.kind == "jagged":
                yield (
                    f"{path}: '{variable.name}' is jagged ({found}), listed as flat; put it under a collection, as in "
                    f"jets: {{vars: [{variable.name}], length: 4}}, or reduce it in new_variables, as in "
                    f"max({variable.name})"
                )
            if group.length is not None and found.kind == "flat":
                yield (
                    f"{path}: '{variable.name}' is flat ({found}), listed in the collection '{group.name}'; "
                    f"put it under inputs.event"
                )
        sort = self._sort[group.name]
        if sort is not None and sort.result_type(self._types).kind == "flat":
            yield f"inputs.{group.name}.sort: '{group.sort}' is flat; sort by a column of the collection"

    def _select(self, typed: Columns, num_entries: int) -> NDArray[np.bool_]:
        if self._preselection is None:
            return np.ones(num_entries, dtype=np.bool_)
        selected = _Events(typed, self._new, num_entries).evaluate(self._preselection)
        return np.asarray(selected, dtype=np.bool_)

    def _pad(self, group: InputGroup, events: _Events, prepared: Prepared) -> None:
        assert group.length is not None
        lists = [_as_jagged(events.column(variable.name), variable.name) for variable in group.variables]
        _check_counts(group, lists)
        sort = self._sort[group.name]
        order = None if sort is None else _sorted_order(_as_jagged(events.evaluate(sort), sort.text), lists[0])
        counts = lists[0].counts
        prepared.inputs[group.name] = pad(lists, length=group.length, order=order)
        prepared.lengths[group.name] = counts
        prepared.truncated[group.name] = int(np.maximum(counts - group.length, 0).sum())


class _Events:
    """Typed columns of a set of events with new variables computed once, when first asked for."""

    def __init__(self, typed: Columns, new: NewVariables, num_entries: int) -> None:
        self.num_entries = num_entries
        self._columns = dict(typed)
        self._new = new

    def column(self, name: str) -> Column:
        self._compute([name])
        return self._columns[name]

    def evaluate(self, expression: Expression) -> Column:
        self._compute(expression.names)
        return expression.evaluate(self._columns, self.num_entries)

    def _compute(self, names: Iterable[str]) -> None:
        for step in self._new.steps_to(names, known=self._columns):
            self._columns[step] = self._new.expressions[step].evaluate(self._columns, self.num_entries)


def pad(lists: list[Jagged], *, length: int, order: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """Lists of equal lengths side by side, cut and filled up with NaN to a fixed length.

    Parameters
    ----------
    lists
        F columns with the same counts, N events each.
    length
        K.
    order
        int64 [M]: position of the value that comes next, over all events; None keeps the order of the lists.

    Returns
    -------
    float32 [N, K, F].
    """
    counts, offsets = lists[0].counts, lists[0].offsets
    num_entries, num_values = len(counts), len(lists[0].values)
    padded = np.full((num_entries * length, len(lists)), np.nan, dtype=np.float32)
    # Row of the padded table for each value: event * K + slot, where slot = position - start of the list.
    target = np.arange(num_values) + np.repeat(np.arange(num_entries) * length - offsets[:-1], counts)
    source: slice | NDArray[Any] = slice(None) if order is None else order
    if num_values and counts.max() > length:
        slot = np.arange(num_values) - np.repeat(offsets[:-1], counts)
        kept = slot < length
        target = target[kept]
        source = np.flatnonzero(kept) if order is None else order[kept]
    with np.errstate(over="ignore"):
        for channel, column in enumerate(lists):
            padded[target, channel] = column.values[source]
    return padded.reshape(num_entries, length, len(lists))


def _sorted_order(key: Jagged, like: Jagged) -> NDArray[np.int64] | None:
    """Position of each list's values in rising order of the key, NaN last, ties as they stand; None if in order."""
    if not np.array_equal(key.offsets, like.offsets):
        raise DataError(f"the sort key has other list lengths than the collection: {_first_difference(key, like)}")
    values = key.values
    event = np.repeat(np.arange(len(key)), key.counts)
    with np.errstate(invalid="ignore"):
        falling = (values[1:] < values[:-1]) | (np.isnan(values[:-1]) & ~np.isnan(values[1:]))
    if not np.any(falling & (event[1:] == event[:-1])):
        return None
    return _argsort_lists(key, event)


def _argsort_lists(key: Jagged, event: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions that sort each list by itself; stable, NaN last."""
    counts, starts = key.counts, key.offsets[:-1]
    longest = int(counts.max())
    if len(key) * longest > 8 * len(key.values) + 1_000_000:
        # A few very long lists: the table below would be mostly padding.
        return np.lexsort((key.values, event))
    # One row a list, padded with what sorts last, sorts 4 to 6 times faster than one sort over all values. It keeps the
    # type of the key (a float would take neighbouring whole numbers above 2^53 for equal); a value that equals the
    # padding stays before it, since the sort is stable.
    table = np.full((len(key), longest), _sorts_last(key.dtype), dtype=key.dtype)
    table[event, np.arange(len(event)) - np.repeat(starts, counts)] = key.values
    order = np.argsort(table, axis=1, kind="stable") + starts[:, np.newaxis]
    return order[np.arange(longest) < counts[:, np.newaxis]]


def _sorts_last(dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "f":
        return np.nan
    return True if dtype.kind == "b" else np.iinfo(dtype).max


def _stack(group: InputGroup, events: _Events) -> NDArray[np.float32]:
    stacked = np.empty((events.num_entries, len(group.variables)), dtype=np.float32)
    with np.errstate(over="ignore"):
        for channel, variable in enumerate(group.variables):
            stacked[:, channel] = _as_flat(events.column(variable.name), variable.name)
    return stacked


def _as_flat(column: Column, name: str) -> NDArray[Any]:
    if isinstance(column, Jagged):
        raise DataError(f"'{name}' is a list an event where one value is needed")
    return column


def _as_jagged(column: Column, name: str) -> Jagged:
    if isinstance(column, Jagged):
        return column
    raise DataError(f"'{name}' is flat where a list an event is needed")


def _check_lengths(columns: Columns, num_entries: int) -> None:
    for name, column in columns.items():
        if len(column) != num_entries:
            raise DataError(f"column '{name}' holds {len(column)} events, the others {num_entries}")


def _check_counts(group: InputGroup, lists: list[Jagged]) -> None:
    first = lists[0]
    for variable, column in zip(group.variables, lists, strict=True):
        if column.offsets is not first.offsets and not np.array_equal(column.offsets, first.offsets):
            raise DataError(
                f"the columns of the collection '{group.name}' have different lengths: '{variable.name}' and "
                f"'{group.variables[0].name}' {_first_difference(column, first)}"
            )


def _first_difference(one: Jagged, other: Jagged) -> str:
    event = int(np.flatnonzero(one.counts != other.counts)[0])
    return f"differ first in event {event} of this block: {one.counts[event]} and {other.counts[event]} values"


def _parse(text: str | None, where: str) -> Expression | None:
    return None if text is None else Expression.parse(text, where=where)


def columns_of(features: FeatureSpec, expressions: Iterable[str] = ()) -> frozenset[str]:
    """Raw columns that a declaration names, with those of further expressions (weights, selections).

    Needs no types, so a source can be asked for them before anything is read.
    """
    names = [variable.name for group in features.inputs for variable in group.variables]
    texts = [features.preselection, *(group.sort for group in features.inputs), *expressions]
    for text in texts:
        if text is not None:
            names.extend(Expression.parse(text).names)
    return NewVariables(features.new_variables).columns_behind(names)
