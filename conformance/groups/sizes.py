"""Groups ``empty`` and ``huge``: no rows, and more than fits."""

from __future__ import annotations

import json
import math

import numpy as np

from conformance import sections
from conformance.checks import FailedCheckError, check, only_if, require
from conformance.groups.binary import EXTENSION
from conformance.replies import Reply, read_reply, require_error, shown
from conformance.target import Target, binary_headers
from conformance.tensors import TYPES, Array, close
from conformance.wire import Answer, BrokenWireError, LateAnswerError

EMPTY = "no rows out, or 4xx"
HUGE = "all rows, or 413 or another 4xx; no hang"
_REFUSED = (400, 403, 411, 413, 422, 429, 431)


def _empty(target: Target, answer: Answer) -> str:
    if answer.status != 200:
        return require_error(answer)
    reply = read_reply(answer, target.outputs)
    for one in target.outputs:
        if one.batched:
            require(reply.outputs[one.name].shape[0] == 0, f"'{one.name}' has shape {reply.outputs[one.name].shape}")
    return "no rows"


@check("empty", "json", expected=EMPTY, section=sections.INPUT)
def empty_json(target: Target) -> str:
    only_if(target.batched, "the model takes a fixed number of rows")
    found = _empty(target, target.post(target.question(target.tensors(0))))
    target.check_alive()
    return found


@check("empty", "binary", expected=EMPTY, section=sections.BINARY, needs=EXTENSION)
def empty_binary(target: Target) -> str:
    only_if(target.batched, "the model takes a fixed number of rows")
    question = target.binary_question(target.tensors(0), parameters={"binary_data_output": True})
    found = _empty(target, target.post(*question))
    target.check_alive()
    return found


@check(
    "empty",
    "both_agree",
    expected="JSON and bytes are both answered, or both refused",
    section=sections.ROBUST,
    needs=EXTENSION,
)
def both_agree(target: Target) -> str:
    only_if(target.batched, "the model takes a fixed number of rows")
    statuses = (
        target.post(target.question(target.tensors(0))).status,
        target.post(*target.binary_question(target.tensors(0))).status,
    )
    require(statuses[0] == statuses[1], f"{statuses[0]} for JSON, {statuses[1]} for bytes")
    return str(statuses[0])


@check("empty", "body", expected='4xx with {"error": text} for no body at all', section=sections.ERROR)
def empty_body(target: Target) -> str:
    return require_error(target.post(b""))


@check("empty", "object", expected='4xx with {"error": text} for {}', section=sections.ERROR)
def empty_object(target: Target) -> str:
    return require_error(target.post(b"{}"))


def many(target: Target, bytes_a_row: int, most: int) -> dict[str, Array]:
    rows = max(most // bytes_a_row, 2)
    few = target.tensors(64)
    return {name: np.concatenate([one] * (rows // 64 + 1))[:rows] for name, one in few.items()}


def bytes_a_row(target: Target, *, text: bool) -> int:
    sizes = (TYPES[one.datatype].itemsize * math.prod(one.sized(1, 2)) for one in target.inputs)
    return sum(sizes) * (6 if text else 1)


def _all_rows(target: Target, answer: Answer, tensors: dict[str, Array]) -> str:
    if answer.status != 200:
        return require_error(answer, _REFUSED)
    reply = read_reply(answer, target.outputs)
    rows = len(next(iter(tensors.values())))
    sample = target.infer(target.question({name: one[:64] for name, one in tensors.items()}))
    for one in target.outputs:
        if one.batched:
            _compare(one.name, reply, sample, rows)
    return f"{rows} rows"


def _compare(name: str, reply: Reply, sample: Reply, rows: int) -> None:
    """Rows are the first 64 over and over again."""
    found, first = reply.outputs[name], sample.outputs[name]
    require(found.shape[0] == rows, f"{rows} rows asked, output '{name}' has {found.shape[0]}")
    wanted = np.concatenate([first] * (rows // 64 + 1))[:rows]
    require(close(found, wanted), f"rows of output '{name}' differ from the same rows in a small request")


@check("huge", "binary", expected=f"tensors of --huge MiB: {HUGE}", section=sections.ROBUST, needs=EXTENSION)
def huge_binary(target: Target) -> str:
    only_if(target.batched, "the model takes a fixed number of rows")
    tensors = many(target, bytes_a_row(target, text=False), target.wish.huge_bytes)
    question = target.binary_question(tensors, parameters={"binary_data_output": True})
    return _all_rows(target, target.post(*question), tensors)


@check("huge", "json", expected=f"a quarter of that as JSON: {HUGE}", section=sections.ROBUST)
def huge_json(target: Target) -> str:
    only_if(target.batched, "the model takes a fixed number of rows")
    tensors = many(target, bytes_a_row(target, text=True), target.wish.huge_bytes >> 2)
    return _all_rows(target, target.post(target.question(tensors)), tensors)


@check(
    "huge",
    "announced",
    expected="1 TiB announced: refused, or hung up on, before it is sent",
    section="RFC 9110 section 15.5.14",
)
def announced(target: Target) -> str:
    headers = {"Content-Length": str(1 << 40)}
    data = target.place.request("POST", f"{target.path}/infer", b"{", headers)
    target.note(f"POST {target.path}/infer with Content-Length {1 << 40}")
    with target.connect() as connection:
        try:
            answer = connection.exchange(data)
        except LateAnswerError as error:
            raise FailedCheckError(f"the server waits for all of it: {error}") from error
        except BrokenWireError as error:
            return str(error)
    require(answer.status in _REFUSED, shown(answer))
    return shown(answer)


@check("huge", "length_beyond_64_bits", expected="refused or hung up on", section="RFC 9110 section 8.6")
def length_beyond_64_bits(target: Target) -> str:
    data = target.place.request("POST", f"{target.path}/infer", b"{", {"Content-Length": "9" * 30})
    target.note(f"POST {target.path}/infer with a Content-Length of 30 digits")
    with target.connect() as connection:
        try:
            answer = connection.exchange(data)
        except LateAnswerError as error:
            raise FailedCheckError(f"the server waits for all of it: {error}") from error
        except BrokenWireError as error:
            return str(error)
    require(answer.status in _REFUSED, shown(answer))
    return shown(answer)


@check("huge", "id", expected="an id of 1 MiB comes back, or 4xx", section=sections.ROBUST)
def huge_id(target: Target) -> str:
    text = "x" * (1 << 20)
    answer = target.post(target.question(target.tensors(), id=text))
    if answer.status != 200:
        return require_error(answer, _REFUSED)
    require(read_reply(answer, target.outputs).id == text, "the id differs")
    return "comes back"


@check("huge", "many_inputs", expected='10,000 inputs: 4xx with {"error": text}', section=sections.ROBUST)
def many_inputs(target: Target) -> str:
    question = target.question(target.tensors())
    question["inputs"] = [question["inputs"][0] | {"name": f"x{number}"} for number in range(10_000)]
    return require_error(target.post(question))


@check("huge", "deep_nesting", expected='100,000 brackets: 4xx with {"error": text}', section=sections.ROBUST)
def deep_nesting(target: Target) -> str:
    question = target.question(target.tensors())
    question["inputs"][0]["data"] = "KIT"
    body = json.dumps(question).replace('"KIT"', "[" * 100_000 + "]" * 100_000).encode()
    found = require_error(target.ask("POST", f"{target.path}/infer", body, binary_headers(body, None)))
    target.check_alive()
    return found
