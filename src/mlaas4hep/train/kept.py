"""What `evaluate` keeps of the events in ``RUN/scores.npz``, so that they need not be opened again.

Scores, labels, physics weights and samples of every part, observers, the inputs in histograms, their importance, and
what systematic variations change.
Invariant: an archive of plain arrays, bound to one graph by its hash; nothing in it is pickled.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.data.rows import ENTRY
from mlaas4hep.data.split import PARTS
from mlaas4hep.errors import DataError
from mlaas4hep.spec.features import InputGroup
from mlaas4hep.train.importance import Importance, permuted_inputs
from mlaas4hep.train.inputs import InputCounts
from mlaas4hep.train.loop import Judged
from mlaas4hep.train.shifts import Shift

SCORES_FILE = "scores.npz"
_VERSION = 1
_BY_SCORE = ("sums", "squares", "changes", "counts")
_COUNTED = ("read_edges", "seen_edges", "read", "seen", "missing")


@dataclass(frozen=True, slots=True, eq=False)
class ScoredPart:
    """Scores of a part.

    Parameters
    ----------
    judged
        Scores, labels and weights.
    samples
        [N], place of each event's sample.
    observers
        float64 [N, S], of S observers.
    folds
        [N], the fold whose model gave the score; None without folds.
    entries
        [N], file and entry of each event; kept with folds only.
    """

    judged: Judged
    samples: NDArray[np.int64]
    observers: NDArray[np.float64] | None = None
    folds: NDArray[np.int64] | None = None
    entries: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """All that figures and pictures are made from.

    Parameters
    ----------
    parts
        By name, those that hold events.
    inputs
        Of the training part.
    importance
        Measured on the test part; None where it gives no area.
    shifts
        Of the systematic variations, measured on the test part.
    """

    parts: Mapping[str, ScoredPart]
    inputs: InputCounts
    importance: Importance | None
    shifts: tuple[Shift, ...] = ()


def write_kept(kept: Kept, path: Path, *, model_sha256: str) -> None:
    """Write it as one compressed archive that appears whole or not at all."""
    arrays: dict[str, Any] = {"version": np.array(_VERSION), "model_sha256": np.array(model_sha256)}
    for part, one in kept.parts.items():
        arrays[f"{part}.scores"] = one.judged.scores
        arrays[f"{part}.labels"] = one.judged.labels.astype(np.int16)
        arrays[f"{part}.weights"] = one.judged.weights
        if one.judged.targets is not None:
            arrays[f"{part}.targets"] = one.judged.targets
        arrays[f"{part}.samples"] = one.samples.astype(np.int16)
        if one.observers is not None:
            arrays[f"{part}.observers"] = one.observers
        if one.folds is not None and one.entries is not None:
            arrays[f"{part}.folds"] = one.folds.astype(np.int8)
            arrays |= {f"{part}.{name}": one.entries[name] for name in ("file", "entry")}
    arrays |= {f"inputs.{name}": getattr(kept.inputs, name) for name in _COUNTED}
    arrays |= {"inputs.names": np.array(kept.inputs.names), "inputs.left_out": np.array(kept.inputs.left_out)}
    if kept.importance is not None:
        arrays["importance.drops"] = kept.importance.drops
        arrays["importance.errors"] = kept.importance.errors
        arrays["importance.events"] = np.array(kept.importance.events)
    arrays |= _plain_shifts(kept.shifts)
    draft = path.with_name(f".{path.name}.part")
    with draft.open("wb") as file:
        np.savez_compressed(file, **arrays)
    draft.replace(path)


def read_kept(path: Path, *, model_sha256: str, groups: tuple[InputGroup, ...]) -> Kept:
    """Read what `write_kept` wrote.

    Parameters
    ----------
    path
        The archive.
    model_sha256
        Of the graph that the run holds now.
    groups
        Its input groups.

    Raises
    ------
    DataError
        It is damaged, of another version, or of another graph.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        version, found = int(arrays["version"]), str(arrays["model_sha256"])
        if version == _VERSION and found == model_sha256:
            return _kept(arrays, groups)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: is damaged ({error}); remove it to have the test part opened again") from error
    if version != _VERSION:
        raise DataError(f"{path}: version {version}; this program reads version {_VERSION}")
    raise DataError(
        f"{path}: holds scores of another graph ({found[:12]}...) than the run's model ({model_sha256[:12]}...)"
    )


