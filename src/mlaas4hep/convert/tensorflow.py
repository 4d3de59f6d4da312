"""SavedModels and frozen graphs by TensorFlow and tf2onnx, after `graphdef` has looked through them.

Both packages are an extra of their own; they are loaded in the confined process only. Invariant: TensorFlow sees no
graph that holds an operation off the list.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep.convert.graphdef import check_frozen, check_saved_model, likely_outputs
from mlaas4hep.convert.made import VALUE_BAR, Arrays, Asked, Made, versions_of
from mlaas4hep.errors import MissingExtraError, UploadError
from mlaas4hep.graph.core import OPSET

_CONVERTER = "tf2onnx"


def convert_saved_model(folder: Path, asked: Asked) -> Made:
    """A SavedModel by its signature ``serving_default``."""
    check_saved_model((folder / "saved_model.pb").read_bytes())
    tf, tf2onnx = _packages()
    try:
        loaded = tf.saved_model.load(str(folder))
        function = loaded.signatures["serving_default"]
    except Exception as error:  # TensorFlow's exceptions of a damaged SavedModel share no base class
        raise UploadError(f"TensorFlow cannot load the SavedModel: {_first(error)}") from error
    frozen = _frozen(function)
    inputs = [one.name for one in frozen.inputs]
    keys = [name.partition(":")[0] for name in inputs]
    names = list(function.structured_outputs)
    model = _onnx(tf2onnx, frozen.graph.as_graph_def(), inputs, [one.name for one in frozen.outputs])
    given = sorted(names)  # TensorFlow flattens a dictionary by its sorted keys

    def reference(arrays: Arrays) -> Arrays:
        found = function(**{key: tf.constant(arrays[key]) for key in keys})
        return {name: np.asarray(found[name].numpy()) for name in given}

    return _made(_renamed(model, keys, given), reference)


def convert_frozen(path: Path, asked: Asked) -> Made:
    """A frozen graph between the nodes that ``params.json`` names, or its only placeholder and its only end."""
    data = path.read_bytes()
    wanted_in, wanted_out = (_listed(one) for one in (asked.params.input_node, asked.params.output_node))
    placeholders = check_frozen(data, wanted_in, wanted_out)
    inputs, outputs = wanted_in or placeholders, wanted_out or likely_outputs(data)
    if (not wanted_in and len(inputs) != 1) or (not wanted_out and len(outputs) != 1):
        raise UploadError(
            f"the frozen graph has the inputs {', '.join(inputs) or 'none'} and the ends "
            f"{', '.join(outputs[:5]) or 'none'}: "
            'say in params.json which are meant: {"input_node": "...", "output_node": "..."}'
        )
    tf, tf2onnx = _packages()
    graph_def = tf.compat.v1.GraphDef()
    graph_def.ParseFromString(data)
    tensors_in, tensors_out = ([_tensor(name) for name in names] for names in (inputs, outputs))
    model = _onnx(tf2onnx, graph_def, tensors_in, tensors_out)
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(graph_def, name="")
    names_in, names_out = [name.partition(":")[0] for name in inputs], [name.partition(":")[0] for name in outputs]

    def reference(arrays: Arrays) -> Arrays:
        with tf.compat.v1.Session(graph=graph) as session:
            feed = {tensor: arrays[name] for tensor, name in zip(tensors_in, names_in, strict=True)}
            return dict(zip(names_out, session.run(tensors_out, feed), strict=True))

    return _made(_renamed(model, names_in, names_out), reference)


def _packages() -> tuple[Any, Any]:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    try:
        import tensorflow as tf
        import tf2onnx
    except ImportError as error:
        missing = "tf2onnx" if "tf2onnx" in str(error) else "tensorflow"
        raise MissingExtraError(missing, "savedmodel", "a SavedModel or a frozen graph of TensorFlow") from error
    return tf, tf2onnx


def _frozen(function: Any) -> Any:
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(function)


def _onnx(tf2onnx: Any, graph_def: Any, inputs: list[str], outputs: list[str]) -> Any:
    try:
        return tf2onnx.convert.from_graph_def(graph_def, input_names=inputs, output_names=outputs, opset=OPSET)[0]
    except Exception as error:  # tf2onnx raises what its handlers do
        raise UploadError(f"tf2onnx cannot convert the graph: {_first(error)}") from error


def _renamed(model: Any, inputs: list[str], outputs: list[str]) -> bytes:
    """The ends under the names of the signature, without TensorFlow's ``:0``."""
    old = [end.name for end in (*model.graph.input, *model.graph.output)]
    names = dict(zip(old, [*inputs, *outputs], strict=True))
    for node in model.graph.node:
        for place in (node.input, node.output):
            for at, name in enumerate(place):
                place[at] = names.get(name, name)
    for end in (*model.graph.input, *model.graph.output):
        end.name = names[end.name]
    return bytes(model.SerializeToString(deterministic=True))


def _made(model: bytes, reference: Any) -> Made:
    return Made(
        model=model,
        reference=reference,
        bar=VALUE_BAR,
        framework="TensorFlow",
        converter=_CONVERTER,
        versions=versions_of("tensorflow-cpu", "tensorflow", "tf2onnx"),
    )


def _listed(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


def _tensor(name: str) -> str:
    return name if ":" in name else f"{name}:0"


def _first(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300] if str(error).strip() else ''}"
