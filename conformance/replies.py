"""Answers to inference requests, read with all the rules of the protocol that hold for any answer.

Invariant: a `Reply` stands for an answer without a fault; whatever breaks a rule raises `FailedCheckError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conformance.checks import FailedCheckError, require
from conformance.tensors import TYPES, Array, Spec, from_bytes, from_json
from conformance.wire import HEADER_LENGTH, Answer


@dataclass(frozen=True)
class Reply:
    """What a server answered; ``binary`` names the outputs that came as bytes."""

    head: Mapping[str, Any]
    outputs: Mapping[str, Array]
    binary: frozenset[str]

    @property
    def id(self) -> Any:
        return self.head.get("id")


def shown(answer: Answer, size: int = 200) -> str:
    """An answer in a line."""
    body = answer.body[:size].decode("utf-8", "replace").replace("\n", " ")
    return f"{answer.status} {answer.content_type or 'without content type'}: {body or 'no body'}"


def read_object(answer: Answer) -> dict[str, Any]:
    """The JSON object of a good answer."""
    require(answer.status == 200, shown(answer))
    try:
        found = answer.json()
    except (ValueError, RecursionError) as error:
        raise FailedCheckError(f"the body is not JSON ({error}): {shown(answer)}") from error
    require(isinstance(found, dict), f"the body is no JSON object: {shown(answer)}")
    return dict(found)


def require_error(answer: Answer, statuses: Sequence[int] = ()) -> str:
    """Demand an error in the protocol's form, with one of the statuses or any 4xx."""
    good = answer.status in statuses if statuses else 400 <= answer.status < 500
    require(good, shown(answer))
    try:
        found = answer.json()
    except (ValueError, RecursionError) as error:
        raise FailedCheckError(f"the error is not JSON: {shown(answer)}") from error
    fine = isinstance(found, dict) and isinstance(found.get("error"), str) and found["error"]
    require(fine, f'the error has not the form {{"error": text}}: {shown(answer)}')
    return f"{answer.status} {found['error'][:120]}"


def require_sound(answer: Answer) -> str:
    """Demand anything but a failure of the server: an answer of the protocol, or an error in its form."""
    if answer.status == 200:
        read_reply(answer)
        return "answered"
    return require_error(answer)


def read_reply(answer: Answer, outputs: Sequence[Spec] = ()) -> Reply:
    """Read an answer; with `outputs`, those must be there, all of them and no others, as declared."""
    head, tail = _split(answer)
    found = _list_of_objects(head.get("outputs"), "outputs")
    arrays: dict[str, Array] = {}
    binary = set()
    for one in found:
        name = str(one.get("name"))
        require(name not in arrays, f"output '{name}' comes twice")
        arrays[name], tail, is_binary = _read_output(one, tail)
        binary |= {name} if is_binary else set()
    require(not tail, f"{len(tail)} bytes are left after the last output")
    require(bool(binary) == (HEADER_LENGTH.lower() in answer.headers), f"{HEADER_LENGTH} does not fit the outputs")
    if outputs:
        _compare(arrays, outputs)
    return Reply(head, arrays, frozenset(binary))


def _split(answer: Answer) -> tuple[dict[str, Any], bytes]:
    length = answer.headers.get(HEADER_LENGTH.lower())
    if length is None:
        return read_object(answer), b""
    require(answer.status == 200, shown(answer))
    fits = length.isdecimal() and int(length) <= len(answer.body)
    require(fits, f"{HEADER_LENGTH} is '{length}', the body has {len(answer.body)} bytes")
    head = Answer(answer.status, answer.headers, answer.body[: int(length)])
    return read_object(head), answer.body[int(length) :]


def _read_output(one: Mapping[str, Any], tail: bytes) -> tuple[Array, bytes, bool]:
    name, datatype, shape = one.get("name"), one.get("datatype"), one.get("shape")
    require(isinstance(name, str), f"an output has the name {name!r}")
    require(datatype in TYPES, f"output '{name}' has the datatype {datatype!r}")
    sized = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    require(sized, f"output '{name}' has the shape {shape!r}")
    # An optional key that is null is a finding of its own, `infer.optional_keys`; elsewhere it counts as absent.
    parameters = {} if one.get("parameters") is None else one["parameters"]
    require(isinstance(parameters, dict), f"output '{name}' has the parameters {parameters!r}")
    size = parameters.get("binary_data_size")
    try:
        if size is None:
            return from_json(one.get("data"), str(datatype), shape or []), tail, False
        require(one.get("data") is None, f"output '{name}' has both 'data' and 'binary_data_size'")
        require(type(size) is int and 0 <= size <= len(tail), f"output '{name}': {size!r} bytes of {len(tail)}")
        return from_bytes(tail[:size], str(datatype), shape or []), tail[size:], True
    except ValueError as error:
        raise FailedCheckError(f"output '{name}': {error}") from error


def _list_of_objects(value: Any, name: str) -> list[dict[str, Any]]:
    fine = isinstance(value, list) and all(isinstance(one, dict) for one in value)
    require(fine, f"'{name}' is no array of objects: {str(value)[:80]}")
    return list(value)


def _compare(arrays: Mapping[str, Array], outputs: Sequence[Spec]) -> None:
    names = [one.name for one in outputs]
    require(set(arrays) == set(names), f"outputs {sorted(arrays)} came, the model has {sorted(names)}")
    for one in outputs:
        found = arrays[one.name]
        require(found.dtype == TYPES[one.datatype], f"output '{one.name}' is {found.dtype}, declared {one.datatype}")
        fits = len(found.shape) == len(one.shape) and all(
            asked in (-1, size) for size, asked in zip(found.shape, one.shape, strict=True)
        )
        require(fits, f"output '{one.name}' has shape {list(found.shape)}, declared {list(one.shape)}")


def read_specs(value: Any, where: str) -> tuple[Spec, ...]:
    """Tensors of a model's metadata."""
    specs = []
    for one in _list_of_objects(value, where):
        name, datatype, shape = one.get("name"), one.get("datatype"), one.get("shape")
        require(isinstance(name, str) and name, f"a tensor of '{where}' has the name {name!r}")
        require(datatype in TYPES, f"'{name}' of '{where}' has the datatype {datatype!r}")
        sized = isinstance(shape, list) and all(type(size) is int and size >= -1 for size in shape)
        require(sized, f"'{name}' of '{where}' has the shape {shape!r}")
        specs.append(Spec(str(name), str(datatype), tuple(shape or ())))
    return tuple(specs)