def _of_folds(arrays: Mapping[str, NDArray[Any]], part: str) -> dict[str, NDArray[Any]]:
    """Fold and place of each event, where they are kept."""
    if f"{part}.folds" not in arrays:
        return {}
    columns = [arrays[f"{part}.{name}"] for name in ("file", "entry")]
    return {"folds": arrays[f"{part}.folds"].astype(np.int64), "entries": entry_places(*columns)}


def entry_places(file: NDArray[Any], entry: NDArray[Any]) -> NDArray[Any]:
    """Numbers of files and entries side by side, as batches tell them."""
    places = np.empty(len(file), dtype=ENTRY)
    places["file"], places["entry"] = file, entry
    return places


def _kept(arrays: Mapping[str, NDArray[Any]], groups: tuple[InputGroup, ...]) -> Kept:
    parts: dict[str, ScoredPart] = {}
    for part in PARTS:
        if f"{part}.scores" in arrays:
            labels = arrays[f"{part}.labels"].astype(np.int64)
            judged = Judged(arrays[f"{part}.scores"], labels, arrays[f"{part}.weights"], arrays.get(f"{part}.targets"))
            samples, observers = arrays[f"{part}.samples"].astype(np.int64), arrays.get(f"{part}.observers")
            parts[part] = ScoredPart(judged, samples, observers, **_of_folds(arrays, part))
    names = tuple(arrays["inputs.names"].tolist())
    counted = {name: arrays[f"inputs.{name}"] for name in _COUNTED}
    inputs = InputCounts(names=names, left_out=int(arrays["inputs.left_out"]), **counted)
    importance = None
    if "importance.drops" in arrays:
        drops, errors = arrays["importance.drops"], arrays["importance.errors"]
        importance = Importance(permuted_inputs(groups), drops, errors, int(arrays["importance.events"]))
    return Kept(parts, inputs, importance, _shifts(arrays))


def _plain_shifts(shifts: tuple[Shift, ...]) -> dict[str, Any]:
    """Of V variations: one array for each figure, and for each figure and score."""
    if not shifts:
        return {}
    arrays: dict[str, Any] = {"shifts.names": np.array([one.name for one in shifts])}
    arrays["shifts.events"] = np.array([(one.events, one.gained, one.lost) for one in shifts])
    arrays["shifts.reasons"] = np.array([one.reason for one in shifts])
    arrays["shifts.areas"] = np.stack([one.areas for one in shifts])
    for name in _BY_SCORE:
        for column in range(len(shifts[0].sums)):
            arrays[f"shifts.{name}.{column}"] = np.stack([getattr(one, name)[column] for one in shifts])
    return arrays


def _shifts(arrays: Mapping[str, NDArray[Any]]) -> tuple[Shift, ...]:
    names = arrays["shifts.names"].tolist() if "shifts.names" in arrays else []
    columns = sum(name.startswith("shifts.sums.") for name in arrays)
    found = []
    for place, name in enumerate(names):
        events, gained, lost = arrays["shifts.events"][place].tolist()
        by_score = {key: tuple(arrays[f"shifts.{key}.{n}"][place] for n in range(columns)) for key in _BY_SCORE}
        areas, reason = arrays["shifts.areas"][place], str(arrays["shifts.reasons"][place])
        found.append(Shift(name, events, gained, lost, areas, **by_score, reason=reason))
    return tuple(found)
