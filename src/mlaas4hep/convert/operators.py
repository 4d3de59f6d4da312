"""The white list of operators, and what else a graph must keep to before anything is built from it.

Invariant: a model that passes computes with listed operators of ONNX's own domains only, keeps all of its numbers
inside its file, and declares no tensor that is larger than what the file holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
import onnx
from onnx import helper, inliner

from mlaas4hep.errors import UploadError, nearest
from mlaas4hep.graph.merge import MAX_OPSET

ML = "ai.onnx.ml"
_STANDARD = """
Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift
BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike Ceil Celu CenterCropPad Clip Col2Im Compress
Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumSum DFT DepthToSpace DequantizeLinear Det
Div DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND
Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization
HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN LSTM
LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max MaxPool
MaxRoiPool MaxUnpool Mean MeanVarianceNormalization MelWeightMatrix Min Mish Mod Mul Neg NonMaxSuppression NonZero
Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RNN Range Reciprocal ReduceL1 ReduceL2
ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
ReverseSequence RMSNormalization RoiAlign Round STFT ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin
Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu
Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where Xor
"""
_OF_ML = """
ArrayFeatureExtractor Binarizer FeatureVectorizer Imputer LabelEncoder LinearClassifier LinearRegressor Normalizer
OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor
"""
DEFAULT = frozenset(_STANDARD.split()) | {f"{ML}:{name}" for name in _OF_ML.split()}
DOMAINS = frozenset({"", "ai.onnx", ML})
# What the rest of a model may be declared as; sequences, maps and optional values have no place in a tensor protocol.
_MAX_NODES = 200_000
_MAX_RANK = 16
_STRING = onnx.TensorProto.STRING
_TYPED: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float_data",
    onnx.TensorProto.DOUBLE: "double_data",
    onnx.TensorProto.INT64: "int64_data",
    onnx.TensorProto.UINT64: "uint64_data",
    onnx.TensorProto.UINT32: "uint64_data",
}


class Operators(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Operators that a server takes: ``Relu`` of ONNX's own domain, ``ai.onnx.ml:Scaler`` of that for classical models.

    Parameters
    ----------
    allowed
        By name; branches and loops (``If``, ``Loop``, ``Scan``), random numbers, sequences and text are not among them.

    Examples
    --------
    >>> narrow = Operators().narrowed(["Conv", "Relu"])
    >>> sorted(narrow.allowed)
    ['Conv', 'Relu']
    >>> "Bernoulli" in Operators().extended(["Bernoulli"]).allowed
    True
    """

    allowed: frozenset[str] = DEFAULT

    def narrowed(self, names: Iterable[str]) -> Operators:
        """Those of the names that are allowed already."""
        return Operators(self.allowed & frozenset(names))

    def extended(self, names: Iterable[str]) -> Operators:
        """These as well; `UploadError` for one of another domain than ONNX's own."""
        names = frozenset(names)
        for name in sorted(names):
            domain = name.rpartition(":")[0]
            if domain not in DOMAINS:
                raise UploadError(f"operators of the domain '{domain}' are code of others; they are never run here")
        return Operators(self.allowed | names)


def check_graph(data: bytes, operators: Operators, *, most: int, functions: bool = True) -> onnx.ModelProto:
    """A model that keeps to the rules, local functions written out; refused for having any where not ``functions``.

    Raises
    ------
    UploadError
        With the first rule that it breaks, and what to do.
    """
    if len(data) > most:
        raise UploadError(f"the graph has {len(data)} bytes; at most {most} are taken")
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(data)
    except Exception as error:  # protobuf's own exceptions have no stable home
        raise UploadError(f"the upload is no ONNX model that can be read: {error}") from error
    if model.functions and not functions:
        raise UploadError("the graph holds functions of its own")
    try:
        return _checked(model, operators)
    except TypeError as error:  # names that are no text are given as bytes
        raise UploadError(f"the graph has a name that is no text: {error}") from error


def _checked(model: onnx.ModelProto, operators: Operators) -> onnx.ModelProto:
    _check_opsets(model)
    if model.functions:
        _check_nodes(_nodes_of_functions(model), operators, own={one.name for one in model.functions})
        _check_size_written_out(model)
        model = _inlined(model)
    if len(model.graph.node) > _MAX_NODES:
        raise UploadError(f"the graph has {len(model.graph.node)} nodes; at most {_MAX_NODES} are taken")
    _check_nodes(model.graph.node, operators)
    if model.graph.sparse_initializer:
        raise UploadError("the graph holds sparse tensors, which are not taken; store them densely")
    for tensor in _tensors(model.graph):
        _check_tensor(tensor)
    return model


