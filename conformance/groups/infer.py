"""Group ``infer``: good requests in JSON."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import numpy as np

from conformance import sections
from conformance.checks import check, only_if, require
from conformance.replies import Reply, read_reply, require_sound, shown
from conformance.target import Target, binary_headers
from conformance.tensors import close, same
from conformance.wire import JSON

ROWS = 7
IDS = ("42", "é µ 事", 'quote " and \\ backslash', "x" * 1000)


def require_same(left: Reply, right: Reply, what: str) -> None:
    """Demand equal bits in all outputs that both have."""
    for name, one in left.outputs.items():
        require(name in right.outputs and same(one, right.outputs[name]), f"output '{name}' differs {what}")


@check("infer", "one_row", expected="all outputs, as declared", section=sections.RESPONSE)
def one_row(target: Target) -> str:
    reply = target.infer(target.question(target.tensors()))
    require(reply.head.get("model_name") == target.model, f"'model_name' is {reply.head.get('model_name')!r}")
    version = reply.head.get("model_version")
    require(version is None or isinstance(version, str), f"'model_version' is {version!r}")
    return f"outputs {', '.join(reply.outputs)}"


@check("infer", "optional_keys", expected="optional keys are left out, not null", section=sections.RESPONSE)
def optional_keys(target: Target) -> str:
    head = target.infer(target.question(target.tensors())).head
    found = [f"'{key}'" for key, value in head.items() if value is None]
    found += [f"'{key}' of an output" for one in head["outputs"] for key, value in one.items() if value is None]
    require(not found, f"null: {', '.join(dict.fromkeys(found))}")
    return "none is null"


@check("infer", "answer_content_type", expected="JSON comes as application/json", section=sections.INFER)
def answer_content_type(target: Target) -> str:
    answer = target.post(target.question(target.tensors()))
    read_reply(answer, target.outputs)
    require(answer.content_type == JSON, f"content type '{answer.content_type}'")
    return answer.content_type


@check("infer", "many_rows", expected="as many rows out as in, each as if sent alone", section=sections.RESPONSE)
def many_rows(target: Target) -> str:
    only_if(target.batched, "the model takes a fixed number of rows")
    tensors = target.tensors(ROWS)
    together = target.infer(target.question(tensors))
    free = {one.name for one in target.outputs if one.batched}
    for name in free:
        rows = together.outputs[name].shape[0]
        require(rows == ROWS, f"{ROWS} rows asked, output '{name}' has {rows}")
    for row in range(ROWS):
        alone = target.infer(target.question({name: one[row : row + 1] for name, one in tensors.items()}))
        for name in free:
            fits = close(alone.outputs[name], together.outputs[name][row : row + 1])
            require(fits, f"row {row} of output '{name}' differs from the row sent alone")
    return f"{ROWS} rows"


@check("infer", "repeatable", expected="the same request, the same bits", section=sections.ROBUST)
def repeatable(target: Target) -> str:
    question = target.question(target.tensors())
    require_same(target.infer(question), target.infer(question), "between two equal requests")
    return "equal"


@check("infer", "id", expected="the id of the request comes back", section=sections.RESPONSE)
def id_comes_back(target: Target) -> str:
    for one in IDS:
        reply = target.infer(target.question(target.tensors(), id=one))
        require(reply.id == one, f"asked with id {one[:40]!r}, found {str(reply.id)[:40]!r}")
    return f"{len(IDS)} ids, of letters beyond ASCII too"


@check("infer", "no_id", expected="without an id: none, or text", section=sections.RESPONSE)
def no_id(target: Target) -> str:
    first, second = (target.infer(target.question(target.tensors())).id for _ in range(2))
    require(all(one is None or isinstance(one, str) for one in (first, second)), f"'id' is {first!r}")
    return "none" if first is None else "made by the server" if first else "empty"


@check("infer", "each_version", expected="each listed version answers, and says so", section=sections.RESPONSE)
def each_version(target: Target) -> str:
    only_if(target.versions, "the metadata lists no versions")
    for version in target.versions:
        path = f"{target.path}/versions/{quote(version, safe='')}/infer"
        found = target.infer(target.question(target.tensors()), path=path).head.get("model_version")
        require(found == version, f"asked version {version}, 'model_version' is {found!r}")
    return f"versions {', '.join(target.versions)}"


@check("infer", "one_output", expected="only the output that is asked", section=sections.REQUEST)
def one_output(target: Target) -> str:
    whole = target.infer(target.question(target.tensors()))
    for one in whole.outputs:
        reply = target.infer(target.question(target.tensors(), outputs=[{"name": one}]), some=True)
        require(set(reply.outputs) == {one}, f"asked output '{one}', found {sorted(reply.outputs)}")
        require_same(reply, whole, "when asked alone")
    return f"{len(whole.outputs)} outputs"


@check("infer", "output_order", expected="values under their names in any order", section=sections.OUTPUT)
def output_order(target: Target) -> str:
    whole = target.infer(target.question(target.tensors()))
    only_if(len(whole.outputs) > 1, "the model has one output")
    for names in (list(whole.outputs), list(whole.outputs)[::-1]):
        reply = target.infer(target.question(target.tensors(), outputs=[{"name": one} for one in names]))
        require_same(whole, reply, f"when asked in the order {', '.join(names)}")
    return "both orders"


@check("infer", "empty_outputs", expected='"outputs": [] is answered or refused', section=sections.REQUEST)
def empty_outputs(target: Target) -> str:
    return require_sound(target.post(target.question(target.tensors(), outputs=[])))


@check("infer", "input_order", expected="inputs in any order give the same", section=sections.REQUEST)
def input_order(target: Target) -> str:
    only_if(len(target.inputs) > 1, "the model has one input")
    question = target.question(target.tensors())
    turned = {"inputs": list(reversed(question["inputs"]))}
    require_same(target.infer(question), target.infer(turned), "with the inputs in reversed order")
    return "equal"


@check("infer", "parameters", expected="unknown parameters of all kinds do not disturb", section=sections.PARAMETERS)
def parameters(target: Target) -> str:
    plain = target.question(target.tensors())
    parameters = {"kit_text": "x", "kit_number": 1.5, "kit_count": 3, "kit_flag": True}
    asked: dict[str, Any] = {
        "parameters": parameters,
        "inputs": [one | {"parameters": parameters} for one in plain["inputs"]],
        "outputs": [{"name": one.name, "parameters": parameters} for one in target.outputs],
    }
    require_same(target.infer(plain), target.infer(asked), "with parameters")
    return "of request, inputs and outputs"


@check("infer", "nested_data", expected="flat and nested data give the same", section=sections.DATA)
def nested_data(target: Target) -> str:
    rows = ROWS if target.batched else 1
    plain = target.question(target.tensors(rows))
    only_if(any(len(one["shape"]) > 1 for one in plain["inputs"]), "all inputs have one dimension")
    nested = {"inputs": [one | {"data": _nest(one["data"], one["shape"])} for one in plain["inputs"]]}
    require_same(target.infer(plain), target.infer(nested), "with nested data")
    return "equal"


@check("infer", "key_order", expected="keys in any order, white space anywhere", section=sections.JSON)
def key_order(target: Target) -> str:
    plain = target.question(target.tensors(), id="1")
    turned = {"id": "1", "inputs": [dict(reversed(one.items())) for one in plain["inputs"]]}
    loose = json.dumps(dict(reversed(turned.items())), indent=2).encode()
    require_same(target.infer(plain), target.infer(b"\r\n\t " + loose + b"\n"), "with keys in another order")
    return "equal"


@check("infer", "escaped_text", expected="escapes of JSON in keys and names are read", section=sections.JSON)
def escaped_text(target: Target) -> str:
    plain = target.question(target.tensors())
    body = json.dumps(plain)
    name = target.inputs[0].name
    escaped = "".join(f"\\u{ord(one):04x}" for one in name)
    body = body.replace('"inputs"', '"\\u0069nputs"').replace(f'"{name}"', f'"{escaped}"')
    require_same(target.infer(plain), target.infer(body.encode()), "with escaped text")
    return "equal"


@check("infer", "whole_floats", expected="1 and 1.0 and 1e0 are the same float", section=sections.DATA)
def whole_floats(target: Target) -> str:
    only_if(any(one.floating for one in target.inputs), "no input is a float")
    tensors = target.tensors()
    for one in target.inputs:
        if one.floating:
            tensors[one.name] = np.ones_like(tensors[one.name])
    plain = json.dumps(target.question(tensors))
    for other in ("1", "1e0", "10.0E-1"):
        reply = target.infer(plain.replace("1.0", other).encode())
        require_same(target.infer(plain.encode()), reply, f"with {other} for 1.0")
    return "equal"


@check(
    "infer", "unknown_keys", expected="a key that the protocol does not know: answered or 4xx", section=sections.ROBUST
)
def unknown_keys(target: Target) -> str:
    return require_sound(target.post(target.question(target.tensors()) | {"kit_unknown": {"a": [1]}}))


@check(
    "infer",
    "model_name_in_body",
    expected="a key model_name, as some clients send it: answered or 4xx",
    section=sections.ROBUST,
)
def model_name_in_body(target: Target) -> str:
    return require_sound(target.post(target.question(target.tensors()) | {"model_name": target.model}))


@check(
    "infer",
    "content_type",
    expected="charset and letter case of the content type do not matter",
    section="RFC 9110 section 8.3.1",
)
def content_type(target: Target) -> str:
    body = json.dumps(target.question(target.tensors())).encode()
    for one in ("application/json; charset=utf-8", "Application/JSON"):
        answer = target.ask("POST", f"{target.path}/infer", body, binary_headers(body, None) | {"Content-Type": one})
        require(answer.status == 200, f"{one}: {shown(answer)}")
        read_reply(answer, target.outputs)
    return "both forms"


def _nest(values: list[Any], shape: list[int]) -> list[Any]:
    for size in reversed(shape[1:]):
        values = [values[place : place + size] for place in range(0, len(values), size)] if size else values
    return values
