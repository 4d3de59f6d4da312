"""Functions of JAX as graphs, primitive by primitive: the same numbers, or a refusal by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

jax = pytest.importorskip("jax")
jnp = jax.numpy
lax = jax.lax

from mlaas4hep.backends.jax_graph import Lowering, NotCovered  # noqa: E402
from mlaas4hep.backends.jax_products import ALL_WORDS  # noqa: E402
from mlaas4hep.graph.builder import value_info  # noqa: E402

SHAPES = {"x": ((6,), "float32"), "jets": ((5, 4), "float32"), "there": ((5,), "bool")}
MATRIX = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
KERNEL = np.random.default_rng(2).normal(size=(2, 2, 1, 3)).astype(np.float32)
ORDER = np.array([[3, 0], [1, 1]])
Arrays = dict[str, NDArray[Any]]


def rows(number: int) -> Arrays:
    random = np.random.default_rng(3)
    return {
        "x": random.normal(size=(number, 6)).astype(np.float32),
        "jets": random.normal(size=(number, 5, 4)).astype(np.float32),
        "there": random.random((number, 5)) < 0.6,
    }


def lowered(function: Callable[..., Any]) -> Callable[[Arrays], NDArray[Any]]:
    """A function of `SHAPES` as its graph computes it."""
    low = Lowering(ALL_WORDS, where="test")
    found = low.trace(function, SHAPES)
    low.graph.node("Identity", [found.name], output="y")
    ends = [value_info(name, np.dtype(kind), shape) for name, (shape, kind) in SHAPES.items()]
    model = low.graph.model(ends, [value_info("y", np.dtype(found.dtype), found.shape[1:])])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda arrays: np.asarray(session.run(["y"], arrays)[0])


def positive(x: Any) -> Any:
    return jnp.abs(x) + 0.1


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sums": lambda x, jets, there: (x + 1.5 - 2 * x) * x / positive(x),
    "exponentials": lambda x, jets, there: jnp.exp(x) + jnp.expm1(x) + jnp.log(positive(x)) + jnp.log1p(positive(x)),
    "waves": lambda x, jets, there: jnp.sin(x) * jnp.cos(x) + jnp.tanh(x),
    "roots": lambda x, jets, there: jnp.sqrt(positive(x)) + lax.rsqrt(positive(x)) + positive(x) ** 1.3,
    "powers": lambda x, jets, there: x**2 + x**3 - x**7 + positive(x) ** -2 + jnp.square(x) + x**0,
    "steps": lambda x, jets, there: jnp.sign(x) + jnp.floor(x) + jnp.ceil(2 * x) + jnp.round(3 * x) + jnp.abs(x),
    "remainder": lambda x, jets, there: jnp.fmod(5 * x, 1.5),
    "whole numbers": lambda x, jets, there: (x * 10).astype(jnp.int32) * 3 + 1,
    "bounds": lambda x, jets, there: (
        jnp.clip(x, -0.5, 0.7) + jnp.maximum(x, 0) - jnp.minimum(x, 0.1) + lax.clamp(-1.0, x, 1.0)
    ),
    "activations": lambda x, jets, there: sum(
        one(x)
        for one in (jax.nn.relu, jax.nn.relu6, jax.nn.silu, jax.nn.gelu, jax.nn.elu, jax.nn.selu, jax.nn.softplus)
    ),
    "more activations": lambda x, jets, there: sum(
        one(x) for one in (jax.nn.sigmoid, jax.nn.leaky_relu, jax.nn.hard_swish, jax.nn.mish, jax.nn.log_sigmoid)
    ),
    "exact gelu": lambda x, jets, there: jax.nn.gelu(x, approximate=False) + lax.erf(x) + lax.erfc(x),
    "comparisons": lambda x, jets, there: jnp.where((x > 0) & (x <= 1) | (x < -1), x, 0.0) + (x >= 0.3) + (x == x),
    "logic": lambda x, jets, there: jnp.logical_xor(~(x != 0.2), x > 0).astype(jnp.float32),
    "chosen truths": lambda x, jets, there: jnp.where(x > 0, x > 1, x < -1),
    "finite": lambda x, jets, there: jnp.where(jnp.isfinite(x / 0.0), 1.0, 2.0) + jnp.isnan(x),
    "softmax": lambda x, jets, there: jax.nn.softmax(jets, axis=1)[:, 0] + jax.nn.log_softmax(jets, axis=-1)[:, 1],
    "masked softmax": lambda x, jets, there: jax.nn.softmax(jets, axis=1, where=there[..., None]).sum(1),
    "log of a sum": lambda x, jets, there: jax.nn.logsumexp(jets, axis=(1, 2)),
    "means": lambda x, jets, there: jets.mean(axis=1) + jets.std(axis=1) + jets.var(axis=1),
    "ends": lambda x, jets, there: jets.max(axis=1) - jets.min(axis=1) + jets.prod(axis=1),
    "truths": lambda x, jets, there: there.any(axis=1) + 2.0 * there.all(axis=1) + there.sum(axis=1),
    "places": lambda x, jets, there: jnp.argmax(jets, axis=1) + 10 * jnp.argmin(jets, axis=1),
    "one hot": lambda x, jets, there: jax.nn.one_hot(jnp.argmax(x, axis=1), 6) @ MATRIX,
    "cumulative sum": lambda x, jets, there: (
        jnp.cumsum(jets, axis=1)[:, 3] + lax.cumsum(jets, axis=2, reverse=True)[:, 0]
    ),
    "masked pooling": lambda x, jets, there: (
        jnp.where(there[..., None], jets, -1e9).max(1) * there.any(1, keepdims=True)
    ),
    "product": lambda x, jets, there: x @ MATRIX + MATRIX[0],
    "product of objects": lambda x, jets, there: jets @ MATRIX[:4],
    "product from the left": lambda x, jets, there: jax.vmap(lambda one: MATRIX.T @ one)(x),
    "attention": lambda x, jets, there: jax.nn.softmax(jets @ jets.swapaxes(1, 2) / 2, axis=-1) @ jets,
    "heads": lambda x, jets, there: jnp.einsum("nkhd,nlhd->nhkl", *2 * [jets.reshape(-1, 5, 2, 2)]).sum((2, 3)),
    "outer product": lambda x, jets, there: jnp.einsum("ni,nj->nij", x, x),
    "trace": lambda x, jets, there: jnp.einsum("nij,nij->n", jets, jets),
    "two sums at once": lambda x, jets, there: jnp.tensordot(
        jets, np.arange(20.0, dtype=np.float32).reshape(5, 4, 1), axes=2
    ),
    "event by event": lambda x, jets, there: jax.vmap(lambda a, b: jnp.dot(a[:4], b.sum(0)) * a)(x, jets),
    "object by object": lambda x, jets, there: jax.vmap(jax.vmap(lambda one: jnp.tanh(one @ MATRIX[:4])))(jets).sum(1),
    "slices": lambda x, jets, there: x[:, 1:5:2] + x[:, :2] + x[:, -1:] + jets[:, 2, :2],
    "one column": lambda x, jets, there: x[:, 3] - jets[:, 0, 1],
    "picked": lambda x, jets, there: jets[:, :, ORDER] + jets[:, ORDER][..., 0][:, None],
    "picked from the front": lambda x, jets, there: jnp.take(x, jnp.array([5, 0, 2]), axis=1),
    "cut": lambda x, jets, there: lax.slice_in_dim(jets, 2, 4, axis=1),
    "parts": lambda x, jets, there: sum(jnp.split(x, 3, axis=1)),
    "turned round": lambda x, jets, there: jets[:, ::-1] + jnp.flip(jets, axis=(1, 2)),
    "joined": lambda x, jets, there: jnp.concatenate([x, jets.reshape(-1, 20), jnp.ones((x.shape[0], 2))], axis=1),
    "stacked": lambda x, jets, there: jnp.stack([x, 2 * x, x + MATRIX[:, 0]], axis=1),
    "repeated": lambda x, jets, there: jnp.broadcast_to(x[:, None, :], (x.shape[0], 3, 6)).reshape(x.shape[0], 18),
    "tiled": lambda x, jets, there: jnp.tile(x, (1, 2)) + jnp.repeat(x, 2, axis=1),
    "reshaped": lambda x, jets, there: jets.reshape(x.shape[0], 2, 10).transpose(0, 2, 1)[:, :, 0],
    "rows of all objects": lambda x, jets, there: (jets.reshape(-1, 4) @ MATRIX[:4]).reshape(-1, 5, 3),
    "squeezed": lambda x, jets, there: jets[:, :1].squeeze(1) + x[:, None, :4].squeeze(1),
    "padded": lambda x, jets, there: jnp.pad(jets, ((0, 0), (1, 2), (0, 0)), constant_values=2.5),
    "image": lambda x, jets, there: lax.conv_general_dilated(
        jets[..., None], KERNEL, (1, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ),
    "pooled image": lambda x, jets, there: (
        lax.reduce_window(jets[..., None], -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 1, 1), "VALID")
        + lax.reduce_window(jets[..., None], 0.0, lax.add, (1, 2, 2, 1), (1, 2, 1, 1), "VALID")
    ),
    "scan over objects": lambda x, jets, there: lax.scan(
        lambda state, one: (jnp.tanh(state + one), state.sum(1)), x[:, :4], jets.swapaxes(0, 1)
    )[0],
    "told by a scan": lambda x, jets, there: lax.scan(
        lambda state, one: (state + one, state * 2), x, jnp.arange(3.0), reverse=True
    )[1][1],
    "loop over objects": lambda x, jets, there: lax.fori_loop(
        0, 5, lambda i, state: jnp.tanh(state + jets[:, i]), x[:, :4]
    ),
    "loop": lambda x, jets, there: lax.fori_loop(0, 3, lambda i, one: one * 0.5 + i, x),
    "checkpoint": lambda x, jets, there: jax.checkpoint(lambda one: jnp.sin(one) * 2)(x),
    "chosen by a constant": lambda x, jets, there: lax.cond(len(MATRIX) > 3, jnp.sin, jnp.cos, x),
    "random constants": lambda x, jets, there: x @ jax.random.uniform(jax.random.key(1), (6, 2)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_becomes_the_same_graph(name: str) -> None:
    function, arrays = FUNCTIONS[name], rows(300)
    served, wanted = lowered(function), np.asarray(jax.jit(function)(*arrays.values()))
    found = served(arrays)
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-6)


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "a word": (lambda x, jets, there: lax.digamma(x), "primitive 'digamma' has no word in the graph"),
    "sorting": (lambda x, jets, there: jnp.sort(x, axis=1), "primitive 'sort' has no word"),
    "a loop of open length": (
        lambda x, jets, there: lax.while_loop(lambda one: one.sum() < 3, lambda one: one + 1, x),
        "primitive 'while' has no word",
    ),
    "a sum of events": (lambda x, jets, there: x - x.sum(axis=0), "it reduces over the events of a batch"),
    "a mean of events": (
        lambda x, jets, there: x - x.mean(axis=0),
        "the events of a batch|number of events in a batch",
    ),
    "a product of events": (lambda x, jets, there: x @ (x.T @ x), "adds up over the events of a batch"),
    "sums from event to event": (lambda x, jets, there: jnp.cumsum(x, axis=0), "adds up over the events of a batch"),
    "the first event": (lambda x, jets, there: x - x[0], "number of events in a batch"),
    "turned events": (lambda x, jets, there: x[::-1], "number of events in a batch"),
    "events beside objects": (lambda x, jets, there: jets.swapaxes(0, 1).reshape(-1, 4), "the events must come first"),
    "numbers of events": (lambda x, jets, there: x * jnp.arange(x.shape[0])[:, None], "number of events in a batch"),
    "the number of events": (lambda x, jets, there: x / x.shape[0], "number of events in a batch"),
    "a length": (lambda x, jets, there: x.reshape(len(x), 2, 3), r"write x.shape\[0\], or -1 in a shape"),
    "a branch of the event": (
        lambda x, jets, there: lax.cond(x.any(), jnp.sin, jnp.cos, x),
        "over the events of a batch",
    ),
    "random numbers": (
        lambda x, jets, there: x * jax.random.normal(jax.random.key(1), x.shape),
        "only where key is not",
    ),
    "an index of the event": (
        lambda x, jets, there: jnp.asarray(MATRIX)[jnp.argmax(x, axis=1)],
        "take jax.nn.one_hot",
    ),
    "half precision": (lambda x, jets, there: x.astype(jnp.float16) * 2, "gives float16; the graph knows float32"),
    "nothing of the event": (lambda x, jets, there: jnp.ones(3), "the scores do not hang on the event"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_word_or_mixes_events_is_refused_by_name(name: str) -> None:
    function, words = REFUSED[name]
    with pytest.raises(NotCovered, match=words) as error:
        lowered(function)
    assert re.match("test: cannot be written as a graph: ", str(error.value))
