"""Group ``numbers``: what JSON cannot say, and the edges of the datatypes.

The protocol has no word for NaN and infinities in JSON, so a server may refuse them there; it may not fail, nor write
an answer that is not JSON. In bytes every value is a value.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from conformance import sections
from conformance.checks import Check, SkippedCheckError, add, check, only_if, require
from conformance.groups.binary import EXTENSION
from conformance.groups.infer import require_same
from conformance.replies import read_reply, require_error, require_sound
from conformance.target import Target
from conformance.tensors import TYPES, Array

STRICT = "JSON proper in the answer, or 4xx"
SOUND = "answered or 4xx"


def _filled(target: Target, value: Callable[[np.dtype[Any]], float]) -> dict[str, Array]:
    """Tensors with one value in the first place of every float."""
    only_if(any(one.floating for one in target.inputs), "no input is a float")
    tensors = target.tensors()
    for one in target.inputs:
        if one.floating:
            array = tensors[one.name].copy()
            array.reshape(-1)[:1] = value(TYPES[one.datatype])
            tensors[one.name] = array
    return tensors


EDGES: dict[str, Callable[[np.dtype[Any]], float]] = {
    "nan": lambda kind: np.nan,
    "infinity": lambda kind: np.inf,
    "minus_infinity": lambda kind: -np.inf,
    "largest": lambda kind: float(np.finfo(kind).max),
    "most_negative": lambda kind: float(np.finfo(kind).min),
    "smallest_normal": lambda kind: float(np.finfo(kind).tiny),
    "smallest": lambda kind: float(np.finfo(kind).smallest_subnormal),
    "minus_zero": lambda kind: -0.0,
}


def _declare_edge(name: str, value: Callable[[np.dtype[Any]], float]) -> None:
    def in_bytes(target: Target) -> str:
        answer = target.post(*target.binary_question(_filled(target, value)))
        if answer.status != 200:
            return require_error(answer)
        read_reply(answer, target.outputs)
        return "answered"

    def both_ways(target: Target) -> str:
        """JSON out against bytes out of the same request: nothing may be lost on the way through JSON."""
        tensors = _filled(target, value)
        answer = target.post(*target.binary_question(tensors, parameters={"binary_data_output": True}))
        if answer.status != 200:
            raise SkippedCheckError(f"refused with {answer.status}")
        written = target.infer(*target.binary_question(tensors))
        require_same(read_reply(answer, target.outputs), written, "between JSON out and bytes out")
        return "equal bits"

    add(Check("numbers", f"{name}_in_bytes", STRICT, sections.NUMBERS, in_bytes, EXTENSION))
    add(Check("numbers", f"{name}_out", "the same bits in JSON and in bytes", sections.BINARY, both_ways, EXTENSION))


def _declare_json_edge(name: str, value: Callable[[np.dtype[Any]], float]) -> None:
    def in_json(target: Target) -> str:
        tensors = _filled(target, value)
        answer = target.post(target.question(tensors))
        if answer.status != 200:
            return require_error(answer)
        reply = read_reply(answer, target.outputs)
        if target.binary:
            require_same(target.infer(*target.binary_question(tensors)), reply, "between JSON and bytes in")
        return "answered"

    add(Check("numbers", f"{name}_in_json", "the values of bytes in, or 4xx", sections.NUMBERS, in_json))


for _name, _value in EDGES.items():
    _declare_edge(_name, _value)
    _declare_json_edge(_name, _value)

# Numbers and words as they may stand in JSON, or may not.
WRITTEN = {
    "bare_nan": "NaN",
    "bare_infinity": "-Infinity",
    "beyond_float32": "1e39",
    "beyond_float64": "1e400",
    "below_float64": "1e-400",
    "many_digits": "0." + "1" * 5000,
    "long_exponent": "1e" + "9" * 300,
    "hexadecimal": "0x10",
    "plus_sign": "+1",
    "leading_zero": "01",
    "point_alone": "1.",
    "as_text": '"1.5"',
    "true": "true",
    "null": "null",
}


def _declare_written(name: str, text: str) -> None:
    def run(target: Target) -> str:
        only_if(any(one.floating for one in target.inputs), "no input is a float")
        question = target.question(target.tensors())
        place = next(place for place, one in enumerate(target.inputs) if one.floating)
        question["inputs"][place]["data"][0] = "KIT"
        return require_sound(target.post(json.dumps(question).replace('"KIT"', text).encode()))

    expected = SOUND if len(text) > 20 else f"{text} in the data: {SOUND}"
    add(Check("numbers", f"written_{name}", expected, sections.NUMBERS, run))


for _name, _text in WRITTEN.items():
    _declare_written(_name, _text)


@check(
    "numbers",
    "round_trip",
    expected="equal bits in JSON and bytes, in and out",
    section=sections.BINARY,
    needs=EXTENSION,
)
def round_trip(target: Target) -> str:
    rows = 50 if target.batched else 1
    count = 0
    for number in range(3):
        tensors = target.tensors(rows, number=number)
        replies = [
            target.infer(target.question(tensors)),
            target.infer(target.question(tensors, parameters={"binary_data_output": True})),
            target.infer(*target.binary_question(tensors)),
            target.infer(*target.binary_question(tensors, parameters={"binary_data_output": True})),
        ]
        for reply in replies[1:]:
            require_same(replies[0], reply, "between JSON and bytes")
        count += sum(one.size for one in replies[0].outputs.values())
    return f"{count} values, four ways each"


@check("numbers", "integer_out_of_range", expected=SOUND, section=sections.DATA)
def integer_out_of_range(target: Target) -> str:
    return _with_integers(target, lambda kind: [np.iinfo(kind).max + 1, np.iinfo(kind).min - 1, 2**80, 1.5])


@check("numbers", "integer_edges", expected=SOUND, section=sections.TYPES)
def integer_edges(target: Target) -> str:
    return _with_integers(target, lambda kind: [np.iinfo(kind).max, np.iinfo(kind).min])


@check(
    "numbers",
    "integer_digits",
    expected="integers beyond 2^53 keep all digits",
    section=sections.TYPES,
    needs=EXTENSION,
)
def integer_digits(target: Target) -> str:
    wide = [one for one in target.inputs if one.datatype in ("INT64", "UINT64")]
    only_if(wide, "no input is INT64 or UINT64")
    tensors = target.tensors()
    for one in wide:
        tensors[one.name] = np.full_like(tensors[one.name], 2**53 + 1)
    in_json, in_bytes = target.post(target.question(tensors)), target.post(*target.binary_question(tensors))
    require(in_json.status == in_bytes.status, f"{in_json.status} for JSON, {in_bytes.status} for bytes")
    if in_json.status != 200:
        return require_error(in_json)
    require_same(read_reply(in_bytes), read_reply(in_json), "between JSON and bytes in")
    return "equal"


def _with_integers(target: Target, values: Callable[[np.dtype[Any]], list[Any]]) -> str:
    found = []
    for place, one in enumerate(target.inputs):
        for value in values(TYPES[one.datatype]) if one.integer else ():
            question = target.question(target.tensors())
            question["inputs"][place]["data"][0] = int(value) if not isinstance(value, float) else value
            found.append(require_sound(target.post(question))[:3])
    only_if(found, "no input is an integer")
    return ", ".join(found)
