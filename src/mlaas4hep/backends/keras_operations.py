"""Words for the single operations of Keras in ONNX; `keras_graph` takes models apart into them.

Each is a function of the lowering, the operation with its settings, its arguments by name, and shape and type of what
it gives; it returns the name of the result. Invariant: an operation that would mix events is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.backends.keras_shapes import SHAPES
from mlaas4hep.backends.keras_values import Value, Word, array_of, axes_of, first_of

if TYPE_CHECKING:
    from mlaas4hep.backends.keras_graph import Lowering

# Lowest finite value of an attention that is masked out, as Keras has it.
_MASKED = -0.7 * float(np.finfo(np.float32).max)


def _unary(operator: str, **attributes: Any) -> Word:
    def word(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
        return low.node(operator, [low.name_of(first_of(given), out.dtype)], **attributes)

    return word


def _binary(operator: str) -> Word:
    def word(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
        return low.node(operator, [low.name_of(one, out.dtype) for one in given.values()])

    return word


def _compare(operator: str, *, negated: bool = False) -> Word:
    def word(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
        types = [getattr(one, "dtype", "") for one in given.values()]
        common = keras.backend.result_type(*[str(one) if one else "float32" for one in types])
        found = low.node(operator, [low.name_of(one, common) for one in given.values()])
        return low.node("Not", [found]) if negated else found

    return word


def _logical(operator: str) -> Word:
    def word(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
        return low.node(operator, [low.name_of(one, "bool") for one in given.values()])

    return word


def _reduce(operator: str) -> Word:
    def word(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
        value = given["x"]
        if getattr(operation, "initial", None) is not None:
            low.refuse(f"{type(operation).__name__} with 'initial' has no word in the graph")
        axes = low.numbers(*axes_of(low, operation.axis, len(value.shape)))
        inside = "float32" if out.dtype == "bool" else out.dtype
        found = low.node(operator, [low.name_of(value, inside), axes], keepdims=int(operation.keepdims))
        return low.cast(found, "bool") if out.dtype == "bool" else found

    return word


def _softmax(operator: str) -> Word:
    def word(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
        if not isinstance(operation.axis, int):
            low.refuse("a softmax over several axes has no word in the graph")
        axes_of(low, operation.axis, len(out.shape))
        return low.node(operator, [low.name_of(given["x"], out.dtype)], axis=operation.axis)

    return word


def _same(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
    return low.name_of(first_of(given), out.dtype)


def _scalar(low: Lowering, number: float) -> str:
    return low.graph.constant(np.float32(number))


def _relu(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
    """Keras's relu with its three settings."""
    x, threshold = low.name_of(given["x"]), float(operation.threshold)
    slope, highest = float(operation.negative_slope), operation.max_value
    if slope != 0 and highest is None and threshold == 0:
        return low.node("LeakyRelu", [x], alpha=slope)
    above = low.node("Relu", [x])
    if threshold != 0:
        passes = low.node("Greater", [x, _scalar(low, threshold)])
        above = low.node("Where", [passes, x, _scalar(low, 0.0)])
    if highest is not None:
        above = low.node("Clip", [above, _scalar(low, 0.0), _scalar(low, highest)])
    if slope == 0:
        return above
    below = low.node("Relu", [low.node("Sub", [_scalar(low, threshold), x])])
    return low.node("Sub", [above, low.node("Mul", [below, _scalar(low, slope)])])


