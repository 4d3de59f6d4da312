"""The canonical form: names and traces are gone, dead ends too; what it cannot carry is refused."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlaas4hep.errors import ModelError
from mlaas4hep.graph.canonical import canonicalise, model_sha256


def make_model(*nodes: onnx.NodeProto, constants: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "exported",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8, producer_name="t")


TWO = np.array([1.0, 2.0], np.float32)


def test_nothing_but_operators_numbers_and_ends_is_left() -> None:
    add = helper.make_node("Add", ["a", "weights"], ["z"], name="/home/someone/layer", doc_string="model.py:3")
    model = make_model(add, helper.make_node("Relu", ["a"], ["unused"]), constants={"weights": TWO, "spare": TWO})
    model.doc_string, model.graph.doc_string = "exported from /home/someone", "here"
    model.metadata_props.add(key="cwd", value="/home/someone")
    model.graph.value_info.append(helper.make_tensor_value_info("unused", TensorProto.FLOAT, ["batch", 2]))
    done = canonicalise(model)
    assert b"someone" not in done.SerializeToString()
    assert [(node.op_type, list(node.input), list(node.output)) for node in done.graph.node] == [
        ("Add", ["a", "__v0"], ["z"])
    ]
    assert [tensor.name for tensor in done.graph.initializer] == ["__v0"]
    assert done.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert (len(done.metadata_props), len(done.graph.value_info), done.producer_name) == (0, 0, "")


def test_a_constant_node_is_the_same_as_an_initialiser() -> None:
    constant = helper.make_node("Constant", [], ["weights"], value=numpy_helper.from_array(TWO, "inner"))
    stored = make_model(helper.make_node("Add", ["a", "w"], ["z"]), constants={"w": TWO})
    assert model_sha256(make_model(constant, helper.make_node("Add", ["a", "weights"], ["z"]))) == model_sha256(stored)


def test_another_number_or_another_operator_is_another_graph() -> None:
    models = [
        make_model(helper.make_node(operator, ["a", "w"], ["z"]), constants={"w": weights})
        for operator in ("Add", "Mul")
        for weights in (TWO, np.nextafter(TWO, np.float32(9)))
    ]
    assert len({model_sha256(model) for model in models}) == 4


def test_a_chain_of_thousands_of_nodes_is_ordered() -> None:
    names = ["a", *(f"v{i}" for i in range(5000)), "z"]
    nodes = [helper.make_node("Relu", [first], [second]) for first, second in pairwise(names)]
    done = canonicalise(make_model(*nodes[::-1]))
    assert len(done.graph.node) == 5001
    onnx.checker.check_model(done)


def test_branches_and_loops_are_refused() -> None:
    body = helper.make_graph([], "then", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2])])
    node = helper.make_node("If", ["a"], ["z"], then_branch=body, else_branch=body)
    with pytest.raises(ModelError, match=r"branches or loops \(If\)"):
        canonicalise(make_model(node))


def test_weights_in_another_file_are_refused() -> None:
    model = make_model(helper.make_node("Add", ["a", "w"], ["z"]), constants={"w": TWO})
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(ModelError, match="keeps 'w' in another file"):
        canonicalise(model)
