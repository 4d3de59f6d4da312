"""Runs graphs with ONNX Runtime: `Session` a merged one, checked tensors in, scores out; `OpenSession` any other.

The only module that imports onnxruntime; it needs neither the ``onnx`` package nor a framework, so that a server can
use it. Invariant: a row's score does not depend on the rows beside it, nor on threads (law 11): prepacking stays on,
which is what makes small and large batches take the same kernels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from mlaas4hep.arguments import as_found, whole
from mlaas4hep.errors import BundleError, RequestError, UserError, nearest

SCORES = "scores"
_SCORES = [SCORES]
Inputs = Mapping[str, NDArray[np.float32]]


class Session:
    """One loaded graph.

    Parameters
    ----------
    model
        File or bytes of a merged model: float32 inputs [N, ...], one output ``scores`` [N, C].
    threads
        Threads inside one operator; 1 is best for a server that runs several workers.
    device
        ``cpu``; ``cuda``, ``cuda:1`` for a GPU, where law 11 is not promised; ``auto`` for a GPU where there is one.

    Raises
    ------
    BundleError
        ONNX Runtime cannot load it, or its ends are not those of a merged model.
    """

    def __init__(self, model: Path | bytes, *, threads: int = 1, device: str = "cpu") -> None:
        self._session = _load(model, threads, device)
        self._run = _bare_run(self._session)
        self.threads = threads
        self.shapes = {end.name: _shape(end) for end in self._session.get_inputs()}
        self.num_scores = _num_scores(self._session)

    def run(self, inputs: Inputs) -> NDArray[np.float32]:
        """Scores of a batch.

        Parameters
        ----------
        inputs
            One float32 tensor a group, raw, [N, F] or [N, K, F], NaN where a value is missing; the same N in all.

        Returns
        -------
        float32 [N, C]. No rows give no scores, without a run.

        Raises
        ------
        RequestError
            A tensor is missing, unknown, of another type or shape, or N differs.
        """
        rows = self.check(inputs)
        return self.execute(inputs) if rows else np.zeros((0, self.num_scores), np.float32)

    def execute(self, inputs: Inputs) -> NDArray[np.float32]:
        """As `run`, for tensors that fit already: the graph is run whatever N is, and nothing is checked."""
        scores: NDArray[np.float32] = self._run(_SCORES, inputs if type(inputs) is dict else dict(inputs), None)[0]
        return scores

    def check(self, inputs: Inputs) -> int:
        """The number of rows N of tensors that fit; `RequestError` as `run` where they do not."""
        if not isinstance(inputs, Mapping):
            raise RequestError(f"inputs must be a mapping of names to float32 arrays, got {as_found(inputs)}")
        for name in inputs:
            if name not in self.shapes:
                raise RequestError(f"unknown input '{name}'{nearest(name, self.shapes)}")
        rows: dict[str, int] = {}
        for name, shape in self.shapes.items():
            if name not in inputs:
                raise RequestError(f"input '{name}' {_text(shape)} is missing; given: {', '.join(inputs) or 'nothing'}")
            rows[name] = _rows(name, inputs[name], shape)
        if len(set(rows.values())) > 1:
            found = ", ".join(f"'{name}' has {count}" for name, count in rows.items())
            raise RequestError(f"all inputs need the same number of events, but {found}")
        return next(iter(rows.values()))


class End(NamedTuple):
    """A tensor into a graph or out of it: -1 in ``shape`` where any size is; ``object`` stands for text."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class OpenSession:
    """A graph that this project did not make, with the tensors that its file declares.

    Outputs that are no tensors (the mappings that converters of scikit-learn add) are left out.

    Parameters
    ----------
    model, threads, device
        As of `Session`.

    Raises
    ------
    BundleError
        ONNX Runtime cannot load it, or an input or all outputs have a type that numpy does not know.
    """

    def __init__(self, model: Path | bytes, *, threads: int = 1, device: str = "cpu") -> None:
        self._session = _load(model, threads, device)
        where = "model" if isinstance(model, bytes) else str(model)
        self.inputs = tuple(_end(end, where) for end in self._session.get_inputs())
        outputs = [end for end in self._session.get_outputs() if end.type in _TYPES]
        if not outputs:
            found = ", ".join(f"{end.name} {end.type}" for end in self._session.get_outputs())
            raise BundleError(f"{where}: none of its outputs is a tensor that can be served: {found}")
        self.outputs = tuple(_end(end, where) for end in outputs)
        self._names = [end.name for end in outputs]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All outputs by name.

        Raises
        ------
        RequestError
            The graph does not take these tensors.
        """
        try:
            found = self._session.run(self._names, dict(inputs))
        except _MISFITS as error:
            raise RequestError(f"the graph does not take these tensors: {error}") from error
        return dict(zip(self._names, found, strict=True))


_TYPES: dict[str, np.dtype[Any]] = {
    f"tensor({word})": np.dtype(dtype)
    for word, dtype in {
        "float": "float32",
        "double": "float64",
        "float16": "float16",
        "bool": "bool",
        "string": "object",
        **{name: name for sign in ("int", "uint") for name in (f"{sign}{bits}" for bits in (8, 16, 32, 64))},
    }.items()
}
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_MISFITS = (
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument,
    onnxruntime.capi.onnxruntime_pybind11_state.Fail,
)


def _load(model: Path | bytes, threads: int, device: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = whole(threads, "threads", least=1)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    providers = providers_of(device)
    try:
        found = onnxruntime.InferenceSession(source, options, providers=providers)
    except Exception as error:  # onnxruntime's own exceptions share no narrower base class
        where = "model" if isinstance(model, bytes) else str(model)
        raise BundleError(f"{where}: ONNX Runtime cannot load it: {error}") from error
    _check_device(found, device)
    return found


def _bare_run(session: Any) -> Callable[[list[str], dict[str, NDArray[Any]], None], list[NDArray[Any]]]:
    """``session.run`` of tensors that were checked, without its checks in Python: a tenth of a small run.

    On a GPU those stay, as does its way out where the GPU fails.
    """
    bare = getattr(session, "_sess", None)
    return session.run if bare is None or session.get_providers() != [_CPU] else bare.run  # type: ignore[no-any-return]


def providers_of(device: str) -> list[Any]:
    """What ONNX Runtime is asked to run on, in its words.

    Raises
    ------
    UserError
        It is no device, or this build of ONNX Runtime cannot use it.
    """
    found = re.fullmatch(r"(auto|cpu|gpu|cuda)(?::(\d{1,3}))?", device)
    if found is None or (found[2] and found[1] != "cuda"):
        raise UserError(f"device '{device}' is none that a graph runs on; known: auto, cpu, gpu, cuda, cuda:1")
    has_cuda = _CUDA in onnxruntime.get_available_providers()
    if found[1] in ("cuda", "gpu") and not has_cuda:
        raise UserError(
            f"device '{device}': this ONNX Runtime has no CUDA; install onnxruntime-gpu instead, or give cpu"
        )
    if found[1] == "cpu" or not has_cuda:
        return [_CPU]
    return [(_CUDA, {"device_id": int(found[2] or 0)}), _CPU]


def _check_device(session: Any, device: str) -> None:
    """ONNX Runtime goes to the CPU without a word where it finds no GPU; who asked for one is told."""
    if device.startswith(("cuda", "gpu")) and session.get_providers()[0] != _CUDA:
        raise UserError(f"device '{device}': no CUDA GPU can be used here; give cpu, or auto to take what there is")


def _end(end: Any, where: str) -> End:
    if end.type not in _TYPES:
        raise BundleError(f"{where}: '{end.name}' is {end.type}; served are {', '.join(_TYPES)}")
    return End(end.name, _TYPES[end.type], _open_shape(end.shape))


def _open_shape(shape: Iterable[int | str | None]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) and size >= 0 else -1 for size in shape)


def _rows(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> int:
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        told = array.dtype if isinstance(array, np.ndarray) else f"no array, but {as_found(array)}"
        raise RequestError(f"input '{name}' must be float32, but is {told}")
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
        raise RequestError(f"input '{name}' must have shape {_text(shape)}, but has {list(array.shape)}")
    return len(array)


def _text(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(['N', *map(str, shape)])}]"


def _shape(end: Any) -> tuple[int, ...]:
    shape = tuple(end.shape)[1:]
    if end.type != "tensor(float)" or not all(isinstance(size, int) for size in shape):
        raise BundleError(f"input '{end.name}' is {end.type} {list(end.shape)}, not float32 [N, ...] of fixed sizes")
    return shape


def _num_scores(session: Any) -> int:
    outputs = session.get_outputs()
    fits = len(outputs) == 1 and outputs[0].name == SCORES and outputs[0].type == "tensor(float)"
    if not fits or len(outputs[0].shape) != 2 or not isinstance(outputs[0].shape[1], int):
        found = ", ".join(f"{end.name} {end.type} {end.shape}" for end in outputs)
        raise BundleError(f"a merged model has one output, 'scores' float32 [N, C], but this one has {found}")
    return int(outputs[0].shape[1])
