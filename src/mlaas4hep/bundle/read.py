"""Reads a bundle: checks every byte against the manifest, then answers.

Invariant: what `Bundle` hands out was written by this project and not changed since, and nothing in it was executed
or unpickled to find that out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.arguments import as_found, path_of, whole
from mlaas4hep.bundle.layout import (
    CONFIG_FILE,
    MANIFEST_FILE,
    MAX_BATCH_SIZE,
    MODEL_FILE,
    PROBE_ROWS,
    SPEC_FILE,
    FileRecord,
    Manifest,
    files_in,
)
from mlaas4hep.errors import BundleError, RequestError, nearest
from mlaas4hep.graph.invariance import run_in_batches
from mlaas4hep.graph.session import Inputs, Session
from mlaas4hep.spec.columns import Columns
from mlaas4hep.spec.contract import MAX_BYTES, ModelSpec
from mlaas4hep.spec.preprocess import Preprocessor


@dataclass(frozen=True, eq=False)
class Bundle:
    """One version of a model on disk, checked.

    Parameters
    ----------
    path
        The version folder, ``NAME/1``.
    version
        The number that the folder is called.
    spec
        The contract.
    manifest
        Hashes of the files, and what the parity gate saw.
    """

    path: Path
    version: int
    spec: ModelSpec = field(repr=False)
    manifest: Manifest = field(repr=False)

    @property
    def name(self) -> str:
        """Of the model, as it is served."""
        return self.spec.name

    @property
    def spec_sha256(self) -> str:
        """Over the contract without provenance."""
        return self.manifest.spec_sha256

    @property
    def model_sha256(self) -> str:
        """Over the canonical graph, which is what the file holds."""
        return self.manifest.model_sha256

    def model(self) -> bytes:
        """The graph; `BundleError` if the file changed since the bundle was loaded."""
        path = self.path / MODEL_FILE
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.model_sha256:
            raise BundleError(f"{path}: was changed since the bundle was loaded")
        return data

    @property
    def max_batch(self) -> int:
        """Rows that go through the graph at a time: as many as law 11 was proven for when the bundle was written."""
        return min(MAX_BATCH_SIZE, self.manifest.parity.batch)

    def session(self, *, threads: int = 1, device: str = "cpu") -> Session:
        """A new session that runs the graph; safe to call from several threads at once.

        Raises
        ------
        BundleError
            The file changed, ONNX Runtime cannot load it, or its ends are not those of the contract.
        """
        session = Session(self.model(), threads=threads, device=device)
        asked = ({one.name: one.shape for one in self.spec.signature}, len(self.spec.score_names))
        found = (session.shapes, session.num_scores)
        if found != asked:
            raise BundleError(
                f"{self.path / MODEL_FILE}: takes {found[0]} and gives {found[1]} scores; the contract says {asked[0]} "
                f"and {asked[1]}"
            )
        return session

    def predict(self, inputs: Inputs) -> NDArray[np.float32]:
        """Scores of raw padded tensors, on one thread.

        Parameters
        ----------
        inputs
            As the contract's ``signature``: float32 [N, F] or [N, K, F] by group, NaN where a value is missing.

        Returns
        -------
        float32 [N, C], the columns as ``spec.score_names``. Bit-equal for a row alone or among others (law 11).

        Raises
        ------
        RequestError
            A tensor is missing, unknown, of another type or shape.
        """
        return run_in_batches(self._session, inputs, self.max_batch)

    def score(self, columns: Columns, num_entries: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Scores of events given by their columns.

        Parameters
        ----------
        columns
            At least those that the contract names.
        num_entries
            N.

        Returns
        -------
        Scores float32 [n, C] of the events that pass the preselection, in order, and the mask bool [N] of those.
        """
        if not isinstance(columns, Mapping):
            raise RequestError(f"columns must be a mapping of names to arrays, got {as_found(columns)}")
        num_entries = whole(num_entries, "num_entries", error=RequestError)
        prepared = self._preprocessor.run(columns, num_entries)
        return self.predict(prepared.inputs), prepared.selected

    @cached_property
    def _session(self) -> Session:
        return self.session()

    @cached_property
    def _preprocessor(self) -> Preprocessor:
        return self.spec.preprocessor()


