"""What is looked through before a framework sees it: TensorFlow's graphs, Keras's files, safetensors, params.json."""

from __future__ import annotations

import base64
import functools
import json
import os
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas4hep.convert.graphdef import check_frozen, check_saved_model, likely_outputs
from mlaas4hep.convert.keras import check_config, check_hdf5, check_keras_file
from mlaas4hep.convert.limits import Limits
from mlaas4hep.convert.native import read_safetensors
from mlaas4hep.convert.params import read_labels, read_params
from mlaas4hep.convert.sklearn import _loaded as load_skops
from mlaas4hep.convert.upload import Upload
from mlaas4hep.errors import UploadError
from tests.attacks import graph_def, keras_config, keras_file, node_def, safetensors, saved_model, zipped

X, Y = node_def("x", "Placeholder"), node_def("y", "Relu", "x")


def test_a_graph_that_computes_is_taken() -> None:
    assert check_saved_model(saved_model(graph_def(X, Y))) == {"x": "x:0"}
    assert check_frozen(graph_def(X, Y), ["x"], ["y"]) == ("x",)
    assert likely_outputs(graph_def(X, Y, node_def("end", "NoOp", "^y"))) == ("y",)


BAD = ["ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "EagerPyFunc", "Save", "SaveV2", "RestoreV2", "LoadLibrary"]


@pytest.mark.parametrize("operation", BAD)
def test_an_operation_that_does_more_is_found_wherever_an_answer_reaches(operation: str) -> None:
    bad = node_def("bad", operation)
    direct = graph_def(X, bad, node_def("y", "Relu", "bad"))
    only_first = graph_def(X, bad, node_def("y", "Relu", "x", "^bad"))
    called = graph_def(X, node_def("y", "PartitionedCall", "x", calls="f"), functions={"f": [bad]})
    twice = graph_def(
        X,
        node_def("y", "PartitionedCall", "x", calls="f"),
        functions={"f": [node_def("g", "StatefulPartitionedCall", calls="g")], "g": [bad]},
    )
    for graph in (direct, only_first, called, twice):
        with pytest.raises(UploadError, match=f"the operation {operation}"):
            check_saved_model(saved_model(graph))
    with pytest.raises(UploadError, match=f"the operation {operation}"):
        check_frozen(graph_def(X, Y, bad), [], [])


def test_what_stores_a_saved_model_may_stand_beside_it_and_nothing_else() -> None:
    store = [node_def("save", "SaveV2"), node_def("restore", "RestoreV2"), node_def("name", "ShardedFilename")]
    check_saved_model(saved_model(graph_def(X, Y, *store)))
    check_saved_model(saved_model(graph_def(X, Y, functions={"saver": store})))
    learns = [node_def("d", "RandomUniform"), node_def("m", "AssignSubVariableOp", "d")]
    check_saved_model(saved_model(graph_def(X, Y, functions={"learns": learns})))
    called = node_def("y", "PartitionedCall", "x", calls="learns")
    with pytest.raises(UploadError, match="RandomUniform, which draws random numbers"):
        check_saved_model(saved_model(graph_def(X, called, functions={"learns": learns})))
    with pytest.raises(UploadError, match="WriteFile, which reads or writes files"):
        check_saved_model(saved_model(graph_def(X, Y, functions={"idle": [node_def("w", "WriteFile")]})))


def test_a_frozen_graph_is_asked_for_by_nodes_that_it_has() -> None:
    with pytest.raises(UploadError, match="no node 'dense'; its last ones are x, y"):
        check_frozen(graph_def(X, Y), ["dense"], [])


@given(data=st.binary(max_size=200), cut=st.integers(0, 60))
def test_damaged_graphs_of_tensorflow_end_in_one_kind_of_error(data: bytes, cut: int) -> None:
    whole = saved_model(graph_def(X, Y))
    for one in (data, whole[:cut] + data + whole[cut + len(data) :]):
        for check in (check_saved_model, lambda bytes_: check_frozen(bytes_, [], [])):
            with suppress(UploadError):
                check(one)


DENSE = {"module": "keras.layers", "class_name": "Dense", "config": {"units": 1}, "registered_name": None}
CODE = base64.b64encode(b"\xe3\x00\x00").decode()
LAYERS = {
    "Lambda": {"module": "keras.layers", "class_name": "Lambda", "config": {"function": [CODE, None, None]}},
    "lambda below": DENSE | {"config": {"activation": {"class_name": "__lambda__", "config": {"value": CODE}}}},
    "a module of Python": {"module": "os", "class_name": "system", "config": {}},
    "a tool of Keras": {"module": "keras.utils", "class_name": "get_file", "config": {}},
    "of somebody": {"module": "keras.layers", "class_name": "Mine", "registered_name": "pkg>Mine", "config": {}},
    "not of Keras": {"module": "kerasx.layers", "class_name": "Dense", "config": {}},
    "a file": {"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}},
    "torch": {"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {}},
    "TensorFlow": {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "/tmp"}},
}


@pytest.mark.parametrize("what", LAYERS)
def test_a_keras_model_that_carries_or_names_code_is_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    path.write_bytes(keras_file(keras_config(LAYERS[what])))
    with pytest.raises(UploadError, match=r"carries code|not Keras's own.*model\.export"):
        check_keras_file(path, Limits())


def test_plain_layers_are_taken_and_strange_members_are_not(tmp_path: Path) -> None:
    check_config(json.dumps(keras_config(DENSE)))
    path = tmp_path / "m.keras"

    path.write_bytes(
        zipped({"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": b"", "assets/a.py": b""})
    )
    with pytest.raises(UploadError, match="which no model needs"):
        check_keras_file(path, Limits())
    with pytest.raises(UploadError, match="nested too deeply"):
        check_config('{"a":' * 300 + "1" + "}" * 300)


def test_an_hdf5_file_leads_nowhere_else(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "raw").write_bytes(b"\0" * 64)

    def made(name: str, write: object) -> Path:
        with h5py.File(tmp_path / name, "w") as file:
            file.attrs["model_config"] = json.dumps(keras_config(DENSE))
            write(file)  # type: ignore[operator]
        return tmp_path / name

    check_hdf5(made("good", lambda file: file.create_dataset("g/w", data=np.zeros(3))), Limits(), whole=True)
    bad = {
        "link": lambda file: file.__setitem__("w", h5py.ExternalLink("/etc/passwd", "/")),
        "soft": lambda file: file.__setitem__("w", h5py.SoftLink("/g")),
        "elsewhere": lambda file: file.create_dataset("w", (8,), "f8", external=[(str(tmp_path / "raw"), 0, 64)]),
        "huge": lambda file: file.create_dataset("w", (1 << 40,), "f8", chunks=(1024,)),
    }
    for name, write in bad.items():
        with pytest.raises(UploadError, match=r"a link|in other files|declares more numbers"):
            check_hdf5(made(name, write), Limits(), whole=True)
    with pytest.raises(UploadError, match="cannot be read"):
        check_hdf5(tmp_path / "raw", Limits(), whole=True)


def test_safetensors_are_read_as_they_were_written() -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((0, 4), np.float32)}
    found = read_safetensors(safetensors(arrays))
    assert all((found[name] == array).all() and found[name].shape == array.shape for name, array in arrays.items())


@pytest.mark.parametrize(
    "one",
    [
        {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]},
        {"dtype": "O", "shape": [1], "data_offsets": [0, 4]},
        {"shape": [1]},
        "text",
    ],
)
def test_safetensors_that_lie_are_refused(one: object) -> None:
    with pytest.raises(UploadError, match="'w' in the safetensors file"):
        read_safetensors(safetensors({"w": np.zeros(1)}, head={"w": one}))


