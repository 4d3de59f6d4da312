"""What is computed of one input: scores of every model under every variation, observers, and what tells events apart.

Made anew for each file, since the types of columns are those of the file where the contract does not fix them.
Invariant: the columns of a file are read once, whatever the number of models and variations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.bundle import Bundle
from mlaas4hep.data.hashing import UInt64
from mlaas4hep.data.rows import writer
from mlaas4hep.data.source import ColumnInfo, Source
from mlaas4hep.errors import ConfigError, DataError, ExpressionError, UserError, nearest
from mlaas4hep.score.alignment import Teller, fills, teller_of
from mlaas4hep.score.asked import Asked, Model
from mlaas4hep.score.names import OutputColumn, identifier, require_different
from mlaas4hep.score.passes import Pass
from mlaas4hep.spec.columns import Column, Columns, ColumnType, Jagged, Nested
from mlaas4hep.spec.expressions import Expression
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.spec.varied import VariedPreprocessor


@dataclass(frozen=True)
class Observer:
    """One number an event that is written beside the scores.

    Parameters
    ----------
    name, text
        Of the column, and the expression.
    preprocessor
        Evaluates it.
    dtype
        Of its values.
    """

    name: str
    text: str
    preprocessor: Preprocessor
    dtype: np.dtype[Any]

    def values(self, columns: Columns, num_entries: int) -> NDArray[Any]:
        """[N]."""
        found = self.preprocessor.evaluate(self.text, columns, num_entries, where=f"observers '{self.text}'")
        return np.asarray(found, dtype=self.dtype)


@dataclass(frozen=True, eq=False)
class Program:
    """What is made of the columns of one file.

    Parameters
    ----------
    passes
        Of all models, nominal ones first.
    observers
        Beside them.
    teller
        Tells events apart.
    columns
        Of the output, in order.
    """

    passes: tuple[Pass, ...]
    observers: tuple[Observer, ...]
    teller: Teller
    columns: tuple[OutputColumn, ...]

    @classmethod
    def of(cls, asked: Asked, source: Source) -> Program:
        """For a file.

        Raises
        ------
        DataError, ConfigError
            It lacks a column that is needed, or has it of another kind.
        """
        passes, columns = [], list[OutputColumn]()
        preprocessors = {}
        for model in asked.models:
            made = list(_passes(asked, model, source))
            passes += made
            preprocessors[model.bundle.path] = made[0].preprocessor
            columns += model.columns
        observers = _observers(asked, source, preprocessors) if asked.observers else {}
        columns += observers
        teller = teller_of(source.columns, [one.bundle for one in asked.models])
        if asked.identity:
            taken = {one.name for one in columns}
            columns += [OutputColumn(name, "identity", name) for name in teller.shown if name not in taken]
        require_different(columns)
        return cls(tuple(passes), tuple(observers.values()), teller, tuple(columns))

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """Raw columns that are read."""
        names = set(self.teller.columns)
        for one in self.passes:
            names |= one.preprocessor.columns
            names |= set(one.folds.columns if one.folds is not None else ())
        for observer in self.observers:
            names |= observer.preprocessor.needs_of(Expression.parse(observer.text))
        return tuple(sorted(names))

    @cached_property
    def stored(self) -> frozenset[str]:
        """Those of them that are only put into rows, so that their values may stay as they lie in the file."""
        looked_at = set(self.teller.columns)
        for observer in self.observers:
            looked_at |= observer.preprocessor.needs_of(Expression.parse(observer.text))
        for one in self.passes:
            looked_at |= one.preprocessor.columns - one.preprocessor.plain
            looked_at |= set(one.folds.columns if one.folds is not None else ())
        return frozenset(self.needs) - looked_at

    @cached_property
    def types(self) -> dict[str, np.dtype[Any]]:
        """By column of the output, in order."""
        found = {}
        observed = {one.name: one.dtype for one in self.observers}
        for one in self.columns:
            known = {"score": np.dtype(np.float32), "selected": np.dtype(np.bool_)}
            shown = observed if one.kind == "observer" else self.teller.shown
            found[one.name] = known[one.kind] if one.kind in known else shown[one.name]
        return found

    def run(self, columns: Columns, num_entries: int) -> tuple[dict[str, NDArray[Any]], UInt64]:
        """Columns of the output, and what each event is known by, of raw columns."""
        found: dict[str, NDArray[Any]] = {}
        for one in self.passes:
            found |= one.run(columns, num_entries, stored=self.stored)
        for observer in self.observers:
            found[observer.name] = observer.values(columns, num_entries)
        found |= {name: values for name, values in self.teller.values(columns).items() if name not in found}
        return found, self.teller.hashes(columns, num_entries)

    def nothing(self, num_entries: int) -> tuple[dict[str, NDArray[Any]], UInt64]:
        """The same of entries that cannot be read."""
        found: dict[str, NDArray[Any]] = {}
        for one in self.passes:
            found |= one.nothing(num_entries)
        beside = [one.name for one in self.columns if one.kind in ("observer", "identity")]
        found |= fills(beside, self.types, num_entries)
        found |= fills([one for one in self.teller.shown if one not in found], self.teller.shown, num_entries)
        return found, self.teller.nothing(num_entries)


def _passes(asked: Asked, model: Model, source: Source) -> Iterator[Pass]:
    types = _types(model.bundle, source)
    features = model.bundle.spec.features
    for variation in ("", *model.variations):
        if variation:
            replaced = model.variations[variation]
            made: Preprocessor = VariedPreprocessor(features, types, name=variation, replaced=replaced, sealed=True)
        else:
            made = Preprocessor(features, types, sealed=True)
        own = [one for one in model.columns if one.variation == variation]
        yield Pass(
            model.bundle,
            model.engine,
            made,
            tuple(one.name for one in own if one.kind == "score"),
            next(one.name for one in own if one.kind == "selected"),
            asked.fill,
            writer(source.num_entries * features.width),
            model.folds,
        )


def _types(bundle: Bundle, source: Source) -> dict[str, ColumnType]:
    """Those of the contract, and of the file for what it does not know; a column of the file is no new variable."""
    spec = bundle.spec
    _require_columns(bundle, source)
    found = {name: info.type for name, info in source.columns.items() if info.type is not None}
    return {name: one for name, one in found.items() if name not in spec.features.new_variables} | spec.columns


def _require_columns(bundle: Bundle, source: Source) -> None:
    where = f"{source.path}, tree '{source.tree}'"
    problems = []
    for name, declared in bundle.spec.columns.items():
        info: ColumnInfo | None = source.columns.get(name)
        if info is None:
            problems.append(f"has no column '{name}' ({declared}){nearest(name, source.columns)}")
        elif info.type is None:
            problems.append(f"column '{name}' ({info.description}) cannot be read: {info.reason}")
        elif info.type.kind != declared.kind:
            problems.append(f"column '{name}' is {info.type}, where the model '{bundle.name}' takes {declared}")
    if problems:
        raise DataError(f"{where}: does not fit the model '{bundle.name}': {'; '.join(problems[:8])}")


def _observers(asked: Asked, source: Source, preprocessors: Mapping[Any, Preprocessor]) -> dict[OutputColumn, Observer]:
    """Of all models, each once."""
    found: dict[OutputColumn, Observer] = {}
    meant: dict[str, tuple[str, Any]] = {}
    for model in asked.models:
        preprocessor = preprocessors[model.bundle.path]
        for text in model.bundle.spec.features.observers:
            meaning = _meaning(text, preprocessor)
            other, known = meant.setdefault(text, (model.bundle.name, meaning))
            if other != model.bundle.name or known is not meaning:
                _require_equal(text, (other, known), (model.bundle.name, meaning))
                continue
            column = OutputColumn(identifier(text), "observer", text, model.bundle.name)
            found[column] = Observer(column.name, text, preprocessor, _dtype_of(text, preprocessor, source))
    return found


def _meaning(text: str, preprocessor: Preprocessor) -> tuple[dict[str, str], object]:
    """What an observer is made of beside columns: two models may call different things by one name."""
    try:
        definitions = preprocessor.definitions_of(Expression.parse(text))
    except ExpressionError:
        definitions = {}  # `_dtype_of` tells what is wrong with it
    return definitions, preprocessor.features.missing_values


def _require_equal(text: str, one: tuple[str, Any], other: tuple[str, Any]) -> None:
    if one[1] != other[1]:
        raise UserError(
            f"the observer '{text}' is one thing to the model '{one[0]}' and another to '{other[0]}': the new "
            "variables behind it differ; score them apart, or leave observers out by --no-observers"
        )


def _dtype_of(text: str, preprocessor: Preprocessor, source: Source) -> np.dtype[Any]:
    where = f"{source.path}, tree '{source.tree}'"
    try:
        needs = sorted(preprocessor.needs_of(Expression.parse(text)))
        nothing = {name: _empty(preprocessor.known[name]) for name in needs}
        found = preprocessor.evaluate(text, nothing, 0)
    except (ExpressionError, ConfigError, KeyError) as error:
        raise DataError(
            f"{where}: the observer '{text}' cannot be told: {error}; --no-observers leaves observers out"
        ) from error
    if not isinstance(found, np.ndarray):
        raise DataError(f"{where}: the observer '{text}' is a list an event; --no-observers leaves observers out")
    return found.dtype


def _empty(declared: ColumnType) -> Column:
    values, offsets = np.zeros(0, declared.dtype), np.zeros(1, np.int64)
    if declared.kind == "flat":
        return values
    return Jagged(offsets, values) if declared.kind == "jagged" else Nested(offsets, Jagged(offsets, values))
