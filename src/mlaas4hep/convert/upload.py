"""From an upload to ``NAME/VERSION`` in a model repository: confined, compared, and moved into place in one rename.

Invariant: a repository shows a version whole or not at all, and whatever is refused leaves nothing in it.
"""

from __future__ import annotations

import os
import re
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from mlaas4hep.arguments import as_found, path_of, require
from mlaas4hep.bundle.layout import CONFIG_FILE, MANIFEST_FILE, MODEL_FILE, FileRecord, Manifest, files_in
from mlaas4hep.bundle.read import load_bundle, versions_of
from mlaas4hep.convert.limits import Limits
from mlaas4hep.convert.operators import Operators, check_graph
from mlaas4hep.convert.params import read_params
from mlaas4hep.convert.plain import check_ends, plain_config
from mlaas4hep.convert.result import FILE, Conversion
from mlaas4hep.convert.sandbox import run_confined
from mlaas4hep.errors import BundleError, UploadError, nearest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
_BESIDE = ("spec.json", "params.json", "settings.json", "labels.txt")
# Fields of TFaaS's form, and two of ours, for models with a contract.
_FORM = ("name", "params", "model", "labels", "op", "spec", "settings")
_FILES = {"params": "params.json", "labels": "labels.txt", "spec": "spec.json", "settings": "settings.json"}
_PIECE = 1 << 20
_PLAIN_FILES = frozenset({MODEL_FILE, "params.json"})
_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Upload:
    """A model with what came with it.

    Parameters
    ----------
    model
        Its bytes, its file, or a folder (a SavedModel, native weights).
    name
        What it shall be called; empty takes it from the contract, from ``params.json`` or from the archive.
    beside
        ``spec.json`` (our contract), ``params.json`` (TFaaS's description), ``settings.json`` (of native weights),
        ``labels.txt`` (names of classes), by name.
    """

    model: bytes | Path
    name: str = ""
    beside: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def form(cls, fields: Mapping[str, bytes], model: Path | None = None) -> Upload:
        """A form of TFaaS: ``name``, ``params``, ``model``, ``labels``, ``op``, of which only the model is needed.

        ``spec`` and ``settings`` are our ``spec.json`` and ``settings.json``. The model may lie in a file instead.

        Raises
        ------
        UploadError
            A field is not known, there is no model, or the name in ``params`` is another one.
        """
        for key in fields:
            if key not in _FORM:
                raise UploadError(f"the form has a field '{key}'{nearest(key, _FORM)}")
        if model is None and not fields.get("model"):
            raise UploadError("the form has no field 'model', or an empty one: the model's file")
        name = fields.get("name", b"").decode(errors="replace").strip()
        params = read_params(fields.get("params"))
        if name and params.name and name != params.name:
            raise UploadError(f"the form's name is '{name}', that in its params '{params.name}'; they must be equal")
        beside = {file: fields[key] for key, file in _FILES.items() if fields.get(key)}
        return cls(fields["model"] if model is None else model, name or params.name, beside)


