"""The stream as a ``DataIter`` of XGBoost, for ``QuantileDMatrix`` and ``ExtMemQuantileDMatrix``.

XGBoost passes over its data a few times, and each pass is the same epoch of the stream again: give the stream a cache,
or the files are read as often. Invariant: rows are the flat view of the contract, NaN where a value is missing; every
pass gives the same rows in the same pages.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlaas4hep.data.batches import Batch, BatchIterator
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.into.fields import require_stream
from mlaas4hep.errors import MissingExtraError

try:
    import xgboost
except ImportError as error:
    raise MissingExtraError("xgboost", "xgboost", "streaming into XGBoost") from error


class XGBoostIter(xgboost.DataIter):
    """Pages of raw flat rows with labels and weights: ``QuantileDMatrix(XGBoostIter(events))``.

    A page is a batch of the stream, so batches should be large: 16 MB of rows or so. Columns are in the order of
    ``names``; what is learned is the label, or the targets of a regression. XGBoost refuses negative weights.

    Parameters
    ----------
    dataset
        The stream.
    epoch
        Its number.
    cache_prefix
        Where ``ExtMemQuantileDMatrix`` keeps its pages: the beginning of their paths; None keeps them in memory.
    """

    def __init__(self, dataset: EventDataset, epoch: int = 0, *, cache_prefix: str | Path | None = None) -> None:
        super().__init__(cache_prefix=None if cache_prefix is None else str(cache_prefix))
        require_stream(dataset, epoch)
        self._dataset = dataset
        self._number = epoch
        self._batches: BatchIterator[Batch] | None = None
        self.names = flat_names(dataset)
        # XGBoost refuses these characters in names.
        self._told = None if any(set("[]<") & set(name) for name in self.names) else list(self.names)

    def next(self, input_data: Callable[..., Any]) -> bool:
        """See ``xgboost.DataIter.next``: hand one page over; False after the last."""
        if self._batches is None:
            self._batches = self._dataset.epoch(self._number)
        batch = next(self._batches, None)
        if batch is None:
            return False
        learned = batch.labels if batch.targets is None else batch.targets
        input_data(data=batch.flat, label=learned, weight=batch.weights, feature_names=self._told)
        return True

    def reset(self) -> None:
        """See ``xgboost.DataIter.reset``: back to the first page."""
        self.close()

    def close(self) -> None:
        """Stop the threads of a pass that was not finished."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None


def flat_names(dataset: EventDataset) -> tuple[str, ...]:
    """Names of the columns of the flat view: ``MET_pt``, ``jets_0_Jet_pt``."""
    names: list[str] = []
    for group in dataset.preprocessor.features.inputs:
        variables = [one.name for one in group.variables]
        if group.length is None:
            names.extend(variables)
        else:
            names.extend(f"{group.name}_{slot}_{name}" for slot in range(group.length) for name in variables)
    return tuple(names)
