"""The graph's first part: raw padded tensors to what a model computes with, bit-equal to `mlaas4hep.spec.scaling`.

All groups are joined to one wide tensor [N, W], every step is done once on it, and the result is cut into groups again:
short inner dimensions are slow to broadcast (at 256 events of 100 numbers this is three times faster). Here also the
sentinel row comes in, a row of NaN under the events, cut off again behind the scores: one event alone takes the kernels
of many, and none at all works too, which makes a score independent of its neighbours (law 11).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray

from mlaas4hep.graph.builder import GraphBuilder, value_info
from mlaas4hep.graph.core import FLAT_INPUT, MASK_SUFFIX, OPSET, Layout, Missing
from mlaas4hep.spec.scaling import GroupScaling, Scaler

# Numbers in the matrix that picks the log columns. With 1,000 columns and 256 events, a logarithm of all of them takes
# 1.3 times as long if 100 are log, but 0.8 times as long if 250 are.
MAX_ONE_HOT = 2**17

_FLOAT, _DOUBLE = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE


def core_inputs(groups: Sequence[GroupScaling], layout: Layout) -> dict[str, tuple[int, ...]]:
    """Inputs that a core may take, with their shapes without N."""
    if layout == "flat":
        return {FLAT_INPUT: (sum(group.width for group in groups),)}
    shapes = {group.name: group.shape for group in groups}
    masks = {group.name + MASK_SUFFIX: (group.length,) for group in groups if group.length is not None}
    return {**shapes, **masks}


def add_pre(
    graph: GraphBuilder,
    groups: Sequence[GroupScaling],
    wanted: Mapping[str, DTypeLike],
    *,
    missing: Missing,
) -> dict[str, str]:
    """Add the steps from the graph's inputs (named like the groups) to what a core takes.

    Parameters
    ----------
    wanted
        Names out of `core_inputs` with their types: float32, or bool for masks.
    missing
        ``"impute"`` scales and puts 0 where a value is missing; ``"native"`` clips to finite values and keeps NaN.

    Returns
    -------
    The value for each wanted name, [N + 1, ...]: the last row is the sentinel's.
    """
    raw = _with_sentinel(graph, groups)
    is_missing = graph.node("IsNaN", [raw])
    scaler = Scaler(groups)
    if missing == "impute":
        prepared = _scaled(graph, scaler, raw, is_missing)
    else:
        clipped = _clip(graph, raw, scaler.low, scaler.high)
        prepared = graph.node("Where", [is_missing, raw, clipped])
    if FLAT_INPUT in wanted:
        return {FLAT_INPUT: prepared}
    tensors = _cut(graph, groups, prepared)
    slots = _masks(graph, groups, is_missing, wanted) if any(_is_mask(groups, name) for name in wanted) else {}
    return {name: value for name, value in {**tensors, **slots}.items() if name in wanted}


def build_pre(
    groups: Sequence[GroupScaling], *, layout: Layout, missing: Missing, opset: int = OPSET
) -> onnx.ModelProto:
    """The first part alone, as a model with all outputs that a core may take; the sentinel row is cut off."""
    shapes = core_inputs(groups, layout)
    wanted = {name: np.bool_ if _is_mask(groups, name) else np.float32 for name in shapes}
    graph = GraphBuilder("__p")
    ends = add_pre(graph, groups, wanted, missing=missing)
    outputs = []
    for name, value in ends.items():
        cut_sentinel(graph, value, output=f"out_{name}")
        outputs.append(value_info(f"out_{name}", wanted[name], shapes[name]))
    return graph.model(input_infos(groups), outputs, opset=opset)


def input_infos(groups: Sequence[GroupScaling]) -> list[onnx.ValueInfoProto]:
    """Inputs of the whole graph: one raw float32 tensor a group."""
    return [value_info(group.name, np.float32, group.shape) for group in groups]


def cut_sentinel(graph: GraphBuilder, value: str, *, output: str) -> str:
    """Drop the last row."""
    start, stop, axis = (graph.constant(np.array([number], np.int64)) for number in (0, -1, 0))
    return graph.node("Slice", [value, start, stop, axis], output=output)


def _with_sentinel(graph: GraphBuilder, groups: Sequence[GroupScaling]) -> str:
    """The raw flat view with one row of NaN below, [N + 1, W]."""
    parts = []
    for group in groups:
        # 0 keeps N; -1 would be ambiguous without events.
        flat_shape = graph.constant(np.array([0, group.width], np.int64)) if group.length is not None else ""
        parts.append(graph.node("Reshape", [group.name, flat_shape]) if flat_shape else group.name)
    wide = parts[0] if len(parts) == 1 else graph.node("Concat", parts, attributes={"axis": 1})
    width = sum(group.width for group in groups)
    sentinel = graph.constant(np.full((1, width), np.nan, np.float32))
    return graph.node("Concat", [wide, sentinel], attributes={"axis": 0})


def _scaled(graph: GraphBuilder, scaler: Scaler, raw: str, is_missing: str) -> str:
    zero = graph.constant(np.float32(0))
    value = graph.node("Where", [is_missing, zero, raw])
    value = _clip(graph, value, scaler.low, scaler.high)
    if len(scaler.log_columns):
        value = _log(graph, value, scaler.log_columns, len(scaler.low))
    value = _shift(graph, value, scaler.offset, zero)
    if np.any(scaler.scale != 1):
        value = graph.node("Mul", [value, graph.constant(scaler.scale)])
    value = _clip(graph, value, scaler.out_low, scaler.out_high)
    return graph.node("Where", [is_missing, zero, value])


def _shift(graph: GraphBuilder, value: str, offset: NDArray[np.float32], zero: str) -> str:
    """x - offset. Subtracting -0 turns -0 into 0, which ONNX Runtime forgets when it drops a step that adds nothing."""
    negative_zero = (offset == 0) & np.signbit(offset)
    if negative_zero.any():
        is_zero = graph.node("Equal", [value, zero])
        turned = graph.node("And", [is_zero, graph.constant(negative_zero)])
        value = graph.node("Where", [turned, zero, value])
    if np.any(offset != 0):
        value = graph.node("Sub", [value, graph.constant(offset)])
    return value


def _clip(graph: GraphBuilder, value: str, low: NDArray[np.float32], high: NDArray[np.float32]) -> str:
    """Clip to bounds, per column unless all share them.

    A bound of zero takes the long way too: Clip, Min and Max leave open which sign a zero gets, comparisons do not.
    """
    if low.min() == low.max() != 0 and high.min() == high.max() != 0:
        return graph.node("Clip", [value, graph.constant(low[0]), graph.constant(high[0])])
    for comparison, bound in (("Greater", high), ("Less", low)):
        limit = graph.constant(bound)
        outside = graph.node(comparison, [value, limit])
        value = graph.node("Where", [outside, limit, value])
    return value


def _log(graph: GraphBuilder, value: str, columns: NDArray[np.integer[Any]], width: int) -> str:
    """log(1 + max(x, 0)) of some columns in float64; the others pass.

    Gather copies four bytes at a time. A product with a matrix of zeros and ones picks the same values, exactly since
    all are finite. With a logarithm of all columns instead (100, of which 25 log) the whole graph takes as long at one
    event, 1.3 times as long at 256 and 1.5 times at 4096: medians of paired runs on a busy machine.
    """
    if len(columns) == width:
        return _log1p(graph, value)
    chosen = np.zeros(width, np.bool_)
    chosen[columns] = True
    if len(columns) * width > MAX_ONE_HOT:
        logarithm = _log1p(graph, value)
    else:
        pick = np.zeros((width, len(columns)), np.float32)
        pick[columns, np.arange(len(columns))] = 1
        logarithm = _log1p(graph, graph.node("MatMul", [value, graph.constant(pick)]))
        logarithm = graph.node("MatMul", [logarithm, graph.constant(pick.T)])
    return graph.node("Where", [graph.constant(chosen), logarithm, value])


def _log1p(graph: GraphBuilder, value: str) -> str:
    """In float64, where numpy and ONNX Runtime agree after the rounding to float32; in float32 no two libraries do."""
    double = graph.node("Cast", [value], attributes={"to": _DOUBLE})
    positive = graph.node("Max", [double, graph.constant(np.float64(0))])
    logarithm = graph.node("Log", [graph.node("Add", [positive, graph.constant(np.float64(1))])])
    return graph.node("Cast", [logarithm], attributes={"to": _FLOAT})


def _cut(graph: GraphBuilder, groups: Sequence[GroupScaling], wide: str) -> dict[str, str]:
    """The flat view cut into the tensors of the groups."""
    tensors = {}
    for group, part in zip(groups, graph.split(wide, [group.width for group in groups]), strict=True):
        if group.length is None:
            tensors[group.name] = part
        else:
            shape = graph.constant(np.array([-1, *group.shape], np.int64))
            tensors[group.name] = graph.node("Reshape", [part, shape])
    return tensors


def _masks(
    graph: GraphBuilder, groups: Sequence[GroupScaling], is_missing: str, wanted: Mapping[str, DTypeLike]
) -> dict[str, str]:
    """Which slots hold an object: fewer than all F features are missing."""
    counted = graph.node("Cast", [is_missing], attributes={"to": _FLOAT})
    masks = {}
    for group, part in zip(groups, _cut(graph, groups, counted).values(), strict=True):
        name = group.name + MASK_SUFFIX
        if group.length is None or name not in wanted:
            continue
        last = graph.constant(np.array([-1], np.int64))
        absent = graph.node("ReduceSum", [part, last], attributes={"keepdims": 0})
        mask = graph.node("Less", [absent, graph.constant(np.float32(len(group.features)))])
        if np.dtype(wanted[name]) != np.bool_:
            mask = graph.node("Cast", [mask], attributes={"to": _FLOAT})
        masks[name] = mask
    return masks


def _is_mask(groups: Sequence[GroupScaling], name: str) -> bool:
    return name.endswith(MASK_SUFFIX) and name not in {group.name for group in groups}
