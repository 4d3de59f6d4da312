"""Graphs keep to the list of operators, and tensors to what the file holds."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mlaas4hep.convert.operators import DEFAULT, Operators, check_graph
from mlaas4hep.convert.plain import canonical_plain, plain_config
from mlaas4hep.convert.result import Tensor
from mlaas4hep.convert.runtime import Graph
from mlaas4hep.errors import UploadError
from tests.attacks import external, onnx_model, small_network

MOST = 1 << 20


def checked(model: onnx.ModelProto, operators: Operators | None = None) -> onnx.ModelProto:
    return check_graph(model.SerializeToString(), operators or Operators(), most=MOST)


def node(kind: str, *inputs: str, domain: str = "", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs or ("x",)), ["y"], domain=domain, **attributes)


def looped() -> onnx.ModelProto:
    """A loop of 2^62 turns."""
    turns = numpy_helper.from_array(np.array(1 << 62, np.int64), "turns")
    go = numpy_helper.from_array(np.array(True), "go")
    ends = [helper.make_tensor_value_info(name, kind, []) for name, kind in (("i", 7), ("c", 9))]
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Relu", ["v"], ["v2"])],
        "body",
        [*ends, helper.make_tensor_value_info("v", 1, None)],
        [helper.make_tensor_value_info("c2", 9, []), helper.make_tensor_value_info("v2", 1, None)],
    )
    return onnx_model(node("Loop", "turns", "go", "x", body=body), initialisers=(turns, go))


REFUSED = {
    "an operator of others": (onnx_model(node("Run", domain="com.evil"), domains=("com.evil",)), "domain 'com.evil'"),
    "a fused operator": (onnx_model(node("Gelu", domain="com.microsoft"), domains=("com.microsoft",)), "com.microsoft"),
    "Python": (onnx_model(node("PyOp", domain="ai.onnx.contrib"), domains=("ai.onnx.contrib",)), "ai.onnx.contrib"),
    "a loop": (looped(), "branches or loops"),
    "chance": (onnx_model(node("RandomNormalLike")), "without random numbers"),
    "an unknown word": (onnx_model(node("Rellu")), "did you mean 'Relu'"),
    "weights elsewhere": (external("../../../etc/passwd"), "keeps 'w' in another file"),
    "weights at an absolute place": (external("/etc/passwd"), "another file"),
    "a tensor of 10^15": (
        onnx_model(
            node("MatMul", "x", "w"),
            initialisers=(TensorProto(name="w", data_type=1, dims=[4, 10**15], raw_data=b"\0" * 16),),
        ),
        "not what the file holds",
    ),
    "a negative size": (
        onnx_model(node("MatMul", "x", "w"), initialisers=(TensorProto(name="w", data_type=1, dims=[4, -1]),)),
        "which no tensor has",
    ),
    "a constant that lies": (
        onnx_model(helper.make_node("Constant", [], ["y"], value=TensorProto(data_type=1, dims=[1 << 40]))),
        "not what the file holds",
    ),
    "a newer language": (onnx_model(node("Relu"), opset=99), "at most 23"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_graph_that_breaks_a_rule_is_refused_by_name(what: str) -> None:
    model, words = REFUSED[what]
    with pytest.raises(UploadError, match=words):
        checked(model)


def test_functions_are_written_out_and_looked_into() -> None:
    def with_function(kind: str, domain: str) -> onnx.ModelProto:
        model = onnx_model(node("Own", domain="local"), domains=("local", *([domain] if domain else [])))
        body = [helper.make_node(kind, ["a"], ["b"], domain=domain)]
        opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
        model.functions.append(helper.make_function("local", "Own", ["a"], ["b"], body, opsets))
        return model

    assert [one.op_type for one in checked(with_function("Relu", "")).graph.node] == ["Relu"]
    with pytest.raises(UploadError, match=r"com\.evil"):
        checked(with_function("Run", "com.evil"))


def calls(*bodies: tuple[str, ...]) -> onnx.ModelProto:
    """A graph that calls the first of local functions f0, f1, ..., each of which calls these in turn."""
    model = onnx_model(node("f0", domain="local"), domains=("local",))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    for number, body in enumerate(bodies):
        names = ["a", *(f"t{at}" for at in range(len(body) - 1)), "b"]
        nodes = [
            helper.make_node(kind, [names[at]], [names[at + 1]], domain="local" if kind[:1] == "f" else "")
            for at, kind in enumerate(body)
        ]
        model.functions.append(helper.make_function("local", f"f{number}", ["a"], ["b"], nodes, opsets))
    return model


def test_functions_that_call_themselves_or_double_each_time_are_refused_before_they_are_written_out() -> None:
    assert len(checked(calls(("f1", "f1"), ("Relu", "f2"), ("Relu",))).graph.node) == 4
    doubling = [(f"f{number + 1}",) * 2 for number in range(40)]
    with pytest.raises(UploadError, match="nodes where its local functions are written out"):
        checked(calls(*doubling, ("Relu",)))
    for circle in ([("f0",)], [("f1", "Relu"), ("f0",)], [("Relu", "f1"), ("f1", "f1")]):
        with pytest.raises(UploadError, match="call themselves"):
            checked(calls(*circle))


def test_an_operator_of_a_server_narrows_and_extends_the_list() -> None:
    checked(small_network())
    with pytest.raises(UploadError, match="Softmax, which this server does not take"):
        checked(small_network(), Operators().narrowed(DEFAULT - {"Softmax"}))
    checked(onnx_model(node("Bernoulli")), Operators().extended(["Bernoulli"]))
    with pytest.raises(UploadError, match="code of others"):
        Operators().extended(["com.evil:Run"])


def test_too_many_bytes_are_refused_before_they_are_read() -> None:
    with pytest.raises(UploadError, match="at most 10 are taken"):
        check_graph(small_network().SerializeToString(), Operators(), most=10)


@given(data=st.binary(max_size=400), cut=st.integers(0, 300))
def test_damaged_graphs_are_refused_in_one_kind_of_error(data: bytes, cut: int) -> None:
    whole = small_network().SerializeToString()
    with suppress(UploadError):
        canonical_plain(check_graph(whole[:cut] + data + whole[cut + len(data) :], Operators(), most=MOST))


def test_the_canonical_form_keeps_shapes_names_and_bits_and_forgets_the_rest() -> None:
    model = small_network()
    again = small_network()
    again.producer_name, again.doc_string = "somebody", "/home/me/secret.py"
    for one in again.graph.node:
        one.name = f"layer/{one.op_type}"
    data = canonical_plain(model)
    assert canonical_plain(again) == data
    assert b"secret" not in data
    rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    graph = Graph(data)
    assert graph.inputs == (Tensor("x", "FP32", (-1, 4)),)
    assert graph.run({"x": rows})["y"].tobytes() == Graph(model.SerializeToString()).run({"x": rows})["y"].tobytes()


def test_fixed_dimensions_stay_fixed() -> None:
    graph = Graph(canonical_plain(onnx_model(node("Relu"), shape=(1, 3, 8, "w"))))
    assert graph.inputs[0].shape == (1, 3, 8, -1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: model.graph.input[0].type.tensor_type.ClearField("shape"), "declares no shape"),
        (lambda model: setattr(model.graph.output[0], "name", 'y" }'), "by which nobody can ask"),
        (lambda model: model.graph.output.pop(), "has no output"),
        (lambda model: model.graph.node[0].input.append("nobody"), "contradicts itself"),
    ],
)
def test_ends_that_cannot_be_asked_for_are_refused(change: object, words: str) -> None:
    model = onnx_model(node("Relu"))
    change(model)  # type: ignore[operator]
    with pytest.raises(UploadError, match=words):
        canonical_plain(model)


def test_the_configuration_leaves_the_rows_out_only_where_they_may_be_joined() -> None:
    ends = (Tensor("x", "FP32", (-1, 4)), Tensor("n", "INT64", (-1,)))
    joined = plain_config("net", ends, (Tensor("y", "BYTES", (-1, 2)),), batches=True).decode()
    assert "max_batch_size: 4096" in joined
    assert '{ name: "x" data_type: TYPE_FP32 dims: [ 4 ] }' in joined
    assert '{ name: "n" data_type: TYPE_INT64 dims: [ 1 ] reshape: { shape: [ ] } }' in joined
    assert '{ name: "y" data_type: TYPE_STRING dims: [ 2 ] }' in joined
    alone = plain_config("net", ends, ends, batches=False).decode()
    assert "max_batch_size: 0" in alone
    assert "dims: [ -1, 4 ]" in alone
    assert "dynamic_batching" not in alone
