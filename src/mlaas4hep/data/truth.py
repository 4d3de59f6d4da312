"""What is to be learned of each event: the label of its class, or the targets of a regression.

Labels come from the sample, a column or conditions; targets are expressions. Neither is known when a model is served,
so an event without them is not selected away but left out and counted. Invariant: an event that is delivered for
learning has exactly one class, or finite targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.config import Rule
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.entries import NO_LABEL, SampleEntry
from mlaas4hep.errors import ConfigError, DeclarationError
from mlaas4hep.spec.columns import Columns
from mlaas4hep.spec.expressions import Expression
from mlaas4hep.spec.padding import Assembled
from mlaas4hep.spec.preprocess import Preprocessor

Labels = NDArray[np.int64]
Place = Callable[[int], str]


class Truth:
    """Labels and targets of the events of one sample.

    Parameters
    ----------
    sample
        Whose events.
    catalogue
        Gives the classes; samples of kind ``data`` have no truth.
    preprocessor
        Evaluates expressions.
    """

    def __init__(self, sample: SampleEntry, catalogue: Catalogue, preprocessor: Preprocessor) -> None:
        self._sample = sample
        self._rule = sample.rule
        self._numbers = {name: number for number, name in enumerate(catalogue.classes)}
        self._preprocessor = preprocessor
        self._targets = target_texts(catalogue, preprocessor)
        self.columns = self._columns()
        """Columns of numbers that it takes."""
        self.text = self._rule.column if self._rule is not None and self._rule.is_text else None
        """The column of text that it takes."""

    def _columns(self) -> frozenset[str]:
        texts = list(self._targets.values())
        found: frozenset[str] = frozenset()
        if self._rule is not None:
            texts.extend(self._rule.expressions.values())
            if self._rule.column is not None and not self._rule.is_text:
                found = self._preprocessor.needs(self._rule.column)
        return found.union(*(self._preprocessor.needs_of(Expression.parse(text)) for text in texts))

    def check(self, nothing: Columns) -> Iterator[str]:
        """What is wrong with its expressions, from columns without events."""
        for name, text in self._targets.items():
            found = self._preprocessor.evaluate(text, nothing, 0, where=f"targets.{name}")
            if not isinstance(found, np.ndarray):
                yield f"targets.{name}: gives a list an event; a target is one number: {text}"
        rule, whose = self._rule, f"samples.{self._sample.name}: labels"
        if rule is None:
            return
        if rule.column is not None and not rule.is_text:
            found = self._preprocessor.values(rule.column, nothing, 0)
            if not isinstance(found, np.ndarray):
                yield f"{whose}.column: '{rule.column}' is a list an event; a label is one value"
        for name, text in rule.expressions.items():
            found = self._preprocessor.evaluate(text, nothing, 0, where=f"labels.expressions.{name}")
            if not isinstance(found, np.ndarray) or found.dtype != np.bool_:
                yield f"{whose}.expressions.{name}: must be true or false for each event: {text}"

    def add_to(
        self, rows: Assembled, columns: Columns, words: NDArray[Any] | None, place: Place
    ) -> tuple[Assembled, Labels]:
        """Leave out events without truth, and put the targets beside the variables of ``event``.

        Parameters
        ----------
        rows
            Of M events.
        columns
            Theirs.
        words
            Values [M] of the column of text, where there is one.
        place
            File and entry of an event, in words.

        Returns
        -------
        The rows, and labels int64 [M], `NO_LABEL` where there is no class.

        Raises
        ------
        ConfigError
            An event of two classes.
        DeclarationError
            A target that is infinite.
        """
        if self._rule is not None:
            labels = self._labels(self._rule, columns, words, rows.kept, place)
            return replace(rows, kept=rows.kept & (labels != NO_LABEL)), labels
        labels = np.full(len(rows.kept), self._sample.label, dtype=np.int64)
        if not self._targets:
            return rows, labels
        targets = self._target_values(columns, rows.kept, place)
        known = np.logical_and.reduce([~np.isnan(one) for one in targets])
        return replace(rows, kept=rows.kept & known, flats=[*rows.flats, *targets]), labels

    def _labels(
        self, rule: Rule, columns: Columns, words: NDArray[Any] | None, kept: NDArray[np.bool_], place: Place
    ) -> Labels:
        size = len(kept)
        if words is not None:
            return self._of_words(rule, words)
        if rule.column is not None:
            return self._of_values(rule, np.asarray(self._preprocessor.values(rule.column, columns, size)))
        labels = np.full(size, NO_LABEL, dtype=np.int64)
        for name, text in rule.expressions.items():
            where = f"labels.expressions.{name}"
            true = np.asarray(self._preprocessor.evaluate(text, columns, size, where=where)) & kept
            twice = np.flatnonzero(true & (labels != NO_LABEL))
            if len(twice):
                first = next(one for one, number in self._numbers.items() if number == labels[twice[0]])
                told = (
                    f"{place(int(twice[0]))}: is of two classes, '{first}' ({rule.expressions[first]}) and '{name}' "
                    f"({text}), as are {len(twice) - 1} more read with it; at most one of labels.expressions may hold"
                )
                # No damage of the file: with on_error it would be left out as unreadable.
                raise ConfigError([told], where="labels do not fit the events")
            labels[true] = self._numbers[name]
        return labels

    def _of_values(self, rule: Rule, found: NDArray[Any]) -> Labels:
        labels = np.full(len(found), NO_LABEL, dtype=np.int64)
        for name, values in rule.values.items():
            for value in values:
                labels[found == value] = self._numbers[name]
        return labels

    def _of_words(self, rule: Rule, words: NDArray[Any]) -> Labels:
        number_of = {word: self._numbers[name] for name, values in rule.values.items() for word in values}
        return np.fromiter((number_of.get(word, NO_LABEL) for word in words.tolist()), np.int64, len(words))

    def _target_values(self, columns: Columns, kept: NDArray[np.bool_], place: Place) -> list[NDArray[np.float32]]:
        targets = []
        for name, text in self._targets.items():
            found = self._preprocessor.evaluate(text, columns, len(kept), where=f"targets.{name}")
            with np.errstate(over="ignore"):
                values = np.asarray(found).astype(np.float32)
            bad = np.flatnonzero(np.isinf(values) & kept)
            if len(bad):
                raise DeclarationError(
                    f"{place(int(bad[0]))}: the target '{name}' is {np.asarray(found)[bad[0]]}; targets must be finite "
                    "as float32 (cut such events away with a selection, or mend the expression)"
                )
            targets.append(values)
        return targets


def target_texts(catalogue: Catalogue, preprocessor: Preprocessor) -> Mapping[str, str]:
    """Expressions of the targets that events of a catalogue have: none of kind ``data``."""
    return preprocessor.features.target_texts if catalogue.kind == "mc" else {}