def _check_opsets(model: onnx.ModelProto) -> None:
    versions = [one.version for one in model.opset_import if one.domain in ("", "ai.onnx")]
    if max(versions, default=1) > MAX_OPSET:
        raise UploadError(f"the graph has opset {max(versions)}; at most {MAX_OPSET} is taken, export it with 18")


def _nodes_of_functions(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for function in model.functions:
        yield from function.node


def _check_size_written_out(model: onnx.ModelProto) -> None:
    """`UploadError` where functions that call others, each twice, would become more nodes than memory has room for."""
    bodies = {(one.domain, one.name): [(node.domain, node.op_type) for node in one.node] for one in model.functions}
    most = len(bodies) + sum(map(len, bodies.values()))
    sizes: dict[tuple[str, str], int] = {}
    stack = list(bodies)
    while stack:
        called = bodies[stack[-1]]
        waiting = [one for one in called if one in bodies and one not in sizes]
        if len(stack) > 2 * most:
            raise UploadError("the graph has local functions that call themselves")
        stack.extend(waiting)
        if not waiting:
            sizes[stack.pop()] = min(sum(sizes.get(one, 1) for one in called), _MAX_NODES + 1)
    if sum(sizes.get((node.domain, node.op_type), 1) for node in model.graph.node) > _MAX_NODES:
        raise UploadError(f"the graph has more than {_MAX_NODES} nodes where its local functions are written out")


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        inlined: onnx.ModelProto = inliner.inline_local_functions(model)
    except Exception as error:  # the checker's exceptions of a graph that contradicts itself
        raise UploadError(f"the graph's local functions cannot be written out: {error}") from error
    return inlined


def _check_nodes(nodes: Iterable[onnx.NodeProto], operators: Operators, own: Iterable[str] = ()) -> None:
    own = frozenset(own)
    for node in nodes:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if node.op_type in own and domain not in DOMAINS:
            continue
        if domain not in DOMAINS:
            raise UploadError(
                f"the graph uses '{node.op_type}' of the domain '{domain}'; only ONNX's own operators are run here: "
                "export without custom or fused operators"
            )
        name = f"{domain}:{node.op_type}" if domain else node.op_type
        if name not in operators.allowed:
            raise UploadError(f"the graph uses the operator {name}, which this server does not take{_why(name)}")
        for attribute in node.attribute:
            if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
                raise UploadError(f"the graph branches or loops ({node.op_type}); export a model without control flow")


def _why(name: str) -> str:
    if name in ("If", "Loop", "Scan", "SequenceMap"):
        return ": it branches or loops; export a model without control flow"
    if name.startswith(("Random", "Bernoulli", "Multinomial", "Dropout")):
        return ": export the model for inference, without random numbers"
    return nearest(name, DEFAULT)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                raise UploadError("the graph holds sparse tensors, which are not taken; store them densely")


def _check_tensor(tensor: onnx.TensorProto) -> None:
    """Dimensions and data of a stored tensor agree, and it is in the file."""
    name = tensor.name[:80] or "a constant"
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise UploadError(
            f"the graph keeps '{name}' in another file; send one file: onnx.save(onnx.load('model.onnx'), 'one.onnx')"
        )
    if len(tensor.dims) > _MAX_RANK or any(size < 0 for size in tensor.dims):
        raise UploadError(f"'{name}' has dimensions {list(tensor.dims)[:_MAX_RANK]}, which no tensor has")
    count = 1
    for size in tensor.dims:
        count *= size
    if not _holds(tensor, count):
        raise UploadError(f"'{name}' says that it has {count} numbers, which is not what the file holds of it")


def _holds(tensor: onnx.TensorProto, count: int) -> bool:
    if tensor.data_type == _STRING:
        return len(tensor.string_data) == count
    try:
        kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except KeyError:
        return False
    if tensor.HasField("raw_data"):
        packed = tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)
        return len(tensor.raw_data) == ((count + 1) // 2 if packed else count * kind.itemsize)
    held = len(getattr(tensor, _TYPED.get(tensor.data_type, "int32_data")))
    if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128):
        return False
    return held == count