def convert(
    upload: Upload, repository: str | Path, *, limits: Limits | None = None, operators: Operators | None = None
) -> Conversion:
    """Make a repository entry of an uploaded model.

    Parameters
    ----------
    upload
        The model.
    repository
        The folder of models, made where it is missing. The next version is taken where the name is there already.
    limits, operators
        What an upload may take, and which operators a graph may use.

    Returns
    -------
    What was made, as ``conversion.json`` beside the model says it too.

    Raises
    ------
    UploadError
        The upload is refused: what it holds, and a way out.
    ParityError
        The graph would not give what the framework gives.
    MissingExtraError
        The framework that has to prove it is not installed.
    BundleError
        A model of this name takes other inputs or gives other outputs.

    Examples
    --------
    >>> convert(Upload(b"\\x80\\x04K\\x01."), "models")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    mlaas4hep.errors.UploadError: 'the upload' holds a pickle, which runs code when it is read; no pickle is ...
    """
    require(upload, Upload, "upload", hint="Upload(b'...') or Upload(Path('model.onnx'))")
    limits, operators = limits or Limits(), operators or Operators()
    for name in upload.beside:
        if name not in _BESIDE:
            raise UploadError(f"'{name}' cannot come with a model{nearest(name, _BESIDE)}")
    _require_name(upload.name, empty=True)
    place = path_of(repository, "repository").absolute()
    made = _made_folders(place)
    try:
        with tempfile.TemporaryDirectory(prefix=".convert-", dir=place) as folder:
            work = Path(folder)
            found = _take(upload.model, work / "upload", limits)
            name = upload.name or _name_of_file(upload.model)
            done = run_confined(work, name=upload.name, beside=upload.beside, limits=limits, operators=operators)
            done = msgspec.structs.replace(done, name=done.name or name, **found)
            _require_name(done.name, empty=False)
            return _publish(work, place, done, operators, limits)
    except BaseException:
        for one in made:
            with _ignored_if_used():
                one.rmdir()
        raise


def _made_folders(place: Path) -> list[Path]:
    """Make the repository; gives the folders that were made, the deepest first."""
    made = []
    missing = place
    while not missing.exists() and missing != missing.parent:
        made.append(missing)
        missing = missing.parent
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BundleError(f"'{place}' cannot be a model repository: {error.strerror}") from error
    return made


