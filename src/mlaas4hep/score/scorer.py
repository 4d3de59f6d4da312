"""A model in analysis code: events in, an array of scores out.

The same contract and graph as ``mlaas4hep score`` and a server. Invariant: a score is that of the event, whatever table
it came in and whoever its neighbours are.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.bundle import Bundle, load_bundle
from mlaas4hep.data.rows import writer
from mlaas4hep.errors import DataError, UserError
from mlaas4hep.score.engine import Engine, LocalEngine
from mlaas4hep.score.folds import Folds, in_folds, open_folds
from mlaas4hep.score.passes import Pass
from mlaas4hep.score.tables import columns_from
from mlaas4hep.spec.columns import Columns, ColumnType

_AT_ONCE = 65_536


class Scorer:
    """Scores of events that lie in memory. May be shared by threads, and pickled.

    Parameters
    ----------
    bundle
        Folder of a model, such as ``runs/tth/model/tth``, or a bundle that is loaded.
    fill
        Score of events that the model's preselection leaves out.
    out_of_fold
        Of a model trained in folds: each event is scored by the model that has not seen it, which is what events that
        were learned from need.

    Raises
    ------
    BundleError
        There is none, or it was changed.
    UserError
        ``out_of_fold`` of a model without folds.

    Examples
    --------
    ::

        scorer = mlaas4hep.Scorer("runs/tth/model/tth")
        scorer({"MET_pt": met, "Jet_pt": jets})      # arrays, lists, awkward arrays
        scorer(events)                               # NanoEvents of coffea, a data frame, a structured array
    """

    def __init__(
        self, bundle: str | os.PathLike[str] | Bundle, *, fill: float = math.nan, out_of_fold: bool = False
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(os.fspath(bundle))
        self._fill, self._out_of_fold = float(fill), out_of_fold
        if out_of_fold and not in_folds(self.bundle):
            raise UserError(f"'{self.bundle.name}' was not trained in folds: it has no score out of fold")
        self._open()

    def _open(self) -> None:
        spec = self.bundle.spec
        folds: Folds | None = None
        engine: Engine = LocalEngine.of(self.bundle)
        if self._out_of_fold:
            folds, engine = open_folds(self.bundle)
        preprocessor = spec.preprocessor()
        self._pass = Pass(self.bundle, engine, preprocessor, self.names, "selected", self._fill, writer(0), folds)
        self._types: dict[str, ColumnType] = {**(folds.types if folds else {}), **spec.columns}

    def __getstate__(self) -> dict[str, Any]:
        return {"path": str(self.bundle.path), "fill": self._fill, "out_of_fold": self._out_of_fold}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], fill=state["fill"], out_of_fold=state["out_of_fold"])  # type: ignore[misc]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the scores."""
        return self.bundle.spec.score_names

    @property
    def columns(self) -> dict[str, str]:
        """What an event must have: names of columns with their types, such as ``float32[]``."""
        return {name: str(one) for name, one in self._types.items()}

    def __call__(self, events: Any) -> NDArray[np.float32]:
        """Scores of events.

        Parameters
        ----------
        events
            Columns by name: see `mlaas4hep.score.tables`.

        Returns
        -------
        float32 [N] of a model with one score, else [N, C] in the order of ``names``; ``fill`` where an event is not
        selected.

        Raises
        ------
        DataError
            A column is missing or of another kind.
        """
        found = self.by_name(events)
        scores = [found[name] for name in self.names]
        return scores[0] if len(scores) == 1 else np.stack(scores, axis=1)

    def by_name(self, events: Any) -> dict[str, NDArray[Any]]:
        """The same by name of the score, [N] each, with ``selected``, bool [N]."""
        try:
            columns, count = columns_from(events, self._types)
        except DataError as error:
            if "preprocessing_sha256" not in self.bundle.spec.provenance:
                raise
            hint = "; the model learned behind preprocessing(rec): give events as that function returns them"
            raise DataError(f"{error}{hint}") from error
        parts = [self._part(columns, low, min(low + _AT_ONCE, count)) for low in range(0, max(count, 1), _AT_ONCE)]
        return {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}

    def _part(self, columns: Columns, low: int, high: int) -> dict[str, NDArray[Any]]:
        cut = {name: column[low:high] for name, column in columns.items()}
        return self._pass.run(cut, high - low, stored=frozenset())

    def __repr__(self) -> str:
        return f"Scorer({self.bundle.name} version {self.bundle.version}: {', '.join(self.names)})"
