"""How events get their class: by sample, by the value of a column, or by conditions.

`Labels` is what a config says, for all samples or for one; `Rule` is what comes out for a sample whose events are told
apart one by one. Invariant: a sample that can be learned from has a fixed label or a rule, never both, never neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from mlaas4hep.config.values import Sample

Value = bool | int | str
"""What the column of a label may hold."""


class Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How events get their class, where not by sample.

    Parameters
    ----------
    classes
        All labels, in the order of their numbers; by default sorted, with ``signal`` last. With ``column`` a list
        stands for the values 0, 1, 2, ...; others are given as a mapping, such as ``{background: -1, signal: [1, 2]}``,
        whose order means nothing.
    signal
        The class that is put last, so that the score of two classes is its.
    column
        Column of the files, or new variable, whose value tells the class of an event.
    expressions
        Conditions by class; at most one may be true for an event.
    """

    classes: tuple[str, ...] | dict[str, tuple[Value, ...]] = ()
    signal: str | None = None
    column: str | None = None
    expressions: dict[str, str] = {}


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What tells the class of an event: the value of a column, or conditions of which at most one is true.

    Parameters
    ----------
    column
        Name of a column or new variable.
    values
        By class, the values of the column that stand for it.
    expressions
        By class, the condition.
    """

    column: str | None = None
    values: dict[str, tuple[Value, ...]] = {}
    expressions: dict[str, str] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes that it can give."""
        return (*self.values, *self.expressions)

    @property
    def is_text(self) -> bool:
        """Whether the values of the column are text."""
        return any(isinstance(one, str) for values in self.values.values() for one in values)


def has_rule(labels: Labels | None) -> bool:
    """Whether it tells events apart one by one."""
    return labels is not None and (labels.column is not None or bool(labels.expressions))


def rule_of(sample: Sample, common: Labels) -> Rule | None:
    """The rule for the events of a sample; None where all have one class, or none."""
    if sample.kind == "data" or sample.label is not None:
        return None
    own = sample.labels if sample.labels is not None else common
    if not has_rule(own):
        return None
    values = values_by_class(own.classes or common.classes) if own.column is not None else {}
    return Rule(own.column, values, dict(own.expressions))


def fixed_label(name: str, sample: Sample, common: Labels) -> str | None:
    """The class of all events of a sample; None where they are told apart one by one, or have none."""
    if sample.kind == "data" or rule_of(sample, common) is not None:
        return None
    return sample.label or name


def values_by_class(classes: tuple[str, ...] | Mapping[str, tuple[Value, ...]]) -> dict[str, tuple[Value, ...]]:
    """Values of each class: those that are given, or 0, 1, 2, ... for a list."""
    if isinstance(classes, Mapping):
        return dict(classes)
    return {name: (number,) for number, name in enumerate(classes)}


def classes_of(samples: Mapping[str, Sample], common: Labels) -> Iterator[str]:
    """Every class that an event of some sample can have, again and again, in the order of the samples."""
    for name, sample in samples.items():
        rule, label = rule_of(sample, common), fixed_label(name, sample, common)
        if rule is not None:
            yield from rule.classes
        elif label is not None:
            yield label
