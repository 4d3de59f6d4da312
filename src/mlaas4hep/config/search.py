"""Dials that are to be searched, written in a config where the value would stand: ``learning_rate: log(1e-4, 1e-2)``.

`find_dials` takes a document apart, `placed` puts values in again. Invariant: a text is a range of a search only where
no expression can stand, below ``model``, ``training`` and ``inputs``; what such a range says wrong is told by its path.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import yaml

from mlaas4hep.errors import nearest
from mlaas4hep.strict_yaml import load_value

Kind = Literal["log", "uniform", "int", "logint", "choice"]
KINDS: Mapping[Kind, str] = {
    "log": "log(1e-4, 1e-2): a number, every factor as likely as any other",
    "uniform": "uniform(0, 0.5): a number, evenly",
    "int": "int(3, 12): a whole number, evenly",
    "logint": "logint(16, 1024): a whole number, every factor as likely as any other",
    "choice": "choice([64], [128, 64]): one of these",
}
SECTIONS = ("model", "training", "inputs")
# Decide nothing about the model, or what it is judged by.
_NEVER = frozenset({"training.seed", "training.checkpoint_s", "training.max_memory", "model.file"})
_CALL = re.compile(r"\s*(?P<kind>[A-Za-z_]+)\s*\((?P<arguments>.*)\)\s*\Z", re.DOTALL)
_CUT_SHORT = re.compile(rf"\s*(?:{'|'.join(KINDS)})\s*\([^)]*\Z")
_NAMED = re.compile(r"\s*(default|step)\s*=(.*)\Z", re.DOTALL)
_OPENING, _CLOSING = "([{", ")]}"
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from ``low`` to ``high``, both included.

    Parameters
    ----------
    kind
        ``log`` and ``uniform`` give numbers, ``logint`` and ``int`` whole ones; evenly in the logarithm or the value.
    low, high
        The ends.
    step
        Distance of two values of ``int`` and ``uniform``; None gives all.
    default
        Stated in the config; None where it is not.
    """

    kind: Kind
    low: float
    high: float
    step: float | None = None
    default: float | None = None

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return self.kind in ("int", "logint")

    @property
    def logarithmic(self) -> bool:
        """Whether every factor is as likely as any other."""
        return self.kind in ("log", "logint")

    @property
    def ends(self) -> tuple[float, ...]:
        """Values that must be good for all between them to be."""
        return (self.low, self.high)

    def start(self, usual: Any = None) -> float:
        """Where the search begins: what is stated, else the nearest value to what is usual, else the middle."""
        if self.default is not None:
            return self.default
        if isinstance(usual, int | float) and not isinstance(usual, bool):
            return self._at(min(max(usual, self.low), self.high))
        return self._at(math.sqrt(self.low * self.high) if self.logarithmic else 0.5 * (self.low + self.high))

    def _at(self, value: float) -> float:
        if self.step is not None:
            value = self.low + round((value - self.low) / self.step) * self.step
            value = value if value <= self.high else value - self.step
        return round(value) if self.whole else value

    def __str__(self) -> str:
        step = "" if self.step is None else f", step={self.step:g}"
        return f"{self.kind}({self.low:g}, {self.high:g}{step})"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some values, whatever they are; ``default`` is the place of the one that the search begins with."""

    values: tuple[Any, ...]
    default: int = 0

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that must be good: all."""
        return self.values

    @property
    def labels(self) -> tuple[str, ...]:
        """The values as texts that tell them apart."""
        return tuple(one if isinstance(one, str) else json.dumps(one) for one in self.values)

    def start(self, usual: Any = None) -> Any:
        """Where the search begins."""
        del usual
        return self.values[self.default]

    def __str__(self) -> str:
        return f"choice({', '.join(self.labels)})"


Dial = Range | Choice


_NUMBER = re.compile(r"\s*[-+.\d]")


def find_dials(document: Mapping[Any, Any], problems: list[str]) -> dict[str, Dial]:
    """What is to be searched, by path (``model.learning_rate``), in the order of the document.

    Parameters
    ----------
    document
        A config as plain values.
    problems
        Grows by one line for what looks like a range and is none, or stands where nothing can be searched.
    """
    found: dict[str, Dial] = {}
    for path, text in _texts(document):
        name = spelled(path)
        if path[0] in SECTIONS and path[-1] != "sort" and _CUT_SHORT.match(text):
            problems.append(
                f"{name}: '{text}' ends too early: between {{}} or [] a range needs quotes, \"log(1e-4, 1e-2)\""
            )
            continue
        called = _CALL.match(text)
        if called is None or called["kind"] not in KINDS or path[-1] == "sort":
            continue
        if path[0] not in SECTIONS or name in _NEVER:
            if name in _NEVER or (path[0] in ("split", "weights") and _is_range(called)):
                problems.append(f"{name}: {_kept_fixed(name)}; what may be searched stands below {', '.join(SECTIONS)}")
            continue
        if path[0] == "inputs" and not _is_range(called) and not _NUMBER.match(called["arguments"]):
            continue  # an expression, such as log(MET_pt)
        try:
            found[name] = _dial(called["kind"], called["arguments"])
        except ValueError as error:
            problems.append(f"{name}: {text.strip()}: {error}")
    return found


