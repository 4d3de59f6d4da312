"""New variables of a set of events, computed from typed columns when they are first asked for.

Used by `mlaas4hep.spec.preprocess` and by systematic variations. Invariant: each new variable is computed once, from
the columns that it was given, whoever asks for it and in whatever order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlaas4hep.spec.columns import Column, Columns
from mlaas4hep.spec.expressions import Expression
from mlaas4hep.spec.new_variables import NewVariables


class Computed:
    """Typed columns of a set of events with new variables computed once, when first asked for."""

    def __init__(self, typed: Columns, new: NewVariables, num_entries: int) -> None:
        self.num_entries = num_entries
        self._columns = dict(typed)
        self._new = new

    def column(self, name: str) -> Column:
        """Values of a column or new variable."""
        if name not in self._columns:
            self._compute([name])
        return self._columns[name]

    def evaluate(self, expression: Expression) -> Column:
        """Values of an expression over them."""
        self._compute(self._new.needs_of(expression))
        return expression.evaluate(self._columns, self.num_entries)

    def _compute(self, names: Iterable[str]) -> None:
        for step in self._new.steps_to(names, known=self._columns):
            self._columns[step] = self._new.expressions[step].evaluate(self._columns, self.num_entries)


def evaluate_together(expressions: Mapping[str, Expression], typed: Columns, new: NewVariables) -> dict[str, Column]:
    """Values of several expressions over the same typed columns, by the name of each."""
    if not expressions:
        return {}
    events = Computed(typed, new, len(next(iter(typed.values()))))
    return {name: events.evaluate(one) for name, one in expressions.items()}
