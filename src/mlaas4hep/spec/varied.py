"""Systematic variations of values: columns that are replaced before anything is computed from them.

``{Jet_pt: Jet_pt_jesUp}`` puts the varied column in the place of the nominal one, so that new variables, selections,
sorting, inputs and weights all follow. Invariant: a replacement is computed from nominal values alone, and what tells
one event from another is never replaced, so that an event keeps its part of the split.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from mlaas4hep.errors import ConfigError, ExpressionError
from mlaas4hep.spec.columns import Column, Columns, ColumnType, cast
from mlaas4hep.spec.computed import evaluate_together
from mlaas4hep.spec.expressions import Expression
from mlaas4hep.spec.features import FeatureSpec
from mlaas4hep.spec.preprocess import Preprocessor

WEIGHT = "weight"
"""The key of a variation that stands for ``weights.event``."""


class VariedPreprocessor(Preprocessor):
    """A `Preprocessor` that sees replaced columns.

    Parameters
    ----------
    features
        The nominal declaration.
    types
        As of `Preprocessor`.
    name
        Of the variation, for messages.
    replaced
        Expressions by the column or new variable whose place they take; ``weight`` takes that of ``weights.event``.
    sealed
        As of `Preprocessor`.

    Raises
    ------
    ConfigError
        A replacement that is of another kind than what it replaces, or uses no column; and what `Preprocessor` refuses.
    """

    def __init__(
        self,
        features: FeatureSpec,
        types: Mapping[str, ColumnType],
        *,
        name: str,
        replaced: Mapping[str, str],
        sealed: bool = False,
    ) -> None:
        self._more: frozenset[str] = frozenset()
        self._replaced: dict[str, Expression] = {}
        super().__init__(with_weight(features, replaced), types, sealed=sealed)
        where = f"variations.{name}"
        parsed = {
            target: Expression.parse(text, where=f"{where}.{target}")
            for target, text in replaced.items()
            if target != WEIGHT
        }
        problems = [line for target, one in parsed.items() for line in self._problems(f"{where}.{target}", target, one)]
        if problems:
            raise ConfigError(problems, where="variations do not fit the columns of the files")
        self._more = frozenset().union(*(self.needs_of(one) for one in parsed.values()))
        self._replaced = parsed
        self.columns = self.columns | self._more
        self.types = {name: self._known[name] for name in sorted(self.columns)}
        self.plain = frozenset()

    def needs(self, name: str) -> frozenset[str]:
        """Raw columns behind a column or new variable, and behind all replacements."""
        return super().needs(name) | self._more

    def needs_of(self, expression: Expression) -> frozenset[str]:
        """Raw columns behind an expression, and behind all replacements."""
        return super().needs_of(expression) | self._more

    def _problems(self, path: str, target: str, one: Expression) -> list[str]:
        try:
            found, wanted = one.result_type(self._types), self.type_of(target)
        except KeyError:
            return [f"{path}: '{target}' is neither a column of the files nor a new variable"]
        except ExpressionError as error:
            return [f"{path}: {error}"]
        if found.kind != wanted.kind:
            return [f"{path}: gives {found}, and takes the place of '{target}', which is {wanted}"]
        return [] if self._new.needs_of(one) else [f"{path}: uses no column: {one.text}"]

    def _cast(
        self, columns: Columns, types: Mapping[str, ColumnType], as_stored: frozenset[str] = frozenset()
    ) -> dict[str, Column]:
        nominal = super()._cast(columns, {**types, **{name: self._known[name] for name in self._more}}, as_stored)
        found = evaluate_together(self._replaced, nominal, self._new)
        return nominal | cast(found, {name: self._types[name] for name in found})


def with_weight(features: FeatureSpec, replaced: Mapping[str, str]) -> FeatureSpec:
    """The declaration with the event weight of a variation."""
    text = replaced.get(WEIGHT)
    return features if text is None else replace(features, weights=replace(features.weights, event=text))