def _is_range(called: re.Match[str]) -> bool:
    """Whether it has the arguments of a range: ``log(genWeight)`` is an expression."""
    try:
        _dial(called["kind"], called["arguments"])
    except ValueError:
        return False
    return True


def _kept_fixed(name: str) -> str:
    if name in _NEVER:
        return "is not searched: it is no property of a model"
    return "is not searched: it decides by which events, or with which weights, trials are judged"


def _texts(value: Any, above: Path = ()) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str) and above:
        yield above, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _texts(one, (*above, str(key)))
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield from _texts(one, (*above, place))


def spelled(path: Path) -> str:
    """A path as messages have it: ``inputs.event[2].clip``."""
    words = [f"[{one}]" if isinstance(one, int) else f".{one}" for one in path]
    return "".join(words).removeprefix(".")


def _dial(kind: Any, text: str) -> Dial:
    """A range by its arguments; `ValueError` says what is wrong with them."""
    arguments: list[Any] = []
    named: dict[str, Any] = {}
    for one in split_arguments(text):
        match = _NAMED.match(one)
        try:
            value = load_value(match[2] if match else one)
        except yaml.YAMLError:
            raise ValueError(f"'{one.strip()}' is not YAML") from None
        if match:
            named[match[1]] = value
        else:
            arguments.append(value)
    return _choice(arguments, named) if kind == "choice" else _range(kind, arguments, named)


def split_arguments(text: str) -> list[str]:
    """Arguments between the outermost commas.

    Examples
    --------
    >>> split_arguments("[64], [128, 64], default=[64]")
    ['[64]', ' [128, 64]', ' default=[64]']
    """
    parts, depth, quote, start = [], 0, "", 0
    for place, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        elif sign in _OPENING or sign in _CLOSING:
            depth += 1 if sign in _OPENING else -1
        elif sign == "," and not depth:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]] if text.strip() else []


def _choice(values: Sequence[Any], named: Mapping[str, Any]) -> Choice:
    if "step" in named:
        raise ValueError("choice takes no step")
    found = Choice(tuple(values))
    if len(values) < 2 or len(set(found.labels)) < len(values):
        raise ValueError("wants two values at least, each once, such as choice([64], [128, 64])")
    if "default" not in named:
        return found
    if named["default"] not in values:
        raise ValueError(f"the default {named['default']} is none of its values")
    return Choice(found.values, found.values.index(named["default"]))


def _range(kind: Kind, ends: Sequence[Any], named: Mapping[str, Any]) -> Range:
    numbers = [*ends, *(one for one in named.values())]
    wrong = [one for one in numbers if isinstance(one, bool) or not isinstance(one, int | float)]
    if wrong or len(ends) != 2:
        hint = nearest(str(wrong[0]), ("default", "step")) if wrong and "=" in str(wrong[0]) else ""
        raise ValueError(f"wants two numbers, such as {KINDS[kind].partition(':')[0]}{hint}")
    found = Range(kind, *ends, **named)
    if not (math.isfinite(found.low) and math.isfinite(found.high) and found.low < found.high):
        raise ValueError(f"{found.low:g} to {found.high:g} is empty; wants a low and a high end, both finite")
    if found.logarithmic and not found.low > 0:
        raise ValueError(f"{found.low:g} has no logarithm; wants a low end above 0")
    if found.whole and any(not float(one).is_integer() for one in numbers):
        raise ValueError("wants whole numbers")
    if found.step is not None and (found.logarithmic or not 0 < found.step <= found.high - found.low):
        raise ValueError("a step is above 0 and at most the range, and goes with int and uniform")
    if found.step is not None:  # the last value that steps reach
        found = replace(found, high=found.low + math.floor((found.high - found.low) / found.step + 1e-9) * found.step)
    if found.default is not None and not found.low <= found.default <= found.high:
        raise ValueError(f"the default {found.default:g} lies outside")
    return found


def placed(document: Mapping[Any, Any], values: Mapping[str, Any]) -> dict[Any, Any]:
    """A copy of the document with values at the paths of dials.

    Examples
    --------
    >>> placed({"model": {"name": "mlp", "hidden": "choice([64], [32])"}}, {"model.hidden": [32]})
    {'model': {'name': 'mlp', 'hidden': [32]}}
    """
    return {key: _placed(one, (str(key),), values) for key, one in document.items()}


def without(document: Mapping[Any, Any], name: str) -> dict[Any, Any] | None:
    """The document without the key of a dial; None where it stands in a list or at the top, and cannot be left out."""
    *parents, last = name.split(".")
    if "[" in name or not parents:
        return None
    whole = dict(document)
    place = whole
    for parent in parents:
        place[parent] = dict(place[parent])
        place = place[parent]
    del place[last]
    return whole


def _placed(value: Any, path: Path, values: Mapping[str, Any]) -> Any:
    name = spelled(path)
    if name in values:
        return values[name]
    if isinstance(value, Mapping):
        return {key: _placed(one, (*path, str(key)), values) for key, one in value.items()}
    if isinstance(value, list):
        return [_placed(one, (*path, place), values) for place, one in enumerate(value)]
    return value
