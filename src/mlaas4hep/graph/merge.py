"""Joins the contract's part, a framework's core and the order of the scores to the graph that is served.

Raw padded tensors in, ``scores`` [N, C] out, N free; of a regression the scores are the targets in their own units, put
back from the standard units that the core gives. Invariant: equal contracts and equal cores give equal bytes, which
hold nothing but operators and numbers (`mlaas4hep.graph.canonical`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import DTypeLike
from onnx import compose, helper, inliner

from mlaas4hep.errors import ModelError, nearest
from mlaas4hep.graph.builder import ML_DOMAIN, GraphBuilder, value_info
from mlaas4hep.graph.canonical import canonicalise
from mlaas4hep.graph.core import IR_VERSION, Core
from mlaas4hep.graph.pre import add_pre, core_inputs, cut_sentinel, input_infos
from mlaas4hep.graph.steady import add_steady
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.features import MAX_LENGTH, MAX_VARIABLES, MAX_WIDTH
from mlaas4hep.spec.targets import TargetScaler

MAX_MODEL_BYTES = 512 * 2**20
MIN_OPSET, MAX_OPSET = 13, 23
DOMAINS = frozenset({"", ML_DOMAIN})
_PREFIX = "__m/"


def merge(spec: ModelSpec, core: Core) -> bytes:
    """The whole graph in its canonical form.

    Parameters
    ----------
    spec
        Inputs, their scaling and the number of scores.
    core
        What the framework's adapter exported.

    Raises
    ------
    ModelError
        The core does not fit the contract, uses operators that are not allowed, or a limit is passed.
    """
    _check_limits(spec)
    model = _loaded(core)
    opset = _opset(model)
    wanted = _wanted(spec, core, model)
    output = _declared_output(core, model)
    model = compose.add_prefix(model, _PREFIX)
    graph = GraphBuilder("__p")
    ends = add_pre(graph, spec.scaling, wanted, missing=core.missing)
    for name, value in ends.items():
        graph.node("Identity", [value], output=_PREFIX + name)
    add_steady(graph, model)
    graph.constants.extend(model.graph.initializer)
    _add_post(graph, spec, core, output)
    merged = graph.model(
        input_infos(spec.scaling), [value_info("scores", np.float32, [len(spec.score_names)])], opset=opset
    )
    return finished(merged, model, opset)


def _check_limits(spec: ModelSpec) -> None:
    for group in spec.scaling:
        if len(group.features) > MAX_VARIABLES or group.slots > MAX_LENGTH:
            raise ModelError(
                f"input group '{group.name}' has shape {list(group.shape)}; at most {MAX_VARIABLES} variables and "
                f"{MAX_LENGTH} objects fit"
            )
    if spec.width > MAX_WIDTH:
        raise ModelError(f"an event has {spec.width} numbers; at most {MAX_WIDTH} fit one graph")


def _loaded(core: Core) -> onnx.ModelProto:
    """The core without local functions and without initialisers among its inputs."""
    if len(core.model) > MAX_MODEL_BYTES:
        raise ModelError(f"the exported graph has {len(core.model)} bytes; at most {MAX_MODEL_BYTES} are supported")
    model: onnx.ModelProto = onnx.ModelProto.FromString(core.model)
    if model.functions:
        model = inliner.inline_local_functions(model)
    stored = {tensor.name for tensor in model.graph.initializer}
    ends = [end for end in model.graph.input if end.name not in stored]
    del model.graph.input[:]
    model.graph.input.extend(ends)
    unknown = {node.domain for node in model.graph.node} - DOMAINS - {"ai.onnx"}
    if unknown:
        raise ModelError(f"the exported graph uses operators of {', '.join(sorted(unknown))}, which are not allowed")
    return model


def _opset(model: onnx.ModelProto) -> int:
    versions = [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    opset = max(versions, default=0)
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ModelError(f"the core is exported at opset {opset}; {MIN_OPSET} to {MAX_OPSET} are supported, best 18")
    return opset


def oldest_ir(opset: int) -> int:
    """The oldest that carries the opset: servers in the field lag years behind."""
    return IR_VERSION if opset <= 18 else 9 if opset <= 20 else 10


def _wanted(spec: ModelSpec, core: Core, model: onnx.ModelProto) -> dict[str, DTypeLike]:
    """Inputs of the core with their types, checked against what the contract can give."""
    known = core_inputs(spec.scaling, core.layout)
    wanted: dict[str, DTypeLike] = {}
    for end in model.graph.input:
        if end.name not in known:
            raise ModelError(f"the core has an input '{end.name}', which the contract lacks{nearest(end.name, known)}")
        kind = end.type.tensor_type
        given, needed = [size.dim_value for size in kind.shape.dim][1:], list(known[end.name])
        if kind.HasField("shape") and [a or b for a, b in zip(given, needed, strict=False)] != needed:
            raise ModelError(f"the core's input '{end.name}' is {['N', *given]}, the contract's is {['N', *needed]}")
        wanted[end.name] = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    if not wanted:
        raise ModelError(f"the core has no inputs; the contract gives {', '.join(known)}")
    return wanted


def _declared_output(core: Core, model: onnx.ModelProto) -> onnx.ValueInfoProto:
    ends: Mapping[str, onnx.ValueInfoProto] = {end.name: end for end in model.graph.output}
    if core.output not in ends:
        raise ModelError(f"the core has no output '{core.output}'{nearest(core.output, ends)}")
    return ends[core.output]


def _add_post(graph: GraphBuilder, spec: ModelSpec, core: Core, output: onnx.ValueInfoProto) -> None:
    """From the core's output to ``scores``: float32, two dimensions, order of the contract, no sentinel row."""
    if len(core.columns) != len(spec.score_names):
        raise ModelError(
            f"the core gives {len(core.columns)} scores, the contract names {len(spec.score_names)}: "
            f"{', '.join(spec.score_names)}"
        )
    value = _PREFIX + core.output
    kind = output.type.tensor_type
    if kind.elem_type != onnx.TensorProto.FLOAT:
        value = graph.node("Cast", [value], attributes={"to": onnx.TensorProto.FLOAT})
    rank = len(kind.shape.dim)
    size = kind.shape.dim[1].dim_value if rank == 2 else 1
    if rank != 2:
        value = graph.node("Reshape", [value, graph.constant(np.array([-1, 1], np.int64))])
    if core.columns != tuple(range(size)):
        columns = graph.constant(np.array(core.columns, np.int64))
        value = graph.node("Gather", [value, columns], attributes={"axis": 1})
    if spec.targets:
        value = _restored(graph, value, TargetScaler(spec.targets))
    cut_sentinel(graph, value, output="scores")


