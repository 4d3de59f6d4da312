"""What learners around a library of boosted trees share: raw rows in, the best rounds kept, the library's own file out.

Used by `xgboost_learner` and `lightgbm_learner`. Invariant: scores, graph and native files are those of the trees that
`fit` kept, and before it there are none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.backends.protocol import Round, Scores, Task
from mlaas4hep.errors import ModelError
from mlaas4hep.graph.core import Core
from mlaas4hep.spec.scaling import Scaler, Tensors


class LearnedTrees(Protocol):
    """Trees of a library that have been learned."""

    def predict(self, inputs: Tensors) -> Scores:
        """Scores [N, C], float64, by the library."""

    def export(self) -> Core:
        """The trees as a float64 ensemble."""

    def written(self) -> bytes:
        """The library's own file."""


Trees = TypeVar("Trees", bound=LearnedTrees)


class BoostingBase(Generic[Trees]):
    """A library of boosted trees on raw values, NaN where missing; a subclass fits, and sets ``_learned``.

    Parameters
    ----------
    parameters
        The library's.
    rounds
        At most so many.
    patience
        Rounds without a better validation loss before it stops; None learns all rounds. The best are kept either way.
    task
        What is learned.
    """

    # Of the library: its name, its version, and the files in a bundle of its trees and of the parameters.
    library: ClassVar[str]
    version: ClassVar[str]
    files: ClassVar[tuple[str, str]]

    def __init__(self, parameters: dict[str, Any], *, rounds: int, patience: int | None, task: Task) -> None:
        self.parameters = parameters
        self.rounds = rounds
        self.patience = patience
        self.task = task
        self._scaler = Scaler(task.groups)
        self._learned: Trees | None = None

    def view(self, inputs: Tensors) -> NDArray[np.float32]:
        """Raw flat rows."""
        return self._scaler.native(inputs)

    @property
    def learned(self) -> Trees:
        """What `fit` learned."""
        if self._learned is None:
            raise ModelError(f"model {self.library} has not learned anything yet")
        return self._learned

    def predict(self, inputs: Tensors) -> Scores:
        """Scores [N, C], float64."""
        return self.learned.predict(inputs)

    def export(self) -> Core:
        """The trees as a float64 ensemble."""
        return self.learned.export()

    def native(self) -> dict[str, bytes]:
        """The library's own file, and the parameters that it was learned with."""
        settings = {"backend": self.library, "parameters": self.parameters, "version": self.version}
        text = json.dumps(settings, indent=1, sort_keys=True, default=str)
        trees, beside = self.files
        return {trees: self.learned.written(), beside: text.encode() + b"\n"}


def best_round(rounds: Sequence[Round]) -> int:
    """The place of the round with the least validation loss; of the last one where there is no validation part."""
    after = [one.validation_loss for one in rounds if one.validation_loss is not None]
    return int(np.argmin(after)) if after else len(rounds) - 1
