"""The events of one fold as plain arrays: what a peer in memory learns from, is stopped by and is judged on.

Read once by the project, so that both sides have the same rows; everything after that (masks, scaling, weights of the
classes) is worked out here. Invariant: scaling and class weights come from the training part alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.config import Config, read_config
from mlaas4hep.data.catalogue import Catalogue
from mlaas4hep.data.split import PARTS
from mlaas4hep.spec.features import InputGroup
from mlaas4hep.spec.preprocess import Preprocessor
from mlaas4hep.train.limit import limit_events
from mlaas4hep.train.reference import part_in_memory

FOLDER = Path(__file__).parents[1]
FLAT = "x"
Inputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Which:
    """One training: a data set, the seed of its folds, order and first weights, and the fold that is held out."""

    dataset: str
    seed: int
    fold: int
    folds: int
    events: int
    epochs: int | None = None

    def config(self) -> Config:
        """Of the data set, without the model."""
        given = [f"training.seed={self.seed}", f"split.seed={self.seed}", "split.test=0"]
        given += [f"split.folds={self.folds}", f"split.fold={self.fold}"]
        given += [] if self.epochs is None else [f"training.epochs={self.epochs}"]
        return read_config(FOLDER / f"{self.dataset}.yaml", overrides=given)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A part of the events.

    Parameters
    ----------
    raw
        Flat view, float32 [N, W]: a collection slot by slot; NaN is missing.
    inputs
        Scaled, by name: ``x`` [N, W]; each group, [N, F] or [N, K, F], and ``<group>_mask`` of a collection, bool
        [N, K].
    labels
        int64 [N].
    physics, training
        Weights [N]; the latter give each class the same sum over the training part.
    """

    raw: NDArray[np.float32]
    inputs: Inputs
    labels: NDArray[np.int64]
    physics: NDArray[np.float64]
    training: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """One training's parts in memory; ``sizes`` are the numbers of variables of the groups, ``event`` first."""

    train: Rows
    validation: Rows
    test: Rows
    sizes: Mapping[str, int]
    classes: int

    @property
    def outputs(self) -> int:
        """Logits of a network: one of two classes, else one a class."""
        return 1 if self.classes == 2 else self.classes


@lru_cache(maxsize=5)
def in_memory(which: Which) -> Fold:
    """The fold that a training is given."""
    config = which.config()
    catalogue = limit_events(Catalogue.open(config), which.events)
    preprocessor = Preprocessor(config.features, catalogue.types)
    parts = [part_in_memory(catalogue, preprocessor, part) for part in PARTS]
    groups, labels = preprocessor.features.inputs, [np.asarray(truth) for _, truth, _ in parts]
    sums = np.bincount(labels[0], parts[0][2], minlength=len(config.classes))
    factors = len(labels[0]) / (len(sums) * sums)
    inputs = _scaled(groups, [raw for raw, _, _ in parts])
    train, validation, test = [
        Rows(raw, given, own, weights, weights * factors[own])
        for (raw, _, weights), own, given in zip(parts, labels, inputs, strict=True)
    ]
    return Fold(train, validation, test, {group.name: len(group.variables) for group in groups}, len(config.classes))


def _scaled(groups: Sequence[InputGroup], raw: Sequence[NDArray[np.float32]]) -> list[Inputs]:
    """Mean 0 and width 1 in the first part, variable by variable; zeros where nothing is."""
    found: list[dict[str, NDArray[Any]]] = [{} for _ in raw]
    start = 0
    for group in groups:
        shape = (-1, group.length or 1, len(group.variables))
        parts = [_with_logarithms(group, part[:, start : start + group.width].reshape(shape)) for part in raw]
        # In float32 the square of 1e24 is infinite.
        mean, std = (figure(parts[0].astype(np.float64), axis=(0, 1)) for figure in (np.nanmean, np.nanstd))
        for inputs, part in zip(found, parts, strict=True):
            values = np.nan_to_num((part - mean) / np.where(std > 0, std, 1.0)).astype(np.float32)
            inputs[group.name] = values if group.length else values[:, 0]
            if group.length:
                inputs[f"{group.name}_mask"] = np.asarray(~np.isnan(part).all(axis=-1))
        start += group.width
    for inputs in found:
        flat = [inputs[group.name].reshape(len(inputs[group.name]), -1) for group in groups]
        inputs[FLAT] = np.concatenate(flat, axis=1)
    return list(found)


def _with_logarithms(group: InputGroup, values: NDArray[np.float32]) -> NDArray[np.float32]:
    columns = [place for place, variable in enumerate(group.variables) if variable.scale == "log"]
    values = values.copy()
    values[..., columns] = np.log1p(np.maximum(values[..., columns], 0))
    return values
