"""TensorFlow's graphs, looked through without TensorFlow: which operations a SavedModel or a frozen graph is made of.

A graph is a program that may read and write files. Invariant: what can be reached from the model's answers is on a list
of arithmetic; beside it stands only how SavedModels store their variables and how they learned, which is not reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mlaas4hep.convert import wire
from mlaas4hep.errors import UploadError

_ARITHMETIC = """
Abs Acos Acosh Add AddN AddV2 All Any ArgMax ArgMin Asin Asinh Atan Atan2 Atanh AvgPool AvgPool3D BatchMatMul
BatchMatMulV2 BatchMatMulV3 BatchToSpaceND BiasAdd BiasAddV1 BroadcastArgs BroadcastTo Cast Ceil ClipByValue Concat
ConcatV2 Const Conv2D Conv2DBackpropInput Conv3D Cos Cosh Cumprod Cumsum DepthToSpace DepthwiseConv2dNative Div
DivNoNan Einsum Elu Equal Erf Erfc Exp ExpandDims Expm1 FakeQuantWithMinMaxVars Fill Floor FloorDiv FloorMod
FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 Gather GatherNd GatherV2 Greater GreaterEqual Identity IdentityN
IsFinite IsInf IsNan L2Loss LRN LeakyRelu Less LessEqual Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr MatMul
MatrixDiag Max MaxPool MaxPool3D MaxPoolV2 Maximum Mean Min Minimum MirrorPad Mod Mul MulNoNan Neg NoOp NotEqual
OneHot OnesLike Pack Pad PadV2 ParallelConcat Pow PreventGradient Prod Rank RealDiv Reciprocal Relu Relu6 Reshape
ResizeBilinear ResizeNearestNeighbor ReverseSequence ReverseV2 Rint Round Rsqrt ScatterNd Select SelectV2 Selu Shape
ShapeN Sigmoid Sign Sin Sinh Size Slice Snapshot Softmax Softplus Softsign SpaceToBatchND SpaceToDepth Split SplitV
Sqrt Square SquaredDifference Squeeze StopGradient StridedSlice Sub Sum Tan Tanh TensorScatterAdd
TensorScatterUpdate Tile TopK TopKV2 Transpose TruncateDiv Unpack Where Xdivy Xlogy ZerosLike
"""
# How a SavedModel holds and reads its variables, and calls its functions.
_STRUCTURE = """
Placeholder PlaceholderWithDefault VarHandleOp ReadVariableOp ResourceGather VarIsInitializedOp AssignVariableOp
PartitionedCall StatefulPartitionedCall DisableCopyOnRead VariableV2 Variable Assign IsVariableInitialized
"""
# How every SavedModel stores and restores itself; never part of an answer.
_SAVER = """
SaveV2 RestoreV2 ShardedFilename MergeV2Checkpoints StaticRegexFullMatch StringJoin
"""
# What networks do while they learn, which Keras 2 stores beside what they answer; never part of an answer either.
_LEARNING = """
AssignAddVariableOp AssignSubVariableOp RandomShuffle RandomStandardNormal RandomUniform RandomUniformInt
StatelessRandomGetAlg StatelessRandomGetKeyCounter StatelessRandomGetKeyCounterAlg StatelessRandomNormalV2
StatelessRandomUniformFullIntV2 StatelessRandomUniformIntV2 StatelessRandomUniformV2 StatelessTruncatedNormalV2
TruncatedNormal
"""
REACHED = frozenset(_ARITHMETIC.split()) | frozenset(_STRUCTURE.split())
BESIDE = REACHED | frozenset(_SAVER.split()) | frozenset(_LEARNING.split())
_MAX_NODES = 500_000
_MAX_FUNCTIONS = 20_000
_WAYS = (
    (
        "reads or writes files",
        ("File", "Read", "Write", "Save", "Restore", "Matching", "Record", "TextLine", "Checkpoint"),
    ),
    ("runs code of Python or of a library", ("PyFunc", "EagerPyFunc", "Custom", "Library", "XlaCallModule", "Remote")),
    ("draws random numbers", ("Random", "Multinomial", "Dropout")),
    ("branches or loops", ("If", "While", "Switch", "Merge", "Loop", "For", "Case", "NextIteration", "Exit")),
)


@dataclass(slots=True)
class _Node:
    kind: str
    inputs: tuple[str, ...]
    calls: tuple[str, ...]


@dataclass(slots=True)
class _Graph:
    nodes: dict[str, _Node] = field(default_factory=dict)
    functions: dict[str, list[_Node]] = field(default_factory=dict)


def check_saved_model(data: bytes) -> dict[str, str]:
    """Look through ``saved_model.pb``.

    Returns
    -------
    Inputs of its ``serving_default`` by name with their tensors.

    Raises
    ------
    UploadError
        It holds an operation that is not on the list, no such signature, or several graphs.
    """
    with _told():
        metas = wire.all_of(data, 2)
        serving = [meta for meta in metas if _has_tag(meta, "serve")]
        if len(serving) != 1:
            raise UploadError(f"the SavedModel holds {len(serving)} graphs with the tag 'serve', wants one")
        for meta in metas:
            if meta is not serving[0]:
                raise UploadError("the SavedModel holds further graphs beside that with the tag 'serve'; save one")
        signatures = dict(_map(serving[0], 5))
        if "serving_default" not in signatures:
            known = ", ".join(sorted(signatures)) or "none"
            raise UploadError(f"the SavedModel has no signature 'serving_default'; it has: {known}")
        signature = signatures["serving_default"]
        graph = _parsed(wire.all_of(serving[0], 2))
        outputs = [wire.text_of(value, 1) for _, value in _map(signature, 2)]
        _check(graph, outputs)
        return {name: wire.text_of(value, 1) for name, value in _map(signature, 1)}


def check_frozen(data: bytes, inputs: Iterable[str], outputs: Iterable[str]) -> tuple[str, ...]:
    """Look through a frozen graph; gives the names of its placeholders. `UploadError` as `check_saved_model`."""
    with _told():
        graph = _parsed([memoryview(data)])
        for node in graph.nodes.values():
            _require(node.kind, REACHED)
        for name in (*inputs, *outputs):
            if name.partition(":")[0] not in graph.nodes:
                known = ", ".join(list(graph.nodes)[-5:])
                raise UploadError(f"the frozen graph has no node '{name[:80]}'; its last ones are {known}")
        _check(graph, list(outputs))
        return tuple(name for name, node in graph.nodes.items() if node.kind == "Placeholder")


def likely_outputs(data: bytes) -> tuple[str, ...]:
    """Nodes of a frozen graph that no other node takes, and that give something."""
    with _told():
        graph = _parsed([memoryview(data)])
    taken = {_bare(name) for node in graph.nodes.values() for name in node.inputs if not name.startswith("^")}
    return tuple(name for name, node in graph.nodes.items() if name not in taken and node.kind not in ("NoOp", "Const"))


class _told:
    """What is no message is told as an upload that cannot be read."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, wire.NotAMessage):
            raise UploadError(f"the graph of TensorFlow cannot be read: {error}") from error


