"""What a check is, how it is declared, and what becomes of it.

A check is a function of a `Target` that returns what it found, or raises `FailedCheckError` or `SkippedCheckError`.
Invariant: every check that is run gives exactly one `Result`, whatever the server does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from conformance.wire import BrokenWireError

if TYPE_CHECKING:
    from conformance.target import Target

Status = Literal["pass", "fail", "skipped"]
Run = Callable[["Target"], str]


class FailedCheckError(Exception):
    """The server does otherwise than expected; the text says what was found."""


class SkippedCheckError(Exception):
    """The check does not apply to this server or model; the text says why."""


@dataclass(frozen=True)
class Check:
    """One thing to find out.

    Parameters
    ----------
    group, name
        Together the check's full name, ``group.name``.
    expected
        What the server must do, in one line.
    section
        Which part of which document says so; ``robustness`` where it is this kit's own demand.
    needs
        Extension without which the check is skipped.
    run
        The check.
    """

    group: str
    name: str
    expected: str
    section: str
    run: Run
    needs: str = ""

    @property
    def full_name(self) -> str:
        return f"{self.group}.{self.name}"


@dataclass(frozen=True)
class Result:
    """What became of a check; ``asked`` is the last request that it sent."""

    group: str
    name: str
    status: Status
    asked: str
    expected: str
    section: str
    found: str
    seconds: float


_ALL: dict[str, Check] = {}


def check(group: str, name: str, *, expected: str, section: str, needs: str = "") -> Callable[[Run], Run]:
    """Declare a function as a check."""

    def declare(run: Run) -> Run:
        add(Check(group, name, expected, section, run, needs))
        return run

    return declare


def add(one: Check) -> None:
    """Declare a check that was made from a table."""
    if one.full_name in _ALL:
        raise ValueError(f"two checks are called {one.full_name}")
    _ALL[one.full_name] = one


def all_checks() -> tuple[Check, ...]:
    """All that are declared, in the order of their declaration."""
    import conformance.groups  # noqa: F401  (declares them)

    return tuple(_ALL.values())


def groups_of(checks: Iterable[Check]) -> tuple[str, ...]:
    """Names of the groups, in order."""
    return tuple(dict.fromkeys(one.group for one in checks))


def run_checks(target: Target, checks: Iterable[Check]) -> Iterator[Result]:
    """Run one after the other."""
    for one in checks:
        started = time.perf_counter()
        target.forget()
        status, found = _run(target, one)
        seconds = time.perf_counter() - started
        yield Result(one.group, one.name, status, target.asked, one.expected, one.section, found, seconds)


def require(condition: Any, found: str) -> None:
    """Fail the check with what was found, unless the condition holds."""
    if not condition:
        raise FailedCheckError(found)


def only_if(condition: Any, why_not: str) -> None:
    """Skip the check unless the condition holds."""
    if not condition:
        raise SkippedCheckError(why_not)


def _run(target: Target, one: Check) -> tuple[Status, str]:
    if one.needs and one.needs not in target.extensions:
        return "skipped", f"extension '{one.needs}' is not announced"
    try:
        return "pass", one.run(target)
    except SkippedCheckError as error:
        return "skipped", str(error)
    except (FailedCheckError, BrokenWireError) as error:
        return "fail", str(error)
    except Exception as error:  # an answer of a shape that nobody thought of must not end the whole run
        return "fail", f"the answer could not be judged: {type(error).__name__}: {error}"
