"""Group ``concurrency``: many at once, each with its own answer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from conformance import sections
from conformance.checks import FailedCheckError, check, only_if, require
from conformance.groups.binary import EXTENSION
from conformance.replies import Reply
from conformance.target import Target
from conformance.tensors import close
from conformance.wire import BrokenWireError

THREADS, EACH = 16, 12


@check("concurrency", "json", expected="every answer belongs to its request", section=sections.RESPONSE)
def in_json(target: Target) -> str:
    return _together(target, lambda one, number: one.infer(one.question(one.tensors(number=number), id=str(number))))


@check(
    "concurrency", "binary", expected="every answer belongs to its request", section=sections.BINARY, needs=EXTENSION
)
def in_binary(target: Target) -> str:
    more = {"binary_data_output": True}

    def ask(one: Target, number: int) -> Reply:
        question = one.binary_question(one.tensors(number=number), id=str(number), parameters=more)
        return one.infer(*question)

    return _together(target, ask)


@check(
    "concurrency",
    "row_counts",
    expected="requests of 1 to 9 rows at once, each with its rows",
    section=sections.RESPONSE,
)
def row_counts(target: Target) -> str:
    only_if(target.batched, "the model takes a fixed number of rows")

    def ask(one: Target, number: int) -> Reply:
        return one.infer(one.question(one.tensors(number % 9 + 1, number=number), id=str(number)))

    return _together(target, ask)


@check("concurrency", "good_and_bad", expected="errors of some do not reach others", section=sections.RESPONSE)
def good_and_bad(target: Target) -> str:
    def ask(one: Target, number: int) -> Reply:
        if number % 3 == 0:
            answer = one.post({"inputs": [{"name": "kit"}], "id": str(number)})
            require(400 <= answer.status < 500, f"a bad request got {answer.status}")
        return one.infer(one.question(one.tensors(number=number), id=str(number)))

    return _together(target, ask)


def _together(target: Target, ask: Callable[[Target, int], Reply]) -> str:
    """Ask one after the other, then the same all at once, and compare."""
    numbers = range(THREADS * EACH)
    wanted = [ask(target, number) for number in numbers]
    told_apart = _told_apart(wanted)
    first = target.asked

    def some(thread: int) -> list[Reply]:
        one = target.sibling()
        try:
            return [ask(one, number) for number in numbers[thread::THREADS]]
        finally:
            one.close()

    with ThreadPoolExecutor(THREADS) as pool:
        try:
            found = list(pool.map(some, range(THREADS)))
        except BrokenWireError as error:
            raise FailedCheckError(f"one of {THREADS} connections: {error}") from error
    target.asked = f"{len(numbers)} requests on {THREADS} connections, the first: {first}"
    for number in numbers:
        _compare(number, wanted[number], found[number % THREADS][number // THREADS])
    return f"{len(numbers)} requests on {THREADS} connections, {told_apart} answers that can be told apart"


def _compare(number: int, wanted: Reply, found: Reply) -> None:
    require(found.id == str(number), f"asked with id {number}, found {found.id!r}")
    for name, values in wanted.outputs.items():
        require(close(values, found.outputs[name]), f"request {number}: output '{name}' differs from when asked alone")


def _told_apart(replies: list[Reply]) -> int:
    """How many answers differ from their neighbour: where the model is constant, a swap cannot be seen."""
    pairs = pairwise(replies)
    return sum(any(not close(one.outputs[name], other.outputs[name]) for name in one.outputs) for one, other in pairs)
