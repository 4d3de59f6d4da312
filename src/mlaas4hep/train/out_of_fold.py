"""Scores of events by a run of folds: out of fold where they were learned from, by the mean of the models where not.

Invariant: an event that took part in the training is scored by the one model that has not seen it, wherever it is read
from; equal identity, equal model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlaas4hep.arguments import path_of
from mlaas4hep.bundle import Bundle, load_bundle
from mlaas4hep.config import read_config
from mlaas4hep.data.split import Identity, Splitter
from mlaas4hep.errors import UserError
from mlaas4hep.spec.columns import Columns, ColumnType
from mlaas4hep.train.folds import FOLDS_FILE, read_folds
from mlaas4hep.train.run import MODEL_FOLDER


@dataclass(frozen=True, slots=True, eq=False)
class FoldScorer:
    """The models of a run of folds.

    Parameters
    ----------
    bundle
        Their mean, as it is served.
    models
        One a fold.
    identity
        What tells one event from another.
    splitter
        Gives the fold.
    """

    bundle: Bundle
    models: Sequence[Bundle]
    identity: Identity
    splitter: Splitter

    @classmethod
    def open(cls, run: str | Path) -> FoldScorer:
        """Of a run directory.

        Raises
        ------
        UserError
            No run, or one without folds.
        """
        path = path_of(run, "run")
        config = read_config(path / "config.yaml")
        split = config.features.split
        if not split.in_folds:
            raise UserError(f"{path}: was not trained in folds; its bundle scores any event")
        bundle = load_bundle(path / MODEL_FOLDER / config.name)
        told = json.loads((bundle.path / "native" / FOLDS_FILE).read_text(encoding="utf-8"))["identity"]
        identity = Identity(tuple(told["columns"]), told["origin"])
        types = msgspec.convert(told["types"], dict[str, ColumnType])
        models = [one.bundle for one in read_folds(path, split.num_folds)]
        return cls(bundle, models, identity, Splitter(split, identity, types))

    @property
    def columns(self) -> list[str]:
        """Raw columns that out-of-fold scores need."""
        return sorted({*self.bundle.spec.columns, *self.identity.columns})

    def score(
        self, columns: Columns, num_entries: int, *, learned: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Scores of events given by their columns.

        Parameters
        ----------
        columns
            At least those that the contract names, and those of the identity where they were learned from.
        num_entries
            N.
        learned
            Whether they are of the samples that were learned from: each is then scored by the model that has not seen
            it. Others, such as those of kind ``data``, get the mean of the models.

        Returns
        -------
        Scores float32 [n, C] of the events that pass the preselection, in order, and the mask bool [N] of those.

        Raises
        ------
        UserError
            A column of the identity is missing: which model has not seen an event cannot be told.
        """
        if not learned:
            return self.bundle.score(columns, num_entries)
        missing = [name for name in self.identity.columns if name not in columns]
        if missing:
            raise UserError(
                f"the events lack the columns {', '.join(sorted(missing))}, by which the fold of an event is told "
                f"({self.identity}); for events that were not learned from, the mean of the models needs none of them"
            )
        prepared = self.bundle.spec.preprocessor().run(columns, num_entries)
        own = self.splitter.folds(columns, num_entries)[prepared.selected]
        scores = np.empty((len(own), len(self.bundle.spec.score_names)), np.float32)
        for fold, model in enumerate(self.models):
            rows = own == fold
            scores[rows] = model.predict({name: one[rows] for name, one in prepared.inputs.items()})
        return scores, prepared.selected
