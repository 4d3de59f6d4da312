"""Keras 3 files and HDF5: looked through before Keras sees them, then loaded in safe mode and taken apart by our words.

Invariant: only classes of Keras itself are made, none of those that carry or name code or files, and weights come from
the file alone.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlaas4hep.convert.limits import Limits
from mlaas4hep.convert.made import VALUE_BAR, Arrays, Asked, Made, versions_of
from mlaas4hep.errors import MissingExtraError, UploadError

# Layers that carry code, call another framework, or read files and network.
_CODE = frozenset(
    {"Lambda", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer", "StringLookup", "IntegerLookup"}
    | {"TextVectorization", "Hashing", "HashedCrossing", "FeatureSpace", "Pipeline", "MelSpectrogram"}
)
_MODULES = ("keras.", "builtins")
_FORBIDDEN_MODULES = ("keras.utils", "keras.src.utils", "keras.saving", "keras.src.saving", "keras.datasets")
_MAX_JSON = 32 << 20
_DEEPEST = 200
WAY_OUT = "export it to ONNX where it was made: model.export('model.onnx', format='onnx')"


def check_keras_file(path: Path, limits: Limits) -> None:
    """`UploadError` where a ``.keras`` file holds code, or is larger unpacked than it may be."""
    with zipfile.ZipFile(path) as archive:
        names = [member.filename for member in archive.infolist()]
        if len(set(names)) != len(names) or len(names) > limits.members:
            raise UploadError("the Keras file holds a member twice, or too many")
        for member in archive.infolist():
            if member.filename not in ("config.json", "metadata.json", "model.weights.h5"):
                raise UploadError(f"the Keras file holds '{member.filename[:80]}', which no model needs; {WAY_OUT}")
            if member.file_size > limits.inflated_bytes:
                raise UploadError(f"'{member.filename}' of the Keras file unpacks to {member.file_size} bytes")
        with archive.open("config.json") as stream:
            config = stream.read(_MAX_JSON + 1)
    check_config(config)


def check_config(text: bytes | str) -> None:
    """`UploadError` where the description of a model names code, or classes that are not Keras's own."""
    if len(text) > _MAX_JSON:
        raise UploadError(f"the description of the model has more than {_MAX_JSON} bytes")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UploadError(f"the description of the model is no JSON: {error}") from error
    for one in _objects(config):
        kind = str(one.get("class_name", ""))
        module = one.get("module")
        package = str(one.get("registered_name") or "")
        if kind in _CODE or kind.startswith("__"):
            raise UploadError(f"the model has a layer {kind}, which carries code or opens files; {WAY_OUT}")
        named = f"{module}." if module is not None else "keras."
        if not named.startswith(_MODULES) or str(module or "").startswith(_FORBIDDEN_MODULES) or ">" in package:
            raise UploadError(
                f"the model has a part {kind[:60]!r} of the module {str(module)[:60]!r}, which is not Keras's own and "
                f"would have to be executed; {WAY_OUT}"
            )


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """All parts of a description that say of which class they are."""
    stack = [(config, 0)]
    while stack:
        one, depth = stack.pop()
        if depth > _DEEPEST:
            raise UploadError("the description of the model is nested too deeply")
        if isinstance(one, dict):
            if "class_name" in one:
                yield one
            stack.extend((value, depth + 1) for value in one.values())
        elif isinstance(one, list):
            stack.extend((value, depth + 1) for value in one)


def check_hdf5(path: Path, limits: Limits, *, whole: bool) -> None:
    """`UploadError` where an HDF5 file leads to other files or declares more than it holds; also its description."""
    import h5py

    total = 0
    try:
        with h5py.File(path, "r") as file:
            if whole:
                if "model_config" not in file.attrs:
                    raise UploadError(
                        f"the HDF5 file holds weights without a model; save the whole model, or {WAY_OUT}"
                    )
                check_config(file.attrs["model_config"])
            groups, seen = [file], 0
            while groups:
                group = groups.pop()
                for name in group:
                    seen += 1
                    link = group.get(name, getlink=True)
                    if not isinstance(link, h5py.HardLink) or seen > limits.members:
                        raise UploadError(f"the HDF5 file has a link '{name[:60]}', or too many parts")
                    part = group[name]
                    if isinstance(part, h5py.Group):
                        groups.append(part)
                        continue
                    total += _checked_size(part)
                    if total > limits.inflated_bytes:
                        raise UploadError("the HDF5 file declares more numbers than a model may have")
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise UploadError(f"the HDF5 file cannot be read: {error}") from error


def _checked_size(part: Any) -> int:
    if part.external or part.is_virtual:
        raise UploadError("the HDF5 file keeps numbers in other files")
    if part.dtype.hasobject and part.size > 10_000:
        raise UploadError("the HDF5 file holds objects instead of numbers")
    return int(part.size) * int(part.dtype.itemsize)


