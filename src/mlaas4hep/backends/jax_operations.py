"""Words for the primitives of JAX in ONNX that work value by value, reduce or reshape; `jax_graph` looks them up.

Each is a function of the lowering, the primitive's settings, its arguments, and shape and type of what it gives; it
returns the result. Invariant: a primitive that would mix events is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mlaas4hep.backends.jax_graph import Lowering, Value, Word, constant_of, is_constant, is_open, shown

_DOUBLE = 11
_MIXES = "so that a score would hang on its neighbours"


def elementwise(low: Lowering, operator: str, given: Sequence[Any], out: Value, kind: str, **attributes: Any) -> Value:
    """An operator on arguments of one type; axes that are thin in all of them stay so."""
    names = [low.name_of(one, kind) for one in given]
    return replace(out, name=low.node(operator, names, **attributes), thin=_thin(given, out))


def _thin(given: Sequence[Any], out: Value) -> frozenset[int]:
    """Axes of the result along which no argument has more than one value."""
    thick: set[int] = set()
    for one in given:
        shape = np.shape(one) if is_constant(one) else one.shape
        kept = () if is_constant(one) else one.thin
        thick |= {axis for axis, size in enumerate(shape) if axis not in kept and (is_open(size) or size != 1)}
    wide = {axis for axis, size in enumerate(out.shape) if is_open(size) or size != 1}
    return frozenset(wide - thick)


def _kind_of(given: Sequence[Any]) -> str:
    return next(str(one.dtype) for one in given if not is_constant(one))


def _plain(operator: str, **attributes: Any) -> Word:
    def word(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
        return elementwise(low, operator, given, out, _kind_of(given), **attributes)

    return word


def _in_double(operator: str, *, before: float = 0.0, after: float = 0.0) -> Word:
    """In float64, rounded once: ONNX Runtime's float32 differs in the last bit by where in the batch a row stands."""

    def word(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
        name = low.node("Cast", [low.name_of(given[0])], to=_DOUBLE)
        if before:
            name = low.node("Add", [name, low.graph.constant(np.float64(before))])
        name = low.node(operator, [name])
        if after:
            name = low.node("Add", [name, low.graph.constant(np.float64(after))])
        return replace(out, name=low.cast(name, "float32"), thin=_thin(given, out))

    return word


def _chain(*operators: str) -> Word:
    def word(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
        found = elementwise(low, operators[0], given, out, _kind_of(given))
        name = found.name
        for operator in operators[1:]:
            name = low.node(operator, [name])
        return replace(found, name=name)

    return word


def _logical(on_bool: str) -> Word:
    def word(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
        if out.dtype != "bool":
            low.refuse(f"bits of {out.dtype} have no word in the graph")
        return elementwise(low, on_bool, given, out, "bool")

    return word


def _same(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    value: Value = given[0]
    return value


def _cast(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    value: Value = given[0]
    return replace(value, name=low.name_of(value, out.dtype), dtype=out.dtype)


def _is_finite(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    name = low.name_of(given[0])
    bad = low.node("Or", [low.node("IsNaN", [name]), low.node("IsInf", [name])])
    return replace(out, name=low.node("Not", [bad]), thin=_thin(given, out))


def _square(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    return elementwise(low, "Mul", [given[0], given[0]], out, out.dtype)


def _erfc(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    bell = low.node("Erf", [low.name_of(given[0])])
    return replace(out, name=low.node("Sub", [low.scalar(1.0), bell]), thin=_thin(given, out))


def _integer_pow(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    """By products of squares, as JAX does it."""
    power, name = int(settings["y"]), low.name_of(given[0])
    if power == 0:
        return replace(out, name=low.node("Pow", [name, low.scalar(0.0)]), thin=_thin(given, out))
    found = ""
    for place in range(abs(power).bit_length()):
        if abs(power) >> place & 1:
            found = low.node("Mul", [found, name]) if found else name
        name = low.node("Mul", [name, name])
    if power < 0:
        found = low.node("Reciprocal", [found])
    return replace(out, name=found, thin=_thin(given, out))


def _clamp(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    lowest, value, highest = given
    above = elementwise(low, "Max", [value, lowest], out, out.dtype)
    return elementwise(low, "Min", [above, highest], out, out.dtype)


def _select(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    which, *cases = given
    if str(which.dtype) != "bool" or len(cases) != 2:
        low.refuse("a choice among more than two has no word in the graph")
    names = [low.name_of(which), *(low.name_of(one, out.dtype) for one in reversed(cases))]
    if out.dtype == "bool":
        chosen, yes, no = names
        either = low.node("And", [chosen, yes]), low.node("And", [low.node("Not", [chosen]), no])
        return replace(out, name=low.node("Or", either), thin=_thin(given, out))
    return replace(out, name=low.node("Where", names), thin=_thin(given, out))


def _round(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    if int(settings["rounding_method"]) != 1:  # jnp.round: halves to the even number
        low.refuse("primitive 'round' away from zero has no word in the graph; jnp.round has")
    return elementwise(low, "Round", given, out, out.dtype)


def _reduce(operator: str) -> Word:
    def word(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
        axes = sorted(settings["axes"])
        value = closed(low, given[0], axes, "reduces")
        inside = "float32" if value.dtype == "bool" else value.dtype
        found = low.node(operator, [low.name_of(value, inside), low.numbers(*axes)], keepdims=0)
        found = low.cast(found, out.dtype) if inside != out.dtype else found
        kept = [axis for axis in range(len(value.shape)) if axis not in axes]
        return replace(out, name=found, thin=frozenset(kept.index(axis) for axis in value.thin))

    return word


def closed(low: Lowering, value: Value, axes: Sequence[int], does: str) -> Value:
    """A value with its named axes full; refused where one of them is the events'."""
    if any(is_open(value.shape[axis]) for axis in axes):
        low.refuse(f"it {does} over the events of a batch, {_MIXES}")
    full: Value = low.full(value, axes)
    return full


def _arg(operator: str) -> Word:
    def word(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
        (axis,) = settings["axes"]
        value = closed(low, low.full(given[0]), [axis], "searches")
        found = low.node(operator, [low.name_of(value)], axis=axis, keepdims=0)
        return replace(out, name=low.cast(found, out.dtype))

    return word


def _cumsum(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    axis = settings["axis"]
    value = closed(low, low.full(given[0]), [axis], "adds up")
    found = low.node("CumSum", [low.name_of(value), low.numbers(axis)], reverse=int(settings["reverse"]))
    return replace(out, name=found)


def _broadcast(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    places = tuple(settings["broadcast_dimensions"])
    value = given[0]
    new = [axis for axis in range(len(out.shape)) if axis not in places]
    if is_constant(value):
        name = low.graph.constant(np.expand_dims(constant_of(value), new))
        narrow = {places[axis] for axis, size in enumerate(np.shape(value)) if size == 1}
    else:
        name = low.node("Unsqueeze", [value.name, low.numbers(*new)]) if new else value.name
        narrow = {places[axis] for axis, size in enumerate(value.shape) if axis in value.thin or _is_one(size)}
    thin = frozenset(axis for axis in (*new, *narrow) if not _is_one(out.shape[axis]))
    return replace(out, name=name, thin=thin)


def _is_one(size: Any) -> bool:
    return not is_open(size) and size == 1


def _reshape(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    return reshaped(low, low.full(given[0]), out)


def reshaped(low: Lowering, value: Value, out: Value) -> Value:
    """The same values in the same order in another shape; the events stay first."""
    for shape in (value.shape, out.shape):
        opened = [axis for axis, size in enumerate(shape) if is_open(size)]
        if len(opened) != 1 or math.prod(shape[: opened[0]]) != 1:
            low.refuse(f"it reshapes {shown(value.shape)} to {shown(out.shape)}; the events must come first in both")
    sizes = low.numbers(*(-1 if is_open(size) else size for size in out.shape))
    return replace(out, name=low.node("Reshape", [value.name, sizes]), thin=frozenset())


def _squeeze(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    axes, value = settings["dimensions"], given[0]
    kept = [axis for axis in range(len(value.shape)) if axis not in axes]
    name = low.node("Squeeze", [value.name, low.numbers(*axes)]) if axes else value.name
    return replace(out, name=name, thin=frozenset(kept.index(axis) for axis in value.thin))


def _transpose(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    return transposed(low, given[0], settings["permutation"])


def transposed(low: Lowering, value: Value, order: Sequence[int]) -> Value:
    """Axes in another order."""
    order = [int(one) for one in order]
    if order == sorted(order):
        return value
    name = low.node("Transpose", [value.name], perm=order)
    thin = frozenset(place for place, axis in enumerate(order) if axis in value.thin)
    return replace(value, name=name, shape=tuple(value.shape[axis] for axis in order), thin=thin)


def _concatenate(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    axis = settings["dimension"]
    if is_open(out.shape[axis]):
        low.refuse(f"it joins events, {_MIXES}")
    parts = [low.name_of(low.full(one), out.dtype) for one in given]
    return replace(out, name=low.node("Concat", parts, axis=axis))


def _stack(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    axis = low.numbers(settings["axis"])
    parts = [low.node("Unsqueeze", [low.name_of(low.full(one), out.dtype), axis]) for one in given]
    return replace(out, name=low.node("Concat", parts, axis=settings["axis"]))


def _tile(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    repeats = settings["reps"]
    value = closed(low, low.full(given[0]), [axis for axis, count in enumerate(repeats) if count != 1], "repeats")
    return replace(out, name=low.node("Tile", [value.name, low.numbers(*repeats)]))


def _split(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> list[Value]:
    axis, value, start = settings["axis"], low.full(given[0]), 0
    parts = []
    for size in settings["sizes"]:
        shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
        parts.append(sliced(low, value, {axis: (start, start + size, 1)}, replace(out, shape=shape)))
        start += size
    return parts


def _slice(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    value = given[0]
    strides = settings["strides"] or (1,) * len(value.shape)
    ends = zip(settings["start_indices"], settings["limit_indices"], strides, strict=True)
    return sliced(low, low.full(value), dict(enumerate(ends)), out)


def sliced(low: Lowering, value: Value, cuts: Mapping[int, tuple[Any, Any, int]], out: Value) -> Value:
    """From start to end by steps, along some axes; refused where it would pick events."""
    cuts = {axis: one for axis, one in cuts.items() if one != (0, value.shape[axis], 1)}
    if any(is_open(value.shape[axis]) for axis in cuts):
        low.refuse("it picks events of a batch")
    if not cuts:
        return replace(out, name=value.name)
    starts, ends, steps = zip(*cuts.values(), strict=True)
    sizes = [low.numbers(*one) for one in (starts, ends, tuple(cuts), steps)]
    return replace(out, name=low.node("Slice", [value.name, *sizes]))


def _reverse(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    axes = settings["dimensions"]
    value = closed(low, low.full(given[0]), axes, "turns round")
    cuts = {axis: (-1, -value.shape[axis] - 1, -1) for axis in axes}
    return sliced(low, value, cuts, out)


def _pad(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    value, filler = low.full(given[0]), given[1]
    ends = settings["padding_config"]
    if any(inner for _, _, inner in ends) or any(size < 0 for one in ends for size in one) or not is_constant(filler):
        low.refuse("padding between values, or that takes some away, has no word in the graph")
    if any(is_open(size) and any(one) for size, one in zip(value.shape, ends, strict=True)):
        low.refuse("it adds events to a batch")
    sizes = low.numbers(*(one[0] for one in ends), *(one[1] for one in ends))
    return replace(out, name=low.node("Pad", [low.name_of(value), sizes, low.name_of(filler, out.dtype)]))


def _of_the_batch(low: Lowering, settings: Mapping[str, Any], given: Sequence[Any], out: Value) -> Value:
    low.refuse(f"it uses the number of events in a batch, {_MIXES}")


WORDS: Mapping[str, Word] = {
    **dict.fromkeys(("copy", "copy_p", "stop_gradient", "optimization_barrier", "name", "sharding_constraint"), _same),
    **{name.lower(): _plain(name) for name in ("Neg", "Abs", "Exp", "Tanh", "Sign", "Floor", "Ceil", "Sqrt", "Erf")},
    **{name.lower(): _plain(name) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min")},
    **{name.lower(): _in_double(name) for name in ("Log", "Sin", "Cos")},
    "add_any": _plain("Add"),
    "logistic": _plain("Sigmoid"),
    "pow": _plain("Pow"),
    "rem": _plain("Mod", fmod=1),
    "erfc": _erfc,
    "rsqrt": _chain("Sqrt", "Reciprocal"),
    "log1p": _in_double("Log", before=1.0),
    "expm1": _in_double("Exp", after=-1.0),
    "square": _square,
    "integer_pow": _integer_pow,
    "is_finite": _is_finite,
    "clamp": _clamp,
    "select_n": _select,
    "round": _round,
    "convert_element_type": _cast,
    "eq": _plain("Equal"),
    "ne": _chain("Equal", "Not"),
    "lt": _plain("Less"),
    "le": _plain("LessOrEqual"),
    "gt": _plain("Greater"),
    "ge": _plain("GreaterOrEqual"),
    "and": _logical("And"),
    "or": _logical("Or"),
    "xor": _logical("Xor"),
    "not": _logical("Not"),
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_prod": _reduce("ReduceProd"),
    "reduce_or": _reduce("ReduceMax"),
    "reduce_and": _reduce("ReduceMin"),
    "argmax": _arg("ArgMax"),
    "argmin": _arg("ArgMin"),
    "cumsum": _cumsum,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "stack": _stack,
    "tile": _tile,
    "split": _split,
    "slice": _slice,
    "rev": _reverse,
    "pad": _pad,
    "iota": _of_the_batch,
}
