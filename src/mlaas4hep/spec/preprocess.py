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

from mlaas4hep.arguments import as_found, require
from mlaas4hep.errors import ConfigError, DataError, ExpressionError, UserError, nearest
from mlaas4hep.spec.columns import (
    Column,
    Columns,
    ColumnType,
    Jagged,
    Nested,
    can_be_missing,
    cast,
    compress_columns,
    hide_missing,
    kind_of,
)
from mlaas4hep.spec.computed import Computed
from mlaas4hep.spec.expressions import Expression
from mlaas4hep.spec.features import EVENT, FeatureSpec, InputGroup
from mlaas4hep.spec.new_variables import NewVariables, computable
from mlaas4hep.spec.padding import Assembled, Collection, first_difference, pad, sorted_order


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
    sealed
        The types are those of a contract, which has the columns that a score needs and no others: new variables that
        need others are left out.

    Raises
    ------
    ConfigError
        With all problems at once: a variable that is neither a column nor new, a new one that has the name of a column,
        a jagged one in ``event``, a flat one in a collection, an expression that does not fit its columns.
    """

    def __init__(self, features: FeatureSpec, types: Mapping[str, ColumnType], *, sealed: bool = False) -> None:
        require(features, FeatureSpec, "features", hint="those of a config are config.features")
        if not isinstance(types, Mapping):
            raise UserError(f"types must be the type of each column by name, as catalogue.types; got {as_found(types)}")
        self.features = features
        self._known = can_be_missing(types) if features.missing_values else dict(types)
        declared = computable(features.new_variables, types) if sealed else features.new_variables
        self._new = _new_variables(declared, self._known)
        self._preselection = _parse(features.preselection, "preselection")
        self._sort = {group.name: _parse(group.sort, f"inputs.{group.name}.sort") for group in features.inputs}
        self._types = self._known
        problems = list(self._check())
        if problems:
            raise ConfigError(problems, where="inputs do not fit the columns of the files")
        self.columns = self._new.columns_behind(self._roots())
        self.types = {name: self._known[name] for name in sorted(self.columns)}
        self.plain = frozenset() if features.missing_values else self._only_inputs()
        """Raw columns that are inputs as they are, and nothing is computed from."""

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
        rows = self.assemble(columns, num_entries)
        selected = rows.kept
        if rows.index is not None:
            selected = np.zeros(num_entries, dtype=np.bool_)
            selected[rows.index[rows.kept]] = True
        inputs = {}
        if rows.flats:
            inputs[EVENT] = _stack(rows)
        for one in rows.collections:
            padded = pad(one.lists, length=one.length, order=one.order)
            inputs[one.name] = padded if rows.kept.all() else padded[rows.kept]
        lengths = rows.lengths()
        truncated = {one.name: truncated_objects(lengths[one.name], one.length) for one in rows.collections}
        return Prepared(inputs, selected, truncated, lengths)

    def assemble(
        self,
        columns: Columns,
        num_entries: int,
        *,
        wanted: NDArray[np.bool_] | None = None,
        as_stored: frozenset[str] = frozenset(),
    ) -> Assembled:
        """Every variable of a set of events, computed but not yet padded.

        Parameters
        ----------
        columns, num_entries
            As of `run`.
        wanted
            bool [N]: events that are asked for; None asks for all.
        as_stored
            Some of `plain`: their values may stay in whatever kind of number they came, if it stands for the declared
            one.

        Raises
        ------
        DataError
            As of `run`; only events that are wanted and selected matter.
        """
        typed: Columns = self._cast(columns, self.types, as_stored)
        _check_lengths(typed, num_entries)
        index = None
        kept = np.ones(num_entries, dtype=np.bool_) if wanted is None else wanted
        if _is_sparse(kept):
            typed, index, kept = _thin(typed, index, kept)
        if self._preselection is not None:
            passed = Computed(typed, self._new, len(kept)).evaluate(self._preselection)
            kept = kept & np.asarray(passed, dtype=np.bool_)
            if _is_sparse(kept):
                typed, index, kept = _thin(typed, index, kept)
        try:
            return self._assembled(typed, index, kept)
        except DataError:
            if kept.all():
                raise
        # What does not fit may be events that nobody wants.
        return self._assembled(*_thin(typed, index, kept))

    def evaluate(self, text: str, columns: Columns, num_entries: int, *, where: str = "expression") -> Column:
        """Value of an expression over columns and new variables, such as a weight or an observer.

        ``columns`` are cast to their declared types first; only those that the expression needs are looked at.
        """
        expression = Expression.parse(text, where=where)
        expression.result_type(self._types)
        typed = self._cast(columns, {name: self._known[name] for name in self.needs_of(expression)})
        return Computed(typed, self._new, num_entries).evaluate(expression)

    def values(self, name: str, columns: Columns, num_entries: int) -> Column:
        """Values of a column or new variable, as `evaluate` gives those of an expression."""
        typed = self._cast(columns, {one: self._known[one] for one in self.needs(name)})
        return Computed(typed, self._new, num_entries).column(name)

    def _cast(
        self, columns: Columns, types: Mapping[str, ColumnType], as_stored: frozenset[str] = frozenset()
    ) -> dict[str, Column]:
        """Declared types, and NaN for what stands for a missing value: the same for every expression."""
        typed, codes = cast(columns, types, as_stored=as_stored), self.features.missing_values
        return hide_missing(typed, codes) if codes else typed

    def needs(self, name: str) -> frozenset[str]:
        """Raw columns behind a column or new variable."""
        return self._new.columns_behind([name])

    def needs_of(self, expression: Expression) -> frozenset[str]:
        """Raw columns behind an expression, through new variables."""
        return self._new.columns_behind(self._new.needs_of(expression))

    def definitions_of(self, expression: Expression) -> dict[str, str]:
        """Texts of the new variables behind an expression, by name: what it means beside columns."""
        steps = self._new.steps_to(self._new.needs_of(expression))
        return {step: self._new.expressions[step].canonical for step in steps}

    def type_of(self, name: str) -> ColumnType:
        """Type of a column or new variable."""
        return self._types[name]

    @property
    def known(self) -> Mapping[str, ColumnType]:
        """Types of all columns and new variables."""
        return self._types

    def _roots(self) -> Iterator[str]:
        for group in self.features.inputs:
            yield from (variable.name for variable in group.variables)
        for expression in self._used():
            yield from self._new.needs_of(expression)

    def _only_inputs(self) -> frozenset[str]:
        used = {name for expression in self._used() for name in self._new.needs_of(expression)}
        computed = self._new.columns_behind([*self._new.expressions, *used])
        inputs = {variable.name for group in self.features.inputs for variable in group.variables}
        return frozenset(inputs & self.columns) - computed

    def _used(self) -> Iterator[Expression]:
        """Expressions beside those of new variables."""
        yield from (one for one in (self._preselection, *self._sort.values()) if one is not None)

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
            if found.kind == "nested":
                yield (
                    f"{path}: '{variable.name}' is {found}, a list of lists an event, which no input takes; reduce it "
                    f"in new_variables, as in max({variable.name}) or flatten({variable.name})"
                )
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
        if sort is not None and (kind := sort.result_type(self._types).kind) != "jagged":
            yield f"inputs.{group.name}.sort: '{group.sort}' is {kind}; sort by a column of the collection"

    def _assembled(self, typed: Columns, index: NDArray[np.int64] | None, kept: NDArray[np.bool_]) -> Assembled:
        events = Computed(typed, self._new, len(kept))
        flats: list[NDArray[Any]] = []
        collections = []
        for group in self.features.inputs:
            if group.length is None:
                flats = [_as_flat(events.column(one.name), one.name) for one in group.variables]
            else:
                collections.append(self._collection(group, group.length, events))
        return Assembled(index, kept, flats, collections)

    def _collection(self, group: InputGroup, length: int, events: Computed) -> Collection:
        lists = [_as_jagged(events.column(variable.name), variable.name) for variable in group.variables]
        _check_counts(group, lists)
        sort = self._sort[group.name]
        order = None if sort is None else sorted_order(_as_jagged(events.evaluate(sort), sort.text), lists[0])
        return Collection(group.name, length, lists, order)


def truncated_objects(lengths: NDArray[np.int64], length: int) -> int:
    """Objects beyond the first K, over all events."""
    return int(np.maximum(lengths - length, 0).sum())


def _is_sparse(kept: NDArray[np.bool_]) -> bool:
    """Whether fewer than half of the events are left: only then is it cheaper to take them out of every column."""
    return 2 * int(np.count_nonzero(kept)) < len(kept)


def _thin(
    typed: Columns, index: NDArray[np.int64] | None, kept: NDArray[np.bool_]
) -> tuple[Columns, NDArray[np.int64], NDArray[np.bool_]]:
    """The kept events alone."""
    left = np.flatnonzero(kept) if index is None else index[kept]
    return compress_columns(typed, kept), left, np.ones(len(left), dtype=np.bool_)


def _stack(rows: Assembled) -> NDArray[np.float32]:
    stacked = np.empty((int(np.count_nonzero(rows.kept)), len(rows.flats)), dtype=np.float32)
    everything = bool(rows.kept.all())
    with np.errstate(over="ignore"):
        for channel, values in enumerate(rows.flats):
            stacked[:, channel] = values if everything else values[rows.kept]
    return stacked


def _as_flat(column: Column, name: str) -> NDArray[Any]:
    if isinstance(column, Jagged | Nested):
        raise DataError(f"'{name}' is a list an event where one value is needed")
    return column


def _as_jagged(column: Column, name: str) -> Jagged:
    if isinstance(column, Jagged):
        return column
    raise DataError(f"'{name}' is {kind_of(column)} where a list an event is needed")


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
                f"'{group.variables[0].name}' {first_difference(column, first)}"
            )


def _parse(text: str | None, where: str) -> Expression | None:
    return None if text is None else Expression.parse(text, where=where)


def _new_variables(declared: Mapping[str, str], known: Iterable[str]) -> NewVariables:
    try:
        return NewVariables(declared, known)
    except ExpressionError as error:
        problem = str(error).replace("\n", "\n    ")
        raise ConfigError([problem], where="inputs do not fit the columns of the files") from error


def columns_of(
    features: FeatureSpec, expressions: Iterable[str] = (), *, names: Iterable[str] = (), known: Iterable[str]
) -> frozenset[str]:
    """Raw columns that a declaration takes, with those of further expressions (weights, selections) and names.

    Needs no types, so a source can be asked for them before anything is read.

    Parameters
    ----------
    features
        The declaration.
    expressions, names
        Further ones.
    known
        Names of the columns that there are: they tell what a collection in a four-vector stands for.

    Raises
    ------
    ExpressionError
        A collection has not the columns that are asked of it.
    """
    new = NewVariables(features.new_variables, known)
    names = [*names, *(variable.name for group in features.inputs for variable in group.variables)]
    texts = [features.preselection, *(group.sort for group in features.inputs), *expressions]
    for text in texts:
        if text is not None:
            names.extend(new.needs_of(Expression.parse(text)))
    return new.columns_behind(names)
