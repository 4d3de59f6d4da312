"""Laws of the graph: the first part is its numpy twin bit for bit, trees are exact, equal graphs have equal bytes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from mlaas4hep.graph.canonical import canonical_bytes
from mlaas4hep.graph.invariance import find_variance
from mlaas4hep.graph.merge import merge
from mlaas4hep.graph.pre import MAX_ONE_HOT, build_pre
from mlaas4hep.graph.session import Session
from mlaas4hep.graph.trees import lower_trees
from mlaas4hep.spec.scaling import FLOAT32_MAX, FeatureScaling, GroupScaling, Scaler, unflatten
from tests.small_graphs import Inputs, bits, make_rows, make_spec, make_tree, make_trees, walk

EDGES = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 1.1754944e-38, FLOAT32_MAX, -FLOAT32_MAX, 1e38, -1e38, 1e-8],
    np.float32,
)
FLOAT = st.floats(width=32, allow_nan=False, allow_infinity=False)
BOUNDS = st.sampled_from([(-FLOAT32_MAX, FLOAT32_MAX), (-2.0, 3.0), (0.5, FLOAT32_MAX)])
FEATURE = st.builds(
    lambda kind, offset, scale, clip, out: FeatureScaling(kind, offset, scale, *clip, *out),
    st.sampled_from(["none", "standard", "minmax", "log"]),
    FLOAT,
    st.floats(2**-100, 2**100, width=32),
    BOUNDS,
    st.sampled_from([(-FLOAT32_MAX, FLOAT32_MAX), (-5.0, 5.0)]),
)


@st.composite
def scalings(draw: st.DrawFn) -> tuple[GroupScaling, ...]:
    """One to three groups, collections among them."""
    groups = []
    for index in range(draw(st.integers(1, 3))):
        features = tuple(draw(st.lists(FEATURE, min_size=1, max_size=5)))
        length = None if index == 0 and draw(st.booleans()) else draw(st.integers(1, 4))
        name = "event" if length is None else f"c{index}"
        groups.append(GroupScaling(name, tuple(f"v{i}" for i in range(len(features))), features, length))
    return tuple(groups)


def run(model: onnx.ModelProto, inputs: Inputs, *, threads: int = 1) -> dict[str, NDArray[np.generic]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [end.name for end in session.get_outputs()]
    return dict(zip([name.removeprefix("out_") for name in names], session.run(names, inputs), strict=True))


def expect_twin(groups: tuple[GroupScaling, ...], flat: NDArray[np.float32], *, threads: int = 1) -> None:
    """Every output of every form of the first part has the bits of the numpy twin."""
    inputs, twin = unflatten(groups, flat), Scaler(groups)
    for missing, prepared in (("impute", twin.flat(inputs)), ("native", twin.native(inputs))):
        whole = run(build_pre(groups, layout="flat", missing=missing), inputs, threads=threads)
        np.testing.assert_array_equal(bits(whole["x"]), bits(prepared))
        tensors = run(build_pre(groups, layout="groups", missing=missing), inputs, threads=threads)
        for name, tensor in unflatten(groups, prepared).items():
            np.testing.assert_array_equal(bits(tensors.pop(name)), bits(tensor))
        masks = {f"{name}_mask": mask for name, mask in twin.masks(inputs).items()}
        assert tensors.keys() == masks.keys()
        for name, mask in masks.items():
            assert tensors[name].dtype == np.bool_
            np.testing.assert_array_equal(tensors[name], mask)


def edge_rows(groups: tuple[GroupScaling, ...], count: int, seed: int) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    shape = (count, sum(group.width for group in groups))
    values = (random.normal(size=shape) * np.exp(random.normal(size=shape) * 4)).astype(np.float32)
    chosen = random.random(shape) < 0.4
    values[chosen] = random.choice(EDGES, int(chosen.sum()))
    values[random.random(count) < 0.1] = np.nan
    return values


@settings(max_examples=25, deadline=None)
@given(scalings(), st.sampled_from([0, 1, 2, 7, 33]), st.integers(0, 2**32 - 1))
def test_the_first_part_has_the_bits_of_its_twin(groups: tuple[GroupScaling, ...], count: int, seed: int) -> None:
    expect_twin(groups, edge_rows(groups, count, seed))


@settings(max_examples=25, deadline=None)
@given(FEATURE, arrays(np.float32, st.tuples(st.integers(0, 9), st.just(3)), elements=st.floats(width=32)))
def test_the_first_part_has_the_bits_of_its_twin_for_any_float(
    feature: FeatureScaling, flat: NDArray[np.float32]
) -> None:
    expect_twin((GroupScaling("jets", ("v",), (feature,), 3),), flat)


@pytest.mark.parametrize("threads", [1, 2])
def test_many_events_on_several_threads_have_the_bits_of_the_twin(threads: int) -> None:
    groups = make_spec(event=20, jets=(10, 8)).scaling
    expect_twin(groups, edge_rows(groups, 10_000, 1), threads=threads)


def test_a_clip_at_zero_gives_zeros_the_sign_that_the_twin_gives() -> None:
    features = (FeatureScaling("none", low=0.0, high=10.0), FeatureScaling("none", low=-10.0, high=0.0))
    groups = (GroupScaling("jets", ("a", "b"), features, 10),)
    expect_twin(groups, edge_rows(groups, 500, 2))


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("offset", [0.0, -0.0])
def test_an_offset_of_zero_gives_zeros_the_sign_that_the_twin_gives(width: int, offset: float) -> None:
    groups = (GroupScaling("jets", ("a",), (FeatureScaling("none", offset=offset),), width),)
    expect_twin(groups, np.full((5, width), -0.0, np.float32))


def test_many_log_columns_have_the_bits_of_the_twin() -> None:
    groups = (make_spec(event=0, jets=(256, 6)).scaling[0],)
    assert len(Scaler(groups).log_columns) * groups[0].width > MAX_ONE_HOT, "must take the other path"
    expect_twin(groups, edge_rows(groups, 9, 3))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["<=", "<"]))
def test_lowered_trees_give_the_exact_sum_of_leaves(seed: int, mode: str) -> None:
    random = np.random.default_rng(seed)
    spec = make_spec(task="regression")
    trees = [make_tree(spec.width, depth=3, random=random) for _ in range(5)]
    rows = make_rows(spec, 40, seed=seed % 1000)
    rows["event"] = np.round(rows["event"], 1)  # many values equal their thresholds once both are float32
    core = lower_trees(trees, num_features=spec.width, base=[0.125], link="identity", mode=mode)
    flat = Scaler(spec.scaling).native(rows)
    leaves = sum(np.round(np.ldexp(walk(tree, flat, mode=mode), 40)) for tree in trees)
    expected = (np.ldexp(leaves, -40) + 0.125).astype(np.float32)
    np.testing.assert_array_equal(Session(merge(spec, core)).run(rows)[:, 0], expected)


def test_the_order_of_trees_does_not_change_a_bit() -> None:
    spec = make_spec()
    _, _, trees = make_trees(spec, count=60)
    rows = make_rows(spec, 500)
    scores = [
        Session(merge(spec, lower_trees(some, num_features=spec.width, base=[0.1], link="sigmoid"))).run(rows)
        for some in (trees, trees[::-1])
    ]
    np.testing.assert_array_equal(bits(scores[0]), bits(scores[1]))


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_equal_graphs_have_equal_bytes_in_any_order_under_any_names(random: object) -> None:
    spec = make_spec(score_names=("a", "b", "c"), task="multiclass")
    core, _, _ = make_trees(spec)
    model = onnx.ModelProto.FromString(merge(spec, core))
    other = renamed(model)
    nodes, constants = list(other.graph.node), list(other.graph.initializer)
    random.shuffle(nodes)  # type: ignore[attr-defined]
    random.shuffle(constants)  # type: ignore[attr-defined]
    del other.graph.node[:], other.graph.initializer[:]
    other.graph.node.extend(nodes)
    other.graph.initializer.extend(constants)
    assert canonical_bytes(other) == canonical_bytes(model) == model.SerializeToString(deterministic=True)


def renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with other names inside, and with traces of an exporter."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    ends = {end.name for end in [*other.graph.input, *other.graph.output]}
    for node in other.graph.node:
        node.name, node.doc_string = f"exported_{id(node)}", "written by a test"
        node.metadata_props.add(key="source", value="/somewhere/model.py:3")
        node.input[:] = [name if name in ends else f"x{name}" for name in node.input]
        node.output[:] = [name if name in ends else f"x{name}" for name in node.output]
    for tensor in other.graph.initializer:
        tensor.name = f"x{tensor.name}"
    other.producer_name, other.graph.name = "exporter", "graph 17"
    other.opset_import.add(domain="com.unused", version=1)
    return other


@pytest.mark.parametrize("outputs", [("signal",), ("a", "b", "c")])
def test_trees_score_a_row_alike_in_every_batch_on_every_number_of_threads(outputs: tuple[str, ...]) -> None:
    spec = make_spec(score_names=outputs, task="binary" if len(outputs) == 1 else "multiclass")
    core, _, _ = make_trees(spec, count=60, depth=5)
    assert find_variance(merge(spec, core), make_rows(spec, 4096)) == []
