"""Plain entries, without our contract: any graph in canonical form, and the ``config.pbtxt`` that goes with it.

Invariant: the canonical form computes the same bits as the graph it was made of, and equal graphs give equal bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx
from onnx import shape_inference

from mlaas4hep.bundle.layout import MAX_BATCH_SIZE
from mlaas4hep.convert.result import Tensor
from mlaas4hep.errors import ModelError, UploadError
from mlaas4hep.graph.canonical import canonicalise
from mlaas4hep.graph.merge import oldest_ir

_NAME = re.compile(r"[A-Za-z0-9_.:/\-\[\] ]{1,200}\Z")


def canonical_plain(model: onnx.ModelProto) -> bytes:
    """Canonical bytes; unlike in a bundle's graph, dimensions stay as they are declared.

    Raises
    ------
    UploadError
        The graph contradicts itself, or an input has no declared shape.
    """
    check_ends(model.graph)
    try:
        if any(not end.type.tensor_type.HasField("shape") for end in model.graph.output):
            model = shape_inference.infer_shapes(model)
        done = canonicalise(model)
        stored = {tensor.name for tensor in model.graph.initializer}
        _keep_shapes(done.graph.input, [end for end in model.graph.input if end.name not in stored])
        _keep_shapes(done.graph.output, model.graph.output)
        opsets = [one.version for one in done.opset_import if one.domain == ""]
        done.ir_version = oldest_ir(max(opsets, default=1))
        if any(not end.type.tensor_type.HasField("shape") for end in done.graph.output):
            raise ModelError("an output declares no shape, and none follows; export it with one, such as ['N', 1]")
        onnx.checker.check_model(done, full_check=True)
    except ModelError as error:
        raise UploadError(str(error)) from error
    except Exception as error:  # the checker's and numpy's exceptions of a graph that contradicts itself
        raise UploadError(f"the graph contradicts itself: {str(error).strip()[:300]}") from error
    data: bytes = done.SerializeToString(deterministic=True)
    return data


def check_ends(graph: onnx.GraphProto) -> None:
    """`UploadError` where an input or output is no tensor, or cannot be asked for by its name."""
    ends = [*graph.input, *graph.output]
    if not graph.output:
        raise UploadError("the graph has no output")
    for end in ends:
        if not end.type.HasField("tensor_type"):
            raise UploadError(f"'{end.name[:80]}' is no tensor (export classifiers without ZipMap: zipmap=False)")
        if not _NAME.match(end.name):
            raise UploadError(f"an input or output is called {end.name[:80]!r}, by which nobody can ask; rename it")
    for end in graph.input:
        if not end.type.tensor_type.HasField("shape"):
            raise UploadError(f"input '{end.name}' declares no shape; export it with one, such as ['N', 27]")


def _keep_shapes(done: Sequence[onnx.ValueInfoProto], given: Sequence[onnx.ValueInfoProto]) -> None:
    for bare, end in zip(done, given, strict=True):
        kind = bare.type.tensor_type
        kind.ClearField("shape")
        if not end.type.tensor_type.HasField("shape"):
            continue
        kind.shape.SetInParent()
        for position, size in enumerate(end.type.tensor_type.shape.dim):
            dim = kind.shape.dim.add()
            if size.HasField("dim_value") and size.dim_value > 0:
                dim.dim_value = size.dim_value
            elif position == 0:
                dim.dim_param = "N"


def plain_config(name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, batches: bool) -> bytes:
    """``config.pbtxt`` of a plain entry.

    ``max_batch_size`` is 0 where rows may not be joined; dimensions are then given whole. Without ``dynamic_batching``
    Triton joins nothing either.
    """
    blocks = [
        f'name: "{name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {MAX_BATCH_SIZE if batches else 0}",
        _block("input", inputs, batches),
        _block("output", outputs, batches),
        "instance_group [ { kind: KIND_CPU count: 1 } ]",
        'parameters { key: "intra_op_thread_count" value: { string_value: "1" } }',
    ]
    if batches:
        blocks.append("dynamic_batching { max_queue_delay_microseconds: 2000 }")
    return "\n".join([*blocks, ""]).encode()


def _block(word: str, ends: Sequence[Tensor], batches: bool) -> str:
    return f"{word} [\n" + ",\n".join(_end(end, batches) for end in ends) + "\n]"


def _end(end: Tensor, batches: bool) -> str:
    shape = end.shape[1:] if batches else end.shape
    kind = "STRING" if end.datatype == "BYTES" else end.datatype
    # A configuration has at least one dimension; the graph may have none.
    scalar = "" if shape else " reshape: { shape: [ ] }"
    dims = ", ".join(map(str, shape or (1,)))
    return f'  {{ name: "{end.name}" data_type: TYPE_{kind} dims: [ {dims} ]{scalar} }}'
