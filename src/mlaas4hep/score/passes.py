"""One way through the columns: a model under nominal or varied columns, from raw columns to a score for every entry.

Invariant: what is given back has as many rows as there are entries, each the score of its own entry or the fill value.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.bundle import Bundle
from mlaas4hep.data.rows import Cut, Writer, cuts_of
from mlaas4hep.score.engine import Answer, Engine
from mlaas4hep.score.folds import Folds
from mlaas4hep.spec.columns import Columns
from mlaas4hep.spec.padding import Assembled
from mlaas4hep.spec.preprocess import Preprocessor

BATCH = 4096


@dataclass(frozen=True, eq=False)
class Pass:
    """A model under one set of columns.

    Parameters
    ----------
    bundle, engine
        Who gives the scores.
    preprocessor
        Columns to tensors.
    scores
        Names of the output's columns, in the order of the contract's scores.
    selected
        Name of the column that tells whether an entry was scored.
    fill
        Score of entries that are not.
    write
        Puts rows into a table.
    folds
        Tells the fold of an event; None where that does not matter.
    """

    bundle: Bundle
    engine: Engine
    preprocessor: Preprocessor
    scores: tuple[str, ...]
    selected: str
    fill: float
    write: Writer
    folds: Folds | None = None
    _tables: threading.local = field(default_factory=threading.local, repr=False)

    def run(self, columns: Columns, num_entries: int, *, stored: frozenset[str]) -> dict[str, NDArray[Any]]:
        """Columns of the output, [N] each.

        Parameters
        ----------
        columns
            At least those of the preprocessor, and of the folds.
        stored
            Those of them whose values may be in the byte order of a file.
        """
        rows = self.preprocessor.assemble(columns, num_entries, as_stored=stored & self.preprocessor.plain)
        places = np.flatnonzero(rows.kept) if rows.index is None else rows.index[rows.kept]
        folds = None if self.folds is None else self.folds.of(columns, num_entries)[places]
        answers = self._ask(rows, folds)
        selected = np.zeros(num_entries, np.bool_)
        selected[places] = True
        found = np.concatenate([one() for one in answers]) if answers else None
        return {**self._spread(found, places, num_entries), self.selected: selected}

    def nothing(self, num_entries: int) -> dict[str, NDArray[Any]]:
        """The same of entries that cannot be read."""
        empty = np.zeros(0, np.int64)
        return {**self._spread(None, empty, num_entries), self.selected: np.zeros(num_entries, np.bool_)}

    def _spread(
        self, found: NDArray[np.float32] | None, places: NDArray[np.int64], num_entries: int
    ) -> dict[str, NDArray[Any]]:
        columns = {}
        for number, name in enumerate(self.scores):
            values = np.full(num_entries, self.fill, np.float32)
            if found is not None:
                values[places] = found[:, number]
            columns[name] = values
        return columns

    def _ask(self, rows: Assembled, folds: NDArray[np.int8] | None) -> list[Answer]:
        size, begun = min(BATCH, self.bundle.max_batch), 0
        answers = []
        for low in range(0, len(rows.kept), size):
            part = rows.part(low, min(low + size, len(rows.kept)))
            count = int(np.count_nonzero(part.kept))
            if not count:
                continue
            table = self._table(size, rows.width)[:count]
            self.write.table(part, table, np.cumsum(part.kept, dtype=np.int64) - 1)
            inputs = {name: cut.of(table) for name, cut in self._cuts().items()}
            own = None if folds is None else folds[begun : begun + count]
            answers.append(self.engine.start(inputs, own))
            begun += count
        return answers

    def _table(self, size: int, width: int) -> NDArray[np.float32]:
        """Memory for a batch: used again, except where who answers may still be reading it."""
        if self.engine.lasting:
            return np.empty((size, width), np.float32)
        table: NDArray[np.float32] | None = getattr(self._tables, "table", None)
        if table is None:
            table = self._tables.table = np.empty((size, width), np.float32)
        return table

    def _cuts(self) -> Mapping[str, Cut]:
        return cuts_of(self.preprocessor.features)[0]
