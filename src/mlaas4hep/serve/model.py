"""One version of a model, ready to answer: a bundle with its contract, a plain ONNX graph, or whatever else can run.

Everything that is asked ends in `ServedModel.run`; who joins questions into batches asks it what may be joined.
Invariant: a `ServedModel` never changes, so that an answer needs no lock and its version is the one it names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.arguments import as_found
from mlaas4hep.bundle import Bundle, load_bundle
from mlaas4hep.bundle.layout import CONFIG_FILE, MANIFEST_FILE, MODEL_FILE, NATIVE_FOLDER, SPEC_FILE, FileRecord
from mlaas4hep.errors import BundleError, RequestError, nearest
from mlaas4hep.graph.session import SCORES, End, OpenSession
from mlaas4hep.serve.events import EventReader
from mlaas4hep.serve.images import ImageInput, decode_images, image_of, read_image
from mlaas4hep.serve.measuring import measured
from mlaas4hep.serve.pbtxt import Message, parse_json, parse_pbtxt
from mlaas4hep.serve.policy import followed, warm_up
from mlaas4hep.serve.tensors import DTYPES, WORDS, check_texts
from mlaas4hep.spec.columns import Columns, ColumnType
from mlaas4hep.spec.contract import ModelSpec
from mlaas4hep.spec.preprocess import Prepared

Tensors = Mapping[str, NDArray[Any]]

_FOLDS_NOTE = (
    "the mean of models, each of which left out one fold of the events that they were trained on; for those events "
    "scores out of fold are those of 'mlaas4hep evaluate'"
)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor of a model.

    Parameters
    ----------
    name
        As it is asked for.
    datatype
        In the words of the Open Inference Protocol: FP32, INT64, BOOL, BYTES ...
    shape
        Without the rows where the model's rows are independent, else whole; -1 where any size is.
    labels
        Of an output: names of its classes in their order, where they are known.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    labels: tuple[str, ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of numpy; ``object`` for BYTES."""
        return DTYPES[self.datatype]


class Prepares(Protocol):
    """Makes tensors of columns, as `mlaas4hep.spec.preprocess.Preprocessor` does."""

    @property
    def known(self) -> Mapping[str, ColumnType]:
        """Types of all columns and new variables."""
        ...

    def run(self, columns: Columns, num_entries: int) -> Prepared:
        """Tensors of the selected events."""
        ...

    def needs(self, name: str) -> frozenset[str]:
        """Raw columns behind a column or new variable."""
        ...

    def type_of(self, name: str) -> ColumnType:
        """Type of a column or new variable."""
        ...


