"""Uploads that mean harm, or would if they were opened the usual way: made here, harmless where they are refused.

Each pickle writes a file where it is run, so that a test can see that none was.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Mark:
    """Pickled, it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str, str], object], tuple[str, str]]:
        return open, (str(self.path), "w")


def zipped(files: Mapping[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: Mapping[str, bytes], *, mode: str = "w:gz") -> bytes:
    """A tar of these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def tar_member(kind: bytes, name: str = "link", target: str = "/etc/passwd") -> bytes:
    """A tar with one member that is no file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        archive.addfile(info)
    return buffer.getvalue()


def pickles(mark: Path) -> dict[str, bytes]:
    """The same pickle in every disguise."""
    import bz2
    import gzip
    import lzma
    import zlib

    plain = pickle.dumps(Mark(mark), protocol=4)
    array = io.BytesIO()
    np.save(array, np.array([Mark(mark)], object), allow_pickle=True)
    compiled = zipped({"m/code/__torch__.py": b"def forward(self): ...", "m/data.pkl": plain, "m/constants.pkl": plain})
    return {
        "protocol 0": pickle.dumps(Mark(mark), protocol=0),
        "protocol 2": pickle.dumps(Mark(mark), protocol=2),
        "protocol 5": pickle.dumps(Mark(mark), protocol=5),
        "gzip": gzip.compress(plain),
        "zlib (joblib)": zlib.compress(plain),
        "bz2": bz2.compress(plain),
        "xz": lzma.compress(plain),
        "array of objects": array.getvalue(),
        "torch.save": zipped({"m/data.pkl": plain, "m/version": b"3\n", "m/data/0": b"\0" * 8}),
        "TorchScript": compiled,
        "under another name in a tar": tarred({"m/params.json": b"{}", "m/saved_model.pb": plain}),
        "beside a model in a zip": zipped({"model.txt": b"tree\n", "labels.txt": plain}),
        "in a zip in a tar": tarred({"m/weights.keras": zipped({"config.json": plain})}),
        "as weights of a Keras file": zipped({"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": plain}),
        "as member of a skops file": zipped({"schema.json": b"{}", "1.npy": array.getvalue()}),
    }


def torch_export() -> bytes:
    """A ``.pt2`` as torch.export writes it: no pickle inside, and yet its loader may be told to unpickle."""
    return zipped({"m/archive_format": b"pt2", "m/models/model.json": b"{}", "m/data/weights/weight_0": b"\0" * 8})


def message(number: int, content: bytes | str | int) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    content = content.encode() if isinstance(content, str) else content
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def node_def(name: str, operation: str, *inputs: str, calls: str = "") -> bytes:
    """A node of TensorFlow's GraphDef."""
    data = message(1, name) + message(2, operation) + b"".join(message(3, one) for one in inputs)
    if calls:
        data += message(5, message(1, "f") + message(2, message(10, message(1, calls))))
    return data


def graph_def(*nodes: bytes, functions: Mapping[str, list[bytes]] | None = None) -> bytes:
    """A GraphDef."""
    data = b"".join(message(1, node) for node in nodes)
    library = b"".join(
        message(1, message(1, message(1, name)) + b"".join(message(3, node) for node in body))
        for name, body in (functions or {}).items()
    )
    return data + (message(2, library) if library else b"")


def saved_model(graph: bytes, *, output: str = "y") -> bytes:
    """``saved_model.pb`` with one signature from x to an output."""
    ends = message(1, message(1, "x") + message(2, message(1, "x:0")))
    ends += message(2, message(1, "scores") + message(2, message(1, f"{output}:0")))
    meta = message(1, message(4, "serve")) + message(2, graph)
    meta += message(5, message(1, "serving_default") + message(2, ends))
    return message(1, 1) + message(2, meta)


def onnx_model(
    *nodes: onnx.NodeProto,
    initialisers: tuple[onnx.TensorProto, ...] = (),
    shape: tuple[int | str, ...] = ("N", 4),
    opset: int = 18,
    domains: tuple[str, ...] = (),
) -> onnx.ModelProto:
    """A model from x to y."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        list(initialisers),
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(one, 1) for one in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def small_network(*, seed: int = 0, width: int = 4, outputs: int = 2) -> onnx.ModelProto:
    """A real one: MatMul, Relu, MatMul, Softmax."""
    random = np.random.default_rng(seed)
    weights = [random.normal(size=size).astype(np.float32) for size in ((width, 8), (8, outputs))]
    tensors = tuple(numpy_helper.from_array(one, f"w{at}") for at, one in enumerate(weights))
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w1"], ["c"]),
        helper.make_node("Softmax", ["c"], ["y"], axis=1),
    ]
    return onnx_model(*nodes, initialisers=tensors, shape=("N", width))


def external(path: str) -> onnx.ModelProto:
    """A model whose weights lie in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=path)
    return onnx_model(helper.make_node("MatMul", ["x", "w"], ["y"]), initialisers=(tensor,))


def keras_file(config: object) -> bytes:
    """A ``.keras`` file with this description and no weights to speak of."""
    return zipped(
        {"config.json": json.dumps(config).encode(), "metadata.json": b"{}", "model.weights.h5": b"\x89HDF\r\n\x1a\n"}
    )


def keras_config(layer: Mapping[str, object]) -> dict[str, object]:
    """The description of a sequential model with one layer."""
    inner = {"name": "s", "layers": [layer]}
    return {"module": "keras", "class_name": "Sequential", "config": inner, "registered_name": None}


def safetensors(arrays: Mapping[str, np.ndarray], *, head: Mapping[str, object] | None = None) -> bytes:  # type: ignore[type-arg]
    """A safetensors file; ``head`` replaces what it says of itself."""
    told: dict[str, object] = {}
    data = b""
    for name, array in arrays.items():
        raw = np.ascontiguousarray(array, "<f4").tobytes()
        told[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(told if head is None else head).encode()
    return struct.pack("<Q", len(text)) + text + data
