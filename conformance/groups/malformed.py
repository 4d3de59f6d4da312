"""Group ``malformed``: what is no request at all, and a seeded fuzz of requests that were good.

Each is answered with an error or an answer, never with a failure of the server; the connection goes on or is closed,
and who comes next is served.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from conformance import sections
from conformance.checks import Check, FailedCheckError, add, check
from conformance.groups.refusals import REFUSED
from conformance.replies import require_error, require_sound, shown
from conformance.target import Target
from conformance.wire import BrokenWireError

BODIES: dict[str, bytes] = {
    "not_json": b"this is no JSON",
    "half_json": b'{"inputs": [{"name": "x", "sha',
    "white_space": b"   \r\n\t ",
    "array": b"[]",
    "null": b"null",
    "number": b"1",
    "text": b'"inputs"',
    "two_objects": b'{"inputs": []}{"inputs": []}',
    "trailing_comma": b'{"inputs": [],}',
    "single_quotes": b"{'inputs': []}",
    "invalid_utf8": b'{"id": "\xff\xfe", "inputs": []}',
    "lone_surrogate": b'{"id": "\\ud800", "inputs": []}',
    "null_byte": b'{"inputs": []}\0',
    "utf16": '{"inputs": []}'.encode("utf-16"),
    "brackets": b"[" * 50_000,
    "open_objects": b'{"inputs":' * 20_000,
    "form": b"inputs=1&outputs=2",
    "protobuf": b"\x0a\x05model\x1a\x0242",
}

# Keys of a request and of its first input, given values of a wrong type. ``id`` and parameters may be coerced.
WRONG: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("inputs", (None, 1, "x", True, {}, [None], [1], ["x"], [[]])),
    ("outputs", (1, "x", True, {"name": "x"}, [None], [1], ["x"], [{}], [{"name": 1}])),
    ("name", (None, 1, True, [], {})),
    ("shape", (None, 1, "x", True, {}, [None], ["1"], [True], [1.5], [[1]], [{}])),
    ("datatype", (None, 1, True, [], {}, "", "fp32 ", "object", "FP32\0")),
    ("data", (None, 1, "x", True, {}, [None, [None]], [{}], [[], []])),
)
COERCED: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("id", (1, 1.5, True, None, [], {})),
    (
        "parameters",
        (None, 1, "x", True, [], [1], {"a": None}, {"a": [1]}, {"a": {"b": 1}}, {"binary_data_output": "x"}),
    ),
    ("outputs", (None, [])),
)


def _declare_body(name: str, body: bytes) -> None:
    def run(target: Target) -> str:
        found = require_error(target.post(body))
        target.check_alive()
        return found

    add(Check("malformed", name, REFUSED, sections.ERROR, run))


for _name, _body in BODIES.items():
    _declare_body(_name, _body)


def _with(target: Target, key: str, value: Any) -> dict[str, Any]:
    question = target.question(target.tensors())
    (question if key in ("id", "inputs", "outputs", "parameters") else question["inputs"][0])[key] = value
    return question


def _declare_types(key: str, values: tuple[Any, ...], judge: Callable[..., str], expected: str) -> None:
    def run(target: Target) -> str:
        for value in values:
            try:
                judge(target.post(_with(target, key, value)))
            except (FailedCheckError, BrokenWireError) as error:
                raise FailedCheckError(f"'{key}' = {json.dumps(value)}: {error}") from error
        target.check_alive()
        return f"{len(values)} values"

    kind = "type" if judge is require_error else "odd"
    add(Check("malformed", f"{kind}_of_{key}", f"'{key}' of a wrong type: {expected}", sections.REQUEST, run))


for _key, _values in WRONG:
    _declare_types(_key, _values, require_error, REFUSED)
for _key, _values in COERCED:
    _declare_types(_key, _values, require_sound, "answered or 4xx")


@check(
    "malformed",
    "fuzz_json",
    expected="mutated JSON: answered or 4xx, no 5xx, the server lives",
    section=sections.ROBUST,
)
def fuzz_json(target: Target) -> str:
    random = target.random(1)
    rows = 2 if target.batched else 1
    return _fuzz(target, lambda: (mutated(_rich(target, rows), random), None))


@check(
    "malformed",
    "fuzz_bytes",
    expected="damaged bytes of JSON: answered or 4xx, the server lives",
    section=sections.ROBUST,
)
def fuzz_bytes(target: Target) -> str:
    random = target.random(2)
    body = json.dumps(_rich(target, 1)).encode()
    return _fuzz(target, lambda: (damaged(body, random), None))


@check(
    "malformed",
    "fuzz_binary",
    expected="damaged head and tensors: answered or 4xx, the server lives",
    section=sections.ROBUST,
    needs="binary_tensor_data",
)
def fuzz_binary(target: Target) -> str:
    random = target.random(3)
    head, tail = target.binary_question(target.tensors(), parameters={"binary_data_output": True})

    def make() -> tuple[Any, bytes]:
        if random.random() < 0.5:
            return mutated(head, random), tail
        return damaged(json.dumps(head).encode(), random), damaged(tail, random)

    return _fuzz(target, make)


def _rich(target: Target, rows: int) -> dict[str, Any]:
    """A request with everything in it."""
    return target.question(
        target.tensors(rows),
        id="kit",
        parameters={"a": 1},
        outputs=[{"name": one.name, "parameters": {"binary_data": False}} for one in target.outputs],
    )


def _fuzz(target: Target, make: Callable[[], tuple[Any, bytes | None]]) -> str:
    answered = closed = 0
    for number in range(target.wish.fuzz):
        head, tail = make()
        try:
            answer = target.post(head, tail)
            answered += answer.status == 200
            if answer.status >= 500:
                raise FailedCheckError(shown(answer))
        except BrokenWireError as error:
            closed += 1
            if "closed the connection" not in str(error):
                raise FailedCheckError(f"request {number} of seed {target.wish.seed}: {error}") from error
        except FailedCheckError as error:
            raise FailedCheckError(f"request {number} of seed {target.wish.seed}: {error}") from error
    target.check_alive()
    count = target.wish.fuzz
    return f"{count} requests: {answered} answered, {count - answered - closed} refused, {closed} hung up on"


_STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 1.5, 1e308, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 2**200),
    *("", "x", "NaN", "\0", "é" * 50, "FP32", "INT64", "BYTES", "BOOL", "FP16", "../..", "x" * 5000),
    *([], [[]], [None], [1, [2]], {}, {"name": "x"}, {"binary_data_size": 4}, {"binary_data_size": -1}),
)


def mutated(question: Any, random: np.random.Generator) -> Any:
    """One to three places of a JSON value changed, removed or doubled."""
    question = copy.deepcopy(question)
    for _ in range(random.integers(1, 4)):
        spots = _spots(question)
        if not spots:
            return question
        # Most spots are numbers in the data; the bones of the request deserve as much.
        shallow = [one for one in spots if one[2] <= 3] or spots
        holder, key, _ = (shallow if random.random() < 0.7 else spots)[random.integers(len(shallow))]
        _change(holder, key, random)
    return question


def _change(holder: Any, key: Any, random: np.random.Generator) -> None:
    kind = random.integers(4)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    elif kind == 2 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    else:
        holder[key] = copy.deepcopy(_STRANGE[random.integers(len(_STRANGE))])


def _spots(value: Any, depth: int = 0) -> list[tuple[Any, Any, int]]:
    """Every place in a JSON value: what holds it, under which key, how deep."""
    if isinstance(value, dict):
        keys: list[Any] = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    else:
        return []
    found = [(value, key, depth) for key in keys]
    for key in keys:
        found += _spots(value[key], depth + 1)
    return found


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """Some bytes replaced, removed, put in or doubled."""
    found = bytearray(data)
    for _ in range(random.integers(1, 5)):
        place = int(random.integers(len(found) + 1))
        size = int(random.integers(1, 9))
        piece = random.bytes(size) if random.random() < 0.5 else bytes(found[place : place + size])
        kind = random.integers(3)
        found[place : place + (0 if kind == 0 else size)] = b"" if kind == 1 else piece
    return bytes(found)
