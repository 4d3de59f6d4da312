"""Words for the primitives of JAX that join or look up values: products, convolutions, picking, steps of a scan.

Used with `jax_operations`. Invariant: the events of a product are rows of its first factor or a batch of products, so
that no score hangs on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mlaas4hep.backends.jax_graph import Lowering, Value, Word, constant_of, is_constant, is_open, shown
from mlaas4hep.backends.jax_operations import WORDS, closed, sliced, transposed

# More steps than a collection has slots make a graph that nobody wants to load.
_MAX_STEPS = 256


def _dot(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    """`jax.lax.dot_general` as one product of matrices, or of a batch of them: [B.., M, K] x [B.., K, N]."""
    (left_sum, right_sum), (left_batch, right_batch) = settings["dimension_numbers"]
    left, right = (_as_value(low, one) for one in given)
    if any(is_open(left.shape[axis]) for axis in left_sum):
        low.refuse("it adds up over the events of a batch, so that a score would hang on its neighbours")
    left_free = _others(left, left_sum, left_batch)
    right_free = _others(right, right_sum, right_batch)
    if not left_batch and any(is_open(right.shape[axis]) for axis in right_free):
        # The events are the rows of the first factor: as columns of the second, their sums hang on where they stand.
        turned = _product(low, (right, right_batch, right_free, right_sum), (left, left_batch, left_free, left_sum))
        count = len(right_free)
        order = [*range(count, count + len(left_free)), *range(count)]
        return replace(transposed(low, turned, order), shape=out.shape)
    return _product(low, (left, left_batch, left_free, left_sum), (right, right_batch, right_free, right_sum))


_Factor = tuple[Value, Sequence[int], Sequence[int], Sequence[int]]


def _product(low: Lowering, left: _Factor, right: _Factor) -> Value:
    (one, batch, rows, summed), (other, other_batch, columns, other_summed) = left, right
    first = transposed(low, one, [*batch, *rows, *summed])
    second = transposed(low, other, [*other_batch, *other_summed, *columns])
    many, inner = len(batch), len(summed)
    # Without a batch, MatMul takes rows of any number of axes.
    row_sizes = first.shape[many : many + len(rows)]
    kept_rows = row_sizes if not many and row_sizes else (_joined(low, row_sizes),)
    first_name = _shaped(low, first, (*first.shape[:many], *kept_rows, math.prod(first.shape[many + len(rows) :])))
    column_sizes = second.shape[many + inner :]
    wide = (*second.shape[:many], math.prod(second.shape[many : many + inner]), _joined(low, column_sizes))
    second_name = _shaped(low, second, wide)
    shape = (*first.shape[:many], *row_sizes, *column_sizes)
    found = Value(low.node("MatMul", [first_name, second_name]), (*first.shape[:many], *kept_rows, wide[-1]), one.dtype)
    return Value(_shaped(low, found, shape), shape, one.dtype)


def _joined(low: Lowering, sizes: Sequence[Any]) -> Any:
    """Several axes as one."""
    if sum(map(is_open, sizes)) > 1:
        low.refuse("a product of events with events has no word in the graph")
    return math.prod(sizes)


def _shaped(low: Lowering, value: Value, shape: tuple[Any, ...]) -> str:
    if tuple(value.shape) == tuple(shape):
        return value.name
    if sum(map(is_open, shape)) > 1:
        low.refuse(f"a product is reshaped to {shown(shape)}; the number of events may stand in it once")
    return low.node("Reshape", [value.name, low.numbers(*(-1 if is_open(size) else size for size in shape))])


def _as_value(low: Lowering, one: Any) -> Value:
    if not is_constant(one):
        full: Value = low.full(one)
        return full
    array = constant_of(one)
    return Value(low.graph.constant(array), array.shape, str(array.dtype))


def _others(value: Value, *taken: Sequence[int]) -> list[int]:
    return [axis for axis in range(len(value.shape)) if not any(axis in one for one in taken)]


def _gather(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    """What indexing becomes: one place along some axes, or a list of places along one."""
    value, index = given
    if not is_constant(index):
        low.refuse("an index that hangs on the event has no word in the graph; take jax.nn.one_hot(index, n) @ table")
    numbers, value = settings["dimension_numbers"], low.full(value)
    sizes, places = settings["slice_sizes"], np.asarray(index)
    if numbers.operand_batching_dims:
        low.refuse("picking by a batch of indices has no word in the graph")
    _require_inside(low, value, places, sizes, numbers.start_index_map)
    if math.prod(places.shape[:-1]) == 1:
        return _picked(low, value, places.reshape(-1), settings, out)
    (axis,) = numbers.start_index_map if len(numbers.start_index_map) == 1 else (-1,)
    whole = all(size == value.shape[one] for one, size in enumerate(sizes) if one != axis)
    if axis < 0 or tuple(numbers.collapsed_slice_dims) != (axis,) or not whole:
        low.refuse("picking along several axes at once has no word in the graph; pick along one after the other")
    name = low.node("Gather", [value.name, low.graph.constant(places[..., 0].astype(np.int64))], axis=axis)
    many = places.ndim - 1
    # ONNX puts what was picked where the axis was; JAX where offset_dims leave room.
    ours = [*range(axis), *range(axis + many, axis + many + len(value.shape) - axis - 1)]
    order, batch, rest = [], iter(range(axis, axis + many)), iter(ours)
    for place in range(len(out.shape)):
        order.append(next(rest) if place in numbers.offset_dims else next(batch))
    shape = list(value.shape[:axis]) + list(places.shape[:-1]) + list(value.shape[axis + 1 :])
    return replace(transposed(low, Value(name, tuple(shape), value.dtype), order), shape=out.shape)


def _require_inside(low: Lowering, value: Value, places: Any, sizes: Sequence[Any], axes: Sequence[int]) -> None:
    for column, axis in enumerate(axes):
        if is_open(value.shape[axis]):
            if is_open(sizes[axis]) and not places[..., column].any():
                continue
            low.refuse("it picks events of a batch")
        starts = places[..., column]
        if starts.min() < 0 or starts.max() > value.shape[axis] - sizes[axis]:
            low.refuse(f"an index lies outside of an axis of {value.shape[axis]}")


def _picked(low: Lowering, value: Value, start: Any, settings: Mapping[str, Any], out: Value) -> Value:
    """One place: cut out, without the axes of which one value is left."""
    numbers = settings["dimension_numbers"]
    starts = dict(zip(numbers.start_index_map, start.tolist(), strict=True))
    cuts = {}
    for axis, size in enumerate(settings["slice_sizes"]):
        first = starts.get(axis, 0)
        cuts[axis] = (first, size if first == 0 else first + size, 1)
    found = sliced(low, value, cuts, Value("", tuple(settings["slice_sizes"]), value.dtype))
    collapsed = [int(one) for one in numbers.collapsed_slice_dims]
    name = low.node("Squeeze", [found.name, low.numbers(*collapsed)]) if collapsed else found.name
    new = [axis for axis in range(len(out.shape)) if axis not in numbers.offset_dims]
    return replace(out, name=low.node("Unsqueeze", [name, low.numbers(*new)]) if new else name)


def _dynamic_slice(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    value, *starts = given
    if not all(map(is_constant, starts)):
        low.refuse("an index that hangs on the event has no word in the graph; take jax.nn.one_hot(index, n) @ table")
    cuts = {}
    for axis, (start, size) in enumerate(zip(starts, settings["slice_sizes"], strict=True)):
        first = 0 if is_open(size) else min(max(int(start), 0), value.shape[axis] - size)
        cuts[axis] = (first, first + size if first else size, 1)
    return sliced(low, low.full(value), cuts, out)


def _conv(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    image, kernel = low.full(given[0]), _as_value(low, given[1])
    numbers = settings["dimension_numbers"]
    if settings["batch_group_count"] != 1 or any(size != 1 for size in settings["lhs_dilation"]):
        low.refuse("a convolution that is transposed or grouped by events has no word in the graph")
    if is_open(kernel.shape[0]) or not is_open(image.shape[numbers.lhs_spec[0]]):
        low.refuse("a convolution whose images are not the events has no word in the graph")
    before, after = zip(*settings["padding"], strict=True)
    if min(*before, *after, 0) < 0:
        low.refuse("a convolution with negative padding has no word in the graph")
    name = low.node(
        "Conv",
        [transposed(low, image, numbers.lhs_spec).name, transposed(low, kernel, numbers.rhs_spec).name],
        strides=list(settings["window_strides"]),
        dilations=list(settings["rhs_dilation"]),
        group=int(settings["feature_group_count"]),
        pads=[*before, *after],
    )
    spec = numbers.out_spec
    found = Value(name, tuple(out.shape[axis] for axis in spec), image.dtype)
    return transposed(low, found, np.argsort(spec).tolist())


def _pooled(operator: str, **attributes: Any) -> Word:
    """A maximum or a sum in windows over one to three axes of images."""

    def word(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
        window, strides = settings["window_dimensions"], settings["window_strides"]
        moving = [axis for axis, size in enumerate(window) if size != 1 or strides[axis] != 1]
        held = [axis for axis in range(len(window)) if axis not in moving]
        value = closed(low, low.full(given[0]), moving, "slides")
        dilated = any(size != 1 for name in ("base_dilation", "window_dilation") for size in settings[name])
        if len(held) != 2 or dilated:
            low.refuse("windows other than over the axes of an image with channels have no word in the graph")
        order = [*held, *moving]
        before, after = zip(*(settings["padding"][axis] for axis in moving), strict=True)
        name = low.node(
            operator,
            [transposed(low, value, order).name],
            kernel_shape=[window[axis] for axis in moving],
            strides=[strides[axis] for axis in moving],
            pads=[*before, *after],
            **attributes,
        )
        if operator == "AveragePool":
            name = low.node("Mul", [name, low.scalar(math.prod(window))])
        found = Value(name, tuple(out.shape[axis] for axis in order), value.dtype)
        return transposed(low, found, np.argsort(order).tolist())

    return word


def _scan(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> list[Any]:
    """Steps of a scan one after the other, each written out."""
    length, held, carried = (int(settings[name]) for name in ("length", "num_consts", "num_carry"))
    if length > _MAX_STEPS:
        low.refuse(f"a scan of {length} steps; at most {_MAX_STEPS} are written out")
    constants, state = list(given[:held]), list(given[held : held + carried])
    steps = reversed(range(length)) if settings["reverse"] else range(length)
    told: dict[int, list[Any]] = {}
    for step in steps:
        found = low.run(
            settings["jaxpr"], [*constants, *state, *(_at(low, one, step) for one in given[held + carried :])]
        )
        state, told[step] = found[:carried], found[carried:]
    columns = zip(*(told[step] for step in range(length)), strict=True)
    return [*state, *(_stacked(low, column) for column in columns)]


def _at(low: Lowering, value: Any, step: int) -> Any:
    """One entry along the first axis."""
    if is_constant(value):
        return np.asarray(value)[step]
    full = closed(low, value, [0], "goes step by step")
    cut = sliced(low, full, {0: (step, step + 1, 1)}, replace(full, shape=(1, *full.shape[1:])))
    name = low.node("Squeeze", [cut.name, low.numbers(0)])
    return Value(name, full.shape[1:], full.dtype, frozenset(axis - 1 for axis in full.thin))


def _stacked(low: Lowering, column: Sequence[Any]) -> Any:
    if all(map(is_constant, column)):
        return np.stack([np.asarray(one) for one in column])
    shape, kind = next((one.shape, one.dtype) for one in column if not is_constant(one))
    parts = [low.node("Unsqueeze", [low.name_of(low.full(one), kind), low.numbers(0)]) for one in column]
    return Value(low.node("Concat", parts, axis=0), (len(column), *shape), kind)


ALL_WORDS: Mapping[str, Word] = {
    **WORDS,
    "dot_general": _dot,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
    "conv_general_dilated": _conv,
    "reduce_window_max": _pooled("MaxPool"),
    "reduce_window_sum": _pooled("AveragePool", count_include_pad=1),
    "scan": _scan,
}