@dataclass(frozen=True, eq=False, slots=True)
class Contract:
    """What a bundle says beyond its tensors: how events by name become them, its hashes, and those of its files.

    Parameters
    ----------
    outputs
        Whose columns, side by side, are the scores of an event.
    """

    spec: ModelSpec
    model_sha256: str
    spec_sha256: str
    preprocessor: Prepares
    reader: EventReader
    files: Mapping[str, FileRecord]
    outputs: tuple[str, ...] = (SCORES,)


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class ServedModel:
    """One version of a model with all that answers need.

    Parameters
    ----------
    name, version
        As they are asked for.
    inputs, outputs
        The tensors.
    contract
        Of a bundle; None for a graph without one, which can be asked by tensors only.
    batches
        Whether the first dimension of all tensors is that of independent rows, so that questions may be joined.
    max_rows
        The most rows that one run takes; more are cut.
    call_s, row_s
        Seconds of a run of one row, and of each further row, as measured when the model was loaded.
    execute
        Tensors that fit to all outputs by name; safe from several threads.
    folder
        Where it was loaded from, ``NAME/1``; None of a model that was made otherwise.
    image
        The input that pictures become; None where none are taken.
    members
        ``NAME/VERSION`` of the models that it is made of, where it is an ensemble.
    note
        What those who ask should know of it.
    """

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    contract: Contract | None
    batches: bool
    max_rows: int
    call_s: float
    row_s: float
    execute: Callable[[Tensors], dict[str, NDArray[Any]]]
    folder: Path | None = None
    image: ImageInput | None = None
    members: tuple[str, ...] = ()
    note: str = ""

    @classmethod
    def of(cls, bundle: Bundle, *, threads: int = 1, device: str = "cpu") -> ServedModel:
        """A verified bundle; its rows are independent by law 11."""
        session = bundle.session(threads=threads, device=device)
        preprocessor = bundle.spec.preprocessor()
        inputs = tuple(TensorSpec(one.name, "FP32", one.shape) for one in bundle.spec.signature)

        def execute(tensors: Tensors) -> dict[str, NDArray[Any]]:
            return {SCORES: session.execute(tensors)}

        return measured(
            cls,
            name=bundle.name,
            version=str(bundle.version),
            inputs=inputs,
            outputs=(TensorSpec(SCORES, "FP32", (len(bundle.spec.score_names),), bundle.spec.score_names),),
            contract=Contract(
                spec=bundle.spec,
                model_sha256=bundle.model_sha256,
                spec_sha256=bundle.spec_sha256,
                preprocessor=preprocessor,
                reader=EventReader(preprocessor.types),
                files=bundle.manifest.files,
            ),
            batches=True,
            max_rows=bundle.max_batch,
            execute=execute,
            folder=bundle.path,
            image=read_image(bundle.path, inputs, batches=True),
            note=_FOLDS_NOTE if (bundle.path / NATIVE_FOLDER / "folds.json").is_file() else "",
        )

    @classmethod
    def plain(cls, folder: Path, *, config: str | None = None, threads: int = 1, device: str = "cpu") -> ServedModel:
        """An entry ``NAME/1/model.onnx`` of a model repository, with ``NAME/config.pbtxt`` or without.

        ``config``, in JSON, stands for that file. As in Triton, rows are independent where ``max_batch_size`` says how
        many a run takes; without it a question is run as it comes. ``model_warmup`` is run before this returns.

        Raises
        ------
        BundleError
            The graph cannot be served, or is not what ``config.pbtxt`` says.
        """
        file = folder.parent / CONFIG_FILE
        where = str(file if config is None else folder.parent / "the given config")
        if config is None:
            said = parse_pbtxt(file.read_text(), where=where) if file.is_file() else {}
        else:
            said = parse_json(config, where=where)
        session = OpenSession(folder / MODEL_FILE, threads=threads, device=device)
        _check_config(said, folder.parent.name, where)
        max_rows = _whole(said, "max_batch_size", where)
        inputs = _specs(session.inputs, said, "input", batches=max_rows > 0, where=where)
        model = measured(
            cls,
            name=folder.parent.name,
            version=folder.name,
            inputs=inputs,
            outputs=_specs(session.outputs, said, "output", batches=max_rows > 0, where=where),
            contract=None,
            batches=max_rows > 0,
            max_rows=max_rows or 1,
            execute=session.run,
            folder=folder,
            image=read_image(folder, inputs, batches=max_rows > 0),
        )
        warm_up(model, said, folder.parent, where)
        return model

    def run(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """All outputs by name; safe from several threads.

        Raises
        ------
        RequestError
            As `check`, or the graph does not take these tensors.
        """
        return self.run_checked(inputs, self.check(inputs))

    def predict_image(self, data: bytes) -> dict[str, NDArray[Any]]:
        """All outputs by name for one picture, PNG or JPEG; what a server answers comes from the same calls.

        Raises
        ------
        RequestError
            The model takes no pictures, or not this one.
        """
        image = image_of(self)
        return self.run({image.name: decode_images([data], image)})

    def run_checked(self, inputs: Tensors, rows: int) -> dict[str, NDArray[Any]]:
        """As `run`, of tensors that passed `check`, which gave ``rows``."""
        if not self.batches or 0 < rows <= self.max_rows:
            return self.execute(inputs)
        if rows == 0:
            return {one.name: np.zeros((0, *(max(size, 0) for size in one.shape)), one.dtype) for one in self.outputs}
        starts = range(0, rows, self.max_rows)
        parts = [self.execute({name: array[i : i + self.max_rows] for name, array in inputs.items()}) for i in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def run_s(self, rows: int) -> float:
        """Seconds that a run of so many rows takes, by what was measured."""
        return self.call_s + max(rows - 1, 0) * self.row_s

    def check(self, inputs: Tensors) -> int:
        """The number of rows of tensors that fit; 1 where rows are not independent.

        Raises
        ------
        RequestError
            A tensor is missing, unknown, of another type or shape, or the numbers of rows differ.
        """
        if not isinstance(inputs, Mapping):
            raise RequestError(f"inputs must be a mapping of names to arrays, got {as_found(inputs)}")
        for name in inputs:
            if not any(name == one.name for one in self.inputs):
                raise RequestError(f"unknown input '{name}'{nearest(name, [one.name for one in self.inputs])}")
        rows = -1
        for spec in self.inputs:
            array = inputs.get(spec.name)
            if array is None:
                given = ", ".join(inputs) or "nothing"
                raise RequestError(f"input '{spec.name}' {self._text(spec)} is missing; given: {given}")
            self._check_one(spec, array)
            if self.batches and rows not in (-1, len(array)):
                found = ", ".join(
                    f"'{one.name}' has {len(inputs[one.name])}" for one in self.inputs if one.name in inputs
                )
                raise RequestError(f"all inputs need the same number of events, but {found}")
            rows = len(array) if self.batches else 1
        return max(rows, 0)

    def _check_one(self, spec: TensorSpec, array: object) -> None:
        if not isinstance(array, np.ndarray) or array.dtype != spec.dtype:
            told = WORDS.get(array.dtype, array.dtype) if isinstance(array, np.ndarray) else as_found(array)
            raise RequestError(f"input '{spec.name}': asked for {spec.datatype}, found {told}")
        if spec.datatype == "BYTES":
            check_texts(array, f"input '{spec.name}'")
        shape = array.shape[1:] if self.batches and array.ndim else array.shape
        whole = not self.batches or array.ndim
        if not whole or (shape != spec.shape and not _fits(shape, spec.shape)):
            raise RequestError(f"input '{spec.name}' must have shape {self._text(spec)}, but has {list(array.shape)}")

    def _text(self, spec: TensorSpec) -> str:
        sizes = [*(["N"] if self.batches else []), *("any" if size < 0 else str(size) for size in spec.shape)]
        return f"[{', '.join(sizes)}]"


def load_model(folder: Path, config: str | None = None, *, threads: int = 1, device: str = "cpu") -> ServedModel:
    """What a version folder ``NAME/1`` holds: a bundle where it says so, else a plain ONNX graph.

    Raises
    ------
    BundleError
        A bundle that is not what was written, or a graph that cannot be served.
    """
    if is_plain(folder):
        return ServedModel.plain(folder, config=config, threads=threads, device=device)
    if config is not None:
        raise BundleError(f"{folder} is a bundle, whose contract says all that a config could; load it without one")
    return ServedModel.of(load_bundle(folder), threads=threads, device=device)


def is_plain(folder: Path) -> bool:
    """Whether a version folder holds a graph and nothing of this project; what lost a file of a bundle is none."""
    return (folder / MODEL_FILE).is_file() and not any((folder / name).exists() for name in (MANIFEST_FILE, SPEC_FILE))


def _fits(found: tuple[int, ...], asked: tuple[int, ...]) -> bool:
    return len(found) == len(asked) and all(want in (-1, size) for size, want in zip(found, asked, strict=True))


def _check_config(config: Message, name: str, where: str) -> None:
    found = config.get("name", [name])[-1]
    if found != name:
        raise BundleError(f"{where}: says the model is '{found}', but its folder is '{name}'")
    runs = config.get("backend", [""])[-1] or config.get("platform", [""])[-1]
    if runs not in ("", "onnxruntime", "onnxruntime_onnx"):
        raise BundleError(f"{where}: asks for the backend '{runs}'; served here are graphs of 'onnxruntime'")
    followed((), config, where)


def _whole(config: Message, key: str, where: str) -> int:
    value = config.get(key, [0])[-1]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BundleError(f"{where}: {key} is a number of rows, found '{value}'")
    return value


def _specs(ends: tuple[End, ...], config: Message, field: str, *, batches: bool, where: str) -> tuple[TensorSpec, ...]:
    """The tensors of a graph, narrowed by the ``dims`` of the config where the graph leaves a size open."""
    declared = {one["name"][-1]: one for one in config.get(field, []) if isinstance(one, dict) and "name" in one}
    for name in declared:
        if name not in [end.name for end in ends]:
            raise BundleError(
                f"{where}: {field} '{name}' is not one of the graph's{nearest(name, [e.name for e in ends])}"
            )
    return tuple(
        replace(_spec(end, found, batches=batches, where=where), labels=_labels(found, where))
        for end, found in ((end, declared.get(end.name, {})) for end in ends)
    )


def _labels(declared: Message, where: str) -> tuple[str, ...]:
    """Lines of the file that an output's ``label_filename`` names, beside the config."""
    name = declared.get("label_filename", [""])[-1]
    if not name:
        return ()
    file = Path(where).parent / str(name)
    if str(name) != file.name or file.is_symlink() or not file.is_file():
        raise BundleError(f"{where}: label_filename '{name}': asked for a file beside this one, found none")
    return tuple(file.read_text(encoding="utf-8").splitlines())


def _spec(end: End, declared: Message, *, batches: bool, where: str) -> TensorSpec:
    if batches and (not end.shape or end.shape[0] != -1):
        raise BundleError(
            f"{where}: max_batch_size needs a first dimension of any size, but '{end.name}' is {list(end.shape)}"
        )
    shape = end.shape[1:] if batches else end.shape
    word = WORDS[end.dtype]
    asked = {"TYPE_STRING": "BYTES"}.get(found := declared.get("data_type", [f"TYPE_{word}"])[-1], str(found)[5:])
    if asked != word:
        raise BundleError(f"{where}: '{end.name}' is said to be {found}, but the graph has TYPE_{word}")
    dims = tuple(declared.get("dims", shape))
    if len(dims) == len(shape) and all(size in (-1, dim) for size, dim in zip(shape, dims, strict=True)):
        return TensorSpec(end.name, word, dims)
    if _fits(shape, dims) or "reshape" in declared:
        return TensorSpec(end.name, word, shape)
    raise BundleError(f"{where}: '{end.name}' is said to be {list(dims)}, but the graph has {list(shape)}")
