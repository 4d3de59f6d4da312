"""A plain graph, no bundle: one input and one output of each datatype."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx import TensorProto, helper

TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
LABELS = ("background", "signal")


def write_plain_graph(
    folder: Path, *, name: str = "plain", max_batch_size: int = 8, words: Iterable[str] = tuple(TYPES)
) -> Path:
    """``folder/name/1/model.onnx``, whose outputs ``same_x`` are its inputs ``x``, [n, 2] each."""
    words = list(words)
    nodes = [helper.make_node("Identity", [word], [f"same_{word}"]) for word in words]
    ends = [
        [helper.make_tensor_value_info(f"{head}{word}", TYPES[word], ["n", 2]) for word in words]
        for head in ("", "same_")
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", *ends), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    (folder / name / "1").mkdir(parents=True)
    onnx.save(model, folder / name / "1" / "model.onnx")
    labelled = 'output [ { name: "same_FP32" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" } ]\n'
    config = f"max_batch_size: {max_batch_size}\n" + (labelled if "FP32" in words else "")
    (folder / name / "config.pbtxt").write_text(config)
    (folder / name / "labels.txt").write_text("\n".join(LABELS))
    return folder / name
