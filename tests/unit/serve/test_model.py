"""Graphs of any make as models: their tensors, whether rows may be joined, and what their config may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mlaas4hep.cli.serve import _ready
from mlaas4hep.errors import BundleError, RequestError
from mlaas4hep.serve.model import ServedModel, TensorSpec, load_model
from mlaas4hep.serve.opening import open_repository
from mlaas4hep.serve.pbtxt import parse_pbtxt
from mlaas4hep.serve.protocol import InferRequest, OutputChoice
from mlaas4hep.serve.service import InferenceService
from tests.plain_graph import write_plain_graph

GRAPH_INPUTS = [
    ("x", TensorProto.FLOAT, ["n", 2]),
    ("k", TensorProto.INT64, ["n", 1]),
    ("s", TensorProto.STRING, ["n", 1]),
]


def write(folder: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], *, config: str | None = None) -> Path:
    """``folder/1/model.onnx`` of a few nodes; ends are (name, type, shape)."""
    ends = [[helper.make_tensor_value_info(*one) for one in some] for some in (inputs, outputs)]
    graph = helper.make_graph(nodes, "g", *ends)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "1").mkdir(parents=True)
    onnx.save(model, folder / "1" / "model.onnx")
    if config is not None:
        (folder / "config.pbtxt").write_text(config)
    return folder / "1"


def mixed(folder: Path, config: str | None = None) -> Path:
    nodes = [
        helper.make_node("Add", ["x", "x"], ["twice"]),
        helper.make_node("Cast", ["k"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Identity", ["s"], ["same"]),
        helper.make_node("Cast", ["k"], ["any"], to=TensorProto.BOOL),
    ]
    outputs = [
        ("twice", TensorProto.FLOAT, ["n", 2]),
        ("half", TensorProto.FLOAT16, ["n", 1]),
        ("same", TensorProto.STRING, ["n", 1]),
        ("any", TensorProto.BOOL, ["n", 1]),
    ]
    return write(folder, nodes, GRAPH_INPUTS, outputs, config=config)


def tensors(rows: int = 2) -> dict[str, Any]:
    return {
        "x": np.arange(2 * rows, dtype=np.float32).reshape(rows, 2),
        "k": np.arange(rows, dtype=np.int64).reshape(rows, 1),
        "s": np.array(["jet"] * rows, object).reshape(rows, 1),
    }


def test_a_graph_without_config_is_served_with_the_tensors_of_its_file(tmp_path: Path) -> None:
    model = load_model(mixed(tmp_path / "mixed"))
    assert (model.name, model.version, model.contract, model.batches) == ("mixed", "1", None, False)
    assert model.inputs == (
        TensorSpec("x", "FP32", (-1, 2)),
        TensorSpec("k", "INT64", (-1, 1)),
        TensorSpec("s", "BYTES", (-1, 1)),
    )
    assert [one.datatype for one in model.outputs] == ["FP32", "FP16", "BYTES", "BOOL"]
    found = model.run(tensors())
    assert found["twice"].tolist() == [[0, 2], [4, 6]]
    assert found["half"].dtype == np.float16
    assert found["same"].tolist() == [["jet"], ["jet"]]
    assert found["any"].tolist() == [[False], [True]]


def test_its_config_says_that_rows_are_independent_and_how_many_a_run_takes(tmp_path: Path) -> None:
    config = """
    name: "mixed"  # a comment
    platform: "onnxruntime_onnx", max_batch_size: 2
    input [ { name: 'x' data_type: TYPE_FP32 dims: [ 2 ] }, { name: "s" data_type: TYPE_STRING dims: 1 } ]
    dynamic_batching { }
    """
    model = load_model(mixed(tmp_path / "mixed", config))
    assert (model.batches, model.max_rows, model.inputs[0].shape) == (True, 2, (2,))
    assert model.run(tensors(5))["twice"].tolist() == (tensors(5)["x"] * 2).tolist()
    assert {name: one.shape for name, one in model.run(tensors(0)).items()}["twice"] == (0, 2)
    with pytest.raises(RequestError, match="same number of events, but 'x' has 2, 'k' has 3, 's' has 2"):
        model.run(tensors() | {"k": tensors(3)["k"]})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('name: "other"', "says the model is 'other', but its folder is 'mixed'"),
        ('backend: "tensorflow"', "asks for the backend 'tensorflow'"),
        ("max_batch_size: -1", "max_batch_size is a number of rows, found '-1'"),
        ('input { name: "y" }', "input 'y' is not one of the graph's"),
        ('input { name: "x" data_type: TYPE_INT8 }', "'x' is said to be TYPE_INT8, but the graph has TYPE_FP32"),
        ('input { name: "x" dims: [ 3, 3 ] }', r"'x' is said to be \[3, 3\], but the graph has \[-1, 2\]"),
        ("max_batch_size 8", None),
        ("max_batch_size: [", "asked for a value, found the end"),
        ("max_batch_size: }", "asked for a value, found '}'"),
        ("input {", "asked for a field's name, found the end"),
        ("\n\n ^", "line 3: cannot be read at"),
        ("a { " * 40, "too deep"),
        ("x: 1.2.3", "'1.2.3' is not a number"),
        ("{}", "asked for a field's name, found '{'"),
    ],
)
def test_a_config_that_does_not_fit_says_where(tmp_path: Path, config: str, said: str | None) -> None:
    folder = mixed(tmp_path / "mixed", config)
    if said is None:
        assert load_model(folder).max_rows == 8
        return
    with pytest.raises(BundleError, match=said):
        load_model(folder)


def test_a_config_is_read_as_protobuf_writes_it() -> None:
    text = r"""a: "one" 'two\n' b: [1, 2.5, -3, 0x10, 1e3f] c <d: true, e: OFF;> c { }"""
    assert parse_pbtxt(text, where="x") == {
        "a": ["onetwo\n"],
        "b": [1, 2.5, -3, 16, 1000.0],
        "c": [{"d": [True], "e": ["OFF"]}, {}],
    }


def test_rows_of_a_fixed_number_cannot_be_joined(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    ends = [("x", TensorProto.FLOAT, [3, 2])], [("y", TensorProto.FLOAT, [3, 2])]
    with pytest.raises(BundleError, match="needs a first dimension of any size, but 'x' is"):
        load_model(write(tmp_path / "a", nodes, *ends, config="max_batch_size: 4"))
    model = load_model(write(tmp_path / "b", nodes, *ends))
    assert model.run({"x": np.ones((3, 2), np.float32)})["y"].tolist() == [[2, 2]] * 3
    with pytest.raises(RequestError, match=r"must have shape \[3, 2\], but has \[2, 2\]"):
        model.run({"x": np.ones((2, 2), np.float32)})


def test_a_graph_that_cannot_run_what_fits_is_the_question_s_fault(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["x", "k"], ["y"], axis=0)]
    inputs = [("x", TensorProto.FLOAT, ["n"]), ("k", TensorProto.INT64, ["m"])]
    model = load_model(write(tmp_path / "g", nodes, inputs, [("y", TensorProto.FLOAT, ["m"])]))
    with pytest.raises(RequestError, match="the graph does not take these tensors"):
        model.run({"x": np.ones(2, np.float32), "k": np.array([7])})


def test_what_numpy_does_not_know_is_refused_and_mappings_are_left_out(tmp_path: Path) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    folder = write(tmp_path / "b", nodes, [("x", TensorProto.BFLOAT16, [1])], [("y", TensorProto.FLOAT, [1])])
    with pytest.raises(BundleError, match=r"tensor\(bfloat16\); served are tensor\(float\)"):
        load_model(folder)
    (tmp_path / "c" / "1").mkdir(parents=True)
    (tmp_path / "c" / "1" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match="ONNX Runtime cannot load it"):
        load_model(tmp_path / "c" / "1")


def test_a_plain_graph_is_asked_by_tensors_only(tmp_path: Path) -> None:
    mixed(tmp_path / "mixed", "max_batch_size: 4")
    service = InferenceService(open_repository(tmp_path))
    assert [one.shape for one in service.model_metadata("mixed").inputs] == [(-1, 2), (-1, 1), (-1, 1)]
    answer = service.infer("mixed", InferRequest(tensors()))
    assert list(answer.outputs) == ["twice", "half", "same", "any"]
    said = "without a contract, .* send tensors to /v2/models/mixed/infer"
    with pytest.raises(RequestError, match=said):
        service.predict_events("mixed", b"{}")
    with pytest.raises(RequestError, match=said):
        service.model_contract("mixed")


def test_the_start_shows_what_a_plain_graph_can_be_asked(tmp_path: Path) -> None:
    mixed(tmp_path / "mixed")
    service = InferenceService(open_repository(tmp_path))
    assert "curl http://here/v2/models/mixed  #" in _ready(service, "http://here", None, as_json=False, no_pages=False)


def test_a_served_model_is_measured_when_it_is_loaded(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    ends = [("x", TensorProto.FLOAT, ["n", 2])], [("y", TensorProto.FLOAT, ["n", 2])]
    model: ServedModel = load_model(write(tmp_path / "a", nodes, *ends, config="max_batch_size: 64"))
    assert 0 < model.call_s <= model.run_s(1000)


def test_outputs_come_in_the_order_in_which_they_are_asked_and_as_classes_with_their_labels(tmp_path: Path) -> None:
    model = load_model(write_plain_graph(tmp_path) / "1")
    assert model.outputs[10] == TensorSpec("same_FP32", "FP32", (2,), ("background", "signal"))
    service = InferenceService(open_repository(tmp_path))
    inputs = {one.name: np.zeros((1, 2), one.dtype) for one in model.inputs}
    inputs |= {"FP32": np.array([[0.25, 4]], np.float32), "BYTES": np.array([["a", "b"]], object)}
    wishes = (OutputChoice("same_FP32", classes=1), OutputChoice("same_BYTES"), OutputChoice("same_INT8", classes=9))
    answer = service.infer("plain", InferRequest(inputs, outputs=wishes, id="7"))
    assert list(answer.outputs) == ["same_FP32", "same_BYTES", "same_INT8"]
    assert [one.tolist() for one in answer.outputs.values()] == [[["4.0:1:signal"]], [["a", "b"]], [["0:0", "0:1"]]]
    with pytest.raises(RequestError, match="'same_BYTES': 'classification' is asked of numbers, found BYTES"):
        service.infer("plain", InferRequest(inputs, outputs=(OutputChoice("same_BYTES", classes=1),)))
    with pytest.raises(RequestError, match="input 'INT8': asked for INT8, found INT16"):
        service.infer("plain", InferRequest(inputs | {"INT8": np.zeros((1, 2), np.int16)}))


def test_labels_come_from_a_file_beside_the_config_alone(tmp_path: Path) -> None:
    folder = write_plain_graph(tmp_path)
    (folder / "labels.txt").rename(tmp_path / "labels.txt")
    (folder / "config.pbtxt").write_text((folder / "config.pbtxt").read_text().replace('"labels', '"../labels'))
    with pytest.raises(BundleError, match=r"label_filename '\.\./labels\.txt': asked for a file beside this one"):
        load_model(folder / "1")


def test_texts_of_a_graph_are_utf8(tmp_path: Path) -> None:
    model = load_model(mixed(tmp_path / "mixed"))
    with pytest.raises(RequestError, match="input 's': text 1 is not UTF-8"):
        model.run(tensors() | {"s": np.array([["jet"], [b"\xff\xd8"]], object)})
