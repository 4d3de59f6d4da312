"""Classes of the protocol's gRPC messages, made at run time from ``oip.proto``.

Generated code binds itself to one version of protobuf's generator; descriptors do not. The reader below knows the part
of the language that ``oip.proto`` uses: messages in messages, maps, one ``oneof`` a message. Invariant: the classes
live in a pool of their own, so that another copy of the protocol in the same process does not disturb.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

PROTO = Path(__file__).with_name("oip.proto")
SERVICE = "inference.GRPCInferenceService"
_TOKEN = re.compile(r'"[^"]*"|[\w.]+|[{}()<>;=,]')
_SCALARS = frozenset({"bool", "int32", "int64", "uint32", "uint64", "float", "double", "string", "bytes"})
_COMMENT = re.compile(r"//[^\n]*")


@cache
def message_class(name: str) -> Any:
    """The class of a message, for example ``ModelInferRequest``. Raises KeyError."""
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"inference.{name}"))


def read_proto(text: str) -> Any:
    """A FileDescriptorProto of the text of a .proto file. Raises ValueError."""
    from google.protobuf import descriptor_pb2

    file = descriptor_pb2.FileDescriptorProto(name="conformance/oip.proto", syntax="proto3")
    tokens = iter(_TOKEN.findall(_COMMENT.sub("", text)))
    for token in tokens:
        if token == "package":
            file.package = _statement(tokens)[0]
        elif token == "message":
            _read_message(file.message_type.add(name=next(tokens)), tokens, f".{file.package}")
        elif token == "service":
            _read_service(tokens)
        elif token == "syntax":
            _statement(tokens)
        else:
            raise ValueError(f"'{token}' is not read here")
    _resolve(file.message_type, f".{file.package}", _names(file.message_type, f".{file.package}"))
    return file


@cache
def _pool() -> Any:
    from google.protobuf import descriptor_pool

    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(read_proto(PROTO.read_text()).SerializeToString())
    return pool


def _statement(tokens: Iterator[str]) -> list[str]:
    """Words up to the semicolon."""
    words = []
    while (token := next(tokens)) != ";":
        words.append(token)
    return words


def _read_service(tokens: Iterator[str]) -> None:
    """Calls are named where they are made; here they are only passed over."""
    depth = 0
    for token in tokens:
        depth += {"{": 1, "}": -1}.get(token, 0)
        if token == "}" and not depth:
            return


def _read_message(message: Any, tokens: Iterator[str], scope: str) -> None:
    if next(tokens) != "{":
        raise ValueError(f"message {message.name} has no body")
    scope = f"{scope}.{message.name}"
    for token in tokens:
        if token == "}":
            return
        if token == "message":
            _read_message(message.nested_type.add(name=next(tokens)), tokens, scope)
        elif token == "oneof":
            _read_choice(message, tokens)
        elif token == "map":
            _read_map(message, _statement(tokens), scope)
        else:
            _add_field(message, [token, *_statement(tokens)])


def _read_choice(message: Any, tokens: Iterator[str]) -> None:
    place = len(message.oneof_decl)
    message.oneof_decl.add(name=next(tokens))
    next(tokens)
    while (token := next(tokens)) != "}":
        _add_field(message, [token, *_statement(tokens)]).oneof_index = place


def _read_map(message: Any, words: list[str], scope: str) -> None:
    """``< string , Value > name = number``: on the wire a list of messages with a key and a value."""
    _, key, _, value, _, name, _, number = words
    entry = message.nested_type.add(name="".join(part.capitalize() for part in name.split("_")) + "Entry")
    entry.options.map_entry = True
    _add_field(entry, [key, "key", "=", "1"])
    _add_field(entry, [value, "value", "=", "2"])
    _add_field(message, ["repeated", f"{scope}.{entry.name}", name, "=", number])


def _add_field(message: Any, words: list[str]) -> Any:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

    repeated = words[0] == "repeated"
    kind, name, _, number = words[1:] if repeated else words
    label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
    field = message.field.add(name=name, number=int(number), label=label)
    if kind in _SCALARS:
        field.type = Field.Type.Value(f"TYPE_{kind.upper()}")
    else:
        field.type, field.type_name = Field.TYPE_MESSAGE, kind
    return field


def _names(messages: Any, scope: str) -> set[str]:
    found = set()
    for one in messages:
        found |= {f"{scope}.{one.name}"} | _names(one.nested_type, f"{scope}.{one.name}")
    return found


def _resolve(messages: Any, scope: str, known: set[str]) -> None:
    """Full names for the types of fields, looked up from the inside out."""
    for message in messages:
        inside = f"{scope}.{message.name}"
        _resolve(message.nested_type, inside, known)
        for field in message.field:
            if field.type_name and not field.type_name.startswith("."):
                field.type_name = _full_name(field.type_name, inside, known)


def _full_name(name: str, scope: str, known: set[str]) -> str:
    while scope:
        if f"{scope}.{name}" in known:
            return f"{scope}.{name}"
        scope = scope.rpartition(".")[0]
    raise ValueError(f"no message '{name}'")
