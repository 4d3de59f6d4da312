"""New variables in the order in which they can be computed.

They may use columns and each other; `NewVariables` settles once what comes before what, so that types, needs and values
are found by going through them in order. Invariant: time grows with the length of the text, however the variables use
each other, and no chain of them is too long for Python's stack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlaas4hep.errors import ConfigError, ExpressionError
from mlaas4hep.spec.columns import ColumnType
from mlaas4hep.spec.expressions import Expression

MAX_NEW_VARIABLES = 1000


class NewVariables:
    """Expressions by name, each after those that it uses.

    Parameters
    ----------
    declared
        Their text by name.
    known
        Names of the columns that there are: with the new variables they tell what a collection stands for.

    Raises
    ------
    ConfigError
        They need each other in a circle, or are more than `MAX_NEW_VARIABLES`.
    ExpressionError
        A text cannot be read, or names a collection without the columns that are asked of it.
    """

    def __init__(self, declared: Mapping[str, str], known: Iterable[str]) -> None:
        if len(declared) > MAX_NEW_VARIABLES:
            raise ConfigError([too_many(declared)], where="new_variables")
        parsed = {name: Expression.parse(text, where=f"new_variables.{name}") for name, text in declared.items()}
        self._known = frozenset(known) | parsed.keys()
        self._uses = {name: self.needs_of(expression) for name, expression in parsed.items()}
        order, circle = in_order(self._uses)
        if circle:
            raise ConfigError([circle_line(circle)], where="new_variables")
        self.expressions = {name: parsed[name] for name in order}
        self._rank = {name: place for place, name in enumerate(order)}

    def __contains__(self, name: str) -> bool:
        return name in self.expressions

    def needs_of(self, expression: Expression) -> frozenset[str]:
        """Columns and new variables that an expression takes; `ExpressionError` for collections without them."""
        return expression.needs(self._known)

    def columns_behind(self, names: Iterable[str]) -> frozenset[str]:
        """Raw columns that columns and new variables come from."""
        return frozenset(self._behind(names) - self.expressions.keys())

    def steps_to(self, names: Iterable[str], *, known: Iterable[str] = ()) -> list[str]:
        """New variables to compute for some names, in order; those that are known are not looked behind."""
        return sorted(self._behind(names, known) & self.expressions.keys(), key=self._rank.__getitem__)

    def types(self, columns: Mapping[str, ColumnType]) -> dict[str, ColumnType]:
        """Types of columns and new variables together.

        Raises
        ------
        ExpressionError
            Of the first one that does not fit its columns; what builds on it would only repeat it.
        """
        # A type not yet found is named only in a message (the nearest name); the order keeps it from being read.
        found = {name: ColumnType("flat", "float64") for name in self.expressions} | dict(columns)
        for name, expression in self.expressions.items():
            found[name] = expression.result_type(found)
        return found

    def _behind(self, names: Iterable[str], known: Iterable[str] = ()) -> set[str]:
        """Names and all that they are made of."""
        pending, settled = list(names), set(known)
        seen: set[str] = set()
        while pending:
            name = pending.pop()
            if name in seen or name in settled:
                continue
            seen.add(name)
            if name in self.expressions:
                pending.extend(self._uses[name])
        return seen


def computable(declared: Mapping[str, str], columns: Iterable[str]) -> dict[str, str]:
    """New variables that some columns are enough for, through others.

    A contract declares all new variables, but lists the columns of those alone that a score needs: what only labels,
    targets or weights are made of cannot be computed when a model is served.

    Raises
    ------
    ConfigError
        They are more than `MAX_NEW_VARIABLES`.
    ExpressionError
        A text cannot be read.
    """
    if len(declared) > MAX_NEW_VARIABLES:
        raise ConfigError([too_many(declared)], where="new_variables")
    there = frozenset(columns) | declared.keys()
    uses = {
        name: _needs(Expression.parse(text, where=f"new_variables.{name}"), there) for name, text in declared.items()
    }
    users: dict[str, list[str]] = {}
    for name, needs in uses.items():
        for one in needs or ():
            users.setdefault(one, []).append(name)
    lost = [name for name, needs in uses.items() if needs is None or not needs <= there]
    left = set(uses).difference(lost)
    for name in lost:  # grows while it is gone through
        further = [user for user in users.get(name, ()) if user in left]
        left.difference_update(further)
        lost.extend(further)
    return {name: text for name, text in declared.items() if name in left}


def _needs(expression: Expression, known: frozenset[str]) -> frozenset[str] | None:
    """What an expression takes; None where a collection has not the columns that are asked of it."""
    try:
        return expression.needs(known)
    except ExpressionError:
        return None


def in_order(uses: Mapping[str, Iterable[str]]) -> tuple[list[str], list[str]]:
    """Names so that each comes after those that it uses; and a circle of names, where that cannot be.

    Parameters
    ----------
    uses
        By name what it uses; names that are not keys are given.

    Returns
    -------
    Order of all that are in no circle and use none, and one circle, each followed by what it uses (empty: none).
    """
    waiting = {name: {one for one in needs if one in uses} for name, needs in uses.items()}
    users: dict[str, list[str]] = {}
    for name, needs in waiting.items():
        for one in needs:
            users.setdefault(one, []).append(name)
    order = [name for name, needs in waiting.items() if not needs]
    for name in order:  # grows while it is gone through
        for user in users.get(name, ()):
            waiting[user].discard(name)
            if not waiting[user]:
                order.append(user)
    left = {name: min(needs) for name, needs in waiting.items() if needs}
    return order, _circle(left) if left else []


def _circle(following: Mapping[str, str]) -> list[str]:
    path: dict[str, None] = {}
    name = min(following)
    while name not in path:
        path[name] = None
        name = following[name]
    walked = list(path)
    return walked[walked.index(name) :]


def circle_line(circle: list[str]) -> str:
    """The problem with a circle, in words."""
    if len(circle) == 1:
        return f"new_variables.{circle[0]}: needs itself; give it a name that is not in its own expression"
    return f"new_variables: {', '.join(circle)} need each other in a circle"


def too_many(declared: Mapping[str, str]) -> str:
    """The problem with a list that is too long, in words."""
    return f"new_variables: lists {len(declared)}; at most {MAX_NEW_VARIABLES} fit one model"
