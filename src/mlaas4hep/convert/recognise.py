"""What an upload is, by its content: names and endings only break ties that content leaves, and never allow anything.

Invariant: a list of what is known; all else is refused, with what it looks like and a way out.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mlaas4hep.convert import wire
from mlaas4hep.convert.archives import files_below, is_tar, unpack
from mlaas4hep.convert.limits import Limits
from mlaas4hep.convert.pickles import WAY_OUT, refuse_pickles
from mlaas4hep.errors import UploadError

Kind = Literal[
    "onnx", "keras", "keras_h5", "saved_model", "frozen_graph", "xgboost_json", "xgboost_ubj", "lightgbm", "skops",
    "safetensors", "native", "bundle",
]  # fmt: skip
TITLES: dict[str, str] = {
    "onnx": "an ONNX model",
    "keras": "a Keras 3 file",
    "keras_h5": "a Keras HDF5 file",
    "saved_model": "a TensorFlow SavedModel",
    "frozen_graph": "a frozen TensorFlow graph",
    "xgboost_json": "an XGBoost model (JSON)",
    "xgboost_ubj": "an XGBoost model (UBJ)",
    "lightgbm": "a LightGBM model (text)",
    "skops": "a scikit-learn model (skops)",
    "safetensors": "weights (safetensors)",
    "native": "the native weights of a bundle",
    "bundle": "a bundle of mlaas4hep",
}
# What may lie beside a model in an archive or a form.
SPEC, PARAMS, SETTINGS, MANIFEST, SAVED = "spec.json", "params.json", "settings.json", "manifest.json", "saved_model.pb"
NATIVE_FILES = ("weights.npz", "weights.safetensors", "xgboost.json", "lightgbm.txt")
_HEAD = 1 << 20
_MAX_SMALL = 64 << 20
_COMPANIONS = (SPEC, PARAMS, SETTINGS, "labels.txt", "labels.csv", "labels.json", "README.md", "op")
KNOWN = "known: " + ", ".join(TITLES.values()) + ", and zip or tar.gz archives of these"


@dataclass(frozen=True, slots=True)
class Found:
    """What an upload is.

    Parameters
    ----------
    kind
        Of the model.
    path
        The model: a file, or the folder of a SavedModel, a bundle or native weights.
    name
        The archive's top folder; empty where it has none.
    beside
        Small files that came with it, by name.
    """

    kind: Kind
    path: Path
    name: str = ""
    beside: dict[str, bytes] = field(default_factory=dict)


def recognise(path: Path, folder: Path, limits: Limits) -> Found:
    """Say what a file is, and unpack it where it is an archive of something.

    Parameters
    ----------
    path
        The upload.
    folder
        An empty one, for what is unpacked.

    Raises
    ------
    UploadError
        It is of no known kind, holds a pickle, or is an archive that cannot be opened safely.
    """
    if path.stat().st_size == 0:
        raise UploadError("the upload is empty")
    kind = kind_of(path)
    if kind is not None:
        refuse_pickles(path, "the upload", most=limits.upload_bytes)
        return Found(kind, path)
    if not _is_archive(path):
        refuse_pickles(path, "the upload", most=limits.upload_bytes)
        raise UploadError(f"{_looks_like(path)}; {KNOWN}. {WAY_OUT}")
    if zipfile.is_zipfile(path):
        _refuse_torch_export(path)
        refuse_pickles(path, "the upload", most=limits.upload_bytes)
    folder.mkdir(exist_ok=True)
    _unpack_or_tell(path, folder, limits)
    return _inside(folder, limits)


def kind_of(path: Path) -> Kind | None:
    """The kind of a single file; None for archives of other things and for what is not known."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    if zipfile.is_zipfile(path):
        return _kind_of_zip(path)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "keras_h5"
    if head.startswith(b"tree\n") and b"\nmax_feature_idx=" in head:
        return "lightgbm"
    if head[:1] == b"{" and head[1:2] in b"LlIiU" and b"learner" in head[:64]:
        return "xgboost_ubj"
    if head.lstrip()[:1] == b"{":
        return "xgboost_json" if b'"learner"' in head or _has_learner(path) else None
    if (
        len(head) > 10
        and head[8:9] == b"{"
        and int.from_bytes(head[:8], "little") < min(path.stat().st_size, _MAX_SMALL)
    ):
        return "safetensors"
    if head.startswith(b"\x1f\x8b") or is_tar(head):
        return None
    return _kind_of_message(path)


def _has_learner(path: Path) -> bool:
    """XGBoost's keys are sorted, so that its learner comes before its version, but feature names may be long."""
    if path.stat().st_size > _MAX_SMALL:
        return False
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "learner" in found


def _kind_of_zip(path: Path) -> Kind | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, ValueError, OSError, UnicodeError, NotImplementedError) as error:
        raise UploadError(f"the upload is a zip that cannot be read: {error}") from error
    if {"config.json", "metadata.json", "model.weights.h5"} <= names:
        return "keras"
    return "skops" if "schema.json" in names else None


