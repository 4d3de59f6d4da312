"""Group ``refused``: requests that a model cannot answer, each of them one step away from a good one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from conformance import sections
from conformance.checks import Check, SkippedCheckError, add, check, only_if, require
from conformance.replies import read_reply, require_error
from conformance.target import Target
from conformance.tensors import close

Question = dict[str, Any]
Change = Callable[[Question, Target], None]
REFUSED = '4xx with {"error": text}'


def _without_an_input(question: Question, target: Target) -> None:
    only_if(len(target.inputs) > 1, "the model has one input")
    question["inputs"].pop()


def _no_inputs(question: Question, target: Target) -> None:
    question["inputs"] = []


def _unknown_input(question: Question, target: Target) -> None:
    question["inputs"].append(question["inputs"][0] | {"name": "kit-unknown"})


def _renamed_input(question: Question, target: Target) -> None:
    question["inputs"][0]["name"] += "_x"


def _input_twice(question: Question, target: Target) -> None:
    question["inputs"].append(dict(question["inputs"][0]))


def _unknown_output(question: Question, target: Target) -> None:
    question["outputs"] = [{"name": "kit-unknown"}]


def _unknown_beside_known_output(question: Question, target: Target) -> None:
    only_if(target.outputs, "the model declares no outputs")
    question["outputs"] = [{"name": target.outputs[0].name}, {"name": "kit-unknown"}]


def _value_too_few(question: Question, target: Target) -> None:
    question["inputs"][0]["data"].pop()


def _value_too_many(question: Question, target: Target) -> None:
    data = question["inputs"][0]["data"]
    data.append(data[0])


def _larger_shape(question: Question, target: Target) -> None:
    question["inputs"][0]["shape"][0] += 1


def _wider_than_the_model(question: Question, target: Target) -> None:
    """One more in the last fixed dimension, data and shape in agreement."""
    for one, spec in zip(question["inputs"], target.inputs, strict=True):
        if spec.shape and spec.shape[-1] > 0:
            shape = one["shape"]
            count = len(one["data"]) // shape[-1]
            shape[-1] += 1
            one["data"] = (one["data"] + one["data"][:1] * count)[: count * shape[-1]]
            return
    raise SkippedCheckError("no input has a fixed last dimension")


def _another_rank(question: Question, target: Target) -> None:
    question["inputs"][0]["shape"].append(1)
    question["inputs"][0]["shape"].append(1)


def _other_row_counts(question: Question, target: Target) -> None:
    only_if(target.batched and len(target.inputs) > 1, "the model has one input, or a fixed number of rows")
    first = question["inputs"][0]
    first["shape"][0] = 2
    first["data"] = first["data"] * 2


def _text_for_numbers(question: Question, target: Target) -> None:
    one = next((one for one in question["inputs"] if one["datatype"] != "BYTES"), None)
    only_if(one, "all inputs are text")
    one["datatype"], one["data"] = "BYTES", ["jet"] * len(one["data"])  # type: ignore[index]


def _words_among_numbers(question: Question, target: Target) -> None:
    one = next((one for one in question["inputs"] if one["datatype"] != "BYTES"), None)
    only_if(one, "all inputs are text")
    one["data"][0] = "jet"  # type: ignore[index]


def _objects_among_values(question: Question, target: Target) -> None:
    question["inputs"][0]["data"][0] = {"value": 1}


def _unknown_datatype(question: Question, target: Target) -> None:
    question["inputs"][0]["datatype"] = "FP31"


def _no_datatype(question: Question, target: Target) -> None:
    del question["inputs"][0]["datatype"]


def _no_shape(question: Question, target: Target) -> None:
    del question["inputs"][0]["shape"]


def _no_name(question: Question, target: Target) -> None:
    del question["inputs"][0]["name"]


def _no_data(question: Question, target: Target) -> None:
    del question["inputs"][0]["data"]


def _negative_shape(question: Question, target: Target) -> None:
    question["inputs"][0]["shape"][0] = -1


def _two_negative_sizes(question: Question, target: Target) -> None:
    shape = question["inputs"][0]["shape"]
    question["inputs"][0]["shape"] = [-one for one in shape] if len(shape) > 1 else [-1, -1]


def _enormous_shape(question: Question, target: Target) -> None:
    question["inputs"][0]["shape"][0] = 2**62


def _overflowing_shape(question: Question, target: Target) -> None:
    question["inputs"][0]["shape"] = [2**32, 2**32, len(question["inputs"][0]["data"])]


def _shape_beyond_64_bits(question: Question, target: Target) -> None:
    question["inputs"][0]["shape"][0] = 2**70


def _ragged_data(question: Question, target: Target) -> None:
    data = question["inputs"][0]["data"]
    question["inputs"][0]["data"] = [data, data[:-1] or [data]]


CASES: tuple[tuple[str, str, Change], ...] = (
    ("missing_input", sections.REQUEST, _without_an_input),
    ("no_inputs", sections.REQUEST, _no_inputs),
    ("unknown_input", sections.REQUEST, _unknown_input),
    ("renamed_input", sections.REQUEST, _renamed_input),
    ("input_twice", sections.REQUEST, _input_twice),
    ("unknown_output", sections.REQUEST, _unknown_output),
    ("unknown_beside_known_output", sections.REQUEST, _unknown_beside_known_output),
    ("value_too_few", sections.INPUT, _value_too_few),
    ("value_too_many", sections.INPUT, _value_too_many),
    ("larger_shape", sections.INPUT, _larger_shape),
    ("wider_than_the_model", sections.MODEL, _wider_than_the_model),
    ("another_rank", sections.MODEL, _another_rank),
    ("other_row_counts", sections.INPUT, _other_row_counts),
    ("text_for_numbers", sections.INPUT, _text_for_numbers),
    ("words_among_numbers", sections.DATA, _words_among_numbers),
    ("objects_among_values", sections.DATA, _objects_among_values),
    ("unknown_datatype", sections.TYPES, _unknown_datatype),
    ("no_datatype", sections.INPUT, _no_datatype),
    ("no_shape", sections.INPUT, _no_shape),
    ("no_name", sections.INPUT, _no_name),
    ("no_data", sections.INPUT, _no_data),
    ("negative_shape", sections.INPUT, _negative_shape),
    ("two_negative_sizes", sections.INPUT, _two_negative_sizes),
    ("enormous_shape", sections.INPUT, _enormous_shape),
    ("overflowing_shape", sections.INPUT, _overflowing_shape),
    ("shape_beyond_64_bits", sections.INPUT, _shape_beyond_64_bits),
    ("ragged_data", sections.DATA, _ragged_data),
)


def _declare(name: str, section: str, change: Change) -> None:
    def run(target: Target) -> str:
        question = target.question(target.tensors())
        change(question, target)
        return require_error(target.post(question))

    add(Check("refused", name, REFUSED, f"{section}; {sections.CLIENT_ERROR}", run))


for _case in CASES:
    _declare(*_case)


@check(
    "refused",
    "other_float_type",
    expected="FP64 for FP32 or the reverse: the same values, or 4xx",
    section=sections.DATA,
)
def other_float_type(target: Target) -> str:
    question = target.question(target.tensors())
    one = next((one for one in question["inputs"] if one["datatype"] in ("FP32", "FP64")), None)
    if one is None:
        raise SkippedCheckError("no input is FP32 or FP64")
    plain = target.infer(question)
    one["datatype"] = "FP64" if one["datatype"] == "FP32" else "FP32"
    answer = target.post(question)
    if answer.status != 200:
        return require_error(answer)
    reply = read_reply(answer, target.outputs)
    for name, values in plain.outputs.items():
        require(close(values, reply.outputs[name]), f"output '{name}' has other values")
    return "converted"
