"""What of a batch is handed on: input groups by name, and with them masks where they are asked for.

Invariant: without a scaler the arrays are those of the batch, not copied; with one they are what the served graph
computes from them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlaas4hep.arguments import require, whole
from mlaas4hep.data.asked import MOST_EPOCH
from mlaas4hep.data.batches import Batch, BatchIterator
from mlaas4hep.data.dataset import EventDataset
from mlaas4hep.data.rows import cuts_of
from mlaas4hep.errors import DataError
from mlaas4hep.spec.features import FeatureSpec
from mlaas4hep.spec.scaling import Scaler


def require_stream(dataset: Any, epoch: Any) -> None:
    """Refuse what an adapter cannot take: anything but the stream itself, and no number of an epoch."""
    hint = "one is EventDataset(catalogue, preprocessor), of mlaas4hep.data.dataset"
    if isinstance(dataset, BatchIterator):
        hint = "that is one epoch of it: give the stream itself, and the number beside it"
    require(dataset, EventDataset, "dataset", hint=hint, error=DataError)
    whole(epoch, "epoch", most=MOST_EPOCH, error=DataError)


class Fields:
    """Inputs of batches.

    Parameters
    ----------
    features
        The declaration.
    scaler
        Makes numbers that a network can learn from, 0 where one is missing; None hands raw values on, NaN where one
        is missing. ``Scaler(ModelSpec.seal(...).scaling)`` has the constants of a scan.
    masks
        Whether ``jets_mask`` goes with each collection ``jets``: bool [n, K], true where a slot holds an object.
    """

    def __init__(self, features: FeatureSpec, *, scaler: Scaler | None = None, masks: bool = False) -> None:
        if scaler is not None:
            hint = "one is Scaler(spec.scaling), of mlaas4hep.spec.scaling"
            require(scaler, Scaler, "scaler", hint=hint, error=DataError)
        self._features = features
        self._cuts, _ = cuts_of(features)
        self._scaler = scaler
        self._masked = tuple(one.name for one in features.inputs if one.length is not None) if masks else ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each array but for the number of events."""
        shapes: dict[str, tuple[int, ...]] = {
            one.name: (len(one.variables),) if one.length is None else (one.length, len(one.variables))
            for one in self._features.inputs
        }
        return shapes | {mask_name(name): shapes[name][:1] for name in self._masked}

    @property
    def empty(self) -> np.float32:
        """What stands where nothing is: NaN, or 0 after scaling."""
        return np.float32(np.nan if self._scaler is None else 0)

    def inputs(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """Arrays of a batch by name: float32 [n, F] or [n, K, F], masks bool [n, K]."""
        return self.split(self.table(batch)) | self.masks(batch)

    def table(self, batch: Batch) -> NDArray[np.float32]:
        """All input groups side by side, float32 [n, W]: the flat view."""
        return batch.flat if self._scaler is None else self._scaler.flat(batch.inputs)

    def split(self, table: Any) -> dict[str, Any]:
        """Input groups by name, as views of a table of numpy or torch."""
        return {name: cut.of(table) for name, cut in self._cuts.items()}

    def masks(self, batch: Batch) -> dict[str, NDArray[np.bool_]]:
        """Masks by name, those that are asked for: bool [n, K]."""
        slots = {name: np.isnan(batch.inputs[name]) for name in self._masked}
        return {mask_name(name): np.logical_not(missing.all(axis=-1)) for name, missing in slots.items()}


def mask_name(group: str) -> str:
    """Name of a collection's mask, as a user's own torch module takes it; no group may be called so."""
    return f"{group}_mask"
