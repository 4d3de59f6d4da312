"""Words for those operations of Keras that move values and compute nothing: shapes, axes, joins and picks.

Invariant: the events stay apart and in their order; an operation that would pick or join them is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlaas4hep.backends.keras_values import Value, Word, axes_of, first_of

if TYPE_CHECKING:
    from mlaas4hep.backends.keras_graph import Lowering


def _shaped(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
    """All that keeps the order of the values: told by the shape that it gives."""
    if any(size is None for size in out.shape[1:]) or out.shape[:1] != (None,):
        low.refuse(f"it gives the shape {list(out.shape)}; only the number of events may be open, and comes first")
    sizes = low.numbers(*(-1 if size is None else size for size in out.shape))
    return low.node("Reshape", [low.name_of(first_of(given), out.dtype), sizes])


def _transpose(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
    rank = len(out.shape)
    axes = [*reversed(range(rank))] if operation.axes is None else [int(one) % rank for one in operation.axes]
    return low.node("Transpose", [low.name_of(given["x"])], perm=axes)


def _swapaxes(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
    axes = list(range(len(out.shape)))
    one, other = operation.axis1, operation.axis2
    axes[one], axes[other] = axes[other], axes[one]
    return low.node("Transpose", [low.name_of(first_of(given))], perm=axes)


def _concatenate(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
    axes_of(low, operation.axis, len(out.shape))
    parts = [low.name_of(one, out.dtype) for one in first_of(given)]
    return low.node("Concat", parts, axis=operation.axis)


def _stack(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
    axis = axes_of(low, operation.axis, len(out.shape))[0]
    place = low.numbers(axis)
    parts = [low.node("Unsqueeze", [low.name_of(one, out.dtype), place]) for one in first_of(given)]
    return low.node("Concat", parts, axis=axis)


def _get_item(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
    """``x[:, 0, 1:3, None]``: whole numbers and slices, on all axes but the events'."""
    value, key = given["x"], given["key"]
    name, axis = low.name_of(value), 0
    taken: list[int] = []
    new: list[int] = []
    for one in _whole_key(key, len(value.shape)):
        if one is None:
            new.append(axis - len(taken) + len(new))
            continue
        if axis == 0 and one != slice(None):
            low.refuse(f"it picks events of a batch: [{key}]")
        if isinstance(one, slice) and one != slice(None):
            ends = one.indices(value.shape[axis])
            name = low.node("Slice", [name, *(low.numbers(n) for n in (ends[0], ends[1], axis, ends[2]))])
        elif isinstance(one, int):
            start = one % value.shape[axis]
            name = low.node("Slice", [name, *(low.numbers(n) for n in (start, start + 1, axis))])
            taken.append(axis)
        elif not isinstance(one, slice):
            low.refuse(f"an index of kind {type(one).__name__} has no word in the graph")
        axis += 1
    if taken:
        name = low.node("Squeeze", [name, low.numbers(*taken)])
    return low.node("Unsqueeze", [name, low.numbers(*new)]) if new else name


def _whole_key(key: Any, rank: int) -> list[Any]:
    """An index with its ellipsis written out."""
    parts = list(key) if isinstance(key, tuple | list) else [key]
    places = [index for index, one in enumerate(parts) if one is Ellipsis]
    at = places[0] if places else len(parts)
    rest = parts[at + 1 :]
    used = sum(one is not None for one in [*parts[:at], *rest])
    return [*parts[:at], *[slice(None)] * (rank - used), *rest]


SHAPES: Mapping[str, Word] = {
    **dict.fromkeys(("Reshape", "ExpandDims", "Squeeze", "Ravel"), _shaped),
    "Transpose": _transpose,
    "Swapaxes": _swapaxes,
    "Concatenate": _concatenate,
    "Stack": _stack,
    "GetItem": _get_item,
}
