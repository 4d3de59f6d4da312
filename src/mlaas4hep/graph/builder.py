"""Writes small ONNX graphs: constants, nodes and typed ends, with names made here.

`pre`, `trees` and `dense` are written with it. Invariant: a graph built by the same calls has the same names and bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, DTypeLike
from onnx import helper, numpy_helper

from mlaas4hep.graph.core import IR_VERSION, OPSET

ML_DOMAIN = "ai.onnx.ml"
ML_OPSET = 3


def tensor(array: ArrayLike, name: str = "") -> onnx.TensorProto:
    """An array as an ONNX tensor."""
    return numpy_helper.from_array(np.ascontiguousarray(array).reshape(np.shape(array)), name)


def value_info(name: str, dtype: DTypeLike, shape: Sequence[int]) -> onnx.ValueInfoProto:
    """The declaration of an end of the graph: ``shape`` without the number of events, which is free and called N."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, ["N", *shape])


class GraphBuilder:
    """Collects nodes and constants in the order of the calls.

    Parameters
    ----------
    prefix
        Start of every name made here; two graphs with different prefixes can be joined.
    """

    def __init__(self, prefix: str = "__") -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, array: ArrayLike) -> str:
        """Add a constant and give its name."""
        name = f"{self.prefix}c{len(self.constants)}"
        self.constants.append(tensor(array, name))
        return name

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        *,
        attributes: Mapping[str, Any] | None = None,
        domain: str = "",
        output: str | None = None,
    ) -> str:
        """Add a node with one output and give the output's name."""
        name = output or f"{self.prefix}v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], domain=domain, **(attributes or {})))
        return name

    def split(self, value: str, sizes: Sequence[int]) -> list[str]:
        """Cut a value along axis 1 into parts of the given sizes; the value itself where there is one part."""
        if len(sizes) == 1:
            return [value]
        names = [f"{self.prefix}v{len(self.nodes)}_{part}" for part in range(len(sizes))]
        lengths = self.constant(np.array(sizes, np.int64))
        self.nodes.append(helper.make_node("Split", [value, lengths], names, axis=1))
        return names

    def model(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto], *, opset: int = OPSET
    ) -> onnx.ModelProto:
        """The finished model."""
        graph = helper.make_graph(self.nodes, "mlaas4hep", inputs, outputs, self.constants)
        opsets = [helper.make_opsetid("", opset)]
        if any(node.domain == ML_DOMAIN for node in self.nodes):
            opsets.append(helper.make_opsetid(ML_DOMAIN, ML_OPSET))
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="")