def _has_tag(meta: memoryview, tag: str) -> bool:
    return any(bytes(one) == tag.encode() for info in wire.all_of(meta, 1) for one in wire.all_of(info, 4))


def _map(message: memoryview, number: int) -> Iterator[tuple[str, memoryview]]:
    """Entries of a field that is a map from text."""
    for entry in wire.all_of(message, number):
        for value in wire.all_of(entry, 2)[-1:]:
            yield wire.text_of(entry, 1), value


def _parsed(graphs: Iterable[memoryview]) -> _Graph:
    found = _Graph()
    for message in graphs:
        for node in wire.all_of(message, 1):
            found.nodes[wire.text_of(node, 1)] = _node(node)
            if len(found.nodes) > _MAX_NODES:
                raise UploadError(f"the graph has more than {_MAX_NODES} nodes")
        for library in wire.all_of(message, 2):
            for function in wire.all_of(library, 1):
                name = "".join(wire.text_of(signature, 1) for signature in wire.all_of(function, 1))
                found.functions[name] = [_node(node) for node in wire.all_of(function, 3)]
                if len(found.functions) > _MAX_FUNCTIONS:
                    raise UploadError(f"the graph has more than {_MAX_FUNCTIONS} functions")
    return found


def _node(message: memoryview) -> _Node:
    inputs = tuple(bytes(one).decode(errors="replace") for one in wire.all_of(message, 3))
    calls = tuple(name for _, value in _map(message, 5) for name in _functions_of(value))
    return _Node(wire.text_of(message, 2), inputs, calls)


def _functions_of(value: memoryview) -> Iterator[str]:
    """Functions that an attribute names, alone or in a list."""
    for function in wire.all_of(value, 10):
        yield wire.text_of(function, 1)
    for listed in wire.all_of(value, 1):
        for function in wire.all_of(listed, 9):
            yield wire.text_of(function, 1)


def _bare(name: str) -> str:
    return name.removeprefix("^").partition(":")[0]


def _check(graph: _Graph, outputs: Iterable[str]) -> None:
    """Everything that answers reach is arithmetic; everything else at most stores the model."""
    waiting, seen, called = [_bare(name) for name in outputs], set[str](), list[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in graph.nodes:
            continue
        seen.add(name)
        node = graph.nodes[name]
        _require(node.kind, REACHED | graph.functions.keys())
        waiting.extend(_bare(one) for one in node.inputs)
        called.extend((*node.calls, node.kind))
    entered = set[str]()
    while called:
        name = called.pop()
        if name in entered or name not in graph.functions:
            continue
        entered.add(name)
        for node in graph.functions[name]:
            _require(node.kind, REACHED | graph.functions.keys())
            called.extend((*node.calls, node.kind))
    for nodes in (graph.nodes.values(), *graph.functions.values()):
        for node in nodes:
            _require(node.kind, BESIDE | graph.functions.keys())


def _require(kind: str, allowed: Iterable[str]) -> None:
    if kind not in allowed:
        reason = next((f", which {what}" for what, words in _WAYS if any(word in kind for word in words)), "")
        raise UploadError(
            f"the graph holds the operation {kind[:80]}{reason}; a model is taken that only computes: export the "
            "network alone, without reading, writing or preprocessing in Python, or send ONNX"
        )