def load_bundle(path: str | Path) -> Bundle:
    """Read and check a bundle.

    Parameters
    ----------
    path
        ``NAME``, of which the newest version is taken, or a version folder ``NAME/1``.

    Raises
    ------
    BundleError
        There is none, a file is missing, new or changed (named), the format is of another version, or the contract
        contradicts itself.
    """
    folder = _version_folder(path_of(path, "bundle", error=BundleError))
    manifest = _read_manifest(folder)
    _check_names(folder, manifest)
    _check_file(folder.parent / CONFIG_FILE, manifest.config)
    for name, record in manifest.files.items():
        _check_file(folder / name, record)
    spec = ModelSpec.from_json(_limited(folder / SPEC_FILE), where=str(folder / SPEC_FILE))
    if spec.sha256 != manifest.spec_sha256 or manifest.files[MODEL_FILE].sha256 != manifest.model_sha256:
        raise BundleError(f"{folder / MANIFEST_FILE}: its hashes of contract and graph are not those of the files")
    if len(manifest.probe) != PROBE_ROWS or {len(row) for row in manifest.probe} != {len(spec.score_names)}:
        raise BundleError(f"{folder / MANIFEST_FILE}: its probe is not {PROBE_ROWS} rows of {len(spec.score_names)}")
    return Bundle(path=folder, version=int(folder.name), spec=spec, manifest=manifest)


def versions_of(folder: Path) -> list[int]:
    """Numbers of the versions in a folder ``NAME``, rising; empty if it holds none."""
    names = [one.name for one in folder.iterdir() if one.is_dir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)


def _version_folder(path: Path) -> Path:
    path = path.absolute()
    if not path.exists():
        raise BundleError(f"no bundle at '{path}'{_beside(path)}")
    if not path.is_dir():
        raise BundleError(f"'{path}' is a file; a bundle is a folder NAME that holds {CONFIG_FILE} and version folders")
    if path.name.isdecimal() and ((path / MANIFEST_FILE).exists() or (path.parent / CONFIG_FILE).exists()):
        return path
    versions = versions_of(path)
    if versions:
        return path / str(versions[-1])
    found = ", ".join(sorted(one.name for one in path.iterdir())[:12]) or "nothing"
    inside = [one.name for one in sorted(path.iterdir()) if versions_of(one)]
    hint = f"; a bundle is '{path / inside[0]}'" if inside else ""
    raise BundleError(f"'{path}' is no bundle: it holds no version folder such as '1', it holds: {found}{hint}")


def _beside(path: Path) -> str:
    """What is near a path that is missing."""
    if not path.parent.is_dir():
        return f"; the folder '{path.parent}' is not there either"
    return nearest(path.name, [one.name for one in path.parent.iterdir()])


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise BundleError(f"{path}: is missing; the bundle is not whole")
    return Manifest.from_json(_limited(path), where=str(path))


def _limited(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise BundleError(f"{path}: has {size} bytes; at most {MAX_BYTES} are read")
    return path.read_bytes()


def _check_names(folder: Path, manifest: Manifest) -> None:
    """The files there and those in the manifest are the same; after this, no name leads out of the folder."""
    found = files_in(folder).keys() - {MANIFEST_FILE}
    missing, new = sorted(manifest.files.keys() - found), sorted(found - manifest.files.keys())
    needed = [name for name in (MODEL_FILE, SPEC_FILE) if name not in manifest.files]
    if missing or needed:
        raise BundleError(f"{folder / [*missing, *needed][0]}: is missing; the bundle is not whole")
    if new:
        raise BundleError(f"{folder / new[0]}: was added after the bundle was written; the manifest does not know it")


def _check_file(path: Path, record: FileRecord) -> None:
    if not path.is_file():
        raise BundleError(f"{path}: is missing; the bundle is not whole")
    found = FileRecord.of(path)
    if found != record:
        raise BundleError(
            f"{path}: was changed since the bundle was written: {found.size} bytes, SHA-256 {found.sha256[:12]}..., "
            f"the manifest says {record.size} bytes, {record.sha256[:12]}..."
        )
