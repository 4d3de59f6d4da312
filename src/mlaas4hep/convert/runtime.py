"""Runs graphs with any inputs on samples, compares answers, and says whether rows may be joined.

Used in the confined process only. Invariant: a difference of NaN, of shape or of kind counts as infinitely large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from mlaas4hep.convert.result import Tensor
from mlaas4hep.errors import ParityError, UploadError

Arrays = Mapping[str, NDArray[Any]]
BATCHES = (1, 2, 7, 64)
_KINDS: dict[str, tuple[str, Any]] = {
    "tensor(float)": ("FP32", np.float32),
    "tensor(double)": ("FP64", np.float64),
    "tensor(float16)": ("FP16", np.float16),
    "tensor(int8)": ("INT8", np.int8),
    "tensor(int16)": ("INT16", np.int16),
    "tensor(int32)": ("INT32", np.int32),
    "tensor(int64)": ("INT64", np.int64),
    "tensor(uint8)": ("UINT8", np.uint8),
    "tensor(uint16)": ("UINT16", np.uint16),
    "tensor(uint32)": ("UINT32", np.uint32),
    "tensor(uint64)": ("UINT64", np.uint64),
    "tensor(bool)": ("BOOL", np.bool_),
    "tensor(string)": ("BYTES", np.object_),
}
# What a free dimension, other than the first, is tried with.
FREE_SIZES = (8, 1, 16, 3, 32)


class Graph:
    """A loaded graph of any inputs and outputs.

    Parameters
    ----------
    model
        Serialised.
    threads
        Inside one operator.

    Raises
    ------
    UploadError
        ONNX Runtime cannot load it, or an end is no tensor of a kind that the protocol has.
    """

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions share no narrower base class
            raise UploadError(f"ONNX Runtime cannot load the graph: {_first(error)}") from error
        self.inputs = tuple(map(_tensor, self._session.get_inputs()))
        self.outputs = tuple(map(_tensor, self._session.get_outputs()))

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """All outputs by name; `UploadError` where the graph fails on them."""
        try:
            found = self._session.run(None, dict(inputs))
        except Exception as error:  # as above
            raise UploadError(f"the graph fails on sample inputs: {_first(error)}") from error
        return {end.name: array for end, array in zip(self.outputs, found, strict=True)}


def _first(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]


def _tensor(end: Any) -> Tensor:
    if end.type not in _KINDS:
        raise UploadError(f"'{end.name}' is {end.type}; only tensors of numbers, truths and text can be asked for")
    shape = tuple(size if isinstance(size, int) else -1 for size in end.shape)
    return Tensor(end.name, _KINDS[end.type][0], shape)


def dtype_of(datatype: str) -> Any:
    """numpy's type of one of the protocol's."""
    return next(kind for word, kind in _KINDS.values() if word == datatype)


def sample(ends: Sequence[Tensor], rows: int, *, free: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Random inputs, always the same: normal numbers, small whole ones; a free first dimension has ``rows``."""
    random = np.random.default_rng(seed)
    found: dict[str, NDArray[Any]] = {}
    for end in ends:
        shape = tuple(size if size >= 0 else rows if at == 0 else free for at, size in enumerate(end.shape))
        if int(np.prod([max(size, 1) for size in shape], dtype=object)) > 1 << 28:
            raise UploadError(f"input '{end.name}' has {list(shape)} numbers, which is more than a request can hold")
        found[end.name] = _random(random, shape, end.datatype)
    return found


def _random(random: np.random.Generator, shape: tuple[int, ...], datatype: str) -> NDArray[Any]:
    if datatype == "BYTES":
        return np.full(shape, "a", np.object_)
    if datatype == "BOOL":
        return random.random(shape) < 0.5
    if datatype.startswith("FP"):
        return random.normal(size=shape).astype(dtype_of(datatype))
    return random.integers(0, 2, shape).astype(dtype_of(datatype))


def largest_difference(found: Arrays, wanted: Arrays) -> float:
    """Largest difference of all outputs: absolute, relative for values above 1; infinite for another shape or kind."""
    worst = 0.0
    for name, asked in wanted.items():
        have = found[name]
        if have.shape != asked.shape:
            return float("inf")
        if not np.issubdtype(have.dtype, np.floating):
            worst = max(worst, 0.0 if np.array_equal(have, asked) else float("inf"))
            continue
        worst = max(worst, _difference(have.astype(np.float64), asked.astype(np.float64)))
    return worst


def _difference(found: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.where(same, 0.0, np.abs(found - wanted) / np.maximum(1.0, np.abs(wanted)))
    return float(np.where(np.isfinite(difference), difference, np.inf).max(initial=0.0))


def are_scores(answers: Arrays) -> bool:
    """Whether all answers are numbers in [0, 1], which are held to the bar of scores."""
    return all(
        np.issubdtype(one.dtype, np.floating) and bool(((one >= 0) & (one <= 1)).all()) for one in answers.values()
    )


def require_close(worst: float, bar: float, sort: str, *, framework: str) -> None:
    """`ParityError` where a difference passes the bar."""
    if not worst <= bar:
        raise ParityError(
            f"the graph does not give what {framework} gives: on the rows '{sort}' the largest difference is "
            f"{worst:.2e}, allowed {bar:.1e}; nothing was written"
        )


def free_size(graph: Graph) -> int:
    """A size of the free dimensions with which the graph runs; `UploadError` with its own words where none does."""
    if not any(-1 in end.shape[1:] for end in graph.inputs):
        graph.run(sample(graph.inputs, 2, free=1))
        return 1
    for size in FREE_SIZES:
        try:
            graph.run(sample(graph.inputs, 2, free=size))
        except UploadError as error:
            failed = error
        else:
            return size
    raise UploadError(f"{failed}; tried {', '.join(map(str, FREE_SIZES))} for its free dimensions: declare them")


def joins_rows(model: bytes, graph: Graph, inputs: Arrays) -> bool:
    """Whether each row of all inputs gives the same bits alone and among others, on one and two threads."""
    free = all(end.shape[:1] == (-1,) for end in (*graph.inputs, *graph.outputs))
    if not free or not graph.inputs:
        return False
    rows = len(next(iter(inputs.values())))
    try:
        alone = _in_batches(graph, inputs, 1)
        if any(len(array) != rows for array in alone.values()):
            return False
        for threads in (1, 2):
            other = graph if threads == 1 else Graph(model, threads=threads)
            if any(not _same(_in_batches(other, inputs, size), alone) for size in BATCHES):
                return False
    except (UploadError, ValueError):
        return False  # it fails on some number of rows: they are not independent
    return True


def _in_batches(graph: Graph, inputs: Arrays, size: int) -> dict[str, NDArray[Any]]:
    rows = len(next(iter(inputs.values())))
    parts = [
        graph.run({name: array[start : start + size] for name, array in inputs.items()})
        for start in range(0, rows, size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _same(found: Arrays, wanted: Arrays) -> bool:
    return all(
        found[name].dtype == array.dtype and found[name].shape == array.shape and _bits(found[name]) == _bits(array)
        for name, array in wanted.items()
    )


def _bits(array: NDArray[Any]) -> bytes | list[Any]:
    return array.tolist() if array.dtype == np.object_ else array.tobytes()