class _ignored_if_used:
    """Removing a folder that somebody else uses by now is not ours to do."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, OSError)


def _require_name(name: str, *, empty: bool) -> None:
    if not (name or empty):
        raise UploadError("the model has no name: give one, in the form, in params.json or by --name")
    if name and not _NAME.match(name):
        raise UploadError(f"{name[:80]!r} cannot name a model: use at most 128 letters, digits, '_', '-' and '.'")


def _name_of_file(model: bytes | Path) -> str:
    """A name from that of the file, where it can be one."""
    stem = model.name.partition(".")[0] if isinstance(model, Path) else ""
    return stem if _NAME.match(stem) else ""


def _take(model: bytes | Path, goal: Path, limits: Limits) -> dict[str, Any]:
    """Copy the upload, no more than it may be; its size and hash."""
    if isinstance(model, bytes):
        _require_size(len(model), limits)
        goal.write_bytes(model)
    elif isinstance(model, Path) and model.is_dir():
        _pack(model, goal, limits)
    elif isinstance(model, Path):
        _copy(model, goal, limits)
    else:
        raise UploadError(f"a model is bytes or a Path, got {as_found(model)}")
    record = FileRecord.of(goal)
    return {"upload_sha256": record.sha256, "upload_bytes": record.size}


def _require_size(size: int, limits: Limits) -> None:
    if size > limits.upload_bytes:
        raise UploadError(f"the upload has more than {limits.upload_bytes} bytes, which is the most that is taken here")


def _copy(source: Path, goal: Path, limits: Limits) -> None:
    try:
        with source.open("rb") as stream, goal.open("xb") as target:
            while piece := stream.read(_PIECE):
                target.write(piece)
                _require_size(target.tell(), limits)
    except FileNotFoundError as error:
        beside = [one.name for one in source.parent.iterdir()] if source.parent.is_dir() else []
        raise UploadError(f"no file '{source}'{nearest(source.name, beside)}") from error


def _pack(folder: Path, goal: Path, limits: Limits) -> None:
    """A folder as a plain tar, so that there is one way in."""
    total = 0
    with tarfile.open(goal, "x", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            total += path.lstat().st_size
            _require_size(total, limits)
            archive.add(path, arcname=path.relative_to(folder.parent).as_posix(), recursive=False)


def _publish(work: Path, place: Path, done: Conversion, operators: Operators, limits: Limits) -> Conversion:
    """Look at what came out once more, and put it where it is served."""
    made = _bundle_folder(work / "entry") if done.contract else _plain_folder(work / "entry", done)
    _check_again(files_in(made), done, operators, limits)
    for _ in range(_ATTEMPTS):
        version = str(max(versions_of(place / done.name), default=0) + 1)
        told = msgspec.structs.replace(done, version=version)
        _write_told(made, told)
        if _moved(made, place / done.name, version):
            return told
    raise BundleError(f"'{place / done.name}' gets new versions faster than one can be added; try again")


def _check_again(files: Mapping[str, Path], done: Conversion, operators: Operators, limits: Limits) -> None:
    """`UploadError` where a process that was taken over by its upload told another graph than it wrote."""
    path = files[MODEL_FILE]
    if path.stat().st_size > limits.model_bytes or FileRecord.of(path).sha256 != done.model_sha256:
        raise UploadError("the confined process told another graph than it wrote; nothing was kept")
    for one in (one for name, one in files.items() if name.endswith(".onnx") and one != path):  # of folds
        if one.stat().st_size > limits.model_bytes:
            raise UploadError(f"the confined process wrote a graph of more than {limits.model_bytes} bytes")
        check_graph(one.read_bytes(), operators, most=limits.model_bytes, functions=False)
    graph = check_graph(path.read_bytes(), operators, most=limits.model_bytes, functions=False).graph
    check_ends(graph)
    if [one.name for one in (*graph.input, *graph.output)] != [one.name for one in (*done.inputs, *done.outputs)]:
        raise UploadError("the confined process told other inputs or outputs than its graph has; nothing was kept")


def _bundle_folder(entry: Path) -> Path:
    """The version folder of the only bundle there, checked against its seal."""
    found = [one for one in entry.iterdir() if one.is_dir() and not one.is_symlink()]
    files_in(entry)
    return load_bundle(found[0]).path


def _plain_folder(entry: Path, done: Conversion) -> Path:
    """Loose files of a plain entry, in a version folder beside their configuration."""
    found = files_in(entry)
    if MODEL_FILE not in found or found.keys() - _PLAIN_FILES:
        raise UploadError(f"the confined process wrote {', '.join(found) or 'nothing'}, which is no entry")
    version = entry.parent / "plain" / "1"
    version.parent.mkdir()
    entry.rename(version)
    config = plain_config(done.name, done.inputs, done.outputs, batches=done.batches)
    (version.parent / CONFIG_FILE).write_bytes(config)
    return version


def _write_told(made: Path, told: Conversion) -> None:
    """``conversion.json``; in a bundle it is sealed with the rest."""
    (made / FILE).write_bytes(told.to_json())
    if not told.contract:
        return
    path = made / MANIFEST_FILE
    manifest = Manifest.from_json(path.read_bytes(), where=str(path))
    files = {**manifest.files, FILE: FileRecord.of(made / FILE)}
    path.write_bytes(msgspec.structs.replace(manifest, files=files, manifest_sha256="").sealed().to_json())


def _moved(made: Path, target: Path, version: str) -> bool:
    """One rename, of the whole model or of a further version; False where somebody else was faster."""
    config = made.parent / CONFIG_FILE
    present = target / CONFIG_FILE
    if target.exists() and not present.is_file():
        raise BundleError(f"'{target}' is there and is no model; choose another name")
    if target.exists() and present.read_bytes() != config.read_bytes():
        raise BundleError(
            f"'{target.name}' is there with other inputs or outputs; give this model another name: one config.pbtxt "
            "stands for all versions"
        )
    if target.exists():
        source, goal = made, target / version
    else:
        renamed = made.parent / version
        if made != renamed:
            made.rename(renamed)
        source, goal = made.parent, target
    try:
        os.rename(source, goal)
    except OSError as error:
        if goal.exists():
            return False
        raise BundleError(f"'{goal}' cannot be written: {error.strerror}") from error
    return True
