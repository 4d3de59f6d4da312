"""Pictures made by Pillow and graphs that take them, for the tests of the inference layer."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

IMAGENET = """
layout: CHW
colour: RGB
resize: bilinear
fit: crop
shorter: 10
divide_by: 255
mean: [0.485, 0.456, 0.406]
std: [0.229, 0.224, 0.225]
"""


def make_pixels(height: int = 12, width: int = 16, *, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Random ones with some structure, uint8 [height, width, channels], without the last axis where it is 1."""
    random = np.random.default_rng(seed)
    slope = np.add.outer(np.arange(height) * 9, np.arange(width) * 5)[..., None]
    pixels = (slope + random.integers(0, 90, (height, width, channels))) % 256
    return pixels.astype(np.uint8).squeeze(-1) if channels == 1 else pixels.astype(np.uint8)


def encode(image: Image.Image | NDArray[np.uint8], format: str = "PNG", **options: Any) -> bytes:
    """The bytes of a picture file."""
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, format, **options)
    return stream.getvalue()


def write_image_graph(
    folder: Path,
    shape: Sequence[int | str] = ("n", 3, 8, 8),
    *,
    declared: str | None = IMAGENET,
    max_batch_size: int = 8,
    kind: int = TensorProto.FLOAT,
    labels: Sequence[str] = (),
) -> Path:
    """``folder/1/model.onnx``: ``same`` is the image ``x``; with ``labels``, ``means`` of its channels."""
    node = helper.make_node("Identity", ["x"], ["same"])
    output = helper.make_tensor_value_info("same", kind, shape)
    config = f"max_batch_size: {max_batch_size}\n"
    (folder / "1").mkdir(parents=True)
    if labels:
        node = helper.make_node("ReduceMean", ["x"], ["means"], axes=[2, 3], keepdims=0)
        output = helper.make_tensor_value_info("means", kind, [shape[0], len(labels)])
        config += 'output [ { name: "means" label_filename: "labels.txt" } ]\n'
        (folder / "labels.txt").write_text("\n".join(labels))
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", kind, shape)], [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "1" / "model.onnx")
    (folder / "config.pbtxt").write_text(config)
    if declared is not None:
        (folder / "image.yaml").write_text(declared)
    return folder / "1"
