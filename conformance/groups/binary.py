"""Group ``binary``: Triton's binary tensor data extension, where it is announced."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from conformance import sections
from conformance.checks import Check, add, check, only_if, require
from conformance.groups.infer import ROWS, require_same
from conformance.groups.refusals import REFUSED
from conformance.replies import Reply, read_reply, require_error, require_sound, shown
from conformance.target import Target
from conformance.wire import BINARY, HEADER_LENGTH, JSON, BrokenWireError

EXTENSION = "binary_tensor_data"
Parts = tuple[dict[str, Any], bytes]
Change = Callable[[dict[str, Any], bytes, Target], Parts]


def _rows(target: Target) -> int:
    return ROWS if target.batched else 1


def _plain(target: Target) -> Reply:
    return target.infer(target.question(target.tensors(_rows(target))))


def _in_binary(target: Target, **more: Any) -> Parts:
    return target.binary_question(target.tensors(_rows(target)), **more)


@check(
    "binary", "request", expected="bytes in, JSON out: the values of JSON in", section=sections.BINARY, needs=EXTENSION
)
def request(target: Target) -> str:
    reply = target.infer(*_in_binary(target))
    require(not reply.binary, f"outputs {sorted(reply.binary)} came as bytes without being asked")
    require_same(_plain(target), reply, "between JSON and bytes in")
    return "equal"


@check(
    "binary",
    "response",
    expected="JSON in, bytes out: the values of JSON out",
    section=sections.BINARY,
    needs=EXTENSION,
)
def response(target: Target) -> str:
    asked = [{"name": one.name, "parameters": {"binary_data": True}} for one in target.outputs]
    reply = target.infer(target.question(target.tensors(_rows(target)), outputs=asked))
    require(reply.binary == set(reply.outputs), f"outputs {sorted(set(reply.outputs) - reply.binary)} came as JSON")
    require_same(_plain(target), reply, "between JSON and bytes out")
    return "equal"


@check("binary", "both", expected="bytes in and out", section=sections.BINARY, needs=EXTENSION)
def both(target: Target) -> str:
    reply = target.infer(*_in_binary(target, parameters={"binary_data_output": True}, id="é"))
    require(reply.binary == set(reply.outputs), f"outputs {sorted(set(reply.outputs) - reply.binary)} came as JSON")
    require(reply.id == "é", f"'id' is {reply.id!r}")
    require_same(_plain(target), reply, "between JSON and bytes")
    return "equal"


@check(
    "binary",
    "output_order",
    expected="bytes in the order of the outputs in the JSON",
    section=sections.BINARY,
    needs=EXTENSION,
)
def output_order(target: Target) -> str:
    only_if(len(target.outputs) > 1, "the model has one output")
    for outputs in (target.outputs, tuple(reversed(target.outputs))):
        asked = [{"name": one.name, "parameters": {"binary_data": True}} for one in outputs]
        reply = target.infer(target.question(target.tensors(_rows(target)), outputs=asked))
        require_same(_plain(target), reply, f"when asked in the order {', '.join(one.name for one in outputs)}")
    return "both orders"


@check(
    "binary",
    "answer_content_type",
    expected="bytes come as application/octet-stream",
    section=f"{sections.BINARY}, Examples",
    needs=EXTENSION,
)
def answer_content_type(target: Target) -> str:
    answer = target.post(*_in_binary(target, parameters={"binary_data_output": True}))
    read_reply(answer, target.outputs)
    require(answer.content_type == BINARY, f"content type '{answer.content_type}'")
    return answer.content_type


@check(
    "binary",
    "override",
    expected="binary_data of an output goes before binary_data_output",
    section=sections.BINARY,
    needs=EXTENSION,
)
def override(target: Target) -> str:
    asked = [{"name": one.name, "parameters": {"binary_data": False}} for one in target.outputs]
    question = target.question(target.tensors(), outputs=asked, parameters={"binary_data_output": True})
    reply = target.infer(question)
    require(not reply.binary, f"outputs {sorted(reply.binary)} came as bytes")
    return "JSON"


@check(
    "binary",
    "named_outputs",
    expected="binary_data_output with named outputs: JSON or bytes, the text allows both",
    section=sections.BINARY,
    needs=EXTENSION,
)
def named_outputs(target: Target) -> str:
    asked = [{"name": one.name} for one in target.outputs]
    question = target.question(target.tensors(_rows(target)), outputs=asked, parameters={"binary_data_output": True})
    reply = target.infer(question)
    require_same(_plain(target), reply, "when named, with binary_data_output")
    return "bytes" if reply.binary else "JSON"


@check(
    "binary", "mixed_inputs", expected="some inputs as JSON, some as bytes", section=sections.BINARY, needs=EXTENSION
)
def mixed_inputs(target: Target) -> str:
    only_if(len(target.inputs) > 1, "the model has one input")
    plain = _plain(target)
    for one in target.inputs:
        reply = target.infer(*_in_binary(target, json_inputs=[one.name]))
        require_same(plain, reply, f"with '{one.name}' as JSON and the others as bytes")
    return f"{len(target.inputs)} mixtures"


@check(
    "binary", "mixed_outputs", expected="some outputs as JSON, some as bytes", section=sections.BINARY, needs=EXTENSION
)
def mixed_outputs(target: Target) -> str:
    only_if(len(target.outputs) > 1, "the model has one output")
    plain = _plain(target)
    for chosen in target.outputs:
        asked = [{"name": one.name, "parameters": {"binary_data": one is chosen}} for one in target.outputs]
        reply = target.infer(target.question(target.tensors(_rows(target)), outputs=asked))
        require(reply.binary == {chosen.name}, f"asked '{chosen.name}' as bytes, found {sorted(reply.binary)}")
        require_same(plain, reply, f"with '{chosen.name}' as bytes")
    return f"{len(target.outputs)} mixtures"


@check(
    "binary",
    "header_without_bytes",
    expected="header length of the whole body: JSON alone",
    section=sections.BINARY,
    needs=EXTENSION,
)
def header_without_bytes(target: Target) -> str:
    reply = target.infer(target.question(target.tensors(_rows(target))), b"")
    require_same(_plain(target), reply, "with a header length and no bytes")
    return "equal"


@check("binary", "any_offset", expected="tensors at any address of the body", section=sections.BINARY, needs=EXTENSION)
def any_offset(target: Target) -> str:
    head, tail = _in_binary(target)
    plain = _plain(target)
    for spaces in range(9):
        reply = target.infer(json.dumps(head).encode() + b" " * spaces, tail)
        require_same(plain, reply, f"with {spaces} spaces before the bytes")
    return "9 offsets"


def _sized(change: Callable[[int], Any]) -> Change:
    def make(head: dict[str, Any], tail: bytes, target: Target) -> Parts:
        parameters = head["inputs"][-1]["parameters"]
        parameters["binary_data_size"] = change(parameters["binary_data_size"])
        return head, tail

    return make


def _one_byte_less(head: dict[str, Any], tail: bytes, target: Target) -> Parts:
    return head, tail[:-1]


def _one_byte_more(head: dict[str, Any], tail: bytes, target: Target) -> Parts:
    return head, tail + b"\0"


def _nothing_after_the_head(head: dict[str, Any], tail: bytes, target: Target) -> Parts:
    return head, b""


def _size_and_bytes_less(head: dict[str, Any], tail: bytes, target: Target) -> Parts:
    head, _ = _sized(lambda size: size - 1)(head, tail, target)
    return head, tail[:-1]


def _wrong_length_of_text(head: dict[str, Any], tail: bytes, target: Target) -> Parts:
    only_if(head["inputs"][0]["datatype"] == "BYTES", "the first input is no text")
    return head, b"\xff\xff\xff\x7f" + tail[4:]


CASES: tuple[tuple[str, Change], ...] = (
    ("size_larger", _sized(lambda size: size + 4)),
    ("size_smaller", _sized(lambda size: max(size - 4, 0) if size > 4 else 0)),
    ("size_negative", _sized(lambda size: -size)),
    ("size_enormous", _sized(lambda size: 2**63 - 1)),
    ("size_beyond_64_bits", _sized(lambda size: 2**70)),
    ("size_as_text", _sized(lambda size: "many")),
    ("one_byte_less", _one_byte_less),
    ("one_byte_more", _one_byte_more),
    ("size_and_bytes_less", _size_and_bytes_less),
    ("nothing_after_the_head", _nothing_after_the_head),
    ("wrong_length_of_text", _wrong_length_of_text),
)


def _declare(name: str, change: Change) -> None:
    def run(target: Target) -> str:
        head, tail = change(*target.binary_question(target.tensors()), target)
        return require_error(target.post(head, tail))

    add(Check("binary", name, REFUSED, sections.BINARY, run, EXTENSION))


for _case in CASES:
    _declare(*_case)


def _declare_length(name: str, change: Callable[[int, int], str]) -> None:
    """A length of the head that does not fit; ``change`` has the right one and that of the whole body."""

    def run(target: Target) -> str:
        head, tail = target.binary_question(target.tensors())
        length = len(json.dumps(head).encode())
        return require_error(target.post(head, tail, headers={HEADER_LENGTH: change(length, length + len(tail))}))

    add(Check("binary", name, REFUSED, sections.BINARY, run, EXTENSION))


_declare_length("header_longer_than_body", lambda head, body: str(body + 1))
_declare_length("header_one_less", lambda head, body: str(head - 1))
_declare_length("header_one_more", lambda head, body: str(head + 1))
_declare_length("header_zero", lambda head, body: "0")
_declare_length("header_negative", lambda head, body: "-1")
_declare_length("header_enormous", lambda head, body: "9" * 40)
_declare_length("header_no_number", lambda head, body: "many")
_declare_length("header_missing", lambda head, body: "")


@check(
    "binary",
    "data_and_size",
    expected="both data and binary_data_size: answered or 4xx",
    section=sections.ROBUST,
    needs=EXTENSION,
)
def data_and_size(target: Target) -> str:
    tensors = target.tensors()
    head, tail = target.binary_question(tensors)
    head["inputs"][0]["data"] = target.input(target.inputs[0].name, tensors[target.inputs[0].name])["data"]
    return require_sound(target.post(head, tail))


@check(
    "binary",
    "cut_off",
    expected="a client that leaves in the middle of the bytes harms nobody",
    section=sections.ROBUST,
    needs=EXTENSION,
)
def cut_off(target: Target) -> str:
    head, tail = target.binary_question(target.tensors())
    body = json.dumps(head).encode()
    headers = {"Content-Type": BINARY, HEADER_LENGTH: str(len(body))}
    data = target.place.request("POST", f"{target.path}/infer", body + tail, headers)
    target.note(f"POST {target.path}/infer, {len(tail)} bytes of tensors of which the last is never sent")
    with target.connect() as connection:
        connection.send(data[:-1])
        connection.stop_sending()
        try:
            answer = connection.receive()
            require(400 <= answer.status < 500, shown(answer))
            found = shown(answer)
        except BrokenWireError as error:
            require(not connection.received, f"{error}")
            found = str(error)
    target.check_alive()
    return found


@check(
    "binary",
    "json_content_type",
    expected="answered or 4xx under application/json",
    section=sections.ROBUST,
    needs=EXTENSION,
)
def json_content_type(target: Target) -> str:
    head, tail = target.binary_question(target.tensors())
    return require_sound(target.post(head, tail, headers={"Content-Type": JSON}))
