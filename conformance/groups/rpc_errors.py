"""Group ``grpc``, what must be refused: status codes that say whose fault it is, and a seeded fuzz.

The protocol says only that a status tells of an error. Whose fault it is follows from gRPC's own list of codes:
INVALID_ARGUMENT and NOT_FOUND are the client's, INTERNAL and UNKNOWN are the server's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from conformance import sections
from conformance.calls import CONTENTS, Calls, StatusError, make_request
from conformance.checks import Check, FailedCheckError, add, check, only_if, require
from conformance.groups.metadata import NOBODY
from conformance.messages import message_class
from conformance.target import Target
from conformance.tensors import to_bytes

CODES = f"{sections.GRPC}; gRPC status codes"
CLIENT = ("INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE", "FAILED_PRECONDITION", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED")
Change = Callable[[Any, Target], None]


def refused(
    calls: Calls, request: Any, *, or_answered: bool = False, codes: Sequence[str] = CLIENT, method: str = "ModelInfer"
) -> str:
    """Demand one of the codes; gives it, or nothing where the request was answered as it may be."""
    try:
        calls.send(method, request)
    except StatusError as error:
        require(error.code in codes, str(error))
        return str(error)
    require(or_answered, "answered")
    return ""


def _declare_unknown(method: str, **fields: Any) -> None:
    name = f"unknown_{'version' if 'version' in fields else 'model'}_{method}"

    @check("grpc", name.lower(), expected="NOT_FOUND or INVALID_ARGUMENT", section=CODES)
    def unknown(target: Target) -> str:
        key = "model_name" if method == "ModelInfer" else "name"
        given = {key: target.model} | fields
        with Calls.of(target) as calls:
            request = message_class(f"{method}Request")(**given)
            if method == "ModelInfer":
                request = make_request(target, target.tensors(), raw=True)
                request.model_name = given["model_name"]
            return refused(calls, request, codes=("NOT_FOUND", "INVALID_ARGUMENT"), method=method)


_declare_unknown("ModelMetadata", name=NOBODY)
_declare_unknown("ModelMetadata", version="987654321")
_declare_unknown("ModelInfer", model_name=NOBODY)


@check("grpc", "unknown_model_ready", expected="ready is false, or NOT_FOUND or INVALID_ARGUMENT", section=CODES)
def unknown_model_ready(target: Target) -> str:
    with Calls.of(target) as calls:
        try:
            require(not calls.call("ModelReady", name=NOBODY).ready, "ready is true")
        except StatusError as error:
            require(error.code in ("NOT_FOUND", "INVALID_ARGUMENT"), str(error))
            return str(error)
    return "false"


def _missing(request: Any, target: Target) -> None:
    del request.inputs[:]
    del request.raw_input_contents[:]


def _renamed(request: Any, target: Target) -> None:
    request.inputs[0].name += "_x"


def _twice(request: Any, target: Target) -> None:
    request.inputs.append(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])


def _unknown_output(request: Any, target: Target) -> None:
    request.outputs.add(name="kit-unknown")


def _unknown_datatype(request: Any, target: Target) -> None:
    request.inputs[0].datatype = "FP31"


def _no_shape(request: Any, target: Target) -> None:
    only_if(target.inputs[0].shape, "the first input is one number")
    del request.inputs[0].shape[:]


def _negative_shape(request: Any, target: Target) -> None:
    request.inputs[0].shape[0] = -1


def _enormous_shape(request: Any, target: Target) -> None:
    request.inputs[0].shape[0] = 2**62


def _larger_shape(request: Any, target: Target) -> None:
    request.inputs[0].shape[0] += 1


def _another_rank(request: Any, target: Target) -> None:
    request.inputs[0].shape.extend([1, 1])


def _byte_less(request: Any, target: Target) -> None:
    request.raw_input_contents[0] = request.raw_input_contents[0][:-1]


def _byte_more(request: Any, target: Target) -> None:
    request.raw_input_contents[0] += b"\0"


def _raw_missing(request: Any, target: Target) -> None:
    request.raw_input_contents.pop()


def _raw_too_many(request: Any, target: Target) -> None:
    request.raw_input_contents.append(b"\0\0\0\0")


def _raw_and_typed(request: Any, target: Target) -> None:
    datatype = target.inputs[0].datatype
    only_if(datatype in CONTENTS, f"{datatype} has no typed contents")
    values = target.tensors()[target.inputs[0].name].ravel().tolist()
    getattr(request.inputs[0].contents, CONTENTS[datatype]).extend(values)


CASES: tuple[tuple[str, Change], ...] = (
    ("no_inputs", _missing),
    ("renamed_input", _renamed),
    ("input_twice", _twice),
    ("unknown_output", _unknown_output),
    ("unknown_datatype", _unknown_datatype),
    ("no_shape", _no_shape),
    ("negative_shape", _negative_shape),
    ("enormous_shape", _enormous_shape),
    ("larger_shape", _larger_shape),
    ("another_rank", _another_rank),
    ("byte_less", _byte_less),
    ("byte_more", _byte_more),
    ("raw_missing", _raw_missing),
    ("raw_too_many", _raw_too_many),
    ("raw_and_typed", _raw_and_typed),
)


def _declare(name: str, change: Change) -> None:
    def run(target: Target) -> str:
        request = make_request(target, target.tensors(), raw=True)
        change(request, target)
        with Calls.of(target) as calls:
            return refused(calls, request)

    add(Check("grpc", f"refused_{name}", f"a code of the client: {', '.join(CLIENT[:2])} ...", CODES, run))


for _case in CASES:
    _declare(*_case)


@check("grpc", "refused_typed_too_few", expected="a code of the client", section=CODES)
def typed_too_few(target: Target) -> str:
    with Calls.of(target) as calls:
        request = make_request(target, target.tensors(), raw=False)
        getattr(request.inputs[0].contents, CONTENTS[target.inputs[0].datatype]).pop()
        return refused(calls, request)


@check("grpc", "refused_other_contents", expected="contents of another type: a code of the client", section=CODES)
def other_contents(target: Target) -> str:
    with Calls.of(target) as calls:
        request = make_request(target, target.tensors(), raw=False)
        one = request.inputs[0]
        count = target.tensors()[one.name].size
        one.ClearField("contents")
        other = "bytes_contents" if one.datatype != "BYTES" else "fp32_contents"
        getattr(one.contents, other).extend([b"jet"] * count if other == "bytes_contents" else [1.0] * count)
        return refused(calls, request)


@check("grpc", "not_a_message", expected="an error, and the server lives", section=sections.ROBUST)
def not_a_message(target: Target) -> str:
    with Calls.of(target) as calls:
        found = set()
        for number in range(20):
            try:
                calls.send("ModelInfer", b"\xff" + target.random(number).bytes(100))
                found.add("answered")
            except StatusError as error:
                found.add(error.code)
        _check_alive(target, calls)
    require("answered" not in found, "answered")
    return ", ".join(sorted(found))


@check("grpc", "unknown_method", expected="UNIMPLEMENTED", section=CODES)
def unknown_method(target: Target) -> str:
    with Calls.of(target) as calls:
        try:
            calls.send_bytes("NoSuchMethod", b"")
        except StatusError as error:
            require(error.code == "UNIMPLEMENTED", str(error))
            return error.code
    raise FailedCheckError("answered")


@check(
    "grpc",
    "fuzz",
    expected="mutated messages: answered or a code of the client, the server lives",
    section=sections.ROBUST,
)
def fuzz(target: Target) -> str:
    random = target.random(5)
    answered = 0
    with Calls.of(target) as calls:
        for number in range(target.wish.fuzz):
            request = make_request(target, target.tensors(), raw=bool(random.integers(2)))
            _mutate(request, target, random)
            try:
                answered += not refused(calls, request, or_answered=True)
            except FailedCheckError as error:
                raise FailedCheckError(f"request {number} of seed {target.wish.seed}: {error}") from error
        _check_alive(target, calls)
    return f"{target.wish.fuzz} requests: {answered} answered, the others refused"


def _check_alive(target: Target, calls: Calls) -> None:
    try:
        calls.infer(target, make_request(target, target.tensors(), raw=True))
    except FailedCheckError as error:
        raise FailedCheckError(f"afterwards an ordinary request failed: {error}") from error


def _mutate(request: Any, target: Target, random: np.random.Generator) -> None:
    """One to three changes, each of another part."""
    numbers = (-1, 0, 1, 2, 7, 2**31, 2**62, -(2**63))
    words = ("", "x", "FP32", "INT64", "BYTES", "BOOL", "FP16", "é" * 100, "../..", "x" * 5000)
    for _ in range(random.integers(1, 4)):
        one = request.inputs[random.integers(len(request.inputs))]
        kind = random.integers(8)
        if kind == 0 and len(one.shape):
            one.shape[random.integers(len(one.shape))] = numbers[random.integers(len(numbers))]
        elif kind == 1:
            one.datatype = words[random.integers(len(words))]
        elif kind == 2:
            one.name = words[random.integers(len(words))]
        elif kind == 3:
            one.shape.extend([1] * int(random.integers(1, 60)))
        elif kind == 4:
            request.raw_input_contents.append(random.bytes(int(random.integers(0, 50))))
        elif kind == 5:
            request.outputs.add(name=words[random.integers(len(words))])
        elif kind == 6:
            one.contents.bytes_contents.append(to_bytes(np.array([b"x"], dtype=object)))
        else:
            one.parameters[words[random.integers(len(words))]].int64_param = numbers[random.integers(len(numbers))]
