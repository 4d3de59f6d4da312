"""Columns that a config asks for and files do not give: told once, with the keys under which their names are written.

Invariant: one line a column, however many samples and files lack it; it names the key to mend, and what stands nearest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mlaas4hep.config import Config
from mlaas4hep.config.labels import rule_of
from mlaas4hep.data.entries import SampleKind
from mlaas4hep.errors import ExpressionError, some_files
from mlaas4hep.spec.expressions import Expression

_MOST_SHOWN = 4


@dataclass
class _Lack:
    """What is told of a column, and where it is so."""

    told: str
    paths: dict[str, None] = field(default_factory=dict)
    trees: dict[str, None] = field(default_factory=dict)
    samples: dict[str, None] = field(default_factory=dict)


class Lacks:
    """Columns that cannot be had, gathered file by file."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], _Lack] = {}

    def add(self, column: str, why: str, *, sample: str, path: str, tree: str, close: str = "") -> None:
        """One more file.

        Parameters
        ----------
        why
            Why a column that is there cannot be read; empty where there is none.
        close
            Words about the names nearest to it; those of the first file are told.
        """
        lack = self._found.setdefault((column, why), _Lack(close))
        lack.paths[path] = lack.trees[tree] = lack.samples[sample] = None

    def lines(self, config: Config, kind: SampleKind, known: Iterable[str]) -> Iterator[str]:
        """One a column; ``known`` are the names of all columns that there are."""
        written = list(_written(config, kind))
        there = [*known, *config.features.new_variables]
        for (column, why), lack in self._found.items():
            asked = [one for one in written if one.sample is None or one.sample in lack.samples]
            keys = dict.fromkeys(one.key for one in asked if one.asks(column, there))
            trees = _some([f"'{one}'" for one in lack.trees])
            word = "tree" if len(lack.trees) == 1 else "trees"
            where = f"{some_files(list(lack.paths))}, {word} {trees} {of_samples(list(lack.samples))}"
            told = f"no column '{column}' in {where}{lack.told}" if not why else f"{where}: column '{column}' {why}"
            yield f"{_some(list(keys))}: {told}"


def needs_of(text: str, known: Sequence[str]) -> frozenset[str]:
    """What an expression takes; by their own name where collections have not the columns that are asked of them."""
    expression = Expression.parse(text)
    try:
        return expression.needs(frozenset(known))
    except ExpressionError:
        return expression.names


def of_samples(names: Sequence[str]) -> str:
    """Which samples are meant, in brackets behind a message."""
    return f"(sample{'s' if len(names) > 1 else ''} {_some(names)})"


def _some(words: Sequence[str]) -> str:
    shown = ", ".join(words[:_MOST_SHOWN])
    return shown if len(words) <= _MOST_SHOWN else f"{shown} and {len(words) - _MOST_SHOWN} more"


@dataclass(frozen=True)
class _Asked:
    """A key with the name of a column or variable, or with an expression; of one sample alone, or of all."""

    key: str
    text: str
    is_name: bool = False
    sample: str | None = None

    def asks(self, column: str, known: Sequence[str]) -> bool:
        return column == self.text if self.is_name else column in needs_of(self.text, known)


def _written(config: Config, kind: SampleKind) -> Iterator[_Asked]:
    """What a config asks of samples of a kind."""
    features = config.features
    for group in features.inputs:
        place = f"inputs.{group.name}" if group.length is None else f"inputs.{group.name}.vars"
        yield from _names(place, [one.name for one in group.variables])
        yield from _expressions({f"inputs.{group.name}.sort": group.sort})
    yield from _expressions({"preselection": features.preselection})
    yield from _expressions({f"new_variables.{name}": text for name, text in features.new_variables.items()})
    if kind == "mc":
        yield from _expressions({"weights.event": features.weights.event})
        yield from _expressions({f"targets.{name}": text for name, text in features.target_texts.items()})
        yield from _names("split.by", features.split.by)
    for name in config.simulated if kind == "mc" else config.observed:
        sample = config.samples[name]
        yield from _expressions({f"samples.{name}.selection": sample.selection}, sample=name)
        rule = rule_of(sample, config.labels)
        if rule is not None:
            place = "labels" if sample.labels is None else f"samples.{name}.labels"
            if rule.column is not None:
                yield _Asked(f"{place}.column", rule.column, is_name=True, sample=name)
            conditions = {f"{place}.expressions.{label}": text for label, text in rule.expressions.items()}
            yield from _expressions(conditions, sample=name)


def _names(place: str, names: Sequence[str]) -> Iterator[_Asked]:
    return (_Asked(f"{place}[{index}]", name, is_name=True) for index, name in enumerate(names))


def _expressions(texts: Mapping[str, str | None], *, sample: str | None = None) -> Iterator[_Asked]:
    return (_Asked(key, text, sample=sample) for key, text in texts.items() if text is not None)
