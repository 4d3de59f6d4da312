"""Bundles of folds: which fold an event is of, and the models that have not seen it.

The models lie in the bundle as ``native/models/0.onnx`` and so on; ``native/folds.json`` says by which columns events
are told apart. Invariant: an event gets the fold that it had in the training, wherever it is read from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.bundle import Bundle
from mlaas4hep.data.contents import identity_of
from mlaas4hep.data.split import Identity, Splitter
from mlaas4hep.errors import BundleError, DataError, UserError, some_files
from mlaas4hep.graph.session import Session
from mlaas4hep.score.engine import FoldEngine
from mlaas4hep.spec.columns import Columns, ColumnType
from mlaas4hep.spec.features import Split

FILE = "folds.json"


@dataclass(frozen=True)
class Folds:
    """What tells the fold of an event.

    Parameters
    ----------
    split
        Number of folds and seed.
    identity, types
        Columns that are hashed.
    """

    split: Split
    identity: Identity
    types: dict[str, ColumnType]

    @property
    def columns(self) -> tuple[str, ...]:
        """Raw columns that it needs."""
        return self.identity.columns

    def of(self, columns: Columns, num_entries: int) -> NDArray[np.int8]:
        """Fold of each event, int8 [N]."""
        return self._splitter.folds(columns, num_entries)

    @cached_property
    def _splitter(self) -> Splitter:
        return Splitter(self.split, self.identity, self.types)


def in_folds(bundle: Bundle) -> bool:
    """Whether it is the mean of models that each left out a fold."""
    return bundle.spec.features.split.in_folds and (bundle.path / "native" / FILE).is_file()


def open_folds(bundle: Bundle) -> tuple[Folds, FoldEngine]:
    """The folds of a bundle, and their models.

    Raises
    ------
    BundleError
        Its models are not those that it names.
    """
    told: dict[str, Any] = json.loads((bundle.path / "native" / FILE).read_text(encoding="utf-8"))
    identity = Identity(tuple(told["identity"]["columns"]), told["identity"]["origin"])
    types = msgspec.convert(told["identity"]["types"], dict[str, ColumnType])
    sessions = []
    for number, wanted in enumerate(told["models"]):
        path = bundle.path / "native" / "models" / f"{number}.onnx"
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != wanted:
            raise BundleError(f"{path}: is not the model of fold {number} that {FILE} names")
        sessions.append(Session(data, threads=1))
    if len(sessions) != bundle.spec.features.split.num_folds:
        raise BundleError(f"{bundle.path}: has {len(sessions)} models for {bundle.spec.features.split.num_folds} folds")
    return Folds(bundle.spec.features.split, identity, types), FoldEngine(sessions)


def learned_from(bundle: Bundle, paths: Iterable[str]) -> bool:
    """Whether all of some files were learned from, or none, by their bytes.

    Raises
    ------
    UserError
        Some were, or one has the name of one that was and other bytes: that cannot be told for the user.
    """
    known = [one for one in bundle.spec.provenance.get("files", ()) if isinstance(one, dict)]
    hashes, names = {one.get("identity") for one in known}, {one.get("file") for one in known}
    ours: list[str] = []
    doubtful: list[str] = []
    others: list[str] = []
    for path in paths:
        name = path.rpartition("/")[2]
        (ours if _identity(path) in hashes else doubtful if name in names else others).append(path)
    hint = "--folds out scores each event by the model that has not seen it, --folds mean by the mean of all"
    if doubtful:
        raise UserError(
            f"'{bundle.name}' was trained in folds, on a file of the name of {some_files(doubtful)} with other bytes; "
            f"say how its events are to be scored: {hint}"
        )
    if ours and others:
        raise UserError(
            f"'{bundle.name}' was trained in folds: it learned from {some_files(ours)}, not from {some_files(others)}; "
            f"score them apart, or say how: {hint}"
        )
    return bool(ours)


def _identity(path: str) -> str | None:
    try:
        return identity_of(path)[1]
    except DataError:
        return None  # it is told, or left out, when it is read