def convert_keras(path: Path, asked: Asked, limits: Limits, *, hdf5: bool, folder: Path) -> Made:
    """A Keras model of either format."""
    if hdf5:
        check_hdf5(path, limits, whole=True)
    else:
        check_keras_file(path, limits)
        _check_weights(path, limits, folder)
    named = folder / ("model.h5" if hdf5 else "model.keras")
    path.rename(named)  # Keras tells formats by the ending
    model = _loaded(named)
    versions = versions_of("keras", "torch", "tensorflow-cpu")
    if asked.spec is not None:
        return _with_contract(model, asked, versions)
    return Made(
        model=_lowered(model),
        reference=lambda inputs: _answers(model, inputs),
        bar=VALUE_BAR,
        framework="Keras",
        converter="own words for Keras's operations",
        versions=versions,
    )


def _check_weights(path: Path, limits: Limits, folder: Path) -> None:
    weights = folder / "weights.h5"
    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as stream, weights.open("xb") as target:
        left = limits.inflated_bytes
        while piece := stream.read(1 << 18):
            left -= len(piece)
            if left < 0:
                raise UploadError("the weights of the Keras file unpack to more bytes than they may")
            target.write(piece)
    check_hdf5(weights, limits, whole=False)
    weights.unlink()


def _loaded(path: Path) -> Any:
    from mlaas4hep.backends.keras_start import settle_framework

    settle_framework()
    try:
        import keras
    except ImportError as error:
        raise MissingExtraError("keras", "keras", "a Keras model") from error
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # whatever a layer's own constructor raises
        raise UploadError(
            f"Keras {keras.__version__} cannot load the model: {type(error).__name__}: {str(error).strip()[:300]}; "
            f"{WAY_OUT}"
        ) from error


def _symbols(model: Any) -> Any:
    found = getattr(getattr(model, "_functional", model), "input", None)
    if found is None:
        raise UploadError(f"the model does not declare its inputs; build it with keras.Input, or {WAY_OUT}")
    return found


def _answers(model: Any, inputs: Arrays) -> Arrays:
    import keras

    from mlaas4hep.backends.keras_values import array_of

    arranged = keras.tree.map_structure(lambda one: inputs[one.name], _symbols(model))
    if keras.config.backend() == "torch":
        from mlaas4hep.backends.keras_torch import forward_without_gradients

        found = forward_without_gradients(model, arranged)
    else:
        found = model.predict_on_batch(arranged)
    ends = keras.tree.flatten(found)
    return {name: np.asarray(array_of(end)) for name, end in zip(_output_names(ends), ends, strict=True)}


def _output_names(ends: Any) -> list[str]:
    return ["scores"] if len(ends) == 1 else [f"output_{index}" for index in range(len(ends))]


def _lowered(model: Any) -> bytes:
    import keras

    from mlaas4hep.backends.keras_graph import Lowering, NotCovered
    from mlaas4hep.backends.keras_values import Value
    from mlaas4hep.graph.builder import value_info

    symbols = _symbols(model)
    flat = keras.tree.flatten(symbols)
    if any(None in one.shape[1:] for one in flat):
        raise UploadError(f"the model has inputs of free sizes; give them sizes, or {WAY_OUT}")
    values = {one.name: Value(one.name, tuple(one.shape), str(one.dtype)) for one in flat}
    low = Lowering()
    try:
        arranged = keras.tree.map_structure(lambda one: values[one.name], symbols)
        found = low.apply(lambda tensors: model(tensors, training=False), (arranged,))
    except NotCovered as error:
        raise UploadError(f"the model cannot be written as a graph by our words: {error}; {WAY_OUT}") from error
    ends = keras.tree.flatten(found)
    if not ends or not all(isinstance(one, Value) for one in ends):
        raise UploadError("the model gives nothing that hangs on its inputs")
    names = _output_names(ends)
    for end, name in zip(ends, names, strict=True):
        low.graph.node("Identity", [end.name], output=name)
    asked = [value_info(one.name, np.dtype(str(one.dtype)), one.shape[1:]) for one in flat]
    given = [
        value_info(name, np.dtype(end.dtype), [size or 0 for size in end.shape[1:]])
        for name, end in zip(names, ends, strict=True)
    ]
    return bytes(low.graph.model(asked, given).SerializeToString(deterministic=True))


def _with_contract(model: Any, asked: Asked, versions: dict[str, str]) -> Made:
    from mlaas4hep.backends.keras_graph import NotCovered
    from mlaas4hep.backends.keras_network import Network, are_probabilities
    from mlaas4hep.backends.protocol import Task

    spec = asked.spec
    if spec is None or spec.task == "regression":
        raise UploadError(f"a Keras model of a regression is not taken with a contract; {WAY_OUT}")
    network = Network(model, Task.of(spec, seed=0), inputs=None, where="the upload")
    network.output = "probabilities" if are_probabilities(network.try_out()) else "logits"
    try:
        core = network.lower()
    except NotCovered as error:
        raise UploadError(f"the model cannot be written as a graph by our words: {error}; {WAY_OUT}") from error
    return Made(
        core=core,
        core_reference=lambda groups: network.scores(network.prepare(groups)),
        framework="Keras",
        converter="own words for Keras's operations",
        versions=versions,
        notes=(f"the model's output was taken for {network.output}",),
    )