def _gelu(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
    """x / 2 (1 + erf(x / sqrt 2)), or its older form by the tanh."""
    x = low.name_of(given["x"])
    if operation.approximate:
        cube = low.node("Mul", [low.node("Mul", [x, x]), x])
        inner = low.node("Add", [x, low.node("Mul", [cube, _scalar(low, 0.044715)])])
        bell = low.node("Tanh", [low.node("Mul", [inner, _scalar(low, math.sqrt(2 / math.pi))])])
    else:
        bell = low.node("Erf", [low.node("Div", [x, _scalar(low, math.sqrt(2.0))])])
    half = low.node("Mul", [x, _scalar(low, 0.5)])
    return low.node("Mul", [half, low.node("Add", [bell, _scalar(low, 1.0)])])


def _silu(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
    x = low.name_of(given["x"])
    return low.node("Mul", [x, low.node("Sigmoid", [x])])


def _square(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
    x = low.name_of(given["x"], out.dtype)
    return low.node("Mul", [x, x])


def _rsqrt(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
    return low.node("Reciprocal", [low.node("Sqrt", [low.name_of(given["x"], out.dtype)])])


def _log1p(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
    return low.node("Log", [low.node("Add", [low.name_of(given["x"], out.dtype), _scalar(low, 1.0)])])


def _relu6(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
    return low.node("Clip", [low.name_of(given["x"]), _scalar(low, 0.0), _scalar(low, 6.0)])


def _clip(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
    ends = [low.name_of(one, out.dtype) for one in (operation.x_min, operation.x_max)]
    lowest = low.node("Max", [low.name_of(given["x"], out.dtype), ends[0]])
    return low.node("Min", [lowest, ends[1]])


def _by_setting(operator: str, **settings: str) -> Word:
    """An operator whose attributes are settings of the operation under other names."""

    def word(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
        attributes = {theirs: float(getattr(operation, ours)) for theirs, ours in settings.items()}
        return low.node(operator, [low.name_of(given["x"])], **attributes)

    return word


def _batch_norm(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
    """(x - mean) * scale / sqrt(variance + epsilon) + offset, by the moving figures."""
    shape = [1] * len(out.shape)
    shape[operation.axis] = -1
    arrays = {name: _constant(low, given.get(name)) for name in ("mean", "variance", "offset", "scale")}
    factor = 1 / np.sqrt(arrays["variance"].astype(np.float64) + operation.epsilon)
    if given.get("scale") is not None:
        factor = factor * arrays["scale"]
    shifted = low.node("Sub", [low.name_of(given["x"]), low.graph.constant(arrays["mean"].reshape(shape))])
    found = low.node("Mul", [shifted, low.graph.constant(factor.astype(np.float32).reshape(shape))])
    if given.get("offset") is None:
        return found
    return low.node("Add", [found, low.graph.constant(arrays["offset"].reshape(shape))])


def _constant(low: Lowering, value: Any) -> Any:
    """A variable as an array; refused where it hangs on the event."""
    if isinstance(value, Value):
        low.refuse("its constants hang on the event")
    return np.zeros((), np.float32) if value is None else array_of(value, "float32")


def _layer_norm(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
    rank = len(out.shape)
    axes = axes_of(low, operation.axis, rank)
    if axes != list(range(axes[0], rank)) or operation.rms_scaling:
        low.refuse("a layer normalisation other than over the last axes has no word in the graph")
    sizes = [int(one or 1) for one in out.shape[axes[0] :]]
    gamma = np.ones(sizes, np.float32) if given.get("gamma") is None else _constant(low, given["gamma"])
    parts = [low.name_of(given["x"]), low.graph.constant(np.broadcast_to(gamma, sizes))]
    if given.get("beta") is not None:
        parts.append(low.graph.constant(np.broadcast_to(_constant(low, given["beta"]), sizes)))
    epsilon = keras.config.epsilon() if operation.epsilon is None else operation.epsilon
    return low.node("LayerNormalization", parts, axis=axes[0], epsilon=float(epsilon))


def _attention(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
    """Softmax of query times key [B, T, N, H], times value."""
    if operation.is_causal or operation.attn_logits_soft_cap is not None or given.get("bias") is not None:
        low.refuse("an attention that is causal, capped or biased has no word in the graph")
    query, key, value = (low.name_of(given[name]) for name in ("query", "key", "value"))
    scale = given.get("scale")
    scale = 1 / math.sqrt(given["query"].shape[-1]) if scale is None else float(scale)
    margins = low.node("Einsum", [query, key], equation="btnh,bsnh->bnts")
    margins = low.node("Mul", [margins, _scalar(low, scale)])
    if given.get("mask") is not None:
        seen = low.name_of(given["mask"], "bool")
        margins = low.node("Where", [seen, margins, _scalar(low, _MASKED)])
    shares = low.node("Softmax", [margins], axis=-1)
    return low.node("Einsum", [shares, value], equation="bnts,bsnh->btnh")


def _matmul(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
    return low.node("MatMul", [low.name_of(one, out.dtype) for one in given.values()])


def _einsum(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
    values = keras.tree.flatten(list(given.values()))
    return low.node("Einsum", [low.name_of(one, out.dtype) for one in values], equation=operation.subscripts)


def _where(low: Lowering, operation: Any, given: Mapping[str, Any], out: Value) -> str:
    chosen = low.name_of(given["condition"], "bool")
    return low.node("Where", [chosen, low.name_of(given["x1"], out.dtype), low.name_of(given["x2"], out.dtype)])


def _normalization(layer: Any, inputs: Any, **_: Any) -> Any:
    """What `keras.layers.Normalization` does, in operations that can be traced."""
    mean, spread = layer.mean, np.maximum(np.sqrt(_array(layer.variance)), keras.config.epsilon())
    return inputs * spread + _array(mean) if layer.invert else (inputs - _array(mean)) / spread


def _rescaling(layer: Any, inputs: Any, **_: Any) -> Any:
    return inputs * np.asarray(layer.scale, np.float32) + np.asarray(layer.offset, np.float32)


def _array(value: Any) -> NDArray[Any]:
    return array_of(value, "float32")


# Layers whose own code does not go through operations that can be traced.
LAYERS: Mapping[str, Callable[..., Any]] = {
    "layers.preprocessing.normalization.Normalization": _normalization,
    "layers.preprocessing.rescaling.Rescaling": _rescaling,
}

_NUMPY: Mapping[str, Word] = {
    **{name: _unary("Abs") for name in ("Absolute", "Abs")},
    **{name: _unary(name) for name in ("Exp", "Log", "Sqrt", "Tanh", "Sign", "Sin", "Cos", "Floor", "Ceil")},
    **{name: _compare(name) for name in ("Greater", "Less", "Equal")},
    **{name: _reduce("ReduceMax") for name in ("Max", "Amax", "Any")},
    **{name: _reduce("ReduceMin") for name in ("Min", "Amin", "All")},
    **dict.fromkeys(("Copy", "Array"), _same),
    "Negative": _unary("Neg"),
    "Reciprocal": _unary("Reciprocal"),
    "Add": _binary("Add"),
    "Subtract": _binary("Sub"),
    "Multiply": _binary("Mul"),
    "Divide": _binary("Div"),
    "TrueDivide": _binary("Div"),
    "Power": _binary("Pow"),
    "Maximum": _binary("Max"),
    "Minimum": _binary("Min"),
    "GreaterEqual": _compare("GreaterOrEqual"),
    "LessEqual": _compare("LessOrEqual"),
    "NotEqual": _compare("Equal", negated=True),
    "LogicalAnd": _logical("And"),
    "LogicalOr": _logical("Or"),
    "LogicalNot": _logical("Not"),
    "Sum": _reduce("ReduceSum"),
    "Mean": _reduce("ReduceMean"),
    "Square": _square,
    "Log1p": _log1p,
    "Clip": _clip,
    "Where": _where,
    "Matmul": _matmul,
    "Einsum": _einsum,
}

_NN: Mapping[str, Word] = {
    **{name: _unary(name) for name in ("Relu", "Sigmoid", "Softplus", "Softsign")},
    "Relu6": _relu6,
    "Silu": _silu,
    "Gelu": _gelu,
    "Selu": _unary("Selu"),
    "Elu": _by_setting("Elu", alpha="alpha"),
    "LeakyRelu": _by_setting("LeakyRelu", alpha="negative_slope"),
    "HardSigmoid": _unary("HardSigmoid", alpha=1 / 6, beta=0.5),
    "Softmax": _softmax("Softmax"),
    "LogSoftmax": _softmax("LogSoftmax"),
    "BatchNorm": _batch_norm,
    "LayerNorm": _layer_norm,
    "DotProductAttention": _attention,
}

OPERATIONS: Mapping[str, Word] = {
    **{f"ops.numpy.{name}": word for name, word in {**_NUMPY, **SHAPES}.items()},
    **{f"ops.nn.{name}": word for name, word in _NN.items()},
    "ops.math.Rsqrt": _rsqrt,
    "ops.math.Erf": _unary("Erf"),
    "ops.core.Cast": _same,
    "ops.core.ConvertToTensor": _same,
    "ops.core.StopGradient": _same,
    "activations.activations.ReLU": _relu,
}
