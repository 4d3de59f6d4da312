"""Writes a bundle: merges the graph, passes the parity gate, and only then puts a folder on disk, whole or not at all.

Invariant: equal contracts and equal cores give equal ``spec_sha256`` and ``model_sha256``, and a failure leaves nothing
behind.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.bundle.layout import (
    CONFIG_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    NATIVE_FOLDER,
    PROBE_ROWS,
    README_FILE,
    REPORT_FOLDER,
    SPEC_FILE,
    FileRecord,
    Manifest,
    files_in,
    readme,
    triton_config,
)
from mlaas4hep.bundle.pickles import holds_pickle
from mlaas4hep.bundle.read import Bundle, load_bundle, versions_of
from mlaas4hep.errors import BundleError
from mlaas4hep.graph.core import Core
from mlaas4hep.graph.invariance import probe_rows
from mlaas4hep.graph.mean import mean_graph, mean_scores
from mlaas4hep.graph.merge import merge
from mlaas4hep.graph.parity import ParityReport, Reference, check_parity, check_same
from mlaas4hep.graph.session import Inputs, Session
from mlaas4hep.spec.contract import ModelSpec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")


def write_bundle(
    directory: str | Path,
    *,
    spec: ModelSpec,
    core: Core,
    reference: Reference,
    rows: Inputs,
    native: Mapping[str, bytes] | None = None,
    report: str | Path | None = None,
) -> Bundle:
    """Write a model as ``directory/NAME/VERSION``.

    Parameters
    ----------
    directory
        The model repository: the folder in which ``NAME`` (the contract's name) stands or is made. Where it stands
        already, the next version is added.
    spec
        The contract.
    core
        What the framework's adapter exported.
    reference
        The framework's own answer: raw tensors to scores [n, C], for the parity gate; of a regression in standard
        units.
    rows
        Raw tensors of real events, at least 1,000 where there are that many.
    native
        Further files for ``native/``, by relative path, in a pickle-free format.
    report
        A folder to copy to ``report/``.

    Returns
    -------
    The bundle, read back from disk.

    Raises
    ------
    ModelError
        The core does not fit the contract.
    ParityError
        The graph does not give the framework's scores; nothing is written.
    BundleError
        A name that cannot be a folder, a pickle among the native files, or a ``NAME`` with other inputs or scores.
    """
    target = _target(directory, spec, native or {})
    model = merge(spec, core)
    parity = check_parity(model, spec=spec, core=core, reference=reference, rows=rows)
    return _write(target, spec, model, parity, native=native or {}, report=report)


def write_mean_bundle(
    directory: str | Path,
    *,
    spec: ModelSpec,
    models: Sequence[Bundle],
    rows: Inputs,
    native: Mapping[str, bytes] | None = None,
    report: str | Path | None = None,
) -> Bundle:
    """Write the mean of several models as one, as `write_bundle` does; their graphs go to ``native/models`` too.

    Parameters
    ----------
    directory, rows, native, report
        As of `write_bundle`.
    spec
        The contract: inputs and scores are those of all the models.
    models
        Each keeps its own constants of scaling; those of ``spec`` say only where inputs lie.

    Raises
    ------
    BundleError, ModelError, ParityError
        As `write_bundle`.
    """
    graphs = [one.model() for one in models]
    native = {**(native or {}), **{f"models/{number}.onnx": one for number, one in enumerate(graphs)}}
    target = _target(directory, spec, native)
    model = mean_graph(spec, graphs)

    def wanted(inputs: Inputs) -> NDArray[np.float32]:
        return mean_scores([one.predict(inputs) for one in models])

    parity = check_same(model, spec=spec, wanted=wanted, rows=rows)
    return _write(target, spec, model, parity, native=native, report=report)


def _target(directory: str | Path, spec: ModelSpec, native: Mapping[str, bytes]) -> Path:
    """The folder of the model, once nothing speaks against writing it."""
    target = Path(directory) / spec.name
    _check_names(spec, native)
    _check_config(target, triton_config(spec))
    return target


def _write(
    target: Path,
    spec: ModelSpec,
    model: bytes,
    parity: ParityReport,
    *,
    native: Mapping[str, bytes],
    report: str | Path | None,
) -> Bundle:
    files = {f"{NATIVE_FOLDER}/{name}": data for name, data in native.items()}
    files |= {MODEL_FILE: model, SPEC_FILE: spec.to_json(), README_FILE: readme(spec)}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{spec.name}-", dir=target.parent) as temporary:
        version = str(max(versions_of(target), default=0) + 1)
        draft = Path(temporary) / spec.name
        folder = draft / version
        _write_files(folder, files)
        (draft / CONFIG_FILE).write_bytes(triton_config(spec))
        if report is not None:
            shutil.copytree(report, folder / REPORT_FOLDER)
        (folder / MANIFEST_FILE).write_bytes(_manifest(folder, spec, model, parity).to_json())
        load_bundle(folder)
        _publish(draft, target, version)
    return load_bundle(target / version)


def _check_names(spec: ModelSpec, native: Mapping[str, bytes]) -> None:
    if not _NAME.match(spec.name):
        raise BundleError(f"'{spec.name}' cannot name a model: use letters, digits, '_', '-' and '.'")
    for name, data in native.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise BundleError(f"'{name}' leads out of the bundle")
        if holds_pickle(data):
            raise BundleError(
                f"'{name}' holds a pickle, which runs code when it is read, or is damaged or locked, so that none can "
                f"tell; store weights another way"
            )


def _check_config(target: Path, config: bytes) -> None:
    """A further version must take the same tensors: one config.pbtxt stands for all versions."""
    present = target / CONFIG_FILE
    if present.is_file() and present.read_bytes() != config:
        raise BundleError(
            f"'{target}' holds a model of this name with other inputs or scores; give the new one another name"
        )
    if target.exists() and not present.is_file():
        raise BundleError(f"'{target}' is there and is no bundle; choose another name or folder")


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _manifest(folder: Path, spec: ModelSpec, model: bytes, parity: ParityReport) -> Manifest:
    probe = Session(model).run(probe_rows(spec.scaling, PROBE_ROWS))
    return Manifest(
        spec_sha256=spec.sha256,
        model_sha256=hashlib.sha256(model).hexdigest(),
        config=FileRecord.of(folder.parent / CONFIG_FILE),
        files={name: FileRecord.of(path) for name, path in files_in(folder).items()},
        parity=parity,
        probe=tuple(tuple(map(float, row)) for row in probe),
    ).sealed()


def _publish(draft: Path, target: Path, version: str) -> None:
    """One rename: the whole model, or a further version of one that is there."""
    source, goal = (draft / version, target / version) if target.exists() else (draft, target)
    try:
        os.rename(source, goal)
    except OSError as error:
        raise BundleError(f"'{goal}' cannot be written: {error.strerror}") from error