def _restored(graph: GraphBuilder, value: str, scaler: TargetScaler) -> str:
    """Standard units to the targets' own: in float64, rounded once, as `TargetScaler.restored` does."""
    double = graph.node("Cast", [value], attributes={"to": onnx.TensorProto.DOUBLE})
    wide = graph.node("Mul", [double, graph.constant(scaler.scale)])
    moved = graph.node("Add", [wide, graph.constant(scaler.offset)])
    return graph.node("Cast", [moved], attributes={"to": onnx.TensorProto.FLOAT})


def finished(merged: onnx.ModelProto, core: onnx.ModelProto, opset: int) -> bytes:
    """Canonical bytes of a joined graph, with the operator sets of what it was joined from; checked."""
    del merged.opset_import[:]
    merged.opset_import.extend(core.opset_import)
    merged.ir_version = oldest_ir(opset)
    canonical = canonicalise(_without_identities(merged))
    onnx.checker.check_model(canonical, full_check=True)
    data: bytes = canonical.SerializeToString(deterministic=True)
    if len(data) > MAX_MODEL_BYTES:
        raise ModelError(f"the merged graph has {len(data)} bytes; at most {MAX_MODEL_BYTES} are supported")
    return data


def _without_identities(model: onnx.ModelProto) -> onnx.ModelProto:
    """Joints and other nodes that pass a value on are left out, except at an output."""
    ends = {end.name for end in model.graph.output}
    passed = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type == "Identity" and node.output[0] not in ends
    }
    kept = [node for node in model.graph.node if node.output[0] not in passed]
    for node in kept:
        for position, name in enumerate(node.input):
            while name in passed:
                name = passed[name]
            node.input[position] = name
    done = onnx.ModelProto()
    done.CopyFrom(model)
    del done.graph.node[:]
    done.graph.node.extend(kept)
    return done
