"""The canonical form of a graph: equal graphs give equal bytes, and nothing of the machine that made them is left.

A model is built anew from operators, connections and numbers alone; producer, versions, names, documentation, source
traces and dead ends are not copied. Invariant: the order of nodes follows from the connections, seen from the outputs,
so that neither the order in a file nor any name inside it matters.
"""

from __future__ import annotations

import hashlib

import onnx
from onnx import numpy_helper

from mlaas4hep.errors import ModelError

GRAPH_NAME = "mlaas4hep"
_GRAPH_ATTRIBUTES = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def canonical_bytes(model: onnx.ModelProto) -> bytes:
    """Serialised canonical form; what ``model_sha256`` is over."""
    data: bytes = canonicalise(model).SerializeToString(deterministic=True)
    return data


def model_sha256(model: onnx.ModelProto) -> str:
    """Hash of the canonical form, hexadecimal."""
    return hashlib.sha256(canonical_bytes(model)).hexdigest()


def canonicalise(model: onnx.ModelProto) -> onnx.ModelProto:
    """A new model that computes the same.

    Names of inputs and outputs, their types and their order stay; the first dimension is called N.

    Raises
    ------
    ModelError
        The graph has branches or loops, or refers to data outside the file.
    """
    constants = _constants(model.graph)
    nodes = _ordered(model.graph, constants)
    names = _Names(model.graph)
    done = onnx.ModelProto(ir_version=model.ir_version)
    done.graph.name = GRAPH_NAME
    for index, node in enumerate(nodes):
        fresh = names.new_in_order([*node.input, *node.output])
        done.graph.node.append(_bare_node(node, index, names))
        for name in fresh:
            if name in constants:
                done.graph.initializer.append(_bare_tensor(constants[name], names[name]))
    done.graph.input.extend(_bare_end(end) for end in model.graph.input if end.name not in constants)
    done.graph.output.extend(_bare_end(end) for end in model.graph.output)
    _add_opsets(done, model)
    return done


def _constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Numbers by name, whether they are stored as initialisers or as Constant nodes."""
    if graph.sparse_initializer:
        raise ModelError("the exported graph holds sparse tensors, which are not supported")
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    for name, tensor in found.items():
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelError(f"the exported graph keeps '{name}' in another file; export it with all weights inside")
    return found


def _ordered(graph: onnx.GraphProto, constants: dict[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
    """Nodes that the outputs need, each after its inputs: depth first from the outputs, inputs in order."""
    producer = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    ordered: list[onnx.NodeProto] = []
    done: set[int] = set()
    for end in graph.output:
        stack = [(producer[end.name], False)] if end.name in producer else []
        while stack:
            index, ready = stack.pop()
            if index in done:
                continue
            node = graph.node[index]
            if ready:
                done.add(index)
                ordered.append(node)
                continue
            stack.append((index, True))
            needed = [name for name in node.input if name in producer and name not in constants]
            stack.extend((producer[name], False) for name in reversed(needed))
    return ordered


class _Names:
    """New names of values, in the order in which they are first seen; the graph's own ends keep theirs."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._names: dict[str, str] = {end.name: end.name for end in [*graph.input, *graph.output]}
        self._names[""] = ""  # an optional input that is left out
        for tensor in graph.initializer:
            self._names.pop(tensor.name, None)
        self._count = 0

    def __getitem__(self, name: str) -> str:
        return self._names[name]

    def new_in_order(self, names: list[str]) -> list[str]:
        """Name what has no new name yet; gives those."""
        fresh = []
        for name in names:
            if name not in self._names:
                self._names[name] = f"__v{self._count}"
                self._count += 1
                fresh.append(name)
        return fresh


def _bare_node(node: onnx.NodeProto, index: int, names: _Names) -> onnx.NodeProto:
    bare = onnx.NodeProto(op_type=node.op_type, name=f"__n{index}", domain=_domain(node.domain))
    bare.input.extend(names[name] for name in node.input)
    bare.output.extend(names[name] for name in node.output)
    for attribute in sorted(node.attribute, key=lambda one: one.name):
        if attribute.type in _GRAPH_ATTRIBUTES:
            raise ModelError(f"the exported graph branches or loops ({node.op_type}), which is not supported")
        copy = onnx.AttributeProto()
        copy.CopyFrom(attribute)
        copy.ClearField("doc_string")
        if copy.HasField("t"):
            copy.t.CopyFrom(_bare_tensor(attribute.t, ""))
        bare.attribute.append(copy)
    return bare


def _bare_tensor(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor), name)


def _bare_end(end: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    kind = end.type.tensor_type
    bare = onnx.ValueInfoProto(name=end.name)
    bare.type.tensor_type.elem_type = kind.elem_type
    for position, size in enumerate(kind.shape.dim):
        dim = bare.type.tensor_type.shape.dim.add()
        if position == 0:
            dim.dim_param = "N"
        elif size.HasField("dim_value"):
            dim.dim_value = size.dim_value
    return bare


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _add_opsets(done: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """One import a domain that is used, sorted; exporters leave duplicates and idle ones."""
    used = {node.domain for node in done.graph.node} | {""}
    versions: dict[str, int] = {}
    for opset in model.opset_import:
        domain = _domain(opset.domain)
        versions[domain] = max(versions.get(domain, 0), opset.version)
    for domain in sorted(used & versions.keys()):
        done.opset_import.add(domain=domain, version=versions[domain])
