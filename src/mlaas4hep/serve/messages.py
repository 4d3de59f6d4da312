"""Classes of protocol buffers' messages, made at run time from tables of their fields.

Generated code would bind itself to one version of protobuf. Invariant: each table has a pool of its own, so that
another copy of the same messages in the process, such as that of a client's package, does not disturb.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Messages:
    """The messages of one package; protobuf is imported when the first is asked for.

    Parameters
    ----------
    package
        Its name in protobuf.
    fields
        By message ``name:type``, separated by blanks and numbered from 1 by their order. ``*`` is a list, ``{}`` a map
        from texts, ``|`` a member of the message's only oneof.

    Examples
    --------
    >>> row = Messages("example", {"Row": "key:*string value:*float"}).of("Row")
    >>> row(key=["x"], value=[1.5]).SerializeToString()
    b'\\n\\x01x\\x12\\x04\\x00\\x00\\xc0?'
    """

    def __init__(self, package: str, fields: Mapping[str, str]) -> None:
        self._package = package
        self._fields = fields
        self._made: dict[str, Any] = {}
        self._pool: Any = None

    def of(self, name: str) -> Any:
        """The class of a message. Raises KeyError."""
        found = self._made.get(name)
        if found is None:
            from google.protobuf import message_factory

            self._pool = self._pool or self._new_pool()
            described = self._pool.FindMessageTypeByName(f"{self._package}.{name}")
            found = self._made[name] = message_factory.GetMessageClass(described)
        return found

    def _new_pool(self) -> Any:
        from google.protobuf import descriptor_pb2, descriptor_pool

        file = descriptor_pb2.FileDescriptorProto(
            name=f"mlaas4hep/{self._package}.proto", syntax="proto3", package=self._package
        )
        for name, fields in self._fields.items():
            one = file.message_type.add(name=name)
            for number, field in enumerate(fields.split(), start=1):
                field_name, kind = field.split(":")
                self._add(one, field_name, kind, number)
        pool = descriptor_pool.DescriptorPool()
        pool.AddSerializedFile(file.SerializeToString())
        return pool

    def _add(self, holder: Any, name: str, kind: str, number: int) -> None:
        field = holder.field.add(name=name, number=number, label=_label(repeated=kind[0] in "*{"))
        if kind[0] == "|":
            if not holder.oneof_decl:
                holder.oneof_decl.add(name="parameter_choice")
            field.oneof_index = 0
        if kind[:2] == "{}":
            # On the wire a map is a list of messages with a key and a value.
            entry = holder.nested_type.add(name=name.title().replace("_", "") + "Entry")
            entry.options.map_entry = True
            self._add(entry, "key", "string", 1)
            self._add(entry, "value", kind[2:], 2)
            kind = f"{holder.name}.{entry.name}"
        self._set_type(field, kind.lstrip("*|"))

    def _set_type(self, field: Any, kind: str) -> None:
        if kind[0].islower():
            field.type = field.Type.Value(f"TYPE_{kind.upper()}")
        else:
            field.type, field.type_name = field.TYPE_MESSAGE, f".{self._package}.{kind}"


def _label(*, repeated: bool) -> Any:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto

    return FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