def test_a_skops_file_makes_nothing_that_is_not_known_to_be_data() -> None:
    skops = pytest.importorskip("skops.io")
    from sklearn.preprocessing import FunctionTransformer

    def schema(module: str, kind: str, loader: str, **more: object) -> bytes:
        head = {"__class__": kind, "__module__": module, "__loader__": loader, "__id__": 1, "protocol": 2}
        return zipped({"schema.json": json.dumps(head | {"_skops_version": "0.13"} | more).encode()})

    text = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": '"x"', "is_json": True}
    bad = {
        "posix.system": skops.dumps(FunctionTransformer(func=os.system)),
        "functools.partial": skops.dumps({"a": functools.partial(os.system, "true")}),
        "subprocess.Popen": schema("subprocess", "Popen", "ObjectNode", content=None),
        "malicious file": schema(
            "subprocess", "Popen", "MethodNode", content={"func": "x", "obj": text | {"__id__": 3}}
        ),
        "cannot be read": zipped({"schema.json": b'{"a":' * 50_000 + b"1" + b"}" * 50_000}),
    }
    for words, data in bad.items():
        with NamedTemporaryFile(suffix=".skops") as file:
            Path(file.name).write_bytes(data)
            with pytest.raises(UploadError, match=words):
                load_skops(Path(file.name))


def test_params_are_read_in_both_spellings() -> None:
    snake = read_params(b'{"name": "n", "input_node": "a", "output_node": "b", "img_channels": 3, "own": [1]}')
    camel = read_params(b'{"name": "n", "inputNode": "a", "outputNode": "b", "imgChannels": 3}')
    assert snake == camel
    assert (snake.input_node, snake.output_node, snake.img_channels) == ("a", "b", 3)
    for bad in (b"[1]", b"{", b'{"name": 3}', b"\xff"):
        with pytest.raises(UploadError, match=r"params\.json cannot be read"):
            read_params(bad)


def test_labels_are_lines_or_a_list() -> None:
    assert read_labels(b"cat\ndog\n\n") == read_labels(b'["cat", "dog"]') == ("cat", "dog")


def test_a_form_of_tfaas_is_an_upload() -> None:
    fields = {"name": b"net", "params": b'{"name": "net"}', "model": b"\x08", "labels": b"a\nb\n"}
    upload = Upload.form(fields)
    assert (upload.name, upload.model, set(upload.beside)) == ("net", b"\x08", {"params.json", "labels.txt"})
    assert Upload.form(fields | {"op": b"x"}) == upload
    ours = Upload.form({"model": b"\x08", "spec": b"{}", "settings": b"[]"})
    assert ours.beside == {"spec.json": b"{}", "settings.json": b"[]"}
    for change, words in [
        ({"model": b""}, "no field 'model'"),
        ({"name": b"other"}, "must be equal"),
        ({"modle": b"x"}, "did you mean 'model'"),
    ]:
        with pytest.raises(UploadError, match=words):
            Upload.form(fields | change)
