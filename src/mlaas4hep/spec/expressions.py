"""Expressions over columns: selections, new variables and weights, as a physicist writes them in a config.

The text is read once (`syntax`) into a tree (`nodes`) that is then evaluated on whole columns, for events
from files and for events sent to the server alike. Invariant: an event's value is the same bits alone and
within any batch, no numpy warning is given, and Python never evaluates the text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from mlaas4hep.arguments import require
from mlaas4hep.errors import DeclarationError, ExpressionError
from mlaas4hep.spec.columns import Column, Columns, ColumnType, values_of, with_values
from mlaas4hep.spec.nodes import Events, Name, Node
from mlaas4hep.spec.shapes import MisfitError
from mlaas4hep.spec.spelling import PlaceError
from mlaas4hep.spec.syntax import read, tidy


@dataclass(frozen=True)
class Expression:
    """An expression that has been read; build it with `Expression.parse`.

    Known are ``+ - * / // % **``, comparisons (also ``0 < x < 5``), ``and or not`` (also ``& | ~`` between
    parentheses, and ROOT's ``&& || !``), functions value by value (``abs sqrt log exp sin where ...``, see
    `mlaas4hep.spec.functions`), ``min(a, b)`` and ``max(a, b)``; over the list of each event ``sum count mean min max
    any all argmin argmax``; elements, slices and masks, ``Jet_pt[0]``, ``Jet_pt[1:]``, ``Jet_eta[Jet_pt > 30]``;
    ``sort(x, key)``; and four-vectors, ``mass(Jet[0] + Jet[1])``. An operation on lists works value by value, a flat
    operand counting for every value of the list; two lists need equal lengths.

    Values: ``+ - *`` of whole numbers are int64 (modulo 2^64), and so are ``//`` and ``%`` by a literal that
    is not 0. With a float or an unsigned 64-bit column, and for ``/``, ``**`` and functions, arithmetic is in
    float64 (of unsigned columns ``//`` and ``%`` by a positive literal stay exact). Whole numbers compare
    exactly; a whole number and a float compare as float64. What is picked from lists keeps its type, but for single
    elements, which are float64 (of conditions bool).

    Missing values (NaN): a comparison with NaN is False, ``!=`` True; arithmetic, ``sum`` and ``mean`` give NaN;
    ``min`` and ``max`` pass over NaN, ``sort`` puts it last. An element that is not there is NaN (of conditions:
    False). Over an empty list ``sum`` and ``count`` are 0, ``any`` False, ``all`` True, the others NaN. All of them
    but ``count``, ``any`` and ``all`` are float64; ``sum`` adds from left to right. Division by 0, ``log(0)`` and
    ``sqrt(-1)`` give what IEEE 754 says, silently.

    Names: letters, digits, ``_`` and dots as they are, anything else in back-ticks. Inside a function of four-vectors
    a name is a collection and stands for its columns (`mlaas4hep.spec.members`).

    Parameters
    ----------
    text
        As written, on one line.
    where
        Place in the config, for messages.
    names
        What it names: columns, and collections by their own name. `needs` tells the columns alone.
    canonical
        The text in a normal form, for hashing: independent of white space and of needless parentheses.

    Examples
    --------
    >>> expression = Expression.parse("sum(Jet_pt) > 300 and nJet >= 4")
    >>> sorted(expression.names)
    ['Jet_pt', 'nJet']
    >>> expression.canonical
    '(sum(Jet_pt) > 300) and (nJet >= 4)'
    """

    text: str
    where: str
    names: frozenset[str]
    canonical: str
    _root: Node = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str, *, where: str = "expression") -> Expression:
        """Read an expression.

        Raises
        ------
        ExpressionError
            It cannot be read, holds something that is not accepted, or is too long, deep or large; points at
            the character.
        """
        require(text, str, "an expression")
        text = tidy(text)
        try:
            root = read(text)
        except PlaceError as problem:
            raise _error(problem, text, where) from None
        return cls(text, where, frozenset(root.needs(None)), root.text, root)

    def needs(self, known: Collection[str]) -> frozenset[str]:
        """Columns that it takes.

        Parameters
        ----------
        known
            Names of the columns and new variables that there are: they tell what a collection stands for.

        Raises
        ------
        ExpressionError
            A collection has not the columns that are asked of it.
        """
        try:
            return frozenset(self._root.needs(known))
        except PlaceError as problem:
            raise _error(problem, self.text, self.where) from None

    def result_type(self, types: Mapping[str, ColumnType]) -> ColumnType:
        """Check the types of the columns and tell that of the result.

        Raises
        ------
        ExpressionError
            A name is not known, or an operation does not take its operand: a list where one value is needed
            or the reverse, a number where a condition is needed.
        """
        try:
            return self._root.infer(types)
        except PlaceError as problem:
            raise _error(problem, self.text, self.where) from None

    def evaluate(self, columns: Columns, num_entries: int) -> Column:
        """Compute the result for every event.

        Parameters
        ----------
        columns
            At least the columns that it `needs`, cast to their declared types.
        num_entries
            Number of events N, also where the expression names no column.

        Returns
        -------
        An array [N], or a `Jagged` or `Nested` of N events; of the type that `result_type` tells. A lone column is
        returned as it is, sharing its memory. NaN is always the same bits.

        Raises
        ------
        DeclarationError
            Two lists that are joined value by value have different lengths, or columns are not as declared.
        """
        try:
            with np.errstate(all="ignore"):
                value = self._root.value(Events(columns, num_entries))
        except PlaceError as problem:
            raise _error(problem, self.text, self.where) from None
        except MisfitError as problem:
            caret = "" if problem.at is None else f"\n  {' ' * problem.at}^"
            raise DeclarationError(f"{self.where}: {problem}\n  {self.text}{caret}") from None
        if isinstance(self._root, Name):
            return value
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = np.full(num_entries, value)
        return with_values(value, _plain_nan(values_of(value)))

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return _parse_again, (self.text, self.where)


def _parse_again(text: str, where: str) -> Expression:
    return Expression.parse(text, where=where)


def _error(problem: PlaceError, text: str, where: str) -> ExpressionError:
    return ExpressionError(problem.message, text, problem.at, where=where)


def _plain_nan(values: np.ndarray) -> np.ndarray:
    """Sign and payload of a NaN depend on the code path of the processor; all become numpy's own."""
    if values.dtype.kind == "f":
        missing = np.isnan(values)
        if missing.any():
            return np.where(missing, np.nan, values)
    return values
