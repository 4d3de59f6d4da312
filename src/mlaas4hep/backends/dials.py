"""Dials of models: typed, all problems at once, with the nearest known name.

A backend describes each of its models by a subclass of `Dials`. Invariant: a model is built from values inside their
ranges, or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from mlaas4hep.errors import ConfigError, nearest
from mlaas4hep.typed import convert


class Dials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one model; subclasses add fields with defaults."""

    def problems(self) -> list[str]:
        """What is out of range, in words that start with the name of the dial; empty where nothing is."""
        return []


AnyDials = TypeVar("AnyDials", bound=Dials)


def parse_dials(given: Mapping[str, Any], wanted: type[AnyDials], *, owner: str, where: str = "config") -> AnyDials:
    """The dials of one model.

    Parameters
    ----------
    given
        As the config has them.
    wanted
        The type of the model's dials.
    owner
        The model, in words: ``mlp (backend torch)``.
    where
        The file that was read.

    Raises
    ------
    ConfigError
        Unknown dials, values of a wrong type or out of range, all at once.
    """
    known = wanted.__struct_fields__
    others = f"; its dials: {', '.join(known)}"  # where none is near
    problems = [
        f"model.{name}: is no dial of {owner}{nearest(name, known) or others}" for name in given if name not in known
    ]
    taken = {name: value for name, value in given.items() if name in known}
    dials = convert(taken, wanted, "model", problems)
    if isinstance(dials, wanted):
        problems.extend(f"model.{problem}" for problem in dials.problems())
        if not problems:
            return dials
    raise ConfigError(problems, where=where)


def out_of_range(
    dials: Dials,
    *,
    above_zero: Iterable[str] = (),
    at_least_zero: Iterable[str] = (),
    between: Mapping[str, tuple[float, float]] | None = None,
) -> list[str]:
    """One line for every dial outside its range; a dial that is None has no range."""
    given = msgspec.structs.asdict(dials)
    tests = [(name, given[name] > 0, "above 0") for name in above_zero]
    tests += [(name, given[name] >= 0, "0 or above") for name in at_least_zero]
    for name, (low, high) in (between or {}).items():
        tests.append((name, given[name] is None or low <= given[name] <= high, f"{low:g} to {high:g}"))
    return [f"{name}: {given[name]!r} is out of range; wants {words}" for name, fits, words in tests if not fits]


def bad_sizes(name: str, sizes: tuple[int, ...]) -> list[str]:
    """A line where the sizes of layers are missing or not above 0."""
    if sizes and min(sizes) > 0:
        return []
    return [f"{name}: {list(sizes)} is out of range; wants sizes above 0, such as [128, 64]"]