def _kind_of_message(path: Path) -> Kind | None:
    data = path.read_bytes()
    shape = wire.shape_of(data)
    if not shape:
        return None
    numbers = set(shape)
    if (7, True) in numbers and (1, False) in numbers and (8, True) in numbers:
        return "onnx"
    if shape[0] == (1, False) and (2, True) in numbers and numbers <= {(1, False), (2, True)}:
        return "saved_model"
    nodes = numbers <= {(1, True), (2, True), (3, False), (4, True), (5, True)} and shape[0] == (1, True)
    return "frozen_graph" if nodes and _is_node(wire.all_of(data, 1)[0]) else None


def _is_node(message: memoryview) -> bool:
    try:
        return bool(wire.text_of(message, 1) and wire.text_of(message, 2).isidentifier())
    except wire.NotAMessage:
        return False


def _is_archive(path: Path) -> bool:
    with path.open("rb") as stream:
        head = stream.read(512)
    return zipfile.is_zipfile(path) or head.startswith(b"\x1f\x8b") or is_tar(head)


def _refuse_torch_export(path: Path) -> None:
    """PyTorch's ``.pt2`` may ask its loader to unpickle, though a file as usual holds no pickle."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.rpartition("/")[2] for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, OSError, UnicodeError, NotImplementedError) as error:
        raise UploadError(f"the upload is a zip that cannot be read: {error}") from error
    if "archive_format" in names or {"serialized_exported_program.json", "serialized_state_dict.pt"} & set(names):
        raise UploadError(
            "the upload is an exported program of PyTorch (.pt2), whose loader unpickles what the file asks it to. "
            + WAY_OUT
        )
    if names and all(name.endswith(".npy") for name in names):
        raise UploadError("the upload is numpy arrays (.npz), without what to compute with them. " + WAY_OUT)


def _unpack_or_tell(path: Path, folder: Path, limits: Limits) -> None:
    try:
        unpack(path, folder, limits)
    except UploadError:
        if not files_below(folder):  # packed, but perhaps no archive: a pickle by joblib
            refuse_pickles(path, "the upload", most=limits.upload_bytes)
        raise


def _inside(folder: Path, limits: Limits) -> Found:
    """The model in what was unpacked."""
    name = ""
    while len(entries := sorted(folder.iterdir())) == 1 and entries[0].is_dir() and entries[0].name != "variables":
        folder = entries[0]
        name = name or folder.name
    files = files_below(folder)
    for inner, path in files.items():
        refuse_pickles(path, inner, most=limits.inflated_bytes)
    if bundle := _bundle(folder, files):
        return Found("bundle", bundle, name)
    beside = {one: files[one].read_bytes() for one in _COMPANIONS if one in files and _is_small(files[one])}
    if native := _native(folder, files):
        return Found("native", native, name, beside)
    if SAVED in files and kind_of(files[SAVED]) == "saved_model":
        return Found("saved_model", folder, name, beside)
    models = {one: found for one, path in files.items() if one not in _COMPANIONS and (found := kind_of(path))}
    wanted = _named_by(beside.get(PARAMS))
    if wanted in models:
        models = {wanted: models[wanted]}
    if len(models) != 1:
        held = ", ".join(list(files)[:8]) or "nothing"
        raise UploadError(f"the archive holds {len(models) or 'no'} models, wants one; it holds: {held}; {KNOWN}")
    (inner, kind), *_ = models.items()
    if kind == "saved_model":
        return Found(kind, files[inner].parent, name, beside)
    return Found(kind, files[inner], name, beside)


def _is_small(path: Path) -> bool:
    return path.stat().st_size <= _MAX_SMALL


def _named_by(params: bytes | None) -> str:
    """TFaaS's ``params.json`` names the model's file."""
    try:
        found = json.loads(params or b"{}")
    except (ValueError, RecursionError):
        return ""
    return str(found.get("model", "")) if isinstance(found, dict) else ""


def _bundle(folder: Path, files: dict[str, Path]) -> Path | None:
    manifests = [one for one in files if one.rpartition("/")[2] == MANIFEST and one.count("/") <= 1]
    if not manifests:
        return None
    if len(manifests) > 1:
        raise UploadError(
            f"the archive holds {len(manifests)} versions of a bundle; send one: NAME/config.pbtxt and NAME/1"
        )
    return folder / manifests[0].removesuffix(MANIFEST)


def _native(folder: Path, files: dict[str, Path]) -> Path | None:
    for place in ("", "native/"):
        if f"{place}{SETTINGS}" in files and any(f"{place}{one}" in files for one in NATIVE_FILES):
            return folder / place
    return None


def _looks_like(path: Path) -> str:
    """What an unknown file is, as far as that can be said."""
    with path.open("rb") as stream:
        head = stream.read(512)
    if head.startswith(b"\x93NUMPY"):
        return "the upload is a numpy array, without what to compute with it"
    if head.lstrip()[:1] in (b"{", b"["):
        return (
            "the upload is JSON, but no model of XGBoost (a LightGBM model is taken as text, save_model('model.txt'))"
        )
    if head.startswith((b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!")):
        return "the upload is packed by what is not opened here; pack it as tar.gz or zip"
    if head.startswith((b"\x7fELF", b"MZ")):
        return "the upload is a program"
    return "the upload is of no known kind"
